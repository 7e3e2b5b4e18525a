//! Customers of a shop whose processes and servers are killed, and the judge of what became of it. `cargo xtask crash` starts it
//! and does the killing: on its own there is nothing that it could ask.
#![expect(clippy::unwrap_used, reason = "what cannot go on fails")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it did is its result")]
#![expect(unreachable_pub, reason = "one program: its modules use each other")]
#![expect(
    clippy::disallowed_methods,
    reason = "it is told in the environment where everything is, and is no part of the shop"
)]

#[path = "../it/audit.rs"]
mod audit;
#[path = "../it/books.rs"]
mod books;
#[path = "../customers/mod.rs"]
mod customers;
#[path = "../ledgers/mod.rs"]
mod ledgers;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clock::{Clock, SystemClock};
use messaging::kafka::{self, Kafka};
use monolith::shop::Stores;
use order::order::Status;
use search::fts::Fts;
use store::Store;
use store::postgres::Postgres;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::customers::{History, ended_within, kept, shop, stock_up};

const CUSTOMERS: usize = 16;
/// How long the shop may take to come to its end once nothing is killed any more.
const SETTLE: Duration = Duration::from_secs(150);

#[tokio::main]
async fn main() {
    let told = |name: &str| std::env::var(name).unwrap_or_default();
    if told("JANGTEO_TEST_CRASH").is_empty() {
        return eprintln!("!!! SKIPPED: `cargo xtask crash` starts a shop that can be killed, and this with it");
    }
    let (address, run) = (told("JANGTEO_TEST_SHOP"), format!("{}-", uuid::Uuid::now_v7().simple()));
    stock_up(&run, &address).await;
    let history = shopping(&run, &address).await;
    ended_within(SETTLE, &address, history.values().map(|(id, _)| id)).await;
    customers::books_hold_within(SETTLE, &address).await;
    println!("{} orders were placed, and each came to its end", history.len());
    judge(&history, &stores(&told("JANGTEO_TEST_POSTGRES"), told("JANGTEO_TEST_KAFKA")).await).await;
}

/// Until somebody says something on standard input.
async fn shopping(run: &str, address: &str) -> History {
    let stop = Arc::new(AtomicBool::new(false));
    let (_kept, seen) = watch::channel(address.to_owned());
    let customers: Vec<_> =
        (0..CUSTOMERS).map(|number| tokio::spawn(shop(run.to_owned(), number, seen.clone(), stop.clone()))).collect();
    let enough = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]));
    enough.await.unwrap().unwrap();
    stop.store(true, Ordering::SeqCst);
    let mut history = History::new();
    for customer in customers {
        history.extend(customer.await.unwrap());
    }
    history
}

/// The stores of all services, read by an administrator, and the topics.
async fn stores(postgres: &str, brokers: String) -> Stores {
    let (server, _) = postgres.rsplit_once('/').unwrap();
    let open = async |database: &str| {
        let store = Postgres::open(&format!("{server}/{database}"), None).await.unwrap();
        Arc::new(store) as Arc<dyn Store>
    };
    let settings = kafka::Settings { servers: brokers, prefix: String::new(), replicas: 1 };
    Stores {
        order: open("order").await,
        inventory: open("inventory").await,
        payment: open("payment").await,
        shipping: open("shipping").await,
        bank: open("bank").await,
        carrier: open("carrier").await,
        auditor: open("auditor").await,
        bus: Arc::new(Kafka::new(&settings).unwrap()),
        order_search: Arc::new(Fts::in_memory()),
        product_search: Arc::new(Fts::in_memory()),
    }
}

async fn judge(history: &History, stores: &Stores) {
    let (started, clock) = (Instant::now(), SystemClock);
    loop {
        let findings = audit::findings(stores, clock.now()).await;
        let armed = books::armed(stores).await;
        if findings.is_empty() && armed == 0 {
            break;
        }
        // What was taken in last is acknowledged, and marked, some moments later.
        assert!(started.elapsed() < Duration::from_secs(30), "{armed} timers are armed, and {findings:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(books::open_sagas(stores).await, Vec::<String>::new());
    let orders = books::balance(stores).await;
    for (key, (id, called_off)) in history {
        let status = orders.get(id).unwrap_or_else(|| panic!("order {id} of {key} was answered and is gone"));
        assert!(kept(status, *called_off), "{id} of {key}, called off: {called_off:?}, is {status:?}");
    }
    assert_eq!(orders.len(), history.len(), "an order for each key");
    let count = |end: Status| orders.values().filter(|status| **status == end).count();
    let (delivered, cancelled) = (count(Status::Delivered), count(Status::Cancelled));
    println!("{delivered} delivered, {cancelled} cancelled, {} rejected", orders.len() - delivered - cancelled);
}
