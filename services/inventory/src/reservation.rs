//! PURE. What is set aside for one order.
//!
//! "Released before reserved" is a state like any other: a reservation that arrives after it is refused.
use decider::Decider;
use serde::{Deserialize, Serialize};

/// Goods of one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What.
    pub sku: String,
    /// How many.
    pub quantity: i64,
}

/// What is asked of a reservation.
#[derive(Clone, Debug)]
pub enum Command {
    /// Hold these.
    Reserve(Vec<Held>),
    /// Hold nothing, now and later.
    Release,
    /// What is held has left with the order's parcel.
    Ship,
}

/// What happened to a reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the commands")]
pub enum Event {
    /// The order holds goods.
    InventoryReserved { held: Vec<Held> },
    /// It holds none, and will not.
    InventoryReleased {},
    /// What it held has left.
    InventoryShipped {},
}

/// Why the rules say no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// It was released before this arrived.
    AlreadyReleased,
    /// Something was reserved for the order before.
    AlreadyReserved,
    /// The goods have left.
    AlreadyShipped,
    /// Nothing is held that could leave.
    NothingHeld,
}

/// A reservation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reservation {
    /// Nothing was asked for.
    #[default]
    Untouched,
    /// Goods are held.
    Holding(Vec<Held>),
    /// Nothing is held, and nothing will be.
    Released,
    /// What was held has left.
    Shipped,
}

impl Reservation {
    /// What is held now.
    #[must_use]
    pub fn held(&self) -> &[Held] {
        if let Reservation::Holding(held) = self { held } else { &[] }
    }
}

impl Decider for Reservation {
    type Command = Command;
    type Event = Event;
    type Rejection = Rejection;

    fn decide(&self, command: &Command) -> Result<Vec<Event>, Rejection> {
        match (command, self) {
            (Command::Reserve(held), Reservation::Untouched) => {
                Ok(vec![Event::InventoryReserved { held: held.clone() }])
            }
            (Command::Reserve(_), Reservation::Holding(_)) => Err(Rejection::AlreadyReserved),
            (Command::Reserve(_), Reservation::Released) => Err(Rejection::AlreadyReleased),
            (Command::Reserve(_), Reservation::Shipped) => Err(Rejection::AlreadyShipped),
            (Command::Release, Reservation::Released) => Ok(vec![]),
            (Command::Release, Reservation::Shipped) => Err(Rejection::AlreadyShipped),
            (Command::Release, _) => Ok(vec![Event::InventoryReleased {}]),
            (Command::Ship, Reservation::Holding(_)) => Ok(vec![Event::InventoryShipped {}]),
            (Command::Ship, Reservation::Shipped) => Ok(vec![]),
            (Command::Ship, _) => Err(Rejection::NothingHeld),
        }
    }

    fn evolve(self, event: &Event) -> Reservation {
        match event {
            Event::InventoryReserved { held } => Reservation::Holding(held.clone()),
            Event::InventoryReleased {} => Reservation::Released,
            Event::InventoryShipped {} => Reservation::Shipped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use decider::spec::given;

    fn held() -> Vec<Held> {
        vec![Held { sku: "TEA-1".into(), quantity: 2 }]
    }
    fn reserved() -> Event {
        Event::InventoryReserved { held: held() }
    }

    #[test]
    fn goods_are_reserved_once_and_released_once() {
        given::<Reservation>([]).when(Command::Reserve(held())).then([reserved()]);
        given::<Reservation>([reserved()]).when(Command::Reserve(held())).then_rejected(&Rejection::AlreadyReserved);
        given::<Reservation>([reserved()]).when(Command::Release).then([Event::InventoryReleased {}]);
        given::<Reservation>([reserved(), Event::InventoryReleased {}]).when(Command::Release).then_nothing();
    }

    #[test]
    fn goods_leave_once_and_cannot_be_given_back_then() {
        let shipped = Event::InventoryShipped {};
        given::<Reservation>([reserved()]).when(Command::Ship).then([shipped.clone()]);
        given::<Reservation>([reserved(), shipped.clone()]).when(Command::Ship).then_nothing();
        given::<Reservation>([reserved(), shipped]).when(Command::Release).then_rejected(&Rejection::AlreadyShipped);
        given::<Reservation>([reserved(), Event::InventoryReleased {}])
            .when(Command::Ship)
            .then_rejected(&Rejection::NothingHeld);
    }

    /// SG-3: what was released before it was reserved is never reserved.
    #[test]
    fn a_reservation_after_its_release_is_refused() {
        let released = given::<Reservation>([]).when(Command::Release).then([Event::InventoryReleased {}]);
        assert_eq!(released.decide(&Command::Reserve(held())), Err(Rejection::AlreadyReleased));
    }
}
