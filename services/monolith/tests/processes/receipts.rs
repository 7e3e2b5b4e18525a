//! An inventory behind a gateway, and receipts of stock: commands that are recorded once per idempotency key.
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::customers::{client, send};
use crate::servers::Servers;
use crate::service::{PATIENCE, SECRET, Service};

/// One of the products that inventory begins with.
pub const PRODUCT: &str = "/v1/products/TEA-BOSEONG-100";
/// What inventory receives of its 64 products when it opens.
const OPENING: i64 = 64;

/// An inventory with some settings of its own, and a gateway to it.
pub async fn open(servers: &Servers, otherwise: &[(&'static str, String)]) -> (Service, Service) {
    let mut inventory = Service::start("inventory", &servers.settings(otherwise));
    inventory.is_ready().await;
    let to_inventory = [("JANGTEO_INVENTORY", inventory.address.clone())];
    let mut gateway = Service::start("gateway", &servers.settings(&to_inventory));
    gateway.is_ready().await;
    (inventory, gateway)
}

/// An operator does something about the product, under an idempotency key.
pub async fn operate(gateway: &Service, verb: &str, key: &str, body: &Value) -> (StatusCode, Value) {
    let (path, headers) = (format!("{PRODUCT}:{verb}"), [("X-Operator", "lee"), ("Idempotency-Key", key)]);
    let (status, answer) =
        send(&client(), &gateway.address, Method::POST, &path, &headers, body.to_string()).await.unwrap();
    assert!(!answer.to_string().contains(SECRET), "{answer}");
    (status, answer)
}

/// An operator books a piece that arrived, under an idempotency key.
pub async fn receive(gateway: &Service, key: &str) -> (StatusCode, Value) {
    operate(gateway, "receive", key, &json!({ "quantity": 1 })).await
}

/// Books a piece, again and again under the same key until that is accepted.
pub async fn receive_until_accepted(gateway: &Service, key: &str) {
    let started = Instant::now();
    loop {
        let (status, problem) = receive(gateway, key).await;
        if status == StatusCode::OK {
            return;
        }
        assert!(status == StatusCode::SERVICE_UNAVAILABLE && started.elapsed() < PATIENCE, "{key}: {status} {problem}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// How many receipts are recorded, none of them half.
pub async fn on_record(servers: &Servers) -> i64 {
    let halves =
        "SELECT count(*) FROM streams WHERE version != (SELECT count(*) FROM events WHERE stream = streams.key)";
    assert_eq!(servers.number(halves).await, 0);
    servers.number("SELECT count(*) FROM events WHERE type = 'StockReceived'").await - OPENING
}
