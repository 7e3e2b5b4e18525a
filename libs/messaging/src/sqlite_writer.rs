//! The one thread that writes to the file of an embedded bus.
//!
//! # Problem
//! What was published must be on the disk, and a disk takes its time.
//!
//! # Pattern
//! Group commit: whatever waits in the queue becomes one transaction, and every answer is sent after its one fsync.
//!
//! # Here
//! Offsets are given in the same insert: with one writer nothing commits out of their order. Only after the commit does
//! the ledger learn of it, so nobody is given what a crash could take back.
//!
//! # Limits
//! A batch that fails is rolled back and tried again job by job; a job that fails alone is `Unavailable`.

use std::collections::BTreeMap;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, params};
use store::sqlite_guard::Guard;
use tokio::sync::{mpsc, oneshot};

use crate::ledger::{Ledger, Place};
use crate::{BusError, Message, Offset, Partition, partition_of};

/// Most jobs in one transaction.
const BATCH: usize = 256;

/// What the writer is asked for.
pub(crate) enum Work {
    Create(String, Partition),
    Publish(String, Vec<Message>),
    /// A group has dealt with everything before the offset.
    Acknowledge(String, Place, Offset),
}

pub(crate) struct Job {
    pub(crate) work: Work,
    pub(crate) answer: oneshot::Sender<Result<(), BusError>>,
}

/// A topic's key in the tables and the ends of its partitions.
#[derive(Clone)]
pub(crate) struct Topic {
    key: i64,
    pub(crate) ends: Vec<Offset>,
}

pub(crate) struct Writer {
    pub(crate) guard: Guard,
    pub(crate) db: Connection,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    /// As they are after the open transaction.
    pub(crate) topics: BTreeMap<String, Topic>,
}

const CREATE: &str = "INSERT INTO topics (name, partitions) VALUES (?1, ?2)";
const INSERT: &str =
    "INSERT INTO messages (topic, partition, offset, key, headers, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
const ACKNOWLEDGE: &str = "INSERT INTO acknowledged VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE
    SET next = max(next, excluded.next)";

/// The topics that a file holds.
pub(crate) fn topics(db: &Connection) -> rusqlite::Result<BTreeMap<String, Topic>> {
    let mut end = db.prepare("SELECT max(offset) + 1 FROM messages WHERE topic = ?1 AND partition = ?2")?;
    let mut all = db.prepare("SELECT name, key, partitions FROM topics")?;
    let mut rows = all.query([])?;
    let mut topics = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (key, partitions): (i64, Partition) = (row.get(1)?, row.get(2)?);
        let end = |partition| end.query_row(params![key, partition], |row| row.get::<_, Option<i64>>(0));
        let ends = (0..partitions).map(end).map(|end| Ok(end?.unwrap_or(0) as Offset));
        topics.insert(row.get(0)?, Topic { key, ends: ends.collect::<rusqlite::Result<_>>()? });
    }
    Ok(topics)
}

/// What the groups have acknowledged: group, place, and the offset after it.
pub(crate) fn acknowledged(db: &Connection) -> rusqlite::Result<Vec<(String, Place, Offset)>> {
    let all = "SELECT listener, name, partition, next FROM acknowledged JOIN topics ON topic = key";
    let mut all = db.prepare(all)?;
    let read = all.query_map([], |row| {
        let place = Place { topic: row.get(1)?, partition: row.get(2)? };
        Ok((row.get(0)?, place, row.get::<_, i64>(3)? as Offset))
    });
    read?.collect()
}

impl Writer {
    /// Works until the queue is closed and empty.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::with_capacity(BATCH);
        while queue.blocking_recv_many(&mut jobs, BATCH) > 0 {
            self.carry_out(&mut jobs);
        }
        if let Err(error) = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::warn!(file = %self.guard.file().display(), %error, "the log stays beside the file");
        }
    }

    /// Carries out the jobs in their order and answers each after its transaction.
    fn carry_out(&mut self, jobs: &mut Vec<Job>) {
        let kept = self.guard.before().map(|()| self.together_or_alone(jobs));
        // Danger: what was committed to a file that is gone is not to be answered as if it were kept.
        let kept = kept.and_then(|answers| self.guard.after().map(|()| answers));
        let lost = |why| jobs.iter().map(|_| Err(BusError::Unavailable(String::clone(&why)))).collect();
        let answers: Vec<_> = kept.unwrap_or_else(lost);
        for (job, answer) in jobs.drain(..).zip(answers) {
            // Nobody may be waiting: dropping the future revokes nothing.
            let _ = job.answer.send(answer);
        }
    }

    fn together_or_alone(&mut self, jobs: &[Job]) -> Vec<Result<(), BusError>> {
        let refused = |writer: &mut Writer, error| vec![Err(BusError::Unavailable(writer.guard.failed(&error)))];
        self.attempt(jobs).unwrap_or_else(|error| match jobs {
            [_] => refused(self, error),
            jobs => {
                let alone = |job| self.attempt(slice::from_ref(job)).unwrap_or_else(|error| refused(self, error));
                jobs.iter().flat_map(alone).collect()
            }
        })
    }

    /// One transaction over the jobs. If it fails, none of them has happened.
    fn attempt(&mut self, jobs: &[Job]) -> rusqlite::Result<Vec<Result<(), BusError>>> {
        let before = self.topics.clone();
        let answers = self.transaction(jobs);
        if answers.is_ok() {
            self.guard.succeeded();
            self.tell(jobs);
        } else {
            self.topics = before;
            if !self.db.is_autocommit()
                && let Err(error) = self.db.execute_batch("ROLLBACK")
            {
                self.guard.failed(&error);
            }
        }
        answers
    }

    fn transaction(&mut self, jobs: &[Job]) -> rusqlite::Result<Vec<Result<(), BusError>>> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let answers = jobs.iter().map(|job| self.apply(&job.work)).collect::<Result<Vec<_>, _>>()?;
        self.db.prepare_cached("COMMIT")?.execute([])?;
        Ok(answers)
    }

    fn apply(&mut self, work: &Work) -> rusqlite::Result<Result<(), BusError>> {
        match work {
            Work::Create(name, partitions) => return self.create(name, *partitions),
            Work::Publish(topic, messages) => {
                let Some(topic) = self.topics.get_mut(topic) else { return Ok(Err(unknown(topic))) };
                let mut insert = self.db.prepare_cached(INSERT)?;
                for Message { key, headers, payload } in messages {
                    let partition = partition_of(key, topic.ends.len() as Partition);
                    let end = &mut topic.ends[partition as usize];
                    let headers = serde_json::to_string(headers)
                        .map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
                    insert.execute(params![topic.key, partition, *end as i64, key, headers, payload])?;
                    *end += 1;
                }
            }
            Work::Acknowledge(group, place, next) => {
                let Some(topic) = self.topics.get(&place.topic) else { return Ok(Err(unknown(&place.topic))) };
                let values = params![group, topic.key, place.partition, *next as i64];
                self.db.prepare_cached(ACKNOWLEDGE)?.execute(values)?;
            }
        }
        Ok(Ok(()))
    }

    /// Danger: others may have made it while this one was waiting.
    fn create(&mut self, name: &str, partitions: Partition) -> rusqlite::Result<Result<(), BusError>> {
        if let Some(topic) = self.topics.get(name) {
            let ends = topic.ends.len();
            let other = || BusError::Malformed(format!("topic {name} has {ends} partitions, not {partitions}"));
            return Ok((ends == partitions as usize).then_some(()).ok_or_else(other));
        }
        self.db.prepare_cached(CREATE)?.execute(params![name, partitions])?;
        let topic = Topic { key: self.db.last_insert_rowid(), ends: vec![0; partitions as usize] };
        self.topics.insert(name.into(), topic);
        Ok(Ok(()))
    }

    /// Tells the ledger what is on the disk now.
    fn tell(&self, jobs: &[Job]) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        for job in jobs {
            match &job.work {
                // The ledger learned of it when it was queued.
                Work::Acknowledge(..) => {}
                Work::Create(name, _) | Work::Publish(name, _) => {
                    if let Some(topic) = self.topics.get(name) {
                        ledger.reached(name, topic.ends.clone());
                    }
                }
            }
        }
    }
}

fn unknown(topic: &str) -> BusError {
    BusError::Malformed(format!("topic {topic} does not exist"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::message;
    use crate::sqlite_file::BUS;

    /// A writer without its thread, so that a test decides what is in one batch.
    fn writer() -> (Writer, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bus.db");
        store::sqlite_file::create(&file, &BUS).unwrap();
        let db = store::sqlite_file::open(&file, &BUS).unwrap();
        let guard = Guard::new(&file, store::file_watch::FileWatch::default()).unwrap();
        (Writer { guard, db, ledger: Arc::default(), topics: BTreeMap::new() }, folder)
    }

    fn answers(writer: &mut Writer, works: Vec<Work>) -> Vec<Result<(), BusError>> {
        let queue = |work| {
            let (answer, answered) = oneshot::channel();
            (Job { work, answer }, answered)
        };
        let (mut jobs, answered): (Vec<_>, Vec<_>) = works.into_iter().map(queue).unzip();
        writer.carry_out(&mut jobs);
        answered.into_iter().map(|mut answer| answer.try_recv().unwrap()).collect()
    }

    fn publish(numbers: std::ops::Range<u64>, bytes: usize) -> Work {
        let payload = vec![7; bytes];
        Work::Publish("t".into(), numbers.map(|n| Message { payload: payload.clone(), ..message("k", n) }).collect())
    }

    #[test]
    fn one_batch_makes_a_topic_and_fills_it() {
        let (mut writer, _folder) = writer();
        let [other, same] = [2, 1].map(|partitions| Work::Create("t".into(), partitions));
        let jobs = vec![publish(0..1, 1), Work::Create("t".into(), 1), other, same, publish(0..3, 1), publish(3..5, 1)];
        let mixed = BusError::Malformed("topic t has 1 partitions, not 2".into());
        let expected = [Err(unknown("t")), Ok(()), Err(mixed), Ok(()), Ok(()), Ok(())];
        assert_eq!(answers(&mut writer, jobs), expected);
        assert_eq!(writer.ledger.lock().unwrap().ends("t"), Ok(&[5][..]));
    }

    #[test]
    fn a_disk_that_fills_up_is_unavailable_and_leaves_no_hole() {
        let (mut writer, _folder) = writer();
        assert_eq!(answers(&mut writer, vec![Work::Create("t".into(), 1), publish(0..1, 1)]), [Ok(()), Ok(())]);
        let pages: i64 = writer.db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        writer.db.query_row(&format!("PRAGMA max_page_count = {}", pages + 2), [], |_| Ok(())).unwrap();
        let full = BusError::Unavailable(format!("{} cannot grow: the disk is full", writer.guard.file().display()));
        let jobs = vec![publish(1..2, 1), publish(2..9, 10_000), publish(2..3, 1)];
        assert_eq!(answers(&mut writer, jobs), [Ok(()), Err(full), Ok(())]);
        assert_eq!(writer.ledger.lock().unwrap().ends("t"), Ok(&[3][..]));
        writer.db.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(())).unwrap();
        assert_eq!(answers(&mut writer, vec![publish(3..10, 10_000)]), [Ok(())]);
        let dense = "SELECT count(*) = 10 AND max(offset) = 9 FROM messages";
        assert!(writer.db.query_row(dense, [], |row| row.get::<_, bool>(0)).unwrap());
    }
}
