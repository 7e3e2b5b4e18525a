//! The real program is killed at random moments, over and over, under clients that do not give up.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use auditor::logs::Queues;
use clock::{Clock, SystemClock};
use monolith::folder::Folder;
use order::order::Status;
use rand::Rng;
use store::seal::{self, Verdict};
use tokio::sync::watch;

use crate::audit;
use crate::books;
use crate::customers::{CallingOff, History, books_hold_within, ended_within, kept, shop, stock_up};
use crate::program::Program;

const ROUNDS: usize = 30;
const CLIENTS: usize = 16;
/// Parcels are picked up and arrive while the test runs.
const PACE: [&str; 4] = ["--pick-up-ms", "150", "--transit-ms", "100"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine_at_any_moment_loses_nothing_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut program = Program::start_with(&data, &PACE).await;
    let (address, seen) = watch::channel(program.address.clone());
    stock_up("", &program.address).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            #[expect(clippy::disallowed_methods, reason = "clients are no part of the shop")]
            tokio::spawn(shop(String::new(), number, seen.clone(), stop.clone()))
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
        assert!(kept(status, *called_off), "{id} of {key} is {status:?}");
    }
    assert_eq!(orders.len(), history.len(), "an order for each key");
    let promised = history.values().filter(|(_, called_off)| *called_off == CallingOff::Promised).count();
    let count = |end: Status| orders.values().filter(|status| **status == end).count();
    let (delivered, cancelled) = (count(Status::Delivered), count(Status::Cancelled));
    assert!(promised > 0 && cancelled > 0 && delivered > 0, "{promised} {cancelled} {delivered}");
    println!("{} orders over {ROUNDS} kills, {delivered} delivered, {cancelled} cancelled", orders.len());
}
