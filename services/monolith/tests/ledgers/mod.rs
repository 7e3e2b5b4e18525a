//! What bank and carrier have in their own books, as the auditor takes it.
use auditor::fact::Money;
use auditor::ledgers::{Banked, Carried, Entry};
use store::{Recorded, folded};

/// Order, key and place of an entry in a ledger whose streams are named `<kind>-<key>`, for a key that a checkout made.
fn entry<K>(recorded: &Recorded, kind: &str, what: K, money: Option<Money>) -> Entry<K> {
    let key = recorded.stream.0.strip_prefix(kind).unwrap_or_default().to_owned();
    let order_id = key.strip_prefix("checkout-").and_then(|rest| rest.split('/').next()).unwrap_or_default().to_owned();
    Entry { order_id, key, version: recorded.version, what, money, time: recorded.timestamp }
}

pub fn banked(recorded: &Recorded) -> Entry<Banked> {
    let (what, money) = match folded::decode(recorded).expect("the bank's own entry") {
        payment::bank::Entry::Debited { amount, currency, .. } => (Banked::Debited, Some(Money { amount, currency })),
        payment::bank::Entry::Refused { .. } => (Banked::Refused, None),
        payment::bank::Entry::CalledOff {} => (Banked::CalledOff, None),
        payment::bank::Entry::Credited { .. } => (Banked::Credited, None),
    };
    entry(recorded, "charge-", what, money)
}

pub fn carried(recorded: &Recorded) -> Entry<Carried> {
    let what = match folded::decode(recorded).expect("the carrier's own entry") {
        shipping::carrier::Entry::Labelled {} => Carried::Labelled,
        shipping::carrier::Entry::Refused { .. } => Carried::Refused,
        shipping::carrier::Entry::CalledOff {} => Carried::CalledOff,
        shipping::carrier::Entry::PickedUp { .. } => Carried::PickedUp,
        shipping::carrier::Entry::Delivered {} => Carried::Delivered,
    };
    entry(recorded, "parcel-", what, None)
}
