//! A whole checkout over HTTP, the edge alone, and the start of an empty shop.
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use host::Process;

use crate::drive::{Work, closed, open};
use crate::proc::{Spent, Usage, rss_anon};
use crate::report::{Report, bar, each, mib, whole};
use crate::server::{Folder, Server, program, read_url};
use crate::shop::{Looks, Orders, Product, WENT_WELL, catalogue, conflicts, fill_shelves};
use crate::tally::{Tally, median};

/// With parcels shipped, facts published and orders searched beside it.
const LEAST_RATE: f64 = 800.0;
/// What was reached before there was any of that.
const AIM_RATE: f64 = 2_000.0;
const MOST_CONFLICTS: f64 = 0.1;
const MOST_P50_MS: f64 = 15.0;
const MOST_EDGE_US: f64 = 40.0;
const MOST_START_S: f64 = 1.0;
/// A start is short: one alone says little.
const STARTS: u32 = 5;

/// The phases, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// Orders as fast as they are settled.
    Throughput,
    /// Orders by a schedule.
    Latency,
    /// Single products, as fast as they are answered.
    Edge,
    /// From nothing to the first answer.
    Start,
}

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Only these phases; all if absent
    #[arg(long = "phase", value_enum)]
    pub phases: Vec<Phase>,
    /// Orders of the throughput phase that are measured
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub orders: u64,
    /// Orders before the measured ones
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    pub warm_up: u64,
    /// Orders at a time in the throughput phase
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=800))]
    pub in_flight: u16,
    /// Orders a second in the latency phase
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// Seconds of the latency phase
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub seconds: u32,
    /// Requests of the edge phase
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub looks: u64,
    /// What customers choose is drawn from this
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// A server that runs already, as http://ADDRESS:PORT; its CPU is not seen and its start not measured
    #[arg(long, value_parser = read_url)]
    pub url: Option<SocketAddr>,
}

impl Options {
    fn wants(&self, phase: Phase) -> bool {
        self.phases.is_empty() || self.phases.contains(&phase)
    }
}

/// The server under test, and what is needed to ask it.
struct Target {
    address: SocketAddr,
    pid: Option<u32>,
    products: Vec<Product>,
    orders: Arc<Orders>,
}

/// What a phase cost both sides.
struct Cost {
    server: Option<Spent>,
    own: Spent,
}

impl Target {
    async fn prepare(address: SocketAddr, pid: Option<u32>, seed: u64) -> Result<Target> {
        let run = Process::on_this_machine().ids.next().to_string();
        let products = catalogue(address).await?;
        fill_shelves(address, &run, &products).await?;
        let orders = Arc::new(Orders::new(&run, seed, products.clone()));
        Ok(Target { address, pid, products, orders })
    }

    fn usage(&self) -> Result<(Option<Usage>, Usage)> {
        Ok((self.pid.map(Usage::of).transpose()?, Usage::of(std::process::id())?))
    }

    /// Carries a phase out and tells what it cost.
    async fn metered(&self, phase: impl Future<Output = Result<Tally>>) -> Result<(Tally, Cost)> {
        let (server, own) = self.usage()?;
        let tally = phase.await?;
        let (server_after, own_after) = self.usage()?;
        let server = server_after.zip(server).map(|(after, before)| after.since(&before));
        Ok((tally, Cost { server, own: own_after.since(&own) }))
    }

    async fn drive(&self, work: &Arc<impl Work>, total: u64, in_flight: u16) -> Result<(Tally, Cost)> {
        self.metered(closed(self.address, work, total, usize::from(in_flight))).await
    }
}

/// Measures the checkout.
///
/// # Errors
/// If an answer was unexpected, or the server cannot be started.
pub async fn run(options: Options) -> Result<()> {
    let foreign_start = options.phases == [Phase::Start] && options.url.is_some();
    ensure!(!foreign_start, "the start of a server that runs already cannot be measured: leave out --url");
    let about = "The load generator is one thread on the same cores as the server: both CPU figures share them.";
    let mut report = Report::begin(about);
    report.head(&["phase", "rate", "p50 ms", "p95 ms", "p99 ms", "server CPU", "generator CPU", "beside", "bars"]);
    let folder = Folder::make("checkout")?;
    let mut threads = None;
    if options.phases != [Phase::Start] {
        let server = match options.url {
            None => Some(Server::start(&program()?, &folder.at("data"), &[]).await?.0),
            Some(_) => None,
        };
        let address = server.as_ref().map(Server::address).or(options.url).expect("one of both");
        let target = Target::prepare(address, server.as_ref().map(Server::pid), options.seed).await?;
        threads = drive(&options, &target, &mut report).await?;
        if let Some(server) = server {
            server.stop().await?;
        }
    }
    if options.wants(Phase::Start) && options.url.is_none() {
        start(&folder, &report).await?;
    }
    if let Some((spent, orders)) = threads {
        report.by_thread("an order in the throughput phase, server", &spent, orders);
    }
    report.end()
}

/// The phases on a running server, and what the server spent in the first.
async fn drive(options: &Options, target: &Target, report: &mut Report) -> Result<Option<(Spent, u64)>> {
    let mut threads = None;
    if options.wants(Phase::Throughput) {
        threads = throughput(options, target, report).await?;
    }
    if options.wants(Phase::Latency) {
        latency(options, target, report).await?;
    }
    if options.wants(Phase::Edge) {
        edge(options, target, report).await?;
    }
    Ok(threads)
}

async fn throughput(options: &Options, target: &Target, report: &mut Report) -> Result<Option<(Spent, u64)>> {
    let warm = closed(target.address, &target.orders, options.warm_up, usize::from(options.in_flight)).await?;
    report.check("warm-up", &warm);
    let before = conflicts(target.address).await;
    let (tally, cost) = target.drive(&target.orders, options.orders, options.in_flight).await?;
    let after = conflicts(target.address).await;
    let answered = tally.answered();
    let conflicts = after.zip(before).map(|(after, before)| (after - before) / answered.max(1) as f64);
    let shown =
        conflicts.map_or("conflicts unknown".to_owned(), |conflicts| format!("{conflicts:.3} conflicts an order"));
    let confirmed = format!("{:.1} % confirmed ({})", tally.percent(&WENT_WELL), tally.endings());
    let bars = [
        bar("all confirmed", tally.percent(&WENT_WELL) >= 100.0),
        bar("≥ 800/s", tally.rate() >= LEAST_RATE),
        bar("aim 2,000/s", tally.rate() >= AIM_RATE),
        bar("conflicts ≤ 0.1", conflicts.is_some_and(|conflicts| conflicts <= MOST_CONFLICTS)),
    ];
    let phase = format!("throughput: closed loop, {} in flight", options.in_flight);
    row(report, phase, "orders/s", &tally, &cost, &format!("{shown}; {confirmed}"), &bars.join("; "));
    report.check("throughput", &tally);
    Ok(cost.server.map(|spent| (spent, answered)))
}

async fn latency(options: &Options, target: &Target, report: &mut Report) -> Result<()> {
    let Options { rate, seconds, in_flight, .. } = options;
    let most = usize::from(*in_flight).max(256);
    let (tally, cost) =
        target.metered(open(target.address, &target.orders, rate.saturating_mul(*seconds), *rate, most)).await?;
    let beside = format!(
        "from the intended start; service time p50 {:.1}, p99 {:.1} ms; {} dropped at {most} in flight; {}",
        tally.service.ms(0.5),
        tally.service.ms(0.99),
        tally.dropped,
        tally.endings(),
    );
    let bars = bar("p50 ≤ 15 ms", tally.corrected.ms(0.5) <= MOST_P50_MS && tally.dropped == 0);
    row(report, format!("latency: open loop, {rate}/s for {seconds} s"), "orders/s", &tally, &cost, &beside, &bars);
    report.check("latency", &tally);
    Ok(())
}

async fn edge(options: &Options, target: &Target, report: &mut Report) -> Result<()> {
    let looks = Arc::new(Looks::at(&target.products));
    report.check("edge warm-up", &closed(target.address, &looks, options.looks / 20, 32).await?);
    let (tally, cost) = target.drive(&looks, options.looks, 32).await?;
    let cpu = cost.server.as_ref().map(|spent| each(spent.total.total(), tally.answered()) * 1e6);
    let bars = cpu.map_or(String::new(), |cpu| bar("≤ 40 µs CPU", cpu <= MOST_EDGE_US));
    let phase = "edge: GET /v1/products/{sku}, 32 connections".to_owned();
    row(report, phase, "requests/s", &tally, &cost, &tally.endings(), &bars);
    report.check("edge", &tally);
    Ok(())
}

async fn start(folder: &Folder, report: &Report) -> Result<()> {
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    for n in 0..STARTS {
        let (server, took) = Server::start(&program()?, &folder.at(&format!("empty-{n}")), &[]).await?;
        memory.push(mib(rss_anon(server.pid())?));
        times.push(took.as_secs_f64());
        server.stop().await?;
    }
    let mut cells = vec![String::from("–"); 9];
    cells[0] = "start: empty folder to the first answer, seeding included".to_owned();
    let worst = times.iter().copied().fold(0.0, f64::max);
    let (time, memory) = (median(&times), median(&memory));
    cells[7] = format!("{time:.3} s, worst of {STARTS} {worst:.3} s; RssAnon {memory:.1} MiB");
    cells[8] = bar("≤ 1 s", time <= MOST_START_S);
    report.row(&cells);
    Ok(())
}

fn row(report: &Report, phase: String, unit: &str, tally: &Tally, cost: &Cost, beside: &str, bars: &str) {
    let ms = |quantile| format!("{:.2}", tally.corrected.ms(quantile));
    let cpu = |spent: &Spent| format!("{} µs", whole(each(spent.total.total(), tally.answered()) * 1e6));
    report.row(&[
        phase,
        format!("{} {unit}", whole(tally.rate())),
        ms(0.5),
        ms(0.95),
        ms(0.99),
        cost.server.as_ref().map_or("–".to_owned(), cpu),
        cpu(&cost.own),
        beside.to_owned(),
        bars.to_owned(),
    ]);
}
