//! The books as they are written down: in the auditor's own store, page by page.
//!
//! # Problem
//! Books that are kept in memory are forgotten with the process, and books that are folded from all facts again at each
//! start are opened later every day.
//!
//! # Pattern
//! State-carrying events: each event of a page's stream is the whole page as it is from then on, so that the last one is
//! all that has to be read.
//!
//! # Here
//! Streams `page-<order>`, `shelf-<SKU>`, and one for what is wrong. An event is appended at the version that the page was
//! read or written at last; the timer `page-<order>` says when the page has to be judged again although nothing is heard.
//!
//! # Limits
//! A page is written anew for whatever changes on it; what it was before stays in its stream for ever.
use std::collections::BTreeMap;

use clock::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::{ReadError, Store, StreamId, Version, folded};

use crate::books::Books;
use crate::findings::Findings;
use crate::invariant::Invariant;
use crate::page::Page;
use crate::shelf::Shelf;

/// What streams of pages and their timers are named by, before the order's id.
pub(crate) const PAGE: &str = "page-";
const SHELF: &str = "shelf-";
const FINDINGS: &str = "findings";
/// So many names are read at once.
const NAMES: usize = 1_000;

/// What is written of a page: a borrowed one when it is written, its own when it is read.
#[derive(Serialize, Deserialize)]
pub(crate) enum PageEvent<P> {
    PageWritten {
        page: P,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        due: Option<Timestamp>,
        /// The invariants that it breaks.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        breaks: Vec<Invariant>,
    },
}

/// What is written of a shelf.
#[derive(Serialize, Deserialize)]
pub(crate) enum ShelfEvent<S> {
    ShelfWritten {
        shelf: S,
        /// The invariants that it breaks.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        breaks: Vec<Invariant>,
    },
}

/// What is written of what is wrong.
#[derive(Serialize, Deserialize)]
pub(crate) enum FindingsEvent<F> {
    FindingsWritten { findings: F },
}

/// How something was written last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    /// The version of its stream; 0 if it never was.
    pub(crate) version: Version,
    /// When its timer is due.
    pub(crate) due: Option<Timestamp>,
    /// The invariants that it was found to break.
    pub(crate) breaks: Vec<Invariant>,
}

/// The stream of an order's page, and the key of its timer.
pub(crate) fn page_stream(id: &str) -> StreamId {
    StreamId::from(format!("{PAGE}{id}"))
}

/// The stream of a product's shelf.
pub(crate) fn shelf_stream(sku: &str) -> StreamId {
    StreamId::from(format!("{SHELF}{sku}"))
}

/// The stream of what is wrong.
pub(crate) fn findings_stream() -> StreamId {
    StreamId::from(FINDINGS)
}

/// What was written last in a stream, and at which version; nothing if nothing was.
async fn last<E: DeserializeOwned>(store: &dyn Store, stream: &StreamId) -> Result<Option<(Version, E)>, ReadError> {
    let Some(before) = store.version(stream).await?.checked_sub(1) else { return Ok(None) };
    let last = store.load(stream, before, 1).await?;
    last.first().map(|recorded| Ok((recorded.version, folded::decode(recorded)?))).transpose()
}

/// The page of an order and how it was written; a blank one if it never was.
pub(crate) async fn page(store: &dyn Store, id: &str) -> Result<(Page, Written), ReadError> {
    let Some((version, event)) = last(store, &page_stream(id)).await? else { return Ok(Default::default()) };
    let PageEvent::<Page>::PageWritten { page, due, breaks } = event;
    Ok((page, Written { version, due, breaks }))
}

/// All shelves, into the books; how each was written, by SKU.
pub(crate) async fn shelves(store: &dyn Store, books: &mut Books) -> Result<BTreeMap<String, Written>, ReadError> {
    let (mut written, mut after) = (BTreeMap::new(), String::new());
    loop {
        let names = store.streams(SHELF, &after, NAMES).await?;
        for stream in &names {
            let Some((version, event)) = last(store, stream).await? else { continue };
            let ShelfEvent::<Shelf>::ShelfWritten { shelf, breaks } = event;
            let sku = stream.0.strip_prefix(SHELF).unwrap_or_default();
            books.put_shelf(sku, shelf);
            written.insert(sku.to_owned(), Written { version, due: None, breaks });
        }
        match names.last() {
            Some(name) if names.len() == NAMES => after = name.to_string(),
            _ => return Ok(written),
        }
    }
}

/// What was wrong, and the version at which that was written.
pub(crate) async fn findings(store: &dyn Store) -> Result<(Findings, Version), ReadError> {
    let last = last(store, &findings_stream()).await?;
    let last = last.map(|(version, FindingsEvent::<Findings>::FindingsWritten { findings })| (findings, version));
    Ok(last.unwrap_or_default())
}
