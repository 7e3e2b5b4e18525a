//! A workload that hurts: retries under the same key through any gateway, requests that are abandoned, cancellations that race
//! checkout and dispatch, products that everybody wants and few get, prices that change, and operators who mend.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use simulation::chance::Chance;
use simulation::http::{Answer, Client};
use simulation::net::Connector;
use tokio::time::sleep;

use crate::world::{World, hosts};

pub const CUSTOMERS: usize = 12;
/// Hosts that they live on.
pub const HOMES: usize = 3;
const ORDERS_EACH: u64 = 6;
/// SKU, pieces at first, price. The first is the one that everybody wants.
const PRODUCTS: [(&str, i64, i64); 4] =
    [("SIM-HOT", 40, 9_000), ("SIM-RARE", 10, 70_000), ("SIM-TEA", 500, 18_000), ("SIM-RICE", 500, 21_900)];
const METHODS: [&str; 12] = [
    "pm_card_ok",
    "pm_card_ok",
    "pm_card_ok",
    "pm_card_ok",
    "pm_card_ok",
    "pm_card_ok",
    "pm_card_declined",
    "pm_card_insufficient_funds",
    "pm_card_slow",
    "pm_card_lost_reply",
    "pm_card_twice",
    "pm_card_twice",
];
/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_millis(1_500);
const TRIES: u32 = 400;

/// Something that a customer was told, in the order in which it was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// An order was placed under a key.
    Placed { key: String, order: Seen },
    /// How one of the own orders stands.
    Saw(Seen),
    /// There is no such order.
    Missing { order_id: String },
    /// A cancellation was accepted.
    CancelAccepted(Seen),
    /// The own orders, as they were listed or found in the end.
    Listed { how: &'static str, order_ids: Vec<String> },
    /// A product, as it was shown in the end.
    Product { sku: &'static str, price: i64, available: i64 },
}

/// An order as it was shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub order_id: String,
    pub status: String,
    pub version: i64,
}

impl Seen {
    fn of(body: &Value) -> Seen {
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        Seen { order_id: text("order_id"), status: text("status"), version: body["version"].as_i64().unwrap_or(0) }
    }
}

/// What the clients of a run know and did.
#[derive(Clone, Default)]
pub struct Histories {
    /// What each customer was told.
    pub told: Arc<Mutex<BTreeMap<String, Vec<Told>>>>,
    /// Customers that have come to their end.
    pub done: Arc<AtomicUsize>,
    /// There is something on the shelves.
    pub open: Arc<AtomicBool>,
    /// Nothing is under way any more: everybody looks once more at what there is.
    pub over: Arc<AtomicBool>,
    /// Those who have done so.
    pub gone: Arc<AtomicUsize>,
    /// What was done, by word.
    pub counts: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl Histories {
    fn tell(&self, customer: &str, told: Told) {
        self.told.lock().unwrap().entry(customer.to_owned()).or_default().push(told);
    }

    pub fn count(&self, what: &'static str) {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
    }
}

/// Somebody at a client host.
pub struct Person {
    world: World,
    histories: Histories,
    name: String,
    client: Client,
    chance: Chance,
    /// Dead letters that were redriven to their end.
    mended: BTreeSet<(&'static str, String)>,
}

impl Person {
    pub fn new(world: &World, histories: &Histories, name: &str) -> Person {
        Person {
            world: world.clone(),
            histories: histories.clone(),
            name: name.to_owned(),
            client: Client::new(Connector::new(&world.faults, name)),
            chance: Chance::of(world.seed, name),
            mended: BTreeSet::new(),
        }
    }

    async fn ask(&mut self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Option<Answer> {
        self.ask_for(PATIENCE, method, path, headers, body).await
    }

    async fn ask_for(
        &mut self,
        patience: Duration,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<Answer> {
        let gateway = self.chance.pick(&hosts("gateway")).clone();
        let said = format!("{method} {path}");
        let answer = self.client.send(&gateway, (method, path), headers, body.to_owned(), patience).await;
        let told = answer.as_ref().map_or("no answer".to_owned(), |answer| {
            let text = |field: &str| answer.body[field].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}{}", answer.status.as_u16(), text("order_id"), text("status"), text("reason"))
        });
        self.world.trace.line(&format!("{} asks {gateway}: {said}: {told}", self.name));
        answer
    }

    /// Asks until there is a definite answer: not that something is away or takes its time.
    async fn insist(&mut self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        for tries in 0..TRIES {
            if tries > 0 {
                self.histories.count("retries");
            }
            match self.ask(method.clone(), path, headers, body).await {
                Some(answer) if !again(answer.status) => return answer,
                _ => sleep(Duration::from_millis(50 + self.chance.below(200))).await,
            }
        }
        panic!("{method} {path} was not answered in {TRIES} tries");
    }
}

/// Whether the same request again may be answered otherwise.
fn again(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::CONFLICT || status == StatusCode::TOO_MANY_REQUESTS
}

/// A customer: places orders one after another, some of them twice, and calls some off.
pub async fn customer(mut person: Person) {
    let name = person.name.clone();
    while !person.histories.open.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(20 + person.chance.below(200))).await;
    }
    for number in 0..ORDERS_EACH {
        let key = format!("{name}-{number}");
        let Some(order) = person.place(&key).await else { continue };
        let cancels = person.chance.below(10);
        if cancels < 2 {
            person.call_off(&key, &order).await;
        } else if cancels == 2 {
            sleep(Duration::from_millis(person.chance.below(1_500))).await;
            person.call_off(&key, &order).await;
        }
        person.look(&order.order_id).await;
        sleep(Duration::from_millis(person.chance.below(400))).await;
    }
    person.histories.done.fetch_add(1, Ordering::SeqCst);
    while !person.histories.over.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(200)).await;
    }
    person.list("was listed", "/v1/orders?page_size=100").await;
    person.list("found", "/v1/orders?query=Seoul&page_size=100").await;
    person.histories.gone.fetch_add(1, Ordering::SeqCst);
}

impl Person {
    async fn place(&mut self, key: &str) -> Option<Seen> {
        let mut lines = vec![];
        for (sku, _, price) in PRODUCTS {
            if self.chance.one_in(if sku == "SIM-HOT" { 2 } else { 3 }) {
                // Now and then the price of yesterday.
                let price = if self.chance.one_in(25) { price + 500 } else { price };
                lines.push(json!({"sku": sku, "quantity": 1 + self.chance.below(2), "unit_price": price}));
            }
        }
        if lines.is_empty() {
            lines.push(json!({"sku": "SIM-TEA", "quantity": 1, "unit_price": 18_000}));
        }
        let method = *self.chance.pick(&METHODS);
        let country = if self.chance.one_in(12) { "AQ" } else { "KR" };
        let body = json!({
            "lines": lines,
            "payment_method": method,
            "shipping_address": {"recipient": self.name, "street": key, "city": "Seoul", "postal_code": "04524", "country": country},
        });
        let (body, name, wait) = (body.to_string(), self.name.clone(), format!("wait={}", self.chance.below(2)));
        let headers = [("Idempotency-Key", key), ("X-Customer-Id", name.as_str()), ("Prefer", wait.as_str())];
        if self.chance.one_in(8) {
            // Sent and left: it may have arrived.
            self.histories.count("abandoned requests");
            let patience = Duration::from_millis(self.chance.below(60));
            self.ask_for(patience, Method::POST, "/v1/orders", &headers, &body).await;
            if self.chance.one_in(2) {
                return None;
            }
        }
        let answer = self.insist(Method::POST, "/v1/orders", &headers, &body).await;
        if answer.status != StatusCode::CREATED {
            // The price of yesterday, for it is not the price of today.
            assert!(answer.status == StatusCode::UNPROCESSABLE_ENTITY, "{key}: {answer:?}");
            self.histories.count("orders refused at once");
            return None;
        }
        self.histories.count("orders placed");
        let order = Seen::of(&answer.body);
        self.histories.tell(&name, Told::Placed { key: key.to_owned(), order: order.clone() });
        if self.chance.one_in(4) {
            self.histories.count("orders asked for twice");
            let again = self.insist(Method::POST, "/v1/orders", &headers, &body).await;
            self.histories.tell(&name, Told::Placed { key: key.to_owned(), order: Seen::of(&again.body) });
        }
        Some(order)
    }

    async fn call_off(&mut self, key: &str, order: &Seen) {
        let (path, name) = (format!("/v1/orders/{}:cancel", order.order_id), self.name.clone());
        let key = format!("{key}-cancel");
        let headers = [("Idempotency-Key", key.as_str()), ("X-Customer-Id", name.as_str())];
        let answer = self.insist(Method::POST, &path, &headers, "{}").await;
        if answer.status == StatusCode::ACCEPTED {
            self.histories.count("cancellations accepted");
            self.histories.tell(&name, Told::CancelAccepted(Seen::of(&answer.body)));
        } else {
            self.histories.count("cancellations refused");
        }
    }

    /// In the end, all that the customer was told of.
    async fn list(&mut self, how: &'static str, path: &str) {
        let name = self.name.clone();
        let answer = self.insist(Method::GET, path, &[("X-Customer-Id", &name)], "").await;
        let orders = answer.body["orders"].as_array().cloned().unwrap_or_default();
        let order_ids = orders.iter().map(|order| Seen::of(order).order_id).collect();
        self.histories.tell(&name, Told::Listed { how, order_ids });
    }

    /// Looks at an order a few times.
    async fn look(&mut self, order_id: &str) {
        let (path, name) = (format!("/v1/orders/{order_id}"), self.name.clone());
        for _ in 0..1 + self.chance.below(3) {
            let answer = self.ask(Method::GET, &path, &[("X-Customer-Id", &name)], "").await;
            match answer {
                Some(Answer { status: StatusCode::OK, body }) => self.histories.tell(&name, Told::Saw(Seen::of(&body))),
                Some(Answer { status: StatusCode::NOT_FOUND, .. }) => {
                    self.histories.tell(&name, Told::Missing { order_id: order_id.to_owned() });
                }
                _ => {}
            }
            sleep(Duration::from_millis(self.chance.below(300))).await;
        }
    }
}

/// An operator: stocks the shelves, receives more, changes a price, and takes care of what was parked.
pub async fn operator(mut person: Person) {
    let shelf = |sku: &str, pieces: i64, price: i64| {
        let product = json!({"sku": sku, "name_ko": "상품", "name_en": sku, "category": "tea", "unit_price": price, "currency": "KRW"});
        (product.to_string(), json!({"quantity": pieces}).to_string())
    };
    for (sku, pieces, price) in PRODUCTS {
        let (product, receipt) = shelf(sku, pieces, price);
        person.command("/v1/products", &format!("add-{sku}"), &product).await;
        person.command(&format!("/v1/products/{sku}:receive"), &format!("receive-{sku}"), &receipt).await;
    }
    person.histories.open.store(true, Ordering::SeqCst);
    let mut round = 0;
    while !person.histories.over.load(Ordering::SeqCst) {
        let pause = if person.world.mends_at_once() { 20 } else { 300 };
        sleep(Duration::from_millis(pause + person.chance.below(2 * pause))).await;
        round += 1;
        if !person.world.faults.at_peace() && person.chance.one_in(6) {
            let (_, receipt) = shelf("SIM-HOT", 2, 0);
            person.command("/v1/products/SIM-HOT:receive", &format!("more-{round}"), &receipt).await;
            person.histories.count("receipts");
        }
        if !person.world.faults.at_peace() && person.chance.one_in(8) {
            // Up and down again: whoever looked in between is refused, or rejected on the way.
            for price in [19_000, 18_000] {
                let body = json!({"unit_price": price}).to_string();
                person.command("/v1/products/SIM-TEA:price", &format!("price-{round}-{price}"), &body).await;
            }
            person.histories.count("price changes");
        }
        person.mend(round).await;
    }
    for (sku, ..) in PRODUCTS {
        // Through every replica of gateway and inventory.
        for _ in 0..4 {
            let body = person.insist(Method::GET, &format!("/v1/products/{sku}"), &[], "").await.body;
            let number = |field: &str| body[field].as_i64().unwrap_or(-1);
            let shown = Told::Product { sku, price: number("unit_price"), available: number("available") };
            person.histories.tell("operator", shown);
        }
    }
    person.histories.gone.fetch_add(1, Ordering::SeqCst);
}

impl Person {
    async fn command(&mut self, path: &str, key: &str, body: &str) -> Answer {
        let headers = [("Idempotency-Key", key), ("X-Operator", "lee")];
        self.insist(Method::POST, path, &headers, body).await
    }

    /// Redrives what is parked, until it was answered that nothing waits any more. What is only behind another then is left
    /// alone, for it has to flow by itself.
    async fn mend(&mut self, round: u64) {
        for service in ["order", "inventory", "shipping"] {
            let path = format!("/v1/{service}/dead-letters");
            let Some(answer) = self.ask(Method::GET, &path, &[("X-Operator", "lee")], "").await else { return };
            let Some(letters) = answer.body["dead_letters"].as_array().cloned() else { return };
            for letter in letters {
                let id = letter["dead_letter_id"].as_str().unwrap_or_default();
                let behind = ["behind", "gap"].contains(&letter["messages"][0]["reason"].as_str().unwrap_or_default());
                let mended = (service, id.to_owned());
                if behind && self.mended.contains(&mended) {
                    continue;
                }
                let (path, key) = (format!("{path}/{id}:redrive"), format!("redrive-{service}-{id}-{round}"));
                let headers = [("Idempotency-Key", key.as_str()), ("X-Operator", "lee")];
                let body = json!({"reason": "it can be taken in by now"}).to_string();
                let answer = self.ask(Method::POST, &path, &headers, &body).await;
                if answer.is_some_and(|answer| answer.status == StatusCode::OK && answer.body["waiting"] == 0) {
                    self.mended.insert(mended);
                }
                self.histories.count("redrives");
            }
        }
    }
}
