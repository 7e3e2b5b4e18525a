//! PURE. The payment of an order: at most one charge, at most one refund, whatever is asked twice or in the wrong order.
//!
//! What the bank is asked for is recorded before it is asked (the intent), and again when it has answered. "Refunded before
//! charged" is a state like any other: a charge that arrives after it is refused.
use decider::Decider;
use serde::{Deserialize, Serialize};

/// What to charge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// The bank's idempotency key: the command id.
    pub key: String,
    /// Amount in minor units.
    pub amount: i64,
    /// ISO 4217 code.
    pub currency: String,
    /// Token of the payment method.
    pub method: String,
}

/// What became of a charge at the bank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Charged {
    /// The money is taken.
    Taken {
        /// The bank's reference.
        reference: String,
    },
    /// The bank refused.
    Declined {
        /// `card_declined` or `insufficient_funds`.
        reason: String,
    },
    /// It was called off by its key before the bank took it, and will never be taken.
    CalledOff {},
}

/// What is asked of a payment.
#[derive(Clone, Debug)]
pub enum Command {
    /// Charge the order.
    Charge(Charge),
    /// The bank answered about a charge.
    SettleCharge(Charged),
    /// Give the money back, or see that none is ever taken.
    Refund {
        /// The bank's idempotency key: the command id.
        key: String,
    },
    /// The bank gave the money back.
    SettleRefund,
}

/// What happened to a payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the commands")]
pub enum Event {
    /// The bank is about to be asked for the money.
    ChargeRequested { charge: Charge },
    /// The bank took it.
    PaymentCharged { reference: String },
    /// The bank refused.
    PaymentDeclined { reason: String },
    /// The bank is about to be asked to give it back.
    RefundRequested { key: String },
    /// The bank gave it back.
    PaymentRefunded {},
    /// No money was taken, and none will be.
    PaymentVoided {},
}

/// Why the rules say no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The order was refunded, or its refund is under way, before this charge arrived.
    AlreadyRefunded,
    /// Another charge of the order was asked for before.
    AnotherCharge,
    /// Nothing was asked of the bank that it could have answered.
    NothingAsked,
}

/// Where a payment stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was asked for.
    #[default]
    Untouched,
    /// The bank was asked for the money.
    Charging,
    /// The money is taken.
    Charged {
        /// The bank's reference.
        reference: String,
    },
    /// The bank refused.
    Declined {
        /// Why.
        reason: String,
    },
    /// The money is to be given back; what became of the charge may still be unknown.
    Refunding {
        /// The refund's key.
        key: String,
        /// Whether the charge is known to have been taken.
        taken: bool,
    },
    /// No money is held, and none will be.
    Refunded,
}

impl Stage {
    /// Its name in log lines.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Stage::Untouched => "untouched",
            Stage::Charging => "charging",
            Stage::Charged { .. } => "charged",
            Stage::Declined { .. } => "declined",
            Stage::Refunding { .. } => "refunding",
            Stage::Refunded => "refunded",
        }
    }
}

/// A payment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payment {
    /// Where it stands.
    pub stage: Stage,
    /// What was to be charged, if anything was.
    pub charge: Charge,
}

impl Decider for Payment {
    type Command = Command;
    type Event = Event;
    type Rejection = Rejection;

    fn decide(&self, command: &Command) -> Result<Vec<Event>, Rejection> {
        match (command, &self.stage) {
            (Command::Charge(charge), Stage::Untouched) => Ok(vec![Event::ChargeRequested { charge: charge.clone() }]),
            (Command::Charge(_), Stage::Refunding { .. } | Stage::Refunded) => Err(Rejection::AlreadyRefunded),
            (Command::Charge(charge), _) if charge.key != self.charge.key => Err(Rejection::AnotherCharge),
            (Command::Charge(_), _) => Ok(vec![]),

            (Command::SettleCharge(charged), Stage::Charging) => Ok(vec![match charged.clone() {
                Charged::Taken { reference } => Event::PaymentCharged { reference },
                Charged::Declined { reason } => Event::PaymentDeclined { reason },
                Charged::CalledOff {} => Event::PaymentVoided {},
            }]),
            (Command::SettleCharge(charged), Stage::Refunding { taken: false, .. }) => {
                Ok(vec![match charged.clone() {
                    Charged::Taken { reference } => Event::PaymentCharged { reference },
                    Charged::Declined { .. } | Charged::CalledOff {} => Event::PaymentVoided {},
                }])
            }
            (Command::SettleCharge(_) | Command::SettleRefund, Stage::Untouched) => Err(Rejection::NothingAsked),
            (Command::SettleCharge(_), _) => Ok(vec![]),

            (Command::Refund { .. }, Stage::Untouched | Stage::Declined { .. }) => Ok(vec![Event::PaymentVoided {}]),
            (Command::Refund { key }, Stage::Charging | Stage::Charged { .. }) => {
                Ok(vec![Event::RefundRequested { key: key.clone() }])
            }
            (Command::Refund { .. }, Stage::Refunding { .. } | Stage::Refunded) => Ok(vec![]),

            (Command::SettleRefund, Stage::Refunding { taken: true, .. }) => Ok(vec![Event::PaymentRefunded {}]),
            (Command::SettleRefund, Stage::Refunded) => Ok(vec![]),
            (Command::SettleRefund, _) => Err(Rejection::NothingAsked),
        }
    }

    fn evolve(self, event: &Event) -> Payment {
        let stage = match (event, &self.stage) {
            (Event::ChargeRequested { charge }, _) => {
                return Payment { stage: Stage::Charging, charge: charge.clone() };
            }
            (Event::PaymentCharged { .. }, Stage::Refunding { key, .. }) => {
                Stage::Refunding { key: key.clone(), taken: true }
            }
            (Event::PaymentCharged { reference }, _) => Stage::Charged { reference: reference.clone() },
            (Event::PaymentDeclined { reason }, _) => Stage::Declined { reason: reason.clone() },
            (Event::RefundRequested { key }, stage) => {
                Stage::Refunding { key: key.clone(), taken: matches!(stage, Stage::Charged { .. }) }
            }
            (Event::PaymentRefunded {} | Event::PaymentVoided {}, _) => Stage::Refunded,
        };
        Payment { stage, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use decider::spec::given;

    fn charge() -> Charge {
        Charge {
            key: "saga/charge_payment/do".into(),
            amount: 900,
            currency: "KRW".into(),
            method: "pm_card_ok".into(),
        }
    }
    fn requested() -> Event {
        Event::ChargeRequested { charge: charge() }
    }
    fn charged() -> Event {
        Event::PaymentCharged { reference: "b-1".into() }
    }
    fn refunding() -> Event {
        Event::RefundRequested { key: "undo".into() }
    }
    fn refund() -> Command {
        Command::Refund { key: "undo".into() }
    }
    fn taken() -> Command {
        Command::SettleCharge(Charged::Taken { reference: "b-1".into() })
    }

    #[test]
    fn a_charge_is_an_intent_first_and_settled_by_the_bank() {
        given::<Payment>([]).when(Command::Charge(charge())).then([requested()]);
        given::<Payment>([requested()]).when(taken()).then([charged()]);
        let declined = Command::SettleCharge(Charged::Declined { reason: "card_declined".into() });
        given::<Payment>([requested()])
            .when(declined)
            .then([Event::PaymentDeclined { reason: "card_declined".into() }]);
    }

    #[test]
    fn a_charge_asked_for_or_answered_twice_is_one_charge() {
        given::<Payment>([requested()]).when(Command::Charge(charge())).then_nothing();
        given::<Payment>([requested(), charged()]).when(taken()).then_nothing();
        let another = Charge { key: "other".into(), ..charge() };
        given::<Payment>([requested(), charged()])
            .when(Command::Charge(another))
            .then_rejected(&Rejection::AnotherCharge);
    }

    #[test]
    fn a_charge_is_given_back_once() {
        given::<Payment>([requested(), charged()]).when(refund()).then([refunding()]);
        given::<Payment>([requested(), charged(), refunding()]).when(refund()).then_nothing();
        given::<Payment>([requested(), charged(), refunding()])
            .when(Command::SettleRefund)
            .then([Event::PaymentRefunded {}]);
        given::<Payment>([requested(), charged(), refunding(), Event::PaymentRefunded {}])
            .when(Command::SettleRefund)
            .then_nothing();
    }

    /// SG-3: what was refunded before it was charged is never charged.
    #[test]
    fn a_charge_after_its_refund_is_refused() {
        let refunded = given::<Payment>([]).when(refund()).then([Event::PaymentVoided {}]);
        assert_eq!(refunded.decide(&Command::Charge(charge())), Err(Rejection::AlreadyRefunded));
        given::<Payment>([requested(), refunding()])
            .when(Command::Charge(charge()))
            .then_rejected(&Rejection::AlreadyRefunded);
    }

    #[test]
    fn an_undo_that_finds_an_intent_waits_for_what_became_of_it() {
        given::<Payment>([requested()]).when(refund()).then([refunding()]);
        given::<Payment>([requested(), refunding()])
            .when(Command::SettleRefund)
            .then_rejected(&Rejection::NothingAsked);
        let off = Command::SettleCharge(Charged::CalledOff {});
        given::<Payment>([requested(), refunding()]).when(off).then([Event::PaymentVoided {}]);
        let settled = given::<Payment>([requested(), refunding()]).when(taken()).then([charged()]);
        assert_eq!(settled.decide(&Command::SettleRefund), Ok(vec![Event::PaymentRefunded {}]));
    }

    #[test]
    fn a_declined_charge_leaves_nothing_to_give_back() {
        let declined = Event::PaymentDeclined { reason: "card_declined".into() };
        given::<Payment>([requested(), declined]).when(refund()).then([Event::PaymentVoided {}]);
    }
}
