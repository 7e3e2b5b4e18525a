//! Read models that are searched: what a service has recorded, in the form in which it is asked for.
//!
//! # Problem
//! A log of events answers "what is this order", not "which of my orders went to Busan". Answering that from the log reads
//! all of it; keeping a second table by hand drifts away from it.
//!
//! # Pattern
//! CQRS: a read model of its own, a projection of the service's own log. It can be thrown away and made again.
//!
//! # Here
//! | file | holds |
//! |---|---|
//! | [`words`] | PURE: the words of a text, and what a search for some means |
//! | [`fts`] | the index on SQLite's FTS5 |
//! | `elastic.rs`, `elastic_index.rs`, `elastic_client.rs` | the index on Elasticsearch |
//! | [`projection`] | follows the log and writes the index |
//! | [`rebuild`] | makes an index anew beside the old one, and puts it in its place |
//!
//! [`Index`] is the port, and [`Shared`] that of an index which replicas have together. A [`Document`] is a function of a stream at a
//! version, so that whatever is written twice, or by two, is the newest in the end. Whose a document is, is part of the search in
//! the index: nothing is filtered afterwards.
//!
//! # Limits
//! A found document may be some moments behind its stream; the service shows the stream as it is. What was found is ordered
//! by age, newest first, not by how well it fits.

#[cfg(test)]
mod contract;
#[cfg(feature = "infra")]
pub mod elastic;
#[cfg(feature = "infra")]
mod elastic_client;
#[cfg(feature = "infra")]
mod elastic_index;
pub mod fts;
pub mod projection;
pub mod rebuild;
pub mod words;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use host::error::Refusal;
use sha2::{Digest, Sha256};
use store::{Position, Version};
use tonic::Code;
use uuid::Uuid;

use crate::words::Term;

/// What can be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its name, unique in the index.
    pub id: String,
    /// The version of the stream that it shows. It replaces only what is older.
    pub version: Version,
    /// Who may find it; empty: everybody.
    pub owner: String,
    /// What it can be filtered by, exactly.
    pub facets: BTreeMap<&'static str, String>,
    /// What it can be found by.
    pub text: Vec<String>,
}

/// How far an index has followed its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last position that is in it; 0 if none is.
    pub position: Position,
    /// The event there: another log has another.
    pub event: Uuid,
}

/// What a page of the log makes of an index.
#[derive(Clone, Debug)]
pub struct Change {
    /// The page begins after this position: an index that is not so far must not be written.
    pub after: Position,
    /// Each with where the page has it first, in that order: the place of a document that is new.
    pub documents: Vec<(Position, Document)>,
    /// How far the log is in the index then.
    pub checkpoint: Checkpoint,
}

/// A search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The words to find, all of them.
    pub text: String,
    /// Whose documents; empty: those that are everybody's.
    pub owner: String,
    /// What they must be, exactly.
    pub facets: BTreeMap<&'static str, String>,
    /// At most so many.
    pub size: usize,
    /// `next_page_token` of the page before; empty for the first.
    pub page_token: String,
    /// What must be in it, as `ID@VERSION`; empty: whatever is.
    pub seen: String,
}

/// A page of what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Their names, newest first.
    pub ids: Vec<String>,
    /// Asks for the next page; empty on the last.
    pub next_page_token: String,
}

/// Why nothing was found, or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// It cannot be searched for that.
    #[error("{field}: {message}")]
    Refused {
        /// The field to blame.
        field: &'static str,
        /// Why, as a sentence.
        message: String,
    },
    /// The index cannot be read or written, or is not complete yet. Try again later.
    #[error("the search index is unavailable: {0}")]
    Unavailable(String),
    /// It was asked for what it must show, and does not yet. Try again soon.
    #[error("{0}")]
    NotYet(String),
    /// The server answered, and did not do it: the index that was asked is deleted, or about to be, or the server is in trouble.
    #[error("the search index is unavailable: {0}")]
    Failed(String),
}

impl SearchError {
    /// It was asked for what it must show, and does not yet.
    pub(crate) fn unseen(id: &str, version: Version) -> SearchError {
        SearchError::NotYet(format!("version {version} of {id} is not in the search index yet; try again soon"))
    }

    /// It was to be written from further on than it is.
    pub(crate) fn not_so_far(at: Position, after: Position) -> SearchError {
        SearchError::Unavailable(format!(
            "it is at position {at} and was to go on after {after}: another has its place; it goes on from there"
        ))
    }
}

impl From<SearchError> for Refusal {
    fn from(error: SearchError) -> Refusal {
        match error {
            SearchError::Refused { field, message } => Refusal::invalid(field, message),
            SearchError::NotYet(message) => Refusal::new(Code::Unavailable, "not_indexed_yet", message),
            other => Refusal::new(Code::Unavailable, "search_unavailable", other.to_string()),
        }
    }
}

/// A document and the version of it that a search must see.
pub(crate) fn seen(text: &str) -> Result<(&str, Version), SearchError> {
    let read = text.rsplit_once('@').and_then(|(id, version)| Some((id, version.parse().ok()?)));
    let message = "seen is a name and a version, such as ID@3".to_owned();
    read.filter(|(id, _)| !id.is_empty()).ok_or(SearchError::Refused { field: "seen", message })
}

/// The port: an index over documents that were written in some order.
#[async_trait]
pub trait Index: Send + Sync + 'static {
    /// Writes documents and how far the log is in it: the checkpoint is never ahead of the documents. A document keeps its place in
    /// the order, which is that of their first writing.
    ///
    /// # Errors
    /// If it cannot be written, or is not so far as the change begins: what lies between would be lost.
    async fn write(&self, change: Change) -> Result<(), SearchError>;

    /// How far the log is in it.
    async fn checkpoint(&self) -> Result<Checkpoint, SearchError>;

    /// The version of a document; 0 if there is none.
    async fn version(&self, id: &str) -> Result<Version, SearchError>;

    /// Up to `size` documents that match, with their places, newest first, from before a place on.
    async fn find(&self, terms: &[Term], query: &Query, before: u64) -> Result<Vec<(u64, String)>, SearchError>;

    /// Every document's name and version, oldest first.
    async fn all(&self) -> Result<Vec<(String, Version)>, SearchError>;

    /// Forgets everything. Where replicas have it together there is none then, and searches are refused, until another is put in
    /// its place.
    async fn clear(&self) -> Result<(), SearchError>;

    /// Itself, if all replicas of the service have it together: then one of them writes it.
    fn shared(&self) -> Option<&dyn Shared> {
        None
    }
}

/// What is there of an index that replicas have together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// One that this program writes.
    Current,
    /// One of an earlier form, which can be searched, and is not written any more.
    Earlier,
    /// None, or one of a form that cannot be searched any more.
    Absent,
}

/// The port: an index that replicas have together. One is only ever put there when it is complete, so that whatever is there
/// may be searched.
#[async_trait]
pub trait Shared: Index {
    /// What is there.
    async fn standing(&self) -> Result<Standing, SearchError>;

    /// Removes what was made beside it and never put in its place.
    async fn tidy(&self) -> Result<(), SearchError>;

    /// Makes an empty one beside it, which no search reaches; its name, and itself.
    async fn beside(&self) -> Result<(String, Arc<dyn Index>), SearchError>;

    /// Puts the one of this name, which was made beside it, in its place, and deletes what was there, in one step. Whatever is in
    /// it is seen from then on.
    async fn put_in_place(&self, name: &str) -> Result<(), SearchError>;
}

const TOKEN_BYTES: usize = 16;

/// A page of what a query finds.
///
/// # Errors
/// [`SearchError::Refused`] for a text that cannot be searched for, or a page token that is not of this query.
pub async fn search(index: &dyn Index, query: &Query) -> Result<Page, SearchError> {
    let terms = words::terms(&query.text).map_err(|message| SearchError::Refused { field: "query", message })?;
    let mark = fingerprint(query);
    let before = if query.page_token.is_empty() { u64::MAX } else { place(&query.page_token, mark)? };
    let found = index.find(&terms, query, before).await?;
    let more = found.last().filter(|_| found.len() == query.size).map(|(place, _)| token(*place, mark));
    Ok(Page { ids: found.into_iter().map(|(_, id)| id).collect(), next_page_token: more.unwrap_or_default() })
}

/// What tells one query from another, however many of its pages are asked for.
fn fingerprint(query: &Query) -> u64 {
    let mut hash = Sha256::new();
    let facets = query.facets.iter().flat_map(|(name, value)| [*name, value.as_str()]);
    for word in [query.text.as_str(), query.owner.as_str()].into_iter().chain(facets) {
        hash.update((word.len() as u64).to_be_bytes());
        hash.update(word);
    }
    hash.finalize().iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

fn token(place: u64, mark: u64) -> String {
    BASE64_URL_SAFE_NO_PAD.encode([place.to_be_bytes(), mark.to_be_bytes()].concat())
}

fn place(token: &str, mark: u64) -> Result<u64, SearchError> {
    let message =
        "page_token is the next_page_token of the page before, as it was given, of the same search".to_owned();
    let refused = SearchError::Refused { field: "page_token", message };
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok().filter(|bytes| bytes.len() == TOKEN_BYTES);
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    let (place, theirs) = bytes.map(|bytes| (number(&bytes[..8]), number(&bytes[8..]))).ok_or(refused.clone())?;
    if theirs == mark { Ok(place) } else { Err(refused) }
}
