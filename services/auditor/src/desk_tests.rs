use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use clock::{Clock, Ids};
use messaging::envelope::{Envelope, PRIVATE};
use proto::events as told;
use store::StreamId;
use store::memory::Memory;

use super::*;
use crate::books::tests::{GOOD, ID, Told, facts, received};
use crate::fact::{Body, Moment};
use prost::{Message, Name};

const TERMS: Terms =
    Terms { grace: Duration::from_secs(60), settle: Duration::from_secs(120), deliver: Duration::from_secs(600) };

/// A desk over a store in memory, and a clock that is moved by hand.
pub(super) struct World {
    pub(super) process: Process,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<ByHand>,
}

/// Shows the time of the first fact, and so many microseconds more.
#[derive(Default)]
pub(super) struct ByHand(AtomicI64);

impl Clock for ByHand {
    fn now(&self) -> Timestamp {
        Timestamp(1_800_000_000_000_000 + self.0.load(Ordering::Relaxed))
    }
}

impl World {
    pub(super) fn new() -> World {
        let clock = Arc::new(ByHand::default());
        let process = Process::new(clock.clone(), Arc::new(Ids::random(clock.clone())));
        World { process, store: Arc::new(Memory::new(clock.clone())), clock }
    }

    fn wait(&self, time: Duration) {
        self.clock.0.fetch_add(i64::try_from(time.as_micros()).unwrap(), Ordering::Relaxed);
    }

    pub(super) async fn desk(&self) -> Desk {
        Desk::open(&self.process, &self.store, TERMS).await.unwrap()
    }

    async fn version(&self, stream: &StreamId) -> Version {
        self.store.version(stream).await.unwrap()
    }
}

/// The fact as a message that was delivered.
pub(super) fn delivered((offset, fact): (u64, Fact)) -> Delivered {
    let order_id = fact.correlation_id.clone();
    let goods = || vec![told::Goods { sku: "TEA-1".into(), quantity: 2 }];
    let (kind, payload) = match &fact.body {
        Body::Private => (PRIVATE.to_owned(), vec![]),
        Body::Placed { .. } => {
            let items = vec![told::Item { sku: "TEA-1".into(), quantity: 2, unit_price: 450 }];
            let (total, currency, customer_id) = (900, "KRW".into(), String::new());
            encoded(&told::OrderPlaced { order_id, customer_id, items, total, currency })
        }
        Body::Reserved(_) => encoded(&told::StockReserved { order_id, goods: goods() }),
        Body::Requested(_) => encoded(&told::PaymentRequested { order_id, amount: 900, currency: "KRW".into() }),
        Body::Happened(Moment::Confirmed) => encoded(&told::OrderConfirmed { order_id }),
        Body::Happened(Moment::Shipped) => encoded(&told::OrderShipped { order_id }),
        Body::Happened(Moment::Delivered) => encoded(&told::OrderDelivered { order_id }),
        Body::Happened(Moment::Left) => encoded(&told::StockShipped { order_id }),
        Body::Happened(Moment::Charged) => encoded(&told::PaymentCharged { order_id }),
        Body::Happened(Moment::Labelled) => encoded(&told::ShipmentCreated { order_id, ..Default::default() }),
        Body::Happened(Moment::Dispatched) => encoded(&told::ShipmentDispatched { order_id }),
        Body::Happened(Moment::Arrived) => encoded(&told::ShipmentDelivered { order_id }),
        other => panic!("{other:?} is in none of these tests"),
    };
    delivered_as((offset, fact), (kind, payload))
}

fn delivered_as((offset, fact): (u64, Fact), (kind, payload): (String, Vec<u8>)) -> Delivered {
    let Fact { id, source, stream, version, causation_id, correlation_id, time, .. } = fact;
    let (schema, traceparent) = (1, String::new());
    let envelope = Envelope {
        id,
        source,
        kind,
        stream,
        version,
        schema,
        time,
        correlation_id,
        causation_id,
        traceparent,
        payload,
    };
    Delivered { topic: "t".into(), partition: 0, offset, message: envelope.encode() }
}

fn encoded<M: Message + Name>(fact: &M) -> (String, Vec<u8>) {
    (M::full_name(), fact.encode_to_vec())
}

pub(super) fn told(name: &str) -> &'static [Told] {
    GOOD.iter().find(|(other, _)| *other == name).unwrap().1
}

async fn hear(desk: &mut Desk, facts: impl IntoIterator<Item = Fact>) {
    for message in (0..).zip(facts).map(delivered) {
        desk.hear(message).await.unwrap();
    }
}

#[tokio::test]
async fn a_page_leaves_memory_once_its_order_has_ended_and_it_is_written() {
    let (world, page) = (World::new(), kept::page_stream(ID));
    let mut desk = world.desk().await;
    let all = facts(0, told("delivered"));
    hear(&mut desk, all[..10].to_vec()).await;
    assert_eq!(world.version(&page).await, 0, "nothing is written yet");
    desk.write().await.unwrap();
    assert_eq!((world.version(&page).await, world.store.armed().await), (1, Ok(1)));
    assert!(desk.books.page(ID).is_some() && desk.pages.len() == 1, "its parcel is awaited");
    hear(&mut desk, all[10..].to_vec()).await;
    desk.write().await.unwrap();
    assert!(desk.books.page(ID).is_none() && desk.pages.is_empty());
    assert_eq!((world.version(&page).await, world.store.armed().await), (2, Ok(0)));
    desk.write().await.unwrap();
    assert_eq!(world.version(&page).await, 2, "what did not change is not written");
}

/// After a restart, or for want of room: the page is fetched before a fact of it is heard.
#[tokio::test]
async fn a_page_that_is_not_in_memory_is_taken_up_where_it_was() {
    let world = World::new();
    let all = facts(0, told("delivered"));
    for (n, fact) in all.iter().enumerate() {
        let mut desk = world.desk().await;
        // What was not acknowledged comes again.
        hear(&mut desk, all[..=n].to_vec()).await;
        desk.write().await.unwrap();
        assert_eq!(world.version(&kept::page_stream(ID)).await, n as u64 + 1, "after {:?}", fact.body);
    }
    let desk = world.desk().await;
    assert_eq!(desk.findings, Findings::default());
    let shelf = serde_json::to_value(desk.books.shelf("TEA-1").unwrap()).unwrap();
    assert_eq!(shelf["taken"], 2, "counted once");
}

/// A commit has a limit; more facts than that are written on the way.
#[tokio::test]
async fn more_than_one_commit_holds_is_written_in_several() {
    let world = World::new();
    let mut desk = world.desk().await;
    hear(&mut desk, (0..1_000).map(|n| facts(n, told("delivered")).remove(0))).await;
    assert!(desk.books.changes() < ROOM, "{} changes wait", desk.books.changes());
    desk.write().await.unwrap();
    assert_eq!(world.store.armed().await, Ok(1_000));
}

#[tokio::test]
async fn memory_has_a_limit() {
    let world = World::new();
    let mut desk = world.desk().await;
    for n in 0..PAGES as u128 + 1 {
        desk.pages.insert(n.to_string(), Written::default());
    }
    hear(&mut desk, facts(0, &told("delivered")[..1])).await;
    desk.write().await.unwrap();
    assert!(desk.pages.is_empty() && desk.books.page(ID).is_none());
    hear(&mut desk, facts(0, told("delivered"))).await;
    desk.write().await.unwrap();
    assert_eq!(world.version(&kept::page_stream(ID)).await, 2);
}

/// However many shelves there are, all are found again.
#[tokio::test]
async fn shelves_are_taken_up_where_they_were() {
    let world = World::new();
    let mut desk = world.desk().await;
    for n in 0..1_100 {
        let sku = format!("TEA-{n}");
        let fact = Fact { stream: format!("stock-{sku}"), ..received(1, 1) };
        desk.hear(delivered_as((n, fact), encoded(&told::StockReceived { sku, quantity: 1 }))).await.unwrap();
    }
    desk.write().await.unwrap();
    let shelves: Vec<_> = desk.books.shelves().collect();
    assert_eq!(shelves.len(), 1_100);
    assert_eq!(world.desk().await.books.shelves().collect::<Vec<_>>(), shelves);
}

/// Time passes, and nobody says anything.
#[tokio::test]
async fn what_is_due_is_judged_although_nothing_is_heard() {
    let world = World::new();
    let mut desk = world.desk().await;
    // A parcel is awaited, and of the product less was received than is set aside.
    hear(&mut desk, facts(0, told("confirmed"))).await;
    let received = received(1, 1);
    let message = encoded(&told::StockReceived { sku: "TEA-1".into(), quantity: 1 });
    desk.hear(delivered_as((99, received), message)).await.unwrap();
    desk.write().await.unwrap();
    desk.look().await.unwrap();
    assert_eq!(desk.findings, Findings::default());
    for (wait, broken) in [
        (TERMS.grace, vec![Invariant::NoOversell]),
        (TERMS.deliver, vec![Invariant::NoOversell, Invariant::EveryOrderEnds]),
    ] {
        world.wait(wait + Duration::from_secs(20));
        desk.look().await.unwrap();
        let found: Vec<_> =
            Invariant::LIVE.into_iter().filter(|invariant| desk.findings.broken(*invariant).is_some()).collect();
        assert_eq!(found, broken, "after {wait:?}");
        assert_eq!(world.desk().await.findings, desk.findings, "it is written down");
    }
    let before = world.version(&kept::shelf_stream("TEA-1")).await;
    desk.look().await.unwrap();
    assert_eq!(world.version(&kept::shelf_stream("TEA-1")).await, before, "once is enough");
    assert_eq!(world.store.armed().await, Ok(0), "nothing more is waited for");
}

/// Two auditors get into each other's way and go wrong nowhere: the slower one has to begin again.
#[tokio::test]
async fn what_somebody_else_wrote_is_not_written_over() {
    let world = World::new();
    let (mut one, mut other) = (world.desk().await, world.desk().await);
    hear(&mut one, facts(0, &told("delivered")[..1])).await;
    hear(&mut other, facts(0, &told("delivered")[..1])).await;
    one.write().await.unwrap();
    assert!(other.write().await.is_err());
    assert_eq!(world.version(&kept::page_stream(ID)).await, 1);
}
