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
#[path = "../tally/mod.rs"]
mod tally;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clock::{Clock, SystemClock};
use host::Process;
use messaging::kafka::{self, Kafka};
use messaging::{Messages, Without};
use monolith::shop::Stores;
use order::order::Status;
use search::fts::Fts;
use store::Store;
use store::memory::Memory;
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
    let bus = Arc::new(topics(told("JANGTEO_TEST_KAFKA")));
    let counted = count(bus.clone(), told("JANGTEO_WITHOUT") == "inbox");
    stock_up(&run, &address).await;
    let history = shopping(&run, &address).await;
    ended_within(SETTLE, &address, history.values().map(|(id, _)| id)).await;
    customers::books_hold_within(SETTLE, &address).await;
    println!("{} orders were placed, and each came to its end", history.len());
    let delivered = judge(&history, &stores(&told("JANGTEO_TEST_POSTGRES"), bus).await).await;
    each_counted_once(counted.as_ref(), delivered).await;
}

fn topics(brokers: String) -> Kafka {
    Kafka::new(&kafka::Settings { servers: brokers, prefix: String::new(), replicas: 1 }).unwrap()
}

/// Has a listener count the delivered orders, with or without an inbox. Where that is kept.
fn count(bus: Arc<Kafka>, without_inbox: bool) -> Arc<dyn Store> {
    let process = Process::on_this_machine();
    let store: Arc<dyn Store> = Arc::new(Memory::new(process.clock.clone()));
    let mut messages = Messages::new(&process, bus);
    messages.without = without_inbox.then_some(Without::Inbox);
    tally::listen(&process, store.clone(), &messages);
    store
}

/// Whatever was told again, after a crash of whoever told it, was counted once.
async fn each_counted_once(counted: &dyn Store, delivered: usize) {
    let started = Instant::now();
    let streams = loop {
        let streams = counted.streams("tally-", "", 1_000_000).await.unwrap();
        if streams.len() >= delivered {
            break streams;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{} of {delivered} were counted", streams.len());
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    for stream in streams {
        let times = counted.version(&stream).await.unwrap();
        assert_eq!(times, 1, "{stream} was counted {times} times");
    }
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
async fn stores(postgres: &str, bus: Arc<Kafka>) -> Stores {
    let (server, _) = postgres.rsplit_once('/').unwrap();
    let open = async |database: &str| {
        let store = Postgres::open(&format!("{server}/{database}"), None).await.unwrap();
        Arc::new(store) as Arc<dyn Store>
    };
    Stores {
        order: open("order").await,
        inventory: open("inventory").await,
        payment: open("payment").await,
        shipping: open("shipping").await,
        bank: open("bank").await,
        carrier: open("carrier").await,
        auditor: open("auditor").await,
        bus,
        order_search: Arc::new(Fts::in_memory()),
        product_search: Arc::new(Fts::in_memory()),
    }
}

/// How many orders were delivered.
async fn judge(history: &History, stores: &Stores) -> usize {
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
    delivered
}
