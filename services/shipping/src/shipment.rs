//! PURE. The shipment of an order: at most one parcel, which can be called off until the carrier has it.
//!
//! Whether it was called off or has left is the carrier's to say; the shipment records who was first.
//!
//! What the carrier is asked for is recorded before it is asked (the intent), and again when it has answered. "Cancelled
//! before created" is a state like any other: a shipment that is asked for after it is refused.
use clock::Timestamp;
use decider::Decider;
use serde::{Deserialize, Serialize};

/// Where a parcel goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Name of the recipient.
    pub recipient: String,
    /// Street and number.
    pub street: String,
    /// City.
    pub city: String,
    /// Postal code.
    pub postal_code: String,
    /// ISO 3166-1 alpha-2 code.
    pub country: String,
}

/// What to send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parcel {
    /// The carrier's idempotency key: the command id.
    pub key: String,
    /// Where to.
    pub address: Address,
}

/// What became of a parcel at the carrier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Booked {
    /// It has a label.
    Labelled {
        /// The tracking number.
        tracking_number: String,
    },
    /// The carrier refused.
    Refused {
        /// `country_not_served`.
        reason: String,
    },
    /// It was called off by its key, and will never be sent.
    CalledOff {},
}

/// What became of a parcel that was to be picked up, or called off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickedUp {
    /// It has left.
    Left {
        /// When it is expected to arrive.
        expected: Timestamp,
    },
    /// It was called off, and will never leave.
    CalledOff,
}

/// What is asked of a shipment.
#[derive(Clone, Debug)]
pub enum Command {
    /// Book the parcel.
    Create(Parcel),
    /// The carrier answered about a booking.
    SettleCreate(Booked),
    /// Call the parcel off, or see that none is ever booked.
    Cancel {
        /// The command id.
        key: String,
    },
    /// The carrier answered about calling it off.
    SettleCancel(PickedUp),
    /// The order is confirmed: the parcel can be picked up.
    Dispatch {
        /// From when on.
        at: Timestamp,
    },
    /// The carrier answered about picking it up.
    SettlePickUp(PickedUp),
    /// The carrier delivered it.
    SettleDelivery,
}

/// What happened to a shipment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the commands")]
pub enum Event {
    /// The carrier is about to be asked for a label.
    ShipmentRequested { parcel: Parcel },
    /// The carrier gave one.
    ShipmentCreated { tracking_number: String },
    /// The carrier refused.
    ShipmentRefused { reason: String },
    /// The carrier is about to be asked to call it off.
    ShipmentCancelRequested { key: String },
    /// There is no parcel, and there will be none.
    ShipmentCancelled {},
    /// The carrier is to be asked to pick it up.
    PickUpScheduled { at: Timestamp },
    /// The parcel left.
    ShipmentDispatched { expected: Timestamp },
    /// The parcel arrived.
    ShipmentDelivered {},
}

/// Why the rules say no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The shipment was called off before it was asked for.
    AlreadyCancelled,
    /// Another shipment of the order was asked for before.
    AnotherShipment,
    /// The parcel has left.
    TooLate,
    /// There is no parcel that could.
    NoParcel,
}

/// Where a shipment stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was asked for.
    #[default]
    Untouched,
    /// The carrier was asked for a label.
    Requested,
    /// It has a label and waits for the order to be confirmed.
    Created,
    /// It is to be picked up.
    Waiting {
        /// From when on.
        at: Timestamp,
    },
    /// The carrier refused.
    Refused {
        /// Why.
        reason: String,
    },
    /// It is to be called off.
    Cancelling {
        /// The cancellation's command id.
        key: String,
    },
    /// There is no parcel, and there will be none.
    Cancelled,
    /// It left.
    Dispatched {
        /// When it is expected to arrive.
        expected: Timestamp,
    },
    /// It arrived.
    Delivered,
}

impl Stage {
    /// Its name in log lines.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Stage::Untouched => "untouched",
            Stage::Requested => "requested",
            Stage::Created => "created",
            Stage::Waiting { .. } => "waiting",
            Stage::Refused { .. } => "refused",
            Stage::Cancelling { .. } => "cancelling",
            Stage::Cancelled => "cancelled",
            Stage::Dispatched { .. } => "dispatched",
            Stage::Delivered => "delivered",
        }
    }
}

/// A shipment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shipment {
    /// Where it stands.
    pub stage: Stage,
    /// What is to be sent, if anything is.
    pub parcel: Parcel,
    /// The carrier's tracking number; empty until there is a label.
    pub tracking_number: String,
}

impl Decider for Shipment {
    type Command = Command;
    type Event = Event;
    type Rejection = Rejection;

    fn decide(&self, command: &Command) -> Result<Vec<Event>, Rejection> {
        match (command, &self.stage) {
            (Command::Create(parcel), Stage::Untouched) => {
                Ok(vec![Event::ShipmentRequested { parcel: parcel.clone() }])
            }
            (Command::Create(_), Stage::Cancelling { .. } | Stage::Cancelled) => Err(Rejection::AlreadyCancelled),
            (Command::Create(parcel), _) if parcel.key != self.parcel.key => Err(Rejection::AnotherShipment),
            (Command::Create(_), _) => Ok(vec![]),

            (Command::SettleCreate(booked), Stage::Requested) => Ok(vec![match booked.clone() {
                Booked::Labelled { tracking_number } => Event::ShipmentCreated { tracking_number },
                Booked::Refused { reason } => Event::ShipmentRefused { reason },
                Booked::CalledOff {} => Event::ShipmentCancelled {},
            }]),
            // What is being called off is called off by its key, whatever became of the booking.
            (Command::SettleCreate(_), Stage::Untouched) => Err(Rejection::NoParcel),
            (Command::SettleCreate(_), _) => Ok(vec![]),

            (Command::Cancel { .. }, Stage::Untouched | Stage::Refused { .. }) => Ok(vec![Event::ShipmentCancelled {}]),
            (Command::Cancel { key }, Stage::Requested | Stage::Created | Stage::Waiting { .. }) => {
                Ok(vec![Event::ShipmentCancelRequested { key: key.clone() }])
            }
            (Command::Cancel { .. }, Stage::Cancelling { .. } | Stage::Cancelled) => Ok(vec![]),
            (Command::Cancel { .. }, Stage::Dispatched { .. } | Stage::Delivered) => Err(Rejection::TooLate),

            (Command::Dispatch { at }, Stage::Created) => Ok(vec![Event::PickUpScheduled { at: *at }]),
            (Command::Dispatch { .. }, Stage::Untouched | Stage::Requested | Stage::Refused { .. }) => {
                Err(Rejection::NoParcel)
            }
            // It is on its way, or it is being called off since the order was confirmed.
            (Command::Dispatch { .. }, _) => Ok(vec![]),

            // Both ask the carrier about the same parcel: whichever answer comes first tells how it was decided there.
            (Command::SettlePickUp(outcome), Stage::Waiting { .. } | Stage::Cancelling { .. })
            | (Command::SettleCancel(outcome), Stage::Cancelling { .. }) => Ok(vec![match *outcome {
                PickedUp::Left { expected } => Event::ShipmentDispatched { expected },
                PickedUp::CalledOff => Event::ShipmentCancelled {},
            }]),
            (
                Command::SettlePickUp(_) | Command::SettleCancel(_),
                Stage::Cancelled | Stage::Dispatched { .. } | Stage::Delivered,
            ) => Ok(vec![]),
            (Command::SettlePickUp(_) | Command::SettleCancel(_), _) => Err(Rejection::NoParcel),

            (Command::SettleDelivery, Stage::Dispatched { .. }) => Ok(vec![Event::ShipmentDelivered {}]),
            (Command::SettleDelivery, Stage::Delivered) => Ok(vec![]),
            (Command::SettleDelivery, _) => Err(Rejection::NoParcel),
        }
    }

    fn evolve(mut self, event: &Event) -> Shipment {
        self.stage = match event {
            Event::ShipmentRequested { parcel } => {
                self.parcel = parcel.clone();
                Stage::Requested
            }
            Event::ShipmentCreated { tracking_number } => {
                self.tracking_number.clone_from(tracking_number);
                Stage::Created
            }
            Event::ShipmentRefused { reason } => Stage::Refused { reason: reason.clone() },
            Event::ShipmentCancelRequested { key } => Stage::Cancelling { key: key.clone() },
            Event::ShipmentCancelled {} => Stage::Cancelled,
            Event::PickUpScheduled { at } => Stage::Waiting { at: *at },
            Event::ShipmentDispatched { expected } => Stage::Dispatched { expected: *expected },
            Event::ShipmentDelivered {} => Stage::Delivered,
        };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use decider::spec::given;

    fn parcel() -> Parcel {
        Parcel {
            key: "saga/create_shipment/do".into(),
            address: Address { country: "KR".into(), ..Address::default() },
        }
    }
    fn requested() -> Event {
        Event::ShipmentRequested { parcel: parcel() }
    }
    fn created() -> Event {
        Event::ShipmentCreated { tracking_number: "T-1".into() }
    }
    fn cancelling() -> Event {
        Event::ShipmentCancelRequested { key: "undo".into() }
    }
    fn cancel() -> Command {
        Command::Cancel { key: "undo".into() }
    }
    fn labelled() -> Command {
        Command::SettleCreate(Booked::Labelled { tracking_number: "T-1".into() })
    }

    #[test]
    fn a_booking_is_an_intent_first_and_settled_by_the_carrier() {
        given::<Shipment>([]).when(Command::Create(parcel())).then([requested()]);
        given::<Shipment>([requested()]).when(labelled()).then([created()]);
        let refused = Command::SettleCreate(Booked::Refused { reason: "country_not_served".into() });
        given::<Shipment>([requested()])
            .when(refused)
            .then([Event::ShipmentRefused { reason: "country_not_served".into() }]);
    }

    #[test]
    fn a_booking_asked_for_or_answered_twice_is_one_parcel() {
        given::<Shipment>([requested()]).when(Command::Create(parcel())).then_nothing();
        given::<Shipment>([requested(), created()]).when(labelled()).then_nothing();
        let another = Parcel { key: "other".into(), ..parcel() };
        given::<Shipment>([requested()]).when(Command::Create(another)).then_rejected(&Rejection::AnotherShipment);
    }

    #[test]
    fn a_parcel_is_called_off_once() {
        given::<Shipment>([requested(), created()]).when(cancel()).then([cancelling()]);
        given::<Shipment>([requested(), created(), cancelling()]).when(cancel()).then_nothing();
        given::<Shipment>([requested(), cancelling()])
            .when(Command::SettleCancel(PickedUp::CalledOff))
            .then([Event::ShipmentCancelled {}]);
        given::<Shipment>([requested(), cancelling()]).when(labelled()).then_nothing();
    }

    /// SG-3: what was cancelled before it was asked for is never sent.
    #[test]
    fn a_booking_after_its_cancellation_is_refused() {
        let cancelled = given::<Shipment>([]).when(cancel()).then([Event::ShipmentCancelled {}]);
        assert_eq!(cancelled.decide(&Command::Create(parcel())), Err(Rejection::AlreadyCancelled));
        given::<Shipment>([requested(), cancelling()])
            .when(Command::Create(parcel()))
            .then_rejected(&Rejection::AlreadyCancelled);
    }

    const AT: Timestamp = Timestamp(7);
    const EXPECTED: Timestamp = Timestamp(9);
    const SCHEDULED: Event = Event::PickUpScheduled { at: AT };
    const LEFT: Event = Event::ShipmentDispatched { expected: EXPECTED };
    const DISPATCH: Command = Command::Dispatch { at: AT };
    const PICKED_UP: PickedUp = PickedUp::Left { expected: EXPECTED };

    #[test]
    fn a_parcel_that_has_left_cannot_be_called_off() {
        let left = [requested(), created(), SCHEDULED, LEFT];
        given::<Shipment>(left.clone()).when(cancel()).then_rejected(&Rejection::TooLate);
        let arrived = given::<Shipment>(left).when(Command::SettleDelivery).then([Event::ShipmentDelivered {}]);
        assert_eq!(arrived.decide(&cancel()), Err(Rejection::TooLate));
        assert_eq!(arrived.decide(&Command::SettleDelivery), Ok(vec![]));
    }

    #[test]
    fn only_a_labelled_parcel_leaves_and_only_one_that_left_arrives() {
        given::<Shipment>([requested(), created()]).when(DISPATCH).then([SCHEDULED]);
        given::<Shipment>([requested(), created(), SCHEDULED]).when(Command::SettlePickUp(PICKED_UP)).then([LEFT]);
        for early in [vec![], vec![requested()]] {
            given::<Shipment>(early).when(DISPATCH).then_rejected(&Rejection::NoParcel);
        }
        given::<Shipment>([requested(), created()]).when(Command::SettleDelivery).then_rejected(&Rejection::NoParcel);
        for late in [vec![SCHEDULED], vec![cancelling()], vec![SCHEDULED, LEFT]] {
            given::<Shipment>([requested(), created()].into_iter().chain(late)).when(DISPATCH).then_nothing();
        }
    }

    #[test]
    fn a_cancel_racing_a_pick_up_has_the_winner_that_the_carrier_names() {
        let racing = || given::<Shipment>([requested(), created(), SCHEDULED, cancelling()]);
        racing().when(Command::SettlePickUp(PICKED_UP)).then([LEFT]);
        racing().when(Command::SettleCancel(PICKED_UP)).then([LEFT]);
        let called_off = [Event::ShipmentCancelled {}];
        let off = racing().when(Command::SettleCancel(PickedUp::CalledOff)).then(called_off.clone());
        assert_eq!(off.decide(&Command::SettlePickUp(PickedUp::CalledOff)), Ok(vec![]));
        racing().when(Command::SettlePickUp(PickedUp::CalledOff)).then(called_off);
    }
}
