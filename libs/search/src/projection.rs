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
//! Where all replicas have one index together, the one writes that has the lease `projector-<name>` ([`Turn`]). Where there is none,
//! or one of an earlier form, it makes one beside ([`crate::rebuild`]), which all of them search once it is complete. A replica that
//! fails several times in a row releases the lease to the others. How far the index is behind, each replica measures for itself.
//!
//! # Limits
//! Woken by the log, it waits [`PAUSE`] before it looks, or [`SHARED_PAUSE`], so that a stream that changes quickly is written
//! once: what is found is that much behind. A search that must see a write waits for it ([`Projector::wait_for`]).
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{select, try_join_all};
use host::Process;
use prometheus::GaugeVec;
use store::turn::{LENGTH, RENEW, Turn};
use store::{Position, ReadError, Recorded, Store, StreamId, Version};
use telemetry::trouble::Trouble;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::rebuild::{Rebuilt, renew};
use crate::{Change, Checkpoint, Document, Index, Page, Query, SearchError, Shared, Standing};

/// How long is waited once the log grew.
pub const PAUSE: Duration = Duration::from_millis(100);
/// The same where the index is on a server, to which each write is several calls.
const SHARED_PAUSE: Duration = Duration::from_secs(1);
/// How often a replica that stands by looks whether it still should.
const STAND_BY: Duration = Duration::from_millis(500);
/// How often the log is looked at although nobody said that it grew.
pub const EVERY: Duration = Duration::from_secs(3);
// Danger: for `RENEW` the lease is believed. Where both together are longer than the lease, an idle holder loses it.
const _: () = assert!(EVERY.as_millis() + RENEW.as_millis() < LENGTH.as_millis());
/// How long nothing is measured where the index is complete and the log does not grow.
const AT_REST: Duration = Duration::from_secs(60);
/// How long is waited after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How long is waited until an event that cannot be read is read again; the lease is longer.
const AFTER_UNREADABLE: Duration = Duration::from_secs(3);
/// How long a search waits for what it must see.
const PATIENCE: Duration = Duration::from_secs(2);
/// Why searches are refused while the index is one of another log.
const ANOTHER_LOG: &str = "it was made from another log than the one that is there; it is made anew";
/// Of so many streams the documents are made side by side.
const AT_ONCE: usize = 64;
/// What is said, once while it goes on, where the lease is released because nothing can be projected.
const LEFT: &str = "another replica is left to write the index, if there is one";
/// So many events are read at once.
pub(crate) const PAGE: usize = 500;

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
        let age = "Age of the oldest event that is not in a read model as this process last saw it; 0 if there is none, NaN if it never saw it.";
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
    /// Where the log ended when this replica first saw its end and another wrote; 0 before.
    end: AtomicU64,
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
        let (end, held_up, written) = (AtomicU64::new(0), Mutex::default(), watch::Sender::new(()));
        Projector(Arc::new(Inner { process, store, index, projection, meters, complete, end, held_up, written }))
    }

    fn held_up(&self) -> MutexGuard<'_, String> {
        self.0.held_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the log until the process stops.
    pub fn start(&self) {
        let (projector, tasks) = (self.clone(), self.0.process.tasks.clone());
        let name = format!("projector-{}", self.0.projection.name());
        let mut turn = Turn::new(self.0.store.clone(), name, self.0.process.ids.next());
        let measuring = self.clone();
        self.0.process.tasks.spawn_until_stop(async move { measuring.measure().await });
        self.0.process.tasks.spawn(async move {
            let _ = select(pin!(projector.run(&mut turn)), pin!(tasks.stopping())).await;
            // Otherwise the others would wait until it runs out.
            let _ = timeout(AFTER_FAILURE, turn.give_back()).await;
        });
    }

    async fn run(&self, turn: &mut Turn) {
        let part = format!("{} search", self.0.projection.name());
        let mut growth = self.0.store.growth();
        let mut trouble = Trouble::default();
        let pause = if self.0.index.shared().is_some() { SHARED_PAUSE } else { PAUSE };
        loop {
            if turn.stands_back() {
                // What it failed at is not mended by leaving it to others.
                sleep(STAND_BY).await;
                continue;
            }
            // Before looking: what is recorded after the look ends the wait.
            growth.borrow_and_update();
            let stepped = self.look(turn).await;
            self.tell(&mut trouble, &stepped);
            self.report_to(turn, &stepped, &mut trouble).await;
            match stepped {
                Ok(None) => sleep(STAND_BY).await,
                Ok(Some(PAGE)) => {}
                Ok(Some(_)) => {
                    // It was read to its end.
                    self.now_complete();
                    // Either ends the wait.
                    let _ = timeout(EVERY, growth.changed()).await;
                    sleep(pause).await;
                }
                Err(Stopped::Log(ReadError::Corrupt(why))) => {
                    let after = self.0.index.checkpoint().await.unwrap_or_default().position;
                    if trouble.is_news(&why) {
                        let projection = self.0.projection.name();
                        tracing::error!(projection, after, why, "the projection stops until this can be read");
                    }
                    self.0.process.health.degraded(&part, format!("it stopped after position {after}: {why}"));
                    sleep(AFTER_UNREADABLE).await;
                }
                Err(_) => sleep(AFTER_FAILURE).await,
            }
        }
    }

    /// Says how a step went to the lease, which is another's where this replica keeps failing.
    async fn report_to(&self, turn: &mut Turn, stepped: &Result<Option<usize>, Stopped>, trouble: &mut Trouble) {
        match stepped {
            Ok(Some(_)) => turn.report_success(),
            Err(_) if turn.report_failure().await && trouble.is_news(LEFT) => {
                tracing::warn!(projection = self.0.projection.name(), "{LEFT}");
            }
            Ok(None) | Err(_) => {}
        }
    }

    /// Measures how old the oldest event is that is not in the index, whoever writes that. What this replica does, or last did, is no
    /// measure of it.
    async fn measure(&self) {
        let age = self.0.meters.age.with_label_values(&[self.0.projection.name()]);
        let (mut growth, mut reached) = (self.0.store.growth(), None);
        loop {
            growth.borrow_and_update();
            let oldest = self.oldest(&mut reached).await;
            age.set(oldest.as_ref().map_or(f64::NAN, Duration::as_secs_f64));
            if oldest.is_ok_and(|age| age.is_zero()) {
                // Either ends the wait.
                let _ = timeout(AT_REST, growth.changed()).await;
            }
            sleep(EVERY).await;
        }
    }

    /// While the index is away, it stays where it was `reached`.
    async fn oldest(&self, reached: &mut Option<Position>) -> Result<Duration, Stopped> {
        let Inner { process, store, index, .. } = self.0.as_ref();
        let after = match (index.checkpoint().await, *reached) {
            (Ok(checkpoint), _) => checkpoint.position,
            (Err(_), Some(before)) => before,
            (Err(why), None) => return Err(why.into()),
        };
        *reached = Some(after);
        let page = store.read_all(after, 1).await?;
        Ok(page.first().map_or(Duration::ZERO, |oldest| process.clock.now().since(oldest.timestamp)))
    }

    /// Says how a step went: to searches always, in the log if it is news.
    fn tell(&self, trouble: &mut Trouble, stepped: &Result<Option<usize>, Stopped>) {
        let projection = self.0.projection.name();
        *self.held_up() = match stepped {
            Ok(_) => String::new(),
            Err(Stopped::Index(SearchError::Unavailable(why) | SearchError::Failed(why))) => why.clone(),
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

    /// Does what there is to do: how many events were projected, or `None` where another replica does that.
    async fn look(&self, turn: &mut Turn) -> Result<Option<usize>, Stopped> {
        let Some(shared) = self.0.index.shared() else { return self.step().await.map(Some) };
        if !turn.is_mine().await? {
            return self.stand_by(shared.standing().await?).await.map(|()| None);
        }
        let standing = shared.standing().await?;
        if standing == Standing::Earlier {
            let checkpoint = self.0.index.checkpoint().await?;
            if page_after(self.0.store.as_ref(), checkpoint, 1).await?.is_none() {
                return self.forget(checkpoint).await.map(|()| None);
            }
            // It was complete when it was put there, and answers until its successor is. It is as much behind by then, for nobody
            // writes it.
            self.now_complete();
        }
        if standing != Standing::Current {
            self.make_anew(shared).await?;
        }
        self.step().await.map(Some)
    }

    fn now_complete(&self) {
        self.0.complete.store(true, Ordering::Relaxed);
        self.0.process.health.ready(&format!("{} search", self.0.projection.name()));
    }

    /// Another replica writes: searches are answered once it has come to the end of the log as it was.
    async fn stand_by(&self, standing: Standing) -> Result<(), Stopped> {
        let Inner { store, index, complete, end, .. } = self.0.as_ref();
        if !complete.load(Ordering::Relaxed) {
            let checkpoint = index.checkpoint().await?;
            let page = page_after(store.as_ref(), checkpoint, PAGE).await?;
            let page = page.ok_or_else(|| SearchError::Unavailable(ANOTHER_LOG.to_owned()))?;
            let last = page.last().and_then(|last| last.position);
            if end.load(Ordering::Relaxed) == 0 && page.len() < PAGE {
                end.store(last.unwrap_or(checkpoint.position), Ordering::Relaxed);
            }
            let reached = last.is_none() || (1..=checkpoint.position).contains(&end.load(Ordering::Relaxed));
            if !reached && standing != Standing::Earlier {
                return Ok(());
            }
        }
        self.now_complete();
        Ok(())
    }

    async fn make_anew(&self, shared: &dyn Shared) -> Result<(), Stopped> {
        let Inner { process, store, projection, .. } = self.0.as_ref();
        let name = projection.name();
        tracing::info!(projection = name, "the search index is made");
        let Rebuilt { documents, .. } = renew(store, projection.as_ref(), shared, process.ids.next()).await?;
        tracing::info!(projection = name, documents, "the search index is complete");
        Ok(())
    }

    /// The index was made from another log, and shows what this one does not hold.
    async fn forget(&self, Checkpoint { position, .. }: Checkpoint) -> Result<(), Stopped> {
        let projection = self.0.projection.name();
        tracing::warn!(projection, position, "the log is another than the one of the index, which is made anew");
        self.0.complete.store(false, Ordering::Relaxed);
        self.0.index.clear().await?;
        Err(SearchError::Unavailable(ANOTHER_LOG.to_owned()).into())
    }

    /// Projects one page; how many events it had.
    ///
    /// # Errors
    /// As [`Stopped`]; the checkpoint stays then.
    pub async fn step(&self) -> Result<usize, Stopped> {
        let Inner { store, index, projection, meters, written, .. } = self.0.as_ref();
        let checkpoint = index.checkpoint().await?;
        let Some(page) = page_after(store.as_ref(), checkpoint, PAGE).await? else {
            return self.forget(checkpoint).await.map(|()| 0);
        };
        meters.position.with_label_values(&[projection.name()]).set(checkpoint.position as f64);
        let events =
            write_page(store.as_ref(), projection.as_ref(), index.as_ref(), checkpoint.position, &page).await?;
        if events > 0 {
            written.send_replace(());
        }
        Ok(events)
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
                return Err(SearchError::unseen(id, version));
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
        let look = if self.0.index.shared().is_some() { PAUSE } else { patience };
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

/// Up to `limit` events of the log after a checkpoint; `None` if it is the checkpoint of another log.
pub(crate) async fn page_after(
    store: &dyn Store,
    Checkpoint { position, event }: Checkpoint,
    limit: usize,
) -> Result<Option<Vec<Recorded>>, ReadError> {
    let Some(before) = position.checked_sub(1) else { return store.read_all(0, limit).await.map(Some) };
    let mut page = store.read_all(before, limit + 1).await?;
    let same = page.first().is_some_and(|last| last.event.id == event);
    Ok(same.then(|| page.split_off(1)))
}

/// Writes what a page of the log, which begins after a position, makes of an index; how many events it has.
pub(crate) async fn write_page(
    store: &dyn Store,
    projection: &dyn Projection,
    index: &dyn Index,
    after: Position,
    page: &[Recorded],
) -> Result<usize, Stopped> {
    let Some((position, last)) = page.last().and_then(|last| Some((last.position?, last))) else { return Ok(0) };
    let documents = documents(projection, store, page).await?;
    let checkpoint = Checkpoint { position, event: last.event.id };
    index.write(Change { after, documents, checkpoint }).await?;
    Ok(page.len())
}

/// The streams that a page touches, as documents, each with where it comes in the page first, in that order.
async fn documents(
    projection: &dyn Projection,
    store: &dyn Store,
    page: &[Recorded],
) -> Result<Vec<(Position, Document)>, ReadError> {
    let mut seen = BTreeSet::new();
    let touched = page.iter().filter(|recorded| projection.concerns(&recorded.stream) && seen.insert(&recorded.stream));
    let touched: Vec<&Recorded> = touched.collect();
    let mut documents = vec![];
    for some in touched.chunks(AT_ONCE) {
        let made = try_join_all(some.iter().map(|recorded| projection.document(store, &recorded.stream))).await?;
        documents.extend(some.iter().zip(made).filter_map(|(recorded, document)| recorded.position.zip(document)));
    }
    Ok(documents)
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod shared_tests;
#[cfg(test)]
#[path = "projection_tests.rs"]
pub(crate) mod tests;
