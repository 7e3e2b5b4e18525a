//! What happened in a run, line by line, in true time: what a person reads of a broken seed, and what two runs of one seed
//! are compared by.
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use crate::time::Time;

/// The lines of a run. Clones share them.
#[derive(Clone, Default)]
pub struct Trace {
    time: Time,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Trace {
    /// No lines yet.
    #[must_use]
    pub fn new(time: &Time) -> Trace {
        Trace { time: time.clone(), lines: Arc::default() }
    }

    /// Adds a line.
    pub fn line(&self, text: &str) {
        let at = self.time.elapsed();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(format!("{:>9.3} {text}", at.as_secs_f64()));
    }

    /// All lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A number that differs if any line does.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).hash(&mut hasher);
        hasher.finish()
    }
}
