//! The one connection over which a process commits to a store on PostgreSQL.
//!
//! # Problem
//! A transaction for each commit costs a flush of the log and half a dozen round trips each; and two processes that check and
//! then write let each other's commits through.
//!
//! # Pattern
//! Group commit, as in `sqlite_writer.rs`: whatever waits becomes one transaction, and it never waits for more.
//!
//! # Here
//! The heads of all streams of the batch, and its marks, are made where they are missing and locked in the order of their
//! names, each by a statement of its own. What is read after that, by the next statement and thus with a fresh snapshot,
//! stays true until the end: the commits are judged on it (`postgres_batch.rs`) and written with one `unnest` for each table.
//! Two processes that commit under one id without a common stream meet in the index on ids: the second fails there, once the
//! first is through, and is tried again, when it is known. A batch that fails is tried again commit by commit.
//!
//! # Limits
//! A connection that is lost at the `COMMIT` leaves the batch in doubt: it answers `Unavailable`, and may still happen until
//! the server notices. A commit under the same id waits for it, at the locks.
use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use clock::{Clock, Timestamp};
use lab::Point;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use uuid::Uuid;

use crate::postgres_batch::{Batch, Ground, Head, exists};
use crate::postgres_schema::Address;
use crate::{Commit, CommitError, CommitId, Version, Versions};

/// Most commits in one transaction.
const BATCH: usize = 256;
/// Most bytes of data and replies in one transaction, but for a single commit that has more.
const BATCH_BYTES: usize = 16 << 20;
/// Longest batch; longer than each of its statements may take.
const LIMIT: Duration = Duration::from_secs(15);

/// The present by the clock in `$1`, or the server's where there is none.
macro_rules! now {
    () => {
        "coalesce($1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"
    };
}
pub(crate) use now;

const MAKE_HEADS: &str = "INSERT INTO streams (name, version, timestamp)
    SELECT name, 0, $2 FROM unnest($1::text[]) AS names (name) ORDER BY name COLLATE \"C\" ON CONFLICT DO NOTHING";
const LOCK_HEADS: &str =
    "SELECT name, key, version, timestamp FROM streams WHERE name = ANY ($1) ORDER BY name FOR UPDATE";
const MAKE_MARKS: &str = "INSERT INTO marks
    SELECT name, 0 FROM unnest($1::text[]) AS names (name) ORDER BY name COLLATE \"C\" ON CONFLICT DO NOTHING";
const LOCK_MARKS: &str = "SELECT name, value FROM marks WHERE name = ANY ($1) ORDER BY name FOR UPDATE";
const KNOWN: &str = concat!(
    "SELECT NULL, NULL, ",
    now!(),
    " UNION ALL SELECT id, CASE WHEN id = ANY ($2) THEN reply END, NULL
    FROM commits WHERE id = ANY ($3)"
);
const REMEMBER: &str = "INSERT INTO commits SELECT * FROM unnest($1::text[], $2::bytea[])";
// Danger: the order of arrival is that of the positions, so it has to be that of the batch.
const INSERT: &str = "INSERT INTO events (id, stream, version, type, schema, data, timestamp, correlation_id, causation_id,
        actor, traceparent)
    SELECT id, stream, version, type, schema, data::json, timestamp, correlation_id, causation_id, actor, traceparent
    FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::integer[], $6::text[], $7::bigint[], $8::text[],
        $9::text[], $10::text[], $11::text[]) WITH ORDINALITY AS rows (id, stream, version, type, schema, data, timestamp,
        correlation_id, causation_id, actor, traceparent, nth) ORDER BY nth";
const GROW: &str = "UPDATE streams SET version = grown.version, timestamp = grown.timestamp
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS grown (key, version, timestamp) WHERE streams.key = grown.key";
const ARM: &str = "INSERT INTO timers SELECT * FROM unnest($1::text[], $2::bigint[])
    ON CONFLICT (key) DO UPDATE SET due = excluded.due";
const DISARM: &str = "DELETE FROM timers WHERE key = ANY ($1)";
const MOVE: &str = "UPDATE marks SET value = moved.value
    FROM unnest($1::text[], $2::bigint[]) AS moved (name, value) WHERE marks.name = moved.name";
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

pub(crate) struct Writer {
    address: Address,
    clock: Option<Arc<dyn Clock>>,
    db: Option<PgConnection>,
    lost: bool,
    appended: Arc<Notify>,
}

impl Writer {
    /// A writer that tells `appended` of every batch with events.
    pub(crate) fn new(address: Address, clock: Option<Arc<dyn Clock>>, appended: Arc<Notify>) -> Writer {
        Writer { address, clock, db: None, lost: false, appended }
    }

    /// Works until the queue is closed and empty.
    pub(crate) async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::with_capacity(BATCH);
        while queue.recv_many(&mut jobs, BATCH).await > 0 {
            while !jobs.is_empty() {
                let batch = jobs.drain(..fits(&jobs)).collect();
                self.carry_out(batch).await;
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
            None => self.address.connect().await.map_err(|why| Broken::Lost(why.to_string()))?,
        };
        let now = self.clock.as_ref().map(|clock| clock.now().0);
        let late = |_| Broken::Lost(format!("a transaction took more than {} s", LIMIT.as_secs()));
        let answers = timeout(LIMIT, transaction(&mut db, commits, now)).await.map_err(late)?;
        if !matches!(answers, Err(Broken::Lost(_))) {
            self.db = Some(db);
        }
        let (answers, appended) = answers?;
        lab::reached(Point::Committed);
        if appended {
            self.appended.notify_one();
        }
        Ok(answers)
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

/// Answers, and whether anything was appended.
async fn transaction(
    db: &mut PgConnection,
    commits: &[Commit],
    now: Option<i64>,
) -> Result<(Vec<Answer>, bool), Broken> {
    let mut transaction = db.begin().await?;
    let ground = ground(&mut transaction, commits, now).await?;
    let mut batch = Batch::on(ground);
    let answers: Vec<Answer> = commits.iter().map(|commit| batch.judge(commit)).collect();
    if batch.replies.is_empty() {
        transaction.rollback().await?;
        return Ok((answers, false));
    }
    write(&mut transaction, &batch).await?;
    lab::reached(Point::Written);
    // Danger: from here on nobody knows, whatever the error is.
    transaction.commit().await.map_err(|why| Broken::Lost(why.to_string()))?;
    Ok((answers, !batch.events.ids.is_empty()))
}

/// Locks what the commits are judged on, and reads it.
async fn ground(db: &mut PgConnection, commits: &[Commit], now: Option<i64>) -> Result<Ground, sqlx::Error> {
    let mut ground = Ground::default();
    let streams: BTreeSet<&str> =
        commits.iter().flat_map(|commit| &commit.appends).map(|append| &*append.stream.0).collect();
    if !streams.is_empty() {
        let names = Vec::from_iter(streams);
        sqlx::query(MAKE_HEADS).bind(&names).bind(i64::MIN).execute(&mut *db).await?;
        let heads = sqlx::query(LOCK_HEADS).bind(&names).fetch_all(&mut *db).await?;
        ground.heads = heads.iter().map(head).collect::<Result<_, _>>()?;
    }
    let marks: BTreeSet<&str> =
        commits.iter().flat_map(|commit| &commit.marks).map(|mark| mark.name.as_str()).collect();
    if !marks.is_empty() {
        let names = Vec::from_iter(marks);
        sqlx::query(MAKE_MARKS).bind(&names).execute(&mut *db).await?;
        let marks = sqlx::query(LOCK_MARKS).bind(&names).fetch_all(&mut *db).await?;
        let mark = |row: &PgRow| Ok((row.try_get::<&str, _>(0)?.into(), row.try_get::<i64, _>(1)? as u64));
        ground.marks = marks.iter().map(mark).collect::<Result<_, sqlx::Error>>()?;
    }
    let own: Vec<&str> = commits.iter().map(|commit| &*commit.id.0).collect();
    let named = commits.iter().flat_map(|commit| &commit.after).map(|id| &*id.0);
    let all: Vec<&str> = own.iter().copied().chain(named).collect();
    // Danger: a statement of its own after the locks, so that its snapshot is newer than whatever they were waited for.
    for row in sqlx::query(KNOWN).bind(now).bind(&own).bind(&all).fetch_all(db).await? {
        match row.try_get::<Option<&str>, _>(0)? {
            Some(id) => {
                let reply = row.try_get::<Option<Vec<u8>>, _>(1)?.unwrap_or_default();
                ground.known.insert(CommitId::from(id), reply);
            }
            None => ground.now = Timestamp(row.try_get(2)?),
        }
    }
    Ok(ground)
}

fn head(row: &PgRow) -> Result<(Arc<str>, Head), sqlx::Error> {
    let name: &str = row.try_get(0)?;
    let version = row.try_get::<i64, _>(2)? as Version;
    Ok((name.into(), Head { key: row.try_get(1)?, version, timestamp: Timestamp(row.try_get(3)?) }))
}

async fn write(db: &mut PgConnection, batch: &Batch<'_>) -> Result<(), sqlx::Error> {
    let (ids, replies): (Vec<&str>, Vec<&[u8]>) = batch.replies.iter().unzip();
    sqlx::query(REMEMBER).bind(ids).bind(replies).execute(&mut *db).await?;
    let events = &batch.events;
    if !events.ids.is_empty() {
        let insert = sqlx::query(INSERT).bind(&events.ids).bind(&events.streams).bind(&events.versions);
        let insert = insert.bind(&events.kinds).bind(&events.schemas).bind(&events.data).bind(&events.timestamps);
        let insert = insert.bind(&events.correlation_ids).bind(&events.causation_ids);
        insert.bind(&events.actors).bind(&events.traceparents).execute(&mut *db).await?;
        let grown = || batch.grown.values();
        let keys: Vec<i64> = batch.grown.keys().copied().collect();
        let versions: Vec<i64> = grown().map(|head| head.version as i64).collect();
        let timestamps: Vec<i64> = grown().map(|head| head.timestamp.0).collect();
        sqlx::query(GROW).bind(keys).bind(versions).bind(timestamps).execute(&mut *db).await?;
    }
    let set: BTreeMap<&str, i64> = batch.timers.iter().filter_map(|(key, due)| Some((*key, (*due)?))).collect();
    if !set.is_empty() {
        let (keys, due): (Vec<&str>, Vec<i64>) = set.into_iter().unzip();
        sqlx::query(ARM).bind(keys).bind(due).execute(&mut *db).await?;
    }
    let cleared: Vec<&str> = batch.timers.iter().filter(|(_, due)| due.is_none()).map(|(key, _)| *key).collect();
    if !cleared.is_empty() {
        sqlx::query(DISARM).bind(cleared).execute(&mut *db).await?;
    }
    if !batch.marks.is_empty() {
        let (names, values): (Vec<&str>, Vec<i64>) = batch.marks.iter().unzip();
        sqlx::query(MOVE).bind(names).bind(values).execute(db).await?;
    }
    Ok(())
}
