//! The real program is killed at random moments, over and over, under clients that do not give up.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use auditor::logs::Queues;
use clock::{Clock, SystemClock};
use http::{Method, StatusCode};
use monolith::folder::Folder;
use order::order::Status;
use rand::Rng;
use serde_json::Value;
use store::seal::{self, Verdict};
use tokio::sync::watch;

use crate::audit;
use crate::books;
use crate::harness::{RICE, TEA, order, text};
use crate::program::{Http, Program, client, send};

const ROUNDS: usize = 30;
const CLIENTS: usize = 16;
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

/// Parcels are picked up and arrive while the test runs.
const PACE: [&str; 4] = ["--pick-up-ms", "150", "--transit-ms", "100"];

/// What a client was told of calling an order off.
#[derive(Clone, Copy, PartialEq)]
enum CallingOff {
    /// It did not ask, or was refused.
    Not,
    /// Accepted before the order was confirmed: it is going to be cancelled.
    Promised,
    /// Accepted afterwards: it is cancelled, unless the parcel had left.
    Tried,
}

/// What one client did: the order that each of its keys was answered with, and what it was told of calling it off.
type History = BTreeMap<String, (String, CallingOff)>;

/// Places orders until told to stop, each until it is answered, some of them twice, and calls some off.
async fn shop(client_number: usize, address: watch::Receiver<String>, stop: Arc<AtomicBool>) -> History {
    let (http, mut history) = (client(), History::new());
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let (key, draw): (_, u32) = (format!("client-{client_number}-{number}"), rand::rng().random());
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
    for _ in 0..3_000 {
        let present = address.borrow().clone();
        let headers = [("Idempotency-Key", key), ("Prefer", wait)];
        match send(http, &present, Method::POST, path, &headers, body.to_owned()).await {
            Some((StatusCode::CREATED | StatusCode::ACCEPTED, order)) => return Some(order),
            Some((StatusCode::UNPROCESSABLE_ENTITY, problem)) if path.ends_with(":cancel") => {
                assert!(["already_rejected", "too_late"].contains(&text(&problem, "reason")), "{problem}");
                return None;
            }
            Some((status, problem)) => assert!(status.is_server_error() && status != 500, "{key}: {status} {problem}"),
            None => {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{key} was not answered within a minute");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine_at_any_moment_loses_nothing_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut program = Program::start_with(&data, &PACE).await;
    let (address, seen) = watch::channel(program.address.clone());
    stock_up(&program.address).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            #[expect(clippy::disallowed_methods, reason = "clients are no part of the shop")]
            tokio::spawn(shop(number, seen.clone(), stop.clone()))
        })
        .collect();
    for _ in 0..ROUNDS {
        let life = rand::rng().random_range(50..700);
        tokio::time::sleep(Duration::from_millis(life)).await;
        program.kill().await;
        program = Program::start_with(&data, &PACE).await;
        address.send_replace(program.address.clone());
    }
    stop.store(true, Ordering::SeqCst);
    let mut history = History::new();
    for done in clients {
        history.extend(done.await.unwrap());
    }
    ended_within(Duration::from_secs(30), &program.address, history.values().map(|(id, _)| id)).await;
    books_hold_within(Duration::from_secs(10), &program.address).await;
    assert_eq!(program.stop().await, Some(0));

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let folder = Folder::take(&data).unwrap();
    let stores = folder.stores(&clock).unwrap();
    for (name, store) in stores.sealed() {
        let verdict = seal::verify(store.as_ref(), &folder.seals(name)).await.unwrap();
        assert!(matches!(verdict, Verdict::Good { sealed: 1.., .. }), "{name}: {verdict:?}");
    }
    assert_eq!(books::open_sagas(&stores).await, Vec::<String>::new());
    for store in [&stores.order, &stores.inventory, &stores.shipping] {
        assert_eq!(store.streams("parked-", "", 9).await.unwrap(), [], "a message could not be taken in");
    }
    let logs = audit::logs(&stores).await;
    assert_eq!(logs.judge(&Queues::default(), clock.now(), Duration::ZERO), []);
    let orders = books::balance(&stores).await;
    assert!(history.len() >= ROUNDS, "only {} orders were placed", history.len());
    for (key, (id, called_off)) in &history {
        let status = orders.get(id).unwrap_or_else(|| panic!("order {id} of {key} was answered and is gone"));
        let kept = match called_off {
            CallingOff::Not => *status != Status::Cancelled,
            CallingOff::Promised => *status == Status::Cancelled,
            CallingOff::Tried => matches!(status, Status::Cancelled | Status::Delivered),
        };
        assert!(kept, "{id} of {key} is {status:?}");
    }
    assert_eq!(orders.len(), history.len(), "an order for each key");
    let promised = history.values().filter(|(_, called_off)| *called_off == CallingOff::Promised).count();
    let count = |end: Status| orders.values().filter(|status| **status == end).count();
    let (delivered, cancelled) = (count(Status::Delivered), count(Status::Cancelled));
    assert!(promised > 0 && cancelled > 0 && delivered > 0, "{promised} {cancelled} {delivered}");
    println!("{} orders over {ROUNDS} kills, {delivered} delivered, {cancelled} cancelled", orders.len());
}

/// The auditor was killed like everybody else.
async fn books_hold_within(patience: Duration, address: &str) {
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

async fn stock_up(address: &str) {
    for sku in [TEA.0, RICE.0] {
        let headers = [("Idempotency-Key", sku), ("X-Operator", "lee")];
        let path = format!("/v1/products/{sku}:receive");
        let (status, answer) =
            send(&client(), address, Method::POST, &path, &headers, r#"{"quantity":1000000}"#.to_owned())
                .await
                .unwrap();
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
}

async fn ended_within(patience: Duration, address: &str, ids: impl Iterator<Item = &String>) {
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
