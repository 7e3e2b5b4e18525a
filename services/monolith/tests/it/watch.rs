//! An order is followed as it goes, and again after the connection broke.
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, BodyStream, Full};
use monolith::shop::Pace;

use crate::harness::{Running, World, order, text};

const PACE: Pace = Pace { pick_up: Duration::from_secs(5), transit: Duration::from_secs(5) };

/// The ids and names of the events that a watcher is sent until the stream ends.
async fn watched(shop: &Running, order_id: &str, last_seen: Option<&str>) -> Vec<(u64, String)> {
    let mut request = Request::get(format!("/v1/orders/{order_id}:watch"));
    if let Some(id) = last_seen {
        request = request.header("Last-Event-ID", id);
    }
    let answer = shop.shop.gateway.handle(request.body(Full::<Bytes>::default()).unwrap()).await;
    assert_eq!(
        (answer.status(), &answer.headers()["content-type"]),
        (StatusCode::OK, &"text/event-stream".parse().unwrap())
    );
    let text = String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let events = text.split("\n\n").filter(|event| event.starts_with("id: "));
    let read = |event: &str| {
        let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        let data: serde_json::Value = serde_json::from_str(&line("data: ")).unwrap();
        assert_eq!(data["type"], line("event: "));
        (line("id: ").parse().unwrap(), line("event: "))
    };
    events.map(read).collect()
}

async fn placed(shop: &Running) -> String {
    text(&shop.place("k1", 0, &order("pm_card_ok", "KR")).await.body, "order_id").to_owned()
}

const WAY: [&str; 4] = ["OrderPlaced", "OrderConfirmed", "OrderShipped", "OrderDelivered"];

#[tokio::test(start_paused = true)]
async fn an_order_is_followed_from_placed_to_delivered_and_resumed_anywhere() {
    let world = World { pace: PACE, ..World::new() };
    let shop = world.shop().await;
    let id = placed(&shop).await;
    let whole: Vec<_> = (1..).zip(WAY.map(str::to_owned)).collect();
    assert_eq!(watched(&shop, &id, None).await, whole, "told while it happened");
    for seen in 0..4 {
        assert_eq!(watched(&shop, &id, Some(&seen.to_string())).await, whole[seen..], "after {seen}");
    }
    let path = format!("/v1/orders/{id}:watch");
    let nothing = Request::get(path).header("Last-Event-ID", "4").body(Full::<Bytes>::default()).unwrap();
    let answer = shop.shop.gateway.handle(nothing).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT, "an EventSource stops asking");
}

#[tokio::test(start_paused = true)]
async fn each_event_is_told_soon_after_it_happened() {
    let world = World { pace: PACE, ..World::new() };
    let shop = world.shop().await;
    let id = placed(&shop).await;
    let request = Request::get(format!("/v1/orders/{id}:watch")).body(Full::<Bytes>::default()).unwrap();
    let mut body = BodyStream::new(shop.shop.gateway.handle(request).await.into_body());
    let started = tokio::time::Instant::now();
    let mut heard = vec![];
    while let Some(frame) = body.next().await {
        let text = String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap();
        if text.starts_with("id: ") {
            heard.push(started.elapsed().as_millis());
        }
    }
    assert_eq!(heard.len(), 4);
    assert!(heard[1] < 300 && (5_000..6_000).contains(&heard[2]) && (10_000..12_000).contains(&heard[3]), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_followed_is_refused_at_once() {
    let world = World { pace: PACE, ..World::new() };
    let shop = world.shop().await;
    let id = placed(&shop).await;
    shop.settled(&id).await;
    let ask = async |id: &str, headers: &[(&str, &str)]| {
        shop.send(http::Method::GET, &format!("/v1/orders/{id}:watch"), headers, "").await
    };
    let future = ask(&id, &[("Last-Event-ID", "9")]).await;
    assert_eq!(future.status, StatusCode::BAD_REQUEST);
    assert!(text(&future.body, "detail").contains("the order is at version 2"), "{}", future.body);
    for malformed in ["", "x", "1.5", "99999999999999999999"] {
        let refused = ask(&id, &[("Last-Event-ID", malformed)]).await;
        assert_eq!((refused.status, text(&refused.body, "field")), (StatusCode::BAD_REQUEST, "Last-Event-ID"));
    }
    assert_eq!(ask(&id, &[("Last-Event-ID", "-1")]).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(ask(&id, &[("X-Customer-Id", "lee")]).await.status, StatusCode::NOT_FOUND);
    assert_eq!(ask("0190b8f1-2c3d-7e4f-8a9b-0c1d2e3f4a5b", &[]).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn streams_end_when_the_shop_closes_and_after_ten_minutes() {
    let world = World::new();
    let shop = world.shop().await;
    let id = placed(&shop).await;
    shop.settled(&id).await;
    let started = tokio::time::Instant::now();
    assert_eq!(watched(&shop, &id, None).await.len(), 2, "its parcel stays where it is");
    assert_eq!(started.elapsed().as_secs(), 600);
    let closing = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(shop.process.tasks.drain(Duration::from_secs(10)).await);
    };
    let started = tokio::time::Instant::now();
    futures::future::join(watched(&shop, &id, None), closing).await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn watchers_have_places_of_their_own() {
    let world = World::new();
    let shop = world.shop().await;
    let id = placed(&shop).await;
    let watch = async || {
        let request = Request::get(format!("/v1/orders/{id}:watch")).body(Full::<Bytes>::default()).unwrap();
        shop.shop.gateway.handle(request).await
    };
    let mut open = vec![];
    // Half of all: the others are for other customers.
    for _ in 0..128 {
        open.push(watch().await);
    }
    assert_eq!(watch().await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(shop.get(&format!("/v1/orders/{id}")).await.status, StatusCode::OK);
    open.pop();
    assert_eq!(watch().await.status(), StatusCode::OK, "who leaves frees the place");
}
