//! What shipping makes of what order tells: the parcel of a confirmed order can be picked up.
use async_trait::async_trait;
use messaging::consumer::{Failure, Handler, Interest, Receipt, read};
use messaging::envelope::Envelope;
use proto::events::{KINDS, OrderConfirmed};

use crate::service::Shipments;

/// Begins the fulfilment of confirmed orders, which nobody coordinates.
pub(crate) struct Heard(pub(crate) Shipments);

#[async_trait]
impl Handler for Heard {
    fn interest(&self, kind: &str) -> Interest {
        Interest::of(kind, &["shop.events.v1.OrderConfirmed"], KINDS)
    }

    async fn handle(&self, fact: &Envelope, receipt: &Receipt) -> Result<(), Failure> {
        let OrderConfirmed { order_id } = read(fact)?;
        Ok(self.0.dispatch(&receipt.commit(), &order_id).await?)
    }
}
