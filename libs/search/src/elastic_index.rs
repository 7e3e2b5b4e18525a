//! One index on Elasticsearch, by its own name: the documents in it, and the checkpoint among them.
//!
//! Whoever reads the checkpoint of one index and writes another would tell it that it holds what only the first one holds. So
//! nothing here goes through the alias that the replicas share: a step reads, writes documents and moves the checkpoint in one
//! index, or fails because it is gone. An index is written through an alias of its own, which goes with it ([`writer`]): a write
//! that comes too late is refused, where by the index's name the server might make a new one.
use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::{Value, json};
use store::{Position, Version};
use uuid::Uuid;

use crate::elastic_client::{Answer, Client, FORM, writer};
use crate::words::{Term, tokens};
use crate::{Change, Checkpoint, Document, Index, Query, SearchError};

/// Where the checkpoint is kept. It has no owner, so that no search finds it.
const CHECKPOINT: &str = ".checkpoint";
/// So many documents are listed at once.
const LISTED: usize = 1_000;

/// An index that is there, or was.
#[derive(Clone)]
pub(crate) struct ElasticIndex {
    pub(crate) client: Client,
    pub(crate) name: String,
    /// The form of its documents.
    pub(crate) form: u64,
}

/// What an index holds of what is to be written.
struct Known {
    position: Position,
    places: BTreeMap<String, u64>,
}

impl ElasticIndex {
    fn gone(&self) -> SearchError {
        SearchError::Failed(format!("index {} is gone; another takes its place", self.name))
    }

    /// An answer that must be yes, and was asked of this index.
    fn accepted(&self, answer: Answer) -> Result<Value, SearchError> {
        if answer.lacks_index() { Err(self.gone()) } else { self.client.accepted(answer) }
    }

    /// Lets searches see what was written.
    pub(crate) async fn show(&self) -> Result<(), SearchError> {
        self.accepted(self.client.get(&format!("/{}/_refresh", self.name)).await?).map(drop)
    }

    async fn document(&self, id: &str) -> Result<Option<Value>, SearchError> {
        let id: String = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC).collect();
        let answer = self.client.get(&format!("/{}/_doc/{id}", self.name)).await?;
        if answer.status == 404 && !answer.lacks_index() {
            return Ok(None);
        }
        self.accepted(answer).map(Some)
    }

    /// How far it is, and where those of the documents stand that it has.
    async fn known(&self, documents: &[(Position, Document)]) -> Result<Known, SearchError> {
        let ids: Vec<_> = documents.iter().map(|(_, it)| it.id.as_str()).chain([CHECKPOINT]).collect();
        let path = format!("/{}/_mget?_source_includes=place,position", self.name);
        let body = self.accepted(self.client.post(&path, json!({"ids": ids})).await?)?;
        let mut known = Known { position: 0, places: BTreeMap::new() };
        for kept in body["docs"].as_array().into_iter().flatten() {
            // Of an index that is not there it is said document by document.
            match &kept["error"] {
                Value::Null => {}
                why if why["type"] == "index_not_found_exception" => return Err(self.gone()),
                why => {
                    return Err(SearchError::Unavailable(format!("{} cannot be read: {}", self.name, why["reason"])));
                }
            }
            let source = &kept["_source"];
            if let Some(place) = source["place"].as_u64() {
                known.places.insert(kept["_id"].as_str().unwrap_or_default().to_owned(), place);
            } else if kept["found"] == true {
                known.position = read_checkpoint(&self.name, source)?.position;
            }
        }
        Ok(known)
    }

    pub(crate) async fn write_documents(
        &self,
        documents: &[(Position, Document)],
        places: &BTreeMap<String, u64>,
    ) -> Result<(), SearchError> {
        let mut lines = Vec::with_capacity(2 * documents.len());
        for (position, document) in documents {
            // The position is the stream's own, so that every index that is made from this log has the same order: a page token
            // of one is good in another.
            let place = places.get(&document.id).unwrap_or(position);
            lines.push(json!({"index": {"_id": document.id, "version": document.version, "version_type": "external"}}));
            let words: Vec<_> = document.text.iter().map(|text| tokens(text).join(" ")).collect();
            let facets: Vec<_> = document.facets.iter().map(|(name, value)| facet(name, value)).collect();
            lines.push(json!({"owner": document.owner, "facets": facets, "place": place, "words": words}));
        }
        let path = format!("/{}/_bulk?require_alias=true", writer(&self.name));
        let body = self.accepted(self.client.bulk(&path, lines).await?)?;
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

    pub(crate) async fn write_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), SearchError> {
        let position = checkpoint.position;
        let asked = format!("require_alias=true&version={}&version_type=external_gte", long(position));
        let path = format!("/{}/_doc/{CHECKPOINT}?{asked}", writer(&self.name));
        let progress = json!({"position": position.to_string(), "event": checkpoint.event.to_string()});
        match self.client.put(&path, progress).await? {
            // Another replica is further.
            answer if answer.status == 409 => Ok(()),
            answer => self.accepted(answer).map(drop),
        }
    }
}

fn read_checkpoint(index: &str, source: &Value) -> Result<Checkpoint, SearchError> {
    let position = source["position"].as_str().and_then(|text| text.parse().ok());
    // Where only the position was asked for, there is no event.
    let event = source["event"].as_str().map_or(Some(Uuid::nil()), |text| Uuid::parse_str(text).ok());
    let read = position.zip(event).map(|(position, event)| Checkpoint { position, event });
    read.ok_or_else(|| SearchError::Unavailable(format!("the checkpoint of {index} cannot be read: {source}")))
}

fn facet(name: &str, value: &str) -> String {
    format!("{name}={value}")
}

/// Elasticsearch's numbers end where ours go on.
fn long(number: u64) -> u64 {
    number.min(i64::MAX as u64)
}

#[async_trait]
impl Index for ElasticIndex {
    async fn write(&self, change: Change) -> Result<(), SearchError> {
        let Change { after, documents, checkpoint } = change;
        if self.form != FORM {
            let what = format!("{} is of form {}, which is not written any more", self.name, self.form);
            return Err(SearchError::Unavailable(what));
        }
        // Danger: the page was read for another index if this one took its place meanwhile. Its checkpoint only grows, so that what
        // is so far now is so far until the documents are in it.
        let known = self.known(&documents).await?;
        if known.position < after {
            return Err(SearchError::not_so_far(known.position, after));
        }
        if !documents.is_empty() {
            self.write_documents(&documents, &known.places).await?;
        }
        self.write_checkpoint(checkpoint).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint, SearchError> {
        match self.document(CHECKPOINT).await? {
            None => Ok(Checkpoint::default()),
            Some(kept) => read_checkpoint(&self.name, &kept["_source"]),
        }
    }

    async fn version(&self, id: &str) -> Result<Version, SearchError> {
        Ok(self.document(id).await?.and_then(|kept| kept["_version"].as_u64()).unwrap_or(0))
    }

    async fn find(&self, terms: &[Term], query: &Query, before: u64) -> Result<Vec<(u64, String)>, SearchError> {
        if !query.seen.is_empty() {
            // Asked of this index again: the one that was waited for may have been another.
            let (id, version) = crate::seen(&query.seen)?;
            if self.version(id).await? < version {
                return Err(SearchError::unseen(id, version));
            }
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
        let body = self.accepted(self.client.post(&format!("/{}/_search", self.name), body).await?)?;
        let found = |hit: &Value| Some((hit["sort"][0].as_u64()?, hit["_id"].as_str()?.to_owned()));
        Ok(body["hits"]["hits"].as_array().into_iter().flatten().filter_map(found).collect())
    }

    async fn all(&self) -> Result<Vec<(String, Version)>, SearchError> {
        self.show().await?;
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let body = json!({
                "size": LISTED, "query": {"exists": {"field": "place"}}, "sort": [{"place": "asc"}],
                "search_after": [after], "_source": false, "version": true,
            });
            let body = self.accepted(self.client.post(&format!("/{}/_search", self.name), body).await?)?;
            let hits = body["hits"]["hits"].as_array().cloned().unwrap_or_default();
            let Some(last) = hits.last() else { return Ok(all) };
            after = last["sort"][0].as_u64().unwrap_or(u64::MAX);
            let listed = |hit: &Value| Some((hit["_id"].as_str()?.to_owned(), hit["_version"].as_u64()?));
            all.extend(hits.iter().filter_map(listed));
        }
    }

    async fn clear(&self) -> Result<(), SearchError> {
        self.client.remove(&self.name).await
    }
}
