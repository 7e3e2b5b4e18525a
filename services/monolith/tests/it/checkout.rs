//! One order through the whole shop.
use crate::books;
use crate::faults::{Fault, Plan};
use crate::harness::{RICE, Running, TEA, World, order, text};
use http::{Method, StatusCode};
use order::order::Status;
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_good_order_is_confirmed_and_everything_is_done_once() {
    let world = World::new();
    let shop = world.shop().await;
    let before = shop.available(TEA.0).await;
    let answer = shop.place("k1", 10, &order("pm_card_ok", "KR")).await;
    assert_eq!((answer.status, text(&answer.body, "status")), (StatusCode::CREATED, "ORDER_STATUS_CONFIRMED"));
    assert_eq!(answer.body["total"], json!(2 * TEA.1 + RICE.1));
    assert_eq!(answer.headers["location"], format!("/v1/orders/{}", text(&answer.body, "order_id")));
    assert_eq!(shop.available(TEA.0).await, before - 2);
    let orders = books::balance(&world.stores).await;
    assert_eq!(orders.into_values().collect::<Vec<_>>(), [Status::Confirmed]);
}

#[tokio::test(start_paused = true)]
async fn a_declined_card_releases_the_goods() {
    for (method, reason) in
        [("pm_card_declined", "card_declined"), ("pm_card_insufficient_funds", "insufficient_funds")]
    {
        let world = World::new();
        let shop = world.shop().await;
        let answer = shop.place("k1", 10, &order(method, "KR")).await;
        assert_eq!(text(&answer.body, "status"), "ORDER_STATUS_REJECTED");
        assert_eq!(text(&answer.body["rejection"], "reason"), reason);
        books::balance(&world.stores).await;
        world.is_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_country_that_is_not_served_gives_money_and_goods_back() {
    let world = World::new();
    let shop = world.shop().await;
    let answer = shop.place("k1", 10, &order("pm_card_ok", "AQ")).await;
    assert_eq!(text(&answer.body, "status"), "ORDER_STATUS_REJECTED");
    assert_eq!(text(&answer.body["rejection"], "reason"), "country_not_served");
    books::balance(&world.stores).await;
    world.is_clean().await;
}

/// Cards that answer late, never, or twice.
#[tokio::test(start_paused = true)]
async fn cards_that_misbehave_are_charged_once_all_the_same() {
    for method in ["pm_card_slow", "pm_card_lost_reply", "pm_card_twice"] {
        let world = World::new();
        let shop = world.shop().await;
        let answer = shop.place("k1", 0, &order(method, "KR")).await;
        let settled = shop.settled(text(&answer.body, "order_id")).await;
        assert_eq!(text(&settled, "status"), "ORDER_STATUS_CONFIRMED", "{method}");
        books::balance(&world.stores).await;
        world.is_clean().await;
    }
}

/// SG-9: the same request twice is one order.
#[tokio::test(start_paused = true)]
async fn the_same_key_is_the_same_order_and_another_body_is_refused() {
    let world = World::new();
    let shop = world.shop().await;
    let body = order("pm_card_ok", "KR");
    let (one, two) = futures::join!(shop.place("k1", 10, &body), shop.place("k1", 10, &body));
    let three = shop.place("k1", 0, &body).await;
    assert_eq!(text(&one.body, "order_id"), text(&two.body, "order_id"));
    assert_eq!(one.body, three.body);
    let reused = shop.place("k1", 0, &order("pm_card_twice", "KR")).await;
    assert_eq!(
        (reused.status, text(&reused.body, "reason")),
        (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused")
    );
    assert_eq!(books::balance(&world.stores).await.len(), 1);
}

async fn cheaper(shop: &Running) {
    let operator = [("X-Operator", "lee"), ("Idempotency-Key", "p1")];
    let path = format!("/v1/products/{}:price", TEA.0);
    let changed = shop.send(Method::POST, &path, &operator, r#"{"unit_price":17000}"#).await;
    assert_eq!(changed.body["unit_price"], json!(17_000));
}

#[tokio::test(start_paused = true)]
async fn a_stale_price_is_refused_at_once_with_the_new_one_and_nothing_is_kept() {
    let world = World::new();
    let shop = world.shop().await;
    cheaper(&shop).await;
    let stale = shop.place("k1", 10, &order("pm_card_ok", "KR")).await;
    assert_eq!((stale.status, text(&stale.body, "reason")), (StatusCode::UNPROCESSABLE_ENTITY, "price_changed"));
    assert_eq!(
        (text(&stale.body, "field"), text(&stale.body["facts"], "unit_price")),
        ("lines[0].unit_price", "17000")
    );
    assert!(books::balance(&world.stores).await.is_empty());
}

/// The check before placing is a courtesy: without it, the reservation is what refuses.
#[tokio::test(start_paused = true)]
async fn a_price_that_changes_on_the_way_rejects_the_order_with_the_new_one() {
    let world = World::new();
    let shop = world.shop_with(&Plan::default().fault("CheckLines", Fault::ReplyLost, 1)).await;
    cheaper(&shop).await;
    let rejected = shop.place("k1", 10, &order("pm_card_ok", "KR")).await;
    assert_eq!((rejected.status, text(&rejected.body, "status")), (StatusCode::CREATED, "ORDER_STATUS_REJECTED"));
    let cause = &rejected.body["rejection"];
    assert_eq!(
        (text(cause, "reason"), text(cause, "sku"), &cause["unit_price"]),
        ("price_changed", TEA.0, &json!(17_000))
    );
    books::balance(&world.stores).await;
    world.is_clean().await;
}

#[tokio::test(start_paused = true)]
async fn goods_that_run_out_are_sold_to_whoever_came_first() {
    let world = World::new();
    let shop = world.shop().await;
    let mut body = order("pm_card_ok", "KR");
    body["lines"][0]["quantity"] = json!(200);
    let keys = ["a", "b", "c", "d"];
    let placed = futures::future::join_all(keys.iter().map(|key| shop.place(key, 20, &body))).await;
    let confirmed = placed.iter().filter(|answer| text(&answer.body, "status") == "ORDER_STATUS_CONFIRMED").count();
    assert_eq!(confirmed, 2, "500 pieces are two times 200 and a rest");
    let short = placed.iter().find(|answer| text(&answer.body, "status") == "ORDER_STATUS_REJECTED").unwrap();
    assert_eq!(text(&short.body["rejection"], "reason"), "out_of_stock");
    assert_eq!(text(&short.body["rejection"], "sku"), TEA.0);
    books::balance(&world.stores).await;
    world.is_clean().await;
}

#[tokio::test(start_paused = true)]
async fn orders_are_listed_newest_first_page_by_page_and_only_to_their_customer() {
    let world = World::new();
    let shop = world.shop().await;
    let mut placed = vec![];
    for n in 0..5 {
        let method = if n % 2 == 0 { "pm_card_ok" } else { "pm_card_declined" };
        placed
            .insert(0, text(&shop.place(&format!("k{n}"), 10, &order(method, "KR")).await.body, "order_id").to_owned());
    }
    let (mut seen, mut token) = (vec![], String::new());
    loop {
        let page = shop.get(&format!("/v1/orders?page_size=2&page_token={token}")).await.body;
        seen.extend(page["orders"].as_array().unwrap().iter().map(|order| text(order, "order_id").to_owned()));
        token = text(&page, "next_page_token").to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, placed);
    let rejected = shop.get("/v1/orders?status=ORDER_STATUS_REJECTED").await.body;
    assert_eq!(rejected["orders"].as_array().unwrap().len(), 2);
    let other = [("X-Customer-Id", "someone-else")];
    let others = shop.send(Method::GET, "/v1/orders", &other, "").await;
    assert_eq!(others.body["orders"], json!([]));
    let path = format!("/v1/orders/{}", placed[0]);
    assert_eq!(shop.send(Method::GET, &path, &other, "").await.status, StatusCode::NOT_FOUND);
    let cancel = shop.send(Method::POST, &format!("{path}:cancel"), &[other[0], ("Idempotency-Key", "x")], "{}").await;
    assert_eq!(cancel.status, StatusCode::NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_order_is_cancelled_with_everything_undone() {
    let world = World::new();
    let shop = world.shop().await;
    let placed = shop.place("k1", 10, &order("pm_card_ok", "KR")).await;
    let order_id = text(&placed.body, "order_id");
    let answer = shop.cancel("c1", order_id, 0).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let settled = shop.settled(order_id).await;
    assert_eq!(
        (text(&settled, "status"), text(&settled, "cancellation")),
        ("ORDER_STATUS_CANCELLED", "CANCELLATION_DONE")
    );
    let again = shop.cancel("c1", order_id, 0).await;
    assert_eq!((again.status, text(&again.body, "status")), (StatusCode::ACCEPTED, "ORDER_STATUS_CANCELLED"));
    let orders = books::balance(&world.stores).await;
    assert_eq!(orders.into_values().collect::<Vec<_>>(), [Status::Cancelled]);
}

#[tokio::test(start_paused = true)]
async fn an_accepted_cancellation_before_confirmation_always_ends_in_cancelled() {
    for (method, country) in [("pm_card_slow", "KR"), ("pm_card_lost_reply", "KR"), ("pm_card_slow", "AQ")] {
        let world = World::new();
        let shop = world.shop().await;
        let placed = shop.place("k1", 0, &order(method, country)).await;
        let order_id = text(&placed.body, "order_id");
        assert_eq!(shop.cancel("c1", order_id, 0).await.status, StatusCode::ACCEPTED);
        let settled = shop.settled(order_id).await;
        assert_eq!(text(&settled, "status"), "ORDER_STATUS_CANCELLED", "{method} {country}");
        books::balance(&world.stores).await;
        world.is_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_order_cannot_be_called_off_and_says_so_again() {
    let world = World::new();
    let shop = world.shop().await;
    let placed = shop.place("k1", 10, &order("pm_card_declined", "KR")).await;
    for _ in 0..2 {
        let refused = shop.cancel("c1", text(&placed.body, "order_id"), 0).await;
        assert_eq!(
            (refused.status, text(&refused.body, "reason")),
            (StatusCode::UNPROCESSABLE_ENTITY, "already_rejected")
        );
    }
}

/// Through HTTP, gRPC, commits and timers: whatever a checkout records anywhere carries the trace of the request.
#[tokio::test(start_paused = true)]
async fn one_checkout_is_one_trace() {
    for method in ["pm_card_ok", "pm_card_slow", "pm_card_lost_reply"] {
        let world = World::new();
        let shop = world.shop().await;
        let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let traceparent = format!("00-{trace_id}-00f067aa0ba902b7-01");
        let headers = [("Idempotency-Key", "k1"), ("traceparent", traceparent.as_str())];
        let placed = shop.send(Method::POST, "/v1/orders", &headers, order(method, "KR").to_string()).await;
        assert_eq!(&placed.headers["traceparent"].to_str().unwrap()[3..35], trace_id);
        let order_id = text(&placed.body, "order_id");
        shop.settled(order_id).await;
        let stores = &world.stores;
        let recorded = [
            (&stores.order, format!("order-{order_id}"), 2),
            (&stores.order, format!("checkout-{order_id}"), 10),
            (&stores.inventory, format!("reservation-{order_id}"), 1),
            (&stores.payment, format!("payment-{order_id}"), 2),
            (&stores.shipping, format!("shipment-{order_id}"), 2),
        ];
        for (store, stream, at_least) in recorded {
            let events = store.load(&stream.as_str().into(), 0, 100).await.unwrap();
            assert!(events.len() >= at_least, "{stream}: {} events", events.len());
            for event in events {
                assert_eq!(event.meta.traceparent.get(3..35), Some(trace_id), "{method} {stream} {}", event.event.kind);
                assert_eq!(event.meta.correlation_id, order_id, "{method} {stream} {}", event.event.kind);
            }
        }
    }
}

/// Sixty-four orders at once for one product: chained, they are all decided once.
#[tokio::test]
async fn everybody_wants_the_same_tea_and_nobody_has_to_try_again() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::on_disk(folder.path());
    let shop = world.shop().await;
    let (body, keys) = (order("pm_card_ok", "KR"), (0..64).map(|n| format!("k{n}")).collect::<Vec<_>>());
    let placed = futures::future::join_all(keys.iter().map(|key| shop.place(key, 20, &body))).await;
    assert!(placed.iter().all(|answer| text(&answer.body, "status") == "ORDER_STATUS_CONFIRMED"));
    let metrics = shop.get("/metrics").await.body;
    let conflicts =
        metrics.as_str().unwrap().lines().find(|line| line.starts_with("inventory_conflicts_total ")).unwrap();
    assert_eq!(conflicts, "inventory_conflicts_total 0");
    books::balance(&world.stores).await;
    world.is_clean().await;
}
