//! The shipping service: sends parcels through a carrier.
//!
//! | file | holds |
//! |---|---|
//! | [`shipment`] | PURE: the rules of one shipment |
//! | [`service`] | use cases: create, cancel, settle |
//! | `grpc` | driving adapter |
//! | [`carrier`] | port to whoever carries parcels, and one to try things with |

pub mod carrier;
mod grpc;
pub mod service;
pub mod shipment;

use std::sync::Arc;

use host::Process;
use host::transport::{Transport, in_process};
use proto::shipping::shipping_service_server::ShippingServiceServer;
use store::Store;
use telemetry::metrics::Red;

use carrier::Carrier;
use service::Shipments;

/// Starts the service: over its store and a carrier.
pub fn start(process: &Process, store: Arc<dyn Store>, carrier: Arc<dyn Carrier>, red: Red) -> Transport {
    let shipments = Shipments::new(process, store, carrier);
    shipments.listen();
    in_process(ShippingServiceServer::new(grpc::Grpc { process: process.clone(), shipments }), red)
}
