//! What inventory makes of what shipping tells: goods leave the books when their parcel has left.
use async_trait::async_trait;
use messaging::consumer::{Failure, Handler, Interest, Receipt, read};
use messaging::envelope::Envelope;
use proto::events::{KINDS, ShipmentDispatched};

use crate::service::Inventory;

/// Takes the goods of dispatched orders off the books.
pub(crate) struct Heard(pub(crate) Inventory);

#[async_trait]
impl Handler for Heard {
    fn interest(&self, kind: &str) -> Interest {
        Interest::of(kind, &["shop.events.v1.ShipmentDispatched"], KINDS)
    }

    async fn handle(&self, fact: &Envelope, receipt: &Receipt) -> Result<(), Failure> {
        let ShipmentDispatched { order_id } = read(fact)?;
        Ok(self.0.ship(&receipt.commit(), &order_id).await?)
    }
}
