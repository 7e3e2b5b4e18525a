//! The index on Elasticsearch, shared by all replicas of a service.
//!
//! # Problem
//! An index in each replica is made as often as there are replicas, and takes the memory of each; an index on a server is written
//! over a network, by whoever thinks it is their turn, and may be away.
//!
//! # Pattern
//! A disposable read model on a server of its own: versioned indices behind an alias, bulk writes with external versions.
//!
//! # Here
//! A document carries the version of its stream, and the server keeps the newest (ES-14): whoever writes it again, or late,
//! changes nothing. Documents first, then the checkpoint: killed in between, they are written again. Tokens are those of
//! [`crate::words`], as in the other index, so that both find the same. `elastic_client.rs` has what is said to the server.
//!
//! # Limits
//! What was written is seen some tenths of a second later; a search that must see a version makes it seen first. A document's
//! place in the order is where its writer first met it: one that hung and goes on beside another may disagree by a page.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use serde_json::{Value, json};
use store::Version;
use uuid::Uuid;

use crate::elastic_client::{Client, FORM};
use crate::words::{Term, tokens};
use crate::{Checkpoint, Document, Index, Query, SearchError};

/// Where the checkpoint is kept. It has no owner, so that no search finds it.
const CHECKPOINT: &str = ".checkpoint";
/// More than a page of documents: the place of a page's first is that of its checkpoint times this.
const PLACES: u64 = 10_000;
/// So many documents are listed at once.
const LISTED: usize = 1_000;

/// An index behind an alias.
pub struct Elastic {
    client: Client,
    alias: String,
    /// Whether the alias was seen to stand for an index.
    there: AtomicBool,
}

impl Elastic {
    /// The index of a name on the server at a URL, which is asked when it is needed.
    ///
    /// # Errors
    /// A sentence, if it is no URL.
    pub fn new(url: &str, name: &str) -> Result<Elastic, SearchError> {
        Ok(Elastic { client: Client::new(url)?, alias: name.to_owned(), there: AtomicBool::new(false) })
    }

    /// An empty index that no search reaches yet.
    async fn beside(&self) -> Result<Elastic, SearchError> {
        let before = self.client.behind(&self.alias).await?.map(|(index, _)| index);
        let alias = self.client.make(&self.alias, before.as_deref()).await?;
        Ok(Elastic { client: self.client.clone(), alias, there: AtomicBool::new(true) })
    }

    /// Puts an index that was made beside this one in its place, in one step.
    async fn replace(&self, new: &Elastic) -> Result<(), SearchError> {
        let before = self.client.behind(&self.alias).await?.map(|(index, _)| index);
        self.client.put_in_place(&self.alias, &new.alias, before.as_deref()).await
    }

    /// Lets searches see what was written.
    async fn show(&self) -> Result<(), SearchError> {
        match self.client.get(&format!("/{}/_refresh", self.alias)).await? {
            answer if answer.lacks_index() => Err(self.gone()),
            answer => self.client.accepted(answer).map(drop),
        }
    }

    /// Sees to it that there is an index to write to.
    async fn ensure(&self) -> Result<(), SearchError> {
        if self.there.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.client.behind(&self.alias).await? {
            Some((_, FORM)) => {}
            before => {
                let before = before.map(|(index, _)| index);
                tracing::info!(alias = self.alias, before, "a search index is made");
                let index = self.client.make(&self.alias, before.as_deref()).await?;
                self.client.put_in_place(&self.alias, &index, before.as_deref()).await?;
            }
        }
        self.there.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// What is said when an index is gone that was there: next time it is made anew.
    fn gone(&self) -> SearchError {
        self.there.store(false, Ordering::Relaxed);
        SearchError::Unavailable(format!("the index {} is gone; it is made anew", self.alias))
    }

    async fn document(&self, id: &str) -> Result<Option<Value>, SearchError> {
        let id: String = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC).collect();
        let answer = self.client.get(&format!("/{}/_doc/{id}", self.alias)).await?;
        match answer.status {
            404 if answer.lacks_index() => Err(self.gone()),
            404 => Ok(None),
            _ => self.client.accepted(answer).map(Some),
        }
    }

    /// Where documents that are known already stand.
    async fn places(&self, documents: &[Document]) -> Result<BTreeMap<String, u64>, SearchError> {
        let ids: Vec<_> = documents.iter().map(|document| &document.id).collect();
        let path = format!("/{}/_mget?_source_includes=place", self.alias);
        let answer = self.client.post(&path, json!({"ids": ids})).await?;
        if answer.lacks_index() {
            return Err(self.gone());
        }
        let body = self.client.accepted(answer)?;
        let place = |known: &Value| Some((known["_id"].as_str()?.to_owned(), known["_source"]["place"].as_u64()?));
        Ok(body["docs"].as_array().into_iter().flatten().filter_map(place).collect())
    }

    async fn write_documents(&self, documents: &[Document], checkpoint: Checkpoint) -> Result<(), SearchError> {
        if documents.is_empty() {
            return Ok(());
        }
        let places = self.places(documents).await?;
        let mut lines = Vec::with_capacity(2 * documents.len());
        for (n, document) in documents.iter().enumerate() {
            let place = places.get(&document.id).copied().unwrap_or(checkpoint.position * PLACES + n as u64);
            lines.push(json!({"index": {"_id": document.id, "version": document.version, "version_type": "external"}}));
            let words: Vec<_> = document.text.iter().map(|text| tokens(text).join(" ")).collect();
            let facets: Vec<_> = document.facets.iter().map(|(name, value)| facet(name, value)).collect();
            lines.push(json!({"owner": document.owner, "facets": facets, "place": place, "words": words}));
        }
        let body = self.client.bulk(&format!("/{}/_bulk", self.alias), lines).await?;
        if body.lacks_index() {
            return Err(self.gone());
        }
        let body = self.client.accepted(body)?;
        let refused = body["items"].as_array().into_iter().flatten().map(|item| &item["index"]).find(|item| {
            // A conflict: what is there is as new.
            !matches!(item["status"].as_u64(), Some(200 | 201 | 409))
        });
        match refused {
            None => Ok(()),
            Some(item) if item["status"] == 404 => Err(self.gone()),
            Some(item) => {
                let (id, why) = (&item["_id"], &item["error"]["reason"]);
                Err(SearchError::Unavailable(format!("document {id} is refused by Elasticsearch: {why}")))
            }
        }
    }
}

fn facet(name: &str, value: &str) -> String {
    format!("{name}={value}")
}

/// Elasticsearch's numbers end where ours go on.
fn long(number: u64) -> u64 {
    number.min(i64::MAX as u64)
}

#[async_trait]
impl Index for Elastic {
    async fn write(&self, documents: Vec<Document>, checkpoint: Checkpoint) -> Result<(), SearchError> {
        self.ensure().await?;
        self.write_documents(&documents, checkpoint).await?;
        let version = long(checkpoint.position);
        let path = format!("/{}/_doc/{CHECKPOINT}?version={version}&version_type=external_gte", self.alias);
        let progress = json!({"position": version.to_string(), "event": checkpoint.event.to_string()});
        match self.client.put(&path, progress).await? {
            // Another replica is further.
            answer if answer.status == 409 => Ok(()),
            answer if answer.lacks_index() => Err(self.gone()),
            answer => self.client.accepted(answer).map(drop),
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint, SearchError> {
        self.ensure().await?;
        let Some(kept) = self.document(CHECKPOINT).await? else { return Ok(Checkpoint::default()) };
        let source = &kept["_source"];
        let position = source["position"].as_str().and_then(|text| text.parse().ok());
        let event = source["event"].as_str().and_then(|text| Uuid::parse_str(text).ok());
        let read = position.zip(event).map(|(position, event)| Checkpoint { position, event });
        read.ok_or_else(|| {
            SearchError::Unavailable(format!("the checkpoint of {} cannot be read: {source}", self.alias))
        })
    }

    async fn version(&self, id: &str) -> Result<Version, SearchError> {
        self.ensure().await?;
        Ok(self.document(id).await?.and_then(|kept| kept["_version"].as_u64()).unwrap_or(0))
    }

    async fn find(&self, terms: &[Term], query: &Query, before: u64) -> Result<Vec<(u64, String)>, SearchError> {
        self.ensure().await?;
        if !query.seen.is_empty() {
            self.show().await?;
        }
        let mut filter =
            vec![json!({"term": {"owner": query.owner}}), json!({"range": {"place": {"lt": long(before)}}})];
        filter.extend(query.facets.iter().map(|(name, value)| json!({"term": {"facets": facet(name, value)}})));
        filter.extend(terms.iter().map(|term| match term {
            Term::Prefix(word) => json!({"prefix": {"words": word}}),
            Term::Phrase(words) => json!({"match_phrase": {"words": words.join(" ")}}),
        }));
        let body = json!({
            "size": query.size, "query": {"bool": {"filter": filter}}, "sort": [{"place": "desc"}],
            "_source": false, "track_total_hits": false,
        });
        let answer = self.client.post(&format!("/{}/_search", self.alias), body).await?;
        if answer.lacks_index() {
            return Err(self.gone());
        }
        let body = self.client.accepted(answer)?;
        let found = |hit: &Value| Some((hit["sort"][0].as_u64()?, hit["_id"].as_str()?.to_owned()));
        Ok(body["hits"]["hits"].as_array().into_iter().flatten().filter_map(found).collect())
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn clear(&self) -> Result<(), SearchError> {
        let new = self.beside().await?;
        self.replace(&new).await?;
        self.there.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn all(&self) -> Result<Vec<(String, Version)>, SearchError> {
        self.ensure().await?;
        self.show().await?;
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let body = json!({
                "size": LISTED, "query": {"exists": {"field": "place"}}, "sort": [{"place": "asc"}],
                "search_after": [after], "_source": false, "version": true,
            });
            let body = self.client.accepted(self.client.post(&format!("/{}/_search", self.alias), body).await?)?;
            let hits = body["hits"]["hits"].as_array().cloned().unwrap_or_default();
            let Some(last) = hits.last() else { return Ok(all) };
            after = last["sort"][0].as_u64().unwrap_or(u64::MAX);
            let listed = |hit: &Value| Some((hit["_id"].as_str()?.to_owned(), hit["_version"].as_u64()?));
            all.extend(hits.iter().filter_map(listed));
        }
    }
}

#[cfg(test)]
#[path = "elastic_tests.rs"]
mod tests;
