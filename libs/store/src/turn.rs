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
//! # Limits
//! It guards nothing: who has it may hang, and act after it ran out. The work must bear being done twice.
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::{ReadError, Store};

/// How long a lease runs.
pub const LENGTH: Duration = Duration::from_secs(6);
/// How long it is believed before the store is asked again.
pub const RENEW: Duration = Duration::from_millis(2_400);

/// One replica's part in some work.
pub struct Turn {
    store: Arc<dyn Store>,
    name: String,
    holder: Uuid,
    /// When the store was asked last, and what it said.
    asked: Option<(Instant, bool)>,
}

impl Turn {
    /// A part in the work `name`. `holder` is this replica's own, and nobody else's.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, name: String, holder: Uuid) -> Turn {
        Turn { store, name, holder, asked: None }
    }

    /// Whether this replica should do the work now.
    ///
    /// # Errors
    /// If the store cannot say: then it is nobody's turn for this replica.
    pub async fn is_mine(&mut self) -> Result<bool, ReadError> {
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
