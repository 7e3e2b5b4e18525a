//! The auditor's books of a running shop, as operators see them.
use std::sync::Arc;
use std::time::Duration;

use clock::Timestamp;
use http::{Method, StatusCode};
use messaging::Message;
use messaging::envelope::Envelope;
use messaging::memory::Memory;
use monolith::shop::{Pace, Stores};
use prost::Name;
use proto::events;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::faults::{Fault, Mortal, Plan};
use crate::harness::{RICE, Running, TEA, World, order, text};

const PACE: Pace = Pace { pick_up: Duration::from_secs(5), transit: Duration::from_secs(5) };

/// A shop whose bus repeats, delays and mixes.
fn world(seed: u64) -> World {
    let world = World::new();
    World { pace: PACE, stores: Stores { bus: Arc::new(Memory::new(seed)), ..world.stores.clone() }, ..world }
}

async fn look(shop: &Running) -> Value {
    let ask = || shop.send(Method::GET, "/v1/books", &[("X-Operator", "lee")], "");
    let mut answer = ask().await;
    // An auditor that was killed has its lease for some seconds more.
    for _ in 0..200 {
        if answer.status == StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        answer = ask().await;
    }
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.body
}

/// The books once everything that was recorded is in them.
async fn caught_up(shop: &Running) -> Value {
    // As long as it may take to be published.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..200 {
        let books = look(shop).await;
        if books["topics"].as_array().unwrap().iter().all(|topic| topic["behind"] == 0) {
            return books;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("after 20 s the books are behind: {}", look(shop).await);
}

/// The numbers of the invariants that do not hold, each with what breaks it.
fn broken(books: &Value) -> Vec<(String, Value)> {
    let all = books["invariants"].as_array().unwrap();
    assert_eq!(all.len(), 10);
    let broken = all.iter().filter(|invariant| invariant["holds"] == false);
    broken.map(|invariant| (text(invariant, "number").to_owned(), invariant["findings"].clone())).collect()
}

/// One order of every kind, each to its end; their ids.
async fn every_kind(shop: &Running) -> Vec<String> {
    let mut ids = vec![];
    for (method, country) in [
        ("pm_card_ok", "KR"),
        ("pm_card_ok", "AQ"),
        ("pm_card_declined", "KR"),
        ("pm_card_twice", "KR"),
        ("pm_card_slow", "KR"),
        ("pm_card_lost_reply", "KR"),
    ] {
        for (how, wait) in [("kept", 0), ("off-at-once", 0), ("off", 10)] {
            let placed = shop.place(&format!("{method}-{country}-{how}"), wait, &order(method, country)).await;
            let id = text(&placed.body, "order_id").to_owned();
            if how != "kept" {
                shop.cancel(&format!("{id}-off"), &id, 0).await;
            }
            ids.push(id);
        }
    }
    for id in &ids {
        shop.ended(id).await;
    }
    ids
}

#[tokio::test(start_paused = true)]
async fn after_orders_of_every_kind_the_books_hold() {
    let world = world(1);
    let shop = world.shop().await;
    let ids = every_kind(&shop).await;
    world.is_clean().await;
    let books = caught_up(&shop).await;
    assert_eq!(broken(&books), []);
    assert_eq!((&books["orders_under_way"], &books["products_not_judged"]), (&json!(0), &json!(0)));
    for id in ids {
        let page = world.stores.auditor.version(&format!("page-{id}").as_str().into()).await.unwrap();
        assert!((1..=8).contains(&page), "{page} writes for one order");
    }
    let customer = shop.get("/v1/books").await;
    assert_eq!(customer.status, StatusCode::FORBIDDEN);
    let metrics = shop.get("/metrics").await.body;
    assert!(metrics.as_str().unwrap().contains(r#"books_broken{invariant="I-3"} 0"#), "{metrics}");
}

/// A fact as its service would tell it.
fn told<M: Name>(source: &str, (stream, version): (&str, u64), fact: &M) -> Message {
    let envelope = Envelope {
        id: Uuid::from_u128(u128::from(version) << 64 | stream.len() as u128),
        source: source.into(),
        kind: M::full_name(),
        stream: stream.into(),
        version,
        schema: 1,
        time: Timestamp(1_800_000_000_000_000),
        correlation_id: stream.split_once('-').unwrap().1.into(),
        causation_id: "planted".into(),
        traceparent: String::new(),
        payload: fact.encode_to_vec(),
    };
    envelope.encode()
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_shows_under_its_invariant_with_its_stream() {
    let world = world(2);
    let shop = world.shop().await;
    let placed = shop.place("k1", 10, &order("pm_card_ok", "KR")).await;
    let order_id = text(&placed.body, "order_id").to_owned();
    assert_eq!(broken(&caught_up(&shop).await), []);

    let payment = format!("payment-{order_id}");
    let twice = told("payment", (&payment, 3), &events::PaymentCharged { order_id: order_id.clone() });
    world.stores.bus.publish("payment-events", vec![twice]).await.unwrap();
    let found = broken(&caught_up(&shop).await);
    let [(number, findings)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((number.as_str(), text(&findings[0], "stream")), ("I-3", payment.as_str()));
    assert_eq!(text(&findings[0], "sentence"), "the money was taken, twice");

    // An order that nobody placed: the topic of orders may be behind, but not for ever.
    let stranger = "0190b8f1-2c3d-7e4f-8a9b-0c1d2e3f4a5b";
    let goods = vec![events::Goods { sku: TEA.0.into(), quantity: 1 }];
    let reserved = events::StockReserved { order_id: stranger.into(), goods };
    let reservation = format!("reservation-{stranger}");
    let reserved = Message { key: reservation.clone(), ..told("inventory", (&reservation, 1), &reserved) };
    let mut fresh = Envelope::decode(&reserved).unwrap();
    fresh.time = world.clock.now();
    world.stores.bus.publish("inventory-events", vec![fresh.encode()]).await.unwrap();
    assert_eq!(broken(&caught_up(&shop).await).len(), 1);
    tokio::time::sleep(Duration::from_secs(62)).await;
    let found = broken(&look(&shop).await);
    let [_, (number, findings)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((number.as_str(), text(&findings[0], "stream")), ("I-4", reservation.as_str()));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_said_and_holds_nobody_up() {
    let world = world(3);
    let shop = world.shop().await;
    caught_up(&shop).await;
    let junk = Message { key: "order-junk".into(), headers: vec![], payload: vec![255] };
    let foreign = told("order", ("diary-1", 1), &events::OrderConfirmed { order_id: "1".into() });
    let lost = told("payment", ("payment-7", 2), &events::PaymentCharged { order_id: "7".into() });
    world.stores.bus.publish("order-events", vec![junk, foreign]).await.unwrap();
    world.stores.bus.publish("payment-events", vec![lost]).await.unwrap();
    let placed = shop.place("k1", 10, &order("pm_card_ok", "KR")).await;
    shop.ended(text(&placed.body, "order_id")).await;
    let found = broken(&caught_up(&shop).await);
    let [(number, findings)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(number, "I-6");
    let said: Vec<_> = findings.as_array().unwrap().iter().map(|finding| text(finding, "sentence")).collect();
    assert!(said.len() == 3 && said.iter().any(|said| said.contains("header ce_specversion is missing")), "{said:?}");
    assert!(said.iter().any(|said| said.contains("no service has a stream diary-1")), "{said:?}");
    assert!(said.contains(&"version 1 is awaited, and 2 follows"), "{said:?}");

    // After a restart they are known still, and counted once.
    shop.process.tasks.drain(Duration::ZERO).await;
    let shop = world.shop().await;
    assert_eq!(broken(&caught_up(&shop).await), found);
}

/// A checkout whose carrier does not answer for minutes is found, known across a restart, and good again when it ends.
#[tokio::test(start_paused = true)]
async fn what_is_stuck_is_found_and_forgotten_when_it_goes_on() {
    let world = World { pace: PACE, ..World::new() };
    let plan = Plan::default().fault("CreateShipment", Fault::TimesOut, 25);
    let shop = world.shop_with(&plan).await;
    let placed = shop.place("k1", 0, &order("pm_card_ok", "KR")).await;
    let order_id = text(&placed.body, "order_id").to_owned();
    tokio::time::sleep(Duration::from_secs(115)).await;
    let books = look(&shop).await;
    assert_eq!((broken(&books), &books["orders_under_way"]), (vec![], &json!(1)));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let found = broken(&look(&shop).await);
    let [(number, findings)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((number.as_str(), text(&findings[0], "stream")), ("I-14", format!("order-{order_id}").as_str()));

    shop.process.tasks.drain(Duration::ZERO).await;
    let shop = world.shop_with(&plan).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(broken(&look(&shop).await), found);
    tokio::time::sleep(Duration::from_secs(120)).await;
    shop.ended(&order_id).await;
    let books = caught_up(&shop).await;
    assert_eq!((broken(&books), &books["orders_under_way"]), (vec![], &json!(0)));
}

/// What an operator says was done by hand is on nobody's record, and the books say so.
#[tokio::test(start_paused = true)]
async fn a_step_that_an_operator_skipped_is_missing() {
    let world = World { pace: PACE, ..World::new() };
    let shop = world.shop_with(&Plan::default().fault("CreateShipment", Fault::TimesOut, usize::MAX)).await;
    let placed = shop.place("k1", 0, &order("pm_card_ok", "KR")).await;
    let order_id = text(&placed.body, "order_id");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let headers = [("X-Operator", "lee"), ("Idempotency-Key", "s1")];
    let skip = format!("/v1/sagas/checkout-{order_id}:skip");
    let skipped = shop.send(Method::POST, &skip, &headers, r#"{"reason":"booked by phone"}"#).await;
    assert_eq!(skipped.status, StatusCode::OK, "{}", skipped.body);
    tokio::time::sleep(Duration::from_secs(62)).await;
    let found = broken(&look(&shop).await);
    let [(number, findings)] = &found[..] else { panic!("{found:?}") };
    let said = "the order was confirmed, and nothing tells that the parcel got its label";
    assert_eq!((number.as_str(), text(&findings[0], "sentence")), ("I-4", said));
}

/// The auditor dies at each of its writes, before and after it took effect and before anything was acknowledged: what comes
/// again counts once.
#[tokio::test(start_paused = true)]
async fn killed_between_write_and_acknowledgement_it_counts_nothing_twice() {
    let mut deaths = 0;
    for after_the_effect in [false, true] {
        for commit in 1.. {
            let (world, life) = (world(commit as u64), Mortal::dies_at(commit, after_the_effect));
            let stores = Stores { auditor: life.store(&world.stores.auditor), ..world.stores.clone() };
            let mortal = World { stores, pace: PACE, clock: world.clock.clone() };
            let shop = mortal.shop().await;
            let placed = shop.place("k1", 10, &order("pm_card_ok", "KR")).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let refused = shop.place("k2", 10, &order("pm_card_ok", "AQ")).await;
            shop.ended(text(&placed.body, "order_id")).await;
            shop.ended(text(&refused.body, "order_id")).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            shop.process.tasks.drain(Duration::ZERO).await;

            let shop = world.shop().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let killed = format!("killed at write {commit}, after the effect: {after_the_effect}");
            let books = caught_up(&shop).await;
            assert_eq!((broken(&books), &books["orders_under_way"]), (vec![], &json!(0)), "{killed}");
            for (sku, taken) in [(TEA.0, 2), (RICE.0, 1)] {
                let shelf = format!("shelf-{sku}").as_str().into();
                let version = world.stores.auditor.version(&shelf).await.unwrap();
                let last = world.stores.auditor.load(&shelf, version - 1, 1).await.unwrap().remove(0);
                let data: Value = serde_json::from_str(&last.event.data).unwrap();
                assert_eq!(
                    (&data["shelf"]["taken"], &data["shelf"]["received"]),
                    (&json!(taken), &json!(500)),
                    "{killed}"
                );
            }
            shop.process.tasks.drain(Duration::ZERO).await;
            if !life.is_dead() {
                break;
            }
            deaths += 1;
        }
    }
    assert!(deaths >= 8, "it died {deaths} times");
}
