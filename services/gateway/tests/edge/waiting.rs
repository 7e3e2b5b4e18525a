//! Clients that wait and clients that follow: they share places, and need none once they have left.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use gateway::{Gateway, Limits};
use host::Process;
use host::error::Refusal;
use host::transport::Transport;
use http::{Method, Request};
use http_body_util::Full;
use tokio::io::AsyncWriteExt;
use tonic::Status;
use tower::ServiceExt;

use crate::network::{all, served};
use crate::shop::{Next, ORDER, Shop, World, upstreams};

const WAIT: (&str, &str) = ("Prefer", "wait=20");

fn waiting_get(customer: &str) -> Vec<u8> {
    format!(
        "GET /v1/orders/o-1 HTTP/1.1\r\nHost: shop\r\nPrefer: wait=20\r\nX-Customer-Id: {customer}\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// One that only closed its sending side is answered by what there is.
#[tokio::test]
async fn a_wait_ends_when_the_client_has_closed_its_side() {
    let world = World::new();
    world.shop.settles_nothing();
    let mut stream = served(&world).await;
    stream.write_all(&waiting_get("kim")).await.unwrap();
    stream.shutdown().await.unwrap();
    let text = all(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && !text.contains("preference-applied"), "{text}");
    let waited: Vec<_> = world.shop.calls().iter().map(|call| call.metadata.contains_key("prefer-wait")).collect();
    assert_eq!(waited, [true, false]);
}

#[tokio::test]
async fn a_stream_of_events_ends_when_the_client_has_closed_its_side() {
    let (process, shop) = (Process::on_this_machine(), Shop::default());
    let mut all_upstreams = std::collections::BTreeMap::from(upstreams(&process, &shop));
    let silent = tower::service_fn(|_: http::Request<tonic::body::Body>| async {
        let body = http_body_util::StreamBody::new(futures::stream::pending::<
            Result<http_body::Frame<bytes::Bytes>, std::convert::Infallible>,
        >());
        Ok::<_, Status>(http::Response::new(tonic::body::Body::new(body)))
    });
    all_upstreams.insert("shop.order.v1.OrderService", Transport::new(silent));
    let gateway = Arc::new(Gateway::new(&process, all_upstreams, Limits::default()).unwrap());
    let mut stream = served(&World { process, shop, gateway }).await;
    let get = b"GET /v1/orders/o-1:watch HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n";
    stream.write_all(get).await.unwrap();
    stream.shutdown().await.unwrap();
    let text = tokio::time::timeout(Duration::from_secs(5), all(&mut stream)).await.expect("it ends");
    for header in ["x-accel-buffering: no", "cache-control: no-store, no-transform", "retry: 1000\n"] {
        assert!(text.contains(header), "{header}: {text}");
    }
}

/// Of twelve places one customer gets six and the next three. Whoever finds none is answered at once, and told so.
#[tokio::test(start_paused = true)]
async fn customers_share_the_places_to_wait_and_nobody_is_held_up_by_waits() {
    let (process, shop) = (Process::on_this_machine(), Shop::default());
    let limits = Limits { waits: 12, at_once: 1, ..Limits::default() };
    let gateway = Gateway::new(&process, upstreams(&process, &shop), limits).unwrap();
    let world = World { process, shop, gateway: Arc::new(gateway) };
    world.shop.settles_nothing();
    let mut waiting = Vec::new();
    let mut ask = async |customer: &str| {
        let headers = [("X-Customer-Id", customer), WAIT];
        let mut request = Request::get("/v1/orders/o-1");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let (gateway, request) = (world.gateway.clone(), request.body(Full::<bytes::Bytes>::default()).unwrap());
        let mut answer = Box::pin(async move { gateway.handle(request).await });
        match answer.as_mut().now_or_never() {
            Some(answer) => {
                assert_eq!((answer.status().as_u16(), answer.headers().get("preference-applied")), (200, None));
                false
            }
            None => {
                waiting.push(answer);
                true
            }
        }
    };
    let mut places = Vec::new();
    for customer in ["kim", "lee", "park"] {
        let mut count = 0;
        while ask(customer).await {
            count += 1;
        }
        places.push(count);
    }
    assert_eq!(places, [6, 3, 2]);
    assert_eq!(world.get("/v1/orders").await.status, 200, "the one place for calls is free");
    waiting.clear();
    world.shop.next(Next::Nothing);
    assert_eq!(world.send(Method::GET, "/v1/products", &[("X-Customer-Id", "kim")], "").await.status, 200);
}

#[tokio::test]
async fn a_follower_is_told_when_nothing_will_follow_and_otherwise_when_to_come_back() {
    let world = World::new();
    let ended = world.send(Method::GET, "/v1/orders/o-1:watch", &[("Last-Event-ID", "3")], "").await;
    assert_eq!((ended.status, ended.text.as_str()), (204, ""));
    for status in [Status::unavailable("away"), Status::deadline_exceeded("late"), Status::resource_exhausted("full")] {
        let refused = async |accept: &str| {
            // One that is lost on its way is asked for again.
            let world = World::new();
            world.shop.next(Next::Refuse(Status::from(Refusal::of(&status))));
            let told = world.send(Method::GET, "/v1/orders/o-1:watch", &[("Accept", accept)], "").await;
            let counted = world.process.metrics.text();
            assert!(!counted.contains(r#"outcome="200""#), "what was refused is counted as refused: {counted}");
            told
        };
        let come_back = refused("text/event-stream").await;
        let kind = come_back.header("content-type");
        assert_eq!((come_back.status, kind, come_back.text.as_str()), (200, "text/event-stream", "retry: 1000\n\n"));
        assert!([429, 503, 504].contains(&refused("*/*").await.status));
    }
    let unknown = world.send(Method::GET, "/v1/orders/o-1:watch", &[("Last-Event-ID", "x")], "").await;
    assert_eq!(unknown.status, 400, "what is wrong for good ends an EventSource for good");
}

/// Whatever is lost on its way is sent once more: under the same command id it happens once.
#[tokio::test]
async fn a_call_that_is_lost_is_made_once_more_under_the_same_id() {
    for (lost, status) in [(1, 201), (2, 503)] {
        let (process, shop) = (Process::on_this_machine(), Shop::default());
        let mut all_upstreams = std::collections::BTreeMap::from(upstreams(&process, &shop));
        let (order, asked) = (all_upstreams["shop.order.v1.OrderService"].clone(), Arc::new(AtomicUsize::new(0)));
        let flaky = tower::service_fn(move |request: http::Request<tonic::body::Body>| {
            let (order, before) = (order.clone(), asked.fetch_add(1, Ordering::SeqCst));
            async move {
                let answer = order.oneshot(request).await;
                if before < lost { Err(Status::unavailable("the connection broke")) } else { answer }
            }
        });
        all_upstreams.insert("shop.order.v1.OrderService", Transport::new(flaky));
        let gateway = Arc::new(Gateway::new(&process, all_upstreams, Limits::default()).unwrap());
        let world = World { process, shop, gateway };
        let answer = world.post("/v1/orders", ORDER).await;
        assert!(answer.status == status && !answer.text.contains("broke"), "{answer:?}");
        let ids: Vec<_> = world.shop.calls().iter().map(|call| call.metadata["command-id"].clone()).collect();
        assert!(ids.len() == 2 && ids[0] == ids[1], "{ids:?}");
    }
}

/// What servers say names hosts, roles and files.
#[tokio::test]
async fn what_a_server_said_is_not_shown_to_clients() {
    let world = World::new();
    let said = r#"127.0.0.1:5432: password authentication failed for user "order" at line 320"#;
    world.shop.next(Next::Refuse(Status::from(Refusal::outage(said).fact("host", "127.0.0.1"))));
    let answer = world.get("/v1/orders").await;
    assert_eq!((answer.status, answer.problem().0.as_str()), (503, "outage"));
    for word in ["password", "127.0.0.1", "order"] {
        assert!(
            !answer.json()["detail"].as_str().unwrap().contains(word) && answer.json()["facts"].is_null(),
            "{answer:?}"
        );
    }
}
