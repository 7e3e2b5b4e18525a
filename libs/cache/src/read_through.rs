//! Reading through a cache that replicas share.
//!
//! # Problem
//! A thousand readers of one product ask the store a thousand times; every replica asks it again; and while it is away, none
//! of them gets anything.
//!
//! # Pattern
//! Read-through with single flight, and stale on error.
//!
//! # Here
//! [`ReadThrough::read`] looks in this process (near), then in the shared cache (far), then in the store. For a key, one is under
//! way at a time and the others wait for what it brings. A value counts as fresh until a stated time after the moment up to
//! which it is complete, wherever it comes from: near does not add to the age that far had. Near is never told less than it has
//! shown, so a reader does not go back in version. While the store cannot be read, what is known is shown.
//!
//! # Limits
//! After the store could not be read, what is known is shown for [`REST`] without asking it. What does not exist is not kept, for
//! anybody can ask for any number of such. Where near runs full it starts anew, and may then show a version less than before, of
//! the same freshness.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, Shared, WeakShared};
use prometheus::{Counter, CounterVec};
use store::{ReadError, Version};
use telemetry::metrics::Metrics;
use tokio::time::{Instant, timeout};

use crate::memory::Memory;
use crate::{Away, Cache, KEEP, Kept, Moment};

/// How long the store may take where something older can be shown instead.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// How long the store is left alone after it could not be read, where something older can be shown.
pub const REST: Duration = Duration::from_secs(1);
/// At most so many values are held in this process.
const NEAR: usize = 40_000;

/// What a loader finds in the store: version and value, if there is something to keep.
pub type Loaded = Result<Option<(Version, Bytes)>, ReadError>;
type Fetching = BoxFuture<'static, Result<Option<Kept>, ReadError>>;

/// A way to read. Clones share it.
#[derive(Clone)]
pub struct ReadThrough(Arc<Inner>);

struct Inner {
    near: Memory,
    far: Arc<dyn Cache>,
    fresh: Duration,
    /// What is under way, and when it began.
    flights: Mutex<BTreeMap<String, (Instant, WeakShared<Fetching>)>>,
    /// Until when the store is left alone.
    rest: Mutex<Option<Instant>>,
    reads: CounterVec,
    errors: Counter,
}

impl ReadThrough {
    /// Reads through a shared cache; values are shown without asking anybody for `fresh`.
    ///
    /// # Panics
    /// If the process has another one: its metrics have one name.
    #[must_use]
    pub fn new(metrics: &Metrics, far: Arc<dyn Cache>, fresh: Duration) -> ReadThrough {
        let help =
            "Reads through the cache by what answered: near, hit (the shared cache), miss (the store), joined, stale.";
        let reads = metrics.counters("cache_reads_total", help, &["outcome"]);
        let errors = metrics.counter("cache_errors_total", "Calls of the shared cache that it did not answer.");
        let (near, flights, rest) = (Memory::new(NEAR, KEEP), Mutex::default(), Mutex::default());
        ReadThrough(Arc::new(Inner { near, far, fresh, flights, rest, reads, errors }))
    }

    /// The value of a key; `load` gets what is known, of whatever age, and looks into the store.
    ///
    /// # Errors
    /// If the store cannot be read and nothing is known, or it is corrupt.
    pub async fn read(
        &self,
        key: &str,
        load: impl FnOnce(Option<Kept>) -> BoxFuture<'static, Loaded> + Send + 'static,
    ) -> Result<Option<Kept>, ReadError> {
        let inner = &self.0;
        if let Some(kept) = inner.near.look(key)
            && inner.is_fresh(inner.near.now(), &kept)
        {
            inner.count("near");
            return Ok(Some(kept));
        }
        let outcome = self.flight(key, load).await;
        let mut flights = lock(&inner.flights);
        if flights.get(key).is_some_and(|(_, flight)| flight.upgrade().is_none()) {
            flights.remove(key);
        }
        outcome
    }

    /// What is under way for a key, or begins now.
    fn flight(
        &self,
        key: &str,
        load: impl FnOnce(Option<Kept>) -> BoxFuture<'static, Loaded> + Send + 'static,
    ) -> Shared<Fetching> {
        let mut flights = lock(&self.0.flights);
        // One that began too long ago may have read the store too long ago.
        let under_way = flights.get(key).filter(|(begun, _)| begun.elapsed() < self.0.fresh);
        if let Some(flight) = under_way.and_then(|(_, flight)| flight.upgrade()) {
            self.0.count("joined");
            return flight;
        }
        let (inner, of) = (self.0.clone(), key.to_owned());
        let flight = async move { inner.fetch(&of, load).await }.boxed().shared();
        if flights.len() >= NEAR {
            // Left behind by readers who all went away.
            flights.retain(|_, (_, flight)| flight.upgrade().is_some());
        }
        if let Some(weak) = flight.downgrade() {
            flights.insert(key.to_owned(), (Instant::now(), weak));
        }
        flight
    }

    /// Tells what was written, once it is durable: near at once, far when what is returned is awaited.
    pub fn wrote(&self, key: String, version: Version, value: Bytes) -> impl Future<Output = ()> + Send + 'static {
        let (inner, new) = (self.0.clone(), Kept { version, complete: Moment::default(), value });
        inner.near.keep(&key, new.clone());
        async move {
            let told = inner.far.put(&key, new).await;
            inner.heard(told);
        }
    }
}

impl Inner {
    async fn fetch(
        &self,
        key: &str,
        load: impl FnOnce(Option<Kept>) -> BoxFuture<'static, Loaded>,
    ) -> Result<Option<Kept>, ReadError> {
        // Danger: both moments are before the store is read. Otherwise a change that comes in between would be taken for seen.
        let here = self.near.now();
        let found = self.heard(self.far.get(key).await);
        if let Some((asked, kept)) = found.as_ref().and_then(|found| Some((found.asked, found.kept.as_ref()?)))
            && self.is_fresh(asked, kept)
        {
            self.count("hit");
            let age = asked.0 - kept.complete.0;
            return Ok(Some(
                self.near.keep(key, Kept { complete: Moment(here.0.saturating_sub(age)), ..kept.clone() }),
            ));
        }
        let asked = found.as_ref().map(|found| found.asked);
        let known = match (self.near.look(key), found.and_then(|found| found.kept)) {
            (Some(near), Some(far)) => Some(near.or_newer(far)),
            (near, far) => near.or(far),
        };
        match self.load(known.clone(), load).await {
            Ok(Some((version, value))) => {
                self.count("miss");
                let loaded = |complete| Kept { version, complete, value: value.clone() };
                if let Some(asked) = asked {
                    self.heard(self.far.put(key, loaded(asked)).await);
                }
                Ok(Some(self.near.keep(key, loaded(here))))
            }
            Err(ReadError::Unavailable(why)) if known.is_some() => {
                self.count("stale");
                tracing::debug!(key, why, "shown as it was");
                Ok(known)
            }
            other => other.map(|_| None),
        }
    }

    /// Asks the store: with patience, if nothing is known that could be shown instead.
    async fn load(&self, known: Option<Kept>, load: impl FnOnce(Option<Kept>) -> BoxFuture<'static, Loaded>) -> Loaded {
        if known.is_none() {
            return load(None).await;
        }
        if lock(&self.rest).is_some_and(|until| Instant::now() < until) {
            return Err(ReadError::Unavailable("it could not be read a moment ago".to_owned()));
        }
        let late = |_| Err(ReadError::Unavailable(format!("no answer within {} ms", PATIENCE.as_millis())));
        let loaded = timeout(PATIENCE, load(known)).await.unwrap_or_else(late);
        let away = matches!(loaded, Err(ReadError::Unavailable(_)));
        *lock(&self.rest) = away.then(|| Instant::now() + REST);
        loaded
    }

    fn is_fresh(&self, now: Moment, kept: &Kept) -> bool {
        now.since(kept.complete).is_some_and(|age| age < self.fresh)
    }

    /// What the shared cache said, if it said something.
    fn heard<T>(&self, told: Result<T, Away>) -> Option<T> {
        told.inspect_err(|_| self.errors.inc()).ok()
    }

    fn count(&self, outcome: &str) {
        self.reads.with_label_values(&[outcome]).inc();
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "read_through_tests.rs"]
mod tests;
