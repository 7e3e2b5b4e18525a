//! Lets a request wait until an order is settled.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Who waits for which order. Clones share it. Another replica may settle the order: whoever waits looks for itself now
/// and then.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settling {
    waiting: Arc<Mutex<Places>>,
}

/// By order: how many wait, and what wakes them.
type Places = BTreeMap<String, (usize, Arc<Notify>)>;

/// A place to wait for one order.
pub(crate) struct Waiting {
    settling: Settling,
    order_id: String,
    notify: Arc<Notify>,
}

impl Settling {
    /// Begins to wait: what is settled from here on is noticed.
    pub(crate) fn wait_for(&self, order_id: &str) -> Waiting {
        let mut waiting = self.lock();
        let (count, notify) = waiting.entry(order_id.to_owned()).or_default();
        *count += 1;
        Waiting { settling: self.clone(), order_id: order_id.to_owned(), notify: notify.clone() }
    }

    /// The order is settled, and that is durable.
    pub(crate) fn settled(&self, order_id: &str) {
        if let Some((count, notify)) = self.lock().get(order_id) {
            // One permit for each of the waiting, kept for those that are looking at the order just now.
            (0..*count).for_each(|_| notify.notify_one());
            notify.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Resolves when the order may be settled.
    pub(crate) async fn noticed(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self.settling.lock();
        if let Some((count, _)) = waiting.get_mut(&self.order_id) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.order_id);
            }
        }
    }
}
