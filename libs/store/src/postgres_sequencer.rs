//! Gives the events of a store on PostgreSQL their positions, and tells readers of them.
//!
//! # Problem
//! A serial number is drawn before the commit, so that a reader who asks for what comes after its last number misses whatever
//! commits late.
//!
//! # Pattern
//! A sequencer: events are appended without a position, and whoever holds one lock numbers those that are committed.
//!
//! # Here
//! Every process has one, and runs it after its own commits: it waits for its turn, numbers what there is, whoever's it is, and
//! wakes the readers of all processes by one `NOTIFY` of its own. The lock ends with the transaction that
//! numbers, so one that is stopped and goes on later can number nothing any more: its session is over
//! (`idle_in_transaction_session_timeout`, five seconds).
//!
//! # Limits
//! Events of a process that died before it numbered them wait for another's next commit, or for [`POLL`].
use std::sync::Arc;
use std::time::Duration;

use lab::Point;
use sqlx::Connection;
use sqlx::postgres::{PgConnection, PgListener, PgPoolOptions};
use telemetry::trouble::Trouble;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::postgres_schema::{Address, CONNECT};

/// How long a sequencer waits for something to be appended before it looks whether somebody else's is left over.
pub(crate) const POLL: Duration = Duration::from_secs(1);
/// A listener that hears nothing for so long connects anew: a server that is gone says nothing either.
const QUIET: Duration = Duration::from_secs(60);
/// Most events numbered in one transaction.
const BATCH: u64 = 1_000;
/// Longest transaction; longer than each of its statements may take.
const LIMIT: Duration = Duration::from_secs(25);
/// Whoever numbers holds this lock, in the database that it is for.
pub(crate) const TURN: i64 = 0x4a41_4e47_0002;
const CHANNEL: &str = "jangteo_growth";

// Danger: a statement of its own, before the numbering. The snapshot of one statement would be older than the lock, and
// miss what its last holder did.
const WAIT_FOR_TURN: &str = "SELECT pg_advisory_xact_lock($1)";
const NUMBER: &str = "WITH last AS (SELECT coalesce(max(position), 0) AS position FROM events),
    pending AS (SELECT arrival FROM events WHERE position IS NULL ORDER BY arrival LIMIT $1),
    numbered AS (SELECT arrival, row_number() OVER (ORDER BY arrival) AS nth FROM pending)
    UPDATE events SET position = last.position + nth FROM numbered, last WHERE events.arrival = numbered.arrival";
const TELL: &str = "SELECT pg_notify($1, $2)";

pub(crate) struct Sequencer {
    address: Address,
    /// What it signs its messages with.
    id: Uuid,
    db: Option<PgConnection>,
    appended: Arc<Notify>,
    growth: watch::Sender<()>,
}

impl Sequencer {
    /// A sequencer that is woken by `appended` and tells `growth`, here and elsewhere as `id`.
    pub(crate) fn new(address: Address, id: Uuid, appended: Arc<Notify>, growth: watch::Sender<()>) -> Sequencer {
        Sequencer { address, id, db: None, appended, growth }
    }

    /// Numbers whatever is appended, for ever.
    pub(crate) async fn run(mut self) {
        let mut trouble = Trouble::default();
        loop {
            match self.number_all().await {
                Ok(()) => {
                    if trouble.is_over() {
                        tracing::info!(database = self.address.name, "events are given positions again");
                    }
                    // Late is as good as woken: it looks.
                    let _ = timeout(POLL, self.appended.notified()).await;
                }
                Err(why) => {
                    if trouble.is_news(&why) {
                        tracing::warn!(database = self.address.name, why, "events cannot be given positions");
                    }
                    sleep(POLL).await;
                }
            }
        }
    }

    async fn number_all(&mut self) -> Result<(), String> {
        loop {
            // Danger: what ends early takes the connection with it, which may be in the middle of anything.
            let mut db = match self.db.take() {
                Some(db) => db,
                None => self.address.connect().await.map_err(|why| why.to_string())?,
            };
            let late = |_| format!("it took more than {} s", LIMIT.as_secs());
            lab::reached(Point::Appended);
            let count = timeout(LIMIT, number(&mut db)).await.map_err(late)?.map_err(|why| why.to_string())?;
            if count > 0 {
                self.growth.send_replace(());
                // Never within the transaction that numbers: those who tell wait for each other until they are flushed.
                let tell = sqlx::query(TELL).bind(CHANNEL).bind(self.id.to_string()).execute(&mut db);
                timeout(LIMIT, tell).await.map_err(late)?.map_err(|why| why.to_string())?;
            }
            self.db = Some(db);
            if count < BATCH {
                return Ok(());
            }
        }
    }
}

/// Numbers some of what is pending; how many.
async fn number(db: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let mut transaction = db.begin().await?;
    sqlx::query(WAIT_FOR_TURN).bind(TURN).execute(&mut *transaction).await?;
    let numbered = sqlx::query(NUMBER).bind(BATCH as i64).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(numbered.rows_affected())
}

/// Tells `growth` of what other sequencers than `id` have numbered, for ever.
pub(crate) async fn listen(address: Address, id: Uuid, growth: watch::Sender<()>) {
    let own = id.to_string();
    loop {
        let pool =
            PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT).idle_timeout(None).max_lifetime(None);
        let pool = pool.connect_lazy_with(address.options.clone());
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen(CHANNEL).await.is_ok()
        {
            // What was told while nobody listened is not told again.
            growth.send_replace(());
            while let Ok(Ok(Some(told))) = timeout(QUIET, listener.try_recv()).await {
                if told.payload() != own {
                    growth.send_replace(());
                }
            }
        }
        sleep(POLL).await;
    }
}
