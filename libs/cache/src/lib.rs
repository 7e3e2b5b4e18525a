//! What replicas of a service keep together, so that not each of them asks the store: a cache.
//!
//! # Problem
//! Every replica has to ask the store now and then whether another one has changed something. With many replicas the store
//! mostly answers "no"; and while it is away, nothing can be shown at all.
//!
//! # Pattern
//! Cache-aside with versions: a reader asks the cache, then the store, and tells the cache. What is kept says of which version it
//! is, so that only a newer one takes its place, and up to which moment it is complete.
//!
//! # Here
//! | file | holds |
//! |---|---|
//! | [`read_through`] | the way to read through a cache: one reader per key, stale on error |
//! | [`memory`] | a cache in memory, bounded |
//! | `redis.rs` | a cache on Redis, shared by replicas |
//!
//! [`Cache`] is the port. A [`Moment`] is one of the cache's own clock, for replicas' clocks differ. It is taken *before* the
//! store is read, so that a write that takes its time, or comes after a pause, claims nothing that was not so.
//!
//! # Limits
//! A cache is a help: it may forget anything at any time, and whoever decides something asks the store. Versions tell what is
//! newer only within one log: where a database was put back to an earlier day, its cache has to be emptied.

#[cfg(test)]
mod contract;
pub mod memory;
pub mod read_through;
#[cfg(feature = "infra")]
pub mod redis;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use store::Version;

/// For so long a value is kept that nobody reads or writes any more, and shown while the store is away.
pub const KEEP: Duration = Duration::from_secs(600);

/// A moment of a cache's clock, in milliseconds; 0 is before all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// How long ago `earlier` was; `None` if it is the moment before all others, or still to come (the clock went back).
    #[must_use]
    pub fn since(self, earlier: Moment) -> Option<Duration> {
        if earlier == Moment::default() {
            return None;
        }
        self.0.checked_sub(earlier.0).map(Duration::from_millis)
    }
}

/// A value that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The version of the stream that it shows.
    pub version: Version,
    /// Everything that happened before this moment is in it; the moment before all others claims nothing.
    pub complete: Moment,
    /// The value.
    pub value: Bytes,
}

impl Kept {
    /// What is kept of two: the newer value, and of two of one version the later one. What is complete up to a moment stays so
    /// in a newer version.
    #[must_use]
    pub fn or_newer(self, new: Kept) -> Kept {
        if new.version < self.version {
            return self;
        }
        Kept { complete: self.complete.max(new.complete), ..new }
    }
}

/// What a cache says when it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// When it was asked, or a little earlier.
    pub asked: Moment,
    /// What is kept, if anything is.
    pub kept: Option<Kept>,
}

/// A cache did not answer, in time or at all: the reader goes to the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cache is away: {0}")]
pub struct Away(pub String);

/// The port. Every call ends within a time that is short beside a reading of the store.
#[async_trait]
pub trait Cache: Send + Sync + 'static {
    /// What is kept under a key.
    async fn get(&self, key: &str) -> Result<Found, Away>;

    /// Keeps a value, unless a newer version is kept ([`Kept::or_newer`]), for a time that the adapter is told.
    async fn put(&self, key: &str, new: Kept) -> Result<(), Away>;
}
