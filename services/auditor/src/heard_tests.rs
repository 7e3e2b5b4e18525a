//! Replicas of the auditor, one of which hears for all.
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use clock::{Ids, Timestamp, TokioClock};
use messaging::Message;
use messaging::memory::Memory as MemoryBus;
use store::memory::Memory;

use super::*;

const TERMS: Terms =
    Terms { grace: Duration::from_secs(60), settle: Duration::from_secs(120), deliver: Duration::from_secs(600) };

/// The bus as one replica reaches it, over connections of its own that it may lose without a word: nothing comes, and no question
/// is answered.
struct CutOff {
    inner: Arc<dyn Bus>,
    off: Arc<AtomicBool>,
}

/// A member of a group that hears nothing while its replica is cut off.
struct Deaf(Box<dyn Subscription>, Arc<AtomicBool>);

impl CutOff {
    fn reached(&self) -> Result<&dyn Bus, BusError> {
        if self.off.load(Ordering::SeqCst) {
            return Err(BusError::Unavailable("no connection".into()));
        }
        Ok(self.inner.as_ref())
    }
}

#[async_trait]
impl Bus for CutOff {
    async fn create(&self, topic: &str, partitions: Partition) -> Result<(), BusError> {
        self.reached()?.create(topic, partitions).await
    }
    async fn publish(&self, topic: &str, messages: Vec<Message>) -> Result<(), BusError> {
        self.reached()?.publish(topic, messages).await
    }
    async fn subscribe(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Subscription>, BusError> {
        Ok(Box::new(Deaf(self.inner.subscribe(group, topics).await?, self.off.clone())))
    }
    async fn latest(&self, topic: &str, most: Offset) -> Result<Vec<Delivered>, BusError> {
        self.reached()?.latest(topic, most).await
    }
    async fn lag(&self, group: &str, topic: &str) -> Result<u64, BusError> {
        self.reached()?.lag(group, topic).await
    }
}

#[async_trait]
impl Subscription for Deaf {
    async fn next(&mut self, limit: usize) -> Result<Vec<Delivered>, BusError> {
        if self.1.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        self.0.next(limit).await
    }
    async fn acknowledge(&mut self, topic: &str, partition: Partition, offset: Offset) -> Result<(), BusError> {
        self.0.acknowledge(topic, partition, offset).await
    }
}

/// A replica, whether it is cut off, and what it says.
fn replica(clock: &Arc<TokioClock>, store: &Arc<Memory>, bus: &Arc<MemoryBus>) -> (Process, Arc<AtomicBool>) {
    let process = Process::new(clock.clone(), Arc::new(Ids::random(clock.clone())));
    let off = Arc::new(AtomicBool::new(false));
    let messages = messaging::Messages::new(&process, Arc::new(CutOff { inner: bus.clone(), off: off.clone() }));
    crate::start(&process, store.clone(), &messages, TERMS, telemetry::metrics::Red::new(&process.metrics, "grpc"));
    (process, off)
}

/// A replica that hears nothing leaves the books to one that does, and says so; it does not take them back.
#[tokio::test(start_paused = true)]
async fn a_replica_that_hears_nothing_lets_another_keep_the_books() {
    let clock = Arc::new(TokioClock::starting_at(Timestamp(1_800_000_000_000_000)));
    let (store, bus) = (Arc::new(Memory::new(clock.clone())), Arc::new(MemoryBus::new(7)));
    for topic in TOPICS {
        bus.create(topic, 1).await.unwrap();
    }
    let (one, off) = replica(&clock, &store, &bus);
    sleep(Duration::from_secs(10)).await;
    let (two, _) = replica(&clock, &store, &bus);
    sleep(Duration::from_secs(10)).await;
    let keeps = |process: &Process| process.health.unready().is_empty();
    assert_eq!((keeps(&one), keeps(&two)), (true, false));

    off.store(true, Ordering::SeqCst);
    let message = Message { key: "order-1".into(), headers: vec![], payload: vec![] };
    bus.publish(TOPICS[0], vec![message]).await.unwrap();
    sleep(Duration::from_secs(30)).await;
    assert_eq!((keeps(&one), keeps(&two)), (false, true));
    assert_eq!(bus.lag(GROUP, TOPICS[0]).await, Ok(0));

    sleep(Duration::from_secs(60)).await;
    assert_eq!((keeps(&one), keeps(&two)), (false, true));
    assert!(one.tasks.drain(Duration::from_secs(1)).await && two.tasks.drain(Duration::from_secs(1)).await);
}
