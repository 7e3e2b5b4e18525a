//! When a process looks for timers that are due.
//!
//! # Problem
//! Whoever looks often makes a server busy with an idle shop; whoever looks seldom is late.
//!
//! # Pattern
//! Look when it is time: at what the last look saw coming, and at what was set since.
//!
//! # Here
//! [`Agenda`] remembers, by the store's time, when the next timer is due that this process knows of: those that a look found, and
//! those that its own commits set. A look before that finds nothing without asking. Every [`LONGEST`] it asks all the same, for
//! timers that other processes set; these see to them themselves as long as they live.
//!
//! # Limits
//! A timer of a process that died, or of a commit in doubt, is late by up to [`LONGEST`].
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clock::Timestamp;
use tokio::time::Instant;

/// How long a process may go without looking.
pub(crate) const LONGEST: Duration = Duration::from_secs(4);

/// What one process knows of the timers to come.
#[derive(Default)]
pub(crate) struct Agenda(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// The last look: when it was, and which time it was by the store.
    look: Option<(Instant, Timestamp)>,
    next: Option<Timestamp>,
    /// Commits that have set timers, counted.
    set: u64,
}

impl Agenda {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is time to look. `now` is the store's time, if it is known without asking. Whoever looks hands what this returns
    /// to [`Agenda::looked`].
    pub(crate) fn is_time(&self, now: Option<Timestamp>) -> Option<u64> {
        let known = self.known();
        let waits = known.look.is_some_and(|(at, then)| {
            let now = now.unwrap_or_else(|| then.after(at.elapsed()));
            at.elapsed() < LONGEST && known.next.is_none_or(|next| now < next)
        });
        (!waits).then_some(known.set)
    }

    /// A look at `now` by the store has found all that was due, and what is due `next`.
    pub(crate) fn looked(&self, set: u64, now: Timestamp, next: Option<Timestamp>) {
        let mut known = self.known();
        // What was set meanwhile it may have missed.
        known.look = (known.set == set).then(|| (Instant::now(), now));
        known.next = next;
    }

    /// A commit has set timers, the first of which is `due`.
    pub(crate) fn set(&self, due: Timestamp) {
        let mut known = self.known();
        known.set += 1;
        known.next = Some(known.next.map_or(due, |next| next.min(due)));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_time_at_first_then_when_the_next_is_due_and_every_so_often() {
        let agenda = Agenda::default();
        let look = agenda.is_time(None).expect("nothing is known");
        agenda.looked(look, at(10), Some(at(11)));
        assert_eq!(agenda.is_time(None), None);
        assert_eq!(agenda.is_time(Some(at(11))), Some(0), "by a clock that is given");
        advance(SECOND).await;
        assert_eq!(agenda.is_time(None), Some(0));
        agenda.looked(0, at(11), None);
        advance(LONGEST - Duration::from_millis(1)).await;
        assert_eq!(agenda.is_time(None), None);
        advance(Duration::from_millis(1)).await;
        assert_eq!(agenda.is_time(None), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_set_is_looked_for_when_it_is_due() {
        let agenda = Agenda::default();
        agenda.looked(0, at(10), Some(at(99)));
        agenda.set(at(11));
        agenda.set(at(50));
        assert_eq!(agenda.is_time(None), None);
        advance(SECOND).await;
        assert_eq!(agenda.is_time(None), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_during_which_something_was_set_is_not_relied_on() {
        let agenda = Agenda::default();
        let look = agenda.is_time(None).unwrap();
        agenda.set(at(10));
        agenda.looked(look, at(10), Some(at(99)));
        assert!(agenda.is_time(None).is_some());
    }
}
