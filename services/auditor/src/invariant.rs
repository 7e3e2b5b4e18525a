//! PURE. What always holds in the shop, in its own words, and what is said where it does not.
use std::time::Duration;

use clock::Timestamp;
use serde::{Deserialize, Serialize};

/// Something that always holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Invariant {
    /// I-1.
    NoOversell,
    /// I-2.
    MoneyAddsUp,
    /// I-3.
    ChargedOnce,
    /// I-4.
    StepByStep,
    /// I-5.
    UndoneStaysUndone,
    /// I-6.
    NothingMissing,
    /// I-7.
    OneWay,
    /// I-8.
    UndoneInReverse,
    /// I-14.
    EveryOrderEnds,
    /// I-15.
    EverythingHeard,
    /// I-17.
    CallsOnRecord,
    /// F-1.
    OneParcel,
    /// F-2.
    GoodsLeaveOnce,
}

impl Invariant {
    /// Those that are judged from published facts alone.
    pub const LIVE: [Invariant; 10] = [
        Invariant::NoOversell,
        Invariant::MoneyAddsUp,
        Invariant::ChargedOnce,
        Invariant::StepByStep,
        Invariant::UndoneStaysUndone,
        Invariant::NothingMissing,
        Invariant::OneWay,
        Invariant::EveryOrderEnds,
        Invariant::OneParcel,
        Invariant::GoodsLeaveOnce,
    ];

    /// Its number: I for those of any such shop, F for those of this one's fulfilment.
    #[must_use]
    pub fn number(self) -> &'static str {
        match self {
            Invariant::NoOversell => "I-1",
            Invariant::MoneyAddsUp => "I-2",
            Invariant::ChargedOnce => "I-3",
            Invariant::StepByStep => "I-4",
            Invariant::UndoneStaysUndone => "I-5",
            Invariant::NothingMissing => "I-6",
            Invariant::OneWay => "I-7",
            Invariant::UndoneInReverse => "I-8",
            Invariant::EveryOrderEnds => "I-14",
            Invariant::EverythingHeard => "I-15",
            Invariant::CallsOnRecord => "I-17",
            Invariant::OneParcel => "F-1",
            Invariant::GoodsLeaveOnce => "F-2",
        }
    }

    /// It as a sentence.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Invariant::NoOversell => "no more of a product is set aside or sent than was received",
            Invariant::MoneyAddsUp => {
                "of an order's money its total is kept or nothing, and nothing once it is rejected or cancelled"
            }
            Invariant::ChargedOnce => "an order is charged once at most",
            Invariant::StepByStep => {
                "no charge without goods set aside, no parcel without a charge, no confirmation without a parcel"
            }
            Invariant::UndoneStaysUndone => "nothing of a step takes effect once the step was undone",
            Invariant::NothingMissing => {
                "every stream is whole, everything in it can be read, and what it was caused by is there"
            }
            Invariant::OneWay => {
                "an order is placed, confirmed, shipped and delivered, or rejected, or cancelled, and stays what it became"
            }
            Invariant::UndoneInReverse => {
                "a saga undoes what it tried in reverse, and each of its commands takes effect once"
            }
            Invariant::EverythingHeard => "what was recorded has been told, and what was told has been taken in",
            Invariant::CallsOnRecord => {
                "whatever bank and carrier did was asked for on record, and so is what they answered"
            }
            Invariant::EveryOrderEnds => {
                "every order comes to its end in time, delivered or with everything undone, and leaves nothing behind"
            }
            Invariant::OneParcel => "an order has one parcel at most, which leaves only once the order is confirmed",
            Invariant::GoodsLeaveOnce => {
                "what is set aside for an order is what was ordered, and leaves once, with its parcel"
            }
        }
    }
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// What does not hold.
    pub invariant: Invariant,
    /// The stream that breaks it.
    pub stream: String,
    /// Since when: the time of the fact that broke it, or that asks for something which is not there.
    pub since: Timestamp,
    /// What is the matter, for people.
    pub sentence: String,
}

/// How long may be waited for what has to be there, before its absence counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// For what was recorded earlier: topics are heard independently, and one may be ahead of another.
    pub grace: Duration,
    /// For what has to follow: the end of a checkout or of its undoing, and what services make of each other's facts.
    pub settle: Duration,
    /// For the parcel of a confirmed order to arrive.
    pub deliver: Duration,
}

impl Terms {
    /// Everything that was published has been heard and nothing is under way, but parcels may be.
    pub const COMPLETE: Terms = Terms { grace: Duration::ZERO, settle: Duration::ZERO, deliver: Duration::MAX };
    /// The same, and every parcel that was to arrive has.
    pub const ALL_DELIVERED: Terms = Terms { deliver: Duration::ZERO, ..Terms::COMPLETE };

    /// Those of a shop that is open: a topic may be a minute ahead of another, whatever has to follow does within two, and
    /// parcels are picked up and on their way for so long.
    #[must_use]
    pub fn at_the_pace_of(pick_up: Duration, transit: Duration) -> Terms {
        let settle = Duration::from_secs(120);
        Terms {
            grace: Duration::from_secs(60),
            settle,
            deliver: pick_up.saturating_add(transit).saturating_add(settle),
        }
    }
}
