//! The one connection over which a process commits to a store on PostgreSQL.
//!
//! # Problem
//! A transaction for each commit costs a flush of the log and half a dozen round trips each; and two processes that check and
//! then write let each other's commits through.
//!
//! # Pattern
//! Group commit, as in `sqlite_writer.rs`: whatever waits becomes one transaction. Where there is little to do it never waits for
//! more; behind a batch of [`MANY`] it does, for [`GATHER`].
//!
//! # Here
//! A batch takes four round trips: begin, lock and read, write, commit. The heads of all its streams, and its marks, are made
//! where they are missing and locked in the order of their names. What is read after that stays true until the end: the commits
//! are judged on it (`postgres_batch.rs`) and written by one statement. If it is nobody else's turn to give positions, the batch
//! gives them to its own events (`postgres_sequencer.rs`).
//! Two processes that commit under one id without a common stream meet in the index on ids: the second fails there, once the
//! first is through, and is tried again, when it is known. A batch that fails is tried again commit by commit.
//!
//! # Limits
//! A connection that is lost at the `COMMIT` leaves the batch in doubt: it answers `Unavailable`, and may still happen until
//! the server notices. A commit under the same id waits for it, at the locks.
use std::collections::BTreeSet;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use clock::{Clock, Timestamp};
use lab::Point;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use crate::postgres_agenda::Agenda;
use crate::postgres_batch::{Batch, Ground, Head, exists};
use crate::postgres_schema::Address;
use crate::postgres_sequencer::{Appended, TURN};
use crate::{Commit, CommitError, CommitId, Version, Versions};

/// Most commits in one transaction.
const BATCH: usize = 256;
/// Most bytes of data and replies in one transaction, but for a single commit that has more.
const BATCH_BYTES: usize = 16 << 20;
/// A batch of so many says that more are coming.
const MANY: usize = 6;
/// How long more are waited for then: what a transaction costs, whatever is in it, is shared by all of them. The server's own
/// `commit_siblings` and `commit_delay` do so for its flushes only.
const GATHER: Duration = Duration::from_millis(8);
/// Longest batch; longer than each of its statements may take.
const LIMIT: Duration = Duration::from_secs(15);

/// The present by the clock in `$1`, or where there is none by a function of the server's.
macro_rules! now {
    ($function:literal) => {
        concat!("coalesce($1, (extract(epoch FROM ", $function, ") * 1000000)::bigint)")
    };
}
pub(crate) use now;

/// Prepares the writer's connection.
///
/// `ground` locks what a batch is judged on, and reads it, in one call. It is made anew on every connection and goes with it, so that
/// programs of two versions never meet in it. `$1` is the present, if there is a clock of ours; `$2` are streams, `$3` marks, `$4` the
/// batch's own commits, `$5` others that it names, `$6` is [`TURN`].
// Danger: each statement of the function sees what was committed before that statement (PostgreSQL says so of VOLATILE), and
// must: what is read below is newer than whatever the locks above were waited for.
const PREPARATION: &str = concat!(
    "CREATE FUNCTION pg_temp.ground(bigint, text[], text[], text[], text[], bigint)
    RETURNS TABLE (part text, name text, key bigint, number bigint, moment bigint, reply bytea)
    LANGUAGE plpgsql VOLATILE AS $$
    #variable_conflict use_column
    DECLARE next bigint;
    BEGIN
        INSERT INTO streams (name, version, timestamp) SELECT name, 0, -9223372036854775808 FROM unnest($2) AS new (name)
            WHERE NOT EXISTS (SELECT FROM streams WHERE streams.name = new.name)
            ORDER BY name COLLATE \"C\" ON CONFLICT DO NOTHING;
        RETURN QUERY SELECT 'stream', name, key, version, timestamp, NULL::bytea
            FROM streams WHERE name = ANY ($2) ORDER BY name FOR UPDATE;
        IF cardinality($3) > 0 THEN
            INSERT INTO marks SELECT name, 0 FROM unnest($3) AS new (name)
                WHERE NOT EXISTS (SELECT FROM marks WHERE marks.name = new.name)
                ORDER BY name COLLATE \"C\" ON CONFLICT DO NOTHING;
            RETURN QUERY SELECT 'mark', name, NULL::bigint, value, NULL::bigint, NULL::bytea
                FROM marks WHERE name = ANY ($3) ORDER BY name FOR UPDATE;
        END IF;
        RETURN QUERY SELECT 'commit', id, NULL::bigint, NULL::bigint, NULL::bigint, CASE WHEN id = ANY ($4) THEN reply END
            FROM commits WHERE id = ANY ($4 || $5);
        IF cardinality($2) > 0 AND pg_try_advisory_xact_lock($6) THEN
            IF NOT EXISTS (SELECT FROM events WHERE position IS NULL) THEN
                next := (SELECT coalesce(max(position), 0) + 1 FROM events);
            END IF;
        END IF;
        RETURN QUERY SELECT 'now', NULL, NULL::bigint, next, ",
    now!("clock_timestamp()"),
    ", NULL::bytea;
    END $$"
);
const LOCK_AND_READ: &str = "SELECT * FROM pg_temp.ground($1, $2, $3, $4, $5, $6)";
/// Writes what has changed. Lists that are empty change nothing.
// Danger: the order of arrival is that of the positions, so it has to be that of the batch.
const WRITE: &str = "WITH
    remembered AS (INSERT INTO commits SELECT * FROM unnest($1::text[], $2::bytea[])),
    happened AS (
        INSERT INTO events (position, id, stream, version, type, schema, data, timestamp, correlation_id, causation_id, actor,
            traceparent)
        SELECT $3::bigint + nth - 1, id, stream, version, type, schema, data::json, timestamp, correlation_id, causation_id,
            actor, traceparent
        FROM unnest($4::uuid[], $5::bigint[], $6::bigint[], $7::text[], $8::integer[], $9::text[], $10::bigint[], $11::text[],
            $12::text[], $13::text[], $14::text[]) WITH ORDINALITY AS rows (id, stream, version, type, schema, data, timestamp,
            correlation_id, causation_id, actor, traceparent, nth) ORDER BY nth),
    grown AS (
        UPDATE streams SET version = new.version, timestamp = new.timestamp
        FROM unnest($15::bigint[], $16::bigint[], $17::bigint[]) AS new (key, version, timestamp) WHERE streams.key = new.key),
    moved AS (
        UPDATE marks SET value = new.value
        FROM unnest($18::text[], $19::bigint[]) AS new (name, value) WHERE marks.name = new.name),
    armed AS (
        INSERT INTO timers SELECT * FROM unnest($20::text[], $21::bigint[])
        ON CONFLICT (key) DO UPDATE SET due = excluded.due)
    DELETE FROM timers WHERE key = ANY ($22)";
const TAKEN: &str = "SELECT id FROM events WHERE id = ANY ($1)";

pub(crate) type Answer = Result<Versions, CommitError>;

pub(crate) struct Job {
    pub(crate) commit: Commit,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// Why nothing of a transaction may be taken for done.
#[derive(Debug)]
enum Broken {
    /// The server would not take what is in it, and nothing of it has happened.
    Refused(sqlx::Error),
    /// Anything else: it is unknown how far it came, and the connection is given up.
    Lost(String),
}

/// What a transaction did.
struct Done {
    answers: Vec<Answer>,
    /// If it appended events, whether they have positions.
    numbered: Option<bool>,
    /// When the first of the timers that it set is due.
    due: Option<Timestamp>,
}

pub(crate) struct Writer {
    address: Address,
    clock: Option<Arc<dyn Clock>>,
    db: Option<PgConnection>,
    lost: bool,
    appended: Arc<Appended>,
    agenda: Arc<Agenda>,
}

impl Writer {
    /// A writer that tells `appended` of every batch with events, and `agenda` of timers that it sets.
    pub(crate) fn new(
        address: Address,
        clock: Option<Arc<dyn Clock>>,
        appended: Arc<Appended>,
        agenda: Arc<Agenda>,
    ) -> Writer {
        Writer { address, clock, db: None, lost: false, appended, agenda }
    }

    /// Works until the queue is closed and empty.
    pub(crate) async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::with_capacity(BATCH);
        loop {
            if jobs.is_empty() && queue.recv_many(&mut jobs, BATCH).await == 0 {
                return;
            }
            let busy = jobs.len() >= MANY;
            while !jobs.is_empty() {
                let batch = jobs.drain(..fits(&jobs)).collect();
                self.carry_out(batch).await;
            }
            if busy {
                gather(&mut queue, &mut jobs).await;
            }
        }
    }

    /// Carries out the jobs in their order and answers each after its transaction.
    async fn carry_out(&mut self, jobs: Vec<Job>) {
        let (commits, waiting): (Vec<_>, Vec<_>) = jobs.into_iter().map(|job| (job.commit, job.answer)).unzip();
        let answers = match self.attempt(&commits).await {
            Ok(answers) => answers,
            Err(Broken::Refused(why)) => {
                tracing::warn!(database = self.address.name, %why, commits = commits.len(), "a batch failed: one by one now");
                let mut answers = Vec::with_capacity(commits.len());
                for commit in &commits {
                    // Where the server went away meanwhile, it is not waited for once for each of them.
                    let answer = match self.db {
                        Some(_) => self.alone(commit).await,
                        None => Err(self.unavailable("the connection was lost")),
                    };
                    answers.push(answer);
                }
                answers
            }
            Err(Broken::Lost(why)) => {
                // Said once, and not again by every batch until it is back.
                if !self.lost {
                    tracing::warn!(database = self.address.name, why, "commits are unavailable");
                }
                commits.iter().map(|_| Err(self.unavailable(&why))).collect()
            }
        };
        self.lost = self.db.is_none();
        for (waiting, answer) in waiting.into_iter().zip(answers) {
            // Nobody may be waiting: dropping the future revokes nothing.
            let _ = waiting.send(answer);
        }
    }

    async fn alone(&mut self, commit: &Commit) -> Answer {
        let why = match self.attempt(slice::from_ref(commit)).await {
            Ok(answers) => return answers.into_iter().next().unwrap_or_else(|| Err(self.unavailable("no answer"))),
            Err(Broken::Refused(why)) => why,
            Err(Broken::Lost(why)) => return Err(self.unavailable(&why)),
        };
        let said = why.as_database_error();
        let code = said.and_then(|said| said.code()).unwrap_or_default();
        match (&*code, said.and_then(|said| said.constraint())) {
            ("23505", Some("events_id_key")) => Err(self.taken(commit).await),
            // Data that the server cannot hold.
            (code, _) if code.starts_with("22") || code.starts_with("54") => {
                Err(CommitError::Malformed(why.to_string()))
            }
            // Others were in the way a second time; a third is for whoever asks again.
            _ => Err(self.unavailable(&why.to_string())),
        }
    }

    /// Names the event that exists already.
    async fn taken(&mut self, commit: &Commit) -> CommitError {
        let ids: Vec<Uuid> = commit.appends.iter().flat_map(|append| &append.events).map(|event| event.id).collect();
        let Some(db) = &mut self.db else { return self.unavailable("the connection was lost") };
        match sqlx::query_scalar::<_, Uuid>(TAKEN).bind(&ids).fetch_all(db).await {
            Ok(taken) => match ids.iter().find(|id| taken.contains(id)) {
                Some(id) => exists(*id),
                None => self.unavailable("an event existed, and does no longer"),
            },
            Err(why) => {
                self.db = None;
                self.unavailable(&why.to_string())
            }
        }
    }

    fn unavailable(&self, why: &str) -> CommitError {
        CommitError::Unavailable(format!("{}: {why}", self.address.name))
    }

    /// One transaction over the commits.
    async fn attempt(&mut self, commits: &[Commit]) -> Result<Vec<Answer>, Broken> {
        // Danger: what ends early takes the connection with it, which may be in the middle of anything.
        let mut db = match self.db.take() {
            Some(db) => db,
            None => self.address.connect_with(PREPARATION).await.map_err(|why| Broken::Lost(why.to_string()))?,
        };
        let now = self.clock.as_ref().map(|clock| clock.now().0);
        let late = |_| Broken::Lost(format!("a transaction took more than {} s", LIMIT.as_secs()));
        let done = timeout(LIMIT, transaction(&mut db, commits, now)).await.map_err(late)?;
        if !matches!(done, Err(Broken::Lost(_))) {
            self.db = Some(db);
        }
        let Done { answers, numbered, due } = done?;
        lab::reached(Point::Committed);
        match numbered {
            Some(true) => self.appended.numbered.notify_one(),
            Some(false) => self.appended.pending.notify_one(),
            None => {}
        }
        if let Some(due) = due {
            self.agenda.set(due);
        }
        Ok(answers)
    }
}

/// Waits until a whole batch is there, or for [`GATHER`].
async fn gather(queue: &mut mpsc::Receiver<Job>, jobs: &mut Vec<Job>) {
    let until = Instant::now() + GATHER;
    while jobs.len() < BATCH {
        match timeout_at(until, queue.recv_many(jobs, BATCH - jobs.len())).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// How many of the jobs go into one transaction, at least one.
fn fits(jobs: &[Job]) -> usize {
    let mut bytes = 0;
    let more = jobs.iter().take_while(|job| {
        let events = job.commit.appends.iter().flat_map(|append| &append.events);
        bytes += job.commit.reply.len() + events.map(|event| event.data.len()).sum::<usize>();
        bytes <= BATCH_BYTES
    });
    more.count().max(1)
}

impl From<sqlx::Error> for Broken {
    fn from(error: sqlx::Error) -> Broken {
        // What the commits themselves have met: their data, each other, or somebody else's commits.
        let theirs = error
            .as_database_error()
            .and_then(|said| said.code())
            .is_some_and(|code| ["22", "23", "40", "54"].iter().any(|class| code.starts_with(class)));
        if theirs { Broken::Refused(error) } else { Broken::Lost(error.to_string()) }
    }
}

async fn transaction(db: &mut PgConnection, commits: &[Commit], now: Option<i64>) -> Result<Done, Broken> {
    let mut transaction = db.begin().await?;
    let ground = ground(&mut transaction, commits, now).await?;
    let mut batch = Batch::on(ground);
    let answers: Vec<Answer> = commits.iter().map(|commit| batch.judge(commit)).collect();
    if batch.replies.is_empty() {
        transaction.rollback().await?;
        return Ok(Done { answers, numbered: None, due: None });
    }
    write(&mut transaction, &batch).await?;
    lab::reached(Point::Written);
    // Danger: from here on nobody knows, whatever the error is.
    transaction.commit().await.map_err(|why| Broken::Lost(why.to_string()))?;
    let numbered = (!batch.events.ids.is_empty()).then(|| batch.first().is_some());
    let due = batch.timers.values().flatten().min().map(|due| Timestamp(*due));
    Ok(Done { answers, numbered, due })
}

/// Locks what the commits are judged on, and reads it.
async fn ground(db: &mut PgConnection, commits: &[Commit], now: Option<i64>) -> Result<Ground, sqlx::Error> {
    let streams: BTreeSet<&str> =
        commits.iter().flat_map(|commit| &commit.appends).map(|append| &*append.stream.0).collect();
    let marks: BTreeSet<&str> =
        commits.iter().flat_map(|commit| &commit.marks).map(|mark| mark.name.as_str()).collect();
    let own: Vec<&str> = commits.iter().map(|commit| &*commit.id.0).collect();
    let named: Vec<&str> = commits.iter().flat_map(|commit| &commit.after).map(|id| &*id.0).collect();
    let read = sqlx::query(LOCK_AND_READ).bind(now).bind(Vec::from_iter(streams)).bind(Vec::from_iter(marks));
    let mut ground = Ground::default();
    for row in read.bind(own).bind(named).bind(TURN).fetch_all(db).await? {
        let name = || row.try_get::<&str, _>(1);
        match row.try_get(0)? {
            "stream" => {
                let (version, timestamp) = (row.try_get::<i64, _>(3)? as Version, Timestamp(row.try_get(4)?));
                ground.heads.insert(name()?.into(), Head { key: row.try_get(2)?, version, timestamp });
            }
            "mark" => _ = ground.marks.insert(name()?.into(), row.try_get::<i64, _>(3)? as u64),
            "commit" => {
                let reply = row.try_get::<Option<Vec<u8>>, _>(5)?.unwrap_or_default();
                ground.known.insert(CommitId::from(name()?), reply);
            }
            _ => (ground.next, ground.now) = (row.try_get(3)?, Timestamp(row.try_get(4)?)),
        }
    }
    Ok(ground)
}

async fn write(db: &mut PgConnection, batch: &Batch<'_>) -> Result<(), sqlx::Error> {
    let (ids, replies): (Vec<&str>, Vec<&[u8]>) = batch.replies.iter().unzip();
    let events = &batch.events;
    let keys: Vec<i64> = batch.grown.keys().copied().collect();
    let versions: Vec<i64> = batch.grown.values().map(|head| head.version as i64).collect();
    let timestamps: Vec<i64> = batch.grown.values().map(|head| head.timestamp.0).collect();
    let (marks, values): (Vec<&str>, Vec<i64>) = batch.marks.iter().unzip();
    let set = batch.timers.iter().filter_map(|(key, due)| Some((*key, (*due)?)));
    let (armed, due): (Vec<&str>, Vec<i64>) = set.unzip();
    let cleared: Vec<&str> = batch.timers.iter().filter(|(_, due)| due.is_none()).map(|(key, _)| *key).collect();
    let write = sqlx::query(WRITE).bind(ids).bind(replies).bind(batch.first());
    let write = write.bind(&events.ids).bind(&events.streams).bind(&events.versions).bind(&events.kinds);
    let write = write.bind(&events.schemas).bind(&events.data).bind(&events.timestamps);
    let write = write.bind(&events.correlation_ids).bind(&events.causation_ids).bind(&events.actors);
    let write = write.bind(&events.traceparents).bind(keys).bind(versions).bind(timestamps);
    write.bind(marks).bind(values).bind(armed).bind(due).bind(cleared).execute(db).await.map(drop)
}
