//! The shipping service: sends parcels through a carrier.
//!
//! | file | holds |
//! |---|---|
//! | [`shipment`] | PURE: the rules of one shipment |
//! | [`service`] | use cases: create, cancel, settle |
//! | `told` | what others are told of parcels |
//! | `heard` | what it makes of what order tells |
//! | `grpc` | driving adapter |
//! | [`carrier`] | port to whoever carries parcels, and one to try things with |

pub mod carrier;
mod grpc;
mod heard;
pub mod service;
pub mod shipment;
mod told;

use std::sync::Arc;
use std::time::Duration;

use host::Process;
use host::transport::{Transport, in_process};
use messaging::Messages;
use messaging::consumer::Consumer;
use messaging::relay::Relay;
use proto::shipping::shipping_service_server::ShippingServiceServer;
use store::Store;
use telemetry::metrics::Red;

use carrier::Carrier;
use service::Shipments;

/// What the service answers.
pub struct Served {
    /// Parcels.
    pub shipping: Transport,
    /// Messages that could not be taken in, for operators.
    pub dead_letters: Transport,
}

/// Starts the service: over its store and a carrier, who is asked for a parcel so long after its order was confirmed.
pub fn start(
    process: &Process,
    store: Arc<dyn Store>,
    messages: &Messages,
    (carrier, pick_up): (Arc<dyn Carrier>, Duration),
    red: Red,
) -> Served {
    let shipments = Shipments::new(process, store.clone(), carrier, pick_up);
    Relay::new(process, store.clone(), messages, "shipping", told::publicity).start();
    let heard = Arc::new(heard::Heard(shipments.clone()));
    let consumer = Consumer::new(process, store, messages, ("shipping", &["order-events"]), heard);
    consumer.listen();
    shipments.listen();
    Served {
        shipping: in_process(
            ShippingServiceServer::new(grpc::Grpc { process: process.clone(), shipments }),
            red.clone(),
        ),
        dead_letters: messaging::grpc::dead_letters(&consumer, red),
    }
}
