//! The embedded bus: one SQLite file, durable with every answer.
//!
//! # Problem
//! A shop on a laptop should not need a broker, and still lose no message when it is killed.
//!
//! # Pattern
//! An embedded log behind the same port: one writer, a reader beside it, and who listens in memory.
//!
//! # Here
//! Every change goes through a bounded queue to the thread of `sqlite_writer.rs`. `ledger.rs` knows the ends of the
//! partitions, so that a member looks into the file only when there is something for it, and is woken by what is written.
//! An acknowledgement is answered when it is queued: if a crash forgets it, messages come again.
//!
//! # Limits
//! One process per file. One read at a time. A full queue answers `Unavailable` at once. A batch is as large in memory as
//! its caller's limit makes it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use async_trait::async_trait;
use rusqlite::{Connection, Row, params};
use store::file_watch::FileWatch;
use store::sqlite::OpenError;
use store::sqlite_file;
use store::sqlite_guard::Guard;
use tokio::sync::{mpsc, oneshot};

use crate::ledger::{Ledger, Member, Place, Range};
use crate::sqlite_file::BUS;
use crate::sqlite_writer::{self, Job, Work, Writer};
use crate::{Bus, BusError, Delivered, Message, Offset, Partition, Subscription};

/// Most jobs that wait for the writer.
const QUEUE: usize = 1024;

/// A bus in one SQLite file.
///
/// Dropping it carries out what is queued and closes the file, so that it can be opened again at once. Subscriptions that
/// are left answer `Unavailable` from then on.
pub struct Sqlite {
    open: Arc<Open>,
    writer: Option<JoinHandle<()>>,
}

/// What the bus shares with its subscriptions.
struct Open {
    file: PathBuf,
    ledger: Arc<Mutex<Ledger>>,
    /// Danger: the writer ends when this is dropped, so it is never held across an await. Absent when closed.
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    /// Absent when closed.
    reader: Mutex<Option<Connection>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sqlite {
    /// Makes an empty bus in `file`, which must not exist; its folder must.
    ///
    /// # Errors
    /// If the file exists, or its log without it does, or it cannot be written.
    pub fn create(file: &Path) -> Result<Sqlite, OpenError> {
        Sqlite::create_watched(file, FileWatch::default())
    }

    /// The same, for a file that is one of several: see [`Sqlite::open_watched`].
    ///
    /// # Errors
    /// As for [`Sqlite::create`].
    pub fn create_watched(file: &Path, watch: FileWatch) -> Result<Sqlite, OpenError> {
        sqlite_file::create(file, &BUS)?;
        Sqlite::open_watched(file, watch)
    }

    /// Opens the bus in `file`, which must exist. It takes up what a crash left behind.
    ///
    /// The caller keeps other processes from the file, and opens it at most once.
    ///
    /// # Errors
    /// If the file is missing, not a bus, or not a whole one. It stays as it is.
    pub fn open(file: &Path) -> Result<Sqlite, OpenError> {
        Sqlite::open_watched(file, FileWatch::default())
    }

    /// The same, for a file that is one of several: while one of them is lost, nothing is written to any.
    ///
    /// # Errors
    /// As for [`Sqlite::open`].
    pub fn open_watched(file: &Path, watch: FileWatch) -> Result<Sqlite, OpenError> {
        let db = sqlite_file::open(file, &BUS)?;
        let refused = |error: rusqlite::Error| OpenError { file: file.into(), reason: error.into() };
        let topics = sqlite_writer::topics(&db).map_err(refused)?;
        let mut ledger = Ledger::default();
        for (name, topic) in &topics {
            ledger.reached(name, topic.ends.clone());
        }
        for (group, place, next) in sqlite_writer::acknowledged(&db).map_err(refused)? {
            ledger.acknowledged(&group, &place, next);
        }
        let ledger = Arc::new(Mutex::new(ledger));
        let reader = Mutex::new(Some(sqlite_file::reader(file, &watch).map_err(refused)?));
        let guard = Guard::new(file, watch).map_err(|error| OpenError { file: file.into(), reason: error.into() })?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let writer = Writer { guard, db, ledger: ledger.clone(), topics };
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let thread = Builder::new().name(format!("writer of {name}")).spawn(move || writer.run(jobs));
        let thread = thread.map_err(|error| OpenError { file: file.into(), reason: error.into() })?;
        let open = Open { file: file.into(), ledger, queue: Mutex::new(Some(queue)), reader };
        Ok(Sqlite { open: Arc::new(open), writer: Some(thread) })
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        // Danger: the reader first. Only the last connection to close can remove the log, and it may not write.
        *lock(&self.open.reader) = None;
        *lock(&self.open.queue) = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(file = %self.open.file.display(), "the writer had died");
        }
        lock(&self.open.ledger).wake();
    }
}

const READ: &str = "SELECT offset, key, headers, payload FROM messages WHERE topic = (SELECT key FROM topics
    WHERE name = ?1) AND partition = ?2 AND offset >= ?3 AND offset < ?4 ORDER BY offset";

impl Open {
    fn unavailable(&self, why: &str) -> BusError {
        BusError::Unavailable(format!("{}: {why}", self.file.display()))
    }

    async fn write(&self, work: Work) -> Result<(), BusError> {
        let answered = self.enqueue(work)?;
        answered.await.map_err(|_| self.unavailable("its writer stopped before it answered"))?
    }

    fn enqueue(&self, work: Work) -> Result<oneshot::Receiver<Result<(), BusError>>, BusError> {
        let (answer, answered) = oneshot::channel();
        let closed = || self.unavailable("it is closed");
        let queued = lock(&self.queue).as_ref().ok_or_else(closed)?.try_send(Job { work, answer });
        let full = |error| match error {
            mpsc::error::TrySendError::Full(_) => self.unavailable("too much is waiting to be written"),
            mpsc::error::TrySendError::Closed(_) => self.unavailable("its writer has stopped"),
        };
        queued.map(|()| answered).map_err(full)
    }

    /// The messages of the ranges. It runs on the calling task: a read by an index on cached pages is about as long as
    /// handing it to another thread would take.
    fn read(&self, ranges: &[Range]) -> Result<Vec<Delivered>, BusError> {
        let places = ranges.iter().map(|Range { place, from, until, .. }| (place, *from, *until));
        self.read_places(places)
    }

    fn read_places<'a>(
        &self,
        places: impl Iterator<Item = (&'a Place, Offset, Offset)>,
    ) -> Result<Vec<Delivered>, BusError> {
        let reader = lock(&self.reader);
        let db = reader.as_ref().ok_or_else(|| self.unavailable("it is closed"))?;
        let mut batch = Vec::new();
        for (place, from, until) in places {
            let messages = range(db, place, from, until);
            let messages = messages.map_err(|e| BusError::Unavailable(sqlite_file::sentence(&self.file, &e)))?;
            // Danger: what is skipped here would be acknowledged with the rest.
            if messages.len() as u64 != until - from {
                return Err(self.unavailable(&format!("messages of {place} after {from} are missing")));
            }
            batch.extend(messages);
        }
        Ok(batch)
    }
}

fn range(db: &Connection, place: &Place, from: Offset, until: Offset) -> rusqlite::Result<Vec<Delivered>> {
    let delivered = |row: &Row<'_>| {
        let headers = serde_json::from_str(row.get_ref(2)?.as_str()?);
        let headers =
            headers.map_err(|e| rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, e.into()))?;
        let message = Message { key: row.get(1)?, headers, payload: row.get(3)? };
        let Place { topic, partition } = place.clone();
        Ok(Delivered { topic, partition, offset: row.get::<_, i64>(0)? as Offset, message })
    };
    let values = params![place.topic, place.partition, from as i64, until as i64];
    db.prepare_cached(READ)?.query_map(values, delivered)?.collect()
}

#[async_trait]
impl Bus for Sqlite {
    async fn create(&self, topic: &str, partitions: Partition) -> Result<(), BusError> {
        if !lock(&self.open.ledger).lacks(topic, partitions)? {
            return Ok(());
        }
        self.open.write(Work::Create(topic.into(), partitions)).await
    }

    async fn publish(&self, topic: &str, messages: Vec<Message>) -> Result<(), BusError> {
        lock(&self.open.ledger).check(topic, &messages)?;
        self.open.write(Work::Publish(topic.into(), messages)).await
    }

    async fn subscribe(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Subscription>, BusError> {
        let member = lock(&self.open.ledger).join(group, topics)?;
        Ok(Box::new(Listening { bus: self.open.clone(), member }))
    }

    async fn latest(&self, topic: &str, most: Offset) -> Result<Vec<Delivered>, BusError> {
        let last = lock(&self.open.ledger).last(topic, most)?;
        self.open.read_places(last.iter().map(|(place, from, end)| (place, *from, *end)))
    }

    async fn lag(&self, group: &str, topic: &str) -> Result<u64, BusError> {
        lock(&self.open.ledger).lag(group, topic)
    }
}

struct Listening {
    bus: Arc<Open>,
    member: Member,
}

#[async_trait]
impl Subscription for Listening {
    async fn next(&mut self, limit: usize) -> Result<Vec<Delivered>, BusError> {
        loop {
            // Before looking: what comes after the look wakes the wait.
            self.member.changed.borrow_and_update();
            let ranges = lock(&self.bus.ledger).due(&self.member, limit);
            let batch = self.bus.read(&ranges)?;
            if limit == 0 || !batch.is_empty() {
                ranges.iter().for_each(|range| self.member.was_given(range));
                return Ok(batch);
            }
            self.member.changed.changed().await.map_err(|_| self.bus.unavailable("it is closed"))?;
        }
    }

    async fn acknowledge(&mut self, topic: &str, partition: Partition, offset: Offset) -> Result<(), BusError> {
        let (group, place) = (&self.member.group, Place { topic: topic.into(), partition });
        lock(&self.bus.ledger).may_acknowledge(&self.member, &place, offset)?;
        // Nobody waits for the disk: what is published next shares its fsync.
        drop(self.bus.enqueue(Work::Acknowledge(group.clone(), place.clone(), offset + 1))?);
        lock(&self.bus.ledger).acknowledged(group, &place, offset + 1);
        Ok(())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        lock(&self.bus.ledger).leave(&self.member);
    }
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
