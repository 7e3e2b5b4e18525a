//! What others are told of the goods of orders. Catalogue and totals are nobody else's business.
use messaging::relay::Public;
use proto::events as fact;
use store::{ReadError, Recorded, folded};

use crate::reservation::{Event, Held};
use crate::shelves::RESERVATION;

/// What others may know of an event of this service.
pub(crate) fn publicity(recorded: &Recorded) -> Result<Public, ReadError> {
    let Some(order_id) = recorded.stream.0.strip_prefix(RESERVATION).map(str::to_owned) else {
        return Ok(Public::Nothing);
    };
    let goods = |Held { sku, quantity }| fact::Goods { sku, quantity };
    Ok(match folded::decode(recorded)? {
        Event::InventoryReserved { held } => {
            Public::fact(&fact::StockReserved { order_id, goods: held.into_iter().map(goods).collect() })
        }
        Event::InventoryReleased {} => Public::fact(&fact::StockReleased { order_id }),
        Event::InventoryShipped {} => Public::fact(&fact::StockShipped { order_id }),
    })
}
