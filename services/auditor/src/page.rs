//! PURE. What is known of one order: a page of the books.
//!
//! # Problem
//! Four services tell of an order, each in a stream of its own, and the streams are heard independently. Where a fact lacks
//! what it rests on, the shop may be wrong, or a topic may be behind.
//!
//! # Pattern
//! Two kinds of judgement. Within a stream facts come in their order: what contradicts an earlier one is wrong at once and
//! for good. Across streams only presence counts: a fact that asks for another is unmet from its own time on until that is
//! heard, and wrong when it is unmet for longer than the [`Terms`] allow.
//!
//! # Here
//! [`Page::hear`] takes the facts of one stream in order, those of different streams in any, and knows by versions what it
//! has heard. The tables below say what asks for what; they are short because every order goes the same way. A page that is
//! judged costs the same whatever happened to it, and nothing is left open on one whose order has ended well.
//!
//! # Limits
//! A private fact says only that it is there. Of a stream with a gap, or a fact that cannot be read, what else is missing is
//! not judged: the gap may be why. An operator who skips a step says that it was done by hand; no service recorded it, so
//! the page says that it is missing. At most [`MOST_WRONG`] things that are wrong for good are kept.
use std::collections::BTreeMap;
use std::time::Duration;

use clock::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::fact::{Body, Fact, Goods, Moment, Money, Part};
use crate::invariant::{Finding, Invariant, Terms};
use crate::ledgers::{Account, Booking};

/// So many things that are wrong for good are kept of a page.
pub const MOST_WRONG: usize = 8;

/// What rests on what across streams, and was recorded after it.
const RESTS_ON: [(Moment, Moment, Invariant); 7] = [
    (Moment::Requested, Moment::Reserved, Invariant::StepByStep),
    (Moment::Labelled, Moment::Charged, Invariant::StepByStep),
    (Moment::Confirmed, Moment::Labelled, Invariant::StepByStep),
    (Moment::Dispatched, Moment::Confirmed, Invariant::OneParcel),
    (Moment::Left, Moment::Dispatched, Invariant::GoodsLeaveOnce),
    (Moment::Shipped, Moment::Dispatched, Invariant::OneWay),
    (Moment::Delivered, Moment::Arrived, Invariant::OneWay),
];
/// What has to follow across streams.
const LEADS_TO: [(Moment, Moment); 3] =
    [(Moment::Dispatched, Moment::Left), (Moment::Dispatched, Moment::Shipped), (Moment::Arrived, Moment::Delivered)];
/// What is undone when an order ends without a parcel.
const IS_UNDONE: [(Moment, Moment, Invariant); 3] = [
    (Moment::Reserved, Moment::Released, Invariant::EveryOrderEnds),
    (Moment::Charged, Moment::Refunded, Invariant::MoneyAddsUp),
    (Moment::Labelled, Moment::CalledOff, Invariant::EveryOrderEnds),
];
/// What is undone only after what rests on it: the undo, what rests on it, and how that is undone.
const UNDONE_AFTER: [(Moment, Moment, Moment); 2] =
    [(Moment::Released, Moment::Charged, Moment::Refunded), (Moment::Refunded, Moment::Labelled, Moment::CalledOff)];
/// Facts that services react to: these can be the cause of others.
const CAUSES: [Moment; 3] = [Moment::Confirmed, Moment::Dispatched, Moment::Arrived];
/// What the ids of sagas begin with, before the order's id.
const SAGAS: [&str; 2] = ["checkout-", "cancellation-"];

/// What is known of an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Page {
    told: BTreeMap<Part, Told>,
    pub(crate) moments: BTreeMap<Moment, Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) asked: Option<Money>,
    /// What was ordered, until just that was set aside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ordered: Vec<Goods>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reserved: Vec<Goods>,
    /// The ids of the facts in [`CAUSES`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<Uuid>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    awaited: Vec<Awaited>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wrong: Vec<Finding>,
    /// The bank's ledger, by key of the charge.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) bank: BTreeMap<String, Account>,
    /// The carrier's book, by key of the parcel.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) carrier: BTreeMap<String, Booking>,
}

/// How far a stream was heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    version: u64,
    /// The time of its first fact.
    since: Timestamp,
    #[serde(default, skip_serializing_if = "is_zero")]
    private: u64,
    /// Whether a version is missing or cannot be read.
    #[serde(default, skip_serializing_if = "is_false")]
    gap: bool,
}

/// A cause that was named and not heard of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Awaited {
    cause: Uuid,
    part: Part,
    since: Timestamp,
}

/// Something that is asked for and not there.
#[derive(Debug)]
pub(crate) struct Unmet {
    pub(crate) invariant: Invariant,
    pub(crate) part: Part,
    pub(crate) since: Timestamp,
    pub(crate) patience: Duration,
    pub(crate) why: Why,
}

/// Why something is unmet; a sentence only once somebody reads it.
#[derive(Debug)]
pub(crate) enum Why {
    /// The one happened, and of the other nothing is heard.
    Lacks(Moment, Moment),
    /// In words.
    Is(&'static str),
    /// In words of their own.
    Says(String),
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Page {
    /// Takes in a fact of this part of the order. Gives the goods that it takes from the shelves, those it gives back with
    /// a negative quantity; `None` for a fact that was heard before.
    pub fn hear(&mut self, id: &str, part: Part, fact: &Fact) -> Option<Vec<Goods>> {
        let first = Told { version: 0, since: fact.time, private: 0, gap: false };
        let told = self.told.entry(part).or_insert(first);
        if fact.version <= told.version {
            return None;
        }
        let before = std::mem::replace(&mut told.version, fact.version);
        if fact.version > before + 1 {
            told.gap = true;
            let why = format!("version {} is awaited, and {} follows", before + 1, fact.version);
            self.wrong(fact, Invariant::NothingMissing, why);
        }
        self.check_origin(id, part, fact);
        match &fact.body {
            Body::Private => {
                self.told.entry(part).and_modify(|told| told.private += 1);
            }
            Body::Unreadable(why) => {
                self.told.entry(part).and_modify(|told| told.gap = true);
                self.wrong(fact, Invariant::NothingMissing, format!("version {}: {why}", fact.version));
            }
            _ => {}
        }
        Some(fact.body.moment().map(|moment| self.happen(moment, fact)).unwrap_or_default())
    }

    /// Enters what happened. Gives the goods that it moves.
    fn happen(&mut self, moment: Moment, fact: &Fact) -> Vec<Goods> {
        if let Some((invariant, why)) = self.contradiction(moment) {
            self.wrong(fact, invariant, why);
        }
        // The first end of a stream stands: what follows from it is judged, not what follows from its contradiction.
        if closed_by(moment).iter().chain([&moment]).any(|before| self.moments.contains_key(before)) {
            return vec![];
        }
        self.moments.insert(moment, fact.time);
        if CAUSES.contains(&moment) {
            self.causes.push(fact.id);
            self.awaited.retain(|awaited| awaited.cause != fact.id);
        }
        self.take_in(fact)
    }

    /// What the fact says besides that it happened; it is the first of its kind.
    fn take_in(&mut self, fact: &Fact) -> Vec<Goods> {
        let mut moved = vec![];
        match &fact.body {
            Body::Placed { goods, total, sum } => {
                if total.amount != *sum {
                    let why = format!("its lines add up to {sum}, and its total is {}", total.amount);
                    self.wrong(fact, Invariant::MoneyAddsUp, why);
                }
                (self.total, self.ordered) = (Some(total.clone()), goods.clone());
            }
            Body::Reserved(goods) => {
                self.reserved.clone_from(goods);
                moved.clone_from(goods);
            }
            Body::Requested(money) => self.asked = Some(money.clone()),
            Body::Happened(Moment::Released) => {
                let back = |goods: &Goods| Goods { sku: goods.sku.clone(), quantity: -goods.quantity };
                moved = self.reserved.iter().map(back).collect();
            }
            _ => {}
        }
        if self.ordered == self.reserved {
            self.ordered.clear();
        }
        moved
    }

    fn check_origin(&mut self, id: &str, part: Part, fact: &Fact) {
        let Fact { source, correlation_id, causation_id, time, version, .. } = fact;
        let shown = crate::fact::shown;
        if source != part.source() {
            let why = format!("version {version} was told by {}, whose stream it is not", shown(source));
            self.wrong(fact, Invariant::NothingMissing, why);
        }
        if correlation_id != id {
            let why = format!("version {version} is part of the business of {}", shown(correlation_id));
            self.wrong(fact, Invariant::NothingMissing, why);
        }
        let saga = SAGAS.iter().find_map(|saga| causation_id.strip_prefix(saga));
        if saga.is_some_and(|of| !of.strip_prefix(id).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))) {
            let why = format!("version {version} was caused by another order's saga, {}", shown(causation_id));
            self.wrong(fact, Invariant::NothingMissing, why);
        }
        if let Ok(cause) = Uuid::try_parse(causation_id)
            && !self.causes.contains(&cause)
            && self.awaited.len() < MOST_WRONG
        {
            self.awaited.push(Awaited { cause, part, since: *time });
        }
    }

    /// What the moment contradicts in its own stream.
    fn contradiction(&self, moment: Moment) -> Option<(Invariant, String)> {
        let (part, happened) = (moment.part(), |other: &Moment| self.moments.contains_key(other));
        let told = self.told.get(&part)?;
        let after = |before: Moment| format!("{} after {}", moment.words(), before.words());
        if let Some(undo) = undo(part).filter(|undo| *undo != moment && happened(undo)) {
            return Some((Invariant::UndoneStaysUndone, after(undo)));
        }
        if happened(&moment) {
            let invariant = match moment {
                Moment::Requested | Moment::Charged => Invariant::ChargedOnce,
                _ => of_its_own(part),
            };
            return Some((invariant, format!("{}, twice", moment.words())));
        }
        if let Some(before) = closed_by(moment).iter().find(|before| happened(before)) {
            return Some((of_its_own(part), after(*before)));
        }
        if told.gap {
            return None;
        }
        if let Some(needs) = needs(moment).filter(|needs| !happened(needs)) {
            return Some((of_its_own(part), Why::Lacks(moment, needs).sentence()));
        }
        // The payment's stream tells of calling off by private facts only: alone if nothing was asked for, otherwise the
        // wish and the outcome, with a charge in between if the bank was faster.
        let called_off = match moment {
            Moment::Requested => told.private > 0,
            Moment::Charged => told.private > 1,
            _ => false,
        };
        called_off.then(|| (Invariant::UndoneStaysUndone, format!("{} after it was called off", moment.words())))
    }

    /// What is asked for and not there. With the ledgers, bank and carrier must have it too.
    pub(crate) fn unmet(&self, terms: &Terms, ledgers: bool) -> Vec<Unmet> {
        let mut unmet = vec![];
        if self.told.values().any(|told| told.gap) {
            return unmet;
        }
        let mut lacks = |moment: Moment, other, invariant, since: Option<Timestamp>, patience| {
            let why = Why::Lacks(moment, other);
            unmet.extend(since.map(|since| Unmet { invariant, part: moment.part(), since, patience, why }));
        };
        let open = |moment, other| self.at(moment).filter(|_| self.at(other).is_none());
        for (moment, other, invariant) in RESTS_ON {
            lacks(moment, other, invariant, open(moment, other), terms.grace);
        }
        for (moment, other) in LEADS_TO {
            lacks(moment, other, Invariant::EveryOrderEnds, open(moment, other), terms.settle);
        }
        let ended = self.at(Moment::Rejected).or(self.at(Moment::Cancelled));
        if let Some(ended) = ended {
            for (done, undone, invariant) in IS_UNDONE {
                lacks(done, undone, invariant, open(done, undone).map(|done| done.max(ended)), terms.grace);
            }
        } else {
            for (undo, other, its_undo) in UNDONE_AFTER {
                let since = open(other, its_undo).and_then(|other| Some(other.max(self.at(undo)?)));
                lacks(undo, its_undo, Invariant::StepByStep, since, terms.grace);
            }
        }
        unmet.extend(self.unmet_end(terms).filter(|_| ended.is_none()));
        unmet.extend(self.unmet_order(terms));
        unmet.extend(self.unmet_causes(terms));
        unmet.extend(self.other_than_ordered());
        if ledgers {
            self.unmet_ledgers(terms, &mut unmet);
        }
        unmet
    }

    /// How an order that has not been rejected or cancelled has to go on.
    fn unmet_end(&self, terms: &Terms) -> Option<Unmet> {
        // Once it is on its way nothing is undone any more; what is all the same contradicts something else.
        let undo = [Moment::Released, Moment::Refunded, Moment::CalledOff].into_iter().filter_map(|undo| self.at(undo));
        let undone = undo.min().filter(|_| self.at(Moment::Shipped).is_none());
        let (since, patience, why) = match (self.at(Moment::Confirmed), undone) {
            (Some(confirmed), Some(undone)) => (
                confirmed.max(undone),
                terms.settle,
                "what was done for the order is being undone, and it is not cancelled",
            ),
            (Some(_), None) if self.at(Moment::Arrived).is_some() => return None,
            (Some(confirmed), None) => {
                (confirmed, terms.deliver, "the order was confirmed, and its parcel does not arrive")
            }
            (None, _) => {
                let words = "the order was placed, and is neither confirmed nor rejected nor cancelled";
                (self.at(Moment::Placed)?, terms.settle, words)
            }
        };
        let (invariant, part, why) = (Invariant::EveryOrderEnds, Part::Order, Why::Is(why));
        Some(Unmet { invariant, part, since, patience, why })
    }

    /// Whatever is done is done for an order.
    fn unmet_order(&self, terms: &Terms) -> impl Iterator<Item = Unmet> {
        let placed = self.at(Moment::Placed).is_some();
        let why = || Why::Is("something was done for an order, and nothing tells that it was placed");
        let done = self.told.iter().filter(move |(part, _)| !placed && **part != Part::Order);
        done.map(move |(part, told)| Unmet {
            invariant: Invariant::StepByStep,
            part: *part,
            since: told.since,
            patience: terms.grace,
            why: why(),
        })
    }

    fn unmet_causes(&self, terms: &Terms) -> impl Iterator<Item = Unmet> {
        self.awaited.iter().map(|Awaited { cause, part, since }| Unmet {
            invariant: Invariant::NothingMissing,
            part: *part,
            since: *since,
            patience: terms.grace,
            why: Why::Says(format!("it names fact {cause} as a cause, and nothing tells of that")),
        })
    }

    /// Money and goods of the wrong kind or number: two facts that contradict each other, whichever came first.
    fn other_than_ordered(&self) -> impl Iterator<Item = Unmet> {
        let wrong = |invariant, part, since, says| Unmet {
            invariant,
            part,
            since,
            patience: Duration::ZERO,
            why: Why::Says(says),
        };
        let money = self.at(Moment::Requested).zip(self.total.as_ref().zip(self.asked.as_ref()));
        let money = money.filter(|(_, (total, asked))| total != asked).map(|(since, (total, asked))| {
            let says = format!("the order costs {total}, and the bank is asked for {asked}");
            wrong(Invariant::MoneyAddsUp, Part::Payment, since, says)
        });
        let goods =
            self.at(Moment::Reserved).filter(|_| !self.ordered.is_empty() && self.total.is_some()).map(|since| {
                let says = "other goods were set aside than were ordered".to_owned();
                wrong(Invariant::GoodsLeaveOnce, Part::Reservation, since, says)
            });
        money.into_iter().chain(goods)
    }

    /// What does not hold now.
    #[must_use]
    pub fn judge(&self, id: &str, now: Timestamp, terms: &Terms, ledgers: bool) -> Vec<Finding> {
        let overdue = |unmet: &Unmet| now.since(unmet.since) >= unmet.patience;
        let finding = |Unmet { invariant, part, since, why, .. }: Unmet| Finding {
            invariant,
            stream: format!("{}{id}", part.prefix()),
            since,
            sentence: why.sentence(),
        };
        let unmet = self.unmet(terms, ledgers).into_iter().filter(overdue).map(finding);
        self.wrong.iter().cloned().chain(unmet).collect()
    }

    /// When it has to be judged again although nothing was heard: the next moment at which patience ends.
    #[must_use]
    pub fn due(&self, now: Timestamp, terms: &Terms) -> Option<Timestamp> {
        let ends = self.unmet(terms, false).into_iter().map(|unmet| unmet.since.after(unmet.patience));
        ends.filter(|end| *end > now).min()
    }

    /// When it happened, if it did.
    pub(crate) fn at(&self, moment: Moment) -> Option<Timestamp> {
        self.moments.get(&moment).copied()
    }

    fn wrong(&mut self, fact: &Fact, invariant: Invariant, sentence: String) {
        self.keep(Finding { invariant, stream: fact.stream.clone(), since: fact.time, sentence });
    }

    pub(crate) fn keep(&mut self, finding: Finding) {
        if self.wrong.len() < MOST_WRONG {
            self.wrong.push(finding);
        }
    }
}

impl Why {
    fn sentence(&self) -> String {
        match self {
            Why::Lacks(moment, other) => format!("{}, and nothing tells that {}", moment.words(), other.words()),
            Why::Is(words) => (*words).to_owned(),
            Why::Says(words) => words.clone(),
        }
    }
}

/// What undoes a step in its own stream.
fn undo(part: Part) -> Option<Moment> {
    match part {
        Part::Order => None,
        Part::Reservation => Some(Moment::Released),
        Part::Payment => Some(Moment::Refunded),
        Part::Shipment => Some(Moment::CalledOff),
    }
}

/// The invariant of a stream's own order.
fn of_its_own(part: Part) -> Invariant {
    match part {
        Part::Order => Invariant::OneWay,
        Part::Reservation => Invariant::GoodsLeaveOnce,
        Part::Payment => Invariant::MoneyAddsUp,
        Part::Shipment => Invariant::OneParcel,
    }
}

/// What has to come before it in its own stream.
fn needs(moment: Moment) -> Option<Moment> {
    match moment {
        Moment::Confirmed | Moment::Rejected | Moment::Cancelled => Some(Moment::Placed),
        Moment::Shipped => Some(Moment::Confirmed),
        Moment::Delivered => Some(Moment::Shipped),
        Moment::Left => Some(Moment::Reserved),
        Moment::Charged => Some(Moment::Requested),
        Moment::Refunded => Some(Moment::Charged),
        Moment::Dispatched => Some(Moment::Labelled),
        Moment::Arrived => Some(Moment::Dispatched),
        _ => None,
    }
}

/// After what it cannot come in its own stream, besides itself, its undo, and what needs it.
fn closed_by(moment: Moment) -> &'static [Moment] {
    match moment {
        Moment::Confirmed => &[Moment::Rejected, Moment::Cancelled],
        Moment::Rejected => &[Moment::Confirmed, Moment::Cancelled],
        Moment::Cancelled => &[Moment::Rejected, Moment::Shipped],
        Moment::Shipped => &[Moment::Cancelled],
        Moment::Released => &[Moment::Left],
        Moment::CalledOff => &[Moment::Dispatched],
        _ => &[],
    }
}
