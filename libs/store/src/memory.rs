//! The store's simplest truth: everything in one process's memory, behind one lock.
//!
//! # Problem
//! What a store promises is hard to see in one that also handles files, threads and batches; and tests and the
//! simulation need a store that starts empty in no time.
//!
//! # Pattern
//! A fake: the same port, the same answers, none of the machinery. It is as weak as the port allows, so that code which
//! works here needs nothing stronger elsewhere.
//!
//! # Here
//! One list of events in commit order, and an index of it by stream. An event's position is its place in that list;
//! only the first `sequenced` of them show theirs. [`Store::read_all`] answers from those and sequences the others
//! afterwards, so a reader meets a commit at the earliest on its second look.
//!
//! # Limits
//! Nothing survives the process. Claiming timers looks at all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use clock::{Clock, Timestamp};
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use tokio::sync::watch;
use uuid::Uuid;

use crate::leases::Leases;
use crate::{
    Append, Commit, CommitError, CommitId, MarkMove, Meta, Position, ReadError, Recorded, Snapshot, Store, StreamId,
    TimerChange, Version, Versions, comes_after,
};

/// A store in memory.
pub struct Memory {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    leases: Leases,
    growth: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// All events in commit order; their own `position` stays empty.
    log: Vec<Recorded>,
    /// How many of the log have their positions.
    sequenced: usize,
    /// Places in the log, by stream and then by version.
    streams: BTreeMap<Arc<str>, Vec<usize>>,
    event_ids: BTreeSet<Uuid>,
    replies: BTreeMap<CommitId, Vec<u8>>,
    timers: BTreeMap<String, Timestamp>,
    marks: BTreeMap<String, u64>,
    snapshots: BTreeMap<StreamId, Snapshot>,
}

impl Memory {
    /// An empty store that takes its time from `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Memory {
        Memory { clock, state: Mutex::default(), leases: Leases::default(), growth: watch::Sender::new(()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for Memory {
    async fn load(&self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        let state = self.state();
        let places = state.streams.get(&stream.0).map_or(&[][..], Vec::as_slice);
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        Ok(places.iter().skip(after).take(limit).map(|place| state.recorded(*place)).collect())
    }

    async fn version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        Ok(self.state().version(stream))
    }

    async fn streams(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<StreamId>, ReadError> {
        let state = self.state();
        let names = state.streams.keys().filter(|name| name.starts_with(prefix) && &***name > after);
        Ok(names.take(limit).cloned().map(StreamId).collect())
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Versions, CommitError>> {
        let now = self.clock.now();
        let outcome = self.state().commit(commit, now);
        self.growth.send_replace(());
        future::ready(outcome).boxed()
    }

    async fn reply(&self, id: &CommitId) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.state().replies.get(id).cloned())
    }

    async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        let mut state = self.state();
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        let seen = (0..state.sequenced).skip(after).take(limit).map(|place| state.recorded(place)).collect();
        if state.sequenced < state.log.len() {
            state.sequenced = state.log.len();
            self.growth.send_replace(());
        }
        Ok(seen)
    }

    async fn end(&self) -> Result<Position, ReadError> {
        Ok(self.state().sequenced as Position)
    }

    async fn claim_due(&self, lease: Duration, limit: usize) -> Result<Vec<String>, ReadError> {
        let now = self.clock.now();
        let mut state = self.state();
        let mut due: Vec<_> =
            state.timers.iter().filter(|(_, due)| **due <= now).map(|(key, due)| (*due, key)).collect();
        due.sort_unstable();
        let keys: Vec<_> = due.into_iter().take(limit).map(|(_, key)| key.clone()).collect();
        state.timers.extend(keys.iter().map(|key| (key.clone(), now.after(lease))));
        Ok(keys)
    }

    async fn lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<bool, ReadError> {
        Ok(self.leases.take(name, holder, self.clock.now(), length))
    }

    async fn armed(&self) -> Result<u64, ReadError> {
        Ok(self.state().timers.len() as u64)
    }

    async fn timers(&self, after: &str, limit: usize) -> Result<Vec<(String, Timestamp)>, ReadError> {
        let state = self.state();
        let later = state.timers.iter().filter(|(key, _)| key.as_str() > after);
        Ok(later.take(limit).map(|(key, due)| (key.clone(), *due)).collect())
    }

    fn growth(&self) -> watch::Receiver<()> {
        self.growth.subscribe()
    }

    async fn mark(&self, name: &str) -> Result<u64, ReadError> {
        Ok(self.state().marks.get(name).copied().unwrap_or(0))
    }

    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, ReadError> {
        Ok(self.state().snapshots.get(stream).cloned())
    }

    async fn keep_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<(), ReadError> {
        let mut state = self.state();
        let kept = state.snapshots.get(stream).map_or(1, |kept| kept.version);
        if (kept..=state.version(stream)).contains(&snapshot.version) {
            state.snapshots.insert(stream.clone(), snapshot);
        }
        Ok(())
    }

    async fn drop_snapshots(&self) -> Result<(), ReadError> {
        self.state().snapshots.clear();
        Ok(())
    }
}

impl State {
    fn version(&self, stream: &StreamId) -> Version {
        self.streams.get(&stream.0).map_or(0, |places| places.len() as Version)
    }

    fn recorded(&self, place: usize) -> Recorded {
        let position = (place < self.sequenced).then_some(place as Position + 1);
        Recorded { position, ..self.log[place].clone() }
    }

    /// Every check comes before the first change.
    fn commit(&mut self, commit: Commit, now: Timestamp) -> Result<Versions, CommitError> {
        commit.check().map_err(CommitError::Malformed)?;
        if let Some(reply) = self.replies.get(&commit.id) {
            return Err(CommitError::AlreadyHandled(reply.clone()));
        }
        if let Some(missing) = commit.after.iter().find(|id| !self.replies.contains_key(id)) {
            return Err(comes_after(missing));
        }
        for mark in &commit.marks {
            mark.judge(self.marks.get(&mark.name).copied().unwrap_or(0))?;
        }
        for append in &commit.appends {
            append.judge(self.version(&append.stream))?;
        }
        let mut fresh = BTreeSet::new();
        for event in commit.appends.iter().flat_map(|append| &append.events) {
            if self.event_ids.contains(&event.id) || !fresh.insert(event.id) {
                return Err(CommitError::Malformed(format!("event {} exists already", event.id)));
            }
        }
        self.event_ids.extend(fresh);
        let now = self.not_before(&commit.appends, now);
        let versions = commit.appends.into_iter().map(|append| self.append(append, &commit.meta, now)).collect();
        for timer in commit.timers {
            match timer {
                TimerChange::Set { key, due } => self.timers.insert(key, due),
                TimerChange::Clear { key } => self.timers.remove(&key),
            };
        }
        self.marks.extend(commit.marks.into_iter().map(|MarkMove { name, to, .. }| (name, to)));
        self.replies.insert(commit.id, commit.reply);
        Ok(versions)
    }

    /// `now`, or the latest time that is recorded in the streams which grow.
    fn not_before(&self, appends: &[Append], now: Timestamp) -> Timestamp {
        let growing = appends.iter().filter(|append| !append.events.is_empty());
        let last = growing.filter_map(|append| self.streams.get(&append.stream.0)?.last());
        last.map(|place| self.log[*place].timestamp).fold(now, Timestamp::max)
    }

    fn append(&mut self, append: Append, meta: &Meta, timestamp: Timestamp) -> Version {
        for event in append.events {
            let places = self.streams.entry(append.stream.0.clone()).or_default();
            places.push(self.log.len());
            let (stream, version, meta) = (append.stream.clone(), places.len() as Version, meta.clone());
            self.log.push(Recorded { position: None, stream, version, timestamp, event, meta });
        }
        self.version(&append.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Expected;
    use crate::contract::{HandClock, Subject, hold_the_contract};

    async fn make() -> Subject {
        let clock = HandClock::new();
        Subject::new(Arc::new(Memory::new(clock.clone())), clock, ())
    }
    hold_the_contract!(make);

    #[tokio::test]
    async fn positions_are_late_on_purpose() {
        let subject = make().await;
        for n in 0..3 {
            subject.store.commit(subject.step(&n.to_string(), "s", Expected::Any, 1)).await.unwrap();
            let position = subject.store.load(&"s".into(), n, 1).await.unwrap()[0].position;
            assert_eq!(position, None, "nobody has looked yet");
            assert_eq!(subject.store.read_all(n, 9).await, Ok(vec![]), "the first look");
            assert_eq!(subject.store.read_all(n, 9).await.unwrap().len(), 1, "the second");
        }
    }
}
