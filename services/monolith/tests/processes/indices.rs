//! Search indices that are missing or somebody else's: nothing but search feels it. A cache that is missing: nobody does.
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::proxy::Proxy;
use crate::servers::Servers;
use crate::service::{PATIENCE, Service};

const SEARCH: &str = "/v1/products?query=tea";
/// One of the products that inventory begins with.
const PRODUCT: &str = "/v1/products/TEA-BOSEONG-100";

/// An inventory with its index as told, and a gateway to it.
async fn open(servers: &Servers, elasticsearch: String) -> (Service, Service) {
    let mut inventory = Service::start("inventory", &servers.settings(&[("JANGTEO_ELASTICSEARCH", elasticsearch)]));
    inventory.is_ready().await;
    let mut gateway = Service::start("gateway", &servers.settings(&[("JANGTEO_INVENTORY", inventory.address.clone())]));
    gateway.is_ready().await;
    (inventory, gateway)
}

/// Waits until a search is answered like this.
async fn search(gateway: &Service, status: StatusCode, said: &str) {
    let started = Instant::now();
    loop {
        let answer = gateway.get(SEARCH).await;
        if answer.0 == status && answer.1.to_string().contains(said) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{answer:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn an_index_of_somebody_else_is_left_alone_until_it_is_gone() {
    let Some(servers) = Servers::find().await else { return };
    let index = format!("/{}-jangteo-product", servers.name);
    servers.elastic(Method::PUT, &index, &json!({"mappings": {"properties": {"theirs": {"type": "text"}}}})).await;
    servers.elastic(Method::POST, &format!("{index}/_doc/1?refresh=true"), &json!({"theirs": "precious"})).await;
    let (mut inventory, gateway) = open(&servers, servers.elasticsearch.clone()).await;
    let sentence = "has a mapping that is not the shop's: it was made by somebody else; rename or delete it";
    search(&gateway, StatusCode::SERVICE_UNAVAILABLE, sentence).await;
    inventory.says_once(sentence).await;
    inventory.is_ready().await;
    assert_eq!(gateway.get(PRODUCT).await.0, StatusCode::OK);
    let kept = servers.elastic(Method::GET, &format!("{index}/_doc/1"), &Value::Null).await;
    assert_eq!(kept["_source"], json!({"theirs": "precious"}));

    servers.elastic(Method::DELETE, &index, &Value::Null).await;
    search(&gateway, StatusCode::OK, "TEA-BOSEONG-100").await;
    inventory.stop().await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_index_that_is_away_is_missed_by_searches_alone() {
    let Some(servers) = Servers::find().await else { return };
    let mut proxy = Proxy::to(servers.elasticsearch.strip_prefix("http://").unwrap());
    let (mut inventory, gateway) = open(&servers, format!("http://127.0.0.1:{}", proxy.port)).await;
    search(&gateway, StatusCode::SERVICE_UNAVAILABLE, "did not answer").await;
    inventory.says_once("nothing is projected; it tries again").await;
    inventory.is_ready().await;
    assert_eq!(gateway.get(PRODUCT).await.0, StatusCode::OK);
    proxy.open().await;
    search(&gateway, StatusCode::OK, "TEA-BOSEONG-100").await;
    inventory.stop().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_cache_that_is_away_is_said_once_and_missed_by_nobody() {
    let Some(servers) = Servers::find().await else { return };
    let mut proxy = Proxy::to(servers.redis.strip_prefix("redis://").unwrap());
    let through = [("JANGTEO_REDIS", format!("redis://127.0.0.1:{}", proxy.port))];
    let mut inventory = Service::start("inventory", &servers.settings(&through));
    inventory.is_ready().await;
    let mut gateway = Service::start("gateway", &servers.settings(&[("JANGTEO_INVENTORY", inventory.address.clone())]));
    gateway.is_ready().await;
    let looks = async || {
        for _ in 0..20 {
            assert_eq!(gateway.get(PRODUCT).await.0, StatusCode::OK);
            assert_eq!(inventory.page("/readyz").await.unwrap().0, StatusCode::OK);
            sleep(Duration::from_millis(200)).await;
        }
    };
    looks().await;
    inventory.says_once("the cache is away; everything is read from the store").await;
    proxy.open().await;
    looks().await;
    inventory.says("the cache is back").await;
    inventory.stop().await;
    gateway.stop().await;
}
