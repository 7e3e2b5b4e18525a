//! Who asks, under which key, in which trace, and for how long.
use std::time::Duration;

use http::Method;
use resilience::deadline;

use crate::shop::{Answer, ORDER, World};

async fn place(world: &World, headers: &[(&str, &str)]) -> Answer {
    world.send(Method::POST, "/v1/orders", headers, ORDER).await
}

fn time_left(world: &World) -> Duration {
    deadline::decode(&world.shop.last().metadata["grpc-timeout"].parse().unwrap()).unwrap()
}

#[tokio::test]
async fn who_asks_reaches_the_service() {
    let world = World::new();
    place(&world, &[("Idempotency-Key", "k-1")]).await;
    let metadata = world.shop.last().metadata;
    assert_eq!((metadata["customer-id"].as_str(), metadata["actor"].as_str()), ("demo", "customer:demo"));
    assert!(metadata["command-id"].starts_with("idem-") && metadata["command-id"].len() <= 160);
    world.send(Method::GET, "/v1/orders", &[("X-Customer-Id", "Kim_1-2"), ("X-Operator", "eve")], "").await;
    let metadata = world.shop.last().metadata;
    assert_eq!((metadata["customer-id"].as_str(), metadata["actor"].as_str()), ("Kim_1-2", "customer:Kim_1-2"));
    assert!(!metadata.contains_key("command-id"), "a GET has none");
}

#[tokio::test]
async fn malformed_names_are_refused_by_name() {
    let long = "x".repeat(65);
    for bad in ["", " ", "a b", "a:b", "김", "a/b", &long] {
        let world = World::new();
        let answer = world.send(Method::GET, "/v1/orders", &[("X-Customer-Id", bad)], "").await;
        world.refused_here(&answer, 400, "invalid", "X-Customer-Id");
        let headers = [("X-Operator", bad), ("Idempotency-Key", "k")];
        let answer = world.send(Method::POST, "/v1/products/TEA-1:price", &headers, r#"{"unit_price":1}"#).await;
        world.refused_here(&answer, 400, "invalid", "X-Operator");
    }
    let world = World::new();
    let twice = [("X-Customer-Id", "a"), ("X-Customer-Id", "b")];
    let answer = world.send(Method::GET, "/v1/orders", &twice, "").await;
    world.refused_here(&answer, 400, "invalid", "X-Customer-Id");
}

#[tokio::test]
async fn what_is_for_operators_needs_one() {
    for (path, body) in [
        ("/v1/products", r#"{"sku":"TEA-1"}"#),
        ("/v1/products/TEA-1:receive", r#"{"quantity":1}"#),
        ("/v1/products/TEA-1:price", r#"{"unit_price":1}"#),
    ] {
        let world = World::new();
        let answer = world.post(path, body).await;
        world.refused_here(&answer, 403, "operator_required", "X-Operator");
        assert_eq!(answer.json()["code"], "PERMISSION_DENIED");
        let headers = [("X-Operator", "lee"), ("Idempotency-Key", "k")];
        let answer = world.send(Method::POST, path, &headers, body).await;
        assert!(answer.status < 300, "{answer:?}");
        let metadata = world.shop.last().metadata;
        assert_eq!((metadata["actor"].as_str(), metadata.get("customer-id")), ("operator:lee", None));
    }
}

#[tokio::test]
async fn every_post_needs_a_key_and_keys_have_a_form() {
    let long = "k".repeat(101);
    let none: &[(&str, &str)] = &[];
    let keys = ["", "a b", "키", "a\tb", &long].map(|key| [("Idempotency-Key", key)]);
    for headers in keys.iter().map(|header| header.as_slice()).chain([none]) {
        let world = World::new();
        let answer = place(&world, headers).await;
        world.refused_here(&answer, 400, "invalid", "Idempotency-Key");
        let cancel = world.send(Method::POST, "/v1/orders/o-1:cancel", headers, "").await;
        world.refused_here(&cancel, 400, "invalid", "Idempotency-Key");
    }
    let longest = "~".repeat(100);
    assert_eq!(place(&World::new(), &[("Idempotency-Key", &longest)]).await.status, 201);
}

#[tokio::test]
async fn the_command_id_is_the_same_for_the_same_caller_route_and_key_and_no_other() {
    let world = World::new();
    let mut ids = Vec::new();
    let id_of = |path: &'static str, headers: Vec<(&'static str, &'static str)>| {
        let world = &world;
        async move {
            let body = if path == "/v1/orders" { ORDER } else { "{}" };
            world.send(Method::POST, path, &headers, body).await;
            world.shop.last().metadata["command-id"].clone()
        }
    };
    for (path, headers) in [
        ("/v1/orders", vec![("Idempotency-Key", "k-1")]),
        ("/v1/orders", vec![("Idempotency-Key", "k-2")]),
        ("/v1/orders", vec![("Idempotency-Key", "k-1"), ("X-Customer-Id", "kim")]),
        ("/v1/orders/o-1:cancel", vec![("Idempotency-Key", "k-1")]),
        ("/v1/orders/o-2:cancel", vec![("Idempotency-Key", "k-1")]),
        ("/v1/products", vec![("Idempotency-Key", "k-1"), ("X-Operator", "demo")]),
        ("/v1/products/o-1:price", vec![("Idempotency-Key", "k-1"), ("X-Operator", "demo")]),
        ("/v1/products/o-1:receive", vec![("Idempotency-Key", "k-1"), ("X-Operator", "demo")]),
        ("/v1/products/o-1:receive", vec![("Idempotency-Key", "k-1"), ("X-Operator", "lee")]),
    ] {
        let id = id_of(path, headers.clone()).await;
        assert_eq!(id, id_of(path, headers).await, "the same again");
        ids.push(id);
    }
    assert_eq!(ids[3], id_of("/v1/orders/o%2D1:cancel", vec![("Idempotency-Key", "k-1")]).await, "another spelling");
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "{ids:#?}");
}

#[tokio::test]
async fn a_wait_travels_extends_the_deadline_and_is_confirmed() {
    let world = World::new();
    let answer = place(&world, &[("Idempotency-Key", "k"), ("Prefer", "respond-async, wait=5")]).await;
    assert_eq!(answer.header("preference-applied"), "wait=5");
    assert_eq!(world.shop.last().metadata["prefer-wait"], "5");
    assert!(time_left(&world) > Duration::from_secs(14) && time_left(&world) <= Duration::from_secs(15));
    let answer = place(&world, &[("Idempotency-Key", "k"), ("Prefer", "wait=3600")]).await;
    assert_eq!(
        (answer.header("preference-applied"), world.shop.last().metadata["prefer-wait"].as_str()),
        ("wait=30", "30")
    );
    for ignored in ["wait=soon", "wait=-1", "wait", "return=minimal"] {
        let answer = place(&world, &[("Idempotency-Key", "k"), ("Prefer", ignored)]).await;
        assert_eq!((answer.status, answer.header("preference-applied")), (201, ""));
        assert!(!world.shop.last().metadata.contains_key("prefer-wait"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_body_used_of_the_time_is_gone_for_the_service() {
    let world = World::new();
    world.post("/v1/orders", ORDER).await;
    assert!(time_left(&world) > Duration::from_millis(9_900) && time_left(&world) <= Duration::from_secs(10));
    let slow = futures::stream::once(async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        Ok::<_, std::convert::Infallible>(http_body::Frame::data(bytes::Bytes::from(ORDER)))
    });
    let request = http::Request::post("/v1/orders").header("Idempotency-Key", "k");
    let answer = world.answer(request.body(http_body_util::StreamBody::new(slow)).unwrap()).await;
    assert_eq!(answer.status, 201);
    assert!(time_left(&world) > Duration::from_millis(5_900) && time_left(&world) <= Duration::from_secs(6));
}

#[tokio::test]
async fn a_trace_goes_through_and_a_malformed_one_is_replaced() {
    let world = World::new();
    let theirs = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let answer = world.send(Method::GET, "/v1/orders", &[("traceparent", theirs)], "").await;
    let ours = answer.header("traceparent");
    assert!(ours.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && ours != theirs, "a span of our own: {ours}");
    assert_eq!(world.shop.last().metadata["traceparent"], ours);
    let answer = world.send(Method::GET, "/v1/orders", &[("traceparent", "00-zz")], "").await;
    assert!(telemetry::trace::Trace::parse(answer.header("traceparent")).is_some());
    assert_eq!(world.shop.last().metadata["traceparent"], answer.header("traceparent"));
}

#[tokio::test]
async fn a_wait_is_applied_only_where_there_is_something_to_wait_for() {
    let world = World::new();
    let prefer = [("Prefer", "wait=5")];
    let heeded = world.send(http::Method::GET, "/v1/orders/o-1", &prefer, "").await;
    assert_eq!(heeded.header("preference-applied"), "wait=5");
    for path in ["/v1/products", "/v1/products/TEA-1", "/v1/orders"] {
        let answer = world.send(http::Method::GET, path, &prefer, "").await;
        assert_eq!((answer.status, answer.header("preference-applied")), (200, ""), "{path}");
    }
}
