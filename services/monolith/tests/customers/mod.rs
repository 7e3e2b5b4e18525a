//! Customers who do not give up, whatever becomes of the shop: each order is asked for until it is answered.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use order::order::Status;
use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::watch;

pub const TEA: (&str, i64) = ("TEA-BOSEONG-100", 18_000);
pub const RICE: (&str, i64) = ("RICE-ICHEON-4KG", 21_900);

/// How long a customer goes on asking.
const PATIENCE: Duration = Duration::from_secs(120);
const METHODS: [(&str, &str); 8] = [
    ("pm_card_ok", "KR"),
    ("pm_card_ok", "KR"),
    ("pm_card_ok", "AQ"),
    ("pm_card_declined", "KR"),
    ("pm_card_insufficient_funds", "KR"),
    ("pm_card_twice", "KR"),
    ("pm_card_slow", "KR"),
    ("pm_card_lost_reply", "KR"),
];

pub type Http = Client<HttpConnector, Full<Bytes>>;

pub fn client() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

/// Sends one request; `None` if nobody answered.
pub async fn send(
    http: &Http,
    address: &str,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Option<(StatusCode, Value)> {
    let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answered = async {
        let answer = http.request(request.body(Full::new(body.into())).unwrap()).await.ok()?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await.ok()?.to_bytes();
        Some((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    };
    tokio::time::timeout(Duration::from_secs(40), answered).await.ok().flatten()
}

pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

/// An order of two teas and one rice.
pub fn order(method: &str, country: &str) -> Value {
    json!({
        "lines": [
            {"sku": TEA.0, "quantity": 2, "unit_price": TEA.1},
            {"sku": RICE.0, "quantity": 1, "unit_price": RICE.1},
        ],
        "payment_method": method,
        "shipping_address": {
            "recipient": "Kim", "street": "Sejong-daero 110", "city": "Seoul", "postal_code": "04524", "country": country,
        },
    })
}

/// What a client was told of calling an order off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CallingOff {
    /// It did not ask, or was refused.
    Not,
    /// Accepted before the order was confirmed: it is going to be cancelled.
    Promised,
    /// Accepted afterwards: it is cancelled, unless the parcel had left.
    Tried,
}

/// What one client did: the order that each of its keys was answered with, and what it was told of calling it off.
pub type History = BTreeMap<String, (String, CallingOff)>;

/// Places orders until told to stop, each until it is answered, some of them twice, and calls some off.
pub async fn shop(
    run: String,
    client_number: usize,
    address: watch::Receiver<String>,
    stop: Arc<AtomicBool>,
) -> History {
    let (http, mut history) = (client(), History::new());
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let (key, draw): (_, u32) = (format!("{run}client-{client_number}-{number}"), rand::rng().random());
        let (method, country) = METHODS[draw as usize % METHODS.len()];
        let body = order(method, country).to_string();
        let placed = insist(&http, &address, "/v1/orders", &key, &body).await.expect("an order is not refused");
        let order_id = text(&placed, "order_id").to_owned();
        if draw & 0x100 != 0 {
            let again = insist(&http, &address, "/v1/orders", &key, &body).await.unwrap();
            assert_eq!(text(&again, "order_id"), order_id, "{key} was answered with two orders");
        }
        let mut called_off = CallingOff::Not;
        if draw & 0x600 == 0 {
            let path = format!("/v1/orders/{order_id}:cancel");
            let asked = insist(&http, &address, &path, &format!("{key}-cancel"), "{}").await;
            called_off = match asked.as_ref().map(|order| text(order, "status")) {
                None => CallingOff::Not,
                Some("ORDER_STATUS_PLACED" | "ORDER_STATUS_CANCELLED") => CallingOff::Promised,
                Some(_) => CallingOff::Tried,
            };
        }
        history.insert(key, (order_id, called_off));
    }
    history
}

/// Asks again under the same key until there is an answer: the order, or a definite no to a cancellation.
async fn insist(http: &Http, address: &watch::Receiver<String>, path: &str, key: &str, body: &str) -> Option<Value> {
    // Some wait for the end; the others press on, so that much is under way when the process dies.
    let wait = if key.ends_with('7') { "wait=2" } else { "wait=0" };
    let started = tokio::time::Instant::now();
    while started.elapsed() < PATIENCE {
        let present = address.borrow().clone();
        let headers = [("Idempotency-Key", key), ("Prefer", wait)];
        match send(http, &present, Method::POST, path, &headers, body.to_owned()).await {
            Some((StatusCode::CREATED | StatusCode::ACCEPTED, order)) => return Some(order),
            Some((StatusCode::UNPROCESSABLE_ENTITY, problem)) if path.ends_with(":cancel") => {
                assert!(["already_rejected", "too_late"].contains(&text(&problem, "reason")), "{problem}");
                return None;
            }
            // Too many at once, or somebody else was faster: ask again.
            Some((StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT, _)) => {}
            Some((status, problem)) => assert!(status.is_server_error() && status != 500, "{key}: {status} {problem}"),
            None => {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{key} was not answered in {PATIENCE:?}");
}

/// Whether what a customer was told came true.
pub fn kept(status: &Status, called_off: CallingOff) -> bool {
    match called_off {
        CallingOff::Not => *status != Status::Cancelled,
        CallingOff::Promised => *status == Status::Cancelled,
        CallingOff::Tried => matches!(status, Status::Cancelled | Status::Delivered),
    }
}

/// Puts enough of what is bought on the shelves.
pub async fn stock_up(run: &str, address: &str) {
    for sku in [TEA.0, RICE.0] {
        let key = format!("{run}{sku}");
        let headers = [("Idempotency-Key", key.as_str()), ("X-Operator", "lee")];
        let path = format!("/v1/products/{sku}:receive");
        let (status, answer) =
            send(&client(), address, Method::POST, &path, &headers, r#"{"quantity":1000000}"#.to_owned())
                .await
                .unwrap();
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
}

/// All orders come to their end.
pub async fn ended_within(patience: Duration, address: &str, ids: impl Iterator<Item = &String>) {
    let (http, started) = (client(), tokio::time::Instant::now());
    for id in ids {
        loop {
            let (_, order) =
                send(&http, address, Method::GET, &format!("/v1/orders/{id}"), &[], String::new()).await.unwrap();
            let ends = ["ORDER_STATUS_DELIVERED", "ORDER_STATUS_REJECTED", "ORDER_STATUS_CANCELLED"];
            if ends.contains(&text(&order, "status")) && text(&order, "cancellation") != "CANCELLATION_REQUESTED" {
                break;
            }
            assert!(started.elapsed() < patience, "after {patience:?}: {order}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The auditor has heard everything, and finds nothing wrong.
pub async fn books_hold_within(patience: Duration, address: &str) {
    let (http, started) = (client(), tokio::time::Instant::now());
    loop {
        let operator = [("X-Operator", "lee")];
        let (_, books) = send(&http, address, Method::GET, "/v1/books", &operator, String::new()).await.unwrap();
        let all = |list: &str, fits: fn(&Value) -> bool| books[list].as_array().unwrap().iter().all(fits);
        let caught_up = all("topics", |topic| topic["behind"] == 0) && books["orders_under_way"] == 0;
        if caught_up && all("invariants", |invariant| invariant["holds"] == true) {
            return;
        }
        assert!(started.elapsed() < patience, "after {patience:?}: {books:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
