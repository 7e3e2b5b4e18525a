//! A shop in process on memory stores and a clock that is advanced, never slept.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::audit;
pub use crate::customers::{RICE, TEA, order, text};
use crate::faults::Plan;
use bytes::Bytes;
use clock::{Clock, Ids, SystemClock, Timestamp, TokioClock};
use host::Process;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use inventory::catalogue;
use monolith::folder::Folder;
use monolith::shop::{self, Pace, Shop, Stores, Surroundings};
use serde_json::Value;

/// Parcels that stay where they are, for tests of what comes before.
pub const AT_REST: Pace = Pace { pick_up: Duration::from_secs(1_000_000), transit: Duration::from_secs(1_000_000) };

/// How long what was recorded may take to be told and taken in.
const CLEAN_AFTER: Duration = Duration::from_secs(20);

/// Stores and clock outlive the processes that run on them.
pub struct World {
    pub clock: Arc<dyn Clock>,
    pub stores: Stores,
    pub pace: Pace,
}

impl World {
    pub fn new() -> World {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(Timestamp(1_800_000_000_000_000)));
        World { stores: Stores::in_memory(&clock), clock, pace: AT_REST }
    }

    /// On files and the machine's clock, where commits take their time.
    pub fn on_disk(data: &Path) -> World {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        World { stores: Folder::take(data).unwrap().stores(&clock).unwrap(), clock, pace: AT_REST }
    }

    pub fn process(&self) -> Process {
        Process::new(self.clock.clone(), Arc::new(Ids::random(self.clock.clone())))
    }

    /// A shop with nothing in the way.
    pub async fn shop(&self) -> Running {
        let process = self.process();
        let surroundings = Surroundings::simulated(&process, &self.stores, self.pace);
        Running::open(process, &self.stores, surroundings).await
    }
}

impl World {
    /// A shop with faults between its services.
    pub async fn shop_with(&self, plan: &Plan) -> Running {
        let process = self.process();
        let surroundings =
            Surroundings { between: plan.between(), ..Surroundings::simulated(&process, &self.stores, self.pace) };
        Running::open(process, &self.stores, surroundings).await
    }
}

impl World {
    /// Nothing is wrong with the shop, as soon as everything that was recorded is told and taken in.
    #[track_caller]
    pub fn is_clean(&self) -> impl Future<Output = ()> {
        let from = std::panic::Location::caller();
        async move {
            let until = tokio::time::Instant::now() + CLEAN_AFTER;
            loop {
                let findings = audit::findings(&self.stores, self.clock.now()).await;
                if findings.is_empty() {
                    return;
                }
                assert!(tokio::time::Instant::now() < until, "at {from}: {findings:#?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// A shop that is open.
pub struct Running {
    pub shop: Arc<Shop>,
    pub process: Process,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl Running {
    pub async fn open(process: Process, stores: &Stores, surroundings: Surroundings) -> Running {
        Running::open_with(process, stores, surroundings, &catalogue::PRODUCTS).await
    }

    /// A shop with these products only, which is opened sooner.
    pub async fn open_with(
        process: Process,
        stores: &Stores,
        surroundings: Surroundings,
        products: &[catalogue::Product],
    ) -> Running {
        let shop = Arc::new(shop::open(&process, stores, surroundings).unwrap());
        catalogue::stock(&process, &shop.inventory, products).await.unwrap();
        Running { shop, process }
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.shop.gateway.handle(request.body(Full::new(body.into())).unwrap()).await;
        let (head, body) = answer.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status: head.status, headers: head.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub async fn place(&self, key: &str, wait: u32, body: &Value) -> Answer {
        let wait = format!("wait={wait}");
        self.send(Method::POST, "/v1/orders", &[("Idempotency-Key", key), ("Prefer", &wait)], body.to_string()).await
    }

    pub async fn cancel(&self, key: &str, order_id: &str, wait: u32) -> Answer {
        let (path, wait) = (format!("/v1/orders/{order_id}:cancel"), format!("wait={wait}"));
        self.send(Method::POST, &path, &[("Idempotency-Key", key), ("Prefer", &wait)], "{}").await
    }

    /// The order once it is settled.
    pub async fn settled(&self, order_id: &str) -> Value {
        for _ in 0..600 {
            let order = self.get(&format!("/v1/orders/{order_id}")).await.body;
            let (status, cancellation) = (text(&order, "status"), text(&order, "cancellation"));
            let open = status == "ORDER_STATUS_PLACED"
                || (status == "ORDER_STATUS_CONFIRMED" && cancellation == "CANCELLATION_REQUESTED");
            if !open {
                return order;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("order {order_id} was not settled within a minute");
    }

    /// The order once nothing more happens to it.
    pub async fn ended(&self, order_id: &str) -> Value {
        for _ in 0..600 {
            let order = self.get(&format!("/v1/orders/{order_id}")).await.body;
            let ended = ["ORDER_STATUS_DELIVERED", "ORDER_STATUS_REJECTED", "ORDER_STATUS_CANCELLED"];
            if ended.contains(&text(&order, "status")) && text(&order, "cancellation") != "CANCELLATION_REQUESTED" {
                return order;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("order {order_id} did not end within a minute");
    }

    pub async fn available(&self, sku: &str) -> i64 {
        self.get(&format!("/v1/products/{sku}")).await.body["available"].as_i64().unwrap()
    }
}
