//! The inventory service: catalogue, prices, stock, and what orders have reserved.
//!
//! | file | holds |
//! |---|---|
//! | [`product`] | PURE: the rules of one product |
//! | [`stock`] | PURE: the totals of one product |
//! | [`reservation`] | PURE: what one order holds |
//! | [`service`] | use cases |
//! | `window` | what is shown, through the cache that replicas share |
//! | `shelves` | changes over several of these in one commit |
//! | [`found`] | what products can be found by |
//! | `told` | what others are told |
//! | `heard` | what it makes of what shipping tells |
//! | `grpc` | driving adapter |
//! | [`catalogue`] | what the shop sells when it opens |

pub mod catalogue;
pub mod found;
mod grpc;
mod heard;
pub mod product;
pub mod reservation;
pub mod service;
mod shelves;
pub mod stock;
mod told;
mod window;

use std::sync::Arc;

use cache::Cache;
use host::Process;
use host::transport::{Transport, in_process};
use messaging::Messages;
use messaging::consumer::Consumer;
use messaging::relay::Relay;
use proto::inventory::inventory_service_server::InventoryServiceServer;
use search::Index;
use search::projection::{Meters, Projector};
use store::Store;
use telemetry::metrics::Red;

use service::Inventory;

/// What the service answers.
pub struct Served {
    /// Catalogue and stock.
    pub inventory: Transport,
    /// Messages that could not be taken in, for operators.
    pub dead_letters: Transport,
}

/// Starts the service over its store; replicas may share a cache of what they show.
pub fn start(
    process: &Process,
    store: Arc<dyn Store>,
    cache: Option<Arc<dyn Cache>>,
    messages: &Messages,
    (index, meters): (Arc<dyn Index>, &Meters),
    red: Red,
) -> Served {
    let found = Projector::new(process, store.clone(), index, Arc::new(found::Found), meters);
    found.start();
    let inventory = Inventory::new(process, store.clone(), cache, found);
    Relay::new(process, store.clone(), messages, "inventory", told::publicity).start();
    let heard = Arc::new(heard::Heard(inventory.clone()));
    let consumer = Consumer::new(process, store, messages, ("inventory", &["shipping-events"]), heard);
    consumer.listen();
    Served {
        inventory: in_process(
            InventoryServiceServer::new(grpc::Grpc { process: process.clone(), inventory }),
            red.clone(),
        ),
        dead_letters: messaging::grpc::dead_letters(&consumer, red),
    }
}
