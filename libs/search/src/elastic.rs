//! The index on Elasticsearch, shared by all replicas of a service.
//!
//! # Problem
//! An index in each replica is made as often as there are replicas, and takes the memory of each; an index on a server is written
//! over a network, by whoever thinks it is their turn, and may be away. And it must be made anew now and then, while it is
//! searched and written.
//!
//! # Pattern
//! A disposable read model on a server of its own: indices behind an alias, bulk writes with external versions.
//!
//! # Here
//! What is behind the alias is complete: an index is made beside it and takes its place in one step, which deletes the one
//! before. Where there is none, searches are refused. A document carries the version of its stream, and the server keeps the
//! newest (ES-14): whoever writes it again, or late, changes nothing. Documents first, then the checkpoint: killed in between, they
//! are written again. Who writes while the index is replaced writes one index, the old or the new, and the new one only from where
//! it is: `elastic_index.rs` says how, and `elastic_client.rs` has what is said to the server. Tokens are those of [`crate::words`],
//! as in the other index, so that both find the same.
//!
//! # Limits
//! What was written is seen some tenths of a second later; a search that must see a version makes it seen first. An alias is the
//! shop's alone: an index of the shop's that is named after it and does not stand behind it is deleted by the next that is made.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use clock::Ids;
use store::Version;
use tokio::time::sleep;

use crate::elastic_client::{Client, FORM};
use crate::elastic_index::ElasticIndex;
use crate::words::Term;
use crate::{Change, Checkpoint, Index, Query, SearchError, Shared, Standing};

/// The earliest form that can be searched as this program searches. Whoever pages through one of form 1 when another takes its
/// place begins again at the newest.
const SEARCHED: u64 = 1;

/// How long an index may fail that is deleted before it is known that another has its place.
const SETTLING: Duration = Duration::from_millis(300);
/// How often it is tried to remove what others may be putting in place.
const TRIES: usize = 3;

/// An index behind an alias.
pub struct Elastic {
    client: Client,
    alias: String,
    ids: Arc<Ids>,
    /// What was seen behind the alias; asked until it is gone.
    seen: Mutex<Option<Arc<ElasticIndex>>>,
}

impl Elastic {
    /// The index of a name on the server at a URL, which is asked when it is needed.
    ///
    /// # Errors
    /// A sentence, if it is no URL.
    pub fn new(url: &str, name: &str, ids: Arc<Ids>) -> Result<Elastic, SearchError> {
        Ok(Elastic { client: Client::new(url)?, alias: name.to_owned(), ids, seen: Mutex::default() })
    }

    fn seen(&self) -> MutexGuard<'_, Option<Arc<ElasticIndex>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is behind the alias and can be searched.
    async fn behind(&self) -> Result<Arc<ElasticIndex>, SearchError> {
        if let Some(seen) = self.seen().clone() {
            return Ok(seen);
        }
        let (alias, client) = (&self.alias, self.client.clone());
        let why = match client.behind(alias).await? {
            Some((name, form)) if form >= SEARCHED => {
                let index = Arc::new(ElasticIndex { client, name, form });
                *self.seen() = Some(index.clone());
                return Ok(index);
            }
            Some((name, form)) => {
                format!("index {name} has form {form}, which is not searched any more; it is made anew")
            }
            None => format!("there is no index {alias} yet; it is being made"),
        };
        Err(SearchError::Unavailable(why))
    }

    /// Asks the index; if it fails, once more the one that has taken its place. An index that is being deleted fails in several ways,
    /// and for some moments before anybody is told that it is not behind the alias any more.
    async fn ask<T, F>(&self, question: impl Fn(Arc<ElasticIndex>) -> F) -> Result<T, SearchError>
    where
        F: Future<Output = Result<T, SearchError>>,
    {
        let asked = self.behind().await?;
        let answer = question(asked.clone()).await;
        if !matches!(answer, Err(SearchError::Failed(_))) {
            return answer;
        }
        for wait in [Duration::ZERO, SETTLING] {
            sleep(wait).await;
            self.seen().take_if(|seen| seen.name == asked.name);
            let now = self.behind().await?;
            if now.name != asked.name {
                return question(now).await;
            }
        }
        answer
    }
}

#[async_trait]
impl Index for Elastic {
    async fn write(&self, change: Change) -> Result<(), SearchError> {
        self.ask(|index| {
            let change = change.clone();
            async move { index.write(change).await }
        })
        .await
    }

    async fn checkpoint(&self) -> Result<Checkpoint, SearchError> {
        self.ask(|index| async move { index.checkpoint().await }).await
    }

    async fn version(&self, id: &str) -> Result<Version, SearchError> {
        self.ask(|index| async move { index.version(id).await }).await
    }

    async fn find(&self, terms: &[Term], query: &Query, before: u64) -> Result<Vec<(u64, String)>, SearchError> {
        self.ask(|index| async move { index.find(terms, query, before).await }).await
    }

    async fn all(&self) -> Result<Vec<(String, Version)>, SearchError> {
        self.ask(|index| async move { index.all().await }).await
    }

    async fn clear(&self) -> Result<(), SearchError> {
        self.behind().await?.clear().await?;
        *self.seen() = None;
        Ok(())
    }

    fn shared(&self) -> Option<&dyn Shared> {
        Some(self)
    }
}

#[async_trait]
impl Shared for Elastic {
    async fn standing(&self) -> Result<Standing, SearchError> {
        if self.seen().as_ref().is_some_and(|seen| seen.form == FORM) {
            return Ok(Standing::Current);
        }
        // One of an earlier form may have been replaced by another process.
        *self.seen() = None;
        Ok(match self.client.behind(&self.alias).await? {
            Some((_, FORM)) => Standing::Current,
            Some((_, form)) if form >= SEARCHED => Standing::Earlier,
            _ => Standing::Absent,
        })
    }

    async fn tidy(&self) -> Result<(), SearchError> {
        for _ in 0..TRIES {
            let behind = self.client.behind(&self.alias).await?.map(|(index, _)| index);
            let left = self.client.left_beside(&self.alias).await?;
            if left.is_empty() {
                return Ok(());
            }
            tracing::info!(?left, "search indices that were not made to their end are removed");
            if self.client.remove_beside(&self.alias, behind.as_deref(), &left).await? {
                return Ok(());
            }
        }
        Err(SearchError::Unavailable(format!("the indices of {} are changed by others all the time", self.alias)))
    }

    async fn beside(&self) -> Result<(String, Arc<dyn Index>), SearchError> {
        // A name that no index has had: what was meant for an earlier one cannot reach it.
        let name = format!("{}-{}", self.alias, self.ids.next().simple());
        self.client.make(&name).await?;
        Ok((name.clone(), Arc::new(ElasticIndex { client: self.client.clone(), name, form: FORM })))
    }

    async fn put_in_place(&self, name: &str) -> Result<(), SearchError> {
        ElasticIndex { client: self.client.clone(), name: name.to_owned(), form: FORM }.show().await?;
        let before = self.client.behind(&self.alias).await?.map(|(index, _)| index);
        self.client.put_in_place(&self.alias, name, before.as_deref()).await?;
        *self.seen() = None;
        Ok(())
    }
}

#[cfg(test)]
#[path = "elastic_swap_tests.rs"]
mod swap_tests;
#[cfg(test)]
#[path = "elastic_tests.rs"]
pub(crate) mod tests;
