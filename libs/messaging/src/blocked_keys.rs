//! Which keys of a consumer are blocked: an index over its parked messages.
//!
//! # Problem
//! A list of dead letters that looks at every key which was ever parked costs as much as everything that was ever solved.
//!
//! # Pattern
//! Index table: written in the same commit as what it lists.
//!
//! # Here
//! The index is a stream `blocked-<consumer>`. The commit that parks the first message of a key adds the key, the one after which
//! nothing waits removes it. Both also move the parked stream from its exact version, so that what is said of one key has its order.
//! What an earlier program parked is added when the list is first asked for, once ([`Consumer::blocked_keys`]).
//!
//! # Limits
//! A process reads the history of the index once, and then what is new. While programs of before the index still park, what they park
//! after that first time is not listed.
use std::collections::BTreeSet;

use store::folded::{self, Folded};
use store::{Append, Commit, Expected, MarkMove, Meta, ReadError, StreamId};

use crate::blocked::{Blocked, Event};
use crate::consumer::{Consumer, Interrupted};
use crate::parked::Parked;

/// So many names are read, or keys added, at once.
const PAGE: usize = 500;

impl Consumer {
    fn index(&self) -> StreamId {
        format!("blocked-{}", self.0.group).into()
    }

    /// The change of the index that belongs to a commit which parks messages.
    pub(crate) fn now_blocked(&self, stream: &StreamId, before: &Parked) -> Option<Append> {
        let event = Event::KeyBlocked { stream: stream.to_string() };
        (before.all().next().is_none()).then(|| self.index_append(&[event]))
    }

    /// The change of the index that belongs to a commit which deals with one parked message.
    pub(crate) fn now_freed(&self, stream: &StreamId, before: &Parked) -> Option<Append> {
        let event = Event::KeyFreed { stream: stream.to_string() };
        (before.all().nth(1).is_none()).then(|| self.index_append(&[event]))
    }

    fn index_append(&self, events: &[Event]) -> Append {
        let events = events.iter().map(|event| folded::encode(event, &self.0.process.ids)).collect();
        Append { stream: self.index(), expected: Expected::Any, events }
    }

    /// The parked streams in which something waits.
    pub(crate) async fn blocked_keys(&self) -> Result<BTreeSet<String>, Interrupted> {
        let name = format!("blocked-{}", self.0.group);
        if self.0.store.mark(&name).await? == 0 {
            self.add_earlier(name).await?;
        }
        let before = self.0.index.lock().await.clone();
        let index: Folded<Blocked> = folded::load_from(self.0.store.as_ref(), &self.index(), before).await?;
        *self.0.index.lock().await = index.clone();
        Ok(index.state.0)
    }

    /// Adds what was parked before there was an index, and notes in the mark that this is done.
    async fn add_earlier(&self, name: String) -> Result<(), Interrupted> {
        let mut waiting = vec![];
        for topic in self.topics() {
            let (prefix, mut after) = (self.parked_prefix(topic), String::new());
            loop {
                let names = self.0.store.streams(&prefix, &after, PAGE).await?;
                for stream in &names {
                    if self.waits(stream).await? {
                        waiting.push(Event::KeyBlocked { stream: stream.to_string() });
                    }
                }
                match names.last() {
                    Some(last) if names.len() == PAGE => after = last.to_string(),
                    _ => break,
                }
            }
        }
        let fresh = || Commit::new(self.0.process.ids.next().to_string().into(), Meta::default());
        for some in waiting.chunks(PAGE) {
            self.commit(Commit { appends: vec![self.index_append(some)], ..fresh() }).await?;
        }
        match self.commit(Commit { marks: vec![MarkMove { name, from: 0, to: 1 }], ..fresh() }).await {
            // Another replica did the same: a key that is added twice is there once.
            Ok(()) | Err(Interrupted::Moved) => Ok(()),
            Err(other) => Err(other),
        }
    }

    async fn waits(&self, stream: &StreamId) -> Result<bool, ReadError> {
        let parked: Folded<Parked> = folded::load(self.0.store.as_ref(), stream).await?;
        Ok(parked.state.all().next().is_some())
    }
}
