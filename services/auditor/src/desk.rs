//! The books under work: what is in memory of them, and how it gets onto paper.
//!
//! # Problem
//! A message is acknowledged once. If that is done before what it changed is durable, a crash forgets it; if each message is
//! written on its own, the books cost more than the business.
//!
//! # Pattern
//! Write, then acknowledge; many facts to a write. What comes again after a crash is recognised by the versions on the
//! page itself, so nothing counts twice and no other mark is needed.
//!
//! # Here
//! [`Desk::hear`] takes facts into memory, fetching the page of each from its stream if it is not there. [`Desk::write`] puts
//! every page and shelf that changed, the timers that go with them and what is wrong by now into **one commit** at the
//! versions they were read at: a page and the shelves that it took goods from are never apart. Only then is what was heard
//! acknowledged, by whoever listens. A page of which nothing more is waited for leaves memory when it is written.
//!
//! # Limits
//! One auditor at a time: two get into each other's way (a conflict, and both begin again), and go wrong nowhere. Shelves
//! stay in memory, one for each SKU that was ever told of. About [`PAGES`] pages are in memory at most.
use std::collections::BTreeMap;
use std::sync::Arc;

use clock::Timestamp;
use host::Process;
use messaging::Delivered;
use messaging::envelope::Envelope;
use store::folded::{self, persist, unreadable};
use store::{Append, Commit, CommitError, MAX_EVENTS, Meta, ReadError, Store, TimerChange, Version};
use telemetry::trouble::Trouble;
use tokio::time::sleep;

use crate::books::{Books, Changed};
use crate::fact::{About, Fact, MOST_PRODUCTS, shown};
use crate::findings::Findings;
use crate::heard::PAUSE;
use crate::invariant::{Finding, Invariant, Terms};
use crate::kept::{self, FindingsEvent, PAGE, PageEvent, ShelfEvent, Written};

/// At most about so many pages are in memory.
pub const PAGES: usize = 30_000;
/// What one commit takes, less a page with its shelves, and what is wrong by then.
const ROOM: usize = MAX_EVENTS - MOST_PRODUCTS - 2;
/// At most so many pages are judged again at once.
const DUE: usize = 500;
/// A page that is due is due again after this, if it is not written by then.
const LEASE: std::time::Duration = std::time::Duration::from_secs(60);

/// The books in memory, over the auditor's own store.
pub(crate) struct Desk {
    process: Process,
    store: Arc<dyn Store>,
    terms: Terms,
    books: Books,
    pages: BTreeMap<String, Written>,
    shelves: BTreeMap<String, Written>,
    findings: Findings,
    /// The version at which the findings were written, and whether they changed since.
    findings_written: (Version, bool),
}

impl Desk {
    /// Opens the books where they were closed.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) async fn open(process: &Process, store: &Arc<dyn Store>, terms: Terms) -> Result<Desk, ReadError> {
        let mut books = Books::default();
        let shelves = kept::shelves(store.as_ref(), &mut books).await?;
        let (findings, version) = kept::findings(store.as_ref()).await?;
        let (process, store, pages) = (process.clone(), store.clone(), BTreeMap::new());
        Ok(Desk { process, store, terms, books, pages, shelves, findings, findings_written: (version, false) })
    }

    /// Takes in a message. One that is no fact of any page is a finding.
    ///
    /// # Errors
    /// If its page cannot be read, or what has to be written before cannot be.
    pub(crate) async fn hear(&mut self, delivered: Delivered) -> Result<(), ReadError> {
        if self.books.changes() >= ROOM {
            self.write().await?;
        }
        let Delivered { topic, partition, offset, message } = delivered;
        let heard = match Envelope::decode(&message).map(Fact::of) {
            Ok(fact) => {
                if let Ok(About::Order(_, id)) = About::of(&fact.stream) {
                    self.fetch(id).await?;
                }
                self.books.hear(&fact)
            }
            Err(why) => Err(why),
        };
        if let Err(why) = heard {
            tracing::error!(topic, partition, offset, why, "a message is in no books");
            let finding = Finding {
                invariant: Invariant::NothingMissing,
                stream: shown(&message.key),
                since: self.process.clock.now(),
                sentence: format!("message {offset} of {topic}/{partition} is in no books: {why}"),
            };
            self.findings_written.1 |= self.findings.stray(&format!("{topic}/{partition}"), offset, finding);
        }
        Ok(())
    }

    /// Has the page in memory.
    async fn fetch(&mut self, id: &str) -> Result<(), ReadError> {
        if self.books.page(id).is_none() {
            let (page, written) = kept::page(self.store.as_ref(), id).await?;
            self.books.put_page(id, page);
            self.pages.insert(id.to_owned(), written);
        }
        Ok(())
    }

    /// Judges again what is due although nothing was heard of it. Everything has been written before.
    ///
    /// # Errors
    /// If pages cannot be read, or what is wrong by now not be written.
    pub(crate) async fn look(&mut self) -> Result<(), ReadError> {
        let mut again = Changed::default();
        for key in self.store.claim_due(LEASE, DUE).await? {
            if let Some(id) = key.strip_prefix(PAGE) {
                self.fetch(id).await?;
                again.pages.insert(id.to_owned());
            }
        }
        let now = self.process.clock.now();
        let good = |sku: &str| self.shelves.get(sku).is_none_or(|written| written.breaks.is_empty());
        let short =
            self.books.shelves().filter(|(sku, shelf)| good(sku) && !shelf.judge(sku, now, &self.terms).is_empty());
        again.shelves.extend(short.map(|(sku, _)| sku.to_owned()).take(ROOM - DUE));
        self.write_down(again).await
    }

    /// Writes down whatever changed, and whatever is wrong by now.
    ///
    /// # Errors
    /// If somebody else wrote in these books. What is in memory must be forgotten then, and whenever this is interrupted.
    pub(crate) async fn write(&mut self) -> Result<(), ReadError> {
        let changed = self.books.take_changed();
        self.write_down(changed).await
    }

    async fn write_down(&mut self, Changed { pages, shelves }: Changed) -> Result<(), ReadError> {
        let (now, mut timers) = (self.process.clock.now(), vec![]);
        let mut appends = Vec::with_capacity(pages.len() + shelves.len() + 1);
        for id in &pages {
            appends.extend(self.page_written(id, now, &mut timers));
        }
        for sku in &shelves {
            appends.extend(self.shelf_written(sku, now));
        }
        if let (version, true) = self.findings_written {
            let event = FindingsEvent::FindingsWritten { findings: &self.findings };
            appends.push(folded::append(&kept::findings_stream(), version, &[event], &self.process.ids));
            self.findings_written = (version + 1, false);
        }
        if !appends.is_empty() {
            let id = self.process.ids.next().to_string();
            let meta = Meta { actor: "service:auditor".to_owned(), ..Meta::default() };
            self.commit(Commit { appends, timers, ..Commit::new(id.into(), meta) }).await?;
        }
        for id in &pages {
            self.put_away(id);
        }
        if self.pages.len() > PAGES {
            // Everything is written: what is needed again is read again.
            std::mem::take(&mut self.pages).keys().for_each(|id| self.books.take_page(id));
        }
        Ok(())
    }

    fn page_written(&mut self, id: &str, now: Timestamp, timers: &mut Vec<TimerChange>) -> Option<Append> {
        let (page, written) = (self.books.page(id)?, self.pages.entry(id.to_owned()).or_default());
        let found = page.judge(id, now, &self.terms, false);
        report(&found, &written.breaks);
        let stream = kept::page_stream(id);
        self.findings_written.1 |= self.findings.replace(&stream.0, &mut written.breaks, found);
        let (due, key) = (page.due(now, &self.terms), stream.to_string());
        if due != written.due {
            timers.push(due.map_or(TimerChange::Clear { key: key.clone() }, |due| TimerChange::Set { key, due }));
        }
        let event = PageEvent::PageWritten { page, due, breaks: written.breaks.clone() };
        let append = folded::append(&stream, written.version, &[event], &self.process.ids);
        (written.version, written.due) = (written.version + 1, due);
        Some(append)
    }

    fn shelf_written(&mut self, sku: &str, now: Timestamp) -> Option<Append> {
        let (shelf, written) = (self.books.shelf(sku)?, self.shelves.entry(sku.to_owned()).or_default());
        let found = shelf.judge(sku, now, &self.terms);
        report(&found, &written.breaks);
        let stream = kept::shelf_stream(sku);
        self.findings_written.1 |= self.findings.replace(&stream.0, &mut written.breaks, found);
        let event = ShelfEvent::ShelfWritten { shelf, breaks: written.breaks.clone() };
        let append = folded::append(&stream, written.version, &[event], &self.process.ids);
        written.version += 1;
        Some(append)
    }

    /// Commits, however long the store is away.
    async fn commit(&self, commit: Commit) -> Result<(), ReadError> {
        let mut trouble = Trouble::default();
        loop {
            match persist(self.store.as_ref(), commit.clone()).await {
                // The id is fresh: handled before is this very commit, whose first answer was lost.
                Ok(()) | Err(CommitError::AlreadyHandled(_)) => return Ok(()),
                Err(CommitError::Unavailable(why)) => {
                    if trouble.is_news(&why) {
                        tracing::warn!(why, "the books cannot be written; the auditor tries again");
                    }
                    sleep(PAUSE).await;
                }
                Err(other) => return Err(unreadable(other)),
            }
        }
    }

    /// Takes a page out of memory that was written, if nothing more of it is waited for.
    fn put_away(&mut self, id: &str) {
        if self.pages.get(id).is_some_and(|written| written.due.is_none()) {
            self.pages.remove(id);
            self.books.take_page(id);
        }
    }

    /// What is wrong, as far as it was judged.
    pub(crate) fn findings(&self) -> &Findings {
        &self.findings
    }

    /// How many products cannot be judged, for what was received of them is not all known.
    pub(crate) fn not_judged(&self) -> usize {
        self.books.shelves().filter(|(_, shelf)| !shelf.is_known()).count()
    }
}

fn report(found: &[Finding], before: &[Invariant]) {
    for Finding { invariant, stream, sentence, .. } in found.iter().filter(|found| !before.contains(&found.invariant)) {
        tracing::error!(invariant = invariant.number(), stream, why = sentence, "the books do not add up");
    }
}

#[cfg(test)]
#[path = "desk_cost.rs"]
mod cost;
#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
