//! PURE. An order: placed, then rejected, or cancelled, or confirmed, shipped and delivered.
//!
//! Before it is confirmed, a wish to call it off decides its end: it can only become cancelled. A confirmed order stays
//! confirmed while it is being called off, for it may turn out to be too late.
use clock::Timestamp;
use decider::Decider;
use serde::{Deserialize, Serialize};

/// A line of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What.
    pub sku: String,
    /// How many.
    pub quantity: i64,
    /// The price of one piece that the customer saw, in minor units.
    pub unit_price: i64,
}

/// Where the parcel goes.
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

/// What a customer ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// Whose it is.
    pub customer_id: String,
    /// What.
    pub lines: Vec<Line>,
    /// Sum of the lines in minor units.
    pub total: i64,
    /// ISO 4217 code.
    pub currency: String,
    /// Token of the payment method.
    pub payment_method: String,
    /// Where the parcel goes.
    pub shipping_address: Address,
}

/// Why an order was rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Stable word.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// The SKU to blame, if one is.
    pub sku: String,
    /// The new price in minor units, if it changed.
    pub unit_price: Option<i64>,
}

/// What is asked of an order. Each carries the present time.
#[derive(Clone, Debug)]
pub enum Command {
    /// Place it.
    Place(Details),
    /// Confirm it: goods, money and parcel are certain.
    Confirm,
    /// Its checkout was undone.
    Fail(Cause),
    /// The customer wants it called off.
    RequestCancellation,
    /// Everything done for it after its confirmation is undone.
    Cancel,
    /// Its parcel had left before it could be called off.
    RefuseCancellation,
    /// Its parcel has left.
    Ship,
    /// Its parcel has arrived.
    Deliver,
}

/// What happened to an order, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the commands")]
pub enum Event {
    /// It is placed.
    OrderPlaced { details: Details, at: Timestamp },
    /// It is confirmed.
    OrderConfirmed { at: Timestamp },
    /// It could not be fulfilled.
    OrderRejected { cause: Cause, at: Timestamp },
    /// The customer wants it called off.
    OrderCancellationRequested { at: Timestamp },
    /// It was too late for that.
    OrderCancellationRefused { at: Timestamp },
    /// It is called off.
    OrderCancelled { at: Timestamp },
    /// Its parcel has left.
    OrderShipped { at: Timestamp },
    /// Its parcel has arrived.
    OrderDelivered { at: Timestamp },
}

/// Why the rules say no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// There is such an order.
    Exists,
    /// There is no such order.
    Unknown,
    /// The customer wants it called off.
    CancellationRequested,
    /// It was rejected; nothing is left to call off.
    AlreadyRejected,
    /// It has ended otherwise.
    AlreadyEnded,
    /// The parcel has left.
    TooLate,
    /// Its parcel cannot have left, or arrived, yet or any more.
    NotOnItsWay,
}

/// Where an order stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// There is no such order.
    #[default]
    Absent,
    /// Accepted; the checkout runs.
    Placed,
    /// Goods, money and parcel are certain.
    Confirmed,
    /// The parcel has left.
    Shipped,
    /// The parcel has arrived.
    Delivered,
    /// It could not be fulfilled.
    Rejected(Cause),
    /// Called off.
    Cancelled,
}

/// Where the wish to call an order off stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cancellation {
    /// There was none.
    #[default]
    None,
    /// It is being carried out.
    Requested,
    /// The parcel had left.
    TooLate,
    /// The order is cancelled.
    Done,
}

/// An order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Where it stands.
    pub status: Status,
    /// Where the wish to call it off stands.
    pub cancellation: Cancellation,
    /// What was ordered.
    pub details: Details,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Order {
    /// Whether nothing more is under way for it: confirmed, or ended with everything undone.
    #[must_use]
    pub fn settled(&self) -> bool {
        match self.status {
            Status::Confirmed | Status::Shipped | Status::Delivered => self.cancellation != Cancellation::Requested,
            Status::Rejected(_) | Status::Cancelled => true,
            Status::Absent | Status::Placed => false,
        }
    }
}

impl Order {
    /// Whether nothing more can happen to it.
    #[must_use]
    pub fn ended(&self) -> bool {
        match self.status {
            Status::Delivered => self.cancellation != Cancellation::Requested,
            Status::Rejected(_) | Status::Cancelled => true,
            Status::Absent | Status::Placed | Status::Confirmed | Status::Shipped => false,
        }
    }
}

impl Decider for Order {
    type Command = (Command, Timestamp);
    type Event = Event;
    type Rejection = Rejection;

    fn decide(&self, (command, now): &(Command, Timestamp)) -> Result<Vec<Event>, Rejection> {
        // Within a stream, time never goes backwards.
        let at = self.updated_at.max(*now);
        let cancelling = self.cancellation == Cancellation::Requested;
        match (command, &self.status) {
            (Command::Place(details), Status::Absent) => Ok(vec![Event::OrderPlaced { details: details.clone(), at }]),
            (Command::Place(_), _) => Err(Rejection::Exists),
            (_, Status::Absent) => Err(Rejection::Unknown),

            (Command::Confirm, Status::Placed) if cancelling => Err(Rejection::CancellationRequested),
            (Command::Confirm, Status::Placed) => Ok(vec![Event::OrderConfirmed { at }]),
            (Command::Confirm, Status::Confirmed) => Ok(vec![]),
            (Command::Confirm, _) => Err(Rejection::AlreadyEnded),

            (Command::Fail(_), Status::Placed) if cancelling => Ok(vec![Event::OrderCancelled { at }]),
            (Command::Fail(cause), Status::Placed) => Ok(vec![Event::OrderRejected { cause: cause.clone(), at }]),
            (Command::Fail(_), Status::Rejected(_) | Status::Cancelled) => Ok(vec![]),
            (Command::Fail(_), _) => Err(Rejection::AlreadyEnded),

            (Command::RequestCancellation, Status::Rejected(_)) => Err(Rejection::AlreadyRejected),
            (Command::RequestCancellation, _) if self.cancellation == Cancellation::TooLate => Err(Rejection::TooLate),
            (Command::RequestCancellation, Status::Cancelled) => Ok(vec![]),
            (Command::RequestCancellation, _) if cancelling => Ok(vec![]),
            (Command::RequestCancellation, Status::Shipped | Status::Delivered) => Err(Rejection::TooLate),
            (Command::RequestCancellation, _) => Ok(vec![Event::OrderCancellationRequested { at }]),

            (Command::Cancel, Status::Confirmed) if cancelling => Ok(vec![Event::OrderCancelled { at }]),
            (Command::RefuseCancellation, Status::Confirmed | Status::Shipped | Status::Delivered) if cancelling => {
                Ok(vec![Event::OrderCancellationRefused { at }])
            }
            (Command::Cancel, Status::Cancelled) => Ok(vec![]),
            (Command::RefuseCancellation, _) if self.cancellation == Cancellation::TooLate => Ok(vec![]),
            (Command::Cancel | Command::RefuseCancellation, _) => Err(Rejection::AlreadyEnded),

            (Command::Ship, Status::Confirmed) => Ok(vec![Event::OrderShipped { at }]),
            (Command::Ship, Status::Shipped | Status::Delivered) => Ok(vec![]),
            (Command::Deliver, Status::Shipped) => Ok(vec![Event::OrderDelivered { at }]),
            (Command::Deliver, Status::Delivered) => Ok(vec![]),
            (Command::Ship | Command::Deliver, _) => Err(Rejection::NotOnItsWay),
        }
    }

    fn evolve(mut self, event: &Event) -> Order {
        self.updated_at = match event {
            Event::OrderPlaced { details, at } => {
                return Order {
                    status: Status::Placed,
                    details: details.clone(),
                    placed_at: *at,
                    updated_at: *at,
                    ..self
                };
            }
            Event::OrderConfirmed { at } => {
                self.status = Status::Confirmed;
                *at
            }
            Event::OrderRejected { cause, at } => {
                self.status = Status::Rejected(cause.clone());
                *at
            }
            Event::OrderCancellationRequested { at } => {
                self.cancellation = Cancellation::Requested;
                *at
            }
            Event::OrderCancellationRefused { at } => {
                self.cancellation = Cancellation::TooLate;
                *at
            }
            Event::OrderCancelled { at } => {
                (self.status, self.cancellation) = (Status::Cancelled, Cancellation::Done);
                *at
            }
            Event::OrderShipped { at } => {
                self.status = Status::Shipped;
                *at
            }
            Event::OrderDelivered { at } => {
                self.status = Status::Delivered;
                *at
            }
        };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use decider::spec::given;

    const AT: Timestamp = Timestamp(7);
    fn placed() -> Event {
        Event::OrderPlaced { details: Details { customer_id: "kim".into(), ..Details::default() }, at: AT }
    }
    const CONFIRMED: Event = Event::OrderConfirmed { at: AT };
    const WANTED: Event = Event::OrderCancellationRequested { at: AT };
    const CANCELLED: Event = Event::OrderCancelled { at: AT };
    fn declined() -> Cause {
        Cause { reason: "card_declined".into(), ..Cause::default() }
    }
    fn at(command: Command) -> (Command, Timestamp) {
        (command, AT)
    }

    #[test]
    fn a_placed_order_is_confirmed_once() {
        given::<Order>([placed()]).when(at(Command::Confirm)).then([CONFIRMED]);
        given::<Order>([placed(), CONFIRMED]).when(at(Command::Confirm)).then_nothing();
    }

    #[test]
    fn an_order_whose_checkout_was_undone_is_rejected_with_the_cause() {
        let rejected = Event::OrderRejected { cause: declined(), at: AT };
        given::<Order>([placed()]).when(at(Command::Fail(declined()))).then([rejected.clone()]);
        given::<Order>([placed(), rejected.clone()]).when(at(Command::Fail(declined()))).then_nothing();
        given::<Order>([placed(), rejected])
            .when(at(Command::RequestCancellation))
            .then_rejected(&Rejection::AlreadyRejected);
    }

    #[test]
    fn before_confirmation_a_cancellation_always_ends_in_cancelled() {
        given::<Order>([placed()]).when(at(Command::RequestCancellation)).then([WANTED]);
        given::<Order>([placed(), WANTED]).when(at(Command::RequestCancellation)).then_nothing();
        given::<Order>([placed(), WANTED]).when(at(Command::Confirm)).then_rejected(&Rejection::CancellationRequested);
        given::<Order>([placed(), WANTED]).when(at(Command::Fail(declined()))).then([CANCELLED]);
    }

    #[test]
    fn a_confirmed_order_becomes_cancelled_or_it_was_too_late() {
        let order = given::<Order>([placed(), CONFIRMED]).when(at(Command::RequestCancellation)).then([WANTED]);
        assert_eq!((&order.status, order.settled()), (&Status::Confirmed, false));
        given::<Order>([placed(), CONFIRMED, WANTED]).when(at(Command::Cancel)).then([CANCELLED]);
        let late = Event::OrderCancellationRefused { at: AT };
        let order =
            given::<Order>([placed(), CONFIRMED, WANTED]).when(at(Command::RefuseCancellation)).then([late.clone()]);
        assert_eq!(
            (&order.status, order.cancellation, order.settled()),
            (&Status::Confirmed, Cancellation::TooLate, true)
        );
        given::<Order>([placed(), CONFIRMED, WANTED, late])
            .when(at(Command::RequestCancellation))
            .then_rejected(&Rejection::TooLate);
    }

    #[test]
    fn a_confirmed_order_is_shipped_and_delivered_once() {
        let (shipped, delivered) = (Event::OrderShipped { at: AT }, Event::OrderDelivered { at: AT });
        given::<Order>([placed(), CONFIRMED]).when(at(Command::Ship)).then([shipped.clone()]);
        let left = [placed(), CONFIRMED, shipped];
        given::<Order>(left.clone()).when(at(Command::Ship)).then_nothing();
        let order = given::<Order>(left).when(at(Command::Deliver)).then([delivered]);
        assert_eq!((order.settled(), order.decide(&at(Command::Deliver))), (true, Ok(vec![])));
        given::<Order>([placed(), CONFIRMED]).when(at(Command::Deliver)).then_rejected(&Rejection::NotOnItsWay);
        given::<Order>([placed()]).when(at(Command::Ship)).then_rejected(&Rejection::NotOnItsWay);
        given::<Order>([placed(), WANTED, CANCELLED]).when(at(Command::Ship)).then_rejected(&Rejection::NotOnItsWay);
    }

    #[test]
    fn an_order_whose_parcel_has_left_is_not_called_off() {
        let shipped = Event::OrderShipped { at: AT };
        given::<Order>([placed(), CONFIRMED, shipped.clone()])
            .when(at(Command::RequestCancellation))
            .then_rejected(&Rejection::TooLate);
        // Asked for just before it left: the carrier had it.
        let racing = || given::<Order>([placed(), CONFIRMED, WANTED, shipped.clone()]);
        racing().when(at(Command::Cancel)).then_rejected(&Rejection::AlreadyEnded);
        let late = Event::OrderCancellationRefused { at: AT };
        let order = racing().when(at(Command::RefuseCancellation)).then([late]);
        assert_eq!((&order.status, order.settled()), (&Status::Shipped, true));
    }

    #[test]
    fn what_ended_stays_ended() {
        let ended = || given::<Order>([placed(), WANTED, CANCELLED]);
        ended().when(at(Command::Confirm)).then_rejected(&Rejection::AlreadyEnded);
        ended().when(at(Command::RequestCancellation)).then_nothing();
        given::<Order>([placed(), CONFIRMED])
            .when(at(Command::Fail(declined())))
            .then_rejected(&Rejection::AlreadyEnded);
        given::<Order>([]).when(at(Command::Confirm)).then_rejected(&Rejection::Unknown);
    }

    #[test]
    fn recorded_time_never_goes_backwards() {
        let order = given::<Order>([placed()]).when((Command::Confirm, Timestamp(3))).then([CONFIRMED]);
        assert_eq!(order.updated_at, AT);
    }
}
