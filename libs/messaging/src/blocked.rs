//! PURE. Which keys of a consumer are blocked, as the fold of what was said of each (`blocked_keys.rs`).
use std::collections::BTreeSet;

use decider::Decider;
use serde::{Deserialize, Serialize};

/// The parked streams in which something waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocked(pub(crate) BTreeSet<String>);

/// A change of the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Event {
    KeyBlocked { stream: String },
    KeyFreed { stream: String },
}

impl Decider for Blocked {
    type Command = ();
    type Event = Event;
    type Rejection = ();

    fn decide(&self, (): &()) -> Result<Vec<Event>, ()> {
        Ok(vec![])
    }

    fn evolve(mut self, event: &Event) -> Blocked {
        match event {
            Event::KeyBlocked { stream } => _ = self.0.insert(stream.clone()),
            Event::KeyFreed { stream } => _ = self.0.remove(stream),
        }
        self
    }
}
