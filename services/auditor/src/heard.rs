//! Listens to what all services publish.
//!
//! A batch is taken in at once and acknowledged with the next write, at most [`EVERY`] later. Whatever goes wrong, memory is
//! forgotten and the group joined again: what was not acknowledged comes again, and the pages know it if it was written.
//!
//! A page needs all that is said of an order, so of several replicas one hears everything, while it has the lease; another
//! stands by, and says so. One that cannot reach the bus or the books several times in a row releases the lease. A member of a group
//! that hears nothing looks like one to whom nothing is said, so that how far it is behind is asked with every write.
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::select;
use host::Process;
use messaging::{Bus, BusError, Delivered, Offset, Partition, Subscription};
use prometheus::GaugeVec;
use store::turn::{self, Turn};
use store::{ReadError, Store};
use telemetry::trouble::Trouble;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::desk::Desk;
use crate::invariant::{Invariant, Terms};
use crate::service::Shown;

/// Under which name it says whether it keeps the books.
const PART: &str = "auditor";
/// What is said, once while it goes on, where the lease is released because nothing can be taken in.
const LEFT: &str = "another replica is left to keep the books, if there is one";
/// The group that listens.
pub(crate) const GROUP: &str = "auditor";
/// What all services publish.
pub(crate) const TOPICS: [&str; 4] = ["order-events", "inventory-events", "payment-events", "shipping-events"];
/// How often the books are written, and looked at where nothing is heard. They are behind by about this.
pub const EVERY: Duration = Duration::from_secs(1);
/// How long is waited after something went wrong.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);
/// At most so many messages are taken at once.
const BATCH: usize = 256;

/// Why listening has to begin again.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Books(#[from] ReadError),
    #[error("another replica keeps the books by now")]
    Elsewhere,
}

/// Somebody who listens.
pub(crate) struct Listener {
    pub(crate) process: Process,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) terms: Terms,
    pub(crate) shown: Shown,
    pub(crate) broken: GaugeVec,
    pub(crate) behind: GaugeVec,
}

/// The last message of each partition that was taken in and not acknowledged.
type Ends = BTreeMap<(String, Partition), Offset>;

impl Listener {
    /// Listens until the process stops.
    pub(crate) fn start(self) {
        let tasks = self.process.tasks.clone();
        self.process.tasks.clone().spawn(async move {
            let mut turn = Turn::new(self.store.clone(), GROUP.to_owned(), self.process.ids.next());
            let _ = select(pin!(self.run(&mut turn)), pin!(tasks.stopping())).await;
            // Otherwise whoever stands by would wait until it runs out.
            let _ = timeout(PAUSE, turn.give_back()).await;
        });
    }

    async fn run(&self, turn: &mut Turn) {
        let (mut failures, mut trouble): (u32, _) = (0, Trouble::default());
        loop {
            let Err(why) = self.listen(turn, &mut failures, &mut trouble).await;
            if let Interrupted::Bus(BusError::Malformed(_)) = &why {
                // A topic that no service has made yet: there is nothing to hear, and everything else works.
                self.process.health.ready(PART);
            } else {
                let released = turn.report_failure().await;
                if released {
                    self.shown.clear();
                    if trouble.is_news(LEFT) {
                        tracing::warn!("{LEFT}");
                    }
                }
                if released || failures > 2 {
                    self.process.health.missing(PART, why.to_string());
                }
            }
            // Before that, the topics may not have been made yet.
            if failures > 2 && trouble.is_news(&why.to_string()) {
                tracing::warn!(%why, "the auditor hears nothing; it opens the books again");
            }
            failures += 1;
            sleep(PAUSE).await;
        }
    }

    async fn listen(
        &self,
        turn: &mut Turn,
        failures: &mut u32,
        trouble: &mut Trouble,
    ) -> Result<Infallible, Interrupted> {
        while !turn.is_mine().await? {
            self.shown.clear();
            if !turn.stands_back() {
                self.process.health.missing(PART, "another replica keeps the books; this one stands by");
            }
            sleep(turn::RENEW).await;
        }
        let mut member = self.bus.subscribe(GROUP, &TOPICS).await?;
        let mut desk = Desk::open(&self.process, &self.store, self.terms).await?;
        self.shown.set(&desk);
        let (mut ends, mut next) = (Ends::new(), Instant::now() + EVERY);
        loop {
            if let Ok(batch) = timeout_at(next, member.next(BATCH)).await {
                for delivered in batch? {
                    note(&mut ends, &delivered);
                    desk.hear(delivered).await?;
                }
            }
            if Instant::now() >= next {
                if !turn.is_mine().await? {
                    return Err(Interrupted::Elsewhere);
                }
                desk.write().await?;
                acknowledge(member.as_mut(), std::mem::take(&mut ends)).await?;
                desk.look().await?;
                self.show(&desk).await?;
                turn.report_success();
                (*failures, next) = (0, Instant::now() + EVERY);
                self.process.health.ready(PART);
                if trouble.is_over() {
                    tracing::info!("the auditor hears again");
                }
            }
        }
    }

    async fn show(&self, desk: &Desk) -> Result<(), BusError> {
        self.shown.set(desk);
        for invariant in Invariant::LIVE {
            let count = desk.findings().broken(invariant).map_or(0, |broken| broken.count);
            self.broken.with_label_values(&[invariant.number()]).set(count as f64);
        }
        for topic in TOPICS {
            let lag = self.bus.lag(GROUP, topic).await;
            // The last figure would say that all is well.
            self.behind.with_label_values(&[topic]).set(lag.as_ref().map_or(f64::NAN, |lag| *lag as f64));
            lag?;
        }
        Ok(())
    }
}

fn note(ends: &mut Ends, Delivered { topic, partition, offset, .. }: &Delivered) {
    let end = ends.entry((topic.clone(), *partition)).or_default();
    *end = (*end).max(*offset);
}

/// Danger: only when everything that was heard is written.
async fn acknowledge(member: &mut dyn Subscription, ends: Ends) -> Result<(), BusError> {
    for ((topic, partition), offset) in ends {
        match member.acknowledge(&topic, partition, offset).await {
            // Whoever has the partition now is given the messages again, and finds them familiar.
            Ok(()) | Err(BusError::Revoked(_)) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "heard_tests.rs"]
mod tests;
