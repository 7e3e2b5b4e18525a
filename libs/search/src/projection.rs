//! Follows a service's log and writes its index.
//!
//! # Problem
//! A read model that is written beside the log misses what a crash came between; one that cannot read an event and goes on
//! is wrong for ever and says nothing.
//!
//! # Pattern
//! Projection with a checkpoint, kept in the same step as what it wrote; disposable, so that a rebuild is the repair.
//!
//! # Here
//! [`Projector`] reads the log after its checkpoint. A page of events is reduced to the streams that it touches; each is loaded
//! and becomes one document, as it is now. An event that cannot be read stops this projection and no other, loudly, with the
//! checkpoint before it: a program that reads it goes on from there, and so does this one once the event was repaired. A log that lacks the checkpoint's event is another log:
//! the index is made anew. Until the end of the log as it was at the start is reached, searches are refused.
//!
//!
//! Where all replicas have one index together, the one writes that has the lease `projector-<name>` ([`Turn`]).
//!
//! # Limits
//! Woken by the log, it waits [`PAUSE`] before it looks, so that a stream that changes quickly is written once: what is found is
//! that much behind. A search that must see a write waits for it ([`Projector::wait_for`]).
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::select;
use host::Process;
use prometheus::GaugeVec;
use store::turn::Turn;
use store::{Position, ReadError, Recorded, Store, StreamId, Version};
use telemetry::trouble::Trouble;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::fts::Fts;
use crate::{Checkpoint, Document, Index, Page, Query, SearchError};

/// How long is waited once the log grew.
pub const PAUSE: Duration = Duration::from_millis(100);
/// How often the log is looked at although nobody said that it grew.
pub const EVERY: Duration = Duration::from_millis(500);
/// How long is waited after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How long is waited until an event that cannot be read is read again; the lease is longer.
const AFTER_UNREADABLE: Duration = Duration::from_secs(3);
/// How long a search waits for what it must see.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many events are read at once.
const PAGE: usize = 500;

/// What a service's streams look like in its index.
#[async_trait]
pub trait Projection: Send + Sync + 'static {
    /// Its name in metrics and messages.
    fn name(&self) -> &'static str;

    /// Whether this stream is shown at all.
    fn concerns(&self, stream: &StreamId) -> bool;

    /// The stream as it is now; `None` if it is not to be found.
    async fn document(&self, store: &dyn Store, stream: &StreamId) -> Result<Option<Document>, ReadError>;
}

/// What is measured; one set for all projections of a process.
#[derive(Clone, Debug)]
pub struct Meters {
    position: GaugeVec,
    age: GaugeVec,
}

impl Meters {
    /// Registers the metrics.
    ///
    /// # Panics
    /// If they are registered already.
    #[must_use]
    pub fn new(process: &Process) -> Meters {
        let (metrics, of) = (&process.metrics, ["projection"]);
        let age = "Age of the oldest event that is not in a read model; 0 if there is none.";
        Meters {
            position: metrics.gauges("projection_position", "The last position of the log in a read model.", &of),
            age: metrics.gauges("projection_oldest_seconds", age, &of),
        }
    }
}

/// Keeps one index up to its log. Clones are the same.
#[derive(Clone)]
pub struct Projector(Arc<Inner>);

struct Inner {
    process: Process,
    store: Arc<dyn Store>,
    index: Arc<dyn Index>,
    projection: Arc<dyn Projection>,
    meters: Meters,
    complete: AtomicBool,
    /// Why the index does not get on; empty if it does.
    held_up: Mutex<String>,
    written: watch::Sender<()>,
}

/// Why a step did not get through.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The log cannot be read, or holds what this program does not know.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The index cannot be read or written.
    #[error(transparent)]
    Index(#[from] SearchError),
}

impl Projector {
    /// A projector that does nothing yet.
    #[must_use]
    pub fn new(
        process: &Process,
        store: Arc<dyn Store>,
        index: Arc<dyn Index>,
        projection: Arc<dyn Projection>,
        meters: &Meters,
    ) -> Projector {
        let (process, meters, complete) = (process.clone(), meters.clone(), AtomicBool::new(false));
        let (held_up, written) = (Mutex::default(), watch::Sender::new(()));
        Projector(Arc::new(Inner { process, store, index, projection, meters, complete, held_up, written }))
    }

    fn held_up(&self) -> MutexGuard<'_, String> {
        self.0.held_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the log until the process stops.
    pub fn start(&self) {
        let (projector, tasks) = (self.clone(), self.0.process.tasks.clone());
        let name = format!("projector-{}", self.0.projection.name());
        let mut turn = Turn::new(self.0.store.clone(), name, self.0.process.ids.next());
        self.0.process.tasks.spawn(async move {
            let _ = select(pin!(projector.run(&mut turn)), pin!(tasks.stopping())).await;
            // Otherwise the others would wait until it runs out.
            let _ = timeout(AFTER_FAILURE, turn.give_back()).await;
        });
    }

    async fn run(&self, turn: &mut Turn) {
        let part = format!("{} search", self.0.projection.name());
        let mut growth = self.0.store.growth();
        let (mut begun, mut trouble) = (false, Trouble::default());
        loop {
            // Before looking: what is recorded after the look ends the wait.
            growth.borrow_and_update();
            let stepped = async {
                if self.0.index.is_shared() && !turn.is_mine().await? {
                    begun = false;
                    return self.stand_by().await.map(|()| None);
                }
                if !begun {
                    self.begin().await?;
                    begun = true;
                }
                self.step().await.map(Some)
            };
            let stepped = stepped.await;
            self.tell(&mut trouble, &stepped);
            match stepped {
                Ok(None) => sleep(EVERY).await,
                Ok(Some(0)) => {
                    self.0.complete.store(true, Ordering::Relaxed);
                    self.0.process.health.ready(&part);
                    // Either ends the wait.
                    let _ = timeout(EVERY, growth.changed()).await;
                    sleep(PAUSE).await;
                }
                Ok(Some(_)) => {}
                Err(Stopped::Log(ReadError::Corrupt(why))) => {
                    let after = self.0.index.checkpoint().await.unwrap_or_default().position;
                    if trouble.is_news(&why) {
                        let projection = self.0.projection.name();
                        tracing::error!(projection, after, why, "the projection stops until this can be read");
                    }
                    self.0.process.health.missing(&part, format!("it stopped after position {after}: {why}"));
                    sleep(AFTER_UNREADABLE).await;
                }
                Err(_) => sleep(AFTER_FAILURE).await,
            }
        }
    }

    /// Says how a step went: to searches always, in the log if it is news.
    fn tell(&self, trouble: &mut Trouble, stepped: &Result<Option<usize>, Stopped>) {
        let projection = self.0.projection.name();
        *self.held_up() = match stepped {
            Ok(_) => String::new(),
            Err(Stopped::Index(SearchError::Unavailable(why))) => why.clone(),
            Err(why) => why.to_string(),
        };
        match stepped {
            Ok(_) if trouble.is_over() => tracing::info!(projection, "the projection goes on"),
            // It is said that it stops.
            Ok(_) | Err(Stopped::Log(ReadError::Corrupt(_))) => {}
            Err(why) if trouble.is_news(&why.to_string()) => {
                tracing::warn!(projection, %why, "nothing is projected; it tries again");
            }
            Err(_) => {}
        }
    }

    /// Another replica writes: searches are answered once it has come to the end of the log.
    async fn stand_by(&self) -> Result<(), Stopped> {
        let Inner { process, store, index, projection, meters, complete, .. } = self.0.as_ref();
        meters.age.with_label_values(&[projection.name()]).set(0.0);
        if !complete.load(Ordering::Relaxed) {
            let position = index.checkpoint().await?.position;
            if !store.read_all(position, 1).await?.is_empty() {
                return Ok(());
            }
            complete.store(true, Ordering::Relaxed);
        }
        process.health.ready(&format!("{} search", projection.name()));
        Ok(())
    }

    /// Makes the index anew if it was made from another log.
    async fn begin(&self) -> Result<(), Stopped> {
        let Checkpoint { position, event } = self.0.index.checkpoint().await?;
        let Some(before) = position.checked_sub(1) else { return Ok(()) };
        let there = self.0.store.read_all(before, 1).await?;
        if there.first().is_none_or(|recorded| recorded.event.id != event) {
            let projection = self.0.projection.name();
            tracing::warn!(projection, position, "the log is another than the one of the index, which is made anew");
            self.0.index.clear().await?;
        }
        Ok(())
    }

    /// Projects one page; how many events it had.
    ///
    /// # Errors
    /// As [`Stopped`]; the checkpoint stays then.
    pub async fn step(&self) -> Result<usize, Stopped> {
        let Inner { process, store, index, projection, meters, written, .. } = self.0.as_ref();
        let name = [projection.name()];
        let checkpoint = index.checkpoint().await?;
        let page = store.read_all(checkpoint.position, PAGE).await?;
        meters.position.with_label_values(&name).set(checkpoint.position as f64);
        let age = page.first().map_or(Duration::ZERO, |oldest| process.clock.now().since(oldest.timestamp));
        meters.age.with_label_values(&name).set(age.as_secs_f64());
        let Some((position, last)) = page.last().and_then(|last| Some((last.position?, last))) else { return Ok(0) };
        let documents = documents(projection.as_ref(), store.as_ref(), &page).await?;
        index.write(documents, Checkpoint { position, event: last.event.id }).await?;
        written.send_replace(());
        Ok(page.len())
    }

    /// A page of what a query finds.
    ///
    /// # Errors
    /// As [`crate::search`]; unavailable too while the index is being made, or does not come to what the query must see.
    pub async fn search(&self, query: &Query) -> Result<Page, SearchError> {
        if !self.0.complete.load(Ordering::Relaxed) {
            let why = self.held_up().clone();
            let why = if why.is_empty() { "it is being made; try again soon".to_owned() } else { why };
            return Err(SearchError::Unavailable(why));
        }
        if !query.seen.is_empty() {
            let (id, version) = crate::seen(&query.seen)?;
            if !self.wait_for(id, version, PATIENCE).await? {
                let message = format!("version {version} of {id} is not in it yet; try again soon");
                return Err(SearchError::Unavailable(message));
            }
        }
        crate::search(self.0.index.as_ref(), query).await
    }

    /// Waits until a document is in the index in at least this version; whether it came to that.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn wait_for(&self, id: &str, version: Version, patience: Duration) -> Result<bool, SearchError> {
        let until = Instant::now() + patience;
        let mut written = self.0.written.subscribe();
        // What another replica writes wakes nobody here.
        let look = if self.0.index.is_shared() { PAUSE } else { patience };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.0.index.version(id).await? >= version {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
            let _ = timeout(left.min(look), written.changed()).await;
        }
    }
}

/// The streams that a page touches, as documents, in the order in which they come in it.
async fn documents(
    projection: &dyn Projection,
    store: &dyn Store,
    page: &[Recorded],
) -> Result<Vec<Document>, ReadError> {
    let mut seen = BTreeSet::new();
    let mut documents = vec![];
    for recorded in page {
        let stream = &recorded.stream;
        if projection.concerns(stream) && seen.insert(stream) {
            documents.extend(projection.document(store, stream).await?);
        }
    }
    Ok(documents)
}

/// What a rebuild found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// How many documents the new index has.
    pub documents: usize,
    /// How many of them the old one had not, or otherwise, and how many it had too many.
    pub differences: usize,
}

/// Makes the index in `file` anew beside the old one, compares both, and puts the new one in its place. Nobody else has the
/// file open. Killed anywhere, one whole index is there: the old or the new.
///
/// # Errors
/// If the log cannot be read, or a file cannot be written.
pub async fn rebuild(store: &dyn Store, projection: &dyn Projection, file: &Path) -> Result<Rebuilt, Stopped> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let broken = |why: std::io::Error| SearchError::Unavailable(format!("{}: {why}", file.display()));
    crate::fts::remove(beside).map_err(broken)?;
    let new = Fts::open(beside)?;
    let rebuilt = make_again(store, projection, &Fts::open(file)?, &new).await?;
    // Closing it writes its log back: one file is all there is.
    drop(new);
    std::fs::File::open(beside).and_then(|file| file.sync_all()).map_err(broken)?;
    crate::fts::remove(file).map_err(broken)?;
    // Danger: killed here, there is no index, and the next start makes it.
    std::fs::rename(beside, file).map_err(broken)?;
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(broken)?;
    }
    Ok(rebuilt)
}

/// Makes a new index from the log, and compares an old one with it.
async fn make_again(
    store: &dyn Store,
    projection: &dyn Projection,
    old: &dyn Index,
    new: &dyn Index,
) -> Result<Rebuilt, Stopped> {
    follow(store, projection, new, Position::MAX).await?;
    let end = new.checkpoint().await?.position;
    // What the old one had not read yet is no difference.
    follow(store, projection, old, end).await?;
    let all = new.all().await?;
    Ok(Rebuilt { documents: all.len(), differences: differences(&old.all().await?, &all) })
}

/// How many documents are in one of two lists only, or in another version.
fn differences(old: &[(String, Version)], new: &[(String, Version)]) -> usize {
    let (old, new): (BTreeMap<_, _>, BTreeMap<_, _>) = (old.iter().cloned().collect(), new.iter().cloned().collect());
    let kept = old.iter().filter(|(id, version)| new.get(*id) == Some(version)).count();
    old.keys().chain(new.keys()).collect::<BTreeSet<_>>().len() - kept
}

async fn follow(
    store: &dyn Store,
    projection: &dyn Projection,
    index: &dyn Index,
    end: Position,
) -> Result<(), Stopped> {
    let mut looks = 0;
    loop {
        let after = index.checkpoint().await?.position;
        let page = store.read_all(after, PAGE).await?;
        let Some((position, last)) = page.last().and_then(|last| Some((last.position?, last))) else {
            // A store may show its latest positions on the second look only.
            looks += 1;
            if looks == 2 || after >= end {
                return Ok(());
            }
            continue;
        };
        looks = 0;
        let documents = documents(projection, store, &page).await?;
        index.write(documents, Checkpoint { position, event: last.event.id }).await?;
    }
}

#[cfg(test)]
#[path = "projection_tests.rs"]
mod tests;
