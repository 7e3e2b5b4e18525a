//! The words on the wire: one package per service, and the facts that they publish.
//!
//! The .proto files beside this crate are the source; [`DESCRIPTORS`] carries them, comments and options included, to
//! whoever works from descriptors (the gateway).

/// Catalogue, prices and stock.
pub mod inventory {
    tonic::include_proto!("shop.inventory.v1");
}
/// Charges and refunds.
pub mod payment {
    tonic::include_proto!("shop.payment.v1");
}
/// Parcels.
pub mod shipping {
    tonic::include_proto!("shop.shipping.v1");
}
/// Orders.
pub mod order {
    tonic::include_proto!("shop.order.v1");
}
/// Messages that a service could not take in.
pub mod messaging {
    tonic::include_proto!("shop.messaging.v1");
}
/// The books of the whole shop.
pub mod auditor {
    tonic::include_proto!("shop.auditor.v1");
}
/// Facts that services publish to each other.
pub mod events {
    tonic::include_proto!("shop.events.v1");
    include!(concat!(env!("OUT_DIR"), "/kinds.rs"));
}

/// The encoded `google.protobuf.FileDescriptorSet` of all packages, with imports, comments and options.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shop.bin"));
