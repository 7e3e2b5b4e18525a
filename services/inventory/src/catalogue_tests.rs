//! What stocking the shelves does about others who were there first, refusals, and a store that is away.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use clock::{Ids, Timestamp, TokioClock};
use futures::future::BoxFuture;
use host::transport::in_process;
use proto::inventory::inventory_service_server::InventoryServiceServer;
use search::fts::Fts;
use search::projection::{Meters, Projector};
use store::memory::Memory;
use store::wrapped::{Wrapped, Wrapping};
use store::{Commit, CommitError, ReadError, Store, Versions};
use telemetry::metrics::Red;

use super::*;
use crate::service::Inventory;

/// A store that may be away.
struct Leaving {
    inner: Memory,
    away: AtomicBool,
}

struct Leaves(Arc<Leaving>);

#[async_trait]
impl Wrapping for Leaves {
    fn inner(&self) -> &dyn Store {
        &self.0.inner
    }
    async fn reading(&self) -> Result<(), ReadError> {
        if self.0.away.load(Ordering::SeqCst) { Err(ReadError::Unavailable("it has left".into())) } else { Ok(()) }
    }
    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<Versions, CommitError>> {
        if self.0.away.load(Ordering::SeqCst) {
            return Box::pin(std::future::ready(Err(CommitError::Unavailable("it has left".into()))));
        }
        self.0.inner.commit(commit)
    }
}

struct World {
    process: Process,
    store: Arc<Leaving>,
    inventory: Inventory,
    transport: Transport,
}

impl World {
    fn new() -> World {
        let clock = Arc::new(TokioClock::starting_at(Timestamp(1_800_000_000_000_000)));
        let process = Process::new(clock.clone(), Arc::new(Ids::random(clock.clone())));
        let store = Arc::new(Leaving { inner: Memory::new(clock), away: AtomicBool::new(false) });
        let shared: Arc<dyn Store> = Arc::new(Wrapped(Leaves(store.clone())));
        let (index, meters) = (Arc::new(Fts::in_memory()), Meters::new(&process));
        let found = Projector::new(&process, shared.clone(), index, Arc::new(crate::found::Found), &meters);
        let inventory = Inventory::new(&process, shared, None, found);
        let grpc = crate::grpc::Grpc { process: process.clone(), inventory: inventory.clone() };
        let transport = in_process(InventoryServiceServer::new(grpc), Red::new(&process.metrics, "grpc"));
        World { process, store, inventory, transport }
    }

    fn stock(&self, products: &'static [Product]) {
        stock_as_soon_as_possible(&self.process, self.transport.clone(), products);
    }

    /// Price and pieces of the first product.
    async fn first(&self) -> (i64, i64) {
        let product = self.inventory.get(PRODUCTS[0].0).await.unwrap();
        (product.unit_price, product.available)
    }

    fn missing(&self) -> Option<String> {
        self.process.health.unready().remove(PART)
    }
}

#[tokio::test(start_paused = true)]
async fn a_product_that_somebody_else_put_there_stays_as_it_is_and_is_received() {
    let world = World::new();
    let (sku, name_ko, name_en, category, _) = PRODUCTS[0];
    let [sku, name_ko, name_en, category] = [sku, name_ko, name_en, category].map(str::to_owned);
    let add = AddProductRequest { sku, name_ko, name_en, category, unit_price: 7, currency: "KRW".into() };
    let operator = Caller::new("operator:lee", &world.process.ids, PATIENCE).under("mine");
    world.inventory.add(&operator, &add).await.unwrap();
    for _ in 0..2 {
        stock(&world.process, &world.transport, &PRODUCTS[..2]).await.unwrap();
        assert_eq!(world.first().await, (7, PIECES));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_waited_for_and_said_to_be_missing() {
    let world = World::new();
    world.store.away.store(true, Ordering::SeqCst);
    world.stock(&PRODUCTS);
    assert_eq!(world.missing().as_deref(), Some("they are being stocked"), "not ready for a moment either");
    sleep(Duration::from_secs(60)).await;
    let why = world.missing().unwrap();
    assert!(why.starts_with("the shelves cannot be stocked: ") && why.ends_with("it has left"), "{why}");
    world.store.away.store(false, Ordering::SeqCst);
    sleep(AFTER_FAILURE * 2).await;
    assert_eq!((world.missing(), world.first().await), (None, (PRODUCTS[0].4, PIECES)));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_said_to_be_missing_for_good() {
    const GIVEN_AWAY: [Product; 1] = [("TEA-0", "차", "Tea", "tea", 0)];
    let world = World::new();
    world.stock(&GIVEN_AWAY);
    sleep(Duration::from_secs(60)).await;
    assert!(world.missing().is_some_and(|why| why.contains("unit_price")), "{:?}", world.missing());
    assert_eq!(world.process.tasks.count(), 0, "nobody asks again");
}
