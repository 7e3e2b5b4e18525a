//! What happens beside the requests: facts published from a log, and documents found in an index.
//!
//! Both in this process, over fresh files, as in a server.
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use host::Process;
use messaging::relay::{KEEP_EVERY, Public, Relay};
use messaging::{Bus, Messages};
use search::fts::Fts;
use search::{Change, Checkpoint, Document, Index, Query};
use store::folded::persist;
use store::sqlite::Sqlite;
use store::{Append, Commit, CommitId, Expected, Meta, NewEvent, Recorded, Store};
use tokio::time::Instant;

use crate::chance::Chance;
use crate::report::{Report, bar, whole};
use crate::server::Folder;

const LEAST_RELAYED: f64 = 20_000.0;
const MOST_P99_MS: f64 = 10.0;
/// Events of one commit while the log is filled, and of one stream.
const COMMIT: u64 = 500;
const STREAM: u64 = 5;
/// Documents of one write.
const WRITE: u64 = 500;

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Events that are published
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub events: u64,
    /// Orders in the index that is searched
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub orders: u64,
    /// Products in the other
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub products: u64,
    /// Searches of each kind
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub searches: u64,
}

/// Measures the relay and the search.
///
/// # Errors
/// If a file cannot be written or read.
pub async fn run(options: Options) -> Result<()> {
    let report = Report::begin("Everything is in this process; the pages of its files are in the system's memory.");
    let folder = Folder::make("facts")?;
    relay(&options, &folder, &report).await?;
    report.line("");
    report.head(&["search, a page of 20", "documents", "p50 ms", "p99 ms", "bars"]);
    products(&options, &folder, &report).await?;
    orders(&options, &folder, &report).await?;
    report.end()
}

async fn relay(options: &Options, folder: &Folder, report: &Report) -> Result<()> {
    let process = Process::on_this_machine();
    let store = log(&process, folder, options.events).await?;
    let bus = Arc::new(messaging::sqlite::Sqlite::create(&folder.at("bus.db"))?);
    let (_, rate) = drain(&process, store, bus).await?;
    report.head(&["relay, SQLite to SQLite", "events", "events/s", "bars"]);
    row(report, "each page durable before the cursor moves", options.events, rate);
    Ok(())
}

/// A line of the table about a relay.
pub fn row(report: &Report, what: &str, events: u64, rate: f64) {
    let bars = bar("≥ 20,000/s", rate >= LEAST_RELAYED);
    report.row(&[what.to_owned(), events.to_string(), whole(rate), bars]);
}

/// A log with so many events, five to a stream.
///
/// # Errors
/// If its file cannot be written.
pub async fn log(process: &Process, folder: &Folder, events: u64) -> Result<Arc<dyn Store>> {
    let store: Arc<dyn Store> = Arc::new(Sqlite::create(&folder.at("log.db"), process.clock.clone())?);
    let event = |n: u64| {
        let data = format!(r#"{{"order":"{n}","note":"about as long as the events of an order are"}}"#);
        let stream = format!("order-{}", n / STREAM);
        let event = NewEvent { id: process.ids.next(), kind: "Told".to_owned(), schema: 1, data };
        (stream, event)
    };
    for first in (0..events).step_by(usize::try_from(COMMIT)?) {
        let mut appends: Vec<Append> = vec![];
        for (stream, event) in (first..events.min(first + COMMIT)).map(event) {
            match appends.last_mut().filter(|append| *append.stream.0 == *stream) {
                Some(append) => append.events.push(event),
                None => appends.push(Append {
                    stream: stream.as_str().into(),
                    expected: Expected::Any,
                    events: vec![event],
                }),
            }
        }
        let id = CommitId::from(process.ids.next().to_string());
        persist(store.as_ref(), Commit { appends, ..Commit::new(id, Meta::default()) }).await?;
    }
    Ok(store)
}

/// Publishes a whole log to `order-events`; how many events that were, and how many in a second.
///
/// # Errors
/// If the log cannot be read, or the bus does not take it.
pub async fn drain(process: &Process, store: Arc<dyn Store>, bus: Arc<dyn Bus>) -> Result<(u64, f64)> {
    let messages = Messages::new(process, bus);
    messages.bus.create("order-events", 6).await?;
    let told = |recorded: &Recorded| {
        Ok(Public::Fact { kind: "shop.events.v1.Told".to_owned(), payload: recorded.event.data.clone().into_bytes() })
    };
    let mut relay = Relay::new(process, store, &messages, "order", told);
    let (started, mut published) = (Instant::now(), 0);
    let mut kept = started;
    loop {
        match relay.step().await? {
            0 => break,
            count => published += count as u64,
        }
        if kept.elapsed() >= KEEP_EVERY {
            relay.keep().await?;
            kept = Instant::now();
        }
    }
    relay.keep().await?;
    Ok((published, published as f64 / started.elapsed().as_secs_f64()))
}

async fn products(options: &Options, folder: &Folder, report: &Report) -> Result<()> {
    let index = Fts::open(&folder.at("products.db"))?;
    let document = |n: u64| {
        let text = vec![format!("보성 녹차 {n}호"), format!("Boseong green tea number {n}"), format!("SKU-{n:05}")];
        let facets = [("category", if n.is_multiple_of(100) { "rare" } else { "tea" }.to_owned())].into();
        Document { id: format!("SKU-{n:05}"), version: 1, owner: String::new(), facets, text }
    };
    fill(&index, options.products, document).await?;
    let query = |text: &str| Query { text: text.to_owned(), size: 20, ..Query::default() };
    for (kind, query) in [("products: every one has it", query("녹차")), ("products: one letter", query("b"))] {
        measure(options, &index, report, kind, options.products, |_| query.clone()).await?;
    }
    Ok(())
}

async fn orders(options: &Options, folder: &Folder, report: &Report) -> Result<()> {
    let index = Fts::open(&folder.at("orders.db"))?;
    let names = ["김장터", "이민수", "박서연", "Kim Jangteo"];
    let document = |n: u64| {
        let mut chance = Chance::of(1, n);
        let name = names[usize::try_from(chance.below(names.len() as u64)).unwrap_or(0)];
        let status = if n.is_multiple_of(1_000) { "rejected" } else { "delivered" };
        // Half of them are of one customer.
        let owner = if n.is_multiple_of(2) { "demo".to_owned() } else { format!("customer-{}", n % 1_000) };
        let text =
            vec![name.to_owned(), "세종대로 110".to_owned(), "서울 Seoul".to_owned(), format!("SKU-{:04}", n % 64)];
        Document { id: format!("order-{n}"), version: 1, owner, facets: [("status", status.to_owned())].into(), text }
    };
    let started = Instant::now();
    fill(&index, options.orders, document).await?;
    let rate = options.orders as f64 / started.elapsed().as_secs_f64();
    let of = |owner: String, text: &str, status: &str| {
        let facets = (!status.is_empty()).then(|| ("status", status.to_owned())).into_iter().collect();
        Query { text: text.to_owned(), owner, facets, size: 20, ..Query::default() }
    };
    let demo = || "demo".to_owned();
    let kinds: [(&str, Query); 5] = [
        ("orders of one with half of all: a word that all have", of(demo(), "seoul", "")),
        ("the same, the few that were rejected", of(demo(), "seoul", "rejected")),
        ("the same, one letter", of(demo(), "s", "")),
        ("the same, two words and a status", of(demo(), "김장터 sku-0012", "delivered")),
        ("the same, a word that none has", of(demo(), "부산", "")),
    ];
    for (kind, query) in kinds {
        measure(options, &index, report, kind, options.orders, |_| query.clone()).await?;
    }
    let small = |n: u64| of(format!("customer-{}", (n * 2 + 1) % 1_000), "서울", "");
    measure(options, &index, report, "orders of one with few", options.orders, small).await?;
    report.line(&format!("\nindexed: {} orders/s\n", whole(rate)));
    Ok(())
}

async fn fill(index: &Fts, count: u64, document: impl Fn(u64) -> Document) -> Result<()> {
    for first in (0..count).step_by(usize::try_from(WRITE)?) {
        let end = count.min(first + WRITE);
        let documents = (first..end).map(|n| (n + 1, document(n))).collect();
        let checkpoint = Checkpoint { position: end, ..Checkpoint::default() };
        let change = Change { after: first, documents, checkpoint };
        index.write(change).await.context("the index cannot be written")?;
    }
    Ok(())
}

async fn measure(
    options: &Options,
    index: &Fts,
    report: &Report,
    kind: &str,
    documents: u64,
    query: impl Fn(u64) -> Query,
) -> Result<()> {
    let mut times = Vec::with_capacity(usize::try_from(options.searches)?);
    for n in 0..options.searches {
        let started = Instant::now();
        search::search(index, &query(n)).await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let quantile = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let (p50, p99) = (quantile(0.5), quantile(0.99));
    let bars = bar("p99 ≤ 10 ms", p99 <= MOST_P99_MS);
    report.row(&[kind.to_owned(), whole(documents as f64), format!("{p50:.3}"), format!("{p99:.3}"), bars]);
    Ok(())
}
