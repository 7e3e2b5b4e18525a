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
//! be forgotten and loaded again; those behind it in the chain then fail too, for their expected versions never come true.
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
use crate::{ReadError, Snapshot, Store, StreamId, Version};

/// A snapshot is kept every so many versions of a stream.
pub const SNAPSHOT_EVERY: Version = 256;
const SNAPSHOT_SCHEMA: u16 = 1;

/// States by stream, at most `limit` of them.
#[derive(Debug)]
pub struct Hot<D> {
    states: BTreeMap<StreamId, Folded<D>>,
    limit: usize,
}

impl<D: Decider> Hot<D> {
    /// Holds nothing yet.
    #[must_use]
    pub fn new(limit: usize) -> Hot<D> {
        Hot { states: BTreeMap::new(), limit }
    }

    /// The newest state handed over, if it is held.
    #[must_use]
    pub fn get(&self, stream: &StreamId) -> Option<&Folded<D>> {
        self.states.get(stream)
    }

    /// Holds a state that was loaded, unless a newer one is held.
    pub fn put(&mut self, stream: StreamId, loaded: Folded<D>) {
        if self.states.len() >= self.limit {
            self.states.clear();
        }
        match self.states.get(&stream) {
            Some(held) if held.version >= loaded.version => {}
            _ => drop(self.states.insert(stream, loaded)),
        }
    }

    /// Moves a held state on by events that were just handed over.
    pub fn advance(&mut self, stream: &StreamId, events: &[D::Event]) {
        if let Some(held) = self.states.get_mut(stream) {
            *held = std::mem::take(held).then(events);
        }
    }

    /// Forgets a stream one of whose commits failed.
    pub fn forget(&mut self, stream: &StreamId) {
        self.states.remove(stream);
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
