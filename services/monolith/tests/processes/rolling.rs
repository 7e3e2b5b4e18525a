//! Replicas are replaced one after another, and one is killed, while customers ask: nobody is refused.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join;
use http::{Method, StatusCode};
use tokio::time::{Instant, sleep};

use crate::customers::{client, order, send};
use crate::shop::{LINGER_MS, Shop};

/// How often each customer asks.
const EVERY: Duration = Duration::from_millis(20);

/// Asks for a product and places an order by turns until told to stop; how often, and what was not as it should be.
async fn customer(name: &str, gateway: &str, stop: &AtomicBool) -> (usize, Vec<String>) {
    let (http, mut asked, mut wrong) = (client(), 0, vec![]);
    while !stop.load(Ordering::SeqCst) {
        asked += 1;
        let key = format!("{name}-{asked}");
        let headers = [("Idempotency-Key", key.as_str()), ("Content-Type", "application/json")];
        let answer = match asked % 2 {
            0 => send(&http, gateway, Method::GET, "/v1/products/TEA-BOSEONG-100", &[], String::new()).await,
            _ => {
                let body = order("pm_card_ok", "KR").to_string();
                send(&http, gateway, Method::POST, "/v1/orders", &headers, body).await
            }
        };
        match answer {
            Some((status, _)) if status.is_success() => {}
            other => wrong.push(format!("{key}: {other:?}")),
        }
        sleep(EVERY).await;
    }
    (asked, wrong)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_while_replicas_are_replaced_or_killed() {
    let Some(mut shop) = Shop::open(2, &[]).await else { return };
    let (gateway, stop) = (shop.gateway.address.clone(), Arc::new(AtomicBool::new(false)));
    let customers = join(customer("kim", &gateway, &stop), customer("lee", &gateway, &stop));
    let replaced = async {
        for n in 0..shop.services.len() {
            let name = shop.services[n].0;
            if !matches!(name, "order" | "inventory") {
                continue;
            }
            let (_, old) = shop.services.remove(n);
            let address = old.address.clone();
            old.stop().await;
            let mut new = shop.start(name, address);
            new.is_ready().await;
            shop.services.insert(n, (name, new));
            sleep(Duration::from_millis(500)).await;
        }
        for name in ["order", "inventory"] {
            let n = shop.services.iter().position(|(it, _)| *it == name).unwrap();
            // Dropping it is a SIGKILL.
            drop(shop.services.remove(n));
            sleep(Duration::from_secs(1)).await;
        }
        stop.store(true, Ordering::SeqCst);
        shop
    };
    let (((first, mut wrong), (second, more)), shop) = join(customers, replaced).await;
    wrong.extend(more);
    assert!(first + second > 100, "{first} and {second} requests");
    assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), first + second);

    // A gateway says that it is not ready, and goes on for those who do not know yet.
    let (address, stopping) = (shop.gateway.address.clone(), Instant::now());
    let stopped = shop.gateway.stop();
    let looked = async {
        let get = |path: &'static str| send_once(&address, path);
        while get("/readyz").await != Some(StatusCode::SERVICE_UNAVAILABLE) {
            assert!(stopping.elapsed() < Duration::from_millis(LINGER_MS), "it says at once that it is not ready");
        }
        while stopping.elapsed() < Duration::from_millis(LINGER_MS / 2) {
            assert_eq!(get("/v1/products/TEA-BOSEONG-100").await, Some(StatusCode::OK));
        }
    };
    join(stopped, looked).await;
    assert!(stopping.elapsed() >= Duration::from_millis(LINGER_MS));
}

async fn send_once(address: &str, path: &str) -> Option<StatusCode> {
    send(&client(), address, Method::GET, path, &[], String::new()).await.map(|(status, _)| status)
}
