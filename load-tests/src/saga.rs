//! The saga engine alone: three steps whose participants answer at once, over a fresh file, every commit durable.
//!
//! A saga is four commits: its start with the first request, two answers each with the next request, and the last answer
//! with the end. Log lines are written as in production, to standard error, which has to lead to a file.
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, ensure};
use async_trait::async_trait;
use clap::Args;
use host::Process;
use saga::definition::Offers;
use saga::{Command, Definition, End, Input, Outcome, Owner, Participants, Runner, Saga};
use serde_json::{Value, json};
use store::folded::{Folded, persist};
use store::sqlite::Sqlite;
use store::{Append, Commit, CommitId, Meta, ReadError, Store, StreamId};
use telemetry::logs::{self, Format};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::proc::{Spent, Usage};
use crate::report::{Report, bar, each, whole};
use crate::server::Folder;
use crate::tally::Tally;

const DEFINITION: &str = "\
name: bench
steps:
  - name: reserve
    service: a-service
    compensation: release
  - name: charge
    service: b-service
    compensation: refund
  - name: ship
    service: c-service
    kind: pivot
    compensation: none
";
const LEAST_RATE: f64 = 8_000.0;
const MOST_CPU_MS: f64 = 0.15;

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Sagas that are measured
    #[arg(long, default_value_t = 40_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub sagas: u64,
    /// Sagas before the measured ones
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    pub warm_up: u64,
    /// Sagas at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub in_flight: u16,
    /// Which log lines are written, as in the server
    #[arg(long, default_value = "info")]
    pub log: String,
}

/// Answers at once.
struct AtOnce;

#[async_trait]
impl Participants for AtOnce {
    async fn send(&self, _: &Saga, command: &Command) -> Outcome {
        Outcome::Accepted(json!({"reference": command.id}))
    }
}

/// Tells who began a saga that it has ended.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<BTreeMap<String, oneshot::Sender<End>>>>);

impl Ends {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<String, oneshot::Sender<End>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Owner for Ends {
    async fn ending(&self, _: &Saga, _: End) -> Result<Vec<Append>, ReadError> {
        Ok(vec![])
    }

    fn ended(&self, saga: &Saga, end: End) {
        if let Some(waiting) = self.waiting().remove(saga.id()) {
            // Who stopped waiting need not know.
            let _ = waiting.send(end);
        }
    }
}

#[derive(Clone)]
struct Bench {
    process: Process,
    store: Arc<dyn Store>,
    runner: Runner,
    ends: Ends,
    definition: Arc<Definition>,
}

impl Bench {
    fn open(folder: &Folder) -> Result<Bench> {
        let process = Process::on_this_machine();
        let store: Arc<dyn Store> = Arc::new(Sqlite::create(&folder.at("saga.db"), process.clock.clone())?);
        let offers = Offers::from([
            ("a-service", ["reserve", "release"].as_slice()),
            ("b-service", &["charge", "refund"]),
            ("c-service", &["ship"]),
        ]);
        let definition = Arc::new(Definition::from_yaml(DEFINITION, &offers)?);
        let ends = Ends::default();
        let runner = Runner::new(&process, store.clone(), Arc::new(AtOnce), Arc::new(ends.clone()));
        runner.listen();
        Ok(Bench { process, store, runner, ends, definition })
    }

    /// One saga from its first commit to its end.
    async fn saga(&self) -> Result<End> {
        let order_id = self.process.ids.next().to_string();
        let stream = StreamId::from(format!("bench-{order_id}"));
        let traceparent = host::call::new_trace(&self.process.ids).to_string();
        let start = Input::Start {
            saga: stream.0.clone(),
            definition: self.definition.clone(),
            data: Arc::new(data(&order_id)),
            correlation_id: order_id.clone(),
            traceparent: traceparent.clone(),
        };
        let pending = self.runner.decide(&stream, &Folded::default(), &start).await?;
        let pending = pending.context("a saga that has not begun begins")?;
        let actor = "customer:bench".to_owned();
        let meta = Meta { correlation_id: order_id.clone(), causation_id: order_id.clone(), actor, traceparent };
        let (appends, timers) = (pending.appends.clone(), vec![pending.timer.clone()]);
        let commit = Commit { appends, timers, ..Commit::new(CommitId::from(order_id), meta) };
        let (sender, ended) = oneshot::channel();
        self.ends.waiting().insert(stream.0.to_string(), sender);
        persist(self.store.as_ref(), commit).await?;
        self.runner.carry_on(pending);
        ended.await.context("a saga is lost")
    }

    async fn sagas(&self, total: u64, in_flight: u16) -> Result<Tally> {
        let (begun, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let mut workers = JoinSet::new();
        for _ in 0..in_flight {
            let (bench, begun) = (self.clone(), begun.clone());
            workers.spawn(async move {
                let mut tally = Tally::default();
                while begun.fetch_add(1, Ordering::Relaxed) < total {
                    let started = Instant::now();
                    let judged = match bench.saga().await {
                        Ok(End::Completed) => Ok("completed"),
                        Ok(end) => Err(format!("a saga ended {end:?}")),
                        Err(why) => Err(format!("{why:#}")),
                    };
                    tally.add(judged, started.elapsed(), started.elapsed());
                }
                tally
            });
        }
        let mut tally = Tally::default();
        while let Some(worker) = workers.join_next().await {
            tally.merge(worker?);
        }
        tally.wall = started.elapsed();
        Ok(tally)
    }
}

/// What an order's saga knows of it, in size and form.
fn data(order_id: &str) -> Value {
    json!({"order_id": order_id, "details": {
        "customer_id": "bench", "total": 38_700, "currency": "KRW", "payment_method": "pm_card_ok",
        "lines": [{"sku": "SKU-0001", "quantity": 2, "unit_price": 12_900}, {"sku": "SKU-0002", "quantity": 1, "unit_price": 12_900}],
        "shipping_address": {"recipient": "김장터", "street": "세종대로 110", "city": "서울", "postal_code": "04524", "country": "KR"},
    }})
}

/// Measures the saga engine.
///
/// # Errors
/// If a saga does not complete, or log lines would go to a terminal.
pub async fn run(options: Options) -> Result<()> {
    ensure!(
        !std::io::stderr().is_terminal(),
        "log lines are part of what is measured: lead them to a file with 2>FILE"
    );
    let _guard = logs::init(&options.log, Format::Text).map_err(|why| anyhow!(why))?;
    let about = format!(
        "Load and engine are one process. Log lines of `{}` go to standard error, as in production.",
        options.log
    );
    let mut report = Report::begin(&about);
    let folder = Folder::make("saga")?;
    let bench = Bench::open(&folder)?;
    report.check("warm-up", &bench.sagas(options.warm_up, options.in_flight).await?);

    let me = std::process::id();
    let (before, synced) = (Usage::of(me)?, store::fsync::fsyncs());
    let tally = bench.sagas(options.sagas, options.in_flight).await?;
    let (spent, synced) = (Usage::of(me)?.since(&before), store::fsync::fsyncs() - synced);
    print(&report, &options, &tally, &spent, synced);
    report.check("saga", &tally);
    bench.process.tasks.drain(std::time::Duration::from_secs(10)).await;
    report.end()
}

fn print(report: &Report, options: &Options, tally: &Tally, spent: &Spent, synced: u64) {
    let count = tally.answered();
    let cpu_ms = each(spent.total.total(), count) * 1e3;
    report.head(&["sagas", "in flight", "sagas/s", "CPU ms a saga", "p50 ms", "p99 ms", "fsyncs a saga", "bars"]);
    let bars = [bar("≥ 8,000/s", tally.rate() >= LEAST_RATE), bar("≤ 0.15 ms CPU", cpu_ms <= MOST_CPU_MS)];
    report.row(&[
        tally.endings(),
        options.in_flight.to_string(),
        whole(tally.rate()),
        format!("{cpu_ms:.3}"),
        format!("{:.2}", tally.service.ms(0.5)),
        format!("{:.2}", tally.service.ms(0.99)),
        format!("{:.3}", synced as f64 / count.max(1) as f64),
        bars.join("; "),
    ]);
    report.by_thread("a saga", spent, count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_saga_ends_and_is_on_the_disk() {
        let folder = Folder::make("saga-test").unwrap();
        let bench = Bench::open(&folder).unwrap();
        let before = store::fsync::fsyncs();
        let tally = bench.sagas(20, 1).await.unwrap();
        assert_eq!((tally.endings().as_str(), tally.unexpected()), ("20 completed", None));
        assert!(store::fsync::fsyncs() - before >= 80, "four commits each, one after another");
        assert!(bench.ends.waiting().is_empty());
    }
}
