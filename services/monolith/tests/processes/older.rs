//! A database that was put back from an older copy: others have heard of what it lacks.
use http::{Method, StatusCode};
use messaging::Bus;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use crate::customers::{client, send};
use crate::servers::Servers;
use crate::service::{PATIENCE, Service};

const PRODUCT: &str = "TEA-BOSEONG-100";
/// What inventory tells others when it opens: the receipts of its 64 products.
const OPENING: u64 = 64;

/// Waits until so many messages were published, and sees that there are no more.
async fn published(servers: &Servers, count: u64) {
    let (bus, started) = (servers.bus(), Instant::now());
    while bus.lag("nobody", "inventory-events").await != Ok(count) {
        assert!(started.elapsed() < PATIENCE, "{:?} of {count}", bus.lag("nobody", "inventory-events").await);
        sleep(Duration::from_millis(100)).await;
    }
}

/// An operator books goods that arrived.
async fn receive(gateway: &Service, quantity: i64) {
    let (path, key) = (format!("/v1/products/{PRODUCT}:receive"), format!("receive-{quantity}"));
    let headers = [("X-Operator", "lee"), ("Idempotency-Key", key.as_str())];
    let body = json!({ "quantity": quantity }).to_string();
    let answer = send(&client(), &gateway.address, Method::POST, &path, &headers, body).await.unwrap();
    assert_eq!(answer.0, StatusCode::OK, "{}", answer.1);
}

#[tokio::test]
async fn an_older_database_that_was_put_back_is_not_published_from() {
    let Some(servers) = Servers::find().await else { return };
    let seals = tempfile::tempdir().unwrap();
    let settings = servers.settings(&[("JANGTEO_SEALS", seals.path().display().to_string())]);
    let mut inventory = Service::start("inventory", &settings);
    inventory.is_ready().await;
    published(&servers, OPENING).await;
    inventory.stop().await;
    servers.copy_database("older").await;

    let mut inventory = Service::start("inventory", &settings);
    let to_inventory = [("JANGTEO_INVENTORY", inventory.address.clone())];
    let mut gateway = Service::start("gateway", &servers.settings(&to_inventory));
    inventory.is_ready().await;
    gateway.is_ready().await;
    receive(&gateway, 7).await;
    published(&servers, OPENING + 1).await;
    sleep(store::seal::EVERY * 2).await;
    inventory.stop().await;
    gateway.stop().await;
    servers.put_back("older").await;

    let mut inventory = Service::start("inventory", &settings);
    let to_inventory = [("JANGTEO_INVENTORY", inventory.address.clone())];
    let gateway = Service::start("gateway", &servers.settings(&to_inventory));
    let lacks = format!("the log of inventory lacks version 2 of stock-{PRODUCT}, which was published");
    inventory.is_degraded("inventory relay", &lacks).await;
    inventory.is_degraded("inventory relay", "an older database was put back").await;
    inventory.misses("seals", "the log ends at position 128, but").await;
    receive(&gateway, 8).await;
    inventory.says_once(&lacks).await;
    inventory.says_once("nothing is sealed until that is mended").await;
    published(&servers, OPENING + 1).await;
    inventory.stop().await;
    gateway.stop().await;
}
