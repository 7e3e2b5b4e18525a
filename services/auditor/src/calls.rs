//! PURE. What bank and carrier did, against what payment and shipping have on record: each call was asked for before it was
//! made (the intent), and what came of it was recorded after (the outcome); and no outcome is made up.
use std::collections::BTreeMap;

use serde_json::Value;
use store::Recorded;

use crate::invariant::{Finding, Invariant};
use crate::logs::{Logs, Noted, finding};

/// An outside party, and the service that calls it.
struct Party {
    name: &'static str,
    service: &'static str,
    /// What its streams are named by, before the key.
    prefix: &'static str,
    /// The event of the service that begins a call under a key, and the field of it that has the key.
    begins: (&'static str, &'static str),
    entries: &'static [Entry],
    intents: &'static [Intent],
}

/// What the party enters: the intent before it, and the outcomes of which one follows.
struct Entry {
    entry: &'static str,
    intent: &'static str,
    outcomes: &'static [&'static str],
}

/// What the service intends, and what may come of it.
struct Intent {
    intent: &'static str,
    outcomes: &'static [&'static str],
}

const PARTIES: [Party; 2] = [
    Party {
        name: "bank",
        service: "payment",
        prefix: "charge-",
        begins: ("ChargeRequested", "charge"),
        entries: &[
            Entry { entry: "Debited", intent: "ChargeRequested", outcomes: &["PaymentCharged"] },
            Entry { entry: "Refused", intent: "ChargeRequested", outcomes: &["PaymentDeclined", "PaymentVoided"] },
            Entry { entry: "CalledOff", intent: "RefundRequested", outcomes: &["PaymentVoided"] },
            Entry { entry: "Credited", intent: "RefundRequested", outcomes: &["PaymentRefunded"] },
        ],
        intents: &[
            Intent { intent: "ChargeRequested", outcomes: &["PaymentCharged", "PaymentDeclined", "PaymentVoided"] },
            Intent { intent: "RefundRequested", outcomes: &["PaymentRefunded", "PaymentVoided"] },
        ],
    },
    Party {
        name: "carrier",
        service: "shipping",
        prefix: "parcel-",
        begins: ("ShipmentRequested", "parcel"),
        entries: &[
            Entry {
                entry: "Labelled",
                intent: "ShipmentRequested",
                outcomes: &["ShipmentCreated", "ShipmentCancelled"],
            },
            Entry {
                entry: "Refused",
                intent: "ShipmentRequested",
                outcomes: &["ShipmentRefused", "ShipmentCancelled"],
            },
            Entry { entry: "CalledOff", intent: "ShipmentCancelRequested", outcomes: &["ShipmentCancelled"] },
            Entry { entry: "PickedUp", intent: "PickUpScheduled", outcomes: &["ShipmentDispatched"] },
            Entry { entry: "Delivered", intent: "ShipmentDispatched", outcomes: &["ShipmentDelivered"] },
        ],
        intents: &[
            Intent {
                intent: "ShipmentRequested",
                outcomes: &["ShipmentCreated", "ShipmentRefused", "ShipmentCancelled"],
            },
            Intent { intent: "ShipmentCancelRequested", outcomes: &["ShipmentCancelled", "ShipmentDispatched"] },
        ],
    },
];
/// Outcomes that the party must have an entry of.
const ANSWERED: [(&str, &str); 7] = [
    ("PaymentCharged", "Debited"),
    ("PaymentDeclined", "Refused"),
    ("PaymentRefunded", "Credited"),
    ("ShipmentCreated", "Labelled"),
    ("ShipmentRefused", "Refused"),
    ("ShipmentDispatched", "PickedUp"),
    ("ShipmentDelivered", "Delivered"),
];

/// The events of one stream by their kinds.
type Kinds<'a> = BTreeMap<&'a str, Noted<'a>>;

/// Holds what both parties have in their books against what the services that call them have on record.
pub(crate) fn judge(logs: &Logs, findings: &mut Vec<Finding>) {
    for party in &PARTIES {
        party.judge(logs, findings);
    }
}

impl Party {
    fn judge(&self, logs: &Logs, findings: &mut Vec<Finding>) {
        let mut wrong = |recorded: &Recorded, why| findings.push(finding(Invariant::CallsOnRecord, recorded, why));
        let of_the_service = streams(self.service, logs.log(self.service));
        let by_key: BTreeMap<String, &Kinds<'_>> =
            of_the_service.values().filter_map(|kinds| Some((self.key(kinds)?, kinds))).collect();
        let of_the_party = streams(self.name, logs.log(self.name));
        for (stream, entries) in &of_the_party {
            let own = stream.strip_prefix(self.prefix).and_then(|key| by_key.get(key));
            for noted in entries.values() {
                let why = match own {
                    Some(own) => self.unmatched(*noted, own),
                    None => Some(format!("{} did something that {} has nothing of", self.name, self.service)),
                };
                why.into_iter().for_each(|why| wrong(noted.recorded, why));
            }
        }
        for kinds in of_the_service.values() {
            let entries = self.key(kinds).and_then(|key| of_the_party.get(format!("{}{key}", self.prefix).as_str()));
            for (outcome, entry) in ANSWERED {
                let answered = || entries.is_some_and(|entries| entries.contains_key(entry));
                if let Some(noted) = kinds.get(outcome).filter(|_| !answered()) {
                    wrong(noted.recorded, format!("{outcome} is on record, and {} has no {entry}", self.name));
                }
            }
            for Intent { intent, outcomes } in self.intents {
                let settled = || outcomes.iter().any(|outcome| kinds.contains_key(outcome));
                if let Some(noted) = kinds.get(intent).filter(|_| !settled()) {
                    wrong(noted.recorded, format!("{intent} is on record, and what came of it is not"));
                }
            }
        }
    }

    /// What the entry lacks in the stream that it belongs to.
    fn unmatched(&self, noted: Noted<'_>, own: &Kinds<'_>) -> Option<String> {
        let (kind, service) = (noted.recorded.event.kind.as_str(), self.service);
        let Some(Entry { intent, outcomes, .. }) = self.entries.iter().find(|entry| entry.entry == kind) else {
            return Some(format!("{} entered {kind}, which it never does", self.name));
        };
        if !own.get(intent).is_some_and(|intent| intent.is_not_later_than(noted)) {
            return Some(format!("{service} had not recorded {intent} before {} entered {kind}", self.name));
        }
        let outcome = |outcome: &&str| own.get(outcome).is_some_and(|outcome| noted.is_not_later_than(*outcome));
        if !outcomes.iter().any(outcome) {
            return Some(format!(
                "{} entered {kind}, and {service} did not record {}",
                self.name,
                outcomes.join(" or ")
            ));
        }
        let asked = data(own.get(self.begins.0)?)[self.begins.1].clone();
        let entered = data(&noted);
        let other = |field: &str| kind == "Debited" && entered[field] != asked[field];
        let other_amount = || format!("{} took {} {}", self.name, entered["amount"], entered["currency"]);
        (other("amount") || other("currency")).then(other_amount)
    }

    /// The key that the stream's calls are made under, if any was.
    fn key(&self, kinds: &Kinds<'_>) -> Option<String> {
        let (event, field) = self.begins;
        data(kinds.get(event)?)[field]["key"].as_str().map(str::to_owned)
    }
}

/// The events of each stream by kind; of a kind that stands twice the first counts.
fn streams<'a>(service: &'a str, log: &'a [Recorded]) -> BTreeMap<&'a str, Kinds<'a>> {
    let mut streams = BTreeMap::<&str, Kinds<'a>>::new();
    for recorded in log {
        let kinds = streams.entry(&*recorded.stream.0).or_default();
        kinds.entry(&recorded.event.kind).or_insert(Noted { service, recorded });
    }
    streams
}

/// What an event says. Nothing, if it is no JSON: then it lacks whatever is looked for.
fn data(noted: &Noted<'_>) -> Value {
    serde_json::from_str(&noted.recorded.event.data).unwrap_or_default()
}
