//! Time, and the ids made from it, come in through here, so that tests can advance time and a simulation can own it.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Microseconds since 1970-01-01T00:00:00Z, without leap seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The moment `wait` after this one, at most the largest representable.
    #[must_use]
    pub fn after(self, wait: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Tells the time of the day. It may jump, also backwards: durations are measured with `tokio::time::Instant`.
pub trait Clock: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::default().after(since)
    }
}

/// A clock that moves with tokio's: where tokio's time is paused it stands still, and it is advanced with it.
#[derive(Debug)]
pub struct TokioClock {
    origin: Timestamp,
    start: tokio::time::Instant,
}

impl TokioClock {
    /// A clock that shows `origin` now.
    #[must_use]
    pub fn starting_at(origin: Timestamp) -> TokioClock {
        TokioClock { origin, start: tokio::time::Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        self.origin.after(self.start.elapsed())
    }
}

/// Makes ids that grow with time (UUID version 7, RFC 9562): random ones cost a B-tree half its speed and more as it grows.
///
/// Ids of one maker strictly increase, also within a millisecond and when the clock goes back.
pub struct Ids {
    clock: Arc<dyn Clock>,
    last: Mutex<(u64, u128)>,
    chance: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Ids {
    /// Ids from the machine's randomness.
    #[must_use]
    pub fn random(clock: Arc<dyn Clock>) -> Ids {
        Ids::from_chance(clock, rand::random::<u64>)
    }

    /// Ids from a given source of chance, such as a seeded generator.
    pub fn from_chance(clock: Arc<dyn Clock>, chance: impl Fn() -> u64 + Send + Sync + 'static) -> Ids {
        Ids { clock, last: Mutex::new((0, 0)), chance: Box::new(chance) }
    }

    /// A new id, larger than every one before it.
    pub fn next(&self) -> Uuid {
        let now = u64::try_from(self.clock.now().0 / 1000).unwrap_or(0);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let low = || u128::from((self.chance)()) << 10 | u128::from((self.chance)() >> 54);
        // 74 bits are left beside time, version and variant. A new millisecond starts them in the lower half, so that
        // counting up within one cannot run over.
        *last = if now > last.0 {
            (now, low() & (LOW >> 1))
        } else {
            (last.0, last.1 + 1 + u128::from((self.chance)() >> 32))
        };
        if last.1 > LOW {
            *last = (last.0 + 1, low() & (LOW >> 1));
        }
        let (ms, low) = *last;
        Uuid::from_u128(u128::from(ms) << 80 | 0x7 << 76 | (low >> 62) << 64 | 0b10 << 62 | low & (u128::MAX >> 66))
    }
}

const LOW: u128 = (1 << 74) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    struct At(Mutex<i64>);
    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp(*self.0.lock().unwrap())
        }
    }

    #[test]
    fn ids_grow_within_a_millisecond_and_when_the_clock_goes_back() {
        let clock = Arc::new(At(Mutex::new(5_000_000)));
        let ids = Ids::random(clock.clone());
        let mut last = ids.next();
        for round in 0..10_000 {
            *clock.0.lock().unwrap() = 5_000_000 + if round % 3 == 0 { -4_000 } else { round };
            let next = ids.next();
            assert!(next > last, "{next} after {last}");
            assert_eq!((next.get_version_num(), next.get_variant()), (7, uuid::Variant::RFC4122));
            last = next;
        }
    }

    #[test]
    fn the_same_chance_gives_the_same_ids() {
        let ids = || Ids::from_chance(Arc::new(At(Mutex::new(7_000_000))), || 42);
        let (one, two) = (ids(), ids());
        assert_eq!([one.next(), one.next()], [two.next(), two.next()]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tokio_clock_moves_only_when_advanced() {
        let clock = TokioClock::starting_at(Timestamp(10));
        assert_eq!(clock.now(), Timestamp(10));
        tokio::time::advance(Duration::from_millis(3)).await;
        assert_eq!(clock.now(), Timestamp(3_010));
    }
}
