//! Brokers that are away, topics that are not as they have to be, and what cannot be read.
use std::ops::RangeInclusive;

use clock::Timestamp;
use futures::future::join_all;
use http::StatusCode;
use messaging::envelope::{Envelope, PRIVATE};
use messaging::{Bus, Message};
use tokio::time::{Duration, Instant, sleep};
use uuid::Uuid;

use crate::proxy::Proxy;
use crate::receipts::{self, receive};
use crate::servers::Servers;
use crate::service::{PATIENCE, Service};

#[tokio::test]
async fn brokers_that_are_away_are_said_once_and_found_when_they_are_there() {
    let Some(servers) = Servers::find().await else { return };
    let mut proxy = Proxy::to(&servers.kafka);
    let brokers = format!("127.0.0.1:{}", proxy.port);
    let mut order = Service::start("order", &servers.settings(&[("JANGTEO_KAFKA", brokers.clone())]));
    order.is_degraded("order relay", &brokers).await;
    // Orders are taken without brokers.
    order.is_ready().await;
    order.says_once("nothing is published; the relay tries again").await;
    proxy.open().await;
    order.says("the relay goes on").await;
    order.stop().await;
}

#[tokio::test]
async fn every_service_says_that_it_does_not_reach_the_brokers() {
    let mut all = vec![];
    for name in ["order", "inventory", "payment", "shipping", "auditor"] {
        let (Some(servers), Some(other)) = (Servers::find().await, Servers::find().await) else { return };
        let proxy = Proxy::to(&servers.kafka);
        let otherwise = [
            ("JANGTEO_KAFKA", format!("127.0.0.1:{}", proxy.port)),
            ("JANGTEO_BANK_POSTGRES", other.postgres()),
            ("JANGTEO_CARRIER_POSTGRES", other.postgres()),
        ];
        all.push((name, Service::start(name, &servers.settings(&otherwise)), proxy, servers, other));
    }
    for (name, service, proxy, ..) in &mut all {
        let brokers = format!("127.0.0.1:{}", proxy.port);
        match *name {
            // Without messages the books do not get on; all else does.
            "auditor" => service.misses("Kafka", &brokers).await,
            _ => service.is_degraded("Kafka", &brokers).await,
        }
    }
    join_all(all.iter().map(|(_, service, ..)| service.says_once("Kafka: it does not answer"))).await;
    for (_, _, proxy, ..) in &mut all {
        proxy.open().await;
    }
    for (_, mut service, ..) in all {
        service.says("Kafka: it answers again").await;
        service.is_ready().await;
        service.stop().await;
    }
}

#[tokio::test]
async fn a_topic_with_too_few_partitions_is_not_published_to() {
    let Some(servers) = Servers::find().await else { return };
    servers.bus().create("order-events", 2).await.unwrap();
    let mut order = Service::start("order", &servers.settings(&[]));
    let sentence = "topic order-events has 2 partitions, not 6";
    order.is_degraded("order relay", sentence).await;
    order.says_once(sentence).await;
    servers.delete_topics(&["order-events"]).await;
    order.says("the relay goes on").await;
    servers.bus().create("order-events", 6).await.unwrap();
    order.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_parked_and_everything_else_flows() {
    let Some(servers) = Servers::find().await else { return };
    let bus = servers.bus();
    bus.create("shipping-events", 6).await.unwrap();
    let mut order = Service::start("order", &servers.settings(&[]));
    order.is_ready().await;
    let mut gateway = Service::start("gateway", &servers.settings(&[("JANGTEO_ORDER", order.address.clone())]));
    gateway.is_ready().await;
    let junk = Message { key: "shipment-junk".into(), headers: vec![], payload: b"\xffnot a fact".to_vec() };
    bus.publish("shipping-events", vec![junk, fact("shipment-junk", 1), fact("shipment-fine", 1)]).await.unwrap();

    let started = Instant::now();
    let flowed = r#"messages_total{consumer="order",outcome="passed"} 2"#;
    while !order.page("/metrics").await.unwrap().1.contains(flowed) {
        assert!(started.elapsed() < PATIENCE, "{}", order.page("/metrics").await.unwrap().1);
        sleep(Duration::from_millis(100)).await;
    }
    let (status, parked) = gateway.get("/v1/order/dead-letters").await;
    assert_eq!(status, StatusCode::OK, "{parked}");
    let parked = parked.to_string();
    assert_eq!(parked.matches("\"dead_letter_id\"").count(), 1, "{parked}");
    assert!(parked.contains("shipment-junk"), "{parked}");
    order.says_once("a message is parked").await;
    order.is_ready().await;
    order.stop().await;
    gateway.stop().await;
}

/// A version of a stream that is nobody else's business.
fn fact(stream: &str, version: u64) -> Message {
    Envelope {
        id: Uuid::now_v7(),
        source: "shipping".into(),
        kind: PRIVATE.into(),
        stream: stream.into(),
        version,
        schema: 1,
        time: Timestamp(1),
        correlation_id: String::new(),
        causation_id: String::new(),
        traceparent: String::new(),
        payload: vec![],
    }
    .encode()
}

#[tokio::test]
async fn an_event_of_a_later_program_stops_what_would_have_to_read_it_until_it_is_repaired() {
    let Some(servers) = Servers::find().await else { return };
    let mut order = Service::start("order", &servers.settings(&[]));
    order.is_ready().await;
    let mut gateway = Service::start("gateway", &servers.settings(&[("JANGTEO_ORDER", order.address.clone())]));
    gateway.is_ready().await;
    servers
        .run(
            "WITH stream AS (INSERT INTO streams (name, version, timestamp) VALUES ('order-later', 1, 1) RETURNING key)
            INSERT INTO events (id, stream, version, type, schema, data, timestamp, correlation_id, causation_id, actor,
            traceparent) SELECT gen_random_uuid(), key, 1, 'OrderPlaced', 99, '{}', 1, '', '', '', '' FROM stream",
        )
        .await;
    order.is_degraded("order search", "it stopped after position 0").await;
    order.is_degraded("order relay", "order-later").await;
    order.says_once("the projection stops until this can be read").await;
    order.says_once("nothing is published until this is repaired").await;
    let (status, sagas) = gateway.get("/v1/sagas").await;
    assert_eq!(status, StatusCode::OK, "{sagas}");
    let mut other = Service::start("order", &servers.settings(&[]));
    other.says("open").await;

    // Somebody repairs it: each goes on as it is.
    servers.run("DELETE FROM events; DELETE FROM streams WHERE name = 'order-later'").await;
    order.is_ready().await;
    order.says("the relay goes on").await;
    order.says("the projection goes on").await;
    other.is_ready().await;
    other.stop().await;
    order.stop().await;
    gateway.stop().await;
}

/// The versions of a stream of inventory's that are in its topic, in their order.
async fn published(servers: &Servers, stream: &str) -> Vec<u64> {
    // Where there is no topic, nothing is in it.
    let all = servers.bus().latest("inventory-events", 1_000).await.unwrap_or_default();
    let envelopes = all.iter().filter_map(|one| Envelope::decode(&one.message).ok());
    envelopes.filter(|envelope| envelope.stream == stream).map(|envelope| envelope.version).collect()
}

/// Inventory publishes to one topic, which it makes again itself, and listens to another, whose owner makes it again.
#[tokio::test]
async fn a_deleted_topic_is_made_again_and_carries_what_comes_later_and_what_went_with_it_is_a_gap() {
    const STOCK: &str = "stock-TEA-BOSEONG-100";
    let Some(servers) = Servers::find().await else { return };
    servers.bus().create("shipping-events", 6).await.unwrap();
    let (mut inventory, gateway) = receipts::open(&servers, &[]).await;
    let publish = async |stream: &str, versions: RangeInclusive<u64>| {
        let facts = versions.map(|version| fact(stream, version)).collect();
        servers.bus().publish("shipping-events", facts).await.unwrap();
    };
    let heard = async |stream: &str, version: i64| {
        let mark = format!("name = 'inbox-inventory-shipping-events-{stream}'");
        let (mark, started) = (format!("SELECT coalesce(max(value), 0) FROM marks WHERE {mark}"), Instant::now());
        while servers.number(&mark).await != version {
            assert!(started.elapsed() < PATIENCE, "{stream} {version} is not heard: {}", inventory.log());
            sleep(Duration::from_millis(50)).await;
        }
    };
    let arrives = async |versions: &[u64]| {
        let (mut there, started) = (vec![], Instant::now());
        while !there.ends_with(versions) {
            assert!(started.elapsed() < PATIENCE, "{there:?}, not {versions:?}: {}", inventory.log());
            sleep(Duration::from_millis(100)).await;
            there = published(&servers, STOCK).await;
        }
        there
    };
    publish("shipment-a", 1..=3).await;
    heard("shipment-a", 3).await;
    arrives(&[1]).await;

    servers.delete_topics(&["shipping-events", "inventory-events"]).await;
    assert_eq!(receive(&gateway, "piece-1").await.0, StatusCode::OK);
    servers.bus().create("shipping-events", 6).await.unwrap();
    // More than there was: a client that noticed neither the deletion nor that the topic is another one goes on at the former offset.
    // What it misses is a gap until it is published again.
    publish("shipment-a", 4..=8).await;
    publish("shipment-a", 4..=8).await;
    heard("shipment-a", 8).await;
    assert_eq!(arrives(&[2]).await, [2], "what went with the former topic is not published again");
    inventory.says("the relay goes on").await;
    // The relay does not notice this one.
    servers.delete_topics(&["inventory-events"]).await;
    servers.bus().create("inventory-events", 6).await.unwrap();
    assert_eq!(receive(&gateway, "piece-2").await.0, StatusCode::OK);
    assert_eq!(arrives(&[3]).await, [3]);

    // Nobody had heard the first.
    publish("shipment-b", 2..=2).await;
    inventory.says_of("shipment-b", "version 1 is awaited, and this is 2").await;
    heard("shipment-b", 0).await;
    // A person has everything published again.
    publish("shipment-b", 1..=2).await;
    heard("shipment-b", 2).await;
    servers.run("UPDATE marks SET value = 0 WHERE name = 'relay-inventory-events'").await;
    assert_eq!(receive(&gateway, "piece-3").await.0, StatusCode::OK);
    arrives(&[1, 2, 3, 4]).await;
    inventory.is_ready().await;
    inventory.stop().await;
    gateway.stop().await;
}
