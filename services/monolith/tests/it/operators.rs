//! What operators can do about what is stuck: sagas and dead letters.
use std::time::Duration;

use http::{Method, StatusCode};
use messaging::Message;
use monolith::shop::Pace;
use order::order::Status;
use serde_json::{Value, json};

use crate::books;
use crate::faults::{Fault, Plan};
use crate::harness::{Answer, Running, World, order, text};

async fn look(shop: &Running, path: &str) -> Answer {
    shop.send(Method::GET, path, &[("X-Operator", "lee")], "").await
}

async fn act(shop: &Running, path: &str, key: &str, body: &Value) -> Answer {
    let headers = [("X-Operator", "lee"), ("Idempotency-Key", key)];
    shop.send(Method::POST, path, &headers, body.to_string()).await
}

/// An order whose checkout is stuck at a step that nobody answers.
async fn stuck(plan: &Plan, after: Duration) -> (World, Running, String) {
    let world = World::new();
    let shop = world.shop_with(plan).await;
    let placed = shop.place("k1", 0, &order("pm_card_ok", "KR")).await;
    let order_id = text(&placed.body, "order_id").to_owned();
    tokio::time::sleep(after).await;
    (world, shop, order_id)
}

#[tokio::test(start_paused = true)]
async fn a_saga_stuck_past_its_pivot_is_listed_and_ends_when_an_operator_says_what_is_done() {
    let plan = Plan::default().fault("CreateShipment", Fault::TimesOut, usize::MAX);
    let (world, shop, order_id) = stuck(&plan, Duration::from_secs(120)).await;
    let saga = format!("/v1/sagas/checkout-{order_id}");
    let listed = look(&shop, "/v1/sagas").await.body;
    assert_eq!((text(&listed["sagas"][0], "awaiting"), &listed["next_page_token"]), ("create_shipment", &json!("")));
    let shown = look(&shop, &saga).await.body;
    assert_eq!(text(&shown, "phase"), "SAGA_PHASE_FORWARD");
    assert!(shown["events"][0]["data"].get("data").is_none(), "no address, no payment token: {shown}");

    let calls = plan.calls().len();
    let retried = act(&shop, &format!("{saga}:retry"), "r1", &json!({"reason": "the carrier is back"})).await;
    assert_eq!(retried.status, StatusCode::OK, "{}", retried.body);
    act(&shop, &format!("{saga}:retry"), "r1", &json!({"reason": "the carrier is back"})).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(plan.calls().len(), calls + 1, "the same key acts once");

    let skipped = act(&shop, &format!("{saga}:skip"), "s1", &json!({"reason": "booked by phone"})).await;
    assert_eq!(skipped.status, StatusCode::OK, "{}", skipped.body);
    let order = shop.settled(&order_id).await;
    assert_eq!(text(&order, "status"), "ORDER_STATUS_CONFIRMED");
    assert_eq!(books::open_sagas(&world.stores).await, Vec::<String>::new());
    let trail = look(&shop, &saga).await.body;
    let acted: Vec<_> =
        trail["events"].as_array().unwrap().iter().filter(|event| text(event, "type") == "OperatorActed").collect();
    assert_eq!(acted.len(), 2);
    assert_eq!((text(acted[1], "actor"), text(&acted[1]["data"], "reason")), ("operator:lee", "booked by phone"));
    let late = act(&shop, &format!("{saga}:retry"), "r2", &json!({"reason": "once more"})).await;
    assert_eq!((late.status, text(&late.body, "reason")), (StatusCode::UNPROCESSABLE_ENTITY, "not_possible"));
}

#[tokio::test(start_paused = true)]
async fn a_forced_saga_is_undone() {
    let plan = Plan::default().fault("ChargePayment", Fault::TimesOut, 2);
    let (world, shop, order_id) = stuck(&plan, Duration::from_secs(1)).await;
    let forced = act(&shop, &format!("/v1/sagas/checkout-{order_id}:force"), "f1", &json!({"reason": "fraud"})).await;
    assert_eq!(forced.status, StatusCode::OK, "{}", forced.body);
    let order = shop.settled(&order_id).await;
    assert_eq!(text(&order["rejection"], "reason"), "rejected_by_operator");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(matches!(books::balance(&world.stores).await.into_values().next(), Some(Status::Rejected(_))));
}

#[tokio::test(start_paused = true)]
async fn what_operators_ask_for_is_checked() {
    let (_world, shop, order_id) = stuck(&Plan::default(), Duration::from_secs(1)).await;
    let path = format!("/v1/sagas/checkout-{order_id}:retry");
    let customer = shop.send(Method::POST, &path, &[("Idempotency-Key", "k")], r#"{"reason":"x"}"#).await;
    assert_eq!(customer.status, StatusCode::FORBIDDEN);
    for path in ["/v1/sagas", "/v1/order/dead-letters", "/v1/shipping/dead-letters/order-events.x"] {
        assert_eq!(shop.get(path).await.status, StatusCode::FORBIDDEN, "{path}");
    }
    for (body, status) in [
        (json!({}), StatusCode::BAD_REQUEST),
        (json!({"reason": "x".repeat(201)}), StatusCode::BAD_REQUEST),
        (json!({"reason": "a\0b"}), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(act(&shop, &path, "k", &body).await.status, status, "{body}");
    }
    for saga in ["checkout-", "checkout-x", "order-1", "x", "cancellation-0190b8f1-2c3d-7e4f-8a9b-0c1d2e3f4a5b"] {
        assert_eq!(look(&shop, &format!("/v1/sagas/{saga}")).await.status, StatusCode::NOT_FOUND, "{saga}");
    }
    for id in ["x", "order-events.order-1", "order-events.", "%00"] {
        let path = format!("/v1/shipping/dead-letters/{id}");
        let status = look(&shop, &path).await.status;
        assert!([StatusCode::NOT_FOUND, StatusCode::BAD_REQUEST].contains(&status), "{id}: {status}");
    }
    assert_eq!(look(&shop, "/v1/payment/dead-letters").await.status, StatusCode::NOT_FOUND, "it listens to nobody");
}

/// Junk in the middle of a topic blocks the stream that it claims to be of; the others are delivered.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_seen_given_up_and_redriven() {
    let pace = Pace { pick_up: Duration::from_secs(1), transit: Duration::from_secs(1) };
    let world = World { pace, ..World::new() };
    let shop = world.shop().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let junk = Message { key: "order-junk".into(), headers: vec![("a".into(), "b".into())], payload: vec![0, 255] };
    world.stores.bus.publish("order-events", vec![junk]).await.unwrap();
    let placed = shop.place("k1", 30, &order("pm_card_ok", "KR")).await;
    assert_eq!(text(&shop.ended(text(&placed.body, "order_id")).await, "status"), "ORDER_STATUS_DELIVERED");

    let listed = look(&shop, "/v1/shipping/dead-letters").await.body;
    let letter = &listed["dead_letters"][0];
    assert_eq!((text(letter, "stream"), &letter["waiting"]), ("order-junk", &json!(1)));
    assert_eq!(text(&letter["messages"][0], "reason"), "undecodable");
    assert_eq!(look(&shop, "/v1/order/dead-letters").await.body["dead_letters"], json!([]));
    let path = format!("/v1/shipping/dead-letters/{}", text(letter, "dead_letter_id"));
    let redriven = act(&shop, &format!("{path}:redrive"), "d1", &json!({"reason": "try"})).await;
    assert_eq!((redriven.status, text(&redriven.body, "reason")), (StatusCode::UNPROCESSABLE_ENTITY, "undecodable"));
    let skipped = act(&shop, &format!("{path}:skip"), "d2", &json!({"reason": "junk"})).await;
    assert_eq!((skipped.status, &skipped.body["waiting"]), (StatusCode::OK, &json!(0)), "{}", skipped.body);
    assert_eq!(look(&shop, &path).await.status, StatusCode::NOT_FOUND);
    assert!(shop.get("/metrics").await.body.as_str().unwrap().contains("messages_total"));
}
