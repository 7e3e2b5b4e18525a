use std::collections::BTreeSet;

use super::*;
use crate::books::Books;
use crate::books::tests::{GOOD, ID, Told, facts, money};

use Banked::{Credited, Debited};
use Carried::{Delivered, Labelled, PickedUp};

fn entries<K: Copy>(key: &str, whats: &[K]) -> Vec<Entry<K>> {
    let entry = |(version, what): (u64, &K)| Entry {
        order_id: ID.into(),
        key: key.into(),
        version,
        what: *what,
        money: None,
        time: Timestamp(1_800_000_000_000_000),
    };
    (1..).zip(whats).map(entry).collect()
}

fn told(name: &str) -> &'static [Told] {
    GOOD.iter().find(|(other, _)| *other == name).unwrap().1
}

/// What is broken of an order that went this way, with these entries of its charge and its parcel.
fn broken(told: &[Told], bank: &[Banked], carrier: &[Carried]) -> BTreeSet<Invariant> {
    let mut books = Books::with_ledgers();
    facts(0, told).iter().for_each(|fact| books.hear(fact).unwrap());
    for mut entry in entries("charge", bank) {
        entry.money = (entry.what == Debited).then(money);
        books.bank(&entry);
        books.bank(&entry);
    }
    for entry in entries("parcel", carrier) {
        books.carrier(&entry);
        books.carrier(&entry);
    }
    books.judge_complete().into_iter().map(|finding| finding.invariant).collect()
}

#[test]
fn ledgers_that_agree_are_good() {
    use Banked::CalledOff as Closed;
    use Carried::CalledOff as Off;
    let cases: [(&str, &[Banked], &[Carried]); 13] = [
        ("delivered", &[Debited], &[Labelled, PickedUp, Delivered]),
        ("confirmed", &[Debited], &[Labelled]),
        ("out of stock", &[], &[]),
        ("declined", &[Banked::Refused], &[]),
        ("not served", &[Debited, Credited], &[Carried::Refused]),
        ("called off while the charge is unknown, and it is called off", &[Closed], &[]),
        ("called off while the charge is unknown, and it was taken", &[Debited, Credited], &[]),
        ("called off before anything arrived", &[], &[]),
        ("called off while the label is unknown", &[Debited, Credited], &[Labelled, Off]),
        ("called off while the label is unknown", &[Debited, Credited], &[Off]),
        ("called off while the label is unknown", &[Debited, Credited], &[Carried::Refused]),
        ("called off once confirmed", &[Debited, Credited], &[Labelled, Off]),
        ("too late", &[Debited], &[Labelled, PickedUp, Delivered]),
    ];
    for (name, bank, carrier) in cases {
        assert_eq!(broken(told(name), bank, carrier), BTreeSet::new(), "{name} {bank:?} {carrier:?}");
    }
}

#[test]
fn ledgers_that_disagree_are_noticed() {
    use Invariant::{ChargedOnce, MoneyAddsUp, OneParcel, UndoneStaysUndone};
    let (delivered, confirmed, undone) = ("delivered", "confirmed", "called off with a label");
    let (arrived, off) = (&[Labelled, PickedUp, Delivered][..], &[Labelled, Carried::CalledOff][..]);
    let cases: [(Invariant, &str, &[Banked], &[Carried]); 18] = [
        (MoneyAddsUp, delivered, &[], arrived),
        (MoneyAddsUp, delivered, &[Banked::Refused], arrived),
        (MoneyAddsUp, delivered, &[Debited, Credited], arrived),
        (MoneyAddsUp, "declined", &[Debited], &[]),
        (MoneyAddsUp, undone, &[Debited], off),
        (MoneyAddsUp, undone, &[Debited, Credited, Credited], off),
        (MoneyAddsUp, undone, &[Credited, Debited], off),
        (ChargedOnce, delivered, &[Debited, Debited], arrived),
        (UndoneStaysUndone, delivered, &[Banked::CalledOff, Debited], arrived),
        (OneParcel, delivered, &[Debited], &[]),
        (OneParcel, delivered, &[Debited], &[Labelled, PickedUp]),
        (OneParcel, confirmed, &[Debited], &[Labelled, PickedUp]),
        (OneParcel, undone, &[Debited, Credited], &[Labelled]),
        (OneParcel, undone, &[Debited, Credited], &[Labelled, PickedUp, Carried::CalledOff]),
        (OneParcel, delivered, &[Debited], &[PickedUp, Labelled, Delivered]),
        (OneParcel, delivered, &[Debited], &[Labelled, PickedUp, Carried::CalledOff, Delivered]),
        (OneParcel, "declined", &[Banked::Refused], &[Labelled]),
        (UndoneStaysUndone, delivered, &[Debited], &[Labelled, Carried::CalledOff, PickedUp, Delivered]),
    ];
    for (invariant, name, bank, carrier) in cases {
        let found = broken(told(name), bank, carrier);
        assert_eq!(found, BTreeSet::from([invariant]), "{name} {bank:?} {carrier:?}");
    }
}

#[test]
fn two_keys_of_one_order_are_two_charges_and_two_parcels() {
    let mut books = Books::with_ledgers();
    facts(0, told("confirmed")).iter().for_each(|fact| books.hear(fact).unwrap());
    for key in ["1", "2"] {
        entries(key, &[Debited]).iter().for_each(|entry| books.bank(entry));
        entries(key, &[Labelled]).iter().for_each(|entry| books.carrier(entry));
    }
    let found: BTreeSet<_> = books.judge_complete().into_iter().map(|finding| finding.invariant).collect();
    assert_eq!(found, BTreeSet::from([Invariant::ChargedOnce, Invariant::OneParcel]));
}

#[test]
fn another_amount_is_noticed() {
    let mut books = Books::with_ledgers();
    facts(0, told("confirmed")).iter().for_each(|fact| books.hear(fact).unwrap());
    let [mut entry] = entries("charge", &[Debited]).try_into().unwrap();
    entry.money = Some(Money { amount: 1, ..money() });
    books.bank(&entry);
    entries("parcel", &[Labelled]).iter().for_each(|entry| books.carrier(entry));
    let findings = books.judge_complete();
    assert!(findings.iter().any(|finding| finding.sentence.contains("another amount")), "{findings:?}");
}
