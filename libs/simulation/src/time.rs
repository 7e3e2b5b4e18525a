//! The time of the simulation, and clocks of machines that do not agree on it.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clock::{Clock, Timestamp};

/// When every simulation begins.
pub const BEGINNING: Timestamp = Timestamp(1_800_000_000_000_000);

/// The true time. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Time(Arc<AtomicU64>);

impl Time {
    /// Moves it on, between two steps.
    pub fn advance_to(&self, elapsed: Duration) {
        self.0.store(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Since the beginning: to the millisecond on a host, to the step elsewhere.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        let step = Duration::from_micros(self.0.load(Ordering::Relaxed));
        turmoil::sim_elapsed().map_or(step, |elapsed| elapsed.max(step))
    }

    /// A clock that shows it, wrong by so many microseconds.
    #[must_use]
    pub fn clock(&self, wrong_by_us: i64) -> Arc<dyn Clock> {
        Arc::new(Shown { time: self.clone(), wrong_by_us })
    }
}

struct Shown {
    time: Time,
    wrong_by_us: i64,
}

impl Clock for Shown {
    fn now(&self) -> Timestamp {
        Timestamp(BEGINNING.after(self.time.elapsed()).0 + self.wrong_by_us)
    }
}
