//! The payment service: takes and gives back the money of orders through a bank.
//!
//! | file | holds |
//! |---|---|
//! | [`payment`] | PURE: the rules of one payment |
//! | [`service`] | use cases: charge, refund, settle |
//! | `grpc` | driving adapter |
//! | [`provider`] | port to whoever moves money |
//! | [`bank`] | driven adapter: a bank to try things with |

pub mod bank;
mod grpc;
pub mod payment;
pub mod provider;
pub mod service;
mod told;

use std::sync::Arc;

use host::Process;
use host::error::Refusal;
use host::transport::{Transport, in_process};
use messaging::Messages;
use messaging::relay::Relay;
use proto::payment::payment_service_server::PaymentServiceServer;
use store::Store;
use telemetry::metrics::Red;
use tokio::sync::mpsc;

use bank::Report;
use provider::PaymentProvider;
use service::Payments;

/// Starts the service: over its store and a bank, with the reports that the bank makes on its own.
pub fn start(
    process: &Process,
    store: Arc<dyn Store>,
    messages: &Messages,
    (bank, reports): (Arc<dyn PaymentProvider>, mpsc::Receiver<Report>),
    red: Red,
) -> Transport {
    Relay::new(process, store.clone(), messages, "payment", told::publicity).start();
    let payments = Payments::new(process, store, bank);
    payments.listen();
    process.tasks.spawn_until_stop(hear(payments.clone(), reports));
    in_process(PaymentServiceServer::new(grpc::Grpc { process: process.clone(), payments }), red)
}

async fn hear(payments: Payments, mut reports: mpsc::Receiver<Report>) {
    while let Some(report) = reports.recv().await {
        if let Err(why) = payments.reported(&report.reference, report.charged).await {
            tracing::warn!(
                order_id = report.reference,
                why = why.message,
                "a report of the bank is not recorded; the timer finds out"
            );
        }
    }
}

/// Refuses a payment method that the shop does not take.
pub(crate) fn known_method(method: &str) -> Result<(), Refusal> {
    if bank::TOKENS.contains(&method) {
        return Ok(());
    }
    let message = format!("payment_method is one of {}, not a token this shop does not know", bank::TOKENS.join(", "));
    Err(Refusal::invalid("payment_method", message))
}
