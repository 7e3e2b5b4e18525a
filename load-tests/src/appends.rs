//! What group commit brings a store on PostgreSQL: commits in flight through the store, and single rows inserted beside it.
//!
//! Both go into the same tables, each into a database of its own, with a sequencer and a reader who tails the log. The
//! single rows are less than commits: no commit id is remembered, no stream is locked, nothing is checked.
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use clock::{Ids, SystemClock};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};
use store::postgres::Postgres;
use store::{Append, Commit, CommitId, Expected, Meta, NewEvent, Position, Store};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::report::{Report, bar, whole};

const LEAST_GAIN: f64 = 2.0;
/// Events that a reader takes at a time.
const PAGE: usize = 1_000;
/// Longest wait of a reader for a hint.
const LOOK: Duration = Duration::from_millis(500);

const INSERT: &str =
    "INSERT INTO events (id, stream, version, type, schema, data, timestamp, correlation_id, causation_id,
    actor, traceparent) VALUES ($1, $2, $3, $4, 1, $5::json, $6, $7, $8, $9, $10)";
const STREAMS: &str = "INSERT INTO streams (name, version, timestamp)
    SELECT 'single-' || n, 0, 0 FROM generate_series(1, $1) AS n RETURNING key";

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The server, as a user who may create databases; those that are made are dropped
    #[arg(long, env = "JANGTEO_TEST_POSTGRES", hide_env_values = true)]
    pub postgres: String,
    /// Events of each turn and kind, one a commit
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub events: u64,
    /// How often both are measured, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub turns: u64,
    /// Commits in flight
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub in_flight: u64,
    /// Connections that insert single rows
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub connections: u64,
}

/// Measures both in turn.
///
/// # Errors
/// If the server cannot be used, or an event was lost or came out of order.
pub async fn run(options: Options) -> Result<()> {
    let report = Report::begin("The server is on the same machine, or wherever its address says.");
    let database = Database::make(&options.postgres, "settings").await?;
    describe(&database, &report).await?;
    database.drop().await?;
    let (commits, rows) =
        (format!("{} commits in flight", options.in_flight), format!("{} single rows", options.connections));
    report.head(&[
        "turn",
        &format!("{commits}, events/s"),
        "read after s",
        &format!("{rows}, events/s"),
        "read after s",
        "gain",
    ]);
    let mut gains = vec![];
    for turn in 0..options.turns {
        let store = measured(&options, through_the_store).await?;
        let single = measured(&options, single_rows).await?;
        let gain = store.rate / single.rate;
        gains.push(gain);
        let cells = [store.rate, single.rate].map(whole);
        let read = [store, single].map(|figures| format!("{:.2}", figures.read_after.as_secs_f64()));
        let [read, single_read] = read;
        let [store, single] = cells;
        report.row(&[(turn + 1).to_string(), store, read, single, single_read, format!("{gain:.2}")]);
    }
    gains.sort_by(f64::total_cmp);
    let median = gains[gains.len() / 2];
    report.line(&format!("\nmedian gain {median:.2}; {}", bar("≥ 2", median >= LEAST_GAIN)));
    report.end()
}

/// The settings of the server, and what an event costs: its row and its indices.
async fn describe(database: &Database, report: &Report) -> Result<()> {
    drop(Postgres::open(&database.url, None).await?);
    let mut db = PgConnection::connect(&database.url).await?;
    let settings = "SELECT name || ' ' || setting FROM pg_settings WHERE name IN ('server_version', 'fsync',
        'synchronous_commit', 'full_page_writes', 'wal_level', 'shared_buffers') ORDER BY name";
    let settings: Vec<String> = sqlx::query_scalar(settings).fetch_all(&mut db).await?;
    report.line(&format!("Server: {}.\n", settings.join(", ")));
    let columns = "SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position)
        FROM information_schema.columns WHERE table_name = 'events'";
    let columns: String = sqlx::query_scalar(columns).fetch_one(&mut db).await?;
    report.line(&format!("events: {columns}.\n"));
    let indices = "SELECT substring(indexdef FROM 'INDEX .*') FROM pg_indexes WHERE tablename = 'events' ORDER BY 1";
    for index in sqlx::query_scalar::<_, String>(indices).fetch_all(&mut db).await? {
        report.line(&format!("- {index}"));
    }
    report.line("");
    Ok(())
}

struct Figures {
    rate: f64,
    /// From the last answer until the reader had everything.
    read_after: Duration,
}

/// Runs one kind in a database of its own, beside a sequencer and a reader.
async fn measured(
    options: &Options,
    kind: impl AsyncFnOnce(&Options, &Arc<Postgres>, &str) -> Result<()>,
) -> Result<Figures> {
    let database = Database::make(&options.postgres, "run").await?;
    let store = Arc::new(Postgres::open(&database.url, None).await?);
    let mut reader = JoinSet::new();
    let total = options.events;
    reader.spawn(read(store.clone(), total));
    let started = Instant::now();
    kind(options, &store, &database.url).await?;
    let (took, written) = (started.elapsed(), Instant::now());
    reader.join_next().await.context("there is a reader")???;
    let read_after = written.elapsed();
    drop(store);
    database.drop().await?;
    Ok(Figures { rate: total as f64 / took.as_secs_f64(), read_after })
}

/// Tails the log until it has had `total` events.
async fn read(store: Arc<Postgres>, total: u64) -> Result<()> {
    let (mut growth, mut last) = (store.growth(), 0 as Position);
    while last < total {
        let page = store.read_all(last, PAGE).await?;
        for event in &page {
            last += 1;
            ensure!(event.position == Some(last), "position {last} is missing");
        }
        if page.len() < PAGE {
            // A hint may be missed; then it is looked all the same.
            let _ = timeout(LOOK, growth.changed()).await;
        }
    }
    Ok(())
}

fn data(n: u64) -> String {
    format!(
        r#"{{"order":"{n}","lines":[{{"sku":"TEA-{n:06}","quantity":2,"unit_price":18000}}],"note":"as long as they are"}}"#
    )
}

fn meta() -> Meta {
    let [correlation_id, causation_id, actor] =
        ["0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b", "checkout-0190a1b2/charge_payment/do", "customer:demo"]
            .map(str::to_owned);
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned();
    Meta { correlation_id, causation_id, actor, traceparent }
}

/// How many of all events the nth of `count` writers has.
fn share(events: u64, count: u64, nth: u64) -> u64 {
    events / count + u64::from(nth < events % count)
}

async fn through_the_store(options: &Options, store: &Arc<Postgres>, _: &str) -> Result<()> {
    let ids = Arc::new(Ids::random(Arc::new(SystemClock)));
    let mut writers = JoinSet::new();
    for nth in 0..options.in_flight {
        let (store, ids, count) = (store.clone(), ids.clone(), share(options.events, options.in_flight, nth));
        writers.spawn(async move {
            for n in 0..count {
                let event = NewEvent { id: ids.next(), kind: "Told".to_owned(), schema: 1, data: data(n) };
                let stream = format!("order-{nth}").as_str().into();
                let append = Append { stream, expected: Expected::Exact(n), events: vec![event] };
                let id = CommitId::from(ids.next().to_string());
                store.commit(Commit { appends: vec![append], ..Commit::new(id, meta()) }).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    Ok(())
}

async fn single_rows(options: &Options, _: &Arc<Postgres>, url: &str) -> Result<()> {
    let ids = Arc::new(Ids::random(Arc::new(SystemClock)));
    let mut db = PgConnection::connect(url).await?;
    let keys: Vec<i64> = sqlx::query_scalar(STREAMS).bind(options.connections as i64).fetch_all(&mut db).await?;
    let mut writers = JoinSet::new();
    for (nth, key) in (0..).zip(keys) {
        let (ids, count) = (ids.clone(), share(options.events, options.connections, nth));
        let mut db = PgConnection::connect(url).await?;
        writers.spawn(async move {
            let Meta { correlation_id, causation_id, actor, traceparent } = meta();
            for n in 0..count {
                let insert =
                    sqlx::query(INSERT).bind(ids.next()).bind(key).bind(n as i64 + 1).bind("Told").bind(data(n));
                let insert = insert.bind(0_i64).bind(&correlation_id).bind(&causation_id).bind(&actor);
                insert.bind(&traceparent).execute(&mut db).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    Ok(())
}

/// A database that has to be dropped.
struct Database {
    server: String,
    name: String,
    url: String,
}

impl Database {
    async fn make(server: &str, what: &str) -> Result<Database> {
        let (address, _) = server.rsplit_once('/').context("the server's address ends with a database")?;
        let name = format!("store_bench_{what}_{}", std::process::id());
        let database = Database { server: server.to_owned(), url: format!("{address}/{name}"), name };
        database.run(&format!("CREATE DATABASE {} TEMPLATE template0", database.name)).await?;
        Ok(database)
    }

    async fn run(&self, sql: &str) -> Result<()> {
        let mut db = PgConnection::connect_with(&self.server.parse::<PgConnectOptions>()?).await?;
        db.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await?;
        Ok(db.close().await?)
    }

    async fn drop(self) -> Result<()> {
        self.run(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).await
    }
}
