//! PURE. How many pieces of a product there are. Totals only: which order holds what is the reservations' to know.
//!
//! Available is what was received, less what is reserved and what has left; it is never negative.
use decider::Decider;
use serde::{Deserialize, Serialize};

/// The most pieces of a product that can ever be received.
pub const MAX_RECEIVED: i64 = 1_000_000_000_000;

/// What is asked of stock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Book goods that arrived.
    Receive(i64),
    /// Set pieces aside. Whether they are given back or leave, the reservation decides that they are set aside for.
    Reserve(i64),
}

/// What happened to stock. Quantities are pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are pieces")]
pub enum Event {
    /// Goods arrived.
    StockReceived { quantity: i64 },
    /// Pieces were set aside.
    StockReserved { quantity: i64 },
    /// Pieces set aside were given back.
    StockReleased { quantity: i64 },
    /// Pieces set aside have left.
    StockShipped { quantity: i64 },
}

/// Why the rules say no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// There are fewer than asked for.
    OutOfStock {
        /// How many there are.
        available: i64,
    },
    /// More than a store can hold.
    TooMuch,
}

/// The totals of one product, in pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stock {
    /// Ever received.
    pub received: i64,
    /// Set aside for orders.
    pub reserved: i64,
    /// Left with parcels.
    #[serde(default)]
    pub shipped: i64,
}

impl Stock {
    /// How many can be ordered now.
    #[must_use]
    pub fn available(&self) -> i64 {
        self.received - self.reserved - self.shipped
    }
}

impl Decider for Stock {
    type Command = Command;
    type Event = Event;
    type Rejection = Rejection;

    fn decide(&self, command: &Command) -> Result<Vec<Event>, Rejection> {
        match *command {
            Command::Receive(quantity) if quantity > MAX_RECEIVED - self.received => Err(Rejection::TooMuch),
            Command::Receive(quantity) => Ok(vec![Event::StockReceived { quantity }]),
            Command::Reserve(quantity) if quantity > self.available() => {
                Err(Rejection::OutOfStock { available: self.available() })
            }
            Command::Reserve(quantity) => Ok(vec![Event::StockReserved { quantity }]),
        }
    }

    fn evolve(self, event: &Event) -> Stock {
        match *event {
            Event::StockReceived { quantity } => Stock { received: self.received + quantity, ..self },
            Event::StockReserved { quantity } => Stock { reserved: self.reserved + quantity, ..self },
            Event::StockReleased { quantity } => Stock { reserved: self.reserved - quantity, ..self },
            Event::StockShipped { quantity } => {
                Stock { reserved: self.reserved - quantity, shipped: self.shipped + quantity, ..self }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use decider::spec::given;

    const FIVE: Event = Event::StockReceived { quantity: 5 };
    const THREE_HELD: Event = Event::StockReserved { quantity: 3 };

    #[test]
    fn no_more_is_set_aside_than_there_is() {
        given::<Stock>([FIVE]).when(Command::Reserve(5)).then([Event::StockReserved { quantity: 5 }]);
        given::<Stock>([FIVE, THREE_HELD])
            .when(Command::Reserve(3))
            .then_rejected(&Rejection::OutOfStock { available: 2 });
        given::<Stock>([]).when(Command::Reserve(1)).then_rejected(&Rejection::OutOfStock { available: 0 });
    }

    #[test]
    fn what_is_given_back_can_be_ordered_again_and_what_left_can_not() {
        let released = Event::StockReleased { quantity: 3 };
        given::<Stock>([FIVE, THREE_HELD, released])
            .when(Command::Reserve(5))
            .then([Event::StockReserved { quantity: 5 }]);
        let shipped = Event::StockShipped { quantity: 3 };
        given::<Stock>([FIVE, THREE_HELD, shipped])
            .when(Command::Reserve(3))
            .then_rejected(&Rejection::OutOfStock { available: 2 });
    }

    #[test]
    fn a_store_does_not_hold_more_than_its_limit() {
        let full = Event::StockReceived { quantity: MAX_RECEIVED };
        given::<Stock>([full]).when(Command::Receive(1)).then_rejected(&Rejection::TooMuch);
    }
}
