//! What others are told of orders. Sagas and lists are nobody else's business.
use messaging::relay::Public;
use proto::events as fact;
use store::{ReadError, Recorded, folded};

use crate::ledger::ORDER;
use crate::order::{Details, Event, Line};

/// What others may know of an event of this service.
pub(crate) fn publicity(recorded: &Recorded) -> Result<Public, ReadError> {
    let Some(order_id) = recorded.stream.0.strip_prefix(ORDER).map(str::to_owned) else { return Ok(Public::Nothing) };
    Ok(match folded::decode(recorded)? {
        Event::OrderPlaced { details, .. } => Public::fact(&placed(order_id, details)),
        Event::OrderConfirmed { .. } => Public::fact(&fact::OrderConfirmed { order_id }),
        Event::OrderRejected { cause, .. } => Public::fact(&fact::OrderRejected { order_id, reason: cause.reason }),
        Event::OrderCancelled { .. } => Public::fact(&fact::OrderCancelled { order_id }),
        Event::OrderShipped { .. } => Public::fact(&fact::OrderShipped { order_id }),
        Event::OrderDelivered { .. } => Public::fact(&fact::OrderDelivered { order_id }),
        Event::OrderCancellationRequested { .. } | Event::OrderCancellationRefused { .. } => Public::Version,
    })
}

fn placed(order_id: String, details: Details) -> fact::OrderPlaced {
    let Details { customer_id, lines, total, currency, .. } = details;
    let item = |Line { sku, quantity, unit_price }| fact::Item { sku, quantity, unit_price };
    fact::OrderPlaced { order_id, customer_id, items: lines.into_iter().map(item).collect(), total, currency }
}
