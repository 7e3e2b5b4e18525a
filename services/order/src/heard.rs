//! What orders make of what shipping tells.
use async_trait::async_trait;
use messaging::consumer::{Failure, Handler, Interest, Receipt, read};
use messaging::envelope::Envelope;
use proto::events::{KINDS, ShipmentDelivered, ShipmentDispatched};

use crate::ledger::{Ledger, order_stream};
use crate::order::Command;

/// Carries orders from confirmed to delivered: the order's part of the fulfilment, which nobody coordinates.
pub(crate) struct Heard(pub(crate) Ledger);

const DISPATCHED: &str = "shop.events.v1.ShipmentDispatched";
const DELIVERED: &str = "shop.events.v1.ShipmentDelivered";

#[async_trait]
impl Handler for Heard {
    fn interest(&self, kind: &str) -> Interest {
        Interest::of(kind, &[DISPATCHED, DELIVERED], KINDS)
    }

    async fn handle(&self, fact: &Envelope, receipt: &Receipt) -> Result<(), Failure> {
        let (order_id, command) = if fact.kind == DISPATCHED {
            (read::<ShipmentDispatched>(fact)?.order_id, Command::Ship)
        } else {
            (read::<ShipmentDelivered>(fact)?.order_id, Command::Deliver)
        };
        self.0.take_in(&receipt.commit(), &order_id, command).await?;
        self.0.followers.wake(&order_stream(&order_id));
        Ok(())
    }
}
