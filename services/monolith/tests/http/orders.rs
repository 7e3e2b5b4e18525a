//! What becomes of orders.
use futures::future::join_all;
use http::StatusCode;
use serde_json::json;

use crate::shop::{Client, text};

#[tokio::test]
async fn a_good_order_is_confirmed_shipped_and_delivered() {
    let client = Client::new("kim");
    let product = client.product("GOOD", 10).await;
    let placed = client.place(&client.key(), 20, &product.order(3, "pm_card_ok", "KR")).await;
    assert_eq!((placed.status, placed.text("status")), (StatusCode::CREATED, "ORDER_STATUS_CONFIRMED"));
    let id = placed.text("order_id");
    assert_eq!(placed.headers["location"], format!("/v1/orders/{id}"));
    assert_eq!((product.available(&client).await, &placed.body["total"]), (7, &json!(21_000)));
    client.order(id, "ORDER_STATUS_DELIVERED").await;
    assert_eq!(product.available(&client).await, 7);
    let trail = client.get(&format!("/v1/orders/{id}/events")).await.body;
    let told: Vec<_> = trail["events"].as_array().unwrap().iter().map(|event| text(event, "type")).collect();
    assert_eq!(told, ["OrderPlaced", "OrderConfirmed", "OrderShipped", "OrderDelivered"]);
    let as_it_was = client.get(&format!("/v1/orders/{id}?at_version=1")).await;
    assert_eq!(as_it_was.text("status"), "ORDER_STATUS_PLACED");
}

#[tokio::test]
async fn what_cannot_be_paid_or_sent_is_rejected_and_nothing_is_kept() {
    for (method, country, reason) in [
        ("pm_card_declined", "KR", "card_declined"),
        ("pm_card_insufficient_funds", "KR", "insufficient_funds"),
        ("pm_card_ok", "AQ", "country_not_served"),
    ] {
        let client = Client::new("kim");
        let product = client.product("BAD", 2).await;
        let placed = client.place(&client.key(), 20, &product.order(2, method, country)).await;
        assert_eq!(placed.text("status"), "ORDER_STATUS_REJECTED", "{placed:?}");
        assert_eq!(text(&placed.body["rejection"], "reason"), reason);
        assert_eq!(product.available(&client).await, 2, "{reason}: the goods are back");
    }
}

#[tokio::test]
async fn cards_that_answer_late_never_or_twice_are_charged_once() {
    join_all(["pm_card_slow", "pm_card_lost_reply", "pm_card_twice"].map(async |method| {
        let client = Client::new("kim");
        let product = client.product("CARD", 1).await;
        let placed = client.place(&client.key(), 0, &product.order(1, method, "KR")).await;
        client.order(placed.text("order_id"), "ORDER_STATUS_DELIVERED").await;
    }))
    .await;
}

#[tokio::test]
async fn the_same_key_is_the_same_order_through_any_replica() {
    let client = Client::new("kim");
    let product = client.product("KEY", 100).await;
    let (key, body) = (client.key(), product.order(1, "pm_card_ok", "KR"));
    let answers = join_all((0..8).map(|_| client.place(&key, 20, &body))).await;
    for answer in &answers {
        assert_eq!((answer.status, answer.text("order_id")), (StatusCode::CREATED, answers[0].text("order_id")));
    }
    let other = client.place(&key, 0, &product.order(2, "pm_card_ok", "KR")).await;
    assert_eq!((other.status, other.text("reason")), (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused"));
    assert_eq!(product.available(&client).await, 99);
}

#[tokio::test]
async fn five_pieces_are_sold_five_times_however_many_want_one() {
    let client = Client::new("crowd");
    let product = client.product("SCARCE", 5).await;
    let body = product.order(1, "pm_card_ok", "KR");
    let answers = join_all((0..24).map(async |_| client.place(&client.key(), 30, &body).await)).await;
    let confirmed = answers.iter().filter(|answer| answer.text("status") == "ORDER_STATUS_CONFIRMED").count();
    assert_eq!((confirmed, product.available(&client).await), (5, 0));
    let rejected = answers.iter().filter(|answer| answer.text("status") == "ORDER_STATUS_REJECTED");
    for answer in rejected {
        assert_eq!(text(&answer.body["rejection"], "reason"), "out_of_stock", "{answer:?}");
    }
}

#[tokio::test]
async fn an_order_is_called_off_before_it_leaves_and_not_after() {
    let client = Client::new("kim");
    let product = client.product("OFF", 2).await;
    let early = client.place(&client.key(), 0, &product.order(1, "pm_card_slow", "KR")).await;
    let accepted = client.cancel(&client.key(), early.text("order_id"), 0).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED, "{accepted:?}");
    client.order(early.text("order_id"), "ORDER_STATUS_CANCELLED").await;
    let late = client.place(&client.key(), 20, &product.order(1, "pm_card_ok", "KR")).await;
    client.order(late.text("order_id"), "ORDER_STATUS_DELIVERED").await;
    let refused = client.cancel(&client.key(), late.text("order_id"), 0).await;
    assert_eq!((refused.status, refused.text("reason")), (StatusCode::UNPROCESSABLE_ENTITY, "too_late"));
    assert_eq!(product.available(&client).await, 1);
}

#[tokio::test]
async fn a_price_that_changed_is_no_surprise() {
    let client = Client::new("kim");
    let product = client.product("PRICE", 5).await;
    let changed = client.act(&format!("/v1/products/{}:price", product.sku), &json!({"unit_price": 9_000})).await;
    assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
    let stale = client.place(&client.key(), 20, &product.order(1, "pm_card_ok", "KR")).await;
    assert_eq!(stale.status, StatusCode::UNPROCESSABLE_ENTITY, "{stale:?}");
    assert!(stale.body.to_string().contains("9000"), "it says the new price: {stale:?}");
    assert_eq!(product.available(&client).await, 5);
}

#[tokio::test]
async fn an_order_is_followed_to_its_end() {
    let client = Client::new("kim");
    let product = client.product("WATCH", 1).await;
    let placed = client.place(&client.key(), 0, &product.order(1, "pm_card_ok", "KR")).await;
    let stream = client.get(&format!("/v1/orders/{}:watch", placed.text("order_id"))).await;
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    let told: Vec<_> = stream.body.as_str().unwrap().lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(told, ["OrderPlaced", "OrderConfirmed", "OrderShipped", "OrderDelivered"]);
}

#[tokio::test]
async fn what_is_malformed_is_refused_by_field_and_changes_nothing() {
    let client = Client::new("kim");
    let product = client.product("STRICT", 5).await;
    let good = product.order(1, "pm_card_ok", "KR");
    let with = |pointer: &str, value: serde_json::Value| {
        let mut body = good.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    for (body, named) in [
        (with("/lines/0/quantity", json!(0)), "quantity"),
        (with("/lines/0/sku", json!("NO SUCH")), "sku"),
        (with("/payment_method", json!("pm_nothing")), "payment_method"),
        (with("/shipping_address/country", json!("Korea")), "country"),
        (json!({"lines": []}), "lines"),
        (json!({"colour": "red"}), "colour"),
    ] {
        let refused = client.place(&client.key(), 0, &body).await;
        assert!(refused.status.is_client_error() && refused.body.to_string().contains(named), "{named}: {refused:?}");
    }
    let headers = [("X-Customer-Id", client.name.as_str())];
    let keyless = client.send(http::Method::POST, "/v1/orders", &headers, good.to_string()).await;
    assert_eq!(keyless.status, StatusCode::BAD_REQUEST, "{keyless:?}");
    assert_eq!(client.get("/v1/orders").await.body["orders"], json!([]));
    assert_eq!(product.available(&client).await, 5);
}
