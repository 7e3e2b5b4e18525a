//! States of busy streams, as far as commits have been handed over: "chaining".
//!
//! # Problem
//! Everybody wants the same product. With plain optimistic retry, 64 orders at once load the same version, one commit wins
//! and 63 start again: beyond 16 in flight that collapses (12 conflicts an order were measured at 64).
//!
//! # Pattern
//! Decide on the newest state that is already in the queue, and take the place in the queue under the same lock. Group
//! commit then writes the whole chain at once.
//!
//! # Here
//! [`Hot`] holds these states; whoever uses it wraps it in a lock, and under that one lock gets the state, decides, calls
//! [`Store::commit`] (which takes its place before it returns) and [`Hot::advance`]s. A commit that fails makes its streams
//! be forgotten and loaded again; those behind it in the chain fail too, for each names the one that it rests on
//! ([`Hot::rests_on`]). Expected versions alone would not do: where another replica was faster, its event has the version that
//! the chain was decided on, and says something else.
//!
//! # Limits
//! A decision may rest on a commit that fails later, so a refusal must be committed too, with the versions it was decided
//! on (appends without events). States come from this process's commits only: with several replicas a conflict is how one
//! learns of the other's.
use std::collections::BTreeMap;

use decider::Decider;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::folded::{Folded, load_from};
use crate::{CommitId, ReadError, Snapshot, Store, StreamId, Version};

/// A snapshot is kept every so many versions of a stream.
pub const SNAPSHOT_EVERY: Version = 64;
const SNAPSHOT_SCHEMA: u16 = 1;

/// States by stream, about `limit` of them at most.
#[derive(Debug)]
pub struct Hot<D> {
    streams: BTreeMap<StreamId, Entry<D>>,
    limit: usize,
    /// The latest generation given out.
    latest: Generation,
    /// The generation of streams that have no entry.
    absent: Generation,
}

/// Tells one loading of a stream from the next. It changes whenever the stream is forgotten.
pub type Generation = u64;

#[derive(Debug)]
struct Entry<D> {
    held: Option<Folded<D>>,
    generation: Generation,
    /// The last commit in what is held that may still fail.
    rests_on: Option<CommitId>,
}

impl<D: Decider> Hot<D> {
    /// Holds nothing yet.
    #[must_use]
    pub fn new(limit: usize) -> Hot<D> {
        Hot { streams: BTreeMap::new(), limit, latest: 0, absent: 0 }
    }

    /// The newest state handed over, if it is held.
    #[must_use]
    pub fn get(&self, stream: &StreamId) -> Option<&Folded<D>> {
        self.streams.get(stream)?.held.as_ref()
    }

    /// The present generation of a stream: to be noted before it is loaded, and when something is decided on it.
    #[must_use]
    pub fn generation(&self, stream: &StreamId) -> Generation {
        self.streams.get(stream).map_or(self.absent, |entry| entry.generation)
    }

    /// Holds a state that was loaded in this generation, unless one is held, or the stream was forgotten meanwhile: then
    /// what was loaded may be older than what was forgotten.
    pub fn put(&mut self, stream: StreamId, generation: Generation, loaded: Folded<D>) {
        if self.generation(&stream) != generation || self.get(&stream).is_some() {
            return;
        }
        if self.streams.len() >= self.limit {
            self.streams.clear();
            self.latest += 1;
            self.absent = self.latest;
        }
        let generation = self.generation(&stream);
        self.streams.insert(stream, Entry { held: Some(loaded), generation, rests_on: None });
    }

    /// Moves a held state on by events that were just handed over in this commit.
    pub fn advance(&mut self, stream: &StreamId, events: &[D::Event], commit: &CommitId) {
        if let Some(Entry { held: Some(held), rests_on, .. }) = self.streams.get_mut(stream)
            && !events.is_empty()
        {
            *held = std::mem::take(held).then(events);
            *rests_on = Some(commit.clone());
        }
    }

    /// The commit that has to happen for what is held to be true, if it may still fail: whatever is decided on it comes after
    /// that one.
    #[must_use]
    pub fn rests_on(&self, stream: &StreamId) -> Option<&CommitId> {
        self.streams.get(stream)?.rests_on.as_ref()
    }

    /// A commit has happened.
    pub fn confirm(&mut self, stream: &StreamId, commit: &CommitId) {
        if let Some(entry) = self.streams.get_mut(stream).filter(|entry| entry.rests_on.as_ref() == Some(commit)) {
            entry.rests_on = None;
        }
    }

    /// Forgets a stream one of whose commits, decided in this generation, failed. Those that failed behind it find the
    /// stream forgotten, or loaded again, and leave it alone: otherwise each would undo the other's new start.
    pub fn forget(&mut self, stream: &StreamId, generation: Generation) {
        if let Some(entry) = self.streams.get_mut(stream).filter(|entry| entry.generation == generation) {
            self.latest += 1;
            *entry = Entry { held: None, generation: self.latest, rests_on: None };
        }
    }
}

/// The present state of a stream, from its latest snapshot if one can be read.
///
/// # Errors
/// As [`crate::folded::load`].
pub async fn load<D>(store: &dyn Store, stream: &StreamId) -> Result<Folded<D>, ReadError>
where
    D: Decider + DeserializeOwned,
    D::Event: DeserializeOwned,
{
    let kept = store.snapshot(stream).await?.filter(|snapshot| snapshot.schema == SNAPSHOT_SCHEMA);
    let start =
        kept.and_then(|kept| Some(Folded { state: serde_json::from_str(&kept.data).ok()?, version: kept.version }));
    load_from(store, stream, start.unwrap_or_default()).await
}

/// Whether so many further events take a stream over a multiple of [`SNAPSHOT_EVERY`].
#[must_use]
pub fn crosses(before: Version, events: usize) -> bool {
    before / SNAPSHOT_EVERY != (before + events as Version) / SNAPSHOT_EVERY
}

/// A durable state as a snapshot.
///
/// # Panics
/// If the state is not plain data.
#[must_use]
pub fn snapshot<D: Serialize>(durable: &Folded<D>) -> Snapshot {
    let data = serde_json::to_string(&durable.state).expect("a state is plain data");
    Snapshot { version: durable.version, schema: SNAPSHOT_SCHEMA, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Default, PartialEq)]
    struct Count(u32);
    impl Decider for Count {
        type Command = ();
        type Event = ();
        type Rejection = ();
        fn decide(&self, (): &()) -> Result<Vec<()>, ()> {
            Ok(vec![()])
        }
        fn evolve(self, (): &()) -> Count {
            Count(self.0 + 1)
        }
    }

    fn at(version: Version) -> Folded<Count> {
        Folded { state: Count(0), version }
    }

    #[test]
    fn of_a_chain_that_fails_only_the_first_makes_the_stream_be_loaded_again() {
        let (mut hot, stream) = (Hot::new(10), StreamId::from("s"));
        hot.put(stream.clone(), hot.generation(&stream), at(5));
        let chain = hot.generation(&stream);
        hot.advance(&stream, &[()], &"a".into());
        hot.advance(&stream, &[()], &"a".into());
        hot.forget(&stream, chain);
        assert_eq!(hot.get(&stream), None);
        hot.put(stream.clone(), hot.generation(&stream), at(5));
        hot.advance(&stream, &[()], &"a".into());
        hot.forget(&stream, chain);
        assert_eq!(
            hot.get(&stream).map(|held| held.version),
            Some(6),
            "the second of the chain leaves the new start alone"
        );
    }

    #[test]
    fn what_is_held_rests_on_the_last_commit_that_may_still_fail() {
        let (mut hot, stream) = (Hot::new(10), StreamId::from("s"));
        hot.put(stream.clone(), hot.generation(&stream), at(5));
        hot.advance(&stream, &[], &"nothing".into());
        assert_eq!(hot.rests_on(&stream), None, "a commit without events changes no state");
        hot.advance(&stream, &[()], &"a".into());
        hot.advance(&stream, &[()], &"b".into());
        hot.confirm(&stream, &"a".into());
        assert_eq!(hot.rests_on(&stream), Some(&"b".into()));
        hot.confirm(&stream, &"b".into());
        assert_eq!(hot.rests_on(&stream), None);
    }

    #[test]
    fn what_was_loaded_before_a_stream_was_forgotten_is_not_held() {
        let (mut hot, stream) = (Hot::new(2), StreamId::from("s"));
        let slow = hot.generation(&stream);
        hot.put(stream.clone(), slow, at(10));
        hot.advance(&stream, &[()], &"a".into());
        hot.forget(&stream, slow);
        hot.put(stream.clone(), slow, at(10));
        assert_eq!(hot.get(&stream), None, "the disk is at 11");

        let slow = hot.generation(&"t".into());
        for other in ["u", "v", "w"] {
            hot.put(other.into(), hot.generation(&other.into()), at(1));
        }
        hot.put("t".into(), slow, at(10));
        assert_eq!(hot.get(&"t".into()), None, "everything was dropped for want of room meanwhile");
    }
}
