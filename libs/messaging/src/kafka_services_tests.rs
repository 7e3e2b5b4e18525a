//! From one service's log to another's effect, with Kafka between them: whatever dies, moves or fails on the way.
use std::collections::BTreeMap;

use clock::{Ids, SystemClock};
use host::Process;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset as At, TopicPartitionList};
use store::memory::Memory;
use store::{Append, Commit, Expected, Meta, NewEvent, ReadError, Recorded, Store};
use tokio::time::sleep;

use super::broker::Broker;
use super::*;
use crate::Messages;
use crate::consumer::tests::{Dying, TOLD, World};
use crate::contract::{Seen, soon, take};
use crate::envelope::Envelope;
use crate::parked::Reason;
use crate::relay::{Public, Relay};

/// How many streams a log has.
const STREAMS: u64 = 7;

/// A service that tells, and what it needs.
struct Teller {
    store: Arc<Memory>,
    ids: Arc<Ids>,
    process: Process,
    bus: Arc<Kafka>,
}

impl Teller {
    fn new(bus: Arc<Kafka>) -> Teller {
        let (clock, ids) = (Arc::new(SystemClock), Arc::new(Ids::random(Arc::new(SystemClock))));
        Teller { store: Arc::new(Memory::new(clock.clone())), process: Process::new(clock, ids.clone()), ids, bus }
    }

    /// The same service in another process.
    fn replica(&self) -> Teller {
        let process = Process::new(Arc::new(SystemClock), self.ids.clone());
        Teller { store: self.store.clone(), ids: self.ids.clone(), process, bus: self.bus.clone() }
    }

    fn relay(&self) -> Relay {
        let publicity = |_: &Recorded| Ok::<_, ReadError>(Public::Fact { kind: TOLD.into(), payload: vec![] });
        Relay::new(&self.process, self.store.clone(), &Messages::new(&self.process, self.bus.clone()), "log", publicity)
    }

    /// Records one event in each of the streams.
    async fn record(&self, round: u64) {
        for stream in 0..STREAMS {
            let event = NewEvent { id: self.ids.next(), kind: "Told".into(), schema: 1, data: "{}".into() };
            let append = Append { stream: format!("s{stream}").into(), expected: Expected::Any, events: vec![event] };
            let id = format!("c{stream}/{round}").into();
            self.store.commit(Commit { appends: vec![append], ..Commit::new(id, Meta::default()) }).await.unwrap();
        }
    }

    async fn publish_all(&self, relay: &mut Relay) {
        let mut idle = 0;
        while idle < 3 {
            idle = if relay.step().await.unwrap() == 0 { idle + 1 } else { 0 };
        }
    }
}

/// Listens for the world until its process stops.
fn listen(world: &World, topic: &'static str) {
    let (consumer, bus) = (world.consumer.clone(), world.bus.clone());
    world.consumer.0.process.tasks.spawn_until_stop(async move {
        loop {
            if let Ok(mut member) = bus.subscribe("shop", &[topic]).await {
                while consumer.step(member.as_mut()).await.is_ok() {}
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
}

async fn stop(process: &Process) {
    assert!(process.tasks.drain(Duration::from_secs(5)).await);
}

/// Waits until the world has so many versions of every stream in effect: each once, in order, and none parked.
async fn has_all(world: &World, versions: u64) {
    let until = Instant::now() + Duration::from_secs(60);
    for stream in 0..STREAMS {
        let stream = format!("s{stream}");
        while (world.effects(&stream).await.len() as u64) < versions {
            assert!(Instant::now() < until, "{stream}: {:?}", world.effects(&stream).await.last());
            sleep(Duration::from_millis(20)).await;
        }
        assert!(world.effects(&stream).await.into_iter().eq(1..=versions), "{stream}");
        assert_eq!(world.parked(&stream).await, []);
    }
}

/// What is in the topic, up to `versions` of every stream: whoever drops what is familiar finds no gap. How many messages.
async fn no_gap(bus: &Kafka, versions: u64) -> usize {
    let mut member = bus.subscribe("reader", &["log-events"]).await.unwrap();
    let (mut heard, mut seen) = (BTreeMap::<String, u64>::new(), Seen::default());
    let mut read = 0;
    while heard.len() < STREAMS as usize || heard.values().any(|version| *version < versions) {
        seen.add(soon(member.next(500)).await.unwrap());
        for one in &seen.all[read..] {
            let fact = Envelope::decode(&one.message).unwrap();
            let last = heard.entry(fact.stream.clone()).or_default();
            assert!(fact.version <= *last + 1, "{}: {} after {last}", fact.stream, fact.version);
            *last = fact.version.max(*last);
        }
        read = seen.all.len();
    }
    read
}

fn listener(bus: Arc<Kafka>) -> World {
    World::over(Arc::new(Dying::never()), bus)
}

/// OX-1, OX-3, OX-13: the broker is killed while a log is published and heard, is away for longer than a publish waits, and
/// comes back: nothing is lost, and every key has its order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_under_load_loses_nothing_and_leaves_no_gap() {
    is_killed_under_load(Duration::ZERO).await;
}

/// The same, with a log that grows for so long meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "three minutes: cargo test -p messaging --features infra is_away_for_minutes -- --ignored --nocapture"]
async fn a_broker_that_is_away_for_minutes_under_load_loses_nothing_and_leaves_no_gap() {
    is_killed_under_load(Duration::from_secs(150)).await;
}

/// The broker is away for at least `away`, and until the relay has given up a publish.
#[expect(clippy::print_stderr, reason = "figures for whoever asks for them")]
async fn is_killed_under_load(away: Duration) {
    let Some(mut broker) = Broker::start().await else { return };
    let theirs = Theirs::new(&broker.address());
    let teller = Teller::new(Arc::new(theirs.bus()));
    teller.relay().start();
    let world = listener(teller.bus.clone());
    teller.bus.create("log-events", 6).await.unwrap();
    listen(&world, "log-events");
    for round in 1..=100 {
        teller.record(round).await;
        sleep(Duration::from_millis(2)).await;
    }
    // Some are heard, and some are on their way.
    broker.kill();
    let (killed, mut rounds) = (Instant::now(), 100);
    let told = || teller.process.health.impaired().contains_key("log relay");
    while rounds < 200 || killed.elapsed() < away || !told() {
        assert!(told() || killed.elapsed() < Duration::from_secs(20), "nobody says that nothing is published");
        rounds += 1;
        teller.record(rounds).await;
        sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(teller.bus.answers().await, Err(BusError::Unavailable(_))));
    let while_away = (rounds - 100) * STREAMS;
    broker.again().await;
    let (back, was_away) = (Instant::now(), killed.elapsed());
    assert_eq!(teller.bus.answers().await, Ok(()));
    for _ in 0..100 {
        rounds += 1;
        teller.record(rounds).await;
    }
    has_all(&world, rounds).await;
    let caught_up = back.elapsed();
    let read = no_gap(&teller.bus, rounds).await as u64;
    assert!(read >= rounds * STREAMS);
    let again = read - rounds * STREAMS;
    eprintln!(
        "away {was_away:.1?}, {while_away} events meanwhile; all in effect {caught_up:.1?} later, {again} published again"
    );
    assert_eq!(teller.process.health.impaired(), BTreeMap::new());
    stop(&teller.process).await;
    stop(&world.consumer.0.process).await;
}

/// OX-1: killed after the broker acknowledged and before the cursor was kept, the relay publishes again, and nothing is in
/// effect twice. OX-4: two relays at once publish twice, and never in another order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_that_die_or_meet_publish_twice_and_in_order() {
    let Some(servers) = server("JANGTEO_TEST_KAFKA") else { return };
    let theirs = Theirs::new(&servers);
    let teller = Teller::new(Arc::new(theirs.bus()));
    teller.bus.create("log-events", 6).await.unwrap();
    let world = listener(teller.bus.clone());
    listen(&world, "log-events");
    for round in 1..=50 {
        teller.record(round).await;
    }
    teller.publish_all(&mut teller.replica().relay()).await;
    let other = teller.replica();
    let (mut one, mut two) = (teller.relay(), other.relay());
    tokio::join!(teller.publish_all(&mut one), other.publish_all(&mut two));
    has_all(&world, 50).await;
    no_gap(&teller.bus, 50).await;
    assert_eq!(teller.bus.lag("nobody", "log-events").await, Ok(3 * 50 * STREAMS));
    stop(&world.consumer.0.process).await;
}

/// OX-13: a producer that fails for good is replaced, and its successor begins before the failure.
#[tokio::test]
async fn a_producer_that_fails_for_good_is_replaced() {
    let cluster = MockCluster::new(1).unwrap();
    let theirs = Theirs::new(&cluster.bootstrap_servers());
    cluster.create_topic(&format!("{}log-events", theirs.settings.prefix), 2, 1).unwrap();
    let teller = Teller::new(Arc::new(theirs.bus()));
    for round in 1..=200 {
        teller.record(round).await;
    }
    let mut relay = teller.relay();
    // The memory store shows what is new on the second look.
    while relay.step().await.unwrap() == 0 {}
    let fatal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::Produce, &[fatal]);
    assert!(relay.step().await.is_err());
    teller.publish_all(&mut relay).await;
    no_gap(&teller.bus, 200).await;
}

/// OX-8: partitions change hands while facts are taken in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_come_and_go_take_everything_in_once() {
    let Some(servers) = server("JANGTEO_TEST_KAFKA") else { return };
    let theirs = Theirs::new(&servers);
    let teller = Teller::new(Arc::new(theirs.bus()));
    teller.bus.create("log-events", 6).await.unwrap();
    let store = Arc::new(Dying::never());
    let replica = || World::over(store.clone(), teller.bus.clone());
    let first = replica();
    listen(&first, "log-events");
    let mut relay = teller.relay();
    let mut later = vec![];
    for round in 1..=600 {
        teller.record(round).await;
        relay.step().await.unwrap();
        // Joining takes about a second: each change falls into the work of those who are there.
        if round % 150 == 0 {
            later.push(replica());
            listen(&later[later.len() - 1], "log-events");
        }
        if round == 400 {
            stop(&first.consumer.0.process).await;
        }
        sleep(Duration::from_millis(5)).await;
    }
    teller.publish_all(&mut relay).await;
    has_all(&later[0], 600).await;
    for world in &later {
        stop(&world.consumer.0.process).await;
    }
}

/// OX-9: whoever is busy for longer than a silent member is borne with stays in the group, and holds up nobody who joins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_member_stays_in_the_group() {
    let Some(subject) = make().await else { return };
    subject.filled(2, 10, 40).await;
    let mut slow = subject.subscribe("g").await;
    let taken = take(&mut slow, 40, 40).await;
    let busy = Instant::now();
    let mut other = subject.subscribe("g").await;
    let moved = take(&mut other, 1, 40).await[0].partition;
    assert!(busy.elapsed() < Duration::from_secs(5), "{:?}", busy.elapsed());
    sleep(Duration::from_secs(9)).await;
    let answers = crate::contract::acknowledge(&mut slow, &taken).await;
    assert_eq!(answers, BTreeMap::from([(moved, Err(BusError::Revoked(format!("t/{moved}")))), (1 - moved, Ok(()))]));
    subject.left("g", taken.iter().filter(|one| one.partition == moved).count() as u64).await;
}

/// OX-12: the first after idle time is in effect within 100 ms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_after_idle_time_is_there_at_once() {
    let Some(servers) = server("JANGTEO_TEST_KAFKA") else { return };
    let theirs = Theirs::new(&servers);
    let teller = Teller::new(Arc::new(theirs.bus()));
    teller.relay().start();
    teller.bus.create("log-events", 6).await.unwrap();
    let world = listener(teller.bus.clone());
    listen(&world, "log-events");
    let mut took = vec![];
    for round in 1..=9 {
        let begun = Instant::now();
        teller.record(round).await;
        has_all(&world, round).await;
        took.push(begun.elapsed());
        sleep(Duration::from_secs(1)).await;
    }
    // The first waited for the group; whatever else runs here takes its time now and then.
    took.sort_unstable();
    assert!(took[4] < Duration::from_millis(100), "{took:?}");
    stop(&teller.process).await;
    stop(&world.consumer.0.process).await;
}

/// OX-14: what the topic forgot, although it must not, is a gap that somebody hears of, and is never skipped.
#[tokio::test]
async fn what_a_topic_forgot_is_a_gap() {
    let Some(servers) = server("JANGTEO_TEST_KAFKA") else { return };
    let theirs = Theirs::new(&servers);
    let bus = Arc::new(theirs.bus());
    bus.create("t", 1).await.unwrap();
    let world = listener(bus);
    world.tell("s", 1..=5, b"").await;
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&format!("{}t", theirs.settings.prefix), 0, At::Offset(3)).unwrap();
    let admin: AdminClient<DefaultClientContext> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", &servers).create().unwrap();
    admin.delete_records(&before, &AdminOptions::new()).await.unwrap();
    let mut member = world.bus.subscribe("shop", &["t"]).await.unwrap();
    while world.parked("s").await.len() < 2 {
        soon(world.consumer.step(member.as_mut())).await.unwrap();
    }
    assert_eq!(world.parked("s").await, [(4, Reason::Gap), (5, Reason::Behind)]);
    assert_eq!(world.effects("s").await, [0; 0]);
}

/// OX-16: what travels beside a fact survives the trip.
#[tokio::test]
async fn an_envelope_arrives_as_it_was_sent() {
    let Some(subject) = make().await else { return };
    subject.bus.create("t", 1).await.unwrap();
    let sent = Envelope {
        id: Ids::random(Arc::new(SystemClock)).next(),
        source: "order".into(),
        kind: TOLD.into(),
        stream: "order-주문".into(),
        version: 2,
        schema: 1,
        time: clock::Timestamp(1_800_000_000_000_000),
        correlation_id: "1".into(),
        causation_id: "checkout-1/confirm_order/do".into(),
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        payload: vec![0, 255, 7],
    };
    subject.bus.publish("t", vec![sent.encode()]).await.unwrap();
    let arrived = soon(subject.subscribe("g").await.next(1)).await.unwrap();
    assert_eq!(Envelope::decode(&arrived[0].message), Ok(sent));
}
