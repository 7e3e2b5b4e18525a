//! The driving adapter: gRPC in, use cases out.
use host::Process;
use host::call::{Caller, answer};
use host::error::Refusal;
use proto::shipping::shipping_service_server::ShippingService;
use proto::shipping::{
    CancelShipmentRequest, CancelShipmentResponse, CreateShipmentRequest, CreateShipmentResponse, GetShipmentRequest,
    GetShipmentResponse, Shipment as Message, ShipmentStatus,
};
use tonic::{Request, Response, Status, async_trait};

use crate::service::Shipments;
use crate::shipment::{Shipment, Stage};

/// The service as its callers see it.
pub(crate) struct Grpc {
    pub(crate) process: Process,
    pub(crate) shipments: Shipments,
}

#[async_trait]
impl ShippingService for Grpc {
    async fn create_shipment(
        &self,
        request: Request<CreateShipmentRequest>,
    ) -> Result<Response<CreateShipmentResponse>, Status> {
        let (caller, shipments) = (Caller::of(&request, &self.process.ids)?, self.shipments.clone());
        answer(self.process.tasks.run(async move { shipments.create(&caller, request.into_inner()).await }).await)
    }

    async fn cancel_shipment(
        &self,
        request: Request<CancelShipmentRequest>,
    ) -> Result<Response<CancelShipmentResponse>, Status> {
        let (caller, shipments) = (Caller::of(&request, &self.process.ids)?, self.shipments.clone());
        answer(self.process.tasks.run(async move { shipments.cancel(&caller, request.into_inner()).await }).await)
    }

    async fn get_shipment(
        &self,
        request: Request<GetShipmentRequest>,
    ) -> Result<Response<GetShipmentResponse>, Status> {
        let order_id = request.into_inner().order_id;
        let shipment = self.shipments.get(&order_id).await?;
        if shipment == Shipment::default() {
            return Err(Refusal::not_found(format!("no shipment was asked for order {order_id}")).into());
        }
        Ok(Response::new(GetShipmentResponse { shipment: Some(message(order_id, shipment)) }))
    }
}

fn message(order_id: String, shipment: Shipment) -> Message {
    let status = match shipment.stage {
        Stage::Untouched | Stage::Requested => ShipmentStatus::Pending,
        Stage::Created | Stage::Waiting { .. } => ShipmentStatus::Created,
        Stage::Refused { .. } => ShipmentStatus::Refused,
        Stage::Cancelling { .. } => ShipmentStatus::Cancelling,
        Stage::Cancelled => ShipmentStatus::Cancelled,
        Stage::Dispatched { .. } => ShipmentStatus::Dispatched,
        Stage::Delivered => ShipmentStatus::Delivered,
    };
    Message { order_id, status: status.into(), tracking_number: shipment.tracking_number }
}
