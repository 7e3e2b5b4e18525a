//! The driving adapter: gRPC in, use cases out.
use host::call::{Caller, answer};
use proto::payment::payment_service_server::PaymentService;
use proto::payment::{
    ChargePaymentRequest, ChargePaymentResponse, CheckPaymentMethodRequest, CheckPaymentMethodResponse,
    GetPaymentRequest, GetPaymentResponse, Payment as Message, PaymentStatus, RefundPaymentRequest,
    RefundPaymentResponse,
};
use tonic::{Request, Response, Status, async_trait};

use crate::payment::{Payment, Stage};
use crate::service::Payments;
use host::Process;

/// The service as its callers see it.
pub(crate) struct Grpc {
    pub(crate) process: Process,
    pub(crate) payments: Payments,
}

#[async_trait]
impl PaymentService for Grpc {
    async fn check_payment_method(
        &self,
        request: Request<CheckPaymentMethodRequest>,
    ) -> Result<Response<CheckPaymentMethodResponse>, Status> {
        answer(crate::known_method(&request.get_ref().payment_method).map(|()| CheckPaymentMethodResponse {}))
    }

    async fn charge_payment(
        &self,
        request: Request<ChargePaymentRequest>,
    ) -> Result<Response<ChargePaymentResponse>, Status> {
        let (caller, payments) = (Caller::of(&request, &self.process.ids)?, self.payments.clone());
        answer(self.process.tasks.run(async move { payments.charge(&caller, request.into_inner()).await }).await)
    }

    async fn refund_payment(
        &self,
        request: Request<RefundPaymentRequest>,
    ) -> Result<Response<RefundPaymentResponse>, Status> {
        let (caller, payments) = (Caller::of(&request, &self.process.ids)?, self.payments.clone());
        answer(self.process.tasks.run(async move { payments.refund(&caller, request.into_inner()).await }).await)
    }

    async fn get_payment(&self, request: Request<GetPaymentRequest>) -> Result<Response<GetPaymentResponse>, Status> {
        let order_id = request.into_inner().order_id;
        let payment = self.payments.get(&order_id).await?;
        if payment == Payment::default() {
            return Err(host::error::Refusal::not_found(format!("no payment was asked for order {order_id}")).into());
        }
        Ok(Response::new(GetPaymentResponse { payment: Some(message(order_id, payment)) }))
    }
}

fn message(order_id: String, payment: Payment) -> Message {
    let status = match payment.stage {
        Stage::Untouched | Stage::Charging => PaymentStatus::Pending,
        Stage::Charged { .. } => PaymentStatus::Charged,
        Stage::Declined { .. } => PaymentStatus::Declined,
        Stage::Refunding { .. } => PaymentStatus::Refunding,
        Stage::Refunded => PaymentStatus::Refunded,
    };
    Message { order_id, status: status.into(), amount: payment.charge.amount, currency: payment.charge.currency }
}
