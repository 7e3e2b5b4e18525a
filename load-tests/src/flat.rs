//! Whether a shop with a past is as fast, as small and as quick to start as a new one.
//!
//! Two servers run side by side, one over a full folder and one over a fresh one, and only one of them is driven at a time,
//! in turn: what else the machine does meets both.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use host::Process;

use crate::drive::closed;
use crate::proc::{Usage, rss_anon};
use crate::report::{Report, bar, each, mib, whole};
use crate::server::{Folder, Server, program};
use crate::shop::{Orders, catalogue, fill_shelves};
use crate::tally::{Tally, median};

const MOST_START_S: f64 = 2.0;
/// Megabytes, not MiB.
const MOST_RSS_BYTES: f64 = 120e6;
const MOST_DIFFERENCE: f64 = 0.15;

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Orders that fill the folder
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub orders: u64,
    /// Orders of one turn
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub turn: u64,
    /// How often each server has its turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub turns: u32,
    /// Restarts that are measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub restarts: u32,
    /// Orders at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=800))]
    pub in_flight: u16,
    /// What customers choose is drawn from this
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A server and the orders it is driven with.
struct Shop {
    server: Server,
    orders: Arc<Orders>,
    rates: Vec<f64>,
    cpu_us: Vec<f64>,
    p99_ms: Vec<f64>,
}

impl Shop {
    async fn over(server: Server, seed: u64) -> Result<Shop> {
        let run = Process::on_this_machine().ids.next().to_string();
        let products = catalogue(server.address()).await?;
        fill_shelves(server.address(), &run, &products).await?;
        let orders = Arc::new(Orders::new(&run, seed, products));
        Ok(Shop { server, orders, rates: vec![], cpu_us: vec![], p99_ms: vec![] })
    }

    async fn drive(&self, orders: u64, in_flight: u16) -> Result<Tally> {
        closed(self.server.address(), &self.orders, orders, usize::from(in_flight)).await
    }

    async fn turn(&mut self, orders: u64, in_flight: u16) -> Result<Tally> {
        let before = Usage::of(self.server.pid())?;
        let tally = self.drive(orders, in_flight).await?;
        let spent = Usage::of(self.server.pid())?.since(&before);
        self.rates.push(tally.rate());
        self.cpu_us.push(each(spent.total.total(), tally.answered()) * 1e6);
        self.p99_ms.push(tally.service.ms(0.99));
        Ok(tally)
    }
}

/// Measures how a past weighs.
///
/// # Errors
/// If an answer was unexpected, or a server cannot be started.
pub async fn run(options: Options) -> Result<()> {
    let about = "The load generator is one thread on the same cores as the servers. The pages of a restarted server's \
                 files are in the system's memory.";
    let mut report = Report::begin(about);
    let (folder, program) = (Folder::make("flat")?, program()?);

    fill(&options, &program, &folder, &mut report).await?;
    let full = restart(&options, &program, &folder, &report).await?;
    let (fresh, _) = Server::start(&program, &folder.at("fresh"), &[]).await?;
    let (mut fresh, mut full) = (Shop::over(fresh, options.seed).await?, Shop::over(full, options.seed).await?);
    for (name, shop) in [("fresh warm-up", &fresh), ("full warm-up", &full)] {
        report.check(name, &shop.drive(options.turn.div_ceil(5), options.in_flight).await?);
    }
    for _ in 0..options.turns {
        report.check("fresh", &fresh.turn(options.turn, options.in_flight).await?);
        report.check("full", &full.turn(options.turn, options.in_flight).await?);
    }
    compare(&options, &fresh, &full, &report);
    fresh.server.stop().await?;
    full.server.stop().await?;
    report.end()
}

async fn fill(options: &Options, program: &Path, folder: &Folder, report: &mut Report) -> Result<()> {
    let (server, _) = Server::start(program, &folder.at("full"), &[]).await?;
    let shop = Shop::over(server, options.seed).await?;
    let before = Usage::of(shop.server.pid())?;
    let tally = shop.drive(options.orders, options.in_flight).await?;
    let spent = Usage::of(shop.server.pid())?.since(&before);
    let (rss, bytes) = (rss_anon(shop.server.pid())?, folder.bytes("full"));
    shop.server.stop().await?;
    report.head(&["filling", "orders/s", "p50 ms", "p99 ms", "server CPU", "RssAnon then", "on disk"]);
    report.row(&[
        tally.endings(),
        whole(tally.rate()),
        format!("{:.2}", tally.service.ms(0.5)),
        format!("{:.2}", tally.service.ms(0.99)),
        format!("{} µs an order", whole(each(spent.total.total(), tally.answered()) * 1e6)),
        format!("{:.1} MiB", mib(rss)),
        format!("{:.0} MiB, {} bytes an order", mib(bytes), whole(bytes as f64 / tally.answered().max(1) as f64)),
    ]);
    report.line("");
    report.check("filling", &tally);
    Ok(())
}

/// Restarts the full server and leaves it running.
async fn restart(options: &Options, program: &Path, folder: &Folder, report: &Report) -> Result<Server> {
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    let mut note = |server: &Server, took: Duration| -> Result<()> {
        times.push(took.as_secs_f64());
        memory.push(rss_anon(server.pid())? as f64);
        Ok(())
    };
    let (mut server, took) = Server::start(program, &folder.at("full"), &[]).await?;
    note(&server, took)?;
    for _ in 1..options.restarts {
        server.stop().await?;
        let (again, took) = Server::start(program, &folder.at("full"), &[]).await?;
        note(&again, took)?;
        server = again;
    }
    let worst = times.iter().copied().fold(0.0, f64::max);
    let (time, memory) = (median(&times), median(&memory));
    report.head(&["restart of the full server", "to the first answer", "worst", "RssAnon then", "bars"]);
    report.row(&[
        format!("median of {}", options.restarts),
        format!("{time:.3} s"),
        format!("{worst:.3} s"),
        format!("{:.1} MB", memory / 1e6),
        [bar("≤ 2 s", time <= MOST_START_S), bar("≤ 120 MB", memory <= MOST_RSS_BYTES)].join("; "),
    ]);
    report.line("");
    Ok(server)
}

fn compare(options: &Options, fresh: &Shop, full: &Shop, report: &Report) {
    let figures = |figures: &[f64]| figures.iter().map(|figure| whole(*figure)).collect::<Vec<_>>().join(", ");
    report.head(&["driven in turn", "orders/s by turn", "median", "p99 ms, median", "server CPU µs an order, median"]);
    for (name, shop) in [("fresh", fresh), ("full", full)] {
        report.row(&[
            format!("{name}, {} turns of {}", options.turns, options.turn),
            figures(&shop.rates),
            whole(median(&shop.rates)),
            format!("{:.2}", median(&shop.p99_ms)),
            whole(median(&shop.cpu_us)),
        ]);
    }
    let ratio = |of: fn(&Shop) -> &[f64]| median(of(full)) / median(of(fresh)).max(f64::MIN_POSITIVE);
    let (rate, cpu) = (ratio(|shop| &shop.rates), ratio(|shop| &shop.cpu_us));
    let met = bar("orders/s differ ≤ 15 %", (rate - 1.0).abs() <= MOST_DIFFERENCE);
    report.line(&format!("\nfull ÷ fresh: {rate:.3} in orders/s, {cpu:.3} in CPU an order. {met}\n"));
}
