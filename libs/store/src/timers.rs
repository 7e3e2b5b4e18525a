//! Carries out timers: claims what is due and hands it to the service, which must be quick to return.
//!
//! # Problem
//! Work that waits (for an answer, for the next try) in memory is forgotten when the process dies; work that every replica
//! looks for is done by all of them.
//!
//! # Pattern
//! Durable timers, set in the commit of what they belong to and claimed by one conditional update.
//!
//! # Here
//! Claiming re-arms: whoever claimed acts, and if they die it is due again after the lease. What ends the wait clears the
//! timer in its own commit.
//!
//! # Limits
//! Looked for every [`EVERY`], so that late by that much; judged by the store's clock, which can be set.
use std::sync::Arc;
use std::time::Duration;

use telemetry::trouble::Trouble;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{ReadError, Store};

/// How often due timers are looked for. A timer may be late by this much.
pub const EVERY: Duration = Duration::from_millis(100);
/// At most so many timers of a process are being acted on.
pub const AT_ONCE: usize = 64;

const OPEN: &str = "this semaphore is never closed";

/// A claimed timer. Until it is dropped it counts as being acted on.
#[derive(Debug)]
pub struct Due {
    /// Which timer.
    pub key: String,
    _place: OwnedSemaphorePermit,
}

/// Claims due timers for ever, each for `lease`: if its claimer does not finish, it is due again after that.
pub async fn run(store: Arc<dyn Store>, lease: Duration, act: impl Fn(Due) + Send) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut trouble = Trouble::default();
    loop {
        match claim(store.as_ref(), lease, &places, &act).await {
            Ok(()) if trouble.is_over() => tracing::info!("timers are claimed again"),
            Err(why) if trouble.is_news(&why.to_string()) => tracing::warn!(%why, "timers cannot be claimed"),
            Ok(()) | Err(_) => {}
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn claim(
    store: &dyn Store,
    lease: Duration,
    places: &Arc<Semaphore>,
    act: &(impl Fn(Due) + Send),
) -> Result<(), ReadError> {
    loop {
        // Waits for one place, and takes up as many timers as there are places by then.
        drop(places.acquire().await.expect(OPEN));
        let free = places.available_permits().max(1);
        let due = store.claim_due(lease, free).await?;
        let all = due.len() < free;
        for key in due {
            let place = places.clone().acquire_owned().await.expect(OPEN);
            act(Due { key, _place: place });
        }
        if all {
            return Ok(());
        }
    }
}
