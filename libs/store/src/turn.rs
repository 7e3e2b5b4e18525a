//! Whose turn it is, where one of several replicas should do some work.
//!
//! # Problem
//! Replicas that all do the same background work do no harm where it may be done twice, and cost as much as it costs, times
//! their number.
//!
//! # Pattern
//! Lease: whoever has it works and renews it; who dies or hangs loses it after a while.
//!
//! # Here
//! [`Turn::is_mine`] asks the store at most every [`RENEW`], whether to renew the lease or to see if it is free. A replica that
//! stops gives it back, so that another goes on within that time; one that is killed is followed after [`LENGTH`] and that.
//!
//! A replica that renews its lease and cannot do the work would keep the work from those who can. The holder therefore reports how
//! each attempt went: after [`FAILURES`] failures in a row it releases the lease, and does not ask for it again for [`STAND_BACK`].
//!
//! # Limits
//! It guards nothing: who has it may hang, and act after it ran out. The work must bear being done twice. Where no replica can do the
//! work, they take turns at failing.
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::{ReadError, Store};

/// How long a lease runs.
pub const LENGTH: Duration = Duration::from_secs(6);
/// How long it is believed before the store is asked again.
pub const RENEW: Duration = Duration::from_millis(2_400);
/// How many failures in a row make a replica release the lease.
pub const FAILURES: u32 = 3;
/// How long it then leaves the lease to others: twice as long as they wait before they ask for it.
pub const STAND_BACK: Duration = RENEW.saturating_mul(2);

/// One replica's part in some work.
pub struct Turn {
    store: Arc<dyn Store>,
    name: String,
    holder: Uuid,
    /// When the store was asked last, and what it said.
    asked: Option<(Instant, bool)>,
    /// How many attempts failed since the last that succeeded.
    failures: u32,
    /// Until then the lease is left to others.
    stands_back_until: Option<Instant>,
}

impl Turn {
    /// A part in the work `name`. `holder` is this replica's own, and nobody else's.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, name: String, holder: Uuid) -> Turn {
        Turn { store, name, holder, asked: None, failures: 0, stands_back_until: None }
    }

    /// Whether this replica should do the work now.
    ///
    /// # Errors
    /// If the store cannot say: then it is nobody's turn for this replica.
    pub async fn is_mine(&mut self) -> Result<bool, ReadError> {
        if self.stands_back() {
            return Ok(false);
        }
        // Before asking: a slow answer shortens the time that it is believed, and never the lease.
        let now = Instant::now();
        if let Some((_, mine)) = self.asked.filter(|(last, _)| now.duration_since(*last) < RENEW) {
            return Ok(mine);
        }
        self.asked = None;
        let mine = self.store.lease(&self.name, self.holder, LENGTH).await?;
        self.asked = Some((now, mine));
        Ok(mine)
    }

    /// Whether this replica leaves the lease to others for now, because it could not do the work.
    #[must_use]
    pub fn stands_back(&self) -> bool {
        self.stands_back_until.is_some_and(|until| Instant::now() < until)
    }

    /// The work succeeded.
    pub fn report_success(&mut self) {
        self.failures = 0;
    }

    /// The work failed; whether the lease was released over it, as after [`FAILURES`] failures in a row. A failure without the lease
    /// counts for nothing.
    pub async fn report_failure(&mut self) -> bool {
        if !self.asked.is_some_and(|(_, mine)| mine) {
            return false;
        }
        self.failures += 1;
        if self.failures < FAILURES {
            return false;
        }
        self.failures = 0;
        self.stands_back_until = Some(Instant::now() + STAND_BACK);
        // A store that cannot be told: the lease runs out.
        let _ = self.give_back().await;
        true
    }

    /// Lets another have it at once, if it was this replica's.
    ///
    /// # Errors
    /// If the store cannot be told; the lease runs out then.
    pub async fn give_back(&mut self) -> Result<(), ReadError> {
        if self.asked.take().is_some_and(|(_, mine)| mine) {
            self.store.lease(&self.name, self.holder, Duration::ZERO).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use clock::{Ids, TokioClock};

    /// Replicas that follow one clock.
    fn replicas() -> [Turn; 2] {
        let clock = Arc::new(TokioClock::starting_at(clock::Timestamp(1_800_000_000_000_000)));
        let (store, ids) = (Arc::new(Memory::new(clock.clone())), Ids::random(clock));
        [(); 2].map(|()| Turn::new(store.clone(), "work".into(), ids.next()))
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_fails_again_and_again_lets_another_have_it_and_does_not_take_it_straight_back() {
        let [mut one, mut two] = replicas();
        assert_eq!((one.is_mine().await, two.is_mine().await), (Ok(true), Ok(false)));
        assert_eq!(
            [one.report_failure().await, one.report_failure().await, one.report_failure().await],
            [false, false, true]
        );
        assert!(one.stands_back());
        assert_eq!(one.is_mine().await, Ok(false));
        tokio::time::advance(RENEW).await;
        assert_eq!(
            (one.is_mine().await, two.is_mine().await),
            (Ok(false), Ok(true)),
            "the other has been waiting for it"
        );
        tokio::time::advance(STAND_BACK).await;
        assert_eq!((one.stands_back(), two.is_mine().await, one.is_mine().await), (false, Ok(true), Ok(false)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_alone_takes_it_again_after_a_while() {
        let [mut one, _] = replicas();
        assert_eq!(one.is_mine().await, Ok(true));
        for _ in 0..FAILURES {
            one.report_failure().await;
        }
        tokio::time::advance(STAND_BACK).await;
        assert_eq!(one.is_mine().await, Ok(true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_now_and_then_and_one_without_the_lease_count_for_nothing() {
        let [mut one, mut two] = replicas();
        assert_eq!((one.is_mine().await, two.is_mine().await), (Ok(true), Ok(false)));
        for _ in 0..10 {
            assert_eq!(
                (one.report_failure().await, one.report_failure().await, two.report_failure().await),
                (false, false, false)
            );
            one.report_success();
        }
        assert!(!one.stands_back() && !two.stands_back());
    }
}
