//! PURE. What the services' own logs have to be, where somebody may read all of them: after a simulation or a crash.
//!
//! # Problem
//! A log can be wrong in ways that no published fact shows: a hole, an effect before its cause, a saga that undid the first
//! step first, money at the bank that nobody asked for on record.
//!
//! # Pattern
//! A checker over complete histories. It knows the rules a second time, in other words than the code that it judges.
//!
//! # Here
//! [`Logs`] holds every event of every store, in order; [`Logs::judge`] looks at them as they are when nothing is under way.
//! Each store's positions count from 1, its time never goes backwards, and each stream's versions count from 1 (I-6). What
//! led to an event is, by the form of its causation id, exactly one of these:
//!
//! | causation id | what has to be there | where |
//! |---|---|---|
//! | an event's id | that event, in whatever log, not later | anywhere |
//! | `<saga>/<step>/do`, `…/undo`, and these with `/pick-up` or `/delivery` | the saga asked for it, not later | anywhere |
//! | `<saga>` | that saga has begun, earlier in this log | order |
//! | nothing | nothing: outside parties, the auditor, and what a consumer parks | bank, carrier, auditor, `parked-`, `blocked-` |
//! | anything else is the id of a command from outside | nothing: it has no event | order, catalogue, stock, `parked-`, `blocked-` |
//!
//! "Not later" is by position within a log, and by recorded time from log to log. [`crate::sagas`] judges the sagas (I-8,
//! I-14), [`crate::calls`] what bank and carrier were asked (I-17).
//!
//! # Limits
//! Everything is in memory, and everything is judged anew each time. Times of different logs are compared: they have to come
//! from one clock.
use std::collections::BTreeMap;
use std::time::Duration;

use clock::Timestamp;
use store::Recorded;
use uuid::Uuid;

use crate::fact::{About, shown};
use crate::invariant::{Finding, Invariant};
use crate::sagas::{self, Sagas};

/// Everything that the stores of the shop and of its outside parties have recorded, in the order of positions.
#[derive(Clone, Debug, Default)]
pub struct Logs {
    /// Of each store, by its service: `order`, `inventory`, `payment`, `shipping`, `bank`, `carrier`, and `auditor` if it is
    /// to be judged too.
    pub logs: BTreeMap<String, Vec<Recorded>>,
}

/// How far what was recorded has been told and taken in.
#[derive(Clone, Debug, Default)]
pub struct Queues {
    /// The position up to which each service's relay has published its log.
    pub relays: BTreeMap<String, u64>,
    /// What each listener has taken in.
    pub inboxes: Vec<Inbox>,
    /// Streams of messages that could not be taken in and are still parked.
    pub parked: Vec<String>,
}

/// How far one listener has taken in the streams of one service.
#[derive(Clone, Debug, Default)]
pub struct Inbox {
    /// Who listens.
    pub consumer: String,
    /// To whom.
    pub of: String,
    /// The version of each stream that is in effect.
    pub marks: BTreeMap<String, u64>,
}

/// An event, and in whose log it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noted<'a> {
    pub(crate) service: &'a str,
    pub(crate) recorded: &'a Recorded,
}

/// Whose events no single event or command of the shop causes.
const OUTSIDE: [&str; 3] = ["bank", "carrier", "auditor"];
/// What a step of a saga goes on under at the carrier, beside its own command id.
const GOES_ON: [&str; 2] = ["/pick-up", "/delivery"];
/// Streams of inventory that commands from outside change.
const CATALOGUE: [&str; 2] = ["product-", "stock-"];
/// Streams of messages that could not be taken in, and of the keys that wait for them.
const DEAD_LETTERS: [&str; 2] = ["parked-", "blocked-"];

impl Logs {
    /// What does not hold, when nothing is under way: sagas may be open for as long as `limit` after their deadline.
    #[must_use]
    pub fn judge(&self, queues: &Queues, now: Timestamp, limit: Duration) -> Vec<Finding> {
        let mut findings = vec![];
        self.judge_order(&mut findings);
        let sagas = Sagas::of(self.log("order"), &mut findings);
        sagas.judge(self, now, limit, &mut findings);
        self.judge_causes(&sagas, &mut findings);
        crate::calls::judge(self, &mut findings);
        self.judge_queues(queues, &mut findings);
        findings
    }

    pub(crate) fn log(&self, service: &str) -> &[Recorded] {
        self.logs.get(service).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Noted<'_>> {
        self.logs.iter().flat_map(|(service, log)| log.iter().map(move |recorded| Noted { service, recorded }))
    }

    /// Positions, versions and time.
    fn judge_order(&self, findings: &mut Vec<Finding>) {
        for (service, log) in &self.logs {
            let mut heads = BTreeMap::<&str, (u64, Timestamp)>::new();
            for (position, recorded) in (1..).zip(log) {
                let mut wrong = |sentence| findings.push(missing(recorded, sentence));
                if recorded.position != Some(position) {
                    let found = recorded.position.map_or("none".to_owned(), |found| found.to_string());
                    wrong(format!("in the log of {service} it stands at position {position}, and says {found}"));
                }
                let head = (recorded.version, recorded.timestamp);
                let (before, time) = heads.insert(&recorded.stream.0, head).unwrap_or((0, Timestamp(i64::MIN)));
                if recorded.version != before + 1 {
                    wrong(format!("version {} is awaited, and {} follows", before + 1, recorded.version));
                }
                if recorded.timestamp < time {
                    wrong(format!("version {} was recorded before what is in front of it", recorded.version));
                }
            }
        }
    }

    fn judge_causes(&self, sagas: &Sagas<'_>, findings: &mut Vec<Finding>) {
        let mut by_id = BTreeMap::<Uuid, Noted<'_>>::new();
        for noted in self.all() {
            if by_id.insert(noted.recorded.event.id, noted).is_some() {
                findings.push(missing(noted.recorded, "another event has the same id".to_owned()));
            }
        }
        for noted in self.all() {
            if let Some(why) = groundless(&by_id, sagas, noted) {
                let cause = shown(&noted.recorded.meta.causation_id);
                let why = format!("version {} was caused by {cause:?}, {why}", noted.recorded.version);
                findings.push(missing(noted.recorded, why));
            }
        }
    }

    fn judge_queues(&self, queues: &Queues, findings: &mut Vec<Finding>) {
        let mut wrong = |stream: &str, since, sentence| {
            let (invariant, stream) = (Invariant::EverythingHeard, stream.to_owned());
            findings.push(Finding { invariant, stream, since, sentence });
        };
        let told = |service: &str, recorded: &&Recorded| {
            About::of(&recorded.stream.0).is_ok_and(|about| about.source() == service)
        };
        for (service, cursor) in &queues.relays {
            let untold = |recorded: &&Recorded| told(service, recorded) && recorded.position > Some(*cursor);
            if let Some(recorded) = self.log(service).iter().find(untold) {
                let why = format!("version {} was not told: the relay is at {cursor}", recorded.version);
                wrong(&recorded.stream.0, recorded.timestamp, why);
            }
        }
        for Inbox { consumer, of, marks } in &queues.inboxes {
            let last: BTreeMap<_, _> =
                self.log(of).iter().filter(|event| told(of, event)).map(|event| (&*event.stream.0, event)).collect();
            for (stream, recorded) in last {
                let mark = marks.get(stream).copied().unwrap_or(0);
                if mark != recorded.version {
                    let why = format!("{consumer} has taken in version {mark}, and the last is {}", recorded.version);
                    wrong(stream, recorded.timestamp, why);
                }
            }
        }
        for stream in &queues.parked {
            wrong(stream, Timestamp::default(), "messages that could not be taken in are parked".to_owned());
        }
    }
}

/// Why the event has no ground in what it says to be caused by; see the table above.
fn groundless(by_id: &BTreeMap<Uuid, Noted<'_>>, sagas: &Sagas<'_>, noted: Noted<'_>) -> Option<&'static str> {
    let Noted { service, recorded } = noted;
    let (cause, stream) = (recorded.meta.causation_id.as_str(), &*recorded.stream.0);
    let is_one_of = |kinds: [&str; 2]| kinds.iter().any(|kind| stream.starts_with(kind));
    if let Ok(id) = Uuid::try_parse(cause) {
        return match by_id.get(&id) {
            None => Some("and no event has that id"),
            Some(cause) => (!cause.is_not_later_than(noted)).then_some("which was recorded later"),
        };
    }
    if cause.is_empty() {
        let own = OUTSIDE.contains(&service) || is_one_of(DEAD_LETTERS);
        return (!own).then_some("which says nothing");
    }
    if !sagas::names_one(cause) {
        let from_outside = service == "order" || is_one_of(DEAD_LETTERS) || is_one_of(CATALOGUE);
        return (!from_outside).then_some("a command from outside, which nobody gives there");
    }
    if !cause.contains('/') {
        let begun = sagas.begun(cause).is_some_and(|begun| service == "order" && begun.position < recorded.position);
        return (!begun).then_some("a saga that had not begun in that log");
    }
    let command = GOES_ON.iter().find_map(|goes_on| cause.strip_suffix(goes_on)).unwrap_or(cause);
    let asked = sagas.asked(command).map(|recorded| Noted { service: "order", recorded });
    let asked = asked.is_some_and(|asked| asked.is_not_later_than(noted));
    (!asked).then_some("which no saga had asked for")
}

impl Noted<'_> {
    /// By position within one log, by time from log to log.
    pub(crate) fn is_not_later_than(self, other: Noted<'_>) -> bool {
        if self.service == other.service {
            return self.recorded.position < other.recorded.position;
        }
        self.recorded.timestamp <= other.recorded.timestamp
    }
}

fn missing(recorded: &Recorded, sentence: String) -> Finding {
    finding(Invariant::NothingMissing, recorded, sentence)
}

/// What is wrong with an event.
pub(crate) fn finding(invariant: Invariant, recorded: &Recorded, sentence: String) -> Finding {
    Finding { invariant, stream: recorded.stream.to_string(), since: recorded.timestamp, sentence }
}

#[cfg(test)]
#[path = "logs_tests.rs"]
pub(crate) mod tests;
