//! PURE. What the bank and the carrier have in books of their own, where somebody hands these in: every entry has its
//! counterpart in what payment and shipping tell.
use std::collections::BTreeMap;

use clock::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fact::{Moment, Money, Part};
use crate::invariant::{Finding, Invariant, Terms};
use crate::page::{Page, Unmet, Why};

/// What the bank enters under the key of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Banked {
    /// Money moved to the shop.
    Debited,
    /// The card was refused.
    Refused,
    /// Called off before any money moved.
    CalledOff,
    /// Money moved back.
    Credited,
}

/// What the carrier enters under the key of a parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Carried {
    /// A label was made.
    Labelled,
    /// The country is not served.
    Refused,
    /// Called off before it left.
    CalledOff,
    /// It left.
    PickedUp,
    /// It arrived.
    Delivered,
}

/// An entry of the bank or the carrier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<K> {
    /// The order that it is for.
    pub order_id: String,
    /// The key of the charge, or of the parcel.
    pub key: String,
    /// Its place under that key, from 1.
    pub version: u64,
    /// What was entered.
    pub what: K,
    /// The money that moved, if it was money.
    pub money: Option<Money>,
    /// When.
    pub time: Timestamp,
}

/// The entries under one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries<K: Ord> {
    version: u64,
    at: BTreeMap<K, Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    money: Option<Money>,
}

/// What the bank has of a charge.
pub type Account = Entries<Banked>;
/// What the carrier has of a parcel.
pub type Booking = Entries<Carried>;

impl<K: Ord + Copy> Entries<K> {
    /// Takes in an entry; `false` for one that was taken in before.
    fn enter(&mut self, entry: &Entry<K>) -> bool {
        if entry.version <= self.version {
            return false;
        }
        self.version = entry.version;
        if entry.money.is_some() {
            self.money.clone_from(&entry.money);
        }
        true
    }
}

impl<K: Ord> Default for Entries<K> {
    fn default() -> Entries<K> {
        Entries { version: 0, at: BTreeMap::new(), money: None }
    }
}

impl Page {
    /// Takes in an entry of the bank. Entries of one key come in their order.
    pub fn bank(&mut self, entry: &Entry<Banked>) {
        let charged_before = self.banked(Banked::Debited).is_some();
        let account = self.bank.entry(entry.key.clone()).or_default();
        if !account.enter(entry) {
            return;
        }
        let has = |what| account.at.contains_key(&what);
        let wrong = match entry.what {
            Banked::Debited if has(Banked::Refused) || has(Banked::CalledOff) => {
                Some((Invariant::UndoneStaysUndone, "the bank took the money after it had closed the charge"))
            }
            Banked::Debited if charged_before => Some((Invariant::ChargedOnce, "the bank took the money twice")),
            Banked::Credited if has(Banked::Credited) => {
                Some((Invariant::MoneyAddsUp, "the bank gave the money back twice"))
            }
            Banked::Credited if !has(Banked::Debited) => {
                Some((Invariant::MoneyAddsUp, "the bank gave money back that it had not taken"))
            }
            _ => None,
        };
        account.at.entry(entry.what).or_insert(entry.time);
        self.enter(entry, Part::Payment, wrong);
    }

    /// Takes in an entry of the carrier. Entries of one key come in their order.
    pub fn carrier(&mut self, entry: &Entry<Carried>) {
        let labelled_before = self.carried(Carried::Labelled).is_some();
        let booking = self.carrier.entry(entry.key.clone()).or_default();
        if !booking.enter(entry) {
            return;
        }
        let has = |what| booking.at.contains_key(&what);
        let wrong = match entry.what {
            Carried::Labelled | Carried::PickedUp if has(Carried::CalledOff) => {
                Some((Invariant::UndoneStaysUndone, "the carrier went on with a parcel that was called off"))
            }
            Carried::Labelled if labelled_before => Some((Invariant::OneParcel, "the carrier has two parcels")),
            Carried::PickedUp if has(Carried::PickedUp) || !has(Carried::Labelled) => {
                Some((Invariant::OneParcel, "the carrier took a parcel that it could not"))
            }
            Carried::CalledOff if has(Carried::PickedUp) => {
                Some((Invariant::OneParcel, "the carrier called a parcel off that had left"))
            }
            _ => None,
        };
        booking.at.entry(entry.what).or_insert(entry.time);
        self.enter(entry, Part::Shipment, wrong);
    }

    fn enter<K>(&mut self, entry: &Entry<K>, part: Part, wrong: Option<(Invariant, &str)>) {
        if let Some((invariant, why)) = wrong {
            let stream = format!("{}{}", part.prefix(), entry.order_id);
            self.keep(Finding { invariant, stream, since: entry.time, sentence: format!("{why} ({})", entry.key) });
        }
    }

    fn banked(&self, what: Banked) -> Option<Timestamp> {
        self.bank.values().filter_map(|account| account.at.get(&what)).min().copied()
    }

    fn carried(&self, what: Carried) -> Option<Timestamp> {
        self.carrier.values().filter_map(|booking| booking.at.get(&what)).min().copied()
    }

    /// Where ledgers and facts disagree.
    pub(crate) fn unmet_ledgers(&self, terms: &Terms, unmet: &mut Vec<Unmet>) {
        let mut push = |part, since: Option<Timestamp>, patience, why| {
            let invariant = if part == Part::Payment { Invariant::MoneyAddsUp } else { Invariant::OneParcel };
            unmet.extend(since.map(|since| Unmet { invariant, part, since, patience, why: Why::Is(why) }));
        };
        let without = |one: Option<Timestamp>, other: Option<Timestamp>| one.filter(|_| other.is_none());
        let (money, parcel) = (Part::Payment, Part::Shipment);
        for (ours, theirs, more, less) in [
            (
                self.at(Moment::Charged),
                self.banked(Banked::Debited),
                "the bank took the money, and payment does not tell of it",
                "payment tells that the money was taken, and the bank has not",
            ),
            (
                self.at(Moment::Refunded),
                self.banked(Banked::Credited),
                "the bank gave the money back, and payment does not tell of it",
                "payment tells that the money was given back, and the bank has not",
            ),
        ] {
            push(money, without(theirs, ours), terms.settle, more);
            push(money, without(ours, theirs), terms.grace, less);
        }
        let labelled = self.at(Moment::Labelled);
        let called_off = self.at(Moment::CalledOff);
        let picked_up = self.carried(Carried::PickedUp);
        for (ours, theirs, more, less) in [
            (
                labelled.or(called_off),
                self.carried(Carried::Labelled),
                "the carrier has a parcel, and shipping does not tell of it",
                "shipping tells of a parcel, and the carrier has none",
            ),
            (
                self.at(Moment::Dispatched),
                picked_up,
                "the carrier took the parcel, and shipping does not tell of it",
                "shipping tells that the parcel left, and the carrier has not taken it",
            ),
            (
                self.at(Moment::Arrived),
                self.carried(Carried::Delivered),
                "the carrier delivered the parcel, and shipping does not tell of it",
                "shipping tells that the parcel arrived, and the carrier has not delivered it",
            ),
        ] {
            push(parcel, without(theirs, ours), terms.settle, more);
            // A parcel that was called off need never have been booked.
            push(parcel, without(ours.filter(|_| labelled.is_some()), theirs), terms.grace, less);
        }
        let confirmed = self.at(Moment::Confirmed);
        push(
            parcel,
            without(picked_up, confirmed),
            terms.grace,
            "the carrier took the parcel of an order not confirmed",
        );
        let stands = self.carried(Carried::Labelled).and(without(called_off, self.carried(Carried::CalledOff)));
        push(
            parcel,
            stands,
            terms.grace,
            "shipping tells that the parcel was called off, and the carrier has it still",
        );
        let debited = self.bank.values().find_map(|account| account.money.as_ref());
        let other = debited.zip(self.asked.as_ref()).is_some_and(|(debited, asked)| debited != asked);
        let since = self.banked(Banked::Debited).filter(|_| other);
        push(money, since, std::time::Duration::ZERO, "the bank took another amount than it was asked for");
    }
}

#[cfg(test)]
#[path = "ledgers_tests.rs"]
mod tests;
