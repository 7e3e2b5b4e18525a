//! Asks a store on PostgreSQL for many small things at once.
//!
//! # Problem
//! To find a row takes the server microseconds. To be asked for it costs a round trip, and a change of processes on both
//! sides: many times that, and a busy service asks thousands of times a second.
//!
//! # Pattern
//! Group read, the counterpart of group commit: whatever waits becomes one question, and it never waits for more.
//!
//! # Here
//! For each kind of [`Question`] there is a [`Counter`], which asks for all who wait there, one statement at a time. No answer is
//! older than its question. What the server refuses is asked again one by one, so that nobody gets another's error.
//!
//! # Limits
//! Whoever comes while a statement is under way waits for its end. A full queue answers `Unavailable` at once.
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{FromRow, Row};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::postgres::{integer, recorded};
use crate::postgres_readers::Readers;
use crate::{CommitId, ReadError, Recorded, StreamId, Version};

/// Most questions in one statement.
const AT_ONCE: usize = 64;
/// Most that wait at one counter.
const QUEUE: usize = 4_096;
/// Of each stream at most so many events are asked for here.
pub(crate) const SHORT: usize = 64;

const MARKS: &str = "SELECT name, value FROM marks WHERE name = ANY ($1)";
const VERSIONS: &str = "SELECT name, version FROM streams WHERE name = ANY ($1)";
const REPLIES: &str = "SELECT id, reply FROM commits WHERE id = ANY ($1)";
const LOADS: &str =
    "SELECT found.*, nth FROM unnest($1::text[], $2::bigint[], $3::bigint[]) WITH ORDINALITY AS asked (name, after, most, nth),
    LATERAL (SELECT position, version, timestamp, id, type, schema, data::text, correlation_id, causation_id, actor, traceparent
        FROM events WHERE stream = (SELECT key FROM streams WHERE name = asked.name) AND version > after
        ORDER BY version LIMIT most) AS found";

/// What is asked of the server for many at once.
#[async_trait]
pub(crate) trait Question: Send + Sync + 'static {
    type Answer: Send + 'static;

    /// The answers to all of them, in their order.
    async fn ask(all: &[Self], db: &mut PgConnection) -> Result<Vec<Self::Answer>, sqlx::Error>
    where
        Self: Sized;
}

type Asked<Q> = (Q, oneshot::Sender<Result<<Q as Question>::Answer, ReadError>>);

/// Where questions of one kind are asked.
pub(crate) struct Counter<Q: Question> {
    name: String,
    queue: mpsc::Sender<Asked<Q>>,
}

impl<Q: Question> Counter<Q> {
    /// A counter that is open as long as `tasks` are there.
    pub(crate) fn open(readers: &Arc<Readers>, tasks: &mut JoinSet<()>) -> Counter<Q> {
        let (queue, asked) = mpsc::channel(QUEUE);
        tasks.spawn(serve(readers.clone(), asked));
        Counter { name: readers.name().to_owned(), queue }
    }

    /// The answer to a question.
    ///
    /// # Errors
    /// What the server says to this one, or that it is not reached in time.
    pub(crate) async fn ask(&self, question: Q) -> Result<Q::Answer, ReadError> {
        let (answer, answered) = oneshot::channel();
        let unavailable = |why: &str| ReadError::Unavailable(format!("{}: {why}", self.name));
        self.queue.try_send((question, answer)).map_err(|_| unavailable("too many reads are waiting"))?;
        answered.await.unwrap_or_else(|_| Err(unavailable("it was closed")))
    }
}

/// Answers until nobody can ask any more.
async fn serve<Q: Question>(readers: Arc<Readers>, mut queue: mpsc::Receiver<Asked<Q>>) {
    let mut asked = Vec::with_capacity(AT_ONCE);
    while queue.recv_many(&mut asked, AT_ONCE).await > 0 {
        // Some may have been given up meanwhile.
        let (questions, waiting): (Vec<_>, Vec<_>) = asked.drain(..).filter(|(_, answer)| !answer.is_closed()).unzip();
        let answers = match answers(&readers, &questions).await {
            Ok(answers) => answers.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(why) if questions.len() > 1 && is_about_data(&why) => {
                let mut each = Vec::with_capacity(questions.len());
                for question in questions.chunks(1) {
                    match answers(&readers, question).await {
                        Ok(answer) => each.extend(answer.into_iter().map(Ok)),
                        Err(why) => each.push(Err(readers.sentence(&why))),
                    }
                }
                each
            }
            Err(why) => questions.iter().map(|_| Err(readers.sentence(&why))).collect(),
        };
        for (waiting, answer) in waiting.into_iter().zip(answers) {
            // Nobody may be waiting any more.
            let _ = waiting.send(answer);
        }
    }
}

async fn answers<Q: Question>(readers: &Readers, questions: &[Q]) -> Result<Vec<Q::Answer>, sqlx::Error> {
    if questions.is_empty() {
        return Ok(vec![]);
    }
    readers.read(async |db| Q::ask(questions, db).await).await
}

/// Whether a question may have failed because of what another asks for, or finds. Where the server is slow or going, asking one
/// by one would hold up everybody for as long again for each.
fn is_about_data(why: &sqlx::Error) -> bool {
    match why {
        sqlx::Error::Database(said) => {
            said.code().is_some_and(|code| code.starts_with("22") || code.starts_with("XX00"))
        }
        _ => matches!(why, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)),
    }
}

/// What is found under names.
async fn named<T>(
    sql: &'static str,
    names: Vec<&str>,
    db: &mut PgConnection,
) -> Result<BTreeMap<String, T>, sqlx::Error>
where
    T: Send + Unpin,
    (String, T): for<'r> FromRow<'r, PgRow>,
{
    Ok(sqlx::query_as(sql).bind(names).fetch_all(db).await?.into_iter().collect())
}

/// What a mark says; 0 if there is none.
pub(crate) struct Mark(pub(crate) String);

#[async_trait]
impl Question for Mark {
    type Answer = u64;

    async fn ask(all: &[Mark], db: &mut PgConnection) -> Result<Vec<u64>, sqlx::Error> {
        let found = named::<i64>(MARKS, all.iter().map(|Mark(name)| name.as_str()).collect(), db).await?;
        Ok(all.iter().map(|Mark(name)| found.get(name).map_or(0, |value| *value as u64)).collect())
    }
}

/// The version of a stream; 0 if it does not exist.
pub(crate) struct VersionOf(pub(crate) StreamId);

#[async_trait]
impl Question for VersionOf {
    type Answer = Version;

    async fn ask(all: &[VersionOf], db: &mut PgConnection) -> Result<Vec<Version>, sqlx::Error> {
        let found = named::<i64>(VERSIONS, all.iter().map(|VersionOf(stream)| &*stream.0).collect(), db).await?;
        Ok(all.iter().map(|VersionOf(stream)| found.get(&*stream.0).map_or(0, |version| *version as Version)).collect())
    }
}

/// The reply of a commit, if it happened.
pub(crate) struct ReplyOf(pub(crate) CommitId);

#[async_trait]
impl Question for ReplyOf {
    type Answer = Option<Vec<u8>>;

    async fn ask(all: &[ReplyOf], db: &mut PgConnection) -> Result<Vec<Option<Vec<u8>>>, sqlx::Error> {
        let found = named::<Vec<u8>>(REPLIES, all.iter().map(|ReplyOf(id)| &*id.0).collect(), db).await?;
        Ok(all.iter().map(|ReplyOf(id)| found.get(&*id.0).cloned()).collect())
    }
}

/// Events of a stream after a version, at most [`SHORT`] and as many as are wanted.
pub(crate) struct Beginning {
    pub(crate) stream: StreamId,
    pub(crate) after: Version,
    pub(crate) limit: usize,
}

#[async_trait]
impl Question for Beginning {
    type Answer = Vec<Recorded>;

    async fn ask(all: &[Beginning], db: &mut PgConnection) -> Result<Vec<Vec<Recorded>>, sqlx::Error> {
        let streams: Vec<&str> = all.iter().map(|asked| &*asked.stream.0).collect();
        let after: Vec<i64> = all.iter().map(|asked| integer(asked.after)).collect();
        let most: Vec<i64> = all.iter().map(|asked| asked.limit.min(SHORT) as i64).collect();
        let rows = sqlx::query(LOADS).bind(streams).bind(after).bind(most).fetch_all(db).await?;
        let mut found: Vec<Vec<Recorded>> = all.iter().map(|_| vec![]).collect();
        for row in rows {
            let nth = usize::try_from(row.try_get::<i64, _>(11)?).unwrap_or_default();
            if let Some((asked, found)) = all.iter().zip(&mut found).nth(nth.wrapping_sub(1)) {
                found.push(recorded(&row, asked.stream.clone())?);
            }
        }
        // The server promises no order of the whole.
        found.iter_mut().for_each(|events| events.sort_unstable_by_key(|event| event.version));
        Ok(found)
    }
}

#[cfg(test)]
#[path = "postgres_questions_tests.rs"]
mod tests;
