//! # Problem
//! What failed and is tried again at once, or in step with everyone else, hits a service that is coming up as hard as the
//! load that brought it down.
//!
//! # Pattern
//! Exponential backoff with jitter: the wait doubles up to a cap, and chance spreads the tries.
//!
//! # Here
//! A pure function of the attempt and of a number drawn by the caller. The lower half of each wait is fixed ("equal
//! jitter"), so that a wait is never close to none; full jitter spreads better, but lets one client try twice at once.
//!
//! # Limits
//! It spaces tries, it does not count them: who may try how often is the caller's to say, once per call chain.
use std::time::Duration;

/// How waits grow: from `first`, doubling, up to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure, before jitter.
    pub first: Duration,
    /// No wait is longer.
    pub max: Duration,
}

impl Backoff {
    /// The wait after failure number `failures` (from 1), between half and all of the nominal one; `chance` picks where.
    #[must_use]
    pub fn wait(&self, failures: u32, chance: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        let nominal = self.first.saturating_mul(1 << doublings).min(self.max);
        let half = nominal / 2;
        let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        half + Duration::from_micros(u64::try_from((u128::from(micros) * u128::from(chance)) >> 64).unwrap_or(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_wait_is_between_half_and_all_of_the_nominal_one(failures in 0u32..1000, chance: u64, first in 1u64..5_000, max in 1u64..60_000) {
            let backoff = Backoff { first: Duration::from_millis(first), max: Duration::from_millis(max) };
            let nominal = Duration::from_millis(first.saturating_mul(1 << failures.saturating_sub(1).min(30)).min(max));
            let wait = backoff.wait(failures, chance);
            prop_assert!(wait >= nominal / 2 && wait <= nominal, "{wait:?} of {nominal:?}");
        }
    }

    #[test]
    fn waits_double_up_to_the_cap_and_spread() {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1) };
        let waits: Vec<_> = (1..=6).map(|failures| backoff.wait(failures, 0).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 500, 500]);
        assert!(backoff.wait(1, u64::MAX) > Duration::from_millis(99));
    }
}
