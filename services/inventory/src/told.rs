//! What others are told of the goods of orders, and of what arrives. The catalogue is nobody else's business.
use messaging::relay::Public;
use proto::events as fact;
use store::{ReadError, Recorded, folded};

use crate::reservation::{Event, Held};
use crate::shelves::{RESERVATION, STOCK};
use crate::stock;

/// What others may know of an event of this service.
pub(crate) fn publicity(recorded: &Recorded) -> Result<Public, ReadError> {
    if let Some(order_id) = recorded.stream.0.strip_prefix(RESERVATION) {
        return of_an_order(recorded, order_id.to_owned());
    }
    match recorded.stream.0.strip_prefix(STOCK) {
        Some(sku) => of_a_product(recorded, sku.to_owned()),
        None => Ok(Public::Nothing),
    }
}

fn of_an_order(recorded: &Recorded, order_id: String) -> Result<Public, ReadError> {
    let goods = |Held { sku, quantity }| fact::Goods { sku, quantity };
    Ok(match folded::decode(recorded)? {
        Event::InventoryReserved { held } => {
            Public::fact(&fact::StockReserved { order_id, goods: held.into_iter().map(goods).collect() })
        }
        Event::InventoryReleased {} => Public::fact(&fact::StockReleased { order_id }),
        Event::InventoryShipped {} => Public::fact(&fact::StockShipped { order_id }),
    })
}

/// What orders do to the totals is told with the orders' goods.
fn of_a_product(recorded: &Recorded, sku: String) -> Result<Public, ReadError> {
    Ok(match folded::decode(recorded)? {
        stock::Event::StockReceived { quantity } => Public::fact(&fact::StockReceived { sku, quantity }),
        stock::Event::StockReserved { .. } | stock::Event::StockReleased { .. } | stock::Event::StockShipped { .. } => {
            Public::Version
        }
    })
}
