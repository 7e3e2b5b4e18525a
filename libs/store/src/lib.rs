//! The event store: the port, and what every adapter of it promises.
//!
//! # Problem
//! A row that is overwritten forgets how it came about; two writers overwrite each other; a retry of a request whose
//! answer got lost does everything twice; and a reader that tails the table by its serial number misses rows that commit
//! late.
//!
//! # Pattern
//! Event sourcing with optimistic concurrency (expected versions), and idempotent commits: everything one step changes is
//! one [`Commit`] with an id, and the reply is remembered under that id.
//!
//! # Here
//! [`Store`] is the port. Its simplest truth is [`memory`], its embedded form [`sqlite`], its form for several processes
//! `postgres` (with the feature `infra`); all pass the suite in `contract.rs`; [`wrapped`] makes one that fails.
//! [`folded`] turns streams into states of a decider and runs use cases; [`hot`] keeps the states of busy streams.
//!
//! # Limits
//! A commit changes one store and can contain no remote call: what spans stores is a saga's. Positions may come later
//! than the commit (never out of order within a stream), so a read-your-writes token is (stream, version).

#[cfg(test)]
mod contract;
#[cfg(test)]
mod contract_agreement;
#[cfg(test)]
mod contract_commits;
#[cfg(test)]
mod contract_extras;
#[cfg(test)]
mod contract_log;
pub mod file_watch;
pub mod folded;
pub mod fsync;
pub mod hot;
mod leases;
pub mod memory;
#[cfg(feature = "infra")]
pub mod postgres;
#[cfg(feature = "infra")]
mod postgres_agenda;
#[cfg(feature = "infra")]
mod postgres_batch;
#[cfg(feature = "infra")]
mod postgres_environment;
#[cfg(feature = "infra")]
mod postgres_pooler;
#[cfg(feature = "infra")]
mod postgres_questions;
#[cfg(feature = "infra")]
mod postgres_readers;
#[cfg(feature = "infra")]
mod postgres_schema;
#[cfg(feature = "infra")]
mod postgres_sequencer;
#[cfg(feature = "infra")]
mod postgres_views;
#[cfg(feature = "infra")]
mod postgres_writer;
pub mod seal;
pub mod sqlite;
pub mod sqlite_backup;
mod sqlite_checks;
pub mod sqlite_file;
pub mod sqlite_guard;
mod sqlite_writer;
pub mod timers;
pub mod turn;
pub mod wrapped;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clock::Timestamp;
use futures::future::BoxFuture;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

/// Counts the events of one stream from 1; 0 is a stream that does not exist.
pub type Version = u64;
/// Counts the events of one store from 1, without holes, in an order that every stream's versions agree with.
pub type Position = u64;

/// The name of a stream, `<aggregate>-<id>`, 1 to [`MAX_NAME_BYTES`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub Arc<str>);

/// What identifies a commit for ever. A command's id: whoever retries, retries under the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(pub Arc<str>);

/// Longest stream name, commit id, timer key and mark name, in bytes.
pub const MAX_NAME_BYTES: usize = 200;
/// Most events in one commit.
pub const MAX_EVENTS: usize = 1_000;
/// Longest data of one event, and longest reply, in bytes.
pub const MAX_DATA_BYTES: usize = 1 << 20;
/// Largest value of a mark: what a database's integer holds.
pub const MAX_MARK: u64 = i64::MAX as u64;

macro_rules! names {
    ($($name:ident),*) => {$(
        impl<T: Into<Arc<str>>> From<T> for $name {
            fn from(text: T) -> $name { $name(text.into()) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
    )*};
}
names!(StreamId, CommitId);

/// Where a commit comes from; kept beside every event of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The business transaction that this belongs to, such as the order.
    pub correlation_id: String,
    /// The command or event that led to this.
    pub causation_id: String,
    /// Who asked: `customer:<id>`, `operator:<name>` or `saga:<id>`.
    pub actor: String,
    /// The trace, in the form of W3C Trace Context.
    pub traceparent: String,
}

/// An event to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Unique for ever, growing with time.
    pub id: Uuid,
    /// What kind of event, such as `OrderPlaced`.
    pub kind: String,
    /// Which version of the kind's data; counts from 1.
    pub schema: u16,
    /// JSON, kept byte for byte.
    pub data: String,
}

/// An event as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its place in the whole log; absent where it is not assigned yet.
    pub position: Option<Position>,
    /// Its stream.
    pub stream: StreamId,
    /// Its place in the stream.
    pub version: Version,
    /// When it was recorded, by the store's clock. Within a stream it never goes backwards; from stream to stream it may, by
    /// as much as commits overlap or the clock is set back.
    pub timestamp: Timestamp,
    /// What was appended.
    pub event: NewEvent,
    /// Where it comes from.
    pub meta: Meta,
}

/// Which version a stream must have for a commit to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whatever it is.
    Any,
    /// It must not exist.
    NoStream,
    /// Exactly this one; `Exact(0)` is `NoStream`.
    Exact(Version),
}

/// Events for one stream. Without events it only asserts the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Which stream. A commit names each at most once.
    pub stream: StreamId,
    /// What its version must be.
    pub expected: Expected,
    /// What happened, in order.
    pub events: Vec<NewEvent>,
}

/// A change of a timer. A key has at most one timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimerChange {
    /// Arms it, or moves it.
    Set {
        /// Which.
        key: String,
        /// When it is due, by the store's clock.
        due: Timestamp,
    },
    /// Disarms it, if armed.
    Clear {
        /// Which.
        key: String,
    },
}

/// A mark ("handled up to") moved from the value it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkMove {
    /// Which mark.
    pub name: String,
    /// The value it must have; 0 is a mark that was never moved.
    pub from: u64,
    /// The value it gets, larger than `from`.
    pub to: u64,
}

/// Everything that one step changes, as one value: all of it happens or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Identifies it: committing again under the same id does nothing and answers the remembered reply.
    pub id: CommitId,
    /// Where it comes from.
    pub meta: Meta,
    /// Commits that it was decided on and that may still fail: unless all of them have happened, it is a conflict. A version
    /// alone does not tell: where a commit fails because somebody else was faster, his event has the same one.
    pub after: Vec<CommitId>,
    /// What happened, stream by stream.
    pub appends: Vec<Append>,
    /// What to remember under the id.
    pub reply: Vec<u8>,
    /// Timers that change with it.
    pub timers: Vec<TimerChange>,
    /// Marks that move with it.
    pub marks: Vec<MarkMove>,
}

impl Commit {
    /// A commit that changes nothing yet.
    #[must_use]
    pub fn new(id: CommitId, meta: Meta) -> Commit {
        let (after, appends, reply, timers, marks) = Default::default();
        Commit { id, meta, after, appends, reply, timers, marks }
    }

    /// Why no store would take it, whatever its state; the same words in every adapter.
    ///
    /// # Errors
    /// The first limit it breaks, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        let name = |what: &str, text: &str| match text.len() {
            1..=MAX_NAME_BYTES if !text.contains('\0') => Ok(()),
            n => Err(format!("{what} must have 1 to {MAX_NAME_BYTES} bytes and no NUL; it has {n} bytes")),
        };
        name("a commit id", &self.id.0)?;
        self.after.iter().try_for_each(|id| name("a commit id", &id.0))?;
        if self.after.len() > MAX_EVENTS {
            return Err(format!("a commit names at most {MAX_EVENTS} others, not {}", self.after.len()));
        }
        if self.reply.len() > MAX_DATA_BYTES {
            return Err(format!("a reply has at most {MAX_DATA_BYTES} bytes, not {}", self.reply.len()));
        }
        let events: usize = self.appends.iter().map(|append| append.events.len()).sum();
        if events > MAX_EVENTS {
            return Err(format!("a commit has at most {MAX_EVENTS} events, not {events}"));
        }
        for (n, append) in self.appends.iter().enumerate() {
            name("a stream name", &append.stream.0)?;
            if self.appends[..n].iter().any(|before| before.stream == append.stream) {
                return Err(format!("a commit names stream {} twice", append.stream));
            }
            append.events.iter().try_for_each(NewEvent::check)?;
        }
        let Meta { correlation_id, causation_id, actor, traceparent } = &self.meta;
        if [correlation_id, causation_id, actor, traceparent].iter().any(|text| text.contains('\0')) {
            return Err("where a commit comes from has no NUL".to_owned());
        }
        for timer in &self.timers {
            let (TimerChange::Set { key, .. } | TimerChange::Clear { key }) = timer;
            name("a timer key", key)?;
        }
        for (n, mark) in self.marks.iter().enumerate() {
            name("a mark's name", &mark.name)?;
            if mark.to <= mark.from {
                return Err(format!("mark {} moves forward, not from {} to {}", mark.name, mark.from, mark.to));
            }
            if mark.to > MAX_MARK {
                return Err(format!("mark {} goes up to {MAX_MARK}, not {}", mark.name, mark.to));
            }
            if self.marks[..n].iter().any(|before| before.name == mark.name) {
                return Err(format!("a commit moves mark {} twice", mark.name));
            }
        }
        Ok(())
    }
}

impl NewEvent {
    /// As [`Commit::check`].
    fn check(&self) -> Result<(), String> {
        let NewEvent { kind, data, .. } = self;
        if kind.contains('\0') {
            return Err(format!("the kind of an event has no NUL, as {kind:?} has"));
        }
        if data.len() > MAX_DATA_BYTES {
            return Err(format!("data of {kind} has at most {MAX_DATA_BYTES} bytes, not {}", data.len()));
        }
        // A database that checks would break the transaction of others over it.
        serde_json::from_str::<IgnoredAny>(data).map(drop).map_err(|why| format!("data of {kind} is not JSON: {why}"))
    }
}

/// What a commit is told that comes after one which has not happened; the same words in every adapter.
pub(crate) fn comes_after(id: &CommitId) -> CommitError {
    CommitError::Conflict { what: id.to_string(), expected: 1, actual: 0 }
}

impl Append {
    /// Whether the stream at `actual` is where the append expects it; the same rule in every adapter.
    pub(crate) fn judge(&self, actual: Version) -> Result<(), CommitError> {
        let expected = match self.expected {
            Expected::Any => return Ok(()),
            Expected::NoStream => 0,
            Expected::Exact(version) => version,
        };
        if actual == expected {
            return Ok(());
        }
        Err(CommitError::Conflict { what: self.stream.to_string(), expected, actual })
    }
}

impl MarkMove {
    /// Whether the mark at `actual` can make this move; the same rule in every adapter.
    ///
    /// A mark within the move is a conflict: what lies between it and `to` has been handled by nobody.
    pub(crate) fn judge(&self, actual: u64) -> Result<(), CommitError> {
        match actual {
            _ if actual == self.from => Ok(()),
            _ if actual >= self.to => Err(CommitError::AlreadyHandled(Vec::new())),
            _ => Err(CommitError::Conflict { what: self.name.clone(), expected: self.from, actual }),
        }
    }
}

/// The version that each stream of the commit has after it, in the order of its appends.
pub type Versions = Vec<Version>;

/// Why a commit did not happen, or may not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A stream has another version than expected, a commit that this one comes after has not happened (it is at 0, not at
    /// 1), or a mark is neither where its move starts nor past it. Nothing happened: load again and decide anew.
    #[error("{what} is at {actual}, not at {expected} as expected")]
    Conflict {
        /// The stream, commit or mark.
        what: String,
        /// Its expected version or value.
        expected: u64,
        /// Its real one.
        actual: u64,
    },
    /// A commit with this id happened before; this is its reply. A mark that is past its move answers the same with an
    /// empty reply.
    #[error("handled before")]
    AlreadyHandled(Vec<u8>),
    /// It is unknown whether it happened. Commit again under the same id.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// No store would take it: a bug of the caller.
    #[error("malformed commit: {0}")]
    Malformed(String),
}

/// Why nothing could be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The store cannot be reached. Try again later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What is stored cannot be what was written. Stop and look.
    #[error("the store is corrupt: {0}")]
    Corrupt(String),
}

/// The state of a stream, kept so that loading it need not begin at version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The version that the state is of.
    pub version: Version,
    /// Which version of the state's form. A reader ignores a snapshot of another.
    pub schema: u16,
    /// The state as JSON.
    pub data: String,
}

/// The port. One store belongs to one service.
///
/// Everything an adapter promises is in `contract.rs`, as tests.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Up to `limit` events of `stream` with versions greater than `after`, in order.
    async fn load(&self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<Recorded>, ReadError>;

    /// The version of `stream`; 0 if it does not exist.
    async fn version(&self, stream: &StreamId) -> Result<Version, ReadError>;

    /// Up to `limit` names of streams that start with `prefix` and are greater than `after`, in byte order.
    async fn streams(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<StreamId>, ReadError>;

    /// Commits. It takes its place in the queue before this returns, whether or not the future is polled: commits that
    /// one caller hands over in order and that name the same stream are applied in that order, or fail. A caller may
    /// thus decide on the state that an earlier, still unanswered commit leads to, and names that one in [`Commit::after`].
    /// Dropping the future revokes nothing.
    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Versions, CommitError>>;

    /// The reply remembered under `id`, if a commit with it happened.
    async fn reply(&self, id: &CommitId) -> Result<Option<Vec<u8>>, ReadError>;

    /// Up to `limit` events with positions greater than `after`, in order. Positions may be assigned a while after the
    /// commit; once a position was seen, no smaller one appears.
    async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError>;

    /// The last position that was assigned; 0 before the first. What has none yet gets a greater one.
    async fn end(&self) -> Result<Position, ReadError>;

    /// Claims up to `limit` due timers, earliest first: in one conditional update each is re-armed to `lease` from now,
    /// so that one claimer acts on it per lease, and another does if this one dies. What another process set may be claimed
    /// some seconds late.
    async fn claim_due(&self, lease: Duration, limit: usize) -> Result<Vec<String>, ReadError>;

    /// Takes the lease `name` for `holder` until `length` from now, or renews it; whether `holder` has it. It has not while
    /// somebody else's runs, by the store's clock; a length of zero gives it back.
    ///
    /// It saves replicas the work of one another, and guards nothing: who has it may be stopped, and act after it ran out.
    /// What must not be done twice moves a mark.
    async fn lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<bool, ReadError>;

    /// How many timers are armed, due or not.
    async fn armed(&self) -> Result<u64, ReadError>;

    /// Up to `limit` armed timers with keys greater than `after`, in byte order, each with when it is due.
    async fn timers(&self, after: &str, limit: usize) -> Result<Vec<(String, Timestamp)>, ReadError>;

    /// Changes some time after events were appended and can be read, several commits at a time. It is a hint that saves
    /// looking: what another process commits may not show, so nobody waits for it alone.
    fn growth(&self) -> watch::Receiver<()>;

    /// The value of a mark; 0 if it was never moved.
    async fn mark(&self, name: &str) -> Result<u64, ReadError>;

    /// The latest snapshot of `stream`, if there is one.
    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, ReadError>;

    /// Keeps a snapshot, unless a later one is kept or the stream is not that far. Best effort: it is a cache.
    async fn keep_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<(), ReadError>;

    /// Drops all snapshots. It changes no answer.
    async fn drop_snapshots(&self) -> Result<(), ReadError>;
}
