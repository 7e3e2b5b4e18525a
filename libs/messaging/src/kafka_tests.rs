//! What the bus on Kafka promises, on a real broker.
use clock::{Ids, SystemClock};
use futures::FutureExt;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;

use super::*;
use crate::contract::{
    Seen, Sub, Subject, acknowledge, hold_the_contract, message, number, numbers, soon, take, take_on,
};
use crate::kafka_cluster::PATIENCE;
use crate::{MAX_PAYLOAD_BYTES, Offset};

async fn make() -> Option<Subject> {
    let servers = server("JANGTEO_TEST_KAFKA")?;
    let theirs = Theirs::new(&servers);
    let mut subject = Subject::new(Arc::new(theirs.bus()), theirs);
    subject.delay = Duration::from_secs(5);
    Some(subject)
}
hold_the_contract!(make);

fn kafka(servers: &str) -> Kafka {
    Kafka::new(&Settings { servers: servers.into(), prefix: String::new(), replicas: 1 }).unwrap()
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, BusError>) -> String {
    match answer {
        Err(BusError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_named_in_time() {
    let bus = kafka("127.0.0.1:1");
    let begun = Instant::now();
    let (made, published, subscribed, latest, lag) = tokio::join!(
        bus.create("t", 1),
        bus.publish("t", vec![message("k", 1)]),
        bus.subscribe("g", &["t"]),
        bus.latest("t", 1),
        bus.lag("g", "t"),
    );
    let answers = [made, published, subscribed.map(drop), latest.map(drop), lag.map(drop)];
    for why in answers.map(unavailable) {
        assert!(why.starts_with("Kafka at 127.0.0.1:1: ") && why.contains("Connection refused"), "{why}");
    }
    assert!(begun.elapsed() < PATIENCE * 3, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_server_that_wants_tls_is_told_from_one_that_is_away() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        while let Ok((mut peer, _)) = listener.accept() {
            // What a server says in TLS to somebody who does not speak it: an alert.
            let _ = peer.read(&mut [0; 4096]);
            let _ = peer.write_all(&[0x15, 3, 3, 0, 2, 2, 0x32]);
        }
    });
    let why = unavailable(kafka(&address.to_string()).create("t", 1).await);
    assert!(why.contains("expects TLS"), "{why}");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let settings =
        |servers: &str, prefix: &str, replicas| Settings { servers: servers.into(), prefix: prefix.into(), replicas };
    for (settings, part) in [
        (settings("", "", 1), "brokers are named as host:port"),
        (settings("kafka", "", 1), "brokers are named as host:port"),
        (settings("kafka:9092,", "", 1), "brokers are named as host:port"),
        (settings("kafka:9092", "a b", 1), "a prefix has"),
        (settings("kafka:9092", &"x".repeat(49), 1), "a prefix has"),
        (settings("kafka:9092", "", 0), "at least one place"),
    ] {
        let Err(BusError::Malformed(why)) = Kafka::new(&settings).map(drop) else { panic!("{settings:?}") };
        assert!(why.contains(part), "{why}");
    }
}

#[tokio::test]
async fn a_topic_that_forgets_is_refused() {
    let Some(servers) = server("JANGTEO_TEST_KAFKA") else { return };
    let theirs = Theirs::new(&servers);
    theirs.make("t", &[("retention.ms", "604800000")]).await;
    let bus = theirs.bus();
    let why = "topic t forgets messages: its retention.ms is 604800000; set it to -1";
    assert_eq!(bus.create("t", 1).await, Err(BusError::Malformed(why.into())));
    theirs.make("u", &[("retention.ms", "-1"), ("cleanup.policy", "compact")]).await;
    let why = "topic u forgets messages: its cleanup.policy is compact; set it to delete";
    assert_eq!(bus.create("u", 1).await, Err(BusError::Malformed(why.into())));
    let why = "the name of a topic on Kafka has letters, digits, dots, _ and -, not \"a b\"";
    assert_eq!(bus.create("a b", 1).await, Err(BusError::Malformed(why.into())));
}

/// Where keys are is known to other programs, and must be the same for ever.
#[tokio::test]
async fn keys_are_where_javas_clients_put_them() {
    let Some(subject) = make().await else { return };
    subject.bus.create("t", 6).await.unwrap();
    let keys = ["order-1", "stock-TEA-BOSEONG-100", "k", "ключ", "key-39"];
    subject.bus.publish("t", keys.iter().map(|key| message(key, 1)).collect()).await.unwrap();
    let mut found = std::collections::BTreeMap::new();
    for one in take(&mut subject.subscribe("g").await, keys.len(), 9).await {
        found.insert(one.message.key, one.partition);
    }
    assert_eq!(found, keys.map(|key| (key.to_owned(), murmur2(key.as_bytes()) % 6)).into());
    assert_eq!(found["order-1"], 4);
}

/// The hash of Java's clients, written from its description: four bytes at a time.
fn murmur2(key: &[u8]) -> u32 {
    let mixed = |word: u32| {
        let word = word.wrapping_mul(0x5bd1_e995);
        (word ^ (word >> 24)).wrapping_mul(0x5bd1_e995)
    };
    let (words, rest) = key.as_chunks::<4>();
    let start = 0x9747_b28c ^ key.len() as u32;
    let mut hash =
        words.iter().fold(start, |hash, word| hash.wrapping_mul(0x5bd1_e995) ^ mixed(u32::from_le_bytes(*word)));
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |all, byte| (all << 8) | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(0x5bd1_e995);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(0x5bd1_e995);
    (hash ^ (hash >> 15)) & 0x7fff_ffff
}

/// What the broker refuses for good stops everything behind it, and the next publish goes on with a new producer.
#[tokio::test]
async fn a_message_that_is_refused_leaves_no_hole() {
    let Some(servers) = server("JANGTEO_TEST_KAFKA") else { return };
    let theirs = Theirs::new(&servers);
    theirs.make("t", &[("max.message.bytes", "100000")]).await;
    let bus = theirs.bus();
    // What cannot be compressed.
    let large =
        (1..=MAX_PAYLOAD_BYTES as u64).map(|n| (n * n).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[1]).collect();
    let large = Message { payload: large, ..message("k", 2) };
    for _ in 0..3 {
        let mut messages: Vec<_> = (0..200).map(|n| message("k", n)).collect();
        messages[100] = large.clone();
        unavailable(bus.publish("t", messages).await);
    }
    bus.publish("t", vec![message("k", 1_000)]).await.unwrap();
    let mut sub: Sub = bus.subscribe("g", &["t"]).await.unwrap();
    let mut kept = vec![];
    while kept.last() != Some(&1_000) {
        kept.extend(numbers(&soon(sub.next(500)).await.unwrap()));
    }
    for begun in kept[..kept.len() - 1].chunk_by(|before, after| before < after) {
        assert!(begun.iter().copied().eq(0..begun.len() as u64) && begun.len() <= 100, "{begun:?}");
    }
}

/// Whoever goes away in the middle of a publish leaves a prefix behind.
#[tokio::test]
async fn a_publish_that_is_dropped_sends_nothing_later() {
    let Some(subject) = make().await else { return };
    subject.filled(1, 1, 0).await;
    for round in 0..20 {
        let messages = (0..500).map(|n| message("k", round * 1_000 + n)).collect();
        let mut publish = subject.bus.publish("t", messages);
        while (&mut publish).now_or_never().is_none() && round % 2 == 1 {
            tokio::task::yield_now().await;
        }
        drop(publish);
    }
    subject.bus.publish("t", vec![message("k", 100_000)]).await.unwrap();
    let mut sub = subject.subscribe("g").await;
    let mut seen = Seen::default();
    while seen.all.last().map(number) != Some(100_000) {
        seen.add(soon(sub.next(500)).await.unwrap());
    }
    let kept = numbers(&seen.all);
    let mut of_dropped = 0;
    for round in kept[..kept.len() - 1].chunk_by(|before, after| before / 1_000 == after / 1_000) {
        assert!(round.iter().map(|n| n % 1_000).eq(0..round.len() as u64), "{round:?}");
        if round[0] / 1_000 % 2 == 0 {
            of_dropped += round.len();
        } else {
            assert_eq!(round.len(), 500, "a publish that was answered is whole");
        }
    }
    assert!(of_dropped < 10 * 500, "all that was dropped was sent");
}

#[tokio::test]
async fn a_topic_that_was_deleted_is_unknown() {
    let Some(servers) = server("JANGTEO_TEST_KAFKA") else { return };
    let theirs = Theirs::new(&servers);
    let bus = theirs.bus();
    bus.create("t", 1).await.unwrap();
    bus.publish("t", vec![message("k", 1)]).await.unwrap();
    delete(&theirs.settings.servers, &theirs.settings.prefix).await;
    unavailable(bus.publish("t", vec![message("k", 2)]).await);
    let unknown = BusError::Malformed("topic t does not exist".into());
    assert_eq!(bus.publish("t", vec![message("k", 2)]).await, Err(unknown));
}

/// Whoever leaves says so: the others need not wait until its silence is noticed.
#[tokio::test]
async fn whoever_leaves_is_followed_at_once() {
    let Some(subject) = make().await else { return };
    subject.filled(1, 1, 5).await;
    let mut first = subject.subscribe("g").await;
    take(&mut first, 5, 5).await;
    let mut second = subject.subscribe("g").await;
    // Until it has joined.
    assert!(tokio::time::timeout(Duration::from_secs(3), second.next(5)).await.is_err());
    let left = Instant::now();
    drop(first);
    take(&mut second, 5, 5).await;
    assert!(left.elapsed() < Duration::from_secs(4), "{:?}", left.elapsed());
}

/// What waits for a member that takes nothing is bounded, and a partition that was paused goes on: here, and elsewhere.
#[tokio::test]
async fn a_member_that_takes_nothing_is_handed_no_more_than_it_can_hold() {
    let Some(subject) = make().await else { return };
    subject.filled(2, 40, 0).await;
    for n in 0..10 {
        subject.publish(40, n * 2_000..(n + 1) * 2_000).await;
    }
    let mut a = subject.subscribe("g").await;
    let begun = take_on(&mut a, Seen::default(), 1, 1).await;
    // Long enough to be handed everything, were there no limit.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let most = soon(a.next(100_000)).await.unwrap();
    assert!((500..5_000).contains(&most.len()), "{}", most.len());
    let mut b = subject.subscribe("g").await;
    let of_b = take(&mut b, 1, 1).await[0].partition;
    let count = |all: &[Delivered]| all.iter().filter(|one| one.partition == of_b).count() as u64;
    let mut seen = begun;
    seen.add(most);
    drop(b);
    let of_a = take_on(&mut a, seen, 20_000, 1_000).await.all;
    assert_eq!(numbers(&of_a).into_iter().collect::<BTreeSet<_>>(), (0..20_000).collect());
    assert!(acknowledge(&mut a, &of_a).await.values().all(Result::is_ok));
    subject.left("g", 0).await;
    let last: Offset = of_a.iter().filter(|one| one.partition == of_b).map(|one| one.offset).max().unwrap();
    assert_eq!(count(&of_a), last + 1);
}

/// A client of librdkafka may lose all addresses and never connect again: one that was not answered is replaced.
#[tokio::test]
async fn a_client_that_was_not_answered_is_not_asked_again() {
    let looks = kafka("127.0.0.1:1").looks.clone();
    assert!(looks.answers().await.is_err());
    assert_eq!(looks.kept(), 0);
}

/// A member whose client reaches no broker hears nothing, and would wait for ever: it ends, and whoever joins again has another client.
#[tokio::test]
async fn a_member_that_reaches_no_broker_ends() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let bus = kafka(&cluster.bootstrap_servers());
    let mut member = bus.subscribe("g", &["t"]).await.unwrap();
    bus.publish("t", vec![message("k", 0)]).await.unwrap();
    assert_eq!(numbers(&soon(member.next(9)).await.unwrap()), [0]);
    cluster.broker_down(1).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(40), member.next(9)).await;
    assert!(unavailable(ended.expect("it waits for ever")).contains("its client reaches no broker"));
    cluster.broker_up(1).unwrap();
    bus.publish("t", vec![message("k", 1)]).await.unwrap();
    let mut member = bus.subscribe("g", &["t"]).await.unwrap();
    while !numbers(&soon(member.next(9)).await.unwrap()).contains(&1) {}
}

/// The address of a server that tests may use. Where there is none, what needs it is left out, aloud.
#[expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests are told in the environment, and tell whoever runs them"
)]
pub(crate) fn server(variable: &str) -> Option<String> {
    let address = std::env::var(variable).ok();
    assert!(address.is_some() || std::env::var("CI").is_err(), "{variable} is not set");
    if address.is_none() {
        eprintln!("SKIPPED: {variable} is not set");
    }
    address
}

/// Names of a test's own on a broker that others use too; deleted in the end.
pub(crate) struct Theirs {
    pub(crate) settings: Settings,
}

impl Theirs {
    pub(crate) fn new(servers: &str) -> Theirs {
        let prefix = format!("test-{}-", Ids::random(Arc::new(SystemClock)).next().simple());
        Theirs { settings: Settings { servers: servers.into(), prefix, replicas: 1 } }
    }

    pub(crate) fn bus(&self) -> Kafka {
        Kafka::new(&self.settings).unwrap()
    }

    /// A topic as somebody else would make it, with one partition.
    async fn make(&self, topic: &str, config: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.settings.servers).create().unwrap();
        let name = format!("{}{topic}", self.settings.prefix);
        let mut new = NewTopic::new(&name, 1, TopicReplication::Fixed(1)).set("retention.ms", "-1");
        new.config.retain(|(name, _)| config.iter().all(|(other, _)| other != name));
        new.config.extend(config);
        admin.create_topics([&new], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let Settings { servers, prefix, .. } = self.settings.clone();
        let deleting = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(delete(&servers, &prefix));
        });
        let _ = deleting.join();
    }
}

/// Deletes all topics and groups whose names begin so.
async fn delete(servers: &str, prefix: &str) {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", servers).set("group.id", "deleting");
    let (Ok(admin), Ok(looker)) =
        (settings.create::<AdminClient<DefaultClientContext>>(), settings.create::<BaseConsumer>())
    else {
        return;
    };
    let limit = Duration::from_secs(5);
    let options = AdminOptions::new().request_timeout(Some(limit));
    if let Ok(groups) = looker.fetch_group_list(None, limit) {
        let names: Vec<&str> = groups.groups().iter().map(|group| group.name()).collect();
        let names: Vec<&str> = names.into_iter().filter(|name| name.starts_with(prefix)).collect();
        if !names.is_empty() {
            let _ = admin.delete_groups(&names, &options).await;
        }
    }
    if let Ok(metadata) = looker.fetch_metadata(None, limit) {
        let names: Vec<&str> = metadata.topics().iter().map(|topic| topic.name()).collect();
        let names: Vec<&str> = names.into_iter().filter(|name| name.starts_with(prefix)).collect();
        if !names.is_empty() {
            let _ = admin.delete_topics(&names, &options).await;
        }
    }
}

#[path = "kafka_broker.rs"]
mod broker;
#[path = "kafka_services_tests.rs"]
mod services;
