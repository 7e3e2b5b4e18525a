//! Two replicas over one store: neither knows what the other has committed, and neither is wrong for it.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
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
use store::{Commit, CommitError, Meta, Store, Versions};
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

struct World {
    store: Arc<dyn Store>,
    process: Process,
}

impl World {
    fn new() -> World {
        let clock = Arc::new(TokioClock::starting_at(Timestamp(1_800_000_000_000_000)));
        let process = Process::new(clock.clone(), Arc::new(Ids::random(clock.clone())));
        World { store: Arc::new(Memory::new(clock)), process }
    }

    fn replica(&self) -> Inventory {
        let process = Process::new(self.process.clock.clone(), self.process.ids.clone());
        let (index, meters) = (Arc::new(Fts::in_memory()), Meters::new(&process));
        let found = Projector::new(&process, self.store.clone(), index, Arc::new(Found), &meters);
        Inventory::new(&process, self.store.clone(), found)
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
