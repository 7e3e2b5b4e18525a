//! What the relay publishes, and what it does not lose when it dies or the bus fails.
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use clock::{Ids, SystemClock, Timestamp, TokioClock};
use futures::future::BoxFuture;
use store::memory::Memory;
use store::turn::STAND_BACK;
use store::wrapped::{Wrapped, Wrapping};
use store::{Append, Expected, NewEvent, Snapshot, StreamId, Version, Versions};
use tokio::sync::watch;
use uuid::Uuid;

use super::*;
use crate::Subscription;
use crate::consumer::tests::Lines;

/// A bus that keeps what it is given, and fails at a chosen publish, having kept a chosen prefix of it.
#[derive(Default)]
struct Recorder {
    kept: Mutex<Vec<Envelope>>,
    publishes: AtomicUsize,
    fails_at: Option<(usize, usize)>,
    away: AtomicBool,
    /// What somebody else wrote behind all this.
    foreign: Mutex<Vec<Message>>,
}

#[async_trait]
impl Bus for Recorder {
    async fn create(&self, _: &str, _: Partition) -> Result<(), BusError> {
        Ok(())
    }
    async fn publish(&self, _: &str, messages: Vec<Message>) -> Result<(), BusError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(BusError::Unavailable("the broker is away".into()));
        }
        let (number, whole) = (self.publishes.fetch_add(1, Ordering::SeqCst), messages.len());
        let keeps = self.fails_at.filter(|(at, _)| *at == number).map_or(whole, |(_, prefix)| prefix.min(whole));
        self.kept.lock().unwrap().extend(messages[..keeps].iter().map(|message| Envelope::decode(message).unwrap()));
        if keeps < whole { Err(BusError::Unavailable("the test pulled the plug".into())) } else { Ok(()) }
    }
    async fn subscribe(&self, _: &str, _: &[&str]) -> Result<Box<dyn Subscription>, BusError> {
        Err(BusError::Unavailable("nobody listens".into()))
    }
    async fn latest(&self, _: &str, most: Offset) -> Result<Vec<crate::Delivered>, BusError> {
        let mut last: Vec<_> = self.kept.lock().unwrap().iter().map(Envelope::encode).collect();
        last.extend(self.foreign.lock().unwrap().iter().cloned());
        let first = last.len().saturating_sub(usize::try_from(most).unwrap());
        let delivered =
            |(n, message)| crate::Delivered { topic: "order-events".into(), partition: 0, offset: n, message };
        Ok((0..).zip(last).skip(first).map(delivered).collect())
    }
    async fn lag(&self, _: &str, _: &str) -> Result<Offset, BusError> {
        Ok(0)
    }
}

impl Recorder {
    fn kept(&self) -> Vec<(String, u64, String)> {
        let kept = self.kept.lock().unwrap();
        kept.iter().map(|envelope| (envelope.stream.clone(), envelope.version, envelope.kind.clone())).collect()
    }
}

/// A store whose process dies at its nth commit: of the mark, before or after it took effect.
struct Dying {
    inner: Memory,
    commits: AtomicUsize,
    dies_at: usize,
    after_the_effect: bool,
}

#[async_trait]
impl Store for Dying {
    async fn load(&self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.inner.load(stream, after, limit).await
    }
    async fn version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        self.inner.version(stream).await
    }
    async fn streams(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<StreamId>, ReadError> {
        self.inner.streams(prefix, after, limit).await
    }
    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Versions, CommitError>> {
        if self.commits.fetch_add(1, Ordering::SeqCst) != self.dies_at {
            return self.inner.commit(commit);
        }
        if self.after_the_effect {
            drop(self.inner.commit(commit));
        }
        Box::pin(std::future::ready(Err(CommitError::Malformed("the process died".into()))))
    }
    async fn reply(&self, id: &CommitId) -> Result<Option<Vec<u8>>, ReadError> {
        self.inner.reply(id).await
    }
    async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.inner.read_all(after, limit).await
    }
    async fn end(&self) -> Result<Position, ReadError> {
        self.inner.end().await
    }
    async fn claim_due(&self, lease: Duration, limit: usize) -> Result<Vec<String>, ReadError> {
        self.inner.claim_due(lease, limit).await
    }
    async fn lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<bool, ReadError> {
        self.inner.lease(name, holder, length).await
    }
    async fn armed(&self) -> Result<u64, ReadError> {
        self.inner.armed().await
    }
    async fn timers(&self, after: &str, limit: usize) -> Result<Vec<(String, Timestamp)>, ReadError> {
        self.inner.timers(after, limit).await
    }
    fn growth(&self) -> watch::Receiver<()> {
        self.inner.growth()
    }
    async fn mark(&self, name: &str) -> Result<u64, ReadError> {
        self.inner.mark(name).await
    }
    async fn snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, ReadError> {
        self.inner.snapshot(stream).await
    }
    async fn keep_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<(), ReadError> {
        self.inner.keep_snapshot(stream, snapshot).await
    }
    async fn drop_snapshots(&self) -> Result<(), ReadError> {
        self.inner.drop_snapshots().await
    }
}

fn publicity(recorded: &Recorded) -> Result<Public, ReadError> {
    Ok(match recorded.event.kind.as_str() {
        _ if recorded.stream.0.starts_with("saga-") => Public::Nothing,
        "Secret" => Public::Version,
        _ => Public::Fact { kind: "shop.events.v1.Told".into(), payload: recorded.event.data.clone().into_bytes() },
    })
}

/// A log of orders and sagas, a page and a half long.
async fn log(store: &dyn Store, ids: &Ids) {
    for n in 0..(PAGE + PAGE / 2) {
        let (stream, kind) = match n % 5 {
            0 => (format!("saga-{}", n % 3), "Moved"),
            1 => (format!("order-{}", n % 7), "Secret"),
            _ => (format!("order-{}", n % 7), "Told"),
        };
        let event = NewEvent { id: ids.next(), kind: kind.into(), schema: 1, data: format!("{{\"n\":{n}}}") };
        let appends = vec![Append { stream: stream.as_str().into(), expected: Expected::Any, events: vec![event] }];
        store
            .commit(Commit { appends, ..Commit::new(format!("c{n}").as_str().into(), Meta::default()) })
            .await
            .unwrap();
    }
}

fn relay(store: Arc<dyn Store>, bus: &Arc<Recorder>, ids: &Arc<Ids>) -> Relay {
    let process = Process::new(Arc::new(SystemClock), ids.clone());
    Relay::new(&process, store, &Messages::new(&process, bus.clone()), "order", publicity)
}

/// Steps until nothing is left, and keeps the cursor after each; the memory store shows what is new on the second look.
async fn drain(relay: &mut Relay) {
    let mut idle = 0;
    while idle < 3 {
        idle = if relay.step().await == Ok(0) { idle + 1 } else { 0 };
        relay.keep().await.unwrap();
    }
}

/// Whoever listens and drops what is familiar sees each version of each stream once, in order.
fn heard(kept: &[(String, u64, String)]) -> BTreeMap<String, Vec<u64>> {
    let mut heard: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (stream, version, _) in kept {
        let versions = heard.entry(stream.clone()).or_default();
        let last = versions.last().copied().unwrap_or(0);
        assert!(*version <= last + 1, "{stream}: {version} after {last} is a gap");
        if *version == last + 1 {
            versions.push(*version);
        }
    }
    heard
}

fn everything_once(kept: &[(String, u64, String)]) {
    let heard = heard(kept);
    assert_eq!(heard.len(), 7);
    let events: usize = heard.values().map(Vec::len).sum();
    assert_eq!(events, (PAGE + PAGE / 2) / 5 * 4);
}

#[tokio::test]
async fn a_log_is_published_in_order_without_what_is_nobodys_business() {
    let ids = Arc::new(Ids::random(Arc::new(SystemClock)));
    let (store, bus) = (Arc::new(Memory::new(Arc::new(SystemClock))), Arc::new(Recorder::default()));
    log(store.as_ref(), &ids).await;
    drain(&mut relay(store.clone(), &bus, &ids)).await;
    let kept = bus.kept();
    everything_once(&kept);
    assert_eq!(kept.len(), (PAGE + PAGE / 2) / 5 * 4, "nothing twice");
    let secret = bus.kept.lock().unwrap().iter().find(|envelope| envelope.is_private()).cloned().unwrap();
    assert!(secret.payload.is_empty());
    assert!(!kept.iter().any(|(stream, ..)| stream.starts_with("saga-")));
    drain(&mut relay(store, &bus, &ids)).await;
    assert_eq!(bus.kept().len(), kept.len(), "another relay goes on where this one was");
}

/// OX-1, OX-2: killed before or after any move of the mark, everything goes out, and at most what was published since the mark
/// goes out twice.
#[tokio::test]
async fn a_relay_that_is_killed_loses_nothing_and_leaves_no_gap() {
    let all = (PAGE + PAGE / 2) / 5 * 4;
    for after_the_effect in [false, true] {
        for dies_at in 0..2 {
            let ids = Arc::new(Ids::random(Arc::new(SystemClock)));
            let inner = Memory::new(Arc::new(SystemClock));
            log(&inner, &ids).await;
            let store = Arc::new(Dying { inner, commits: AtomicUsize::new(0), dies_at, after_the_effect });
            let bus = Arc::new(Recorder::default());
            let mut first = relay(store.clone(), &bus, &ids);
            while first.step().await.is_ok() && first.keep().await.is_ok() {}
            drain(&mut relay(store, &bus, &ids)).await;
            let kept = bus.kept();
            everything_once(&kept);
            let twice = kept.len() - all;
            assert_eq!(twice > 0, !after_the_effect, "what was marked does not go out again: {twice}");
        }
    }
}

/// What was published since the last move of the mark goes out again after a kill, and nothing is left out.
#[tokio::test]
async fn a_relay_that_is_killed_before_it_keeps_its_cursor_begins_at_the_mark() {
    let ids = Arc::new(Ids::random(Arc::new(SystemClock)));
    let (store, bus) = (Arc::new(Memory::new(Arc::new(SystemClock))), Arc::new(Recorder::default()));
    log(store.as_ref(), &ids).await;
    let mut first = relay(store.clone(), &bus, &ids);
    while bus.kept().len() < (PAGE + PAGE / 2) / 5 * 4 {
        first.step().await.unwrap();
    }
    drain(&mut relay(store, &bus, &ids)).await;
    everything_once(&bus.kept());
    assert_eq!(bus.kept().len(), (PAGE + PAGE / 2) / 5 * 8, "all of it twice");
}

/// OX-13: wherever the bus fails, it has a prefix, and the next try begins before the failure.
#[tokio::test]
async fn a_bus_that_fails_in_the_middle_of_a_page_gets_all_of_it_in_order() {
    for publish in 0..2 {
        for prefix in [0, 1, 7, 100] {
            let ids = Arc::new(Ids::random(Arc::new(SystemClock)));
            let store = Arc::new(Memory::new(Arc::new(SystemClock)));
            log(store.as_ref(), &ids).await;
            let bus = Arc::new(Recorder { fails_at: Some((publish, prefix)), ..Recorder::default() });
            drain(&mut relay(store, &bus, &ids)).await;
            everything_once(&bus.kept());
        }
    }
}

/// OX-3: while the bus is away commits go on and the age of what waits rises; afterwards everything arrives in order.
#[tokio::test(start_paused = true)]
async fn a_bus_that_is_away_for_ten_minutes_loses_nothing() {
    let clock = Arc::new(TokioClock::starting_at(Timestamp(1_800_000_000_000_000)));
    let ids = Arc::new(Ids::random(clock.clone()));
    let (store, bus) = (Arc::new(Memory::new(clock.clone())), Arc::new(Recorder::default()));
    let process = Process::new(clock, ids.clone());
    let messages = Messages::new(&process, bus.clone());
    Relay::new(&process, store.clone(), &messages, "order", publicity).start();
    bus.away.store(true, Ordering::SeqCst);
    log(store.as_ref(), &ids).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(bus.kept(), []);
    assert!(unsent_seconds(&process) >= 590.0, "{}", unsent_seconds(&process));
    assert!(process.health.impaired()["order relay"].contains("away"));
    assert!(process.health.unready().is_empty(), "what is recorded waits in the log");
    bus.away.store(false, Ordering::SeqCst);
    tokio::time::sleep(STAND_BACK + RENEW).await;
    everything_once(&bus.kept());
    assert_eq!(bus.kept().len(), (PAGE + PAGE / 2) / 5 * 4, "nothing twice");
    assert!(process.health.unready().is_empty() && process.health.impaired().is_empty());
    assert!(process.tasks.drain(Duration::from_secs(1)).await);
}

/// OX-4: two relays publish twice, and never in another order.
#[tokio::test]
async fn two_relays_keep_the_order_of_every_stream() {
    let ids = Arc::new(Ids::random(Arc::new(SystemClock)));
    let (store, bus) = (Arc::new(Memory::new(Arc::new(SystemClock))), Arc::new(Recorder::default()));
    log(store.as_ref(), &ids).await;
    let (mut one, mut two) = (relay(store.clone(), &bus, &ids), relay(store, &bus, &ids));
    futures::future::join(drain(&mut one), drain(&mut two)).await;
    everything_once(&bus.kept());
}

/// A database that was restored from an older copy would give versions a second time that others have heard of.
#[tokio::test]
async fn a_log_that_lacks_what_was_published_is_refused() {
    let ids = Arc::new(Ids::random(Arc::new(SystemClock)));
    let (store, bus) = (Arc::new(Memory::new(Arc::new(SystemClock))), Arc::new(Recorder::default()));
    log(store.as_ref(), &ids).await;
    drain(&mut relay(store.clone(), &bus, &ids)).await;
    assert_eq!(relay(store, &bus, &ids).check().await, Ok(()));
    // As long as the lost one, and yet another.
    let other = Arc::new(Memory::new(Arc::new(SystemClock)));
    log(other.as_ref(), &ids).await;
    for older in [other, Arc::new(Memory::new(Arc::new(SystemClock)))] {
        let refused = relay(older, &bus, &ids).check().await;
        let Err(RelayError::Older(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("which was published"), "{why}");
    }
}

/// Whatever somebody else wrote to the topic says nothing of the log; what the service published before it does.
#[tokio::test]
async fn foreign_messages_at_the_end_of_a_partition_are_passed_over() {
    let ids = Arc::new(Ids::random(Arc::new(SystemClock)));
    let (store, bus) = (Arc::new(Memory::new(Arc::new(SystemClock))), Arc::new(Recorder::default()));
    log(store.as_ref(), &ids).await;
    drain(&mut relay(store.clone(), &bus, &ids)).await;
    let last = bus.kept.lock().unwrap().last().unwrap().clone();
    let junk = Message { key: "k".into(), headers: vec![], payload: b"hello".into() };
    let other = Envelope { source: "billing".into(), stream: "bill-1".into(), version: 7, ..last };
    bus.foreign.lock().unwrap().extend([junk.clone(), other.encode(), junk.clone()]);
    assert_eq!(relay(store.clone(), &bus, &ids).check().await, Ok(()));
    let older = Arc::new(Memory::new(Arc::new(SystemClock)));
    let refused = relay(older, &bus, &ids).check().await;
    assert!(matches!(refused, Err(RelayError::Older(_))), "{refused:?}");
    // However many there are, the walk ends.
    bus.foreign.lock().unwrap().extend(vec![junk; 2 * usize::try_from(WALK).unwrap()]);
    assert_eq!(relay(store, &bus, &ids).check().await, Ok(()));
}

/// What cannot be read holds up what follows it, and nothing before it; once it can be read the same relay goes on.
#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_read_is_waited_for() {
    static REPAIRED: AtomicBool = AtomicBool::new(false);
    fn stumbling(recorded: &Recorded) -> Result<Public, ReadError> {
        match recorded.event.data.as_str() {
            r#"{"n":101}"# if !REPAIRED.load(Ordering::SeqCst) => Err(ReadError::Corrupt("n is 101".into())),
            _ => publicity(recorded),
        }
    }
    let clock = Arc::new(TokioClock::starting_at(Timestamp(1_800_000_000_000_000)));
    let ids = Arc::new(Ids::random(clock.clone()));
    let (store, bus) = (Arc::new(Memory::new(clock.clone())), Arc::new(Recorder::default()));
    log(store.as_ref(), &ids).await;
    let process = Process::new(clock, ids);
    let messages = Messages::new(&process, bus.clone());
    Relay::new(&process, store.clone(), &messages, "order", stumbling).start();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bus.kept().len(), 80, "what was recorded before it, and nothing else");
    assert!(process.health.impaired()["order relay"].contains("n is 101"));
    REPAIRED.store(true, Ordering::SeqCst);
    tokio::time::sleep(AFTER_REFUSAL + STAND_BACK + RENEW).await;
    everything_once(&bus.kept());
    assert_eq!(bus.kept().len(), ALL, "nothing twice");
    assert!(process.health.unready().is_empty() && process.health.impaired().is_empty());
    assert!(process.tasks.drain(Duration::from_secs(1)).await);
}

/// OX-12: an idle relay publishes at once when the log grows.
#[tokio::test(start_paused = true)]
async fn an_idle_relay_is_woken_by_the_log() {
    let ids = Arc::new(Ids::random(Arc::new(SystemClock)));
    let (store, bus) = (Arc::new(Memory::new(Arc::new(SystemClock))), Arc::new(Recorder::default()));
    let relay = relay(store.clone(), &bus, &ids);
    let tasks = relay.process.tasks.clone();
    relay.start();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = tokio::time::Instant::now();
    log(store.as_ref(), &ids).await;
    while bus.kept().len() < (PAGE + PAGE / 2) / 5 * 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());
    assert!(tasks.drain(Duration::from_secs(1)).await);
}

/// Replicas of one service over one log, which counts how often it is looked at.
struct Replicas {
    store: Arc<Wrapped<Counting>>,
    bus: Arc<Recorder>,
    ids: Arc<Ids>,
    clock: Arc<TokioClock>,
}

struct Counting {
    inner: Memory,
    looks: AtomicUsize,
    /// Whether somebody has set all marks to 0.
    marks_at_zero: AtomicBool,
}

impl Counting {
    /// Under which name the inner store has a mark.
    fn name(&self, mark: &str) -> String {
        if self.marks_at_zero.load(Ordering::SeqCst) { format!("{mark}-again") } else { mark.to_owned() }
    }
}

#[async_trait]
impl Wrapping for Counting {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }
    async fn read_all(&self, after: Position, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.inner.read_all(after, limit).await
    }
    async fn mark(&self, name: &str) -> Result<u64, ReadError> {
        self.inner.mark(&self.name(name)).await
    }
    fn commit(&self, mut commit: Commit) -> BoxFuture<'static, Result<Versions, CommitError>> {
        for mark in &mut commit.marks {
            mark.name = self.name(&mark.name);
        }
        self.inner.commit(commit)
    }
}

/// The bus of one replica, which can be stopped in the middle of a publish, or lose its connections while others keep theirs.
struct Freezing {
    inner: Arc<Recorder>,
    frozen: watch::Sender<bool>,
    cut_off: AtomicBool,
}

impl Freezing {
    fn reaches_it(&self) -> Result<(), BusError> {
        if self.cut_off.load(Ordering::SeqCst) {
            return Err(BusError::Unavailable("no connection".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl Bus for Freezing {
    async fn create(&self, topic: &str, partitions: Partition) -> Result<(), BusError> {
        self.reaches_it()?;
        self.inner.create(topic, partitions).await
    }
    async fn publish(&self, topic: &str, messages: Vec<Message>) -> Result<(), BusError> {
        self.reaches_it()?;
        self.frozen.subscribe().wait_for(|frozen| !frozen).await.unwrap();
        self.inner.publish(topic, messages).await
    }
    async fn subscribe(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Subscription>, BusError> {
        self.inner.subscribe(group, topics).await
    }
    async fn latest(&self, topic: &str, most: Offset) -> Result<Vec<crate::Delivered>, BusError> {
        self.reaches_it()?;
        self.inner.latest(topic, most).await
    }
    async fn lag(&self, group: &str, topic: &str) -> Result<Offset, BusError> {
        self.inner.lag(group, topic).await
    }
}

/// What a process says is the age of the oldest event that is not published, in seconds.
fn unsent_seconds(process: &Process) -> f64 {
    let text = process.metrics.text();
    let age = text.lines().find_map(|line| line.strip_prefix("relay_oldest_unsent_seconds{topic=\"order-events\"} "));
    age.expect("it is measured").parse().unwrap()
}

impl Replicas {
    fn new() -> Replicas {
        let clock = Arc::new(TokioClock::starting_at(Timestamp(1_800_000_000_000_000)));
        let (looks, marks_at_zero) = Default::default();
        let store = Arc::new(Wrapped(Counting { inner: Memory::new(clock.clone()), looks, marks_at_zero }));
        Replicas { store, bus: Arc::default(), ids: Arc::new(Ids::random(clock.clone())), clock }
    }

    fn replica(&self) -> (Relay, Arc<Freezing>) {
        let process = Process::new(self.clock.clone(), self.ids.clone());
        let bus = Arc::new(Freezing {
            inner: self.bus.clone(),
            frozen: watch::Sender::new(false),
            cut_off: AtomicBool::new(false),
        });
        let messages = Messages::new(&process, bus.clone());
        (Relay::new(&process, self.store.clone(), &messages, "order", publicity), bus)
    }

    /// One more event.
    async fn one_more(&self) {
        let event = NewEvent { id: self.ids.next(), kind: "Told".into(), schema: 1, data: "{}".into() };
        let appends = vec![Append { stream: "order-0".into(), expected: Expected::Any, events: vec![event] }];
        let commit = Commit { appends, ..Commit::new("one more".into(), Meta::default()) };
        self.store.commit(commit).await.unwrap();
    }

    /// Waits until so many messages are published.
    async fn published(&self, count: usize) {
        let limit = Duration::from_secs(30);
        let reached = async {
            while self.bus.kept().len() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(limit, reached).await.is_ok(), "{} of {count}", self.bus.kept().len());
    }
}

const ALL: usize = (PAGE + PAGE / 2) / 5 * 4;

/// Of two replicas one publishes, and when it stops the other goes on soon, from where it was.
#[tokio::test(start_paused = true)]
async fn one_of_two_replicas_publishes_and_another_goes_on_when_it_stops() {
    let replicas = Replicas::new();
    let ((one, _), (two, _)) = (replicas.replica(), replicas.replica());
    let tasks = [one.process.tasks.clone(), two.process.tasks.clone()];
    one.start();
    two.start();
    log(replicas.store.as_ref(), &replicas.ids).await;
    replicas.published(ALL).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(replicas.bus.kept().len(), ALL, "nothing twice");
    everything_once(&replicas.bus.kept());

    assert!(tasks[0].drain(Duration::from_secs(1)).await);
    let before = Instant::now();
    replicas.one_more().await;
    replicas.published(ALL + 1).await;
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    assert_eq!(replicas.bus.kept().len(), ALL + 1, "it begins where the other was");
    assert!(tasks[1].drain(Duration::from_secs(1)).await);
}

/// A second of one event each ten milliseconds is told as it comes; of forty each, ten times.
#[tokio::test(start_paused = true)]
async fn where_many_events_come_they_are_told_together() {
    for (events, publishes) in [(1, 80..=101), (40, 5..=15)] {
        let replicas = Replicas::new();
        let (relay, _) = replicas.replica();
        let tasks = relay.process.tasks.clone();
        relay.start();
        for n in 0..100 {
            let told = || NewEvent { id: replicas.ids.next(), kind: "Told".into(), schema: 1, data: "{}".into() };
            let events = (0..events).map(|_| told()).collect();
            let appends = vec![Append { stream: "order-0".into(), expected: Expected::Any, events }];
            let commit = Commit { appends, ..Commit::new(format!("{n}").into(), Meta::default()) };
            replicas.store.commit(commit).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        replicas.published(100 * events).await;
        let count = replicas.bus.publishes.load(Ordering::SeqCst);
        assert!(publishes.contains(&count), "{count} times for {events} at a time");
        assert!(tasks.drain(Duration::from_secs(1)).await);
    }
}

/// A relay that is killed with the lease is followed when the lease has run out.
#[tokio::test(start_paused = true)]
async fn a_relay_that_is_killed_with_the_lease_is_followed() {
    let replicas = Replicas::new();
    let ((mut one, _), (two, _)) = (replicas.replica(), replicas.replica());
    assert!(timeout(Duration::from_secs(1), one.run()).await.is_err());
    drop(one);
    let (before, tasks) = (Instant::now(), two.process.tasks.clone());
    two.start();
    log(replicas.store.as_ref(), &replicas.ids).await;
    replicas.published(ALL).await;
    let took = before.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(8)).contains(&took), "{took:?}");
    everything_once(&replicas.bus.kept());
    assert!(tasks.drain(Duration::from_secs(1)).await);
}

/// A relay that stood still while another had the lease does not go on where it was.
#[tokio::test(start_paused = true)]
async fn a_relay_that_stood_still_begins_at_the_mark() {
    let replicas = Replicas::new();
    let ((mut one, _), (two, _)) = (replicas.replica(), replicas.replica());
    let tasks = two.process.tasks.clone();
    assert!(timeout(Duration::from_secs(1), one.run()).await.is_err());
    two.start();
    log(replicas.store.as_ref(), &replicas.ids).await;
    replicas.published(ALL).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(timeout(Duration::from_secs(5), one.run()).await.is_err());
    assert!(tasks.drain(Duration::from_secs(1)).await);
    assert!(timeout(Duration::from_secs(60), one.run()).await.is_err());
    assert_eq!(replicas.bus.kept().len(), ALL, "nothing twice");
}

/// A relay that hangs in the middle of a publish loses the lease, and what it publishes when it goes on does no harm.
#[tokio::test(start_paused = true)]
async fn a_relay_that_hangs_with_the_lease_does_no_harm_when_it_goes_on() {
    let replicas = Replicas::new();
    let ((one, frozen), (two, _)) = (replicas.replica(), replicas.replica());
    let tasks = [one.process.tasks.clone(), two.process.tasks.clone()];
    one.start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    two.start();
    frozen.frozen.send_replace(true);
    log(replicas.store.as_ref(), &replicas.ids).await;
    replicas.published(ALL).await;
    everything_once(&replicas.bus.kept());
    frozen.frozen.send_replace(false);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let twice = replicas.bus.kept().len() - ALL;
    assert!((1..=PAGE).contains(&twice), "the page that it hung in, and no more: {twice}");
    everything_once(&replicas.bus.kept());

    // Whoever has the lease now publishes what comes, once.
    replicas.one_more().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(replicas.bus.kept().len(), ALL + twice + 1);
    for tasks in tasks {
        assert!(tasks.drain(Duration::from_secs(1)).await);
    }
}

/// A replica that cannot reach the bus leaves the lease to one that can, and does not take it back; meanwhile both say how old the
/// oldest event is that nobody published.
#[tokio::test(start_paused = true)]
async fn a_replica_that_cannot_publish_lets_another_do_it() {
    for from_the_start in [true, false] {
        let replicas = Replicas::new();
        let ((one, cut_off), (two, other)) = (replicas.replica(), replicas.replica());
        let processes = [one.process.clone(), two.process.clone()];
        let cut = |bus: &Freezing, off| bus.cut_off.store(off, Ordering::SeqCst);
        cut(&cut_off, from_the_start);
        one.start();
        tokio::time::sleep(Duration::from_secs(1)).await;
        two.start();
        tokio::time::sleep(Duration::from_secs(60)).await;
        cut(&cut_off, true);
        cut(&other, true);
        log(replicas.store.as_ref(), &replicas.ids).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        for process in &processes {
            assert!((50.0..=61.0).contains(&unsent_seconds(process)), "{}", unsent_seconds(process));
        }
        cut(&other, false);
        replicas.published(ALL).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(processes.each_ref().map(unsent_seconds), [0.0, 0.0]);

        // Nobody notices from here on that one of them is cut off.
        let before = Instant::now();
        replicas.one_more().await;
        replicas.published(ALL + 1).await;
        assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());
        everything_once(&replicas.bus.kept()[..ALL]);
        for process in processes {
            assert!(process.tasks.drain(Duration::from_secs(1)).await);
        }
    }
}

/// However long the bus is away, nothing is said again and again.
#[tokio::test(start_paused = true)]
async fn a_bus_that_is_away_for_minutes_is_said_once() {
    let (lines, _until_the_end) = Lines::of_this_thread();
    let replicas = Replicas::new();
    let (relay, bus) = replicas.replica();
    bus.cut_off.store(true, Ordering::SeqCst);
    let tasks = relay.process.tasks.clone();
    relay.start();
    log(replicas.store.as_ref(), &replicas.ids).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    for said in ["nothing is published; the relay tries again", LEFT] {
        assert_eq!(lines.text().matches(said).count(), 1, "{said}: {}", lines.text());
    }
    assert!(tasks.drain(Duration::from_secs(1)).await);
}

/// OX-12: idle, the one that publishes looks at the log every [`EVERY`], and the other never.
#[tokio::test(start_paused = true)]
async fn idle_replicas_seldom_look_at_the_log() {
    let replicas = Replicas::new();
    let ((one, _), (two, _)) = (replicas.replica(), replicas.replica());
    let tasks = [one.process.tasks.clone(), two.process.tasks.clone()];
    one.start();
    two.start();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let counted = || replicas.store.0.looks.load(Ordering::SeqCst);
    let before = counted();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let looks = counted() - before;
    assert!((18..=22).contains(&looks), "{looks} looks in a minute");
    for tasks in tasks {
        assert!(tasks.drain(Duration::from_secs(1)).await);
    }
}

/// Whoever sets the mark to 0, as is documented, sees that the whole log waits, until it is published again.
#[tokio::test(start_paused = true)]
async fn a_log_whose_mark_is_set_back_is_unpublished() {
    let replicas = Replicas::new();
    let (relay, _) = replicas.replica();
    let process = relay.process.clone();
    relay.start();
    log(replicas.store.as_ref(), &replicas.ids).await;
    replicas.published(ALL).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(unsent_seconds(&process), 0.0);
    replicas.store.0.marks_at_zero.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(70)).await;
        assert!(unsent_seconds(&process) > 60.0, "{}", unsent_seconds(&process));
    }
    replicas.one_more().await;
    replicas.published(1 + 2 * ALL).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((unsent_seconds(&process), replicas.bus.kept().len()), (0.0, 2 * (ALL + 1)));
    assert!(process.tasks.drain(Duration::from_secs(1)).await);
}
