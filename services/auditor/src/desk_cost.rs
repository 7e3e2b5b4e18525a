//! What the books cost an order: `cargo test --release -p auditor cost -- --nocapture`.
use std::time::Duration;

use messaging::{Bus, Message};

use super::tests::{World, delivered, told};
use super::*;
use crate::books::tests::{facts, received};
use crate::fact::Body;

/// What the program has; with its features it is there already.
#[cfg(not(feature = "infra"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ORDERS: u128 = 20_000;
/// So many are under way at once where a thousand a second take ten seconds each.
const UNDER_WAY: usize = 10_000;

/// All that is published of orders of one line, each phase of theirs after the other: checkout, pick-up, delivery.
fn messages() -> Vec<Message> {
    let orders: Vec<_> = (0..ORDERS).map(|n| facts(n, told("delivered"))).collect();
    let (mut messages, mut stock) = (vec![], 0);
    for orders in orders.chunks(UNDER_WAY) {
        for (phase, of_stock) in [(0..8, 1), (8..11, 1), (11..13, 0)] {
            for facts in orders {
                messages.extend(facts[phase.clone()].iter().map(|fact| delivered((0, fact.clone())).message));
                for _ in 0..of_stock {
                    stock += 1;
                    messages.push(delivered((0, Fact { body: Body::Private, ..received(stock, 1) })).message);
                }
            }
        }
    }
    messages
}

/// By the CPU time of all threads: taking facts in alone; and everything, which is to read messages from a bus on a file,
/// take them in, write to a store on a file and acknowledge.
#[tokio::test]
#[cfg_attr(debug_assertions, ignore = "only a release build is measured")]
#[expect(clippy::print_stdout, reason = "the figures are the result")]
async fn an_order_costs_the_books_little() {
    let (folder, world) = (tempfile::tempdir().unwrap(), World::new());
    let bus = messaging::sqlite::Sqlite::create(&folder.path().join("bus.db")).unwrap();
    let store = store::sqlite::Sqlite::create(&folder.path().join("auditor.db"), world.clock.clone()).unwrap();
    let world = World { store: Arc::new(store), ..world };
    bus.create("t", 6).await.unwrap();
    let messages = messages();
    for messages in messages.chunks(5_000) {
        bus.publish("t", messages.to_vec()).await.unwrap();
    }
    let facts: Vec<_> = messages.iter().map(|message| Fact::of(Envelope::decode(message).unwrap())).collect();
    let each = |time: Duration| time.as_secs_f64() * 1e6 / ORDERS as f64;
    let (mut books, started) = (Books::default(), cpu());
    facts.iter().for_each(|fact| books.hear(fact).unwrap());
    let hear = each(cpu() - started);

    let (mut desk, mut member) = (world.desk().await, bus.subscribe("auditor", &["t"]).await.unwrap());
    let (started, mut left) = (cpu(), messages.len());
    while left > 0 {
        let mut ends = BTreeMap::new();
        for _ in 0..16.min(left.div_ceil(256)) {
            for delivered in member.next(256).await.unwrap() {
                left -= 1;
                ends.insert(delivered.partition, delivered.offset);
                desk.hear(delivered).await.unwrap();
            }
        }
        desk.write().await.unwrap();
        for (partition, offset) in ends {
            member.acknowledge("t", partition, offset).await.unwrap();
        }
    }
    let all = each(cpu() - started);
    let written = world.store.read_all(0, usize::MAX).await.unwrap().len() as f64 / ORDERS as f64;
    println!("{ORDERS} orders, {} messages; of each:", messages.len());
    println!("hear {hear:.1} us of CPU, all {all:.1} us, {written:.1} pages and shelves written");
    assert_eq!(desk.findings, Findings::default());
    // About a tenth of a millisecond on two cores of their own; the bar leaves room for others on the machine.
    assert!(hear <= 30.0 && all <= 200.0);
}

/// The CPU time of this process.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |n: usize| fields[n].parse::<u64>().unwrap();
    // utime and stime, in hundredths of a second.
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}
