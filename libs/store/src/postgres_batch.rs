//! Judges the commits of one batch of the store on PostgreSQL. PURE.
//!
//! # Problem
//! Commits that share a transaction must still fail alone, and a later one must see what an earlier one did.
//!
//! # Pattern
//! Functional core: what the database says is read first, the commits are judged on it in memory, and what follows is
//! written at once.
//!
//! # Here
//! [`Ground`] is what the batch stands on, locked; [`Batch`] carries it from commit to commit and gathers the rows as
//! columns, one array each, as `unnest` takes them. The rules are those of every adapter ([`Append::judge`] and others).
//!
//! # Limits
//! An event id that is in the database is met when it is inserted, and breaks the batch.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clock::Timestamp;
use uuid::Uuid;

use crate::{Append, Commit, CommitError, CommitId, Meta, TimerChange, Version, Versions, comes_after};

/// A stream as it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) key: i64,
    pub(crate) version: Version,
    /// Of its latest event.
    pub(crate) timestamp: Timestamp,
}

/// What the commits of a batch are judged on. Nobody else changes it before the batch ends.
#[derive(Debug, Default)]
pub(crate) struct Ground {
    /// Of every stream that the commits name.
    pub(crate) heads: BTreeMap<Arc<str>, Head>,
    /// Every mark that they move.
    pub(crate) marks: BTreeMap<Arc<str>, u64>,
    /// Which of the commits that they are or name have happened, and the replies of those that they are.
    pub(crate) known: BTreeMap<CommitId, Vec<u8>>,
    /// By the store's clock.
    pub(crate) now: Timestamp,
    /// The next position, if it is the batch's turn to give them.
    pub(crate) next: Option<i64>,
}

/// Rows to insert into the events, column by column.
#[derive(Default)]
pub(crate) struct Events<'c> {
    pub(crate) ids: Vec<Uuid>,
    pub(crate) streams: Vec<i64>,
    pub(crate) versions: Vec<i64>,
    pub(crate) kinds: Vec<&'c str>,
    pub(crate) schemas: Vec<i32>,
    pub(crate) data: Vec<&'c str>,
    pub(crate) timestamps: Vec<i64>,
    pub(crate) correlation_ids: Vec<&'c str>,
    pub(crate) causation_ids: Vec<&'c str>,
    pub(crate) actors: Vec<&'c str>,
    pub(crate) traceparents: Vec<&'c str>,
}

/// Commits judged so far, and what they change.
#[derive(Default)]
pub(crate) struct Batch<'c> {
    ground: Ground,
    pub(crate) events: Events<'c>,
    /// New commits with their replies, in the order of their ids: two writers that meet wait for one another in one
    /// direction.
    pub(crate) replies: BTreeMap<&'c str, &'c [u8]>,
    /// When each is due, or that it is cleared.
    pub(crate) timers: BTreeMap<&'c str, Option<i64>>,
    /// Where each was moved to.
    pub(crate) marks: BTreeMap<&'c str, i64>,
    /// Streams that have grown, by key.
    pub(crate) grown: BTreeMap<i64, Head>,
    fresh: BTreeSet<Uuid>,
}

impl<'c> Batch<'c> {
    pub(crate) fn on(ground: Ground) -> Batch<'c> {
        Batch { ground, ..Batch::default() }
    }

    /// The position of its first event; the others follow.
    pub(crate) fn first(&self) -> Option<i64> {
        self.ground.next
    }

    /// Judges the next commit and takes it in, unless it is refused: then it leaves nothing behind.
    pub(crate) fn judge(&mut self, commit: &'c Commit) -> Result<Versions, CommitError> {
        let Ground { known, marks, heads, now, .. } = &self.ground;
        if let Some(reply) = known.get(&commit.id) {
            return Err(CommitError::AlreadyHandled(reply.clone()));
        }
        if let Some(missing) = commit.after.iter().find(|id| !known.contains_key(id)) {
            return Err(comes_after(missing));
        }
        for moving in &commit.marks {
            moving.judge(marks.get(moving.name.as_str()).copied().unwrap_or(0))?;
        }
        let before: Vec<Head> = commit.appends.iter().map(|append| heads[&append.stream.0]).collect();
        for (append, head) in commit.appends.iter().zip(&before) {
            append.judge(head.version)?;
        }
        let latest = before.iter().zip(&commit.appends).filter(|(_, append)| !append.events.is_empty());
        let now = latest.fold(*now, |now, (head, _)| now.max(head.timestamp));
        self.are_new(commit)?;
        self.replies.insert(&commit.id.0, &commit.reply);
        self.ground.known.insert(commit.id.clone(), commit.reply.clone());
        for moving in &commit.marks {
            self.marks.insert(&moving.name, moving.to as i64);
            self.ground.marks.insert(moving.name.as_str().into(), moving.to);
        }
        for timer in &commit.timers {
            match timer {
                TimerChange::Set { key, due } => self.timers.insert(key, Some(due.0)),
                TimerChange::Clear { key } => self.timers.insert(key, None),
            };
        }
        Ok(commit
            .appends
            .iter()
            .zip(before)
            .map(|(append, head)| self.append(append, head, &commit.meta, now))
            .collect())
    }

    /// Whether no event of the batch has the id of one of the commit's.
    fn are_new(&mut self, commit: &Commit) -> Result<(), CommitError> {
        let mut own = BTreeSet::new();
        for event in commit.appends.iter().flat_map(|append| &append.events) {
            if self.fresh.contains(&event.id) || !own.insert(event.id) {
                return Err(exists(event.id));
            }
        }
        self.fresh.extend(own);
        Ok(())
    }

    fn append(&mut self, append: &'c Append, mut head: Head, meta: &'c Meta, now: Timestamp) -> Version {
        if append.events.is_empty() {
            return head.version;
        }
        head.timestamp = now;
        let rows = &mut self.events;
        for event in &append.events {
            head.version += 1;
            rows.ids.push(event.id);
            rows.streams.push(head.key);
            rows.versions.push(head.version as i64);
            rows.kinds.push(&event.kind);
            rows.schemas.push(event.schema.into());
            rows.data.push(&event.data);
            rows.timestamps.push(now.0);
            rows.correlation_ids.push(&meta.correlation_id);
            rows.causation_ids.push(&meta.causation_id);
            rows.actors.push(&meta.actor);
            rows.traceparents.push(&meta.traceparent);
        }
        self.ground.heads.insert(append.stream.0.clone(), head);
        self.grown.insert(head.key, head);
        head.version
    }
}

/// What is told of an event whose id another event has.
pub(crate) fn exists(id: Uuid) -> CommitError {
    CommitError::Malformed(format!("event {id} exists already"))
}
