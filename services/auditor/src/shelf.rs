//! PURE. What is known of one product's stock: a shelf of the books.
//!
//! What arrived is told in the stream of the stock; what is set aside, given back or sent is told in the orders' streams,
//! which are heard independently. A shelf that is short may thus only be behind; and one whose own stream was not heard from
//! its beginning on is not judged, for what was received is unknown.
use clock::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fact::{About, Body, Fact, shown};
use crate::invariant::{Finding, Invariant, Terms};
use crate::page::MOST_WRONG;

/// The stock of a product.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shelf {
    version: u64,
    /// Ever received, in pieces.
    received: i64,
    /// Set aside or sent, in pieces.
    taken: i64,
    /// Whether the stream was not heard from its beginning on, or with a gap: an earlier version of the shop did not tell of
    /// stock.
    in_part: bool,
    /// Since when more is taken than was received, as it was heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    short_since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wrong: Vec<Finding>,
}

impl Shelf {
    /// Takes in a fact of the stock's stream; `false` for one that was heard before.
    pub fn hear(&mut self, fact: &Fact) -> bool {
        if fact.version <= self.version {
            return false;
        }
        let before = std::mem::replace(&mut self.version, fact.version);
        if before == 0 && fact.version > 1 {
            self.in_part = true;
        } else if fact.version > before + 1 {
            self.missing(fact, format!("version {} is awaited, and {} follows", before + 1, fact.version));
        }
        if fact.source != About::Stock("").source() {
            let source = shown(&fact.source);
            self.missing(fact, format!("version {} was told by {source}, whose stream it is not", fact.version));
        }
        match &fact.body {
            Body::Received(quantity) => self.received = self.received.saturating_add(*quantity),
            Body::Unreadable(why) => self.missing(fact, format!("version {}: {why}", fact.version)),
            _ => {}
        }
        self.count(fact.time);
        true
    }

    /// So many pieces were set aside for an order, or given back if they are negative.
    pub fn take(&mut self, pieces: i64, at: Timestamp) {
        self.taken = self.taken.saturating_add(pieces);
        self.count(at);
    }

    fn count(&mut self, at: Timestamp) {
        let short = self.taken > self.received;
        self.short_since = self.short_since.filter(|_| short).or(short.then_some(at));
    }

    fn missing(&mut self, fact: &Fact, sentence: String) {
        self.in_part = true;
        if self.wrong.len() < MOST_WRONG {
            let (invariant, stream) = (Invariant::NothingMissing, fact.stream.clone());
            self.wrong.push(Finding { invariant, stream, since: fact.time, sentence });
        }
    }

    /// What does not hold now.
    #[must_use]
    pub fn judge(&self, sku: &str, now: Timestamp, terms: &Terms) -> Vec<Finding> {
        let short = self.short_since.filter(|since| self.is_known() && now.since(*since) >= terms.grace);
        let short = short.map(|since| Finding {
            invariant: Invariant::NoOversell,
            stream: format!("stock-{sku}"),
            since,
            sentence: format!("{} were received, and {} are set aside or sent", self.received, self.taken),
        });
        self.wrong.iter().cloned().chain(short).collect()
    }

    /// Whether all that was received is known, so that it can be judged.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.version > 0 && !self.in_part
    }
}
