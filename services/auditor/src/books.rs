//! PURE. The books of the whole shop, kept from what its services publish.
//!
//! # Problem
//! Each service keeps its own rules, and a mistake between them is nobody's: money taken for an order that was rejected,
//! goods set aside for ever, a parcel that nobody paid for. Nobody sees it, for nobody may read another's database.
//!
//! # Pattern
//! Reconciliation from published facts: one more listener, who knows no service, carries what all tell into one set of
//! books, and says where it does not add up.
//!
//! # Here
//! A [`Page`] for each order, a [`Shelf`] for each product. [`Books::hear`] takes the facts of each stream in their order,
//! those of different streams in any, each as often as it comes, and costs what finding the page costs. What was changed is
//! remembered, so that a shell can write it down page by page and take pages out and in again.
//!
//! # Limits
//! It sees what is published, nothing else: [`crate::logs`] sees the services' own logs, where somebody may read all of them.
use std::collections::{BTreeMap, BTreeSet};

use clock::Timestamp;

use crate::fact::{About, Fact};
use crate::invariant::{Finding, Terms};
use crate::ledgers::{Banked, Carried, Entry};
use crate::page::Page;
use crate::shelf::Shelf;

/// The books.
#[derive(Clone, Debug, Default)]
pub struct Books {
    pages: BTreeMap<String, Page>,
    shelves: BTreeMap<String, Shelf>,
    /// Whether the bank's ledger and the carrier's book are entered too.
    ledgers: bool,
    changed: Changed,
}

/// What was changed since it was asked for last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Ids of orders.
    pub pages: BTreeSet<String>,
    /// SKUs.
    pub shelves: BTreeSet<String>,
}

impl Books {
    /// Books into which all entries of bank and carrier go as well: they must agree with what payment and shipping tell.
    #[must_use]
    pub fn with_ledgers() -> Books {
        Books { ledgers: true, ..Books::default() }
    }

    /// Takes in a fact; one that was heard before changes nothing.
    ///
    /// # Errors
    /// A sentence, if it is of no stream that any service has. It is not in the books then.
    pub fn hear(&mut self, fact: &Fact) -> Result<(), String> {
        match About::of(&fact.stream)? {
            About::Order(part, id) => {
                let Some(moved) = entry(&mut self.pages, id).hear(id, part, fact) else { return Ok(()) };
                note(&mut self.changed.pages, id);
                for goods in moved {
                    entry(&mut self.shelves, &goods.sku).take(goods.quantity, fact.time);
                    note(&mut self.changed.shelves, &goods.sku);
                }
            }
            About::Stock(sku) => {
                if entry(&mut self.shelves, sku).hear(fact) {
                    note(&mut self.changed.shelves, sku);
                }
            }
        }
        Ok(())
    }

    /// Takes in an entry of the bank's ledger; those of one key in their order.
    pub fn bank(&mut self, line: &Entry<Banked>) {
        entry(&mut self.pages, &line.order_id).bank(line);
        note(&mut self.changed.pages, &line.order_id);
    }

    /// Takes in an entry of the carrier's book; those of one key in their order.
    pub fn carrier(&mut self, line: &Entry<Carried>) {
        entry(&mut self.pages, &line.order_id).carrier(line);
        note(&mut self.changed.pages, &line.order_id);
    }

    /// The page of an order, if it is in the books.
    #[must_use]
    pub fn page(&self, id: &str) -> Option<&Page> {
        self.pages.get(id)
    }

    /// The shelf of a product, if it is in the books.
    #[must_use]
    pub fn shelf(&self, sku: &str) -> Option<&Shelf> {
        self.shelves.get(sku)
    }

    /// All shelves, by SKU.
    pub fn shelves(&self) -> impl Iterator<Item = (&str, &Shelf)> {
        self.shelves.iter().map(|(sku, shelf)| (sku.as_str(), shelf))
    }

    /// Puts a page in that was taken out before.
    pub fn put_page(&mut self, id: &str, page: Page) {
        self.pages.insert(id.to_owned(), page);
    }

    /// Puts a shelf in that was written down before.
    pub fn put_shelf(&mut self, sku: &str, shelf: Shelf) {
        self.shelves.insert(sku.to_owned(), shelf);
    }

    /// Takes a page out, if nothing of it changed: it has to be put in again before a fact of its order is heard.
    pub fn take_page(&mut self, id: &str) {
        self.pages.remove(id);
    }

    /// How many pages and shelves were changed and not asked for yet.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.changed.pages.len() + self.changed.shelves.len()
    }

    /// What was changed since this was asked for last.
    pub fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    /// What does not hold at this moment.
    #[must_use]
    pub fn judge(&self, now: Timestamp, terms: &Terms) -> Vec<Finding> {
        let pages = self.pages.iter().flat_map(|(id, page)| page.judge(id, now, terms, self.ledgers));
        let shelves = self.shelves.iter().flat_map(|(sku, shelf)| shelf.judge(sku, now, terms));
        pages.chain(shelves).collect()
    }

    /// What does not hold, if everything that was published has been heard and nothing is under way: nothing can be
    /// waited for any more. Parcels may be on their way.
    #[must_use]
    pub fn judge_complete(&self) -> Vec<Finding> {
        self.judge(Timestamp(i64::MAX), &Terms::COMPLETE)
    }
}

/// What stands under the key; made if nothing does.
fn entry<'a, V: Default>(map: &'a mut BTreeMap<String, V>, key: &str) -> &'a mut V {
    if !map.contains_key(key) {
        map.insert(key.to_owned(), V::default());
    }
    map.get_mut(key).expect("it was just put there")
}

fn note(set: &mut BTreeSet<String>, key: &str) {
    if !set.contains(key) {
        set.insert(key.to_owned());
    }
}

#[cfg(test)]
#[path = "books_tests.rs"]
pub(crate) mod tests;
