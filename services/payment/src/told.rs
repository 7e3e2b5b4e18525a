//! What others are told of the money of orders.
use messaging::relay::Public;
use proto::events as fact;
use store::{ReadError, Recorded, folded};

use crate::payment::Event;

/// What others may know of an event of this service.
pub(crate) fn publicity(recorded: &Recorded) -> Result<Public, ReadError> {
    let Some(order_id) = recorded.stream.0.strip_prefix("payment-").map(str::to_owned) else {
        return Ok(Public::Nothing);
    };
    Ok(match folded::decode(recorded)? {
        Event::ChargeRequested { charge } => {
            Public::fact(&fact::PaymentRequested { order_id, amount: charge.amount, currency: charge.currency })
        }
        Event::PaymentCharged { .. } => Public::fact(&fact::PaymentCharged { order_id }),
        Event::PaymentRefunded {} => Public::fact(&fact::PaymentRefunded { order_id }),
        Event::PaymentDeclined { .. } | Event::RefundRequested { .. } | Event::PaymentVoided {} => Public::Version,
    })
}
