//! Publishes a log to Kafka as if it had been written while the broker was away, and reads it back.
//!
//! The log is a SQLite file in this process; the broker is wherever it is.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use host::Process;
use messaging::envelope::Envelope;
use messaging::kafka::{Kafka, Settings};
use messaging::{Bus, Delivered};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use tokio::time::{Instant, timeout};

use crate::facts;
use crate::report::{Report, whole};
use crate::server::Folder;

/// How long is waited for the next messages when the log is read back.
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages of one batch.
const BATCH: usize = 1_000;

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Events that are published
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub events: u64,
    /// The brokers
    #[arg(long, env = "JANGTEO_TEST_KAFKA", value_name = "HOSTS")]
    pub kafka: String,
}

/// Measures the relay of a SQLite log onto Kafka.
///
/// # Errors
/// If a file or the broker fails, or a stream does not come back as it was.
pub async fn run(options: Options) -> Result<()> {
    let report =
        Report::begin("The log is in this process; the broker is another on the same machine, or wherever it is.");
    let (process, folder) = (Process::on_this_machine(), Folder::make("relay")?);
    let prefix = format!("bench-{}-", process.ids.next().simple());
    let settings = Settings { servers: options.kafka.clone(), prefix: prefix.clone(), replicas: 1 };
    let bus = Arc::new(Kafka::new(&settings)?);
    let store = facts::log(&process, &folder, options.events).await?;
    let (published, rate) = facts::drain(&process, store, bus.clone()).await?;
    ensure!(published == options.events, "{published} of {} events were published", options.events);
    report.head(&["relay, SQLite to Kafka", "events", "events/s", "bars"]);
    facts::row(&report, "each page acknowledged before the cursor moves", published, rate);
    let (started, read) = (Instant::now(), read_back(bus.as_ref(), options.events).await);
    let rate = whole(options.events as f64 / started.elapsed().as_secs_f64());
    let admin: AdminClient<DefaultClientContext> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", &options.kafka).create()?;
    admin.delete_topics(&[&format!("{prefix}order-events")], &AdminOptions::new()).await?;
    read?;
    report.row(&["read back: every stream whole and in order".to_owned(), published.to_string(), rate, String::new()]);
    report.end()
}

/// Reads so many messages, and finds every stream whole and in its order.
async fn read_back(bus: &dyn Bus, events: u64) -> Result<()> {
    let mut member = bus.subscribe("bench", &["order-events"]).await?;
    let (mut read, mut last) = (0, BTreeMap::<String, u64>::new());
    while read < events {
        let batch = timeout(PATIENCE, member.next(BATCH)).await??;
        read += batch.len() as u64;
        for Delivered { message, .. } in &batch {
            let fact = Envelope::decode(message).map_err(anyhow::Error::msg)?;
            let before = last.insert(fact.stream.clone(), fact.version).unwrap_or(0);
            ensure!(fact.version == before + 1, "{}: {} after {before}", fact.stream, fact.version);
        }
    }
    Ok(())
}
