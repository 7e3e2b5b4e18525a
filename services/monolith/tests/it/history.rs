//! What happened to an order, and what it was.
use std::time::Duration;

use crate::harness::{Running, World, order, text};
use http::{Method, StatusCode};
use serde_json::{Value, json};

/// An order that is placed, confirmed a while later, and called off a while after that.
async fn eventful(shop: &Running) -> (String, Vec<Value>) {
    let placed = shop.place("k1", 0, &order("pm_card_slow", "KR")).await;
    let order_id = text(&placed.body, "order_id").to_owned();
    shop.settled(&order_id).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(shop.cancel("c1", &order_id, 0).await.status, StatusCode::ACCEPTED);
    shop.settled(&order_id).await;
    let events = shop.get(&format!("/v1/orders/{order_id}/events")).await;
    assert_eq!(events.status, StatusCode::OK, "{}", events.body);
    (order_id, events.body["events"].as_array().unwrap().clone())
}

#[tokio::test(start_paused = true)]
async fn the_audit_trail_says_what_happened_when_and_who_asked_for_it() {
    let world = World::new();
    let shop = world.shop().await;
    let (order_id, events) = eventful(&shop).await;
    let said: Vec<_> = events.iter().map(|event| (event["version"].as_i64().unwrap(), text(event, "type"))).collect();
    let expected =
        [(1, "OrderPlaced"), (2, "OrderConfirmed"), (3, "OrderCancellationRequested"), (4, "OrderCancelled")];
    assert_eq!(said, expected);
    let actors: Vec<_> = events.iter().map(|event| text(event, "actor")).collect();
    let (checkout, cancellation) = (format!("saga:checkout-{order_id}"), format!("saga:cancellation-{order_id}"));
    assert_eq!(actors, ["customer:demo", &checkout, "customer:demo", &cancellation]);
    assert_eq!(events[0]["data"]["details"]["lines"][0]["quantity"], json!(2));
    assert_eq!(text(&events[0]["data"]["details"], "currency"), "KRW");
    let recorded: Vec<_> = events.iter().map(|event| text(event, "recorded_at")).collect();
    assert!(recorded.is_sorted() && events.iter().all(|event| text(event, "trace_id").len() == 32));
}

#[tokio::test(start_paused = true)]
async fn an_order_is_shown_as_it_was_at_every_version_and_at_every_moment() {
    let world = World::new();
    let shop = world.shop().await;
    let (order_id, events) = eventful(&shop).await;
    let was = async |asked: &str| shop.get(&format!("/v1/orders/{order_id}?{asked}")).await;
    let expected = [
        ("ORDER_STATUS_PLACED", "CANCELLATION_UNSPECIFIED"),
        ("ORDER_STATUS_CONFIRMED", "CANCELLATION_UNSPECIFIED"),
        ("ORDER_STATUS_CONFIRMED", "CANCELLATION_REQUESTED"),
        ("ORDER_STATUS_CANCELLED", "CANCELLATION_DONE"),
    ];
    for (n, (status, cancellation)) in expected.into_iter().enumerate() {
        let by_version = was(&format!("at_version={}", n + 1)).await.body;
        assert_eq!((text(&by_version, "status"), text(&by_version, "cancellation")), (status, cancellation));
        assert_eq!(by_version["version"], json!(n + 1));
        // Several may have been recorded in one moment: then the last of them is what it was.
        let moment = text(&events[n], "recorded_at");
        let last = events.iter().filter(|event| text(event, "recorded_at") <= moment).count();
        assert_eq!(was(&format!("at_time={moment}")).await.body["version"], json!(last), "{moment}");
    }
    assert_eq!(was("at_version=4").await.body, was("").await.body, "the present is the last version");
    assert_eq!(was("at_time=2999-01-01T00:00:00Z").await.body, was("").await.body);
}

#[tokio::test(start_paused = true)]
async fn what_was_never_so_is_refused_and_others_see_nothing() {
    let world = World::new();
    let shop = world.shop().await;
    let (order_id, _) = eventful(&shop).await;
    for (asked, status, field) in [
        ("at_version=0", 400, Some("at_version")),
        ("at_version=5", 400, Some("at_version")),
        ("at_version=-1", 400, Some("at_version")),
        ("at_version=9223372036854775808", 400, Some("at_version")),
        ("at_version=1&at_time=2027-01-01T00:00:00Z", 400, Some("at_time")),
        ("at_time=yesterday", 400, Some("at_time")),
        ("at_time=2001-01-01T00:00:00Z", 404, None),
        ("at_time=0001-01-01T00:00:00Z", 404, None),
    ] {
        let answer = shop.get(&format!("/v1/orders/{order_id}?{asked}")).await;
        assert_eq!(answer.status.as_u16(), status, "{asked}: {}", answer.body);
        assert_eq!(answer.body["field"].as_str(), field, "{asked}: {}", answer.body);
    }
    let other = [("X-Customer-Id", "someone-else")];
    for path in [format!("/v1/orders/{order_id}/events"), format!("/v1/orders/{order_id}?at_version=1")] {
        assert_eq!(shop.send(Method::GET, &path, &other, "").await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(shop.get("/v1/orders/nonsense/events").await.status, StatusCode::BAD_REQUEST);
}
