//! The order service: orders, and the sagas that carry them through the other services.
//!
//! | file | holds |
//! |---|---|
//! | [`order`] | PURE: the rules of one order |
//! | `service` | use cases: place, see, list, cancel |
//! | `history` | use cases: the audit trail, and the order as it was |
//! | `watch` | use case: follow an order |
//! | `grpc` | driving adapter |
//! | [`checkout`] | driven adapter: the participants of the sagas in `sagas/*.yaml` |
//! | `sagas` | what operators see of sagas, and do about them |
//! | [`found`] | what orders can be found by |
//! | `told` | what others are told of orders |
//! | `heard` | what orders make of what shipping tells |
//! | [`ledger`] | the streams of orders, and what a saga's end changes in them |
//! | `followers` | wakes whoever waits for news of an order |

pub mod checkout;
mod followers;
pub mod found;
mod grpc;
mod heard;
mod history;
pub mod ledger;
pub mod order;
mod sagas;
mod service;
mod told;
mod watch;

use std::sync::Arc;

use host::Process;
use host::transport::{Transport, in_process};
use messaging::Messages;
use messaging::consumer::Consumer;
use messaging::relay::Relay;
use proto::inventory::inventory_service_client::InventoryServiceClient;
use proto::order::order_service_server::OrderServiceServer;
use proto::order::saga_service_server::SagaServiceServer;
use proto::payment::payment_service_client::PaymentServiceClient;
use proto::shipping::shipping_service_client::ShippingServiceClient;
use saga::Runner;
use saga::definition::Refused;
use search::Index;
use search::projection::{Meters, Projector};
use store::Store;
use telemetry::metrics::Red;

/// The services that orders need.
#[derive(Clone)]
pub struct Neighbours {
    /// Catalogue and stock.
    pub inventory: Transport,
    /// Charges and refunds.
    pub payment: Transport,
    /// Parcels.
    pub shipping: Transport,
}

/// What the service answers.
pub struct Served {
    /// Orders.
    pub orders: Transport,
    /// Sagas, for operators.
    pub sagas: Transport,
    /// Messages that could not be taken in, for operators.
    pub dead_letters: Transport,
}

/// Starts the service over its store: takes up every open saga, and serves.
///
/// # Errors
/// If a saga's definition is refused.
pub fn start(
    process: &Process,
    store: Arc<dyn Store>,
    messages: &Messages,
    (index, meters): (Arc<dyn Index>, &Meters),
    neighbours: Neighbours,
    red: Red,
) -> Result<Served, Refused> {
    let ledger = ledger::Ledger::new(process, store.clone());
    let calls = Arc::new(checkout::Calls {
        process: process.clone(),
        ledger: ledger.clone(),
        inventory: InventoryServiceClient::new(neighbours.inventory),
        payment: PaymentServiceClient::new(neighbours.payment),
        shipping: ShippingServiceClient::new(neighbours.shipping),
    });
    Relay::new(process, store.clone(), messages, "order", told::publicity).start();
    let heard = Arc::new(heard::Heard(ledger.clone()));
    let consumer = Consumer::new(process, store.clone(), messages, ("order", &["shipping-events"]), heard);
    consumer.listen();
    let found = Projector::new(process, store.clone(), index, Arc::new(found::Found), meters);
    found.start();
    let runner = Runner::new(process, store, calls.clone(), Arc::new(ledger.clone()));
    runner.listen();
    let sagas = checkout::Sagas::load()?;
    let orders = service::Orders { process: process.clone(), ledger, calls, runner, sagas, found };
    Ok(Served {
        sagas: in_process(SagaServiceServer::new(sagas::Grpc(orders.clone())), red.clone()),
        orders: in_process(OrderServiceServer::new(grpc::Grpc(orders)), red.clone()),
        dead_letters: messaging::grpc::dead_letters(&consumer, red),
    })
}
