//! The bus at its simplest and its worst: in one process's memory, behind one lock, with faults on purpose.
//!
//! # Problem
//! At least once, and order only within a key: code that is tested on a bus which delivers once and in order relies on
//! both, and breaks on the first rebalance.
//!
//! # Pattern
//! A fake that is as weak as the port allows. What it does wrong is drawn from a seed, so that a failure comes again.
//!
//! # Here
//! [`Memory::new`] gives messages again that were not acknowledged, in the same batch or a later one; it gives fewer than
//! there are, or nothing yet; and it mixes the keys of a batch. [`Memory::plain`] does nothing of that.
//!
//! # Limits
//! Nothing survives the process. A batch is always a gapless range of each partition, whatever its order: an acknowledgement
//! means everything up to its offset.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::ledger::{Ledger, Member, Place, Range};
use crate::{Bus, BusError, Delivered, Message, Offset, Partition, Subscription, partition_of};

/// A bus in memory.
pub struct Memory(Arc<Mutex<State>>);

struct State {
    ledger: Ledger,
    messages: BTreeMap<Place, Vec<Message>>,
    faults: Option<Chance>,
}

impl Memory {
    /// An empty bus with faults that `seed` decides.
    #[must_use]
    pub fn new(seed: u64) -> Memory {
        Memory::with(Some(Chance(seed)))
    }

    /// An empty bus without faults.
    #[must_use]
    pub fn plain() -> Memory {
        Memory::with(None)
    }

    fn with(faults: Option<Chance>) -> Memory {
        Memory(Arc::new(Mutex::new(State { ledger: Ledger::default(), messages: BTreeMap::new(), faults })))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Bus for Memory {
    async fn create(&self, topic: &str, partitions: Partition) -> Result<(), BusError> {
        let ledger = &mut lock(&self.0).ledger;
        if ledger.lacks(topic, partitions)? {
            ledger.reached(topic, vec![0; partitions as usize]);
        }
        Ok(())
    }

    async fn publish(&self, topic: &str, messages: Vec<Message>) -> Result<(), BusError> {
        let state = &mut *lock(&self.0);
        state.ledger.check(topic, &messages)?;
        let mut ends = state.ledger.ends(topic)?.to_vec();
        for message in messages {
            let partition = partition_of(&message.key, ends.len() as Partition);
            ends[partition as usize] += 1;
            state.messages.entry(Place { topic: topic.into(), partition }).or_default().push(message);
        }
        state.ledger.reached(topic, ends);
        Ok(())
    }

    async fn subscribe(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Subscription>, BusError> {
        let member = lock(&self.0).ledger.join(group, topics)?;
        Ok(Box::new(Listening { bus: self.0.clone(), member }))
    }

    async fn latest(&self, topic: &str, most: Offset) -> Result<Vec<Delivered>, BusError> {
        let state = lock(&self.0);
        let last = state.ledger.last(topic, most)?;
        let one = |place, offset| delivered(&state.messages, place, offset);
        Ok(last.iter().flat_map(|(place, from, end)| (*from..*end).map(move |offset| one(place, offset))).collect())
    }

    async fn lag(&self, group: &str, topic: &str) -> Result<u64, BusError> {
        lock(&self.0).ledger.lag(group, topic)
    }
}

struct Listening {
    bus: Arc<Mutex<State>>,
    member: Member,
}

#[async_trait]
impl Subscription for Listening {
    async fn next(&mut self, limit: usize) -> Result<Vec<Delivered>, BusError> {
        loop {
            // Before looking: what comes after the look wakes the wait.
            self.member.changed.borrow_and_update();
            if let Some(batch) = lock(&self.bus).give(&mut self.member, limit) {
                return Ok(batch);
            }
            let closed = |_| BusError::Unavailable("the bus is closed".into());
            self.member.changed.changed().await.map_err(closed)?;
        }
    }

    async fn acknowledge(&mut self, topic: &str, partition: Partition, offset: Offset) -> Result<(), BusError> {
        let place = Place { topic: topic.into(), partition };
        let ledger = &mut lock(&self.bus).ledger;
        ledger.may_acknowledge(&self.member, &place, offset)?;
        ledger.acknowledged(&self.member.group, &place, offset + 1);
        Ok(())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        lock(&self.bus).ledger.leave(&self.member);
    }
}

impl State {
    /// A batch, if there is anything new.
    fn give(&mut self, member: &mut Member, limit: usize) -> Option<Vec<Delivered>> {
        if limit == 0 {
            return Some(Vec::new());
        }
        let mut ranges = self.ledger.due(member, limit);
        if ranges.is_empty() {
            return None;
        }
        if let Some(chance) = &mut self.faults {
            chance.shorten(&mut ranges);
        }
        ranges.iter().for_each(|range| member.was_given(range));
        let offsets = ranges.iter().flat_map(|range| (range.from..range.until).map(|offset| (&range.place, offset)));
        let mut batch: Vec<_> = offsets.map(|(place, offset)| delivered(&self.messages, place, offset)).collect();
        if let Some(chance) = &mut self.faults {
            batch = chance.mix(batch);
            let under_way = self.ledger.under_way(member);
            while batch.len() < limit
                && chance.one_in(3)
                && let Some((place, from, until)) = under_way.get(chance.below(under_way.len()))
                && from < until
            {
                let offset = from + chance.below((until - from) as usize) as Offset;
                batch.push(delivered(&self.messages, place, offset));
            }
        }
        Some(batch)
    }
}

fn delivered(messages: &BTreeMap<Place, Vec<Message>>, place: &Place, offset: Offset) -> Delivered {
    let message = messages[place][offset as usize].clone();
    Delivered { topic: place.topic.clone(), partition: place.partition, offset, message }
}

/// Numbers that a seed decides (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % n.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Fewer messages than there are, or none.
    fn shorten(&mut self, ranges: &mut Vec<Range>) {
        if self.one_in(4) {
            ranges.clear();
        }
        for range in ranges {
            if self.one_in(3) {
                range.until = range.from + 1 + self.below((range.until - range.from) as usize) as Offset;
            }
        }
    }

    /// Another order of the batch, in which each key keeps its own.
    fn mix(&mut self, batch: Vec<Delivered>) -> Vec<Delivered> {
        let mut keys: Vec<_> = batch.iter().map(|delivered| delivered.message.key.clone()).collect();
        for n in (1..keys.len()).rev() {
            keys.swap(n, self.below(n + 1));
        }
        let mut queues: BTreeMap<String, VecDeque<Delivered>> = BTreeMap::new();
        for delivered in batch {
            queues.entry(delivered.message.key.clone()).or_default().push_back(delivered);
        }
        keys.iter().filter_map(|key| queues.get_mut(key)?.pop_front()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Subject, hold_the_contract, message};

    mod plain {
        use super::*;

        async fn make() -> Subject {
            Subject::new(Arc::new(Memory::plain()), ())
        }
        hold_the_contract!(make);
    }

    mod with_faults {
        use super::*;

        async fn make() -> Subject {
            Subject::new(Arc::new(Memory::new(1)), ())
        }
        hold_the_contract!(make);
    }

    mod with_other_faults {
        use super::*;

        async fn make() -> Subject {
            Subject::new(Arc::new(Memory::new(0xfeed)), ())
        }
        hold_the_contract!(make);
    }

    mod with_more_faults {
        use super::*;

        async fn make() -> Subject {
            Subject::new(Arc::new(Memory::new(u64::MAX)), ())
        }
        hold_the_contract!(make);
    }

    /// What a member is given of 200 messages of 10 keys, batch by batch; nothing is acknowledged.
    async fn batches(bus: Memory) -> Vec<Vec<Offset>> {
        bus.create("t", 1).await.unwrap();
        let messages = (0..200).map(|n| message(&format!("key-{}", n % 10), n));
        bus.publish("t", messages.collect()).await.unwrap();
        let mut member = bus.subscribe("g", &["t"]).await.unwrap();
        let (mut batches, mut seen) = (Vec::new(), std::collections::BTreeSet::new());
        while seen.len() < 200 {
            let batch: Vec<_> = member.next(20).await.unwrap().iter().map(|delivered| delivered.offset).collect();
            seen.extend(batch.clone());
            batches.push(batch);
        }
        batches
    }

    #[tokio::test]
    async fn faults_happen_and_a_seed_decides_them() {
        let given = batches(Memory::new(7)).await;
        assert_eq!(given, batches(Memory::new(7)).await);
        assert_ne!(given, batches(Memory::new(8)).await);
        let mut seen = std::collections::BTreeSet::new();
        let (mut again_later, mut nothing_new, mut fewer, mut mixed) = (0, 0, 0, 0);
        for batch in &given {
            let new: Vec<_> = batch.iter().filter(|offset| !seen.contains(*offset)).collect();
            again_later += batch.len() - new.len();
            nothing_new += usize::from(new.is_empty());
            fewer += usize::from((1..20).contains(&batch.len()));
            mixed += usize::from(!new.is_sorted());
            seen.extend(batch.iter().copied());
        }
        assert!([again_later, nothing_new, fewer, mixed].iter().all(|count| *count > 0), "{given:?}");
    }

    #[tokio::test]
    async fn without_faults_everything_comes_once_and_in_order() {
        let batches = batches(Memory::plain()).await;
        assert!(batches.iter().all(|batch| batch.len() == 20));
        assert!(batches.concat().into_iter().eq(0..200));
    }
}
