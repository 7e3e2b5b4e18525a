//! A cache in memory, bounded.
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{Away, Cache, Found, Kept, Moment};

/// A cache in this process.
#[derive(Debug)]
pub struct Memory {
    begin: Instant,
    limit: usize,
    keep: Duration,
    kept: Mutex<BTreeMap<String, (Instant, Kept)>>,
}

impl Memory {
    /// At most `limit` values, each for `keep` after it was last put.
    #[must_use]
    pub fn new(limit: usize, keep: Duration) -> Memory {
        Memory { begin: Instant::now(), limit, keep, kept: Mutex::default() }
    }

    /// The present moment of its clock.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment(1 + u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX - 1))
    }

    /// What is kept.
    #[must_use]
    pub fn look(&self, key: &str) -> Option<Kept> {
        self.lock().get(key).filter(|(put, _)| put.elapsed() < self.keep).map(|(_, kept)| kept.clone())
    }

    /// Keeps a value unless a newer one is kept; what is kept then.
    pub fn keep(&self, key: &str, new: Kept) -> Kept {
        let mut all = self.lock();
        let before = all.get(key).filter(|(put, _)| put.elapsed() < self.keep).cloned();
        let now = Instant::now();
        let (put, kept) = match before {
            // What does not replace it does not keep it alive either.
            Some((put, kept)) => (if new.version < kept.version { put } else { now }, kept.or_newer(new)),
            None => (now, new),
        };
        if all.len() >= self.limit && !all.contains_key(key) {
            all.clear();
        }
        all.insert(key.to_owned(), (put, kept.clone()));
        kept
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Instant, Kept)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Cache for Memory {
    async fn get(&self, key: &str) -> Result<Found, Away> {
        Ok(Found { asked: self.now(), kept: self.look(key) })
    }

    async fn put(&self, key: &str, new: Kept) -> Result<(), Away> {
        self.keep(key, new);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Subject, hold_the_contract, kept};
    use std::sync::Arc;

    async fn make(keep: Duration) -> Option<Subject> {
        Some(Subject::new(Arc::new(Memory::new(1_000, keep)), String::new()))
    }
    hold_the_contract!(make);

    #[tokio::test]
    async fn it_holds_no_more_than_its_limit() {
        let memory = Memory::new(10, Duration::from_secs(60));
        for n in 0..1_000 {
            memory.keep(&n.to_string(), kept(1, 1, "tea"));
            assert!(memory.lock().len() <= 10);
            assert!(memory.look(&n.to_string()).is_some());
        }
    }
}
