//! Search indices that are missing or somebody else's: nothing but search feels it. A cache that is missing: nobody does.
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::customers::{client, send};
use crate::proxy::Proxy;
use crate::receipts::{self, PRODUCT};
use crate::servers::Servers;
use crate::service::{PATIENCE, Service, command};

const SEARCH: &str = "/v1/products?query=tea";

/// An inventory with its index as told, and a gateway to it.
async fn open(servers: &Servers, elasticsearch: String) -> (Service, Service) {
    receipts::open(servers, &[("JANGTEO_ELASTICSEARCH", elasticsearch)]).await
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
    search(&gateway, StatusCode::SERVICE_UNAVAILABLE, "search_unavailable").await;
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
    search(&gateway, StatusCode::SERVICE_UNAVAILABLE, "search_unavailable").await;
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

#[tokio::test]
async fn an_operator_has_an_index_made_anew_beside_running_replicas() {
    let Some(servers) = Servers::find().await else { return };
    let with = |elasticsearch: &str| servers.settings(&[("JANGTEO_ELASTICSEARCH", elasticsearch.to_owned())]);
    let (inventory, gateway) = open(&servers, servers.elasticsearch.clone()).await;
    let mut other = Service::start("inventory", &with(&servers.elasticsearch));
    other.is_ready().await;
    search(&gateway, StatusCode::OK, "TEA-BOSEONG-100").await;
    let rebuild = async |settings: &[(&str, String)], code: i32, said: &str| {
        let (ended, out, err) = command("inventory", &["rebuild"], settings).await;
        assert!(ended == Some(code) && format!("{out}{err}").contains(said), "{ended:?} {out} {err}");
        out
    };
    let alias = format!("/{}-jangteo-product", servers.name);
    let path = format!("{alias}/_doc/TEA-BOSEONG-100?refresh=true");
    // Of an alias that stands for one index, it is known which one is meant.
    servers.elastic(Method::DELETE, &path, &Value::Null).await;
    let out = rebuild(&with(&servers.elasticsearch), 0, "documents; 1 were not as they are now").await;
    assert!(out.starts_with("product search: "), "{out}");
    search(&gateway, StatusCode::OK, "TEA-BOSEONG-100").await;
    rebuild(&with(&servers.elasticsearch), 0, "documents; 0 were not as they are now").await;
    let indices = servers.elastic(Method::GET, &format!("{alias}*"), &Value::Null).await;
    assert_eq!(indices.as_object().unwrap().len(), 1, "{indices}");
    rebuild(&with(""), 1, "without JANGTEO_ELASTICSEARCH each replica makes an index of its own").await;
    rebuild(&with("http://127.0.0.1:1"), 1, "127.0.0.1:1 did not answer").await;
    let nowhere =
        [with(&servers.elasticsearch), vec![("JANGTEO_POSTGRES", servers.postgres_at("127.0.0.1:1"))]].concat();
    rebuild(&nowhere, 1, "JANGTEO_POSTGRES").await;
    for mut service in [inventory, other] {
        service.is_ready().await;
        service.stop().await;
    }
    gateway.stop().await;
}

/// The name of the index that stands behind the alias.
async fn index(servers: &Servers) -> String {
    let indices = servers.elastic(Method::GET, &format!("/{}-jangteo-product", servers.name), &Value::Null).await;
    indices.as_object().unwrap().keys().next().unwrap().clone()
}

#[tokio::test]
async fn an_index_that_refuses_writes_is_searched_as_it_was_and_caught_up_when_it_takes_them_again() {
    let Some(servers) = Servers::find().await else { return };
    let (mut inventory, gateway) = open(&servers, servers.elasticsearch.clone()).await;
    search(&gateway, StatusCode::OK, "TEA-BOSEONG-100").await;
    let index = index(&servers).await;
    let block = async |blocked: Value| {
        let settings = json!({ "index.blocks.write": blocked });
        let answer = servers.elastic(Method::PUT, &format!("/{index}/_settings"), &settings).await;
        assert_eq!(answer["acknowledged"], true, "{answer}");
    };
    block(json!(true)).await;
    let product = json!({"sku": "TEA-LATE-1", "name_ko": "늦은 차", "name_en": "Late tea", "category": "tea", "unit_price": 1_000, "currency": "KRW"});
    let headers = [("X-Operator", "lee"), ("Idempotency-Key", "late")];
    let added = send(&client(), &gateway.address, Method::POST, "/v1/products", &headers, product.to_string()).await;
    assert_eq!(added.unwrap().0, StatusCode::CREATED);
    inventory.says("nothing is projected; it tries again").await;
    let (status, found) = gateway.get(SEARCH).await;
    assert_eq!(status, StatusCode::OK, "{found}");
    assert!(found.to_string().contains("TEA-BOSEONG-100") && !found.to_string().contains("TEA-LATE-1"), "{found}");
    assert_eq!(gateway.get("/v1/products/TEA-LATE-1").await.0, StatusCode::OK);
    inventory.is_ready().await;

    block(Value::Null).await;
    search(&gateway, StatusCode::OK, "TEA-LATE-1").await;
    inventory.says("the projection goes on").await;
    inventory.stop().await;
    gateway.stop().await;
}

/// All products that a search finds, or the answer if it is refused.
async fn found(gateway: &Service) -> Result<Vec<Value>, (StatusCode, Value)> {
    let (status, page) = gateway.get("/v1/products?query=tea&page_size=100").await;
    if status != StatusCode::OK {
        return Err((status, page));
    }
    let skus = page["products"].as_array().unwrap().iter().map(|product| product["sku"].clone());
    Ok(skus.collect())
}

#[tokio::test]
async fn an_index_that_is_deleted_while_it_is_searched_is_made_anew_without_a_restart() {
    let Some(servers) = Servers::find().await else { return };
    let (mut inventory, gateway) = open(&servers, servers.elasticsearch.clone()).await;
    search(&gateway, StatusCode::OK, "TEA-BOSEONG-100").await;
    let (all, deleted) = (found(&gateway).await.unwrap(), index(&servers).await);
    assert!(all.len() > 3, "{all:?}");
    servers.elastic(Method::DELETE, &format!("/{deleted}"), &Value::Null).await;
    let started = Instant::now();
    loop {
        match found(&gateway).await {
            // Never a part of it.
            Ok(found) => {
                assert_eq!(found, all);
                break;
            }
            Err((status, problem)) => {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
                assert!(started.elapsed() < PATIENCE, "{problem}");
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert_ne!(index(&servers).await, deleted);
    assert_eq!(gateway.get(PRODUCT).await.0, StatusCode::OK);
    inventory.is_ready().await;
    inventory.stop().await;
    gateway.stop().await;
}
