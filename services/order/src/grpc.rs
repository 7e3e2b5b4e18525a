//! The driving adapter: gRPC in, use cases out.
use clock::Timestamp;
use futures::stream::BoxStream;
use host::call::{Caller, answer};
use proto::order::order_service_server::OrderService;
use proto::order::{
    CancelOrderRequest, CancelOrderResponse, Cancellation as CancellationMessage, GetOrderRequest, GetOrderResponse,
    ListOrderEventsRequest, ListOrderEventsResponse, ListOrdersRequest, ListOrdersResponse, Order as Message,
    OrderLine, OrderStatus, PlaceOrderRequest, PlaceOrderResponse, Rejection, ShippingAddress, WatchOrderRequest,
    WatchOrderResponse,
};
use store::folded::Folded;
use tonic::{Request, Response, Status as GrpcStatus, async_trait};

use crate::order::{Address, Cancellation, Order, Status};
use crate::service::{Answer, Orders};

/// The service as its callers see it.
pub(crate) struct Grpc(pub(crate) Orders);

#[async_trait]
impl OrderService for Grpc {
    async fn place_order(
        &self,
        request: Request<PlaceOrderRequest>,
    ) -> Result<Response<PlaceOrderResponse>, GrpcStatus> {
        let caller = Caller::of(&request, &self.0.process.ids)?;
        let (orders, placing) = (self.0.clone(), caller.clone());
        let placed =
            self.0.process.tasks.run(async move { orders.place(&placing, request.into_inner()).await }).await?;
        let order = self.0.settled(&caller, placed).await;
        answer(order.map(|order| PlaceOrderResponse { order: Some(message(order)) }))
    }

    async fn get_order(&self, request: Request<GetOrderRequest>) -> Result<Response<GetOrderResponse>, GrpcStatus> {
        let caller = Caller::of(&request, &self.0.process.ids)?;
        let request = request.into_inner();
        let seen = if request.at_version.is_some() || request.at_time.is_some() {
            self.0.as_it_was(&caller, request).await
        } else {
            self.0.see(&caller, request.order_id).await
        };
        answer(seen.map(|order| GetOrderResponse { order: Some(message(order)) }))
    }

    async fn list_order_events(
        &self,
        request: Request<ListOrderEventsRequest>,
    ) -> Result<Response<ListOrderEventsResponse>, GrpcStatus> {
        let caller = Caller::of(&request, &self.0.process.ids)?;
        let events = self.0.events(&caller, request.into_inner()).await;
        answer(events.map(|events| ListOrderEventsResponse { events }))
    }

    type WatchOrderStream = BoxStream<'static, Result<WatchOrderResponse, GrpcStatus>>;

    async fn watch_order(
        &self,
        request: Request<WatchOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, GrpcStatus> {
        let caller = Caller::of(&request, &self.0.process.ids)?;
        answer(self.0.watch(&caller, request.into_inner()).await)
    }

    async fn list_orders(
        &self,
        request: Request<ListOrdersRequest>,
    ) -> Result<Response<ListOrdersResponse>, GrpcStatus> {
        let caller = Caller::of(&request, &self.0.process.ids)?;
        let (orders, next_page_token) = self.0.list(&caller, request.get_ref()).await?;
        Ok(Response::new(ListOrdersResponse { orders: orders.into_iter().map(message).collect(), next_page_token }))
    }

    async fn cancel_order(
        &self,
        request: Request<CancelOrderRequest>,
    ) -> Result<Response<CancelOrderResponse>, GrpcStatus> {
        let caller = Caller::of(&request, &self.0.process.ids)?;
        let (orders, asking) = (self.0.clone(), caller.clone());
        let asked = self.0.process.tasks.run(async move { orders.cancel(&asking, request.into_inner()).await }).await?;
        let order = self.0.settled(&caller, asked).await;
        answer(order.map(|order| CancelOrderResponse { order: Some(message(order)) }))
    }
}

/// Where an order stands, in the words on the wire.
pub(crate) fn status(order: &Order) -> OrderStatus {
    match order.status {
        Status::Absent => OrderStatus::Unspecified,
        Status::Placed => OrderStatus::Placed,
        Status::Confirmed => OrderStatus::Confirmed,
        Status::Shipped => OrderStatus::Shipped,
        Status::Delivered => OrderStatus::Delivered,
        Status::Rejected(_) => OrderStatus::Rejected,
        Status::Cancelled => OrderStatus::Cancelled,
    }
}

fn message((order_id, folded): Answer) -> Message {
    let Folded { state, version } = folded;
    let cancellation = match state.cancellation {
        Cancellation::None => CancellationMessage::Unspecified,
        Cancellation::Requested => CancellationMessage::Requested,
        Cancellation::TooLate => CancellationMessage::TooLate,
        Cancellation::Done => CancellationMessage::Done,
    };
    let status = status(&state).into();
    let rejection = match state.status {
        Status::Rejected(cause) => Some(Rejection {
            reason: cause.reason,
            message: cause.message,
            sku: cause.sku,
            unit_price: cause.unit_price,
        }),
        _ => None,
    };
    let Address { recipient, street, city, postal_code, country } = state.details.shipping_address;
    let line =
        |line: crate::order::Line| OrderLine { sku: line.sku, quantity: line.quantity, unit_price: line.unit_price };
    Message {
        order_id,
        customer_id: state.details.customer_id,
        status,
        cancellation: cancellation.into(),
        lines: state.details.lines.into_iter().map(line).collect(),
        total: state.details.total,
        currency: state.details.currency,
        shipping_address: Some(ShippingAddress { recipient, street, city, postal_code, country }),
        rejection,
        placed_at: Some(time(state.placed_at)),
        updated_at: Some(time(state.updated_at)),
        version: i64::try_from(version).unwrap_or(i64::MAX),
    }
}

/// A moment, as it is on the wire.
pub(crate) fn time(at: Timestamp) -> prost_types::Timestamp {
    let nanos = at.0.rem_euclid(1_000_000) * 1_000;
    prost_types::Timestamp { seconds: at.0.div_euclid(1_000_000), nanos: i32::try_from(nanos).unwrap_or_default() }
}
