//! From confirmed to delivered: services that react to each other's facts, with nobody in charge.
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use messaging::memory::Memory;
use monolith::shop::{Pace, Stores};
use order::order::Status;

use crate::audit;
use crate::books;
use crate::harness::{Running, TEA, World, order, text};

const PACE: Pace = Pace { pick_up: Duration::from_secs(5), transit: Duration::from_secs(5) };

/// A shop whose bus repeats, delays and mixes.
fn world(seed: u64) -> World {
    let world = World::new();
    World { pace: PACE, stores: Stores { bus: Arc::new(Memory::new(seed)), ..world.stores.clone() }, ..world }
}

async fn confirmed(shop: &Running, key: &str) -> String {
    let placed = shop.place(key, 30, &order("pm_card_ok", "KR")).await;
    assert_eq!(text(&placed.body, "status"), "ORDER_STATUS_CONFIRMED");
    text(&placed.body, "order_id").to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_order_is_shipped_and_delivered_once_and_its_goods_leave_the_books() {
    let world = world(1);
    let shop = world.shop().await;
    let before = shop.available(TEA.0).await;
    let id = confirmed(&shop, "k1").await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    let shipped = shop.get(&format!("/v1/orders/{id}")).await;
    assert_eq!(text(&shipped.body, "status"), "ORDER_STATUS_SHIPPED");
    shop.ended(&id).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(shop.available(TEA.0).await, before - 2);
    assert_eq!(books::balance(&world.stores).await.into_values().collect::<Vec<_>>(), [Status::Delivered]);
    assert_eq!(books::armed(&world.stores).await, 0);
    world.is_clean().await;

    let trail = shop.get(&format!("/v1/orders/{id}/events")).await.body;
    let told: Vec<_> = trail["events"].as_array().unwrap().iter().map(|event| text(event, "type")).collect();
    assert_eq!(told, ["OrderPlaced", "OrderConfirmed", "OrderShipped", "OrderDelivered"]);
    assert_eq!(text(&trail["events"][2], "actor"), "service:order");
    let traces: Vec<_> = trail["events"].as_array().unwrap().iter().map(|event| text(event, "trace_id")).collect();
    assert!(
        traces.iter().all(|trace| *trace == traces[0] && trace.len() == 32),
        "one trace from end to end: {traces:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_shipped_is_too_late_to_call_off() {
    let world = world(2);
    let shop = world.shop().await;
    let id = confirmed(&shop, "k1").await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    let refused = shop.cancel("c1", &id, 30).await;
    assert_eq!((refused.status, text(&refused.body, "reason")), (StatusCode::UNPROCESSABLE_ENTITY, "too_late"));
    assert_eq!(text(&shop.ended(&id).await, "status"), "ORDER_STATUS_DELIVERED");
}

/// The carrier decides who was first; order, money, goods and parcel all follow it.
#[tokio::test(start_paused = true)]
async fn a_cancel_racing_the_pick_up_has_one_winner() {
    let (mut delivered, mut cancelled) = (0, 0);
    for millis in (4_700..5_400).step_by(20) {
        let world = world(millis);
        let shop = world.shop().await;
        let id = confirmed(&shop, "k1").await;
        tokio::time::sleep(Duration::from_millis(millis)).await;
        let asked = shop.cancel("c1", &id, 30).await;
        let order = shop.ended(&id).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        let end = books::balance(&world.stores).await.into_values().next().unwrap();
        match (asked.status, text(&order, "cancellation"), end) {
            (StatusCode::ACCEPTED, "CANCELLATION_DONE", Status::Cancelled) => cancelled += 1,
            (StatusCode::ACCEPTED, "CANCELLATION_TOO_LATE", Status::Delivered)
            | (StatusCode::UNPROCESSABLE_ENTITY, _, Status::Delivered) => delivered += 1,
            other => panic!("after {millis} ms: {other:?}"),
        }
        assert_eq!(books::open_sagas(&world.stores).await, Vec::<String>::new());
        assert_eq!(audit::findings(&world.stores, world.clock.now()).await, []);
    }
    assert!(delivered > 0 && cancelled > 0, "{delivered} delivered, {cancelled} cancelled");
}

#[tokio::test(start_paused = true)]
async fn what_was_confirmed_before_a_restart_is_delivered_after_it() {
    let world = world(3);
    let shop = world.shop().await;
    let ids = [confirmed(&shop, "k1").await, confirmed(&shop, "k2").await];
    shop.process.tasks.drain(Duration::ZERO).await;
    let shop = world.shop().await;
    for id in ids {
        assert_eq!(text(&shop.ended(&id).await, "status"), "ORDER_STATUS_DELIVERED");
    }
    assert_eq!(books::balance(&world.stores).await.len(), 2);
    world.is_clean().await;
}
