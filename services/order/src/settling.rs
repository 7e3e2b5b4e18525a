//! Lets a request wait until an order is settled.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Who waits for which order. Clones share it. Another replica may settle the order: whoever waits looks for himself now
/// and then.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settling {
    waiting: Arc<Mutex<BTreeMap<String, watch::Sender<()>>>>,
}

/// A place to wait for one order.
pub(crate) struct Waiting {
    settling: Settling,
    order_id: String,
    /// Present until it is dropped, under the lock.
    settled: Option<watch::Receiver<()>>,
}

impl Settling {
    /// Begins to wait: what is settled from here on is noticed.
    pub(crate) fn wait_for(&self, order_id: &str) -> Waiting {
        let settled = self.lock().entry(order_id.to_owned()).or_default().subscribe();
        Waiting { settling: self.clone(), order_id: order_id.to_owned(), settled: Some(settled) }
    }

    /// The order is settled, and that is durable.
    pub(crate) fn settled(&self, order_id: &str) {
        if let Some(sender) = self.lock().get(order_id) {
            sender.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, watch::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Resolves when the order may be settled.
    pub(crate) async fn noticed(&mut self) {
        if let Some(settled) = &mut self.settled {
            // The sender lives as long as this place does.
            let _ = settled.changed().await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self.settling.lock();
        self.settled = None;
        if waiting.get(&self.order_id).is_some_and(|sender| sender.receiver_count() == 0) {
            waiting.remove(&self.order_id);
        }
    }
}
