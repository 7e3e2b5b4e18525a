//! The one thread that writes to the file of an embedded store.
//!
//! # Problem
//! A commit that is on the disk costs an fsync; one fsync for each is the floor under every latency and the ceiling over
//! the throughput.
//!
//! # Pattern
//! Group commit: whatever waits in the queue becomes one transaction, and every answer is sent after its one fsync. It
//! never waits for a group to fill: an idle store commits at once, a busy one finds its groups waiting.
//!
//! # Here
//! Each commit of a batch is judged alone: all its checks come before its first write, so a refused one leaves nothing to
//! undo, and a later one sees what an earlier one did. With one writer, positions are given in the same insert and nothing
//! can commit out of their order. A batch that fails as a whole is rolled back and tried again, commit by commit.
//!
//! After an fsync that failed the file is trusted on, although the system may have dropped what it could not write and report the next
//! one as good: SQLite rests nothing on what was not synced. A commit whose sync failed is not in the log; the next one is written over it,
//! from the same place, and synced itself. A checkpoint whose sync failed does not count, and copies the same pages anew; the log
//! that it copies from stays until it has succeeded. So whatever an answer rests on was written and synced after the failure.
//!
//! # Limits
//! One commit waits for the batch before it. A transaction on a full or failing disk answers `Unavailable`; what is wrong
//! is in the log.

use std::collections::BTreeMap;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use clock::{Clock, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use crate::sqlite_guard::Guard;
use crate::{Append, Commit, CommitError, Meta, Snapshot, StreamId, TimerChange, Version, Versions, comes_after};

/// Most jobs in one transaction.
const BATCH: usize = 256;
/// Most streams whose versions the writer remembers.
const HEADS: usize = 10_000;

/// What the writer is asked for.
pub(crate) enum Work {
    Commit(Commit),
    Claim { lease: Duration, limit: usize },
    KeepSnapshot(StreamId, Snapshot),
    DropSnapshots,
}

/// What came of it.
#[derive(Debug, PartialEq)]
pub(crate) enum Done {
    Versions(Versions),
    Keys(Vec<String>),
    Nothing,
}

pub(crate) type Answer = Result<Done, CommitError>;

pub(crate) struct Job {
    pub(crate) work: Work,
    pub(crate) answer: oneshot::Sender<Answer>,
}

pub(crate) struct Writer {
    guard: Guard,
    clock: Arc<dyn Clock>,
    db: Connection,
    growth: watch::Sender<()>,
    /// Danger: both describe the open transaction, and are dropped with it.
    tail: Option<Tail>,
    heads: BTreeMap<Arc<str>, Head>,
}

/// The end of the log.
#[derive(Clone, Copy)]
struct Tail {
    position: i64,
    stream: i64,
}

#[derive(Clone, Copy)]
struct Head {
    key: i64,
    version: Version,
    /// Of its latest event.
    timestamp: Timestamp,
}

const NO_STREAM: Head = Head { key: 0, version: 0, timestamp: Timestamp(i64::MIN) };

/// Why a whole transaction must be undone.
#[derive(Debug)]
enum Broken {
    Sql(rusqlite::Error),
    EventExists(Uuid),
}

impl From<rusqlite::Error> for Broken {
    fn from(error: rusqlite::Error) -> Broken {
        Broken::Sql(error)
    }
}

const TAIL: &str = "SELECT ifnull(max(position), 0), (SELECT ifnull(max(key), 0) FROM streams) FROM events";
const HEAD: &str = "SELECT key, version, timestamp FROM streams JOIN events ON stream = key WHERE name = ?1
    ORDER BY version DESC LIMIT 1";
const INSERT: &str = "INSERT INTO events (position, id, stream, version, type, schema, data, timestamp, correlation_id,
    causation_id, actor, traceparent) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
const ARM: &str = "INSERT INTO timers VALUES (?1, ?2) ON CONFLICT DO UPDATE SET due = excluded.due";
const MOVE: &str = "INSERT INTO marks VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value";
const KEEP: &str = "INSERT INTO snapshots VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE
    SET version = excluded.version, schema = excluded.schema, data = excluded.data
    WHERE excluded.version >= snapshots.version";

impl Writer {
    pub(crate) fn new(guard: Guard, clock: Arc<dyn Clock>, db: Connection, growth: watch::Sender<()>) -> Writer {
        Writer { guard, clock, db, growth, tail: None, heads: BTreeMap::new() }
    }

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
        let lost = |why| jobs.iter().map(|_| Err(CommitError::Unavailable(String::clone(&why)))).collect();
        let answers: Vec<Answer> = kept.unwrap_or_else(lost);
        let mut appended = false;
        for (job, answer) in jobs.drain(..).zip(answers) {
            appended |= matches!((&job.work, &answer), (Work::Commit(commit), Ok(_)) if !commit.appends.is_empty());
            // Nobody may be waiting: dropping the future revokes nothing.
            let _ = job.answer.send(answer);
        }
        if appended {
            self.growth.send_replace(());
        }
    }

    fn together_or_alone(&mut self, jobs: &[Job]) -> Vec<Answer> {
        self.attempt(jobs).unwrap_or_else(|broken| match jobs {
            [_] => vec![Err(self.refusal(&broken))],
            jobs => jobs.iter().flat_map(|job| self.alone(job)).collect(),
        })
    }

    fn alone(&mut self, job: &Job) -> Vec<Answer> {
        self.attempt(slice::from_ref(job)).unwrap_or_else(|broken| vec![Err(self.refusal(&broken))])
    }

    fn refusal(&mut self, broken: &Broken) -> CommitError {
        let error = match broken {
            Broken::EventExists(id) => return CommitError::Malformed(format!("event {id} exists already")),
            Broken::Sql(error) => error,
        };
        CommitError::Unavailable(self.guard.failed(error))
    }

    /// One transaction over the jobs. If it fails, none of them has happened.
    fn attempt(&mut self, jobs: &[Job]) -> Result<Vec<Answer>, Broken> {
        let answers = self.transaction(jobs);
        if answers.is_ok() {
            self.guard.succeeded();
        } else {
            self.tail = None;
            self.heads.clear();
            if !self.db.is_autocommit()
                && let Err(error) = self.db.execute_batch("ROLLBACK")
            {
                self.guard.failed(&error);
            }
        }
        answers
    }

    fn transaction(&mut self, jobs: &[Job]) -> Result<Vec<Answer>, Broken> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let answers = jobs.iter().map(|job| self.apply(&job.work)).collect::<Result<Vec<_>, Broken>>()?;
        self.db.prepare_cached("COMMIT")?.execute([])?;
        Ok(answers)
    }

    fn apply(&mut self, work: &Work) -> Result<Answer, Broken> {
        match work {
            Work::Commit(commit) => return self.commit(commit),
            Work::Claim { lease, limit } => return Ok(Ok(Done::Keys(self.claim(*lease, *limit)?))),
            Work::KeepSnapshot(stream, snapshot) => {
                let Head { key, version, .. } = self.head(&stream.0)?;
                if (1..=version).contains(&snapshot.version) {
                    let Snapshot { version, schema, data } = snapshot;
                    self.db.prepare_cached(KEEP)?.execute(params![key, *version as i64, schema, data])?;
                }
            }
            Work::DropSnapshots => _ = self.db.prepare_cached("DELETE FROM snapshots")?.execute([])?,
        }
        Ok(Ok(Done::Nothing))
    }

    /// Danger: every check comes before the first write. What is refused after one stays in the batch.
    fn commit(&mut self, commit: &Commit) -> Result<Answer, Broken> {
        if let Some(reply) = reply(&self.db, &commit.id.0)? {
            return Ok(Err(CommitError::AlreadyHandled(reply)));
        }
        for id in &commit.after {
            if !self.db.prepare_cached("SELECT 1 FROM commits WHERE id = ?1")?.exists([&id.0])? {
                return Ok(Err(comes_after(id)));
            }
        }
        for moving in &commit.marks {
            if let Err(refused) = moving.judge(mark(&self.db, &moving.name)?) {
                return Ok(Err(refused));
            }
        }
        let heads = commit.appends.iter().map(|append| self.head(&append.stream.0)).collect::<Result<Vec<_>, _>>()?;
        for (append, head) in commit.appends.iter().zip(&heads) {
            if let Err(refused) = append.judge(head.version) {
                return Ok(Err(refused));
            }
        }
        self.db.prepare_cached("INSERT INTO commits VALUES (?1, ?2)")?.execute(params![commit.id.0, commit.reply])?;
        let mut tail = self.tail()?;
        let growing = commit.appends.iter().zip(&heads).filter(|(append, _)| !append.events.is_empty());
        let now = growing.map(|(_, head)| head.timestamp).fold(self.clock.now(), Timestamp::max);
        let mut versions = Vec::with_capacity(heads.len());
        for (append, head) in commit.appends.iter().zip(heads) {
            versions.push(self.append(append, head, &commit.meta, now, &mut tail)?);
        }
        self.tail = Some(tail);
        for timer in &commit.timers {
            match timer {
                TimerChange::Set { key, due } => self.db.prepare_cached(ARM)?.execute(params![key, due.0])?,
                TimerChange::Clear { key } => {
                    self.db.prepare_cached("DELETE FROM timers WHERE key = ?1")?.execute([key])?
                }
            };
        }
        for moving in &commit.marks {
            self.db.prepare_cached(MOVE)?.execute(params![moving.name, moving.to as i64])?;
        }
        Ok(Ok(Done::Versions(versions)))
    }

    fn append(
        &mut self,
        append: &Append,
        mut head: Head,
        meta: &Meta,
        now: Timestamp,
        tail: &mut Tail,
    ) -> Result<Version, Broken> {
        if append.events.is_empty() {
            return Ok(head.version);
        }
        if head.version == 0 {
            tail.stream += 1;
            head.key = tail.stream;
            self.db
                .prepare_cached("INSERT INTO streams VALUES (?1, ?2)")?
                .execute(params![head.key, append.stream.0])?;
        }
        let mut insert = self.db.prepare_cached(INSERT)?;
        for event in &append.events {
            head.version += 1;
            tail.position += 1;
            let Meta { correlation_id, causation_id, actor, traceparent } = meta;
            let inserted = insert.execute(params![
                tail.position,
                event.id.as_bytes(),
                head.key,
                head.version as i64,
                event.kind,
                event.schema,
                event.data,
                now.0,
                correlation_id,
                causation_id,
                actor,
                traceparent
            ]);
            if let Err(error) = inserted {
                // The index on ids is the check: looking first would cost every event what this costs a bug.
                let taken =
                    self.db.prepare_cached("SELECT 1 FROM events WHERE id = ?1")?.exists([event.id.as_bytes()])?;
                return Err(if taken { Broken::EventExists(event.id) } else { error.into() });
            }
        }
        head.timestamp = now;
        if self.heads.len() >= HEADS {
            self.heads.clear();
        }
        self.heads.insert(append.stream.0.clone(), head);
        Ok(head.version)
    }

    fn claim(&mut self, lease: Duration, limit: usize) -> rusqlite::Result<Vec<String>> {
        let now = self.clock.now();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let due = "SELECT key FROM timers WHERE due <= ?1 ORDER BY due, key LIMIT ?2";
        let mut due = self.db.prepare_cached(due)?;
        let keys = due.query_map([now.0, limit], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
        for key in &keys {
            self.db.prepare_cached(ARM)?.execute(params![key, now.after(lease).0])?;
        }
        Ok(keys)
    }

    fn head(&self, stream: &Arc<str>) -> rusqlite::Result<Head> {
        if let Some(head) = self.heads.get(stream) {
            return Ok(*head);
        }
        let head = |row: &rusqlite::Row<'_>| {
            let version = row.get::<_, i64>(1)? as Version;
            Ok(Head { key: row.get(0)?, version, timestamp: Timestamp(row.get(2)?) })
        };
        Ok(self.db.prepare_cached(HEAD)?.query_row([stream], head).optional()?.unwrap_or(NO_STREAM))
    }

    fn tail(&self) -> rusqlite::Result<Tail> {
        let read = |row: &rusqlite::Row<'_>| Ok(Tail { position: row.get(0)?, stream: row.get(1)? });
        self.tail.map_or_else(|| self.db.query_row(TAIL, [], read), Ok)
    }
}

/// The reply remembered under `id`.
pub(crate) fn reply(db: &Connection, id: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    db.prepare_cached("SELECT reply FROM commits WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()
}

/// The value of the mark `name`.
pub(crate) fn mark(db: &Connection, name: &str) -> rusqlite::Result<u64> {
    let value = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    let value = db.prepare_cached("SELECT value FROM marks WHERE name = ?1")?.query_row([name], value).optional()?;
    Ok(value.unwrap_or(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Expected::{self, Any, Exact, NoStream};
    use crate::contract::{HandClock, Subject, conflict, handled};
    use crate::file_watch::FileWatch;
    use crate::memory::Memory;
    use crate::sqlite_file;

    /// A writer without its thread, so that a test decides what is in one batch.
    fn writer() -> (Writer, Subject) {
        let (clock, folder) = (HandClock::new(), tempfile::tempdir().unwrap());
        let file = folder.path().join("store.db");
        sqlite_file::create(&file, &sqlite_file::STORE).unwrap();
        let db = sqlite_file::open(&file, &sqlite_file::STORE).unwrap();
        let guard = Guard::new(&file, FileWatch::default()).unwrap();
        let writer = Writer::new(guard, clock.clone(), db, watch::Sender::new(()));
        (writer, Subject::new(Arc::new(Memory::new(clock.clone())), clock, folder))
    }

    fn answers(writer: &mut Writer, commits: impl IntoIterator<Item = Commit>) -> Vec<Result<Versions, CommitError>> {
        let queue = |commit| {
            let (answer, answered) = oneshot::channel();
            (Job { work: Work::Commit(commit), answer }, answered)
        };
        let (mut jobs, answered): (Vec<_>, Vec<_>) = commits.into_iter().map(queue).unzip();
        writer.carry_out(&mut jobs);
        let versions = |done| if let Done::Versions(versions) = done { versions } else { panic!("{done:?}") };
        answered.into_iter().map(|mut answer| answer.try_recv().unwrap().map(versions)).collect()
    }

    fn count(writer: &Writer, table: &str) -> i64 {
        writer.db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn whatever_in_a_batch_appends_wakes_readers_once_it_is_done() {
        let (mut writer, subject) = writer();
        let mut growth = writer.growth.subscribe();
        let (event, no_event) = (subject.step("a", "s", Any, 1), Commit::new("b".into(), Meta::default()));
        answers(&mut writer, [event, no_event.clone()]);
        assert!(growth.has_changed().unwrap(), "also where the last of the batch appends nothing");
        growth.borrow_and_update();
        answers(&mut writer, [Commit { id: "c".into(), ..no_event }, subject.step("d", "s", NoStream, 1)]);
        assert!(!growth.has_changed().unwrap(), "nothing was appended");
    }

    #[test]
    fn a_batch_judges_each_commit_alone() {
        let (mut writer, subject) = writer();
        let commit = |id: &str, expected: Expected| subject.step(id, "s", expected, 1);
        let batch = [
            commit("1", NoStream),
            commit("1", NoStream),
            commit("2", NoStream),
            commit("3", Exact(1)),
            commit("4", Exact(2)),
            commit("3", Exact(1)),
        ];
        let expected =
            [Ok(vec![1]), Err(handled("1")), Err(conflict("s", 0, 1)), Ok(vec![2]), Ok(vec![3]), Err(handled("3"))];
        assert_eq!(answers(&mut writer, batch), expected);
        assert_eq!((count(&writer, "events"), count(&writer, "commits")), (3, 3));
    }

    #[test]
    fn one_commit_that_breaks_the_batch_breaks_only_itself() {
        let (mut writer, subject) = writer();
        let mut thief = subject.step("thief", "s", Exact(1), 1);
        let owner = subject.step("owner", "s", NoStream, 1);
        thief.appends[0].events[0].id = owner.appends[0].events[0].id;
        let stolen = CommitError::Malformed(format!("event {} exists already", thief.appends[0].events[0].id));
        let batch = [owner, thief, subject.step("next", "s", Exact(1), 2), subject.step("new", "new", NoStream, 1)];
        assert_eq!(answers(&mut writer, batch), [Ok(vec![1]), Err(stolen), Ok(vec![3]), Ok(vec![1])]);
        let positions = "SELECT max(position) = count(*) AND count(*) = 4 FROM events";
        assert!(writer.db.query_row(positions, [], |row| row.get::<_, bool>(0)).unwrap());
        assert_eq!(count(&writer, "commits"), 3);
    }

    #[test]
    fn a_disk_that_fills_up_is_unavailable_and_the_writer_goes_on() {
        let (mut writer, subject) = writer();
        assert_eq!(answers(&mut writer, [subject.step("a", "s", NoStream, 1)]), [Ok(vec![1])]);
        let pages: i64 = writer.db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        writer.db.query_row(&format!("PRAGMA max_page_count = {}", pages + 2), [], |_| Ok(())).unwrap();
        let mut large = subject.step("large", "s", Exact(1), 1);
        large.appends[0].events[0].data = format!("\"{}\"", "x".repeat(100_000));
        let batch = [subject.step("b", "t", NoStream, 1), large.clone(), subject.step("c", "t", Exact(1), 1)];
        let full = format!("{} cannot grow: the disk is full", writer.guard.file().display());
        let expected = [Ok(vec![1]), Err(CommitError::Unavailable(full)), Ok(vec![2])];
        assert_eq!(answers(&mut writer, batch), expected);
        writer.db.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(())).unwrap();
        assert_eq!(answers(&mut writer, [large]), [Ok(vec![2])]);
        assert_eq!(count(&writer, "events"), 4);
    }

    /// Counts log lines by their level.
    #[derive(Clone, Default)]
    struct Lines(Arc<std::sync::Mutex<Vec<tracing::Level>>>);

    impl tracing::Subscriber for Lines {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            self.0.lock().unwrap().push(*event.metadata().level());
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_disk_is_one_line_however_much_is_refused_and_another_when_it_is_over() {
        let (mut writer, subject) = writer();
        let lines = Lines::default();
        let _logged = tracing::subscriber::set_default(lines.clone());
        let mut large = subject.step("large", "s", Any, 1);
        large.appends[0].events[0].data = format!("\"{}\"", "x".repeat(1_000_000));
        let small = |n: u32| subject.step(&format!("small-{n}"), "t", Any, 1);
        let limit = |writer: &Writer, pages: i64| {
            writer.db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
        };
        answers(&mut writer, [small(0)]);
        let pages: i64 = writer.db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        limit(&writer, pages + 100);
        for n in 1..=100 {
            // Small ones still fit: the trouble neither ends nor begins anew with each.
            let batch = [large.clone(), small(n)];
            assert!(matches!(answers(&mut writer, batch)[..], [Err(CommitError::Unavailable(_)), Ok(_)]));
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert_eq!(*lines.0.lock().unwrap(), [tracing::Level::ERROR]);
        limit(&writer, 1_000_000);
        for n in 101..200 {
            tokio::time::advance(Duration::from_millis(20)).await;
            answers(&mut writer, [small(n)]);
        }
        assert_eq!(*lines.0.lock().unwrap(), [tracing::Level::ERROR, tracing::Level::INFO]);
    }

    #[test]
    fn a_damaged_file_is_named_and_the_writer_lives() {
        let (mut writer, subject) = writer();
        writer.db.execute_batch("DROP TABLE marks").unwrap();
        let marks = vec![crate::MarkMove { name: "m".into(), from: 0, to: 1 }];
        let broken = Commit { marks, ..subject.step("a", "s", Any, 1) };
        let answers = answers(&mut writer, [broken, subject.step("b", "s", Any, 1)]);
        let Err(CommitError::Unavailable(why)) = &answers[0] else { panic!("{answers:?}") };
        assert!(why.contains("store.db") && why.contains("marks"), "{why}");
        assert_eq!(answers[1], Ok(vec![1]));
    }

    #[test]
    fn forgetting_the_heads_changes_no_answer() {
        let (mut writer, subject) = writer();
        let first = (0..5).map(|n| subject.step(&format!("a{n}"), &format!("s-{n}"), NoStream, 2));
        answers(&mut writer, first);
        writer.heads.clear();
        writer.tail = None;
        let second =
            answers(&mut writer, (0..5).map(|n| subject.step(&format!("b{n}"), &format!("s-{n}"), Exact(2), 1)));
        assert!(second.iter().all(|answer| answer == &Ok(vec![3])));
        assert_eq!((count(&writer, "streams"), count(&writer, "events")), (5, 15));
    }
}
