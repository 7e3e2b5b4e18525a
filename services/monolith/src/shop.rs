//! The composition root: which adapter stands behind which port. Nothing else in the shop knows more than one service.
use std::sync::Arc;
use std::time::Duration;

use auditor::invariant::Terms;
use clock::Clock;
use gateway::{Gateway, Limits};
use host::Process;
use host::transport::Transport;
use messaging::{Bus, Messages};
use order::Neighbours;
use payment::bank::{Bank, Report};
use payment::provider::PaymentProvider;
use search::Index;
use search::fts::Fts;
use search::projection::Meters;
use shipping::carrier::{Carrier, Simulator};
use store::Store;
use store::memory::Memory;
use telemetry::metrics::Red;
use tokio::sync::mpsc;

/// A store for each service, and one for each outside party.
#[derive(Clone)]
pub struct Stores {
    /// Orders and their sagas.
    pub order: Arc<dyn Store>,
    /// Catalogue and stock.
    pub inventory: Arc<dyn Store>,
    /// Payments.
    pub payment: Arc<dyn Store>,
    /// Shipments.
    pub shipping: Arc<dyn Store>,
    /// The bank's own ledger.
    pub bank: Arc<dyn Store>,
    /// The carrier's own book.
    pub carrier: Arc<dyn Store>,
    /// The books of the whole shop.
    pub auditor: Arc<dyn Store>,
    /// What carries messages between the services.
    pub bus: Arc<dyn Bus>,
    /// What orders are found by.
    pub order_search: Arc<dyn Index>,
    /// What products are found by.
    pub product_search: Arc<dyn Index>,
}

impl Stores {
    /// Stores that forget everything with the process.
    #[must_use]
    pub fn in_memory(clock: &Arc<dyn Clock>) -> Stores {
        let store = || Arc::new(Memory::new(clock.clone()));
        Stores {
            order: store(),
            inventory: store(),
            payment: store(),
            shipping: store(),
            bank: store(),
            carrier: store(),
            auditor: store(),
            bus: Arc::new(messaging::memory::Memory::plain()),
            order_search: Arc::new(Fts::in_memory()),
            product_search: Arc::new(Fts::in_memory()),
        }
    }

    /// The services' own, each with its name: those whose logs are sealed. The auditor's books are not: what they rest on is.
    #[must_use]
    pub fn sealed(&self) -> [(&'static str, &Arc<dyn Store>); 4] {
        [
            ("order", &self.order),
            ("inventory", &self.inventory),
            ("payment", &self.payment),
            ("shipping", &self.shipping),
        ]
    }

    /// Each with its name.
    #[must_use]
    pub fn named(&self) -> [(&'static str, &Arc<dyn Store>); 7] {
        [
            ("order store", &self.order),
            ("inventory store", &self.inventory),
            ("payment store", &self.payment),
            ("shipping store", &self.shipping),
            ("bank ledger", &self.bank),
            ("carrier book", &self.carrier),
            ("auditor books", &self.auditor),
        ]
    }
}

/// How fast parcels are.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long after its order was confirmed a parcel is picked up; until then it can be called off.
    pub pick_up: Duration,
    /// How long it is on its way.
    pub transit: Duration,
}

/// What stands outside the shop, and between its services.
pub struct Surroundings {
    /// Who moves money.
    pub bank: Arc<dyn PaymentProvider>,
    /// What it reports on its own.
    pub reports: mpsc::Receiver<Report>,
    /// Who carries parcels.
    pub carrier: Arc<dyn Carrier>,
    /// How long after its order was confirmed a parcel is picked up.
    pub pick_up: Duration,
    /// How long after that it arrives.
    pub transit: Duration,
    /// What stands between a service, by its name, and those who call it: nothing in the product, faults in tests.
    pub between: Box<dyn Fn(&'static str, Transport) -> Transport + Send + Sync>,
}

impl Surroundings {
    /// Simulated parties over their own books, and nothing between the services.
    #[must_use]
    pub fn simulated(process: &Process, stores: &Stores, pace: Pace) -> Surroundings {
        let (bank, reports) = Bank::new(process, stores.bank.clone());
        let carrier = Arc::new(Simulator::new(process, stores.carrier.clone(), pace.transit));
        let between = Box::new(|_, transport| transport);
        let Pace { pick_up, transit } = pace;
        Surroundings { bank: Arc::new(bank), reports, carrier, pick_up, transit, between }
    }
}

/// The shop, open.
pub struct Shop {
    /// The gateway; it answers HTTP requests.
    pub gateway: Gateway,
    /// The inventory service, for whoever stocks the shelves.
    pub inventory: Transport,
}

/// Puts the shop together.
///
/// # Errors
/// A sentence, if a saga's definition or a route is refused.
pub fn open(process: &Process, stores: &Stores, surroundings: Surroundings) -> Result<Shop, String> {
    let Surroundings { bank, reports, carrier, pick_up, transit, between } = surroundings;
    let red = Red::new(&process.metrics, "grpc");
    let messages = Messages::new(process, stores.bus.clone());
    let meters = Meters::new(process);
    let found = (stores.product_search.clone(), &meters);
    let inventory = inventory::start(process, stores.inventory.clone(), None, &messages, found, red.clone());
    let payment = payment::start(process, stores.payment.clone(), &messages, (bank, reports), red.clone());
    let shipping = shipping::start(process, stores.shipping.clone(), &messages, (carrier, pick_up), red.clone());
    let (inventory_letters, shipping_letters) = (inventory.dead_letters, shipping.dead_letters);
    let inventory = between("inventory", inventory.inventory);
    let (payment, shipping) = (between("payment", payment), between("shipping", shipping.shipping));
    let neighbours = Neighbours { inventory: inventory.clone(), payment, shipping };
    let found = (stores.order_search.clone(), &meters);
    let order = order::start(process, stores.order.clone(), &messages, found, neighbours, red.clone())
        .map_err(|why| format!("a saga is refused: {why}"))?;
    let terms = Terms::at_the_pace_of(pick_up, transit);
    let books = auditor::start(process, stores.auditor.clone(), &messages, terms, red);
    let upstreams = [
        ("shop.inventory.v1.InventoryService", inventory.clone()),
        ("shop.order.v1.OrderService", between("order", order.orders)),
        ("shop.order.v1.SagaService", order.sagas),
        ("shop.messaging.v1.DeadLetterService/order", order.dead_letters),
        ("shop.messaging.v1.DeadLetterService/inventory", inventory_letters),
        ("shop.messaging.v1.DeadLetterService/shipping", shipping_letters),
        ("shop.auditor.v1.BookService", books),
    ];
    let gateway = Gateway::new(process, upstreams, Limits::of(process.connections))?;
    Ok(Shop { gateway, inventory })
}
