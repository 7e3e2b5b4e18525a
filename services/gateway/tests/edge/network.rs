//! The gateway on a real port, and its start.
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use gateway::{Gateway, Limits};
use host::transport::Transport;
use host::{Process, http_server};
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Status;
use tonic::body::Body;

use crate::shop::{ORDER, Shop, World, upstreams};

pub(crate) async fn served(world: &World) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, gateway) = (listener.local_addr().unwrap(), world.gateway.clone());
    let answer = move |request| {
        let gateway = gateway.clone();
        async move { gateway.handle(request).await }
    };
    let tasks = world.process.tasks.clone();
    world.process.tasks.spawn(http_server::serve(listener, tasks, http_server::Limits::default(), answer));
    TcpStream::connect(address).await.unwrap()
}

fn post(body: &str, length: usize) -> String {
    format!("POST /v1/orders HTTP/1.1\r\nHost: shop\r\nIdempotency-Key: k\r\nContent-Length: {length}\r\n\r\n{body}")
}

pub(crate) async fn all(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_client_that_has_closed_its_side_still_gets_its_answer() {
    let world = World::new();
    let mut stream = served(&world).await;
    stream.write_all(post(ORDER, ORDER.len()).as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let text = all(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 201 Created\r\n") && text.contains("location: /v1/orders/"), "{text}");
}

#[tokio::test]
async fn a_client_that_breaks_off_in_its_body_orders_nothing() {
    let world = World::new();
    let mut stream = served(&world).await;
    stream.write_all(post(ORDER, ORDER.len() + 1).as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let text = all(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{text}");
    assert!(world.shop.calls().is_empty());
}

#[tokio::test]
async fn a_client_that_sends_too_much_learns_why() {
    let world = World::new();
    let mut stream = served(&world).await;
    let body = "x".repeat(900_000);
    for piece in post(&body, body.len()).as_bytes().chunks(50_000) {
        stream.write_all(piece).await.expect("the connection stays open while the client is still sending");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stream.shutdown().await.unwrap();
    let text = all(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 413 Payload Too Large\r\n") && text.contains("65536"), "{text}");
}

#[tokio::test]
async fn a_head_over_the_wire_has_a_length_and_no_body() {
    let world = World::new();
    let mut stream = served(&world).await;
    stream.write_all(b"HEAD /v1/orders/o-1 HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n").await.unwrap();
    let text = all(&mut stream).await;
    let length = world.get("/v1/orders/o-1").await.text.len();
    assert!(text.contains(&format!("content-length: {length}\r\n")) && text.ends_with("\r\n\r\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_begins_and_does_not_end_is_given_up() {
    let (process, shop) = (Process::on_this_machine(), Shop::default());
    let endless = tower::service_fn(|_: http::Request<Body>| async {
        let body = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Infallible>>());
        Ok::<_, Status>(Response::new(Body::new(body)))
    });
    let mut upstreams = BTreeMap::from(upstreams(&process, &shop));
    upstreams.insert("shop.order.v1.OrderService", Transport::new(endless));
    let gateway = Gateway::new(&process, upstreams, Limits::default()).unwrap();
    let request = http::Request::get("/v1/orders").body(Full::<Bytes>::default()).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(11), gateway.handle(request)).await.unwrap();
    assert_eq!(answer.status(), 504);
}

#[tokio::test]
async fn a_rule_without_upstream_refuses_to_start() {
    let shop = Shop::default();
    let missing = |name: &str| {
        let process = Process::on_this_machine();
        let rest: BTreeMap<_, _> =
            upstreams(&process, &shop).into_iter().filter(|(service, _)| *service != name).collect();
        Gateway::new(&process, rest, Limits::default()).err().unwrap()
    };
    assert_eq!(
        missing("shop.inventory.v1.InventoryService"),
        "shop.inventory.v1.InventoryService.ListProducts: it has an HTTP rule, but no upstream serves it"
    );
    assert!(missing("shop.order.v1.OrderService").contains("shop.order.v1.OrderService.PlaceOrder"));
    assert!(missing("shop.messaging.v1.DeadLetterService/inventory").contains("DeadLetterService.ListDeadLetters"));
}

/// One service of the .proto files, several that serve it: the path says which.
#[tokio::test]
async fn a_path_leads_to_the_service_that_it_names() {
    let (process, shop) = (Process::on_this_machine(), Shop::default());
    let gateway = Gateway::new(&process, upstreams(&process, &shop), Limits::default()).unwrap();
    for service in ["order", "inventory", "shipping"] {
        let uri = format!("/v1/{service}/dead-letters");
        let request = http::Request::get(uri).header("x-operator", "lee").body(Full::<Bytes>::default()).unwrap();
        let answer = gateway.handle(request).await.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(problem["detail"], format!("shop.messaging.v1.DeadLetterService/{service}"));
    }
}

#[tokio::test]
async fn an_unknown_or_doubled_upstream_refuses_to_start() {
    let (process, shop) = (Process::on_this_machine(), Shop::default());
    let [.., order, inventory] = upstreams(&process, &shop);
    let stranger = ("shop.order.v1.Orders", order.1.clone());
    let refused =
        Gateway::new(&process, [order.clone(), inventory.clone(), stranger], Limits::default()).err().unwrap();
    assert_eq!(refused, "upstream shop.order.v1.Orders is not a service of the descriptors");
    let refused = Gateway::new(&process, [order.clone(), inventory, order], Limits::default()).err().unwrap();
    assert_eq!(refused, "upstream shop.order.v1.OrderService is given twice");
}
