//! Statements about publishing and what arrives.
use std::collections::{BTreeMap, BTreeSet};

use futures::FutureExt;
use futures::future::join_all;

use crate::contract::{Seen, Subject, acknowledge, malformed, message, number, numbers, soon, take, waits};
use crate::{MAX_HEADERS, MAX_KEY_BYTES, MAX_NAME_BYTES, MAX_PARTITIONS, MAX_PAYLOAD_BYTES, Message};

pub(crate) async fn keys_keep_their_order_whatever_the_batches(subject: &Subject) {
    subject.filled(3, 7, 200).await;
    for limit in [1, 2, 3, 10, 50, 1_000] {
        let mut sub = subject.subscribe(&limit.to_string()).await;
        assert_eq!(take(&mut sub, 200, limit).await.len(), 200);
        waits(&mut sub);
        assert_eq!(sub.next(0).await, Ok(vec![]));
    }
}

pub(crate) async fn a_message_arrives_as_it_was_published(subject: &Subject) {
    subject.bus.create("t", 1).await.unwrap();
    let headers = vec![("a".into(), "1".into()), ("a".into(), "\"\0ü".into()), (String::new(), String::new())];
    let sent = [
        Message { key: "ключ".into(), headers, payload: vec![0, 255, 0] },
        Message { key: "k".into(), headers: vec![], payload: vec![] },
        Message {
            key: "k".repeat(MAX_KEY_BYTES),
            headers: vec![("n".repeat(MAX_HEADERS.1), "v".repeat(MAX_HEADERS.1)); MAX_HEADERS.0],
            payload: vec![7; MAX_PAYLOAD_BYTES],
        },
    ];
    subject.bus.publish("t", sent.to_vec()).await.unwrap();
    let mut sub = subject.subscribe("g").await;
    let mut seen = BTreeMap::new();
    while seen.len() < sent.len() {
        for one in soon(sub.next(9)).await.unwrap() {
            assert_eq!((one.topic.as_str(), one.partition), ("t", 0));
            seen.insert(one.offset, one.message);
        }
    }
    assert!(seen.into_values().eq(sent));
}

pub(crate) async fn equal_keys_go_to_one_partition_and_all_are_used(subject: &Subject) {
    subject.filled(4, 40, 200).await;
    let mut sub = subject.subscribe("g").await;
    let mut partitions: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for one in take(&mut sub, 200, 30).await {
        partitions.entry(one.message.key).or_default().insert(one.partition);
    }
    assert_eq!(partitions.len(), 40);
    assert!(partitions.values().all(|of_key| of_key.len() == 1), "{partitions:?}");
    assert_eq!(partitions.into_values().flatten().collect::<BTreeSet<_>>(), BTreeSet::from([0, 1, 2, 3]));
}

pub(crate) async fn the_last_message_of_each_partition_can_be_read_back(subject: &Subject) {
    subject.bus.create("t", 3).await.unwrap();
    assert_eq!(subject.bus.latest("t", 1).await, Ok(vec![]));
    subject.publish(1, 0..5).await;
    let last = subject.bus.latest("t", 1).await.unwrap();
    assert_eq!((numbers(&last), last[0].offset), (vec![4], 4));
    subject.publish(40, 5..100).await;
    let mut ends: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for one in take(&mut subject.subscribe("g").await, 100, 30).await {
        let end = ends.entry(one.partition).or_default();
        *end = (one.offset, number(&one)).max(*end);
    }
    let last = subject.bus.latest("t", 1).await.unwrap();
    let read: BTreeMap<_, _> = last.iter().map(|one| (one.partition, (one.offset, number(one)))).collect();
    assert_eq!(read, ends);
    let all = subject.bus.latest("t", 1_000).await.unwrap();
    let places: Vec<_> = all.iter().map(|one| (one.partition, one.offset)).collect();
    assert!(all.len() > last.len() && places.is_sorted() && last.iter().all(|one| all.contains(one)), "{places:?}");
    assert_eq!(subject.bus.latest("u", 1).await, Err(malformed("topic u does not exist")));
}

pub(crate) async fn offsets_are_dense_in_each_partition(subject: &Subject) {
    subject.filled(3, 20, 50).await;
    subject.publish(20, 50..100).await;
    let mut sub = subject.subscribe("g").await;
    let mut offsets: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for one in take(&mut sub, 100, 9).await {
        assert!(offsets.entry(one.partition).or_default().insert(one.offset));
    }
    for of_partition in offsets.into_values() {
        assert!(of_partition.iter().copied().eq(0..of_partition.len() as u64), "{of_partition:?}");
    }
}

pub(crate) async fn a_topic_keeps_its_number_of_partitions(subject: &Subject) {
    let bus = &subject.bus;
    subject.filled(3, 5, 10).await;
    assert_eq!(bus.create("t", 3).await, Ok(()));
    assert_eq!(bus.create("t", 4).await, Err(malformed("topic t has 3 partitions, not 4")));
    assert_eq!(subject.lag("g").await, 10);
    let both = tokio::join!(bus.create("u", 1), bus.create("u", 2));
    assert!(matches!(both, (Ok(()), Err(_)) | (Err(_), Ok(()))), "{both:?}");
    for partitions in [0, MAX_PARTITIONS + 1] {
        let why = format!("a topic has 1 to {MAX_PARTITIONS} partitions, not {partitions}");
        assert_eq!(bus.create("v", partitions).await, Err(malformed(&why)));
    }
    for name in [String::new(), "x".repeat(MAX_NAME_BYTES + 1)] {
        let why = |what| format!("the name of a {what} has 1 to {MAX_NAME_BYTES} bytes, not {}", name.len());
        assert_eq!(bus.create(&name, 1).await, Err(malformed(&why("topic"))));
        assert_eq!(bus.subscribe(&name, &["t"]).await.err(), Some(malformed(&why("group"))));
    }
    // So many are as many folders on a broker that others use too.
    let most = if subject.delay.is_zero() { MAX_PARTITIONS } else { 1 };
    assert_eq!(bus.create(&"x".repeat(MAX_NAME_BYTES), most).await, Ok(()));
}

pub(crate) async fn what_no_bus_takes_is_refused_and_nothing_kept(subject: &Subject) {
    subject.filled(1, 1, 1).await;
    let good = message("k", 1);
    let header = ("n".to_owned(), "v".to_owned());
    let long = "x".repeat(MAX_HEADERS.1 + 1);
    let bad = [
        Message { key: String::new(), ..good.clone() },
        Message { key: "k".repeat(MAX_KEY_BYTES + 1), ..good.clone() },
        Message { headers: vec![header; MAX_HEADERS.0 + 1], ..good.clone() },
        Message { headers: vec![(long.clone(), String::new())], ..good.clone() },
        Message { headers: vec![(String::new(), long)], ..good.clone() },
        Message { headers: vec![("a\0b".into(), String::new())], ..good.clone() },
        Message { payload: vec![0; MAX_PAYLOAD_BYTES + 1], ..good.clone() },
    ];
    for bad in bad {
        let why = malformed(&bad.check().unwrap_err());
        assert_eq!(subject.bus.publish("t", vec![good.clone(), bad, good.clone()]).await, Err(why));
    }
    assert_eq!(subject.lag("g").await, 1);
    subject.bus.publish("t", vec![]).await.unwrap();
    subject.bus.publish("t", vec![message("k", 2)]).await.unwrap();
    assert_eq!(numbers(&take(&mut subject.subscribe("g").await, 2, 1).await), [0, 2]);
}

pub(crate) async fn what_does_not_exist_is_named(subject: &Subject) {
    subject.filled(1, 1, 1).await;
    let unknown = malformed("topic nowhere does not exist");
    assert_eq!(subject.bus.publish("nowhere", vec![message("k", 1)]).await, Err(unknown.clone()));
    assert_eq!(subject.bus.publish("nowhere", vec![]).await, Err(unknown.clone()));
    assert_eq!(subject.bus.subscribe("g", &["t", "nowhere"]).await.err(), Some(unknown.clone()));
    assert_eq!(subject.bus.lag("g", "nowhere").await, Err(unknown));
    assert_eq!(subject.bus.subscribe("g", &[]).await.err(), Some(malformed("group g is to listen to no topic")));
    // Who was refused is no member: it would keep partitions from the others.
    take(&mut subject.subscribe("g").await, 1, 1).await;
}

pub(crate) async fn next_waits_until_something_is_published(subject: &Subject) {
    subject.filled(2, 3, 0).await;
    let mut sub = subject.subscribe("g").await;
    for n in 0..20 {
        waits(&mut sub);
        let publish = subject.publish(3, n..n + 1);
        let (taken, ()) = tokio::join!(take(&mut sub, 1, 9), publish);
        assert_eq!(numbers(&taken), [n]);
        acknowledge(&mut sub, &taken).await;
    }
}

pub(crate) async fn dropping_next_loses_nothing(subject: &Subject) {
    subject.filled(2, 5, 0).await;
    let mut sub = subject.subscribe("g").await;
    let mut seen = Seen::default();
    for n in 0..50 {
        // Polled before there is anything, and dropped after there is.
        let mut waiting = sub.next(9);
        assert!((&mut waiting).now_or_never().is_none());
        subject.publish(5, n..n + 1).await;
        drop(waiting);
        // Polled once where there is something: it is given now, or it is not lost.
        if let Some(batch) = sub.next(9).now_or_never() {
            seen.add(batch.unwrap());
        }
        while seen.all.len() <= n as usize {
            seen.add(soon(sub.next(9)).await.unwrap());
        }
    }
    crate::contract::in_order(&seen.all);
    assert_eq!(numbers(&seen.all), (0..50).collect::<Vec<_>>());
}

pub(crate) async fn ten_thousand_arrive_in_order(subject: &Subject) {
    subject.filled(4, 97, 0).await;
    let publish = async {
        for n in 0..20 {
            subject.publish(97, n * 500..(n + 1) * 500).await;
        }
    };
    let mut sub = subject.subscribe("g").await;
    let ((), taken) = tokio::join!(publish, take(&mut sub, 10_000, 500));
    assert_eq!(taken.iter().map(number).collect::<BTreeSet<_>>().len(), 10_000);
    assert!(acknowledge(&mut sub, &taken).await.values().all(Result::is_ok));
    subject.left("g", 0).await;
}

pub(crate) async fn concurrent_publishers_lose_nothing(subject: &Subject) {
    subject.filled(3, 1, 0).await;
    let publisher = |publisher: u64| async move {
        for n in 0..20 {
            let key = format!("publisher-{publisher}");
            let messages = (0..5).map(|more| message(&key, n * 5 + more)).collect();
            subject.bus.publish("t", messages).await.unwrap();
        }
    };
    join_all((0..10).map(publisher)).await;
    let taken = take(&mut subject.subscribe("g").await, 1_000, 100).await;
    let mut of_key: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    taken.iter().for_each(|one| of_key.entry(&one.message.key).or_default().push(number(one)));
    assert_eq!(of_key.len(), 10);
    assert!(of_key.into_values().all(|numbers| numbers.into_iter().eq(0..100)));
}

pub(crate) async fn a_small_limit_starves_no_partition(subject: &Subject) {
    subject.filled(4, 40, 400).await;
    let mut sub = subject.subscribe("g").await;
    // What comes from elsewhere may come partition by partition; once it is there, all are served in turn.
    let most = if subject.delay.is_zero() { 8 } else { 300 };
    let mut seen = Seen::default();
    loop {
        seen.add(soon(sub.next(1)).await.unwrap());
        let recent: BTreeSet<u32> = seen.all.iter().rev().take(8).map(|one| one.partition).collect();
        if recent == BTreeSet::from([0, 1, 2, 3]) {
            break;
        }
        assert!(seen.all.len() < most, "{recent:?} alone are served");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
