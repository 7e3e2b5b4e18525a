//! The shop as processes of its own, on real servers that share the machine with it: how fast, how soon, how large.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use host::Process;
use tokio::time::sleep;

use crate::connection::Connection;
use crate::drive::{closed, open};
use crate::fulfilment::confirmed_to_shipped;
use crate::proc::{Usage, resident};
use crate::report::{Report, bar, each, mib, whole};
use crate::server::read_url;
use crate::shop::{Orders, catalogue, fill_shelves};
use crate::tally::Latencies;

const LEAST_RATE: f64 = 200.0;
const MOST_P50_MS: f64 = 40.0;
const MOST_EFFECT_P99_MS: f64 = 50.0;
const MOST_RESIDENT_MIB: f64 = 300.0;
/// The most orders at a time where they come by a schedule.
const MOST_IN_FLIGHT: usize = 256;
/// After the last order there is still something to write.
const SETTLE: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where the shop is open, as http://ADDRESS:PORT; its parcels have to be picked up at once
    #[arg(long, value_parser = read_url)]
    pub url: SocketAddr,
    /// A process of it, as NAME=ID; may be given several times
    #[arg(long = "process", value_parser = read_process)]
    pub processes: Vec<(String, u32)>,
    /// Orders as fast as they are settled
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub orders: u64,
    /// Of these, at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=800))]
    pub in_flight: u16,
    /// Orders a second, by a schedule
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// For so many seconds; the shop without anything to do is watched as long
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub seconds: u32,
    /// Orders one after another, from confirmed to shipped
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub one_by_one: u32,
}

fn read_process(text: &str) -> Result<(String, u32)> {
    let (name, id) = text.split_once('=').context("a process is NAME=ID")?;
    Ok((name.to_owned(), id.parse().context("a process is NAME=ID")?))
}

/// Measures it.
///
/// # Errors
/// If an answer was unexpected, or a process is gone.
pub async fn run(options: Options) -> Result<()> {
    let mut report = Report::begin("Load generator, processes and servers share the cores.");
    let run = Process::on_this_machine().ids.next().to_string();
    let products = catalogue(options.url).await?;
    fill_shelves(options.url, &run, &products).await?;
    let orders = Arc::new(Orders::new(&run, 1, products));
    report.check("warm-up", &closed(options.url, &orders, options.orders / 2, usize::from(options.in_flight)).await?);

    report.head(&["phase", "rate", "p50 ms", "p99 ms", "bars"]);
    let before = usages(&options)?;
    let tally = closed(options.url, &orders, options.orders, usize::from(options.in_flight)).await?;
    let spent = usages(&options)?;
    let memory = options.processes.iter().map(|(_, id)| resident(*id)).collect::<Result<Vec<_>>>()?;
    report.check("throughput", &tally);
    let ms = |quantile| format!("{:.1}", tally.corrected.ms(quantile));
    let bars = bar("≥ 200 orders settled/s", tally.rate() >= LEAST_RATE);
    let phase = format!("closed loop, {} in flight ({})", options.in_flight, tally.endings());
    report.row(&[phase, format!("{} orders/s", whole(tally.rate())), ms(0.5), ms(0.99), bars]);
    let answered = tally.answered();

    let (rate, count) = (options.rate, options.rate.saturating_mul(options.seconds));
    let tally = open(options.url, &orders, count, rate, MOST_IN_FLIGHT).await?;
    report.check("latency", &tally);
    let ms = |quantile| format!("{:.1}", tally.corrected.ms(quantile));
    let bars = bar("p50 ≤ 40 ms", tally.corrected.ms(0.5) <= MOST_P50_MS && tally.dropped == 0);
    let phase = format!("open loop for {} s, {} dropped", options.seconds, tally.dropped);
    report.row(&[phase, format!("{rate} orders/s"), ms(0.5), ms(0.99), bars]);

    let (mut connection, mut took) = (Connection::open(options.url).await?, Latencies::default());
    for _ in 0..options.one_by_one {
        took.record(confirmed_to_shipped(&mut connection, &orders).await?);
    }
    let (p50, p99) = (took.ms(0.5), took.ms(0.99));
    let phase = "one order at a time: from OrderConfirmed to OrderShipped".to_owned();
    let cells = [phase, format!("{} orders", options.one_by_one), format!("{p50:.1}"), format!("{p99:.1}")];
    report.row(&[&cells[..], &[bar("p99 ≤ 50 ms", p99 <= MOST_EFFECT_P99_MS)]].concat());

    sleep(SETTLE).await;
    let still = usages(&options)?;
    sleep(Duration::from_secs(u64::from(options.seconds))).await;
    let idle = usages(&options)?;
    by_process(&report, &options, (&before, &spent, answered), &memory, (&still, &idle));
    report.end()
}

fn usages(options: &Options) -> Result<Vec<Usage>> {
    options.processes.iter().map(|(_, id)| Usage::of(*id)).collect()
}

/// What each process took: of an order under load, in memory, and of a core with nothing to do.
fn by_process(
    report: &Report,
    options: &Options,
    (before, spent, answered): (&[Usage], &[Usage], u64),
    memory: &[u64],
    (still, idle): (&[Usage], &[Usage]),
) {
    report.line("");
    report.head(&["process", "CPU of an order", "resident under load", "of a core when idle", "bars"]);
    let mut sums = (0.0, 0.0, 0.0);
    for (n, (name, _)) in options.processes.iter().enumerate() {
        let of_an_order = each(spent[n].since(&before[n]).total.total(), answered) * 1e6;
        let resident = mib(memory[n]);
        let idle = 100.0 * idle[n].since(&still[n]).total.total().as_secs_f64() / f64::from(options.seconds);
        sums = (sums.0 + of_an_order, sums.1 + resident, sums.2 + idle);
        let cells = [name.clone(), format!("{} µs", whole(of_an_order)), format!("{resident:.0} MiB")];
        report.row(&[&cells[..], &[format!("{idle:.2} %"), String::new()]].concat());
    }
    let (of_an_order, resident, idle) = sums;
    let bars = bar("≤ 300 MB together", resident <= MOST_RESIDENT_MIB);
    let cells = ["all".to_owned(), format!("{} µs", whole(of_an_order)), format!("{resident:.0} MiB")];
    report.row(&[&cells[..], &[format!("{idle:.2} %"), bars]].concat());
}
