//! The bus of the simulation, as a host has it: it repeats, mixes and delays by itself, and here it also refuses, keeps a part,
//! loses answers, and gives a member's work to another while the member is at it.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use messaging::{Bus, BusError, Delivered, Message, Offset, Partition, Subscription};
use tokio::time::sleep;

use crate::faults::{Class, Faults};
use crate::trace::Trace;

/// How seldom each fault of the bus strikes, in publishes or batches.
const REFUSES: u64 = 40;
const CUTS: u64 = 40;
const UNKNOWN: u64 = 40;
const SLOW: u64 = 40;
const REPLACES: u64 = 40;

/// The bus as a host has it.
pub struct Access {
    bus: Arc<dyn Bus>,
    faults: Faults,
    trace: Trace,
    place: String,
}

impl Access {
    /// For the host named `place`.
    #[must_use]
    pub fn new(bus: &Arc<dyn Bus>, faults: &Faults, trace: &Trace, place: &str) -> Access {
        Access { bus: bus.clone(), faults: faults.clone(), trace: trace.clone(), place: format!("{place}/bus") }
    }

    fn strikes(&self, class: Class, one_in: u64) -> Option<u64> {
        strikes(&self.faults, &self.trace, class, &self.place, one_in)
    }
}

fn strikes(faults: &Faults, trace: &Trace, class: Class, place: &str, one_in: u64) -> Option<u64> {
    let struck = faults.strikes(class, place, one_in)?;
    trace.line(&format!("FAULT {class} at {place}"));
    Some(struck)
}

#[async_trait]
impl Bus for Access {
    async fn create(&self, topic: &str, partitions: Partition) -> Result<(), BusError> {
        self.bus.create(topic, partitions).await
    }

    async fn publish(&self, topic: &str, mut messages: Vec<Message>) -> Result<(), BusError> {
        let usual = 1 + self.faults.drawn("publish", &self.place) % 3;
        let slow = self.strikes(Class::BusSlow, SLOW).map_or(0, |drawn| drawn % 2_000);
        sleep(Duration::from_millis(usual + slow)).await;
        let lost = || Err(BusError::Unavailable("the broker cannot be reached".into()));
        if self.strikes(Class::BusRefuses, REFUSES).is_some() {
            return lost();
        }
        if let Some(drawn) = self.strikes(Class::BusCuts, CUTS) {
            messages.truncate(usize::try_from(drawn % messages.len().max(1) as u64).unwrap_or(0));
            self.bus.publish(topic, messages).await?;
            return lost();
        }
        self.bus.publish(topic, messages).await?;
        if self.strikes(Class::BusUnknown, UNKNOWN).is_some() { lost() } else { Ok(()) }
    }

    async fn subscribe(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Subscription>, BusError> {
        let inner = self.bus.subscribe(group, topics).await?;
        let topics = topics.iter().map(ToString::to_string).collect();
        let (bus, faults, trace) = (self.bus.clone(), self.faults.clone(), self.trace.clone());
        let (group, place) = (group.to_owned(), self.place.clone());
        Ok(Box::new(Listening { bus, faults, trace, place, group, topics, inner, given: BTreeMap::new() }))
    }

    async fn latest(&self, topic: &str, most: Offset) -> Result<Vec<Delivered>, BusError> {
        self.bus.latest(topic, most).await
    }

    async fn lag(&self, group: &str, topic: &str) -> Result<u64, BusError> {
        self.bus.lag(group, topic).await
    }
}

struct Listening {
    bus: Arc<dyn Bus>,
    faults: Faults,
    trace: Trace,
    place: String,
    group: String,
    topics: Vec<String>,
    inner: Box<dyn Subscription>,
    /// What was delivered here, to see what comes again.
    given: BTreeMap<(String, Partition), BTreeSet<Offset>>,
}

impl Listening {
    /// Counts what the bus did by itself.
    fn watch(&mut self, batch: &[Delivered]) {
        let mut last: BTreeMap<(String, Partition), Offset> = BTreeMap::new();
        for delivered in batch {
            let place = (delivered.topic.clone(), delivered.partition);
            if !self.given.entry(place.clone()).or_default().insert(delivered.offset) {
                self.faults.seen(Class::BusRepeats);
            }
            if last.insert(place, delivered.offset).is_some_and(|last| last > delivered.offset) {
                self.faults.seen(Class::BusMixes);
            }
        }
    }
}

#[async_trait]
impl Subscription for Listening {
    async fn next(&mut self, limit: usize) -> Result<Vec<Delivered>, BusError> {
        let slow = strikes(&self.faults, &self.trace, Class::BusSlow, &self.place, SLOW);
        if let Some(drawn) = slow {
            sleep(Duration::from_millis(drawn % 2_000)).await;
        }
        let batch = self.inner.next(limit).await?;
        self.watch(&batch);
        if strikes(&self.faults, &self.trace, Class::BusReplaces, &self.place, REPLACES).is_some() {
            // It takes the batch for its own; by now it is another's, who is given it again.
            let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
            self.inner = self.bus.subscribe(&self.group, &topics).await?;
        }
        Ok(batch)
    }

    async fn acknowledge(&mut self, topic: &str, partition: Partition, offset: Offset) -> Result<(), BusError> {
        self.inner.acknowledge(topic, partition, offset).await
    }
}
