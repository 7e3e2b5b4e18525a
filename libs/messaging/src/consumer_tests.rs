//! What a consumer takes in once, parks, and never loses: wherever it is killed, and whatever arrives.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use clock::{Clock, Ids, SystemClock, Timestamp};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use store::{CommitId, Expected, NewEvent, Position, Recorded, Snapshot, Versions};
use tokio::sync::watch;
use tracing::subscriber::DefaultGuard;
use uuid::Uuid;

use super::*;
use crate::Message;
use crate::dead_letters::Operator;
use crate::envelope::PRIVATE;
use crate::memory::Memory as MemoryBus;
use crate::relay::{Public, Relay};

pub(crate) const TOLD: &str = "shop.events.v1.Told";
pub(crate) const OTHER: &str = "shop.events.v1.Other";

/// A store whose process dies at its nth commit, before or after it takes effect, or that answers `Unavailable` for a
/// while although it took effect.
pub(crate) struct Dying {
    inner: store::memory::Memory,
    commits_left: AtomicI64,
    after_the_effect: bool,
    dead: AtomicBool,
    /// How often a stream was read.
    pub(crate) loads: AtomicI64,
    /// So many commits are answered `Unavailable`, having happened or not, in turn.
    unavailable: AtomicI64,
    /// Streams that cannot be read.
    corrupt: Mutex<BTreeSet<StreamId>>,
}

impl Dying {
    pub(crate) fn never() -> Dying {
        Dying {
            inner: store::memory::Memory::new(Arc::new(SystemClock)),
            commits_left: AtomicI64::new(i64::MAX),
            after_the_effect: false,
            dead: AtomicBool::new(false),
            loads: AtomicI64::new(0),
            unavailable: AtomicI64::new(0),
            corrupt: Mutex::default(),
        }
    }

    fn at(self, commit: i64, after_the_effect: bool) -> Dying {
        Dying { commits_left: AtomicI64::new(commit), after_the_effect, ..self }
    }

    fn revive(&self) {
        self.commits_left.store(i64::MAX, Ordering::SeqCst);
        self.dead.store(false, Ordering::SeqCst);
    }
}

#[async_trait]
impl Store for Dying {
    async fn load(&self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<Recorded>, ReadError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        if self.corrupt.lock().unwrap().contains(stream) {
            return Err(ReadError::Corrupt(format!("{stream} version 1 is no event")));
        }
        self.inner.load(stream, after, limit).await
    }
    async fn version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        self.inner.version(stream).await
    }
    async fn streams(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<StreamId>, ReadError> {
        self.inner.streams(prefix, after, limit).await
    }
    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Versions, CommitError>> {
        if self.dead.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        if self.unavailable.load(Ordering::SeqCst) > 0 {
            let left = self.unavailable.fetch_sub(1, Ordering::SeqCst);
            if left % 2 == 0 {
                drop(self.inner.commit(commit));
            }
            return Box::pin(std::future::ready(Err(CommitError::Unavailable("the test says so".into()))));
        }
        if self.commits_left.fetch_sub(1, Ordering::SeqCst) != 0 {
            return self.inner.commit(commit);
        }
        if self.after_the_effect {
            drop(self.inner.commit(commit));
        }
        self.dead.store(true, Ordering::SeqCst);
        Box::pin(std::future::pending())
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

/// What a fact did: one event in the stream `effect-<stream>`, which tells the version of the fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Effect {
    TookIn { version: Version },
}

/// Records each fact, and does what its payload says besides.
pub(crate) struct Recording {
    store: Arc<dyn Store>,
    ids: Arc<Ids>,
    /// While it is set, facts that are poison are taken in.
    pub(crate) cured: AtomicBool,
    calls: Mutex<BTreeMap<(String, Version), u32>>,
}

#[async_trait]
impl Handler for Recording {
    fn interest(&self, kind: &str) -> Interest {
        match kind {
            TOLD => Interest::Wanted,
            OTHER => Interest::Passed,
            _ => Interest::Unknown,
        }
    }

    async fn handle(&self, fact: &Envelope, receipt: &Receipt) -> Result<(), Failure> {
        let call = {
            let mut calls = self.calls.lock().unwrap();
            let call = calls.entry((fact.stream.clone(), fact.version)).or_default();
            *call += 1;
            *call
        };
        if !self.cured.load(Ordering::SeqCst) {
            match fact.payload.as_slice() {
                b"refused" => return Err(Failure::Refused("it breaks a rule".into())),
                b"fails" => return Err(Failure::Failed("it went wrong".into())),
                b"recovers" if call <= TRIES => return Err(Failure::Failed("it went wrong for a while".into())),
                b"panics" => panic!("a bug"),
                b"hangs" => std::future::pending().await,
                _ => {}
            }
        }
        // Whatever else is going on gets its turn between the decision and the commit.
        tokio::task::yield_now().await;
        let mut commit = receipt.commit();
        let stream = format!("effect-{}", fact.stream);
        let events = vec![folded::encode(&Effect::TookIn { version: fact.version }, &self.ids)];
        commit.appends.push(Append { stream: stream.as_str().into(), expected: Expected::Any, events });
        match persist(self.store.as_ref(), commit).await {
            Ok(()) | Err(CommitError::AlreadyHandled(_)) => Ok(()),
            Err(other) => Err(unreadable(other).into()),
        }
    }
}

/// A consumer and what is around it. The store and the bus outlive it.
pub(crate) struct World {
    pub(crate) store: Arc<Dying>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) ids: Arc<Ids>,
    pub(crate) consumer: Consumer,
    pub(crate) handler: Arc<Recording>,
}

impl World {
    pub(crate) fn over(store: Arc<Dying>, bus: Arc<dyn Bus>) -> World {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let ids = Arc::new(Ids::random(clock.clone()));
        let process = Process::new(clock, ids.clone());
        let (cured, calls) = Default::default();
        let handler = Arc::new(Recording { store: store.clone(), ids: ids.clone(), cured, calls });
        let messages = Messages::new(&process, bus.clone());
        let consumer = Consumer::new(&process, store.clone(), &messages, ("shop", &["t"]), handler.clone());
        World { store, bus, ids, consumer, handler }
    }

    pub(crate) async fn new() -> World {
        let bus = Arc::new(MemoryBus::plain());
        bus.create("t", 3).await.unwrap();
        World::over(Arc::new(Dying::never()), bus)
    }

    /// The same service after a restart.
    pub(crate) fn again(&self) -> World {
        self.store.revive();
        World::over(self.store.clone(), self.bus.clone())
    }

    pub(crate) fn fact(&self, stream: &str, version: Version, kind: &str, payload: &[u8]) -> Message {
        Envelope {
            id: self.ids.next(),
            source: "test".into(),
            kind: kind.into(),
            stream: stream.into(),
            version,
            schema: 1,
            time: Timestamp(0),
            correlation_id: stream.into(),
            causation_id: String::new(),
            traceparent: String::new(),
            payload: payload.into(),
        }
        .encode()
    }

    pub(crate) async fn tell(&self, stream: &str, versions: impl IntoIterator<Item = Version>, payload: &[u8]) {
        let facts = versions.into_iter().map(|version| self.fact(stream, version, TOLD, payload));
        self.bus.publish("t", facts.collect()).await.unwrap();
    }

    /// Takes in everything that was published.
    pub(crate) async fn drain(&self) {
        let mut member = self.bus.subscribe("shop", &["t"]).await.unwrap();
        while self.bus.lag("shop", "t").await.unwrap() > 0 {
            self.consumer.step(member.as_mut()).await.unwrap();
        }
    }

    /// The versions that are in effect, in the order in which they came into it.
    pub(crate) async fn effects(&self, stream: &str) -> Vec<Version> {
        let stream = StreamId::from(format!("effect-{stream}"));
        let recorded = self.store.load(&stream, 0, 100_000).await.unwrap();
        recorded.iter().map(|event| folded::decode(event).unwrap()).map(|Effect::TookIn { version }| version).collect()
    }

    pub(crate) fn calls(&self, stream: &str, version: Version) -> u32 {
        self.handler.calls.lock().unwrap().get(&(stream.to_owned(), version)).copied().unwrap_or(0)
    }

    /// Why each message of a stream is parked, by version.
    pub(crate) async fn parked(&self, stream: &str) -> Vec<(Version, Reason)> {
        let key = Key { topic: "t".into(), key: stream.into() };
        let (_, parked) = self.consumer.parked(&key).await.unwrap();
        parked.state.all().map(|waiting| (waiting.place.version.unwrap_or(0), waiting.reason)).collect()
    }

    pub(crate) fn operator(&self) -> Operator {
        let id = self.ids.next().to_string().into();
        Operator { by: "operator:lee".into(), reason: "the handler was mended".into(), id }
    }
}

/// OX-5: whatever comes again, however much later, changes nothing; what does not matter only moves the mark.
#[tokio::test]
async fn every_version_is_in_effect_once_and_in_order() {
    let world = World::new().await;
    for stream in ["a", "b"] {
        world.tell(stream, 1..=3, b"").await;
        let others = [(4, OTHER), (5, PRIVATE), (6, TOLD), (7, PRIVATE)];
        let others = others.map(|(version, kind)| world.fact(stream, version, kind, b""));
        world.bus.publish("t", others.into()).await.unwrap();
        world.tell(stream, [2, 1, 3, 6, 8], b"").await;
    }
    world.drain().await;
    world.tell("a", 1..=8, b"").await;
    world.again().drain().await;
    for stream in ["a", "b"] {
        assert_eq!(world.effects(stream).await, [1, 2, 3, 6, 8]);
        assert_eq!(world.store.mark(&format!("inbox-shop-t-{stream}")).await, Ok(8));
    }
}

/// A member that was handed one batch.
struct Handed(Vec<Delivered>);

#[async_trait]
impl Subscription for Handed {
    async fn next(&mut self, _: usize) -> Result<Vec<Delivered>, BusError> {
        Ok(std::mem::take(&mut self.0))
    }
    async fn acknowledge(&mut self, _: &str, _: Partition, _: Offset) -> Result<(), BusError> {
        Ok(())
    }
}

/// Messages that somebody else may write to a topic, and no store can keep as they are, hold up nobody but their own key.
#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_kept_whole_is_parked_as_where_it_stands() {
    let world = World::new().await;
    let junk = |key: &str| Message { key: key.into(), headers: vec![], payload: vec![] };
    let with = |key: &str, name: &str, value: String| {
        let mut message = world.fact(key, 1, TOLD, b"");
        message.headers.retain(|(other, _)| other != name);
        message.headers.push((name.into(), value));
        message
    };
    let many = (0..100_000).map(|_| (String::new(), String::new())).collect();
    let huge = "x".repeat(3 << 20);
    let messages = [
        junk("nul\0"),
        junk(&huge),
        junk(&format!("{huge}\0")),
        with("subject", "ce_subject", huge.clone()),
        with("kind", "ce_type", "\u{1}".repeat(1 << 20)),
        Message { headers: many, ..junk("headers") },
        world.fact("payload", 1, TOLD, b""),
        world.fact("good", 1, TOLD, b""),
    ];
    let mut messages = messages.to_vec();
    // It fails for another reason, and is too large besides.
    messages[6] = Message { payload: vec![7; 2 << 20], ..world.fact("payload", 1, "shop.events.v1.Unheard", b"") };
    let place = |(offset, message)| Delivered { topic: "t".into(), partition: 0, offset, message };
    let mut member = Handed((0..).zip(messages.clone()).map(place).collect());
    let step = timeout(Duration::from_secs(600), world.consumer.step(&mut member)).await;
    assert_eq!(step.expect("it goes on for ever"), Ok(8));
    assert_eq!(world.effects("good").await, [1]);
    let (letters, _) = world.consumer.dead_letters("", 100).await.unwrap();
    assert_eq!(letters.len(), 7);
    for letter in &letters {
        assert!(letter.id.len() < 200 && letter.stream.len() <= 200, "{}", letter.id);
        let waiting = &letter.waiting[0];
        assert!(waiting.message.len() < 2_000, "{}", waiting.message.len());
        let original = &messages[usize::try_from(waiting.place.offset).unwrap()];
        match &waiting.left_out {
            None => assert_eq!(&waiting.original(), original),
            Some(left_out) => assert_eq!(left_out, &crate::parked::LeftOut::of(original)),
        }
        let offset = waiting.place.offset;
        assert_eq!(waiting.left_out.is_some(), offset != 0, "{offset}");
        // It cannot be taken in, and an operator can give it up.
        assert!(world.consumer.redrive(&letter.id, &world.operator(), false).await.is_err());
        assert_eq!(world.consumer.skip(&letter.id, &world.operator()).await, Ok(None), "{offset}");
    }
}

/// What failed, and comes again in the same batch when it does no more, is in effect and not parked; nor is what followed it.
#[tokio::test(start_paused = true)]
async fn what_is_taken_in_when_it_comes_again_is_not_parked() {
    let world = World::new().await;
    let fact = world.fact("a", 1, TOLD, b"recovers");
    let next = world.fact("a", 2, TOLD, b"");
    world.bus.publish("t", vec![fact.clone(), next, fact]).await.unwrap();
    world.drain().await;
    assert_eq!(world.effects("a").await, [1, 2]);
    assert_eq!(world.parked("a").await, []);
}

/// OX-7: killed before or after every commit, again and again, every fact is in effect once and in order.
#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_killed_at_any_commit_loses_and_doubles_nothing() {
    for seed in 0..3 {
        for after_the_effect in [false, true] {
            for dies_at in 0..40 {
                let bus = Arc::new(MemoryBus::new(seed));
                bus.create("t", 3).await.unwrap();
                let world = World::over(Arc::new(Dying::never().at(dies_at, after_the_effect)), bus);
                for n in 0..30 {
                    let kind = if n % 4 == 3 { PRIVATE } else { TOLD };
                    let payload: &[u8] = if n == 17 { b"refused" } else { b"" };
                    let fact = world.fact(&format!("s{}", n % 5), n / 5 + 1, kind, payload);
                    world.bus.publish("t", vec![fact]).await.unwrap();
                }
                drop(timeout(Duration::from_secs(10), world.drain()).await);
                let world = world.again();
                world.drain().await;
                world.handler.cured.store(true, Ordering::SeqCst);
                world.consumer.redrive("t.s2", &world.operator(), false).await.unwrap();
                for stream in 0..5 {
                    let told = (0..30).filter(|n| n % 5 == stream && n % 4 != 3).map(|n| n / 5 + 1);
                    let effects = world.effects(&format!("s{stream}")).await;
                    assert!(told.eq(effects.iter().copied()), "{stream}: {effects:?}, killed at {dies_at}");
                }
            }
        }
    }
}

/// OX-6, OX-8: two of a group at once, whatever partition changes hands in the middle of whatever batch.
#[tokio::test(start_paused = true)]
async fn members_that_come_and_go_in_mid_batch_take_everything_in_once() {
    for seed in 0..20 {
        let bus = Arc::new(MemoryBus::new(seed));
        bus.create("t", 4).await.unwrap();
        let world = World::over(Arc::new(Dying::never()), bus);
        for version in 1..=20 {
            for stream in 0..8 {
                world.tell(&format!("s{stream}"), [version], b"").await;
            }
        }
        let member = async |rounds: usize| {
            for _ in 0..rounds {
                let mut member = world.bus.subscribe("shop", &["t"]).await.unwrap();
                // Three batches, then it leaves; the second member's partitions change hands in mid-batch.
                for _ in 0..3 {
                    drop(timeout(Duration::from_millis(20), world.consumer.step(member.as_mut())).await);
                    tokio::task::yield_now().await;
                }
            }
        };
        futures::future::join3(member(8), member(5), member(8)).await;
        world.drain().await;
        for stream in 0..8 {
            assert_eq!(world.effects(&format!("s{stream}")).await, (1..=20).collect::<Vec<_>>());
            assert_eq!(world.parked(&format!("s{stream}")).await, []);
        }
    }
}

/// OX-10: poison parks itself and what follows in its stream; other streams flow; redriven, everything is in order.
/// OX-9: a handler that hangs is reported by its time limit, and its member stays in the group.
#[tokio::test(start_paused = true)]
async fn poison_blocks_its_own_stream_and_no_other() {
    for (poison, reason, calls) in [
        ("refused", Reason::Refused, 1),
        ("fails", Reason::Failed, TRIES),
        ("panics", Reason::Failed, TRIES),
        ("hangs", Reason::Failed, TRIES),
    ] {
        let world = World::new().await;
        world.tell("bad", [1], b"").await;
        world.tell("bad", [2], poison.as_bytes()).await;
        world.tell("bad", 3..=5, b"").await;
        world.tell("good", 1..=5, b"").await;
        world.drain().await;
        assert_eq!(world.effects("good").await, [1, 2, 3, 4, 5]);
        assert_eq!(world.effects("bad").await, [1]);
        let behind = [3, 4, 5].map(|version| (version, Reason::Behind));
        assert_eq!(world.parked("bad").await, [&[(2, reason)], &behind[..]].concat(), "{poison}");
        assert_eq!(world.calls("bad", 2), calls, "{poison}");

        let still = world.consumer.redrive("t.bad", &world.operator(), false).await.unwrap_err();
        assert_eq!(still.reason, reason.word());
        world.handler.cured.store(true, Ordering::SeqCst);
        assert_eq!(world.consumer.redrive("t.bad", &world.operator(), false).await, Ok(None));
        assert_eq!(world.effects("bad").await, [1, 2, 3, 4, 5]);
        world.tell("bad", [6], b"").await;
        world.drain().await;
        assert_eq!(world.effects("bad").await, [1, 2, 3, 4, 5, 6], "the key is open again");
    }
}

/// Where a test reads the log lines of its thread.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// They are written until the guard is dropped.
    pub(crate) fn of_this_thread() -> (Lines, DefaultGuard) {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Who looks for an order's lines by its trace finds that it is parked, too.
#[tokio::test]
async fn the_lines_of_parked_messages_carry_their_traces() {
    let (lines, _until_the_end) = Lines::of_this_thread();
    let world = World::new().await;
    let traced = [(1, "refused"), (2, "")].map(|(version, payload)| {
        let mut fact = world.fact("s", version, TOLD, payload.as_bytes());
        let traceparent = format!("00-{:032x}-00f067aa0ba902b7-01", version);
        fact.headers.iter_mut().find(|(name, _)| name == TRACEPARENT).unwrap().1 = traceparent;
        fact
    });
    world.bus.publish("t", traced.into()).await.unwrap();
    world.drain().await;
    let lines = lines.text();
    for (line, version) in [("a message is parked", 1), ("a message waits behind a parked one", 2)] {
        let line = lines.lines().find(|found| found.contains(line)).expect(line);
        assert!(line.contains(&format!("trace_id=\"{version:032x}\"")), "{line}");
    }
}

/// Services start together: until the one that makes a topic has done so, there is nothing to be said.
#[tokio::test(start_paused = true)]
async fn a_topic_that_is_not_made_yet_is_no_news_at_once() {
    let world = World::over(Arc::new(Dying::never()), Arc::new(MemoryBus::plain()));
    world.consumer.listen();
    let health = world.consumer.0.process.health.clone();
    sleep(Duration::from_secs(5)).await;
    assert!(health.impaired().is_empty(), "{:?}", health.impaired());
    sleep(Duration::from_secs(30)).await;
    assert!(health.impaired()["shop consumer"].contains("topic t does not exist"));
    world.bus.create("t", 3).await.unwrap();
    sleep(Duration::from_secs(30)).await;
    assert!(health.impaired().is_empty(), "{:?}", health.impaired());
}

/// A bus that answers what it is asked, and gives a member nothing but an end, after a while.
struct Shutting {
    inner: MemoryBus,
    /// How long a member stays; it does not even join if absent.
    stays: Mutex<Option<Duration>>,
}

#[async_trait]
impl Bus for Shutting {
    async fn create(&self, topic: &str, partitions: Partition) -> Result<(), BusError> {
        self.inner.create(topic, partitions).await
    }
    async fn publish(&self, topic: &str, messages: Vec<Message>) -> Result<(), BusError> {
        self.inner.publish(topic, messages).await
    }
    async fn subscribe(&self, _: &str, _: &[&str]) -> Result<Box<dyn Subscription>, BusError> {
        let stays = self.stays.lock().unwrap().ok_or_else(|| BusError::Unavailable("the group takes nobody".into()))?;
        Ok(Box::new(Ending(stays)))
    }
    async fn latest(&self, topic: &str, most: Offset) -> Result<Vec<Delivered>, BusError> {
        self.inner.latest(topic, most).await
    }
    async fn lag(&self, group: &str, topic: &str) -> Result<u64, BusError> {
        self.inner.lag(group, topic).await
    }
}

/// A member that is given nothing until it is put out.
struct Ending(Duration);

#[async_trait]
impl Subscription for Ending {
    async fn next(&mut self, _: usize) -> Result<Vec<Delivered>, BusError> {
        sleep(self.0).await;
        Err(BusError::Unavailable("the group put it out".into()))
    }
    async fn acknowledge(&mut self, _: &str, _: Partition, _: Offset) -> Result<(), BusError> {
        Ok(())
    }
}

/// That the bus answers how far the group is does not say that this member of it hears anything.
#[tokio::test(start_paused = true)]
async fn a_consumer_that_cannot_stay_in_its_group_is_degraded_all_the_time() {
    for stays in [None, Some(Duration::ZERO), Some(Duration::from_secs(3))] {
        let bus = Arc::new(Shutting { inner: MemoryBus::plain(), stays: Mutex::new(stays) });
        bus.create("t", 3).await.unwrap();
        let world = World::over(Arc::new(Dying::never()), bus.clone());
        world.consumer.listen();
        let health = world.consumer.0.process.health.clone();
        sleep(Duration::from_secs(30)).await;
        for _ in 0..300 {
            assert!(health.impaired().contains_key("shop consumer"), "{stays:?}");
            sleep(Duration::from_millis(100)).await;
        }
        // It stays and hears nothing, for there is nothing to hear.
        *bus.stays.lock().unwrap() = Some(Duration::from_secs(3_600));
        sleep(Duration::from_secs(15)).await;
        assert!(health.impaired().is_empty(), "{stays:?}: {:?}", health.impaired());
    }
}

/// What is corrupt stays said, once for each key, whatever becomes of the others, until that key is repaired.
#[tokio::test(start_paused = true)]
async fn a_corrupt_key_stays_said_until_it_is_repaired() {
    let (lines, _until_the_end) = Lines::of_this_thread();
    let world = World::new().await;
    let parked = |key: &str| StreamId::from(format!("parked-shop-t-{key}"));
    *world.store.corrupt.lock().unwrap() = ["bad", "worse"].map(parked).into();
    world.tell("bad", [1], b"refused").await;
    world.tell("worse", [1], b"refused").await;
    // It ends when the others were said.
    world.tell("slow", [1], b"hangs").await;
    world.consumer.listen();
    let health = world.consumer.0.process.health.clone();
    let inbox = || health.impaired().get("shop inbox").cloned().unwrap_or_default();
    let count = |sentence: &str| lines.text().matches(sentence).count();
    for _ in 0..600 {
        sleep(Duration::from_millis(100)).await;
        assert!(inbox().contains("is no event"), "{:?}", inbox());
    }
    assert_eq!(world.parked("slow").await, [(1, Reason::Failed)]);
    assert_eq!(count("until it is repaired"), 2, "{}", lines.text());
    world.tell("after", [1], b"").await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.effects("after").await, [0; 0], "the next batch waits");

    world.store.corrupt.lock().unwrap().remove(&parked("bad"));
    sleep(Duration::from_secs(10)).await;
    assert!(inbox().contains("worse"), "{:?}", inbox());
    world.store.corrupt.lock().unwrap().clear();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(inbox(), "");
    assert_eq!(
        (count("until it is repaired"), count("what could not be read is repaired")),
        (2, 2),
        "{}",
        lines.text()
    );
    assert_eq!(count("the store is back"), 0, "it was never away");
    assert_eq!(world.effects("after").await, [1]);
}

/// OX-14: a version beyond the next is a gap: parked with an alarm, never skipped. What fills it opens the way.
#[tokio::test]
async fn a_gap_is_parked_and_never_skipped() {
    let world = World::new().await;
    world.tell("s", [3], b"").await;
    world.tell("s", [4], b"").await;
    world.drain().await;
    assert_eq!(world.effects("s").await, [0; 0]);
    assert_eq!(world.parked("s").await, [(3, Reason::Gap), (4, Reason::Behind)]);
    let refused = world.consumer.redrive("t.s", &world.operator(), false).await.unwrap_err();
    assert!(refused.message.contains("versions 1 to 2 never arrived"), "{}", refused.message);

    world.tell("s", 1..=2, b"").await;
    world.drain().await;
    assert_eq!(world.effects("s").await, [1, 2]);
    assert_eq!(world.consumer.redrive("t.s", &world.operator(), false).await, Ok(None));
    assert_eq!(world.effects("s").await, [1, 2, 3, 4]);

    world.tell("lost", [5, 6], b"").await;
    world.drain().await;
    assert_eq!(world.consumer.redrive("t.lost", &world.operator(), true).await, Ok(None));
    assert_eq!(world.effects("lost").await, [5, 6]);
}

#[tokio::test]
async fn what_cannot_be_read_is_parked_with_its_bytes() {
    let world = World::new().await;
    let mut schema = world.fact("s", 1, TOLD, b"");
    schema.headers.iter_mut().find(|(name, _)| name == "ce_schemaversion").unwrap().1 = "2".into();
    let unknown = world.fact("u", 1, "shop.events.v1.Unheard", b"");
    let junk = Message { key: "j".into(), headers: vec![("a".into(), "\0\"".into())], payload: vec![0, 255] };
    let long = Message { key: "k".repeat(200), ..junk.clone() };
    world.bus.publish("t", vec![schema, unknown, junk.clone(), long]).await.unwrap();
    world.tell("j", 1..=2, b"").await;
    world.drain().await;
    assert_eq!(world.parked("s").await, [(1, Reason::UnknownSchema)]);
    assert_eq!(world.parked("u").await, [(1, Reason::UnknownType)]);
    assert_eq!(world.parked("j").await, [(0, Reason::Undecodable)], "it took no place in the stream");
    assert_eq!(world.effects("j").await, [1, 2]);
    let letter = world.consumer.dead_letter("t.j").await.unwrap();
    assert_eq!(letter.waiting[0].original(), junk);
    let (letters, next) = world.consumer.dead_letters("", 10).await.unwrap();
    assert_eq!((letters.len(), next.as_str()), (4, ""));
    let stuck = world.consumer.redrive("t.j", &world.operator(), false).await.unwrap_err();
    assert!(stuck.message.contains("cannot be read"), "{}", stuck.message);
    assert_eq!(world.consumer.skip("t.j", &world.operator()).await, Ok(None));
}

/// While the store is away nothing is parked and nothing skipped.
#[tokio::test(start_paused = true)]
async fn an_unavailable_store_parks_nothing() {
    let world = World::new().await;
    world.tell("s", 1..=5, b"").await;
    world.store.unavailable.store(200, Ordering::SeqCst);
    world.drain().await;
    assert_eq!((world.effects("s").await, world.parked("s").await), (vec![1, 2, 3, 4, 5], vec![]));
    assert!(world.store.unavailable.load(Ordering::SeqCst) <= 195, "it was away");
}

/// Ten thousand behind a poison are parked, and nobody waits for them.
#[tokio::test]
async fn ten_thousand_behind_poison_hold_nobody_up() {
    let world = World::new().await;
    world.tell("bad", [1], b"refused").await;
    world.tell("bad", 2..=10_001, b"").await;
    world.tell("good", 1..=100, b"").await;
    world.drain().await;
    assert_eq!(world.effects("good").await.len(), 100);
    assert_eq!(world.parked("bad").await.len(), 10_001);
    world.handler.cured.store(true, Ordering::SeqCst);
    assert_eq!(world.consumer.redrive("t.bad", &world.operator(), false).await, Ok(None));
    assert_eq!(world.effects("bad").await, (1..=10_001).collect::<Vec<_>>());
}

/// OX-1, OX-2: from one service's log to another's effect, both killed before or after every commit.
#[tokio::test(start_paused = true)]
async fn a_fact_is_in_effect_once_wherever_relay_and_consumer_are_killed() {
    for after_the_effect in [false, true] {
        for dies_at in 0..12 {
            let bus = Arc::new(MemoryBus::new(dies_at as u64));
            bus.create("t", 2).await.unwrap();
            bus.create("log-events", 2).await.unwrap();
            let log = Arc::new(Dying::never().at(i64::MAX, after_the_effect));
            let ids = Arc::new(Ids::random(Arc::new(SystemClock)));
            for n in 0..40 {
                let event = NewEvent { id: ids.next(), kind: "Told".into(), schema: 1, data: "{}".into() };
                let append =
                    Append { stream: format!("s{}", n % 4).into(), expected: Expected::Any, events: vec![event] };
                let commit = Commit { appends: vec![append], ..Commit::new(format!("c{n}").into(), Meta::default()) };
                log.commit(commit).await.unwrap();
            }
            let publicity = |_: &Recorded| Ok(Public::Fact { kind: TOLD.into(), payload: vec![] });
            log.commits_left.store(0, Ordering::SeqCst);
            for life in 0..3 {
                let process = Process::new(Arc::new(SystemClock), ids.clone());
                let messages = Messages::new(&process, bus.clone());
                let mut relay = Relay::new(&process, log.clone(), &messages, "log", publicity);
                let published = async {
                    for _ in 0..3 {
                        relay.step().await.unwrap();
                        relay.keep().await.unwrap();
                    }
                };
                assert_eq!(timeout(Duration::from_secs(1), published).await.is_ok(), life > 0);
                log.revive();
            }
            let store = Arc::new(Dying::never().at(dies_at, after_the_effect));
            let mut world = World::over(store, bus);
            for _ in 0..2 {
                let mut member = world.bus.subscribe("shop", &["log-events"]).await.unwrap();
                let taken_in = async {
                    while world.bus.lag("shop", "log-events").await.unwrap() > 0 {
                        world.consumer.step(member.as_mut()).await.unwrap();
                    }
                };
                drop(timeout(Duration::from_secs(10), taken_in).await);
                world = world.again();
            }
            for stream in 0..4 {
                assert_eq!(world.effects(&format!("s{stream}")).await, (1..=10).collect::<Vec<_>>());
            }
        }
    }
}

/// Killed or overtaken between judging a message and parking it: what was judged by an older mark is judged anew.
#[tokio::test]
async fn nothing_is_parked_by_a_mark_that_has_moved() {
    let world = World::new().await;
    world.tell("s", 1..=2, b"").await;
    world.drain().await;
    let key = Key { topic: "t".into(), key: "s".into() };
    let message = world.fact("s", 3, TOLD, b"");
    let delivered = Delivered { topic: "t".into(), partition: 0, offset: 9, message };
    let waiting = || Waiting::new(&delivered, Some(3), (Reason::Gap, "2 is awaited".into()), Timestamp(0));
    let stale = world.consumer.park(&key, 1, vec![waiting()]).await;
    assert!(matches!(stale, Err(Interrupted::Moved)), "{stale:?}");
    assert_eq!(world.parked("s").await, []);
    world.consumer.park(&key, 2, vec![waiting()]).await.unwrap();
    assert_eq!(world.parked("s").await, [(3, Reason::Gap)]);
}

#[test]
fn a_key_that_no_name_takes_is_known_by_its_hash() {
    let all: BTreeSet<_> = [short("order-1"), short(&"k".repeat(200)), short(&"k".repeat(199)), short("a\0")].into();
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|name| name.len() <= crate::parked::LONGEST_KEY && !name.contains('\0')));
    assert_eq!(short("order-1"), "order-1");
}
