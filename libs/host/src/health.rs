//! Alive, and ready or why not. A process that is alive and not ready is left running and gets no requests.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Where the parts of a process say whether they can work. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    missing: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Health {
    /// The part cannot work, and why.
    pub fn missing(&self, part: &str, why: impl Into<String>) {
        self.lock().insert(part.to_owned(), why.into());
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

    /// What cannot work, by part, with the reason; empty means ready.
    #[must_use]
    pub fn unready(&self) -> BTreeMap<String, String> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
