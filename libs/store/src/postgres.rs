//! The store on a server: PostgreSQL, for services of several processes.
//!
//! # Problem
//! Replicas of a service share its events; each must see what the others committed, and none may undo it, whichever of them
//! is killed, stopped or cut off.
//!
//! # Pattern
//! The same port on a database server, which orders what processes do by locks that end with their transactions.
//!
//! # Here
//! [`Postgres`] hands commits through a bounded queue to `postgres_writer.rs`, which has one connection; positions that it does not
//! give are given after the commit by `postgres_sequencer.rs`; reads, timers and leases go over the connections of
//! `postgres_readers.rs`, small reads together (`postgres_questions.rs`), timers when `postgres_agenda.rs` says so.
//! `postgres_schema.rs` makes and opens the database.
//!
//! # Limits
//! [`CONNECTIONS`] for each process. Time is the server's, for the clocks of replicas differ; where the server is replaced by
//! one with another clock, timers are late or early by the difference; and one that was not a synchronous standby lacks commits
//! that were answered. A full queue answers `Unavailable` at once.
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clock::{Clock, Ids, SystemClock, Timestamp};
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::postgres_agenda::Agenda;
use crate::postgres_questions::{Beginning, Counter, Mark, ReplyOf, SHORT, VersionOf};
use crate::postgres_readers::Readers;
use crate::postgres_schema::Address;
pub use crate::postgres_schema::{OpenError, Refusal};
use crate::postgres_sequencer::{Appended, Sequencer, listen};
use crate::postgres_writer::{Job, Writer, now};
use crate::{
    Commit, CommitError, CommitId, Meta, NewEvent, Position, ReadError, Recorded, Snapshot, Store, StreamId, Version,
    Versions,
};

/// How many connections a process has to the database of one store: those that read, the writer, the sequencer and the listener.
pub const CONNECTIONS: usize = 7;
const _: () = assert!(CONNECTIONS == crate::postgres_readers::READERS + 3);
/// Most commits that wait for the writer.
const QUEUE: usize = 1024;
/// Longest lease, so that no sum runs over: some thirty thousand years.
const MAX_LEASE: i64 = 1 << 60;

/// A store in a database of its own.
///
/// Dropping it revokes no commit that was taken; what is not through by then goes on as long as the runtime does.
pub struct Postgres {
    name: String,
    readers: Arc<Readers>,
    beginnings: Counter<Beginning>,
    versions: Counter<VersionOf>,
    replies: Counter<ReplyOf>,
    marks: Counter<Mark>,
    clock: Option<Arc<dyn Clock>>,
    queue: mpsc::Sender<Job>,
    growth: watch::Sender<()>,
    agenda: Arc<Agenda>,
    /// They end with the store.
    _tasks: JoinSet<()>,
}

impl Postgres {
    /// Opens the store in the database at `url` (`postgres://USER:PASSWORD@HOST:PORT/DATABASE`); an empty database is made
    /// one, and an older one brought up to date. Without a `clock` time is the server's.
    ///
    /// # Errors
    /// If the database cannot be reached, or is not a store that this program knows: [`OpenError::passes`] tells them
    /// apart.
    pub async fn open(url: &str, clock: Option<Arc<dyn Clock>>) -> Result<Postgres, OpenError> {
        let address = Address::parse(url)?;
        address.prepare().await?;
        let readers = Arc::new(Readers::new(address.clone()));
        let (growth, appended) = (watch::Sender::new(()), Arc::new(Appended::default()));
        let id = Ids::random(Arc::new(SystemClock)).next();
        let mut tasks = JoinSet::new();
        tasks.spawn(Sequencer::new(address.clone(), id, appended.clone(), growth.clone()).run());
        tasks.spawn(listen(address.clone(), id, growth.clone()));
        let beginnings = Counter::open(&readers, &mut tasks);
        let versions = Counter::open(&readers, &mut tasks);
        let replies = Counter::open(&readers, &mut tasks);
        let marks = Counter::open(&readers, &mut tasks);
        let (queue, jobs) = mpsc::channel(QUEUE);
        let name = address.name.clone();
        let agenda = Arc::new(Agenda::default());
        start(Writer::new(address, clock.clone(), appended, agenda.clone()), jobs);
        Ok(Postgres {
            name,
            readers,
            beginnings,
            versions,
            replies,
            marks,
            clock,
            queue,
            growth,
            agenda,
            _tasks: tasks,
        })
    }

    fn now(&self) -> Option<i64> {
        self.clock.as_ref().map(|clock| clock.now().0)
    }

    async fn read<T>(
        &self,
        query: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, ReadError> {
        self.readers.read(query).await.map_err(|why| self.readers.sentence(&why))
    }
}

/// Carries out what is queued until the queue's other end is dropped, and then what is left.
#[expect(clippy::disallowed_methods, reason = "it outlives the store by what is queued, and ends by itself")]
fn start(writer: Writer, jobs: mpsc::Receiver<Job>) {
    tokio::spawn(writer.run(jobs));
}

const LOAD: &str =
    "SELECT position, version, timestamp, id, type, schema, data::text, correlation_id, causation_id, actor,
    traceparent FROM events WHERE stream = (SELECT key FROM streams WHERE name = $1) AND version > $2
    ORDER BY version LIMIT $3";
const READ_ALL: &str =
    "SELECT position, events.version, events.timestamp, id, type, schema, data::text, correlation_id, causation_id, actor,
    traceparent, name FROM events JOIN streams ON key = stream WHERE position > $1 ORDER BY position LIMIT $2";
const END: &str = "SELECT coalesce(max(position), 0) FROM events";
// Heads of version 0 were only ever asked for. Danger: with "$3 IS NULL OR" the end would be a filter to a plan that is made once, and
// all that stands behind it be read.
const NAMES: &str = "SELECT name FROM streams
    WHERE version > 0 AND name >= $1 AND name > $2 AND name < $3 ORDER BY name LIMIT $4";
const ALL_NAMES: &str =
    "SELECT name FROM streams WHERE version > 0 AND name >= $1 AND name > $2 ORDER BY name LIMIT $3";
// The time does not change within a statement: otherwise the index on it would be read to its end.
const CLAIM: &str = concat!(
    "WITH
    due AS (
        SELECT key, due FROM timers WHERE due <= ",
    now!("statement_timestamp()"),
    " ORDER BY due, key LIMIT $3 FOR UPDATE SKIP LOCKED),
    claimed AS (
        UPDATE timers SET due = ",
    now!("statement_timestamp()"),
    " + $2 FROM due WHERE timers.key = due.key RETURNING due.due, due.key)
    SELECT due, key, NULL FROM claimed UNION ALL SELECT (SELECT min(due) FROM timers WHERE due > ",
    now!("statement_timestamp()"),
    "), NULL, ",
    now!("statement_timestamp()")
);
const LEASE: &str = concat!(
    "INSERT INTO leases VALUES ($4, $3, ",
    now!("statement_timestamp()"),
    " + $2) ON CONFLICT (name)
    DO UPDATE SET holder = excluded.holder, until = excluded.until
    WHERE leases.holder = excluded.holder OR leases.until <= excluded.until - $2"
);
const ARMED: &str = "SELECT count(*) FROM timers";
const TIMERS: &str = "SELECT key, due FROM timers WHERE key > $1 ORDER BY key LIMIT $2";
const SNAPSHOT: &str = "SELECT version, schema, data FROM snapshots
    WHERE stream = (SELECT key FROM streams WHERE name = $1)";
const KEEP: &str =
    "INSERT INTO snapshots SELECT key, $2, $3, $4 FROM streams WHERE name = $1 AND $2 BETWEEN 1 AND version
    ON CONFLICT (stream) DO UPDATE SET version = excluded.version, schema = excluded.schema, data = excluded.data
    WHERE excluded.version >= snapshots.version";

pub(crate) fn recorded(row: &PgRow, stream: StreamId) -> Result<Recorded, sqlx::Error> {
    Ok(Recorded {
        position: row.try_get::<Option<i64>, _>(0)?.map(|position| position as Position),
        stream,
        version: row.try_get::<i64, _>(1)? as Version,
        timestamp: Timestamp(row.try_get(2)?),
        event: NewEvent { id: row.try_get(3)?, kind: row.try_get(4)?, schema: narrow(row, 5)?, data: row.try_get(6)? },
        meta: Meta {
            correlation_id: row.try_get(7)?,
            causation_id: row.try_get(8)?,
            actor: row.try_get(9)?,
            traceparent: row.try_get(10)?,
        },
    })
}

/// The server has no unsigned integers; nobody but us writes what does not fit.
fn narrow(row: &PgRow, column: usize) -> Result<u16, sqlx::Error> {
    u16::try_from(row.try_get::<i32, _>(column)?).map_err(|why| sqlx::Error::Decode(why.into()))
}

/// The server's integers end where ours go on; no version, position or number of rows gets there.
pub(crate) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn microseconds(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(MAX_LEASE).min(MAX_LEASE)
}

/// The first text, in byte order, behind all that start with `prefix`; absent if there is none.
fn behind(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // Stepping over the code points that are no characters.
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[async_trait]
impl Store for Postgres {
    async fn load(&self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        let mut events = self.beginnings.ask(Beginning { stream: stream.clone(), after, limit }).await?;
        if events.len() < limit.min(SHORT) || limit <= SHORT {
            return Ok(events);
        }
        let (after, limit) = (events.last().map_or(after, |last| last.version), limit - events.len());
        let load = sqlx::query(LOAD).bind(&*stream.0).bind(integer(after)).bind(integer(limit as u64));
        let rest = async |db: &mut PgConnection| {
            load.fetch_all(db).await?.iter().map(|row| recorded(row, stream.clone())).collect::<Result<Vec<_>, _>>()
        };
        events.extend(self.read(rest).await?);
        Ok(events)
    }

    async fn version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        self.versions.ask(VersionOf(stream.clone())).await
    }

    async fn streams(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<StreamId>, ReadError> {
        let names = match behind(prefix) {
            Some(end) => sqlx::query_scalar::<_, String>(NAMES).bind(prefix).bind(after).bind(end),
            // Nothing can stand behind all that start with it.
            None => sqlx::query_scalar(ALL_NAMES).bind(prefix).bind(after),
        };
        let names = names.bind(integer(limit as u64));
        let names = self.read(async |db| names.fetch_all(db).await).await?;
        Ok(names.into_iter().map(StreamId::from).collect())
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Versions, CommitError>> {
        if let Err(why) = commit.check() {
            return future::ready(Err(CommitError::Malformed(why))).boxed();
        }
        let (answer, answered) = oneshot::channel();
        let unavailable = |why: &str| CommitError::Unavailable(format!("{}: {why}", self.name));
        match self.queue.try_send(Job { commit, answer }) {
            Ok(()) => {
                let died = unavailable("its writer stopped before it answered");
                answered.map(|answer| answer.unwrap_or(Err(died))).boxed()
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                future::ready(Err(unavailable("too many commits are waiting"))).boxed()
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                future::ready(Err(unavailable("its writer has stopped"))).boxed()
            }
        }
    }

    async fn reply(&self, id: &CommitId) -> Result<Option<Vec<u8>>, ReadError> {
        self.replies.ask(ReplyOf(id.clone())).await
    }

    async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        let read = sqlx::query(READ_ALL).bind(integer(after)).bind(integer(limit as u64));
        let rows = async |db: &mut PgConnection| {
            let rows = read.fetch_all(db).await?;
            rows.iter().map(|row| recorded(row, row.try_get::<&str, _>(11)?.into())).collect()
        };
        self.read(rows).await
    }

    async fn end(&self) -> Result<Position, ReadError> {
        let end = async |db: &mut PgConnection| sqlx::query_scalar::<_, i64>(END).fetch_one(db).await;
        Ok(self.read(end).await? as Position)
    }

    async fn claim_due(&self, lease: Duration, limit: usize) -> Result<Vec<String>, ReadError> {
        let Some(set) = self.agenda.is_time(self.now().map(Timestamp)) else { return Ok(vec![]) };
        let claim = sqlx::query_as::<_, (Option<i64>, Option<String>, Option<i64>)>(CLAIM);
        let claim = claim.bind(self.now()).bind(microseconds(lease)).bind(integer(limit as u64));
        let (mut claimed, mut seen) = (vec![], None);
        for (due, key, now) in self.read(async |db| claim.fetch_all(db).await).await? {
            match (key, now) {
                (Some(key), _) => claimed.push((due, key)),
                (None, now) => seen = now.map(|now| (Timestamp(now), due.map(Timestamp))),
            }
        }
        // Where as many were found as there may be, there may be more.
        if let Some((now, next)) = seen.filter(|_| claimed.len() < limit) {
            let again = (!claimed.is_empty()).then(|| now.after(lease));
            self.agenda.looked(set, now, next.into_iter().chain(again).min());
        }
        // They come in the order in which they were re-armed.
        claimed.sort_unstable();
        Ok(claimed.into_iter().map(|(_, key)| key).collect())
    }

    async fn lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<bool, ReadError> {
        let take = sqlx::query(LEASE).bind(self.now()).bind(microseconds(length)).bind(holder).bind(name);
        Ok(self.read(async |db| take.execute(db).await).await?.rows_affected() > 0)
    }

    async fn armed(&self) -> Result<u64, ReadError> {
        Ok(self.read(async |db| sqlx::query_scalar::<_, i64>(ARMED).fetch_one(db).await).await? as u64)
    }

    async fn timers(&self, after: &str, limit: usize) -> Result<Vec<(String, Timestamp)>, ReadError> {
        let timers = sqlx::query_as::<_, (String, i64)>(TIMERS).bind(after).bind(integer(limit as u64));
        let timers = self.read(async |db| timers.fetch_all(db).await).await?;
        Ok(timers.into_iter().map(|(key, due)| (key, Timestamp(due))).collect())
    }

    fn growth(&self) -> watch::Receiver<()> {
        self.growth.subscribe()
    }

    async fn mark(&self, name: &str) -> Result<u64, ReadError> {
        self.marks.ask(Mark(name.to_owned())).await
    }

    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, ReadError> {
        let found = async |db: &mut PgConnection| {
            let row = sqlx::query(SNAPSHOT).bind(&*stream.0).fetch_optional(db).await?;
            let snapshot = |row: &PgRow| {
                let version = row.try_get::<i64, _>(0)? as Version;
                Ok(Snapshot { version, schema: narrow(row, 1)?, data: row.try_get(2)? })
            };
            row.as_ref().map(snapshot).transpose()
        };
        self.read(found).await
    }

    async fn keep_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<(), ReadError> {
        let Snapshot { version, schema, data } = snapshot;
        let keep = sqlx::query(KEEP).bind(&*stream.0).bind(integer(version)).bind(i32::from(schema)).bind(data);
        self.read(async |db| keep.execute(db).await).await.map(drop)
    }

    async fn drop_snapshots(&self) -> Result<(), ReadError> {
        self.read(async |db| sqlx::query("DELETE FROM snapshots").execute(db).await).await.map(drop)
    }
}

#[cfg(test)]
#[path = "postgres_fault_tests.rs"]
mod fault_tests;
#[cfg(test)]
#[path = "postgres_proxy.rs"]
mod proxy;
#[cfg(test)]
#[path = "postgres_server.rs"]
pub(crate) mod server;
#[cfg(test)]
#[path = "postgres_tests.rs"]
mod tests;
