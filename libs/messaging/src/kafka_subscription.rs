//! What a member of a group on Kafka was handed, was given, and has acknowledged.
//!
//! # Problem
//! Messages are handed over while the member works on others, partitions come and go meanwhile, and whoever commits what it
//! was given under an earlier assignment loses what the partition's new owner has not done yet.
//!
//! # Pattern
//! A desk between two that work at their own pace: the thread of `kafka_poller.rs` puts messages on it, and the member takes
//! them from there, at its own limit.
//!
//! # Here
//! An entry of [`Held`] lives from the assignment of a partition to its revocation. Whatever was given under an earlier one is
//! unknown here, and its acknowledgement refused.
//!
//! # Limits
//! What is acknowledged is committed a moment later: waiting for each commit would cost a batch a round trip for each of its
//! partitions, and what a crash forgets of it is delivered again, as it may be anyway.
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::Thread;

use async_trait::async_trait;

use crate::kafka_cluster::lock;
use crate::kafka_poller::Desk;
use crate::ledger::Place;
use crate::{BusError, Delivered, Message, Offset, Partition, Subscription};

/// How many messages, and about how many bytes, wait of one partition until it is paused.
const FULL: (usize, usize) = (1_000, 2 << 20);

/// What a member has.
#[derive(Default)]
pub(crate) struct Held {
    /// Those that are its own.
    pub(crate) partitions: BTreeMap<Place, Assigned>,
    /// The partition that was served last: the others come first.
    last: Option<Place>,
    /// Why nothing comes any more.
    pub(crate) ended: Option<BusError>,
}

/// A partition while it is the member's.
#[derive(Default)]
pub(crate) struct Assigned {
    waiting: VecDeque<Delivered>,
    bytes: usize,
    /// Whether nothing more is fetched for now.
    pub(crate) paused: bool,
    /// The first offset that was not given; absent if none was.
    given: Option<Offset>,
    /// The first offset that is not acknowledged, as far as this member knows.
    acknowledged: Offset,
    /// Whether the poller has not heard of that yet.
    fresh: bool,
}

impl Assigned {
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= FULL.0 || self.bytes >= FULL.1
    }

    pub(crate) fn is_half_empty(&self) -> bool {
        self.waiting.len() <= FULL.0 / 2 && self.bytes <= FULL.1 / 2
    }

    /// The first offset that is not acknowledged, if that is news.
    pub(crate) fn news(&mut self) -> Option<Offset> {
        std::mem::take(&mut self.fresh).then_some(self.acknowledged)
    }
}

impl Held {
    /// A message was handed over; whether its partition is the member's.
    pub(crate) fn take(&mut self, delivered: Delivered) -> bool {
        let place = Place { topic: delivered.topic.clone(), partition: delivered.partition };
        let Some(assigned) = self.partitions.get_mut(&place) else { return false };
        assigned.bytes += weight(&delivered);
        assigned.waiting.push_back(delivered);
        true
    }

    /// A batch, if anything waits.
    fn give(&mut self, limit: usize) -> Option<Result<Vec<Delivered>, BusError>> {
        let mut batch = Vec::new();
        let last = self.last.clone();
        let late = (last.as_ref().map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let late: Vec<Place> = self.partitions.range::<Place, _>(late).map(|(place, _)| place.clone()).collect();
        let early = self.partitions.keys().take_while(|place| Some(*place) <= last.as_ref());
        let early: Vec<Place> = early.cloned().collect();
        for place in late.into_iter().chain(early) {
            let Some(assigned) = self.partitions.get_mut(&place) else { continue };
            let count = assigned.waiting.len().min(limit - batch.len());
            if count > 0 {
                let before = batch.len();
                batch.extend(assigned.waiting.drain(..count));
                assigned.bytes -= batch[before..].iter().map(weight).sum::<usize>();
                assigned.given = batch.last().map(|given| given.offset + 1);
                self.last = Some(place);
            }
        }
        match &self.ended {
            _ if limit == 0 || !batch.is_empty() => Some(Ok(batch)),
            Some(why) => Some(Err(why.clone())),
            None => None,
        }
    }

    fn acknowledge(&mut self, place: &Place, offset: Offset) -> Result<(), BusError> {
        let given = |assigned: &&mut Assigned| assigned.given.is_some_and(|next| offset < next);
        let assigned = self.partitions.get_mut(place).filter(given);
        let assigned = assigned.ok_or_else(|| BusError::Revoked(place.to_string()))?;
        if offset >= assigned.acknowledged {
            assigned.acknowledged = offset + 1;
            assigned.fresh = true;
        }
        Ok(())
    }
}

/// About how many bytes a message takes.
fn weight(delivered: &Delivered) -> usize {
    let Message { key, headers, payload } = &delivered.message;
    let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    key.len() + headers + payload.len()
}

/// A member as its caller knows it.
pub(crate) struct Listening {
    pub(crate) desk: Arc<Desk>,
    pub(crate) thread: Thread,
}

#[async_trait]
impl Subscription for Listening {
    async fn next(&mut self, limit: usize) -> Result<Vec<Delivered>, BusError> {
        loop {
            if let Some(given) = lock(&self.desk.held).give(limit) {
                return given;
            }
            // What came after the look ends the wait at once.
            self.desk.changed.notified().await;
        }
    }

    async fn acknowledge(&mut self, topic: &str, partition: Partition, offset: Offset) -> Result<(), BusError> {
        lock(&self.desk.held).acknowledge(&Place { topic: topic.into(), partition }, offset)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.desk.leaves.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}
