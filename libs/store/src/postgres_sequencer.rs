//! Gives the events of a store on PostgreSQL their positions, and tells readers of them.
//!
//! # Problem
//! A serial number is drawn before the commit, so that a reader who asks for what comes after its last number misses whatever
//! commits late.
//!
//! # Pattern
//! A sequencer: whoever holds one lock gives positions to what is committed, and keeps the lock until that is committed too.
//!
//! # Here
//! A batch that finds the lock free gives positions to its own events as it writes them (`postgres_writer.rs`). Where another
//! holds it, or has left events without, the batch appends without positions, and does not wait: its process's [`Sequencer`]
//! waits for its turn, and numbers what there is, whoever's it is. Either way the sequencer then wakes the readers of all
//! processes by one `NOTIFY`. Whoever was stopped with the lock loses it, with its session, after five seconds
//! (`idle_in_transaction_session_timeout`), and can number nothing any more when it goes on.
//!
//! # Limits
//! Events of a process that died before it numbered them wait for another's next commit, or for [`POLL`].
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use lab::Point;
use sqlx::postgres::{PgConnection, PgListener};
use telemetry::trouble::Trouble;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::postgres_schema::Address;

/// How long a sequencer waits for something to be appended before it looks whether somebody else's is left over.
pub(crate) const POLL: Duration = Duration::from_secs(5);
/// How long is waited after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// A listener that hears nothing for so long connects anew: a server that is gone says nothing either.
const QUIET: Duration = Duration::from_secs(60);
/// Most events numbered in one transaction.
const BATCH: i64 = 1_000;
/// Longest transaction; longer than each of its statements may take.
const LIMIT: Duration = Duration::from_secs(25);
/// Whoever numbers holds this lock, in the database that it is for.
pub(crate) const TURN: i64 = 0x4a41_4e47_0002;
const CHANNEL: &str = "jangteo_growth";

/// Gives positions to at most `$2` of the events that have none, and says to how many; `$1` is [`TURN`].
// Danger: the numbering is a statement of its own, after the lock. A snapshot older than the lock would miss what its last
// holder did.
const NUMBER: &str = "CREATE FUNCTION pg_temp.number(bigint, bigint) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
    DECLARE given bigint;
    BEGIN
        IF NOT EXISTS (SELECT FROM events WHERE position IS NULL) THEN
            RETURN 0;
        END IF;
        PERFORM pg_advisory_xact_lock($1);
        WITH last AS (SELECT coalesce(max(position), 0) AS position FROM events),
            pending AS (SELECT arrival FROM events WHERE position IS NULL ORDER BY arrival LIMIT $2),
            numbered AS (SELECT arrival, row_number() OVER (ORDER BY arrival) AS nth FROM pending)
            UPDATE events SET position = last.position + nth FROM numbered, last WHERE events.arrival = numbered.arrival;
        GET DIAGNOSTICS given = ROW_COUNT;
        RETURN given;
    END $$";
const GIVE_POSITIONS: &str = "SELECT pg_temp.number($1, $2)";
// That somebody was told need not be on a disk.
const TELL: &str = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";

/// What a writer tells its sequencer.
#[derive(Default)]
pub(crate) struct Appended {
    /// There are events that need positions.
    pub(crate) pending: Notify,
    /// There are events that have them.
    pub(crate) numbered: Notify,
}

pub(crate) struct Sequencer {
    address: Address,
    /// What it signs its messages with.
    id: Uuid,
    db: Option<PgConnection>,
    appended: Arc<Appended>,
    growth: watch::Sender<()>,
}

impl Sequencer {
    /// A sequencer that is woken by `appended` and tells `growth`, here and elsewhere as `id`.
    pub(crate) fn new(address: Address, id: Uuid, appended: Arc<Appended>, growth: watch::Sender<()>) -> Sequencer {
        Sequencer { address, id, db: None, appended, growth }
    }

    /// Numbers what is appended without positions, and tells of all that has them, for ever.
    pub(crate) async fn run(mut self) {
        let (appended, mut trouble, mut to_tell) = (self.appended.clone(), Trouble::default(), false);
        loop {
            match self.work(&mut to_tell).await {
                Ok(()) => {
                    if trouble.is_over() {
                        tracing::info!(database = self.address.name, "events are given positions again");
                    }
                    // Late is as good as woken: it looks.
                    let woken = pin!(timeout(POLL, appended.pending.notified()));
                    to_tell = matches!(select(pin!(appended.numbered.notified()), woken).await, Either::Left(_));
                }
                Err(why) => {
                    if trouble.is_news(&why) {
                        tracing::warn!(database = self.address.name, why, "events cannot be given positions");
                    }
                    sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    /// Tells of events that have positions, or gives them to those that have none and tells of these.
    async fn work(&mut self, to_tell: &mut bool) -> Result<(), String> {
        loop {
            // Danger: what ends early takes the connection with it, which may be in the middle of anything.
            let mut db = match self.db.take() {
                Some(db) => db,
                None => self.address.connect_with(NUMBER).await.map_err(|why| why.to_string())?,
            };
            let late = |_| format!("it took more than {} s", LIMIT.as_secs());
            let mut more = false;
            if !*to_tell {
                lab::reached(Point::Appended);
                let number = sqlx::query_scalar::<_, i64>(GIVE_POSITIONS).bind(TURN).bind(BATCH).fetch_one(&mut db);
                let given = timeout(LIMIT, number).await.map_err(late)?.map_err(|why| why.to_string())?;
                (*to_tell, more) = (given > 0, given == BATCH);
            }
            if *to_tell {
                self.growth.send_replace(());
                // Never within the transaction that numbers: those who tell wait for each other until they are flushed.
                let tell = sqlx::query(TELL).bind(CHANNEL).bind(self.id.to_string()).execute(&mut db);
                timeout(LIMIT, tell).await.map_err(late)?.map_err(|why| why.to_string())?;
                *to_tell = false;
            }
            self.db = Some(db);
            if !more {
                return Ok(());
            }
        }
    }
}

/// Tells `growth` of what other sequencers than `id` have numbered, for ever.
pub(crate) async fn listen(address: Address, id: Uuid, growth: watch::Sender<()>) {
    let own = id.to_string();
    loop {
        if let Ok(mut listener) = PgListener::connect_with(&address.pool_of_one()).await
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
        sleep(AFTER_FAILURE).await;
    }
}
