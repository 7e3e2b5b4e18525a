//! Two replicas over one store: neither knows what the other has committed, and neither is wrong for it.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cache::Cache;
use clock::{Ids, Timestamp, TokioClock};
use futures::future::BoxFuture;
use host::Process;
use host::call::Caller;
use host::error::Refusal;
use proto::inventory as message;
use search::fts::Fts;
use search::projection::{Meters, Projector};
use store::memory::Memory;
use store::wrapped::{Wrapped, Wrapping};
use store::{Commit, CommitError, Meta, ReadError, Store, Versions};
use tokio::sync::oneshot;

use crate::found::Found;
use crate::service::Inventory;

const TEA: &str = "TEA-1";
const ONE: &str = "0190b8f1-2c3d-7e4f-8a9b-0c1d2e3f4a51";
const THREE: &str = "0190b8f1-2c3d-7e4f-8a9b-0c1d2e3f4a53";
const TWO: &str = "0190b8f1-2c3d-7e4f-8a9b-0c1d2e3f4a52";

type Waiting = (Commit, oneshot::Sender<Result<Versions, CommitError>>);

struct HoldsBack {
    inner: Arc<dyn Store>,
    waiting: Mutex<Option<Vec<Waiting>>>,
}

impl HoldsBack {
    fn begin(&self) {
        *self.waiting.lock().unwrap() = Some(vec![]);
    }

    async fn let_go(&self) {
        let waiting = self.waiting.lock().unwrap().take().unwrap();
        for (commit, answer) in waiting {
            let _ = answer.send(self.inner.commit(commit).await);
        }
    }
}

struct Gate(Arc<HoldsBack>);

#[async_trait]
impl Wrapping for Gate {
    fn inner(&self) -> &dyn Store {
        self.0.inner.as_ref()
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Versions, CommitError>> {
        match &mut *self.0.waiting.lock().unwrap() {
            None => self.0.inner.commit(commit),
            Some(waiting) => {
                let (answer, answered) = oneshot::channel();
                waiting.push((commit, answer));
                Box::pin(async { answered.await.unwrap() })
            }
        }
    }
}

/// A store that counts what it is asked, and may be away, or lose an answer.
struct Watched {
    inner: Arc<dyn Store>,
    asked: AtomicU64,
    away: AtomicBool,
    loses: AtomicBool,
}

struct Watch(Arc<Watched>);

#[async_trait]
impl Wrapping for Watch {
    fn inner(&self) -> &dyn Store {
        self.0.inner.as_ref()
    }

    async fn reading(&self) -> Result<(), ReadError> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        // Others come in between, as over a network.
        tokio::task::yield_now().await;
        if self.0.away.load(Ordering::SeqCst) { Err(ReadError::Unavailable("it is away".into())) } else { Ok(()) }
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Versions, CommitError>> {
        let lost = || CommitError::Unavailable("nobody knows whether it happened".into());
        if self.0.away.load(Ordering::SeqCst) {
            return Box::pin(async move { Err(lost()) });
        }
        let committed = self.0.inner.commit(commit);
        let loses = self.0.loses.swap(false, Ordering::SeqCst);
        Box::pin(async move { committed.await.and_then(|versions| if loses { Err(lost()) } else { Ok(versions) }) })
    }
}

/// A store to which somebody else has always just committed.
struct Overtaken {
    inner: Arc<dyn Store>,
    /// Appends to the stock of the product, some of it.
    other: Mutex<Option<Inventory>>,
    commits: AtomicU64,
}

struct Overtaking(Arc<Overtaken>, Caller);

#[async_trait]
impl Wrapping for Overtaking {
    fn inner(&self) -> &dyn Store {
        self.0.inner.as_ref()
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Versions, CommitError>> {
        let number = self.0.commits.fetch_add(1, Ordering::SeqCst);
        let (inner, caller) = (self.0.inner.clone(), self.1.under(format!("faster-{number}")));
        let other = self.0.other.lock().unwrap().clone();
        Box::pin(async move {
            if let Some(other) = other {
                let receipt = message::ReceiveStockRequest { sku: TEA.into(), quantity: 1 };
                other.receive(&caller, &receipt).await.unwrap();
            }
            inner.commit(commit).await
        })
    }
}

struct World {
    store: Arc<dyn Store>,
    process: Process,
    cache: Option<Arc<dyn Cache>>,
}

impl World {
    fn new() -> World {
        let clock = Arc::new(TokioClock::starting_at(Timestamp(1_800_000_000_000_000)));
        // The same chance in every run.
        let drawn = AtomicU64::new(0);
        let chance =
            move || drawn.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst).wrapping_mul(0xD134_2543_DE82_EF95);
        let process = Process::new(clock.clone(), Arc::new(Ids::from_chance(clock.clone(), chance)));
        World { store: Arc::new(Memory::new(clock)), process, cache: None }
    }

    fn replica(&self) -> Inventory {
        let process = Process::new(self.process.clock.clone(), self.process.ids.clone());
        let (index, meters) = (Arc::new(Fts::in_memory()), Meters::new(&process));
        let found = Projector::new(&process, self.store.clone(), index, Arc::new(Found), &meters);
        Inventory::new(&process, self.store.clone(), self.cache.clone(), found)
    }

    fn caller(&self, id: &str) -> Caller {
        Caller::new("operator:lee", &self.process.ids, Duration::from_secs(5)).under(id)
    }

    /// What is held back, in its order: what was given in takes effect only when it is let go.
    fn holding_back(&mut self) -> Arc<HoldsBack> {
        let gate = Arc::new(HoldsBack { inner: self.store.clone(), waiting: Mutex::default() });
        self.store = Arc::new(Wrapped(Gate(gate.clone())));
        gate
    }

    fn watched(&mut self) -> Arc<Watched> {
        let (asked, away, loses) = Default::default();
        let watched = Arc::new(Watched { inner: self.store.clone(), asked, away, loses });
        self.store = Arc::new(Wrapped(Watch(watched.clone())));
        watched
    }

    /// One cache for all replicas.
    fn with_cache(&mut self) -> Arc<dyn Cache> {
        let cache: Arc<dyn Cache> = Arc::new(cache::memory::Memory::new(100, cache::KEEP));
        self.cache = Some(cache.clone());
        cache
    }

    async fn open(&self, replica: &Inventory) {
        let product = message::AddProductRequest {
            sku: TEA.into(),
            name_ko: "차".into(),
            name_en: "Tea".into(),
            category: "tea".into(),
            unit_price: 100,
            currency: "KRW".into(),
        };
        replica.add(&self.caller("add"), &product).await.unwrap();
        let receipt = message::ReceiveStockRequest { sku: TEA.into(), quantity: 5 };
        replica.receive(&self.caller("receive"), &receipt).await.unwrap();
    }

    async fn reserve(&self, replica: &Inventory, order_id: &str, quantity: i64) -> Result<(), Refusal> {
        let lines = vec![message::Line { sku: TEA.into(), quantity, unit_price: 100 }];
        let request = message::ReserveInventoryRequest { order_id: order_id.into(), lines };
        replica.reserve(&self.caller(&format!("{order_id}/reserve")), &request).await.map(|_| ())
    }

    async fn price(&self, replica: &Inventory, unit_price: i64) {
        let request = message::ChangePriceRequest { sku: TEA.into(), unit_price };
        replica.price(&self.caller(&format!("price-{unit_price}")), &request).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_replica_set_aside_another_gives_back_or_sends() {
    let world = World::new();
    let (one, two) = (world.replica(), world.replica());
    world.open(&one).await;
    assert_eq!(two.get(TEA).await.unwrap().available, 5, "the other holds the stock as it is now");
    world.reserve(&one, ONE, 2).await.unwrap();
    world.reserve(&one, TWO, 2).await.unwrap();
    let release = message::ReleaseInventoryRequest { order_id: ONE.into() };
    two.release(&world.caller("release"), &release).await.unwrap();
    one.ship(&Commit::new("shipped".into(), Meta::default()), TWO).await.unwrap();
    tokio::time::advance(super::TRUSTED).await;
    assert_eq!(two.get(TEA).await.unwrap().available, 3);
}

/// What is said of an order's goods happens now: a command that is repeated moves none, nor does one for which none are held. One
/// whose answer was lost has moved them.
#[tokio::test(start_paused = true)]
async fn stock_is_changed_by_what_is_new_alone() {
    let mut world = World::new();
    let watched = world.watched();
    let shelves = super::Shelves::new(&world.process, world.store.clone(), None);
    let change = async |id: &str, quantity: Option<i64>| {
        let about =
            super::About { method: "ReserveInventory", request: &(), skus: Some(&[TEA.into()]), order_id: None };
        let events =
            vec![quantity.map(|quantity| super::stock::Event::StockReceived { quantity }).into_iter().collect()];
        let decide = |_: &super::Seen<'_>| Ok((super::Change { stock: events.clone(), ..Default::default() }, ()));
        shelves.change(&world.caller(id), &about, decide).await.unwrap().stock
    };
    assert!(change("one", Some(1)).await);
    assert!(!change("one", Some(1)).await, "it is answered from memory");
    assert!(!change("two", None).await, "there was nothing to change");
    watched.loses.store(true, Ordering::SeqCst);
    assert!(change("three", Some(1)).await, "its answer was lost");
    assert!(!change("three", Some(1)).await);
    let take_in = async || {
        let receipt = Commit::new("receipt".into(), Meta::default());
        let decide = |_: &super::Seen<'_>| Ok(super::Change::default());
        shelves.take_in(&receipt, ONE, decide).await.unwrap()
    };
    assert!(!take_in().await && !take_in().await);
}

/// Two chained reservations of one replica, of which another replica's overtakes the first: its event has the version that the
/// second was decided on, and leaves less.
#[tokio::test(start_paused = true)]
async fn a_chain_whose_beginning_was_overtaken_is_decided_anew() {
    let mut world = World::new();
    let gate = world.holding_back();
    let (one, two) = (world.replica(), world.replica());
    world.open(&one).await;
    assert_eq!(two.get(TEA).await.unwrap().available, 5);
    gate.begin();
    let orders = async {
        let faster = world.reserve(&two, THREE, 3);
        let chain = (world.reserve(&one, ONE, 1), world.reserve(&one, TWO, 3));
        let (faster, first, second, ()) = tokio::join!(faster, chain.0, chain.1, async {
            tokio::task::yield_now().await;
            gate.let_go().await;
        });
        assert_eq!((faster, first), (Ok(()), Ok(())));
        assert_eq!(second.unwrap_err().reason, "out_of_stock");
    };
    orders.await;
    tokio::time::advance(super::TRUSTED).await;
    assert_eq!(two.get(TEA).await.unwrap().available, 1);
}

/// However busy another replica is with a product, what leaves comes through, and what is ordered has to wait.
#[tokio::test(start_paused = true)]
async fn a_replica_that_is_always_overtaken_gives_back_and_sends_all_the_same() {
    let mut world = World::new();
    let busy = world.replica();
    world.open(&busy).await;
    world.reserve(&busy, ONE, 2).await.unwrap();
    world.reserve(&busy, TWO, 2).await.unwrap();
    let overtaken =
        Arc::new(Overtaken { inner: world.store.clone(), other: Mutex::default(), commits: AtomicU64::new(0) });
    world.store = Arc::new(Wrapped(Overtaking(overtaken.clone(), world.caller(""))));
    let slow = world.replica();
    assert_eq!(slow.get(TEA).await.unwrap().available, 1);
    *overtaken.other.lock().unwrap() = Some(busy.clone());
    assert_eq!(world.reserve(&slow, THREE, 1).await.unwrap_err().code, tonic::Code::Unavailable, "at each try");
    let before = overtaken.commits.load(Ordering::SeqCst);
    let release = message::ReleaseInventoryRequest { order_id: ONE.into() };
    slow.release(&world.caller("release"), &release).await.unwrap();
    slow.ship(&Commit::new("shipped".into(), Meta::default()), TWO).await.unwrap();
    assert_eq!(overtaken.commits.load(Ordering::SeqCst), before + 2, "at the first try");
    *overtaken.other.lock().unwrap() = None;
    tokio::time::advance(super::TRUSTED).await;
    // Five and what was received at each of those commits, less two that left.
    let received = 5 + before as i64 + 2;
    assert_eq!(slow.get(TEA).await.unwrap().available, received - 2);
    assert_eq!(busy.get(TEA).await.unwrap().available, received - 2);
    world.reserve(&slow, THREE, received - 2).await.unwrap();
}

/// Where many meet a conflict, the state is loaded once.
#[tokio::test(start_paused = true)]
async fn what_many_need_is_loaded_once() {
    const MANY: u64 = 40;
    let mut world = World::new();
    let watched = world.watched();
    let (one, two) = (world.replica(), world.replica());
    world.open(&one).await;
    let receipt = message::ReceiveStockRequest { sku: TEA.into(), quantity: 1_000 };
    assert_eq!(two.get(TEA).await.unwrap().available, 5);
    one.receive(&world.caller("more"), &receipt).await.unwrap();
    let before = watched.asked.load(Ordering::SeqCst);
    let orders: Vec<_> = (0..MANY).map(|n| format!("0190b8f1-2c3d-7e4f-8a9b-{n:012}")).collect();
    futures::future::try_join_all(orders.iter().map(|order| world.reserve(&two, order, 1))).await.unwrap();
    // Each asks for its reply and its reservation, before and after a call; the state takes three calls.
    let asked = watched.asked.load(Ordering::SeqCst) - before;
    assert!(asked < 5 * MANY, "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_price_that_another_replica_changed_is_shown_soon_and_refuses_nobody() {
    let world = World::new();
    let (one, two) = (world.replica(), world.replica());
    world.open(&one).await;
    assert_eq!(two.get(TEA).await.unwrap().unit_price, 100);
    world.price(&one, 90).await;
    let line = |unit_price| message::Line { sku: TEA.into(), quantity: 1, unit_price };
    two.check(&message::CheckLinesRequest { lines: vec![line(90)] }).await.unwrap();
    world.price(&one, 80).await;
    tokio::time::advance(super::TRUSTED).await;
    assert_eq!(two.get(TEA).await.unwrap().unit_price, 80);
    let stale = two.check(&message::CheckLinesRequest { lines: vec![line(90)] }).await.unwrap_err();
    assert_eq!(stale.reason, "price_changed");
}

async fn price_at(replica: &Inventory) -> i64 {
    replica.get(TEA).await.unwrap().unit_price
}

#[tokio::test(start_paused = true)]
async fn through_one_cache_a_price_is_shown_at_once_by_its_replica_and_soon_by_the_others() {
    let mut world = World::new();
    let cache = world.with_cache();
    let (one, two) = (world.replica(), world.replica());
    world.open(&one).await;
    for price in (200..260).step_by(2) {
        assert_eq!(price_at(&two).await, price_at(&one).await);
        world.price(&one, price).await;
        assert_eq!(price_at(&one).await, price);
        tokio::task::yield_now().await;
        let told = cache.get(&format!("1:product-{TEA}")).await.unwrap().kept.unwrap().version;
        assert_eq!(told, (price - 198) as u64, "the cache is told of it");
        // At any moment of the life of what the other shows.
        tokio::time::advance(super::TRUSTED * ((price - 200) as u32) / 60).await;
        let meanwhile = price_at(&two).await;
        tokio::time::advance(super::TRUSTED).await;
        assert_eq!(price_at(&two).await, price);
        world.price(&two, price + 1).await;
        assert_eq!((price_at(&two).await, meanwhile <= price), (price + 1, true));
        tokio::time::advance(super::TRUSTED).await;
        assert_eq!(price_at(&one).await, price + 1);
    }
}

/// Many replicas ask the store about a product hardly more often than one does.
#[tokio::test(start_paused = true)]
async fn through_one_cache_many_replicas_ask_the_store_like_one() {
    let mut asked = vec![];
    for count in [1, 8] {
        let mut world = World::new();
        let watched = world.watched();
        world.with_cache();
        let replicas: Vec<_> = (0..count).map(|_| world.replica()).collect();
        world.open(&replicas[0]).await;
        let before = watched.asked.load(Ordering::SeqCst);
        for _ in 0..2_000 {
            futures::future::try_join_all(replicas.iter().map(|replica| replica.get(TEA))).await.unwrap();
            tokio::time::advance(Duration::from_millis(5)).await;
        }
        asked.push(watched.asked.load(Ordering::SeqCst) - before);
    }
    // The most eager of eight asks up to twice as often as the least eager.
    assert!(asked[0] >= 160 && asked[1] <= asked[0] * 5 / 2, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_products_are_shown_as_they_were_and_nothing_is_changed() {
    let mut world = World::new();
    let watched = world.watched();
    world.with_cache();
    let (one, two) = (world.replica(), world.replica());
    world.open(&one).await;
    let shown = one.get(TEA).await.unwrap();
    watched.away.store(true, Ordering::SeqCst);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!((one.get(TEA).await, two.get(TEA).await), (Ok(shown.clone()), Ok(shown)));
    let away = |refusal: Refusal| assert_eq!(refusal.code, tonic::Code::Unavailable, "{refusal:?}");
    away(two.get("TEA-2").await.unwrap_err());
    for replica in [&one, &two] {
        let lines = vec![message::Line { sku: TEA.into(), quantity: 1, unit_price: 100 }];
        away(replica.check(&message::CheckLinesRequest { lines }).await.unwrap_err());
        away(world.reserve(replica, ONE, 1).await.unwrap_err());
        let request = message::ChangePriceRequest { sku: TEA.into(), unit_price: 90 };
        away(replica.price(&world.caller("price"), &request).await.unwrap_err());
    }
    tokio::time::advance(cache::KEEP).await;
    away(one.get(TEA).await.unwrap_err());
    watched.away.store(false, Ordering::SeqCst);
    assert_eq!((price_at(&one).await, price_at(&two).await), (100, 100));
}

/// Whatever the cache says, it is only shown.
#[tokio::test(start_paused = true)]
async fn no_decision_rests_on_the_cache() {
    let mut world = World::new();
    let cache = world.with_cache();
    let (one, two) = (world.replica(), world.replica());
    world.open(&one).await;
    price_at(&one).await;
    for (stream, lie) in [("product", "unit_price"), ("stock", "received")] {
        let key = format!("1:{stream}-{TEA}");
        let found = cache.get(&key).await.unwrap();
        let kept = found.kept.unwrap();
        let mut state: serde_json::Value = serde_json::from_slice(&kept.value).unwrap();
        assert!(state[lie].is_number(), "{state}");
        state[lie] = 7.into();
        let value = serde_json::to_vec(&state).unwrap().into();
        cache.put(&key, cache::Kept { version: kept.version + 1, complete: found.asked, value }).await.unwrap();
    }
    let shown = two.get(TEA).await.unwrap();
    assert_eq!((shown.unit_price, shown.available), (7, 7), "the lie is told");
    let line = |unit_price| message::Line { sku: TEA.into(), quantity: 1, unit_price };
    two.check(&message::CheckLinesRequest { lines: vec![line(100)] }).await.unwrap();
    assert_eq!(
        two.check(&message::CheckLinesRequest { lines: vec![line(7)] }).await.unwrap_err().reason,
        "price_changed"
    );
    assert_eq!(world.reserve(&two, ONE, 6).await.unwrap_err().reason, "out_of_stock");
    world.reserve(&two, TWO, 5).await.unwrap();
}

/// It happened, but the answer was lost, and so is what was held.
#[tokio::test(start_paused = true)]
async fn what_a_replica_has_changed_it_shows_although_the_answer_was_lost() {
    let mut world = World::new();
    let watched = world.watched();
    world.with_cache();
    let one = world.replica();
    world.open(&one).await;
    assert_eq!(price_at(&one).await, 100);
    watched.loses.store(true, Ordering::SeqCst);
    world.price(&one, 90).await;
    assert_eq!(price_at(&one).await, 90);
}

/// Values that nobody can read are somebody else's.
#[tokio::test(start_paused = true)]
async fn what_stands_in_the_cache_and_cannot_be_read_is_not_shown() {
    let mut world = World::new();
    let cache = world.with_cache();
    let (one, two) = (world.replica(), world.replica());
    world.open(&one).await;
    let asked = cache.get("").await.unwrap().asked;
    for value in ["", "{", "{\"description\":1}"] {
        let strange = cache::Kept { version: 1_000, complete: asked, value: value.into() };
        cache.put(&format!("1:product-{TEA}"), strange).await.unwrap();
        assert_eq!(price_at(&two).await, 100);
    }
}
