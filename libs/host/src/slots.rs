//! Connection slots: how many clients are connected at a time, and who makes room for a new one.
//!
//! # Problem
//! A server that is full serves nobody new, although most of its connections are kept open for later, or wait for a client
//! that does not read.
//!
//! # Pattern
//! Bounded connections with eviction: the least useful connection makes room.
//!
//! # Here
//! [`Slots::take`] gives a slot while there is one. When all are taken, the connection that has been blocked by its client the
//! longest is closed, if that has lasted for [`BLOCKED`]; otherwise the one that has had no request the longest, be it between
//! two requests or before its first. A connection whose request is being answered keeps its slot.
//!
//! # Limits
//! Looking for the one to close reads all slots, only when the server is full. Whoever opens connections faster than others
//! send requests on theirs takes the idle ones away; the requests under way are safe.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A client that has not read for so long may be closed when its slot is needed.
const BLOCKED: Duration = Duration::from_millis(250);

/// The slots of one server.
#[derive(Debug)]
pub(crate) struct Slots {
    limit: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    last: u64,
    slots: BTreeMap<u64, Arc<Slot>>,
}

/// One connection's slot.
#[derive(Debug)]
pub(crate) struct Slot {
    use_: Mutex<Use>,
    /// Cancelled when the connection is to make room.
    pub(crate) evicted: CancellationToken,
}

#[derive(Debug)]
struct Use {
    requests: usize,
    /// Since there was no request, or since the connection was made.
    idle: Instant,
    blocked: Option<Instant>,
}

/// A slot that is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct SlotGuard {
    slots: Arc<Slots>,
    id: u64,
    pub(crate) slot: Arc<Slot>,
}

/// A request under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Slot>);

impl Slots {
    pub(crate) fn new(limit: usize) -> Arc<Slots> {
        Arc::new(Slots { limit, taken: Mutex::default() })
    }

    /// A slot, if one is free or can be freed.
    pub(crate) fn take(self: &Arc<Self>) -> Option<SlotGuard> {
        let mut taken = lock(&self.taken);
        if taken.slots.len() >= self.limit {
            let least_useful = taken.slots.iter().filter_map(|(id, slot)| Some((slot.uselessness()?, *id))).min();
            let (_, id) = least_useful?;
            let evicted = taken.slots.remove(&id)?;
            evicted.evicted.cancel();
        }
        taken.last += 1;
        let (id, slot) = (taken.last, Arc::new(Slot::new()));
        taken.slots.insert(id, slot.clone());
        Some(SlotGuard { slots: self.clone(), id, slot })
    }

    /// Whether so many slots are taken that it is worth a line.
    pub(crate) fn is_full(&self) -> bool {
        lock(&self.taken).slots.len() >= self.limit
    }

    /// Whether a tenth of the slots is free.
    pub(crate) fn has_room(&self) -> bool {
        lock(&self.taken).slots.len() <= self.limit - self.limit / 10
    }
}

impl Slot {
    fn new() -> Slot {
        let use_ = Mutex::new(Use { requests: 0, idle: Instant::now(), blocked: None });
        Slot { use_, evicted: CancellationToken::new() }
    }

    /// Since when the connection has been of no use, the blocked ones first; `None` if it is in use.
    fn uselessness(&self) -> Option<(bool, Instant)> {
        let Use { requests, idle, blocked } = *lock(&self.use_);
        match blocked {
            Some(since) if since.elapsed() >= BLOCKED => Some((false, since)),
            _ => (requests == 0).then_some((true, idle)),
        }
    }

    /// A request begins.
    pub(crate) fn request(self: &Arc<Self>) -> UnderWay {
        lock(&self.use_).requests += 1;
        UnderWay(self.clone())
    }

    /// The client does not read.
    pub(crate) fn blocked(&self, since: Instant) {
        lock(&self.use_).blocked = Some(since);
    }

    /// The client reads.
    pub(crate) fn unblocked(&self) {
        lock(&self.use_).blocked = None;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut use_ = lock(&self.0.use_);
        use_.requests -= 1;
        use_.idle = Instant::now();
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        lock(&self.slots.taken).slots.remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn the_least_useful_connection_makes_room() {
        let slots = Slots::new(4);
        let mut guards = Vec::new();
        for _ in 0..4 {
            guards.push(slots.take().unwrap());
            advance(Duration::from_secs(1)).await;
        }
        let evicted = |guards: &[SlotGuard]| -> Vec<usize> {
            guards.iter().enumerate().filter(|(_, g)| g.slot.evicted.is_cancelled()).map(|(n, _)| n).collect()
        };
        // The first is busy, the second has just been; of the other two the third has been idle for longer.
        let busy = guards[0].slot.request();
        drop(guards[1].slot.request());
        guards.push(slots.take().unwrap());
        assert_eq!(evicted(&guards), [2]);
        // A blocked one goes before an idle one, though it has a request, once it has been blocked for a while.
        guards[0].slot.blocked(Instant::now());
        guards.push(slots.take().unwrap());
        assert_eq!(evicted(&guards), [2, 3]);
        advance(BLOCKED).await;
        guards.push(slots.take().unwrap());
        assert_eq!(evicted(&guards), [0, 2, 3]);
        drop(busy);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_in_use_keeps_its_slot_and_one_that_ends_gives_it_back() {
        let slots = Slots::new(1);
        let guard = slots.take().unwrap();
        let request = guard.slot.request();
        assert!(slots.take().is_none());
        drop(guard);
        let _next = slots.take().unwrap();
        assert!(!request.0.evicted.is_cancelled());
    }
}
