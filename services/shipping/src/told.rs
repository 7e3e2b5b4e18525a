//! What others are told of parcels.
use messaging::relay::Public;
use proto::events as fact;
use store::{ReadError, Recorded, folded};

use crate::shipment::Event;

/// What others may know of an event of this service.
pub(crate) fn publicity(recorded: &Recorded) -> Result<Public, ReadError> {
    let Some(order_id) = recorded.stream.0.strip_prefix("shipment-").map(str::to_owned) else {
        return Ok(Public::Nothing);
    };
    Ok(match folded::decode(recorded)? {
        Event::ShipmentCreated { tracking_number } => {
            Public::fact(&fact::ShipmentCreated { order_id, tracking_number })
        }
        Event::ShipmentCancelled {} => Public::fact(&fact::ShipmentCancelled { order_id }),
        Event::ShipmentDispatched { .. } => Public::fact(&fact::ShipmentDispatched { order_id }),
        Event::ShipmentDelivered {} => Public::fact(&fact::ShipmentDelivered { order_id }),
        Event::ShipmentRequested { .. }
        | Event::ShipmentRefused { .. }
        | Event::ShipmentCancelRequested { .. }
        | Event::PickUpScheduled { .. } => Public::Version,
    })
}
