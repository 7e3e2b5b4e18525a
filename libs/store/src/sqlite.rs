//! The store's embedded form: one SQLite file, durable with every answer.
//!
//! # Problem
//! A service that needs a database server before it starts is not tried out on a laptop; a file that is written to without
//! care loses its last commits with the power, or all of them with a wrong restart.
//!
//! # Pattern
//! An embedded database behind the same port: one writer, many readers, a write-ahead log between them.
//!
//! # Here
//! [`Sqlite`] hands every change to the thread of `sqlite_writer.rs` through a bounded queue, which is also the order of
//! the commits. Reads go to a few connections of their own, which see what was answered. `sqlite_file.rs` makes and opens
//! the file, `sqlite_checks.rs` refuses a bad one.
//!
//! # Limits
//! One process per file. A full queue answers `Unavailable` at once: the store sheds load rather than hide a wait.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use async_trait::async_trait;
use clock::{Clock, Timestamp};
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use uuid::Uuid;

use crate::file_watch::FileWatch;
use crate::leases::Leases;
pub use crate::sqlite_checks::Refusal;
use crate::sqlite_file;
pub use crate::sqlite_file::OpenError;
use crate::sqlite_guard::Guard;
use crate::sqlite_writer::{self, Answer, Done, Job, Work, Writer};
use crate::{
    Commit, CommitError, CommitId, Meta, NewEvent, Position, ReadError, Recorded, Snapshot, Store, StreamId, Version,
    Versions,
};

/// Most jobs that wait for the writer.
const QUEUE: usize = 1024;
/// Most reads at a time.
const READERS: usize = 4;

/// A store in one SQLite file.
///
/// Dropping it carries out what is queued, writes the log back and closes the file, so that it can be opened again at once.
/// That blocks for as long as it takes, at most a few batches.
pub struct Sqlite {
    file: PathBuf,
    watch: FileWatch,
    clock: Arc<dyn Clock>,
    /// Danger: the writer ends when this is dropped; it is only absent while the store is.
    queue: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    idle: Mutex<Vec<Connection>>,
    free: Semaphore,
    /// In memory: whoever could have another's lease has the file to itself.
    leases: Leases,
    growth: watch::Sender<()>,
}

impl Sqlite {
    /// Makes an empty store in `file`, which must not exist; its folder must.
    ///
    /// # Errors
    /// If the file exists, or its log without it does, or it cannot be written.
    pub fn create(file: &Path, clock: Arc<dyn Clock>) -> Result<Sqlite, OpenError> {
        Sqlite::create_watched(file, clock, FileWatch::default())
    }

    /// The same, for a file that is one of several: see [`Sqlite::open_watched`].
    ///
    /// # Errors
    /// As for [`Sqlite::create`].
    pub fn create_watched(file: &Path, clock: Arc<dyn Clock>, watch: FileWatch) -> Result<Sqlite, OpenError> {
        sqlite_file::create(file, &sqlite_file::STORE)?;
        Sqlite::open_watched(file, clock, watch)
    }

    /// Opens the store in `file`, which must exist. It takes up what a crash left behind, and the same time for every size.
    ///
    /// The caller keeps other processes from the file, and opens it at most once.
    ///
    /// # Errors
    /// If the file is missing, not a store, or not a whole one; [`Refusal`] lists them. The file stays as it is.
    pub fn open(file: &Path, clock: Arc<dyn Clock>) -> Result<Sqlite, OpenError> {
        Sqlite::open_watched(file, clock, FileWatch::default())
    }

    /// The same, for a file that is one of several: while one of them is lost, nothing is written to any.
    ///
    /// # Errors
    /// As for [`Sqlite::open`].
    pub fn open_watched(file: &Path, clock: Arc<dyn Clock>, watch: FileWatch) -> Result<Sqlite, OpenError> {
        let growth = watch::Sender::new(());
        let db = sqlite_file::open(file, &sqlite_file::STORE)?;
        let guard =
            Guard::new(file, watch.clone()).map_err(|error| OpenError { file: file.into(), reason: error.into() })?;
        let writer = Writer::new(guard, clock.clone(), db, growth.clone());
        let (queue, jobs) = mpsc::channel(QUEUE);
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let thread = Builder::new().name(format!("writer of {name}")).spawn(move || writer.run(jobs));
        let thread = thread.map_err(|error| OpenError { file: file.into(), reason: error.into() })?;
        let (idle, free, leases) = (Mutex::default(), Semaphore::new(READERS), Leases::default());
        let (queue, writer) = (Some(queue), Some(thread));
        Ok(Sqlite { file: file.into(), watch, clock, queue, writer, idle, free, leases, growth })
    }

    /// Takes a place in the queue before it returns.
    fn enqueue(&self, work: Work) -> BoxFuture<'static, Answer> {
        let (answer, answered) = oneshot::channel();
        let queued = match &self.queue {
            Some(queue) => queue.try_send(Job { work, answer }).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => "too many commits are waiting",
                mpsc::error::TrySendError::Closed(_) => "its writer has stopped",
            }),
            None => Err("it is closed"),
        };
        let file = self.file.display();
        match queued {
            Err(why) => future::ready(Err(CommitError::Unavailable(format!("{file}: {why}")))).boxed(),
            Ok(()) => {
                let died = CommitError::Unavailable(format!("{file}: its writer stopped before it answered"));
                answered.map(|answer| answer.unwrap_or(Err(died))).boxed()
            }
        }
    }

    async fn write(&self, work: Work) -> Result<Done, ReadError> {
        self.enqueue(work).await.map_err(|error| match error {
            CommitError::Unavailable(why) => ReadError::Unavailable(why),
            other => ReadError::Unavailable(other.to_string()),
        })
    }

    /// Reads on a connection of its own.
    ///
    /// It runs on the calling task: a read by an index on cached pages takes tens of microseconds, about what handing it to
    /// another thread and back would. A long one is as long as its caller's `limit` makes it.
    async fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, ReadError> {
        let _free = self.free.acquire().await.map_err(|error| ReadError::Unavailable(error.to_string()))?;
        let attempt = || {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let db = idle.map_or_else(|| sqlite_file::reader(&self.file, &self.watch), Ok)?;
            let answer = query(&db);
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(db);
            answer
        };
        attempt().map_err(|error: rusqlite::Error| {
            let sentence = sqlite_file::sentence(&self.file, &error);
            match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ReadError::Corrupt(sentence),
                _ => ReadError::Unavailable(sentence),
            }
        })
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        // Danger: readers first. Only the last connection to close can remove the log, and theirs may not write.
        self.idle.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        self.queue = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(file = %self.file.display(), "the writer had died");
        }
    }
}

const LOAD: &str = "SELECT position, version, timestamp, id, type, schema, data, correlation_id, causation_id, actor,
    traceparent FROM events WHERE stream = (SELECT key FROM streams WHERE name = ?1) AND version > ?2
    ORDER BY version LIMIT ?3";
const READ_ALL: &str =
    "SELECT position, version, timestamp, id, type, schema, data, correlation_id, causation_id, actor,
    traceparent, name FROM events JOIN streams ON key = stream WHERE position > ?1 ORDER BY position LIMIT ?2";
const END: &str = "SELECT ifnull(max(position), 0) FROM events";
const VERSION: &str = "SELECT max(version) FROM events WHERE stream = (SELECT key FROM streams WHERE name = ?1)";
const NAMES: &str = "SELECT name FROM streams WHERE name >= ?1 AND name > ?2 ORDER BY name LIMIT ?3";
const SNAPSHOT: &str = "SELECT version, schema, data FROM snapshots
    WHERE stream = (SELECT key FROM streams WHERE name = ?1)";

fn recorded(row: &Row<'_>, stream: StreamId) -> rusqlite::Result<Recorded> {
    Ok(Recorded {
        position: Some(row.get::<_, i64>(0)? as Position),
        stream,
        version: row.get::<_, i64>(1)? as Version,
        timestamp: Timestamp(row.get(2)?),
        event: NewEvent {
            id: Uuid::from_bytes(row.get(3)?),
            kind: row.get(4)?,
            schema: row.get(5)?,
            data: row.get(6)?,
        },
        meta: Meta {
            correlation_id: row.get(7)?,
            causation_id: row.get(8)?,
            actor: row.get(9)?,
            traceparent: row.get(10)?,
        },
    })
}

/// SQLite's integers end where ours go on; no version, position or number of rows gets there.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[async_trait]
impl Store for Sqlite {
    async fn load(&self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.read(|db| {
            let mut load = db.prepare_cached(LOAD)?;
            let values = params![stream.0, integer(after), integer(limit as u64)];
            load.query_map(values, |row| recorded(row, stream.clone()))?.collect()
        })
        .await
    }

    async fn version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        self.read(|db| db.prepare_cached(VERSION)?.query_row([&stream.0], |row| row.get::<_, Option<i64>>(0)))
            .await
            .map(|version| version.unwrap_or(0) as Version)
    }

    async fn streams(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<StreamId>, ReadError> {
        self.read(|db| {
            let mut names = db.prepare_cached(NAMES)?;
            let mut rows = names.query(params![prefix, after, integer(limit as u64)])?;
            let mut streams = Vec::new();
            // Names that start with the prefix are neighbours: the first other one is behind them all.
            while let Some(row) = rows.next()?
                && let name = row.get_ref(0)?.as_str()?
                && name.starts_with(prefix)
            {
                streams.push(name.into());
            }
            Ok(streams)
        })
        .await
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Versions, CommitError>> {
        if let Err(why) = commit.check() {
            return future::ready(Err(CommitError::Malformed(why))).boxed();
        }
        let answer = self.enqueue(Work::Commit(commit));
        answer
            .map(|answer| answer.map(|done| if let Done::Versions(versions) = done { versions } else { Vec::new() }))
            .boxed()
    }

    async fn reply(&self, id: &CommitId) -> Result<Option<Vec<u8>>, ReadError> {
        self.read(|db| sqlite_writer::reply(db, &id.0)).await
    }

    async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.read(|db| {
            let mut read = db.prepare_cached(READ_ALL)?;
            let values = [integer(after), integer(limit as u64)];
            read.query_map(values, |row| recorded(row, row.get_ref(11)?.as_str()?.into()))?.collect()
        })
        .await
    }

    async fn end(&self) -> Result<Position, ReadError> {
        self.read(|db| db.prepare_cached(END)?.query_row([], |row| row.get::<_, i64>(0)))
            .await
            .map(|end| end as Position)
    }

    async fn claim_due(&self, lease: Duration, limit: usize) -> Result<Vec<String>, ReadError> {
        // Most claims find nothing: those cost a look, and no place in the queue.
        let now = self.clock.now().0;
        let due =
            self.read(|db| db.prepare_cached("SELECT 1 FROM timers WHERE due <= ?1 LIMIT 1")?.exists([now])).await?;
        if !due {
            return Ok(Vec::new());
        }
        let done = self.write(Work::Claim { lease, limit }).await?;
        Ok(if let Done::Keys(keys) = done { keys } else { Vec::new() })
    }

    async fn lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<bool, ReadError> {
        Ok(self.leases.take(name, holder, self.clock.now(), length))
    }

    async fn armed(&self) -> Result<u64, ReadError> {
        // As many as there are open sagas or intents: some thousands at most.
        let count = |db: &Connection| {
            db.prepare_cached("SELECT count(*) FROM timers")?.query_row([], |row| row.get::<_, i64>(0))
        };
        self.read(count).await.map(|count| count as u64)
    }

    async fn timers(&self, after: &str, limit: usize) -> Result<Vec<(String, Timestamp)>, ReadError> {
        self.read(|db| {
            let mut timers = db.prepare_cached("SELECT key, due FROM timers WHERE key > ?1 ORDER BY key LIMIT ?2")?;
            let values = params![after, integer(limit as u64)];
            timers.query_map(values, |row| Ok((row.get(0)?, Timestamp(row.get(1)?))))?.collect()
        })
        .await
    }

    fn growth(&self) -> watch::Receiver<()> {
        self.growth.subscribe()
    }

    async fn mark(&self, name: &str) -> Result<u64, ReadError> {
        self.read(|db| sqlite_writer::mark(db, name)).await
    }

    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, ReadError> {
        self.read(|db| {
            let snapshot = |row: &Row<'_>| {
                Ok(Snapshot { version: row.get::<_, i64>(0)? as Version, schema: row.get(1)?, data: row.get(2)? })
            };
            db.prepare_cached(SNAPSHOT)?.query_row([&stream.0], snapshot).optional()
        })
        .await
    }

    async fn keep_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<(), ReadError> {
        self.write(Work::KeepSnapshot(stream.clone(), snapshot)).await.map(drop)
    }

    async fn drop_snapshots(&self) -> Result<(), ReadError> {
        self.write(Work::DropSnapshots).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{HandClock, START, Subject, hold_the_contract};
    use crate::{Expected, MarkMove, TimerChange};

    async fn make() -> Subject {
        let (clock, folder) = (HandClock::new(), tempfile::tempdir().unwrap());
        let store = Sqlite::create(&folder.path().join("store.db"), clock.clone()).unwrap();
        Subject::new(Arc::new(store), clock, folder)
    }
    hold_the_contract!(make);

    #[tokio::test]
    async fn reopening_gives_everything_back() {
        let (clock, folder) = (HandClock::new(), tempfile::tempdir().unwrap());
        let file = folder.path().join("store.db");
        let subject = Subject::new(Arc::new(Sqlite::create(&file, clock.clone()).unwrap()), clock.clone(), ());
        clock.set(START.after(Duration::from_secs(60)));
        let timer = TimerChange::Set { key: "timer".into(), due: START };
        let mark = MarkMove { name: "mark".into(), from: 0, to: 7 };
        let commit = Commit { timers: vec![timer], marks: vec![mark], ..subject.step("a", "s", Expected::NoStream, 3) };
        subject.store.commit(commit).await.unwrap();
        // Still in the queue when the store is dropped: carried out all the same.
        let waiting = (0..300).map(|n| subject.store.commit(subject.step(&n.to_string(), "t", Expected::Exact(n), 1)));
        let waiting: Vec<_> = waiting.collect();
        let snapshot = Snapshot { version: 2, schema: 1, data: "{}".into() };
        subject.store.keep_snapshot(&"s".into(), snapshot.clone()).await.unwrap();
        let log = subject.log(303).await;
        drop(subject);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "one file is left, without a log");

        clock.set(START);
        let subject = Subject::new(Arc::new(Sqlite::open(&file, clock.clone()).unwrap()), clock.clone(), ());
        assert_eq!(subject.log(303).await, log);
        assert_eq!(futures::future::join_all(waiting).await.last(), Some(&Ok(vec![300])));
        assert_eq!(subject.reply("a").await, Some("a".into()));
        assert_eq!(subject.store.mark("mark").await, Ok(7));
        assert_eq!(subject.store.snapshot(&"s".into()).await, Ok(Some(snapshot)));
        assert_eq!(subject.due_after(Duration::ZERO).await, ["timer"]);
        // It goes on where it was: versions, positions and recorded time.
        assert_eq!(subject.store.commit(subject.step("b", "s", Expected::Exact(3), 1)).await, Ok(vec![4]));
        let last = subject.log(304).await.pop().unwrap();
        assert_eq!((last.position, last.timestamp), (Some(304), log[302].timestamp));
    }

    /// A clock that makes whoever asks wait until the gate is open.
    struct Gate(Mutex<()>);
    impl Clock for Gate {
        fn now(&self) -> Timestamp {
            let _open = self.0.lock().unwrap();
            START
        }
    }

    #[tokio::test]
    async fn a_full_queue_is_unavailable_at_once_and_takes_nothing() {
        let (gate, folder) = (Arc::new(Gate(Mutex::new(()))), tempfile::tempdir().unwrap());
        let store = Arc::new(Sqlite::create(&folder.path().join("store.db"), gate.clone()).unwrap());
        let subject = Subject::new(store, HandClock::new(), folder);
        let closed = gate.0.lock().unwrap();
        let mut waiting = Vec::new();
        let refused = loop {
            let n = waiting.len() as u64;
            assert!(n <= (QUEUE + 2 * 256) as u64, "the queue has an end");
            let mut answer = subject.store.commit(subject.step(&n.to_string(), "s", Expected::Exact(n), 1));
            match (&mut answer).now_or_never() {
                Some(answer) => break answer,
                None => waiting.push(answer),
            }
        };
        let Err(CommitError::Unavailable(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("too many commits are waiting"), "{why}");
        let snapshot = Snapshot { version: 1, schema: 1, data: "{}".into() };
        let refused = subject.store.keep_snapshot(&"s".into(), snapshot).now_or_never();
        assert!(matches!(refused, Some(Err(ReadError::Unavailable(_)))));
        drop(closed);
        let last = waiting.len() as u64;
        assert!(last >= QUEUE as u64);
        assert!(futures::future::join_all(waiting).await.iter().all(Result::is_ok));
        assert_eq!((subject.version("s").await, subject.reply(&last.to_string()).await), (last, None));
    }

    #[tokio::test]
    async fn more_reads_than_connections_all_get_their_turn() {
        let subject = make().await;
        subject.store.commit(subject.step("a", "s", Expected::Any, 5)).await.unwrap();
        let reads = futures::future::join_all((0..100).map(|_| subject.stream("s"))).await;
        assert!(reads.iter().all(|events| events.len() == 5));
    }
}
