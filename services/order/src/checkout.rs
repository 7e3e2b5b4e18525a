//! The participants of the order's sagas: which call carries an action out, and what its answer means.
//!
//! An answer is definite or it is not: a status that the table of errors says not to repeat is a refusal, after which
//! nothing took effect; every other failure is unknown.
use std::sync::Arc;

use async_trait::async_trait;
use host::Process;
use host::call::Caller;
use host::error::{Again, Refusal};
use host::network::was_sent;
use host::remembered::REUSED;
use host::transport::Transport;
use proto::inventory::inventory_service_client::InventoryServiceClient;
use proto::inventory::{Line, ReleaseInventoryRequest, ReserveInventoryRequest};
use proto::payment::payment_service_client::PaymentServiceClient;
use proto::payment::{ChargePaymentRequest, RefundPaymentRequest};
use proto::shipping::shipping_service_client::ShippingServiceClient;
use proto::shipping::{Address as Recipient, CancelShipmentRequest, CreateShipmentRequest};
use resilience::deadline::Deadline;
use saga::definition::{Offers, Refused};
use saga::{Command, Definition, Outcome, Participants, Saga};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use telemetry::trace::Trace;
use tonic::Status;

use crate::ledger::Ledger;
use crate::order::{self, Address, Details};

/// What a saga of an order knows of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderData {
    /// Which.
    pub order_id: String,
    /// What was ordered.
    pub details: Details,
}

/// The definitions of the order's sagas.
#[derive(Clone, Debug)]
pub struct Sagas {
    /// From placed to confirmed.
    pub checkout: Arc<Definition>,
    /// From confirmed to cancelled.
    pub cancellation: Arc<Definition>,
}

impl Sagas {
    /// Reads and checks both.
    ///
    /// # Errors
    /// The first thing wrong, with its line.
    pub fn load() -> Result<Sagas, Refused> {
        let offers = Offers::from([
            ("inventory-service", ["reserve_inventory", "release_inventory"].as_slice()),
            ("payment-service", &["charge_payment", "refund_payment"]),
            ("shipping-service", &["create_shipment", "cancel_shipment"]),
            ("order-service", &["confirm_order"]),
        ]);
        let read = |text| Definition::from_yaml(text, &offers).map(Arc::new);
        let checkout = read(include_str!("../sagas/checkout.yaml"))?;
        let cancellation = read(include_str!("../sagas/cancellation.yaml"))?;
        Ok(Sagas { checkout, cancellation })
    }
}

/// Calls the other services, and the order itself.
pub(crate) struct Calls {
    pub(crate) process: Process,
    pub(crate) ledger: Ledger,
    pub(crate) inventory: InventoryServiceClient<Transport>,
    pub(crate) payment: PaymentServiceClient<Transport>,
    pub(crate) shipping: ShippingServiceClient<Transport>,
}

#[async_trait]
impl Participants for Calls {
    async fn send(&self, saga: &Saga, command: &Command) -> Outcome {
        let Ok(data) = OrderData::deserialize(saga.data().as_ref()) else {
            return Outcome::Unknown("the saga's data cannot be read".to_owned());
        };
        let (_, traceparent) = saga.context();
        let mut caller = Caller::new(format!("saga:{}", saga.id()), &self.process.ids, command.timeout);
        caller.trace = Trace::parse(traceparent).unwrap_or(caller.trace);
        caller.deadline = Deadline::after(command.timeout);
        let caller = caller.under(command.id.as_str());
        self.call(&caller, &command.action, data).await
    }
}

impl Calls {
    async fn call(&self, caller: &Caller, action: &str, data: OrderData) -> Outcome {
        let OrderData { order_id, details } = data;
        let (mut inventory, mut payment, mut shipping) =
            (self.inventory.clone(), self.payment.clone(), self.shipping.clone());
        match action {
            "reserve_inventory" => {
                let lines = lines(&details.lines);
                outcome(
                    inventory.reserve_inventory(caller.request(ReserveInventoryRequest { order_id, lines })).await,
                    |_| Value::Null,
                )
            }
            "release_inventory" => {
                outcome(inventory.release_inventory(caller.request(ReleaseInventoryRequest { order_id })).await, |_| {
                    Value::Null
                })
            }
            "charge_payment" => {
                let Details { total: amount, currency, payment_method, .. } = details;
                let request = ChargePaymentRequest { order_id, amount, currency, payment_method };
                outcome(
                    payment.charge_payment(caller.request(request)).await,
                    |reply| json!({"reference": reply.reference}),
                )
            }
            "refund_payment" => {
                outcome(payment.refund_payment(caller.request(RefundPaymentRequest { order_id })).await, |_| {
                    Value::Null
                })
            }
            "create_shipment" => {
                let Address { recipient, street, city, postal_code, country } = details.shipping_address;
                let address = Some(Recipient { recipient, street, city, postal_code, country });
                let request = CreateShipmentRequest { order_id, address };
                let reply =
                    |reply: proto::shipping::CreateShipmentResponse| json!({"tracking_number": reply.tracking_number});
                outcome(shipping.create_shipment(caller.request(request)).await, reply)
            }
            "cancel_shipment" => {
                outcome(shipping.cancel_shipment(caller.request(CancelShipmentRequest { order_id })).await, |_| {
                    Value::Null
                })
            }
            "confirm_order" => match self.ledger.confirm(caller, &order_id).await {
                Ok(()) => Outcome::Accepted(Value::Null),
                Err(refusal) => failed(refusal),
            },
            other => Outcome::Unknown(format!("nobody carries out {other}")),
        }
    }
}

/// Lines as inventory reads them.
pub(crate) fn lines(lines: &[order::Line]) -> Vec<Line> {
    let line =
        |line: &order::Line| Line { sku: line.sku.clone(), quantity: line.quantity, unit_price: line.unit_price };
    lines.iter().map(line).collect()
}

fn outcome<T>(answer: Result<tonic::Response<T>, Status>, reply: impl Fn(T) -> Value) -> Outcome {
    match answer {
        Ok(answer) => Outcome::Accepted(reply(answer.into_inner())),
        Err(status) if !was_sent(&status) => Outcome::NotSent(status.message().to_owned()),
        Err(status) => failed(Refusal::of(&status)),
    }
}

fn failed(refusal: Refusal) -> Outcome {
    match refusal.again() {
        Again::SameId if refusal.reason == "in_progress" => Outcome::InProgress,
        Again::SameId => Outcome::Unknown(refusal.message),
        // It says nothing of the effect: only that this program asks otherwise than the one before it did.
        Again::No if refusal.reason == REUSED => Outcome::Unknown(refusal.message),
        Again::No => Outcome::Refused(saga::react::Refusal {
            reason: refusal.reason.into_owned(),
            message: refusal.message,
            facts: if refusal.facts.is_empty() { Value::Null } else { json!(refusal.facts) },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use saga::Kind;

    #[test]
    fn the_sagas_are_well_formed() {
        let sagas = Sagas::load().unwrap();
        let kinds: Vec<_> = sagas.checkout.steps.iter().map(|step| step.kind).collect();
        assert_eq!(kinds, [Kind::Compensatable, Kind::Compensatable, Kind::Pivot, Kind::Retriable]);
        assert_eq!(sagas.cancellation.steps[0].name, "cancel_shipment");
    }

    /// Nobody listens there: nothing has to be undone.
    #[tokio::test]
    async fn what_could_not_be_sent_is_no_try() {
        let nobody = host::replicas::by_name(&host::tasks::Tasks::default(), "127.0.0.1:1").unwrap();
        let answer = PaymentServiceClient::new(nobody).refund_payment(RefundPaymentRequest::default()).await;
        let outcome = outcome(answer, |_| Value::Null);
        assert!(matches!(&outcome, Outcome::NotSent(why) if why.contains("cannot be reached")), "{outcome:?}");
    }

    #[test]
    fn only_a_definite_answer_is_a_refusal() {
        let of = |status: Status| failed(Refusal::of(&status));
        assert!(
            matches!(of(Refusal::precondition("card_declined", "no").into()), Outcome::Refused(r) if r.reason == "card_declined")
        );
        assert!(matches!(of(Status::invalid_argument("quantity")), Outcome::Refused(_)));
        assert!(matches!(of(Refusal::in_progress("wait").into()), Outcome::InProgress));
        for unknown in [
            Status::unavailable(""),
            Status::deadline_exceeded(""),
            Status::internal(""),
            Status::unknown(""),
            Status::cancelled(""),
        ] {
            assert!(matches!(of(unknown), Outcome::Unknown(_)));
        }
    }
}
