//! Two replicas over one store: neither knows what the other has committed, and neither is wrong for it.
use std::sync::Arc;
use std::time::Duration;

use clock::{Ids, Timestamp, TokioClock};
use host::Process;
use host::call::Caller;
use proto::inventory as message;
use search::fts::Fts;
use search::projection::{Meters, Projector};
use store::memory::Memory;
use store::{Commit, Meta, Store};

use crate::found::Found;
use crate::service::Inventory;

const TEA: &str = "TEA-1";
const ONE: &str = "0190b8f1-2c3d-7e4f-8a9b-0c1d2e3f4a51";
const TWO: &str = "0190b8f1-2c3d-7e4f-8a9b-0c1d2e3f4a52";

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

    async fn reserve(&self, replica: &Inventory, order_id: &str, unit_price: i64) {
        let lines = vec![message::Line { sku: TEA.into(), quantity: 2, unit_price }];
        let request = message::ReserveInventoryRequest { order_id: order_id.into(), lines };
        replica.reserve(&self.caller(&format!("{order_id}/reserve")), &request).await.unwrap();
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
    world.reserve(&one, ONE, 100).await;
    world.reserve(&one, TWO, 100).await;
    let release = message::ReleaseInventoryRequest { order_id: ONE.into() };
    two.release(&world.caller("release"), &release).await.unwrap();
    one.ship(&Commit::new("shipped".into(), Meta::default()), TWO).await.unwrap();
    tokio::time::advance(super::TRUSTED).await;
    assert_eq!(two.get(TEA).await.unwrap().available, 3);
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
