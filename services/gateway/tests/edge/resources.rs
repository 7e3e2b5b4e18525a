//! What is asked for and answered: routes, resources, pages.
use http::Method;
use serde_json::json;

use crate::shop::{Next, ORDER, World};

#[tokio::test]
async fn a_new_order_is_answered_bare_with_201_and_its_location() {
    let world = World::new();
    let answer = world.post("/v1/orders", ORDER).await;
    assert_eq!((answer.status, answer.header("content-type")), (201, "application/json"), "{answer:?}");
    assert_eq!(answer.header("location"), "/v1/orders/o%2F1%20%EC%9E%A5", "one segment, whatever the id holds");
    assert_eq!(answer.json()["order_id"], "o/1 장");
    let seen = world.shop.last();
    assert_eq!(seen.rpc, "PlaceOrder");
    assert!(seen.message.contains(r#"sku: "TEA-1", quantity: 2, unit_price: 9000"#), "{}", seen.message);
}

#[tokio::test]
async fn defaults_are_printed_large_numbers_are_numbers_and_what_is_absent_is_absent() {
    let world = World::new();
    let answer = world.get("/v1/orders/o-1").await;
    assert_eq!(answer.status, 200);
    let expected = json!({
        "order_id": "o-1", "customer_id": "demo", "status": "ORDER_STATUS_PLACED",
        "cancellation": "CANCELLATION_UNSPECIFIED", "lines": [], "total": 9_007_199_254_740_991_i64, "currency": "KRW",
        "placed_at": "2026-01-02T03:04:05.000006Z", "version": 0,
    });
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn a_query_reaches_the_service_and_a_page_is_answered_whole() {
    let world = World::new();
    let answer = world.get("/v1/orders?status=ORDER_STATUS_PLACED&page_size=5&page_token=a%2Bb+c").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        (answer.json()["orders"][0]["order_id"].clone(), answer.json()["next_page_token"].clone()),
        (json!("o-1"), json!(""))
    );
    let message = world.shop.last().message;
    assert!(message.contains(r#"status: Placed, page_size: Some(5), page_token: "a+b c""#), "{message}");
    world.get("/v1/products?page_size=0").await;
    assert!(world.shop.last().message.contains("page_size: Some(0)"), "zero is not absent");
    world.get("/v1/products").await;
    assert!(world.shop.last().message.contains("page_size: None"), "absent is not zero");
}

#[tokio::test]
async fn a_verb_reaches_its_rpc_and_needs_no_body_when_the_path_says_everything() {
    let world = World::new();
    for body in ["", "{}", r#"{"order_id":"o-7"}"#] {
        let answer = world.post("/v1/orders/o-7:cancel", body).await;
        assert_eq!((answer.status, answer.header("location")), (202, ""), "{answer:?}");
        let seen = world.shop.last();
        assert_eq!((seen.rpc, seen.message.as_str()), ("CancelOrder", r#"CancelOrderRequest { order_id: "o-7" }"#));
    }
}

#[tokio::test]
async fn path_variables_are_decoded_once() {
    let world = World::new();
    for (path, id) in [("a%3Acancel", "a:cancel"), ("%EC%9E%A5", "장"), ("a%252Fb", "a%2Fb"), ("a%2F..%2Fb", "a/../b")]
    {
        world.get(&format!("/v1/orders/{path}")).await;
        let seen = world.shop.last().message;
        assert!(seen.starts_with(&format!("GetOrderRequest {{ order_id: {id:?},")), "{seen}");
    }
}

#[tokio::test]
async fn a_body_on_a_get_is_ignored() {
    let world = World::new();
    let answer = world.send(Method::GET, "/v1/products/TEA-1", &[("Content-Type", "text/plain")], "nonsense").await;
    assert_eq!((answer.status, world.shop.last().rpc), (200, "GetProduct"));
}

#[tokio::test]
async fn head_is_get_without_the_body_and_other_methods_learn_what_is_allowed() {
    let world = World::new();
    let (get, head) = (world.get("/v1/orders/o-1").await, world.send(Method::HEAD, "/v1/orders/o-1", &[], "").await);
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), get.text.len().to_string());
    for (method, path, allow) in [
        (Method::OPTIONS, "/v1/orders", "GET, HEAD, POST"),
        (Method::DELETE, "/v1/orders/o-1", "GET, HEAD"),
        (Method::GET, "/v1/orders/o-1:cancel", "POST"),
        (Method::POST, "/healthz", "GET, HEAD"),
    ] {
        let answer = world.send(method, path, &[], "").await;
        assert_eq!((answer.status, answer.header("allow")), (405, allow), "{path}");
        assert_eq!(answer.problem().0, "method_not_allowed");
    }
}

#[tokio::test]
async fn the_process_tells_whether_it_lives_and_what_it_lacks() {
    let world = World::new();
    let alive = world.get("/healthz").await;
    assert_eq!((alive.status, alive.text.as_str()), (200, "ok"));
    assert_eq!(world.get("/readyz").await.status, 200);
    world.process.health.missing("order-store", "the disk is full");
    let unready = world.get("/readyz").await;
    assert_eq!((unready.status, unready.header("retry-after")), (503, "1"));
    assert_eq!(unready.problem().0, "not_ready");
    assert_eq!(unready.json()["facts"]["order-store"], "the disk is full");
    assert_eq!(world.get("/healthz").await.status, 200, "alive all the same");
}

#[tokio::test]
async fn metrics_tell_routes_apart_and_strangers_add_no_labels() {
    let world = World::new();
    world.get("/v1/orders/o-1").await;
    world.get("/v1/orders/o-2").await;
    world.post("/v1/orders", ORDER).await;
    for n in 0..20 {
        world.get(&format!("/nothing/{n}")).await;
        world.send(Method::from_bytes(format!("M{n}").as_bytes()).unwrap(), "/v1/orders", &[], "").await;
    }
    let text = world.get("/metrics").await.text;
    for line in [
        r#"http_request_seconds_count{outcome="200",route="GET /v1/orders/{order_id}"} 2"#,
        r#"http_request_seconds_count{outcome="201",route="POST /v1/orders"} 1"#,
        r#"http_request_seconds_count{outcome="404",route="unmatched"} 20"#,
        r#"http_request_seconds_count{outcome="405",route="unmatched"} 20"#,
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert_eq!(text.matches("http_request_seconds_count{").count(), 4);
}

#[tokio::test]
async fn an_answer_without_its_resource_is_our_fault() {
    let world = World::new();
    world.shop.next(Next::Nothing);
    let answer = world.post("/v1/orders", ORDER).await;
    assert_eq!((answer.status, answer.problem().0.as_str()), (500, "internal"));
}

/// Everything that the API page refers to is served by the gateway itself.
#[tokio::test]
async fn the_api_page_is_whole() {
    let world = World::new();
    let page = world.get("/docs").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").contains("script-src 'self';"));
    let quoted = page.text.split('"').filter(|text| text.starts_with("/docs/"));
    let referred: Vec<_> = quoted.map(str::to_owned).collect();
    assert_eq!(referred.len(), 3);
    assert!(!page.text.contains("//"), "nothing from elsewhere");
    for path in referred {
        let asset = world.get(&path).await;
        assert_eq!(asset.status, 200, "{path}");
        assert!(asset.text.len() > 50 && asset.header("content-type").starts_with("text/"), "{path}");
        let head = world.send(http::Method::HEAD, &path, &[], "").await;
        assert_eq!((head.header("content-length"), head.text.len()), (asset.text.len().to_string().as_str(), 0));
    }
    assert!(world.get("/docs/start.js").await.text.contains("/openapi.json"));
    assert_eq!(world.post("/docs", "{}").await.status, 405);
    assert_eq!(world.get("/docs/other.js").await.status, 404);
}
