//! Alive, and ready or why not. A process that is alive and not ready is left running and gets no requests.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Where the parts of a process say whether they can work. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<String, State>>>,
}

/// What is the matter with a part.
#[derive(Clone, Debug)]
enum State {
    Missing(String),
    Degraded(String),
}

impl Health {
    /// The part cannot work, and why: without it the process should get no requests.
    pub fn missing(&self, part: &str, why: impl Into<String>) {
        self.lock().insert(part.to_owned(), State::Missing(why.into()));
    }

    /// The part cannot work, and why: without it the process still answers most requests, and stays ready.
    pub fn degraded(&self, part: &str, why: impl Into<String>) {
        self.lock().insert(part.to_owned(), State::Degraded(why.into()));
    }

    /// The part can work.
    pub fn ready(&self, part: &str) {
        self.lock().remove(part);
    }

    /// The part can work unless there is a reason why not.
    pub fn tell(&self, part: &str, why: Option<impl ToString>) {
        match why {
            Some(why) => self.missing(part, why.to_string()),
            None => self.ready(part),
        }
    }

    /// What cannot work and makes the process unready, by part, with the reason; empty means ready.
    #[must_use]
    pub fn unready(&self) -> BTreeMap<String, String> {
        let of = |(part, state): (&String, &State)| match state {
            State::Missing(why) => Some((part.clone(), why.clone())),
            State::Degraded(_) => None,
        };
        self.lock().iter().filter_map(of).collect()
    }

    /// What cannot work although the process is ready, by part, with the reason.
    #[must_use]
    pub fn impaired(&self) -> BTreeMap<String, String> {
        let of = |(part, state): (&String, &State)| match state {
            State::Degraded(why) => Some((part.clone(), why.clone())),
            State::Missing(_) => None,
        };
        self.lock().iter().filter_map(of).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, State>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
