//! Tells others what a service has recorded.
//!
//! # Problem
//! Publishing inside the transaction is not possible, and beside it a crash loses the message, or tells of what was rolled
//! back. Peers write an "outbox row" and forget who sends it after the crash.
//!
//! # Pattern
//! Transactional outbox with a message relay. The event log is the outbox: what is committed is in it, and nothing else;
//! there is no second table to keep in step.
//!
//! # Here
//! [`Relay::step`] reads the log after its cursor, in position order, publishes what others may know, and only then moves the
//! cursor. It is woken when the log grows. The cursor is kept as a mark in the service's own store ([`Relay::keep`]), not after
//! every page: what was published since is published again after a kill, and whoever listens finds the versions familiar. A page that cannot be published is tried again from its first message, so that a partition only ever
//! receives prefixes, and the order of a key is that of its stream. An event that is nobody else's business travels as an
//! empty envelope, so that versions stay dense. Before its first page it reads back what was published last, and refuses a log
//! that lacks it ([`Relay::check`]); what somebody else wrote to the topic is passed over and reported. It stops before an event that it cannot read. Both it says once and tries again, slowly: what a
//! person has repaired needs no restart. After the bus failed, the topic is made again if it was deleted, and read back, before the next
//! page.
//!
//! Of several replicas the one publishes that has the lease `relay-<topic>` ([`Turn`]); who loses it begins at the mark when it
//! has it again. A replica that fails several times in a row releases the lease to the others, whatever the reason: its connections, or
//! an event that only a newer program reads. How old the oldest unpublished event is, each replica measures for itself (`unsent.rs`).
//!
//! # Limits
//! At least once. The lease saves work and guards nothing: a relay that hangs and goes on after it ran out publishes what another
//! has published, and the mark moves for one of them only. That does no harm: each of them sends every partition a range of the
//! log from a mark on, without holes, so that whoever drops the versions that he knows finds the rest in order, however the two
//! are mixed.
//!
//! The contents of a deleted topic are not published again by themselves: a listener that had not heard them finds a gap. Setting the
//! mark `relay-<topic>` to 0 publishes the whole log again, with the next event or after a restart.
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::select;
use host::Process;
use lab::Point;
use prost::Name;
use store::turn::{LENGTH, RENEW, Turn};
use store::{Commit, CommitError, CommitId, MarkMove, Meta, Position, ReadError, Recorded, Store};
use telemetry::trouble::Trouble;

use tokio::time::{Instant, sleep, timeout};

use crate::envelope::{Envelope, PRIVATE};
use crate::meters::Meters;
use crate::unsent::Unsent;
use crate::{Bus, BusError, Delivered, Message, Messages, Offset, Partition};

/// How often the log is looked at although nobody said that it grew.
pub const EVERY: Duration = Duration::from_secs(3);
// Danger: for `RENEW` the lease is believed. Where both together are longer than the lease, an idle holder loses it.
const _: () = assert!(EVERY.as_millis() + RENEW.as_millis() < LENGTH.as_millis());
/// How long is waited once the log grew: what is recorded meanwhile goes out with it, for one write of the bus and one move of
/// the cursor.
pub const PAUSE: Duration = Duration::from_millis(5);
/// The same behind a page of at least [`MANY`] events: a write costs the bus, and all who listen, more than what is in it.
const LONG_PAUSE: Duration = Duration::from_millis(100);
const MANY: usize = 32;
/// How long the cursor may be ahead of its mark: a kill has so much published again, and no move costs more commits than this.
pub const KEEP_EVERY: Duration = Duration::from_millis(250);
/// How long is waited after a failure.
pub const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// How long is waited where a person has to do something; the lease is longer.
const AFTER_REFUSAL: Duration = Duration::from_secs(3);
/// Into how many partitions a topic is made: as many consumers of a group can share the work.
const PARTITIONS: Partition = 6;
/// So far back in each partition it is looked for what the service itself published last.
const WALK: Offset = 1_000;
/// What is said, once while it goes on, where the lease is released because nothing can be published.
const LEFT: &str = "another replica is left to publish, if there is one";
/// At most so many events are published at once.
const PAGE: usize = 500;

/// What others may know of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Public {
    /// The stream is nobody else's business: no envelope at all.
    Nothing,
    /// The stream is published, and this event of it is not: an empty envelope.
    Version,
    /// This fact.
    Fact {
        /// The full name of its protobuf message.
        kind: String,
        /// The fact, encoded.
        payload: Vec<u8>,
    },
}

impl Public {
    /// A fact, as protobuf.
    #[must_use]
    pub fn fact<M: Name>(fact: &M) -> Public {
        Public::Fact { kind: M::full_name(), payload: fact.encode_to_vec() }
    }
}

/// Says what others may know of an event. Pure: asked twice, it says the same.
pub type Publicity = fn(&Recorded) -> Result<Public, ReadError>;

/// Why a step did not get through. The next one begins where it began.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// The log or the cursor cannot be read or moved.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The bus did not take it.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// What was published is not in the log.
    #[error("{0}; an older database was put back, and nothing more of it is published")]
    Older(String),
}

/// Publishes the log of one service to one topic.
pub struct Relay {
    process: Process,
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    source: &'static str,
    topic: String,
    publicity: Publicity,
    meters: Meters,
    /// Absent until its mark was read.
    cursor: Option<Cursor>,
    /// How far this relay has published.
    reached: Arc<AtomicU64>,
    turn: Turn,
}

/// How far the log was dealt with.
#[derive(Clone, Copy)]
struct Cursor {
    /// Up to here all that others may know is on the bus.
    reached: Position,
    /// Up to here something was published: where a mark is worth a commit.
    published: Position,
    /// What the mark says.
    marked: Position,
}

impl Relay {
    /// A relay of the service `source` to its topic `<source>-events`.
    #[must_use]
    pub fn new(
        process: &Process,
        store: Arc<dyn Store>,
        messages: &Messages,
        source: &'static str,
        publicity: Publicity,
    ) -> Relay {
        let (process, Messages { bus, meters, .. }) = (process.clone(), messages.clone());
        let topic = format!("{source}-events");
        let turn = Turn::new(store.clone(), mark(&topic), process.ids.next());
        Relay { process, store, bus, source, topic, publicity, meters, cursor: None, reached: Arc::default(), turn }
    }

    /// The topic that it publishes to.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Publishes the log as it grows, until the process stops.
    pub fn start(mut self) {
        let tasks = self.process.tasks.clone();
        tasks.spawn_until_stop(self.unsent().run());
        self.process.tasks.clone().spawn(async move {
            let _ = select(pin!(self.run()), pin!(tasks.stopping())).await;
            // Otherwise the others would wait until it runs out.
            let _ = timeout(AFTER_FAILURE, self.turn.give_back()).await;
        });
    }

    fn unsent(&self) -> Unsent {
        let (process, store, mark) = (self.process.clone(), self.store.clone(), mark(&self.topic));
        let age = self.meters.unsent_age.with_label_values(&[&self.topic]);
        let (publicity, published) = (self.publicity, self.reached.clone());
        Unsent { process, store, publicity, mark, age, published, looked: Default::default() }
    }

    async fn run(&mut self) {
        let mut growth = self.store.growth();
        let (mut checked, mut kept, mut trouble) = (false, Instant::now(), Trouble::default());
        loop {
            // Before looking: what is recorded after the look ends the wait.
            growth.borrow_and_update();
            let stepped = async {
                if !self.turn.is_mine().await? {
                    self.cursor = None;
                    return Ok(None);
                }
                if !checked {
                    self.bus.create(&self.topic, PARTITIONS).await?;
                    self.check().await?;
                    checked = true;
                }
                let events = self.step().await?;
                if kept.elapsed() >= KEEP_EVERY {
                    self.keep().await?;
                    kept = Instant::now();
                }
                Ok(Some(events))
            };
            let stepped = stepped.await;
            self.tell(&mut trouble, &stepped);
            match &stepped {
                Ok(Some(_)) => self.turn.report_success(),
                Ok(None) => {}
                Err(why) => {
                    // The topic may have been deleted: it is made again before the next page, or held against what it has to be.
                    checked &= !matches!(why, RelayError::Bus(_));
                    // Whoever has the lease next begins there.
                    let _ = self.keep().await;
                    if self.turn.report_failure().await && trouble.is_news(LEFT) {
                        tracing::warn!(topic = self.topic, "{LEFT}");
                    }
                }
            }
            match stepped {
                Ok(None) => sleep(RENEW).await,
                Ok(Some(PAGE)) => {}
                Ok(Some(events)) => {
                    // It was read to its end.
                    let wait = if self.ahead().is_some() { KEEP_EVERY } else { EVERY };
                    // Either ends the wait.
                    let _ = timeout(wait, growth.changed()).await;
                    sleep(if events < MANY { PAUSE } else { LONG_PAUSE }).await;
                }
                Err(RelayError::Older(_) | RelayError::Log(ReadError::Corrupt(_))) => sleep(AFTER_REFUSAL).await,
                Err(_) => sleep(AFTER_FAILURE).await,
            }
        }
    }

    /// Says how a step went: in the health always, in the log if it is news.
    fn tell(&self, trouble: &mut Trouble, stepped: &Result<Option<usize>, RelayError>) {
        if *stepped == Ok(None) && self.turn.stands_back() {
            // What it failed at is not mended by leaving it to others.
            return;
        }
        let (health, part) = (&self.process.health, format!("{} relay", self.source));
        let Err(why) = stepped else {
            health.ready(&part);
            if trouble.is_over() {
                tracing::info!(topic = self.topic, "the relay goes on");
            }
            return;
        };
        health.degraded(&part, why.to_string());
        if !trouble.is_news(&why.to_string()) {
            return;
        }
        if let RelayError::Older(_) | RelayError::Log(ReadError::Corrupt(_)) = why {
            tracing::error!(topic = self.topic, %why, "nothing is published until this is repaired");
        } else {
            tracing::warn!(topic = self.topic, %why, "nothing is published; the relay tries again");
        }
    }

    /// Whether the log has what was published last: versions would be given twice otherwise, and mean two things.
    ///
    /// # Errors
    /// [`RelayError::Older`], naming what it lacks.
    pub async fn check(&self) -> Result<(), RelayError> {
        for Envelope { id, stream, version, .. } in self.last_published().await? {
            let recorded = self.store.load(&stream.as_str().into(), version - 1, 1).await?;
            if recorded.first().is_none_or(|recorded| recorded.event.id != id) {
                let source = self.source;
                let why = format!("the log of {source} lacks version {version} of {stream}, which was published");
                return Err(RelayError::Older(why));
            }
        }
        Ok(())
    }

    /// What this service published last, of each partition where that is within the last [`WALK`] messages. What somebody else wrote
    /// behind it is reported.
    async fn last_published(&self) -> Result<Vec<Envelope>, BusError> {
        let mut last = self.bus.latest(&self.topic, 1).await?;
        if last.iter().any(|one| self.own(one).is_none()) {
            last = self.bus.latest(&self.topic, WALK).await?;
        }
        let (mut published, mut foreign) = (BTreeMap::new(), BTreeMap::<Partition, (Offset, usize)>::new());
        for one in last.iter().rev() {
            let Entry::Vacant(place) = published.entry(one.partition) else { continue };
            match self.own(one) {
                Some(own) => _ = place.insert(own),
                None => foreign.entry(one.partition).or_insert((one.offset, 0)).1 += 1,
            }
        }
        for (partition, (offset, count)) in foreign {
            let topic = &self.topic;
            tracing::warn!(topic, partition, offset, count, "the last messages are none that this service published");
        }
        Ok(published.into_values().collect())
    }

    /// The envelope, if this service published it.
    fn own(&self, delivered: &Delivered) -> Option<Envelope> {
        Envelope::decode(&delivered.message).ok().filter(|envelope| envelope.source == self.source)
    }

    /// Publishes one page and moves the cursor; how many events it was.
    ///
    /// # Errors
    /// As [`RelayError`]; nothing was skipped then, and what comes before an event that cannot be read is published.
    pub async fn step(&mut self) -> Result<usize, RelayError> {
        let cursor = self.cursor().await?;
        let page = self.store.read_all(cursor.reached, PAGE).await?;
        if page.is_empty() {
            return Ok(0);
        }
        let (mut end, mut messages, mut unreadable) = (cursor.reached, vec![], None);
        for event in &page {
            match self.message(event) {
                Ok(message) => messages.extend(message),
                Err(why) => {
                    unreadable = Some(why);
                    break;
                }
            }
            end = event.position.unwrap_or(end);
        }
        let (count, mut cursor) = (messages.len(), Cursor { reached: end, ..cursor });
        if count > 0 {
            self.bus.publish(&self.topic, messages).await?;
            lab::reached(Point::Published);
            cursor.published = end;
        }
        // Danger: only after the bus has kept it. What the cursor has passed is never published again by this relay.
        self.cursor = Some(cursor);
        self.reached.store(end, Ordering::Relaxed);
        self.meters.published.with_label_values(&[&self.topic]).inc_by(count as f64);
        unreadable.map_or(Ok(page.len()), |why| Err(why.into()))
    }

    /// The cursor, if it is further than its mark.
    fn ahead(&self) -> Option<Cursor> {
        self.cursor.filter(|cursor| cursor.published > cursor.marked)
    }

    async fn cursor(&mut self) -> Result<Cursor, ReadError> {
        if let Some(cursor) = self.cursor {
            return Ok(cursor);
        }
        let marked = self.store.mark(&mark(&self.topic)).await?;
        // It may be further back: somebody has it published again.
        self.reached.store(marked, Ordering::Relaxed);
        Ok(*self.cursor.insert(Cursor { reached: marked, published: marked, marked }))
    }

    /// Keeps the cursor as a mark, so that a restart begins there.
    ///
    /// # Errors
    /// If the store cannot be read or written; the mark is where it was then, or where it was to be.
    pub async fn keep(&mut self) -> Result<(), ReadError> {
        let Some(Cursor { published, marked, .. }) = self.ahead() else { return Ok(()) };
        let id = CommitId::from(self.process.ids.next().to_string());
        let marks = vec![MarkMove { name: mark(&self.topic), from: marked, to: published }];
        let commit = Commit { marks, ..Commit::new(id, Meta::default()) };
        match store::folded::persist(self.store.as_ref(), commit).await {
            Ok(()) => {}
            // Another relay was here: it published what it marked.
            Err(CommitError::AlreadyHandled(_) | CommitError::Conflict { .. }) => self.cursor = None,
            Err(other) => return Err(store::folded::unreadable(other)),
        }
        if let Some(cursor) = &mut self.cursor {
            cursor.marked = published;
        }
        Ok(())
    }

    fn message(&self, recorded: &Recorded) -> Result<Option<Message>, ReadError> {
        let (kind, payload) = match (self.publicity)(recorded)? {
            Public::Nothing => return Ok(None),
            Public::Version => (PRIVATE.to_owned(), vec![]),
            Public::Fact { kind, payload } => (kind, payload),
        };
        let Recorded { stream, version, timestamp, event, meta, .. } = recorded;
        let envelope = Envelope {
            id: event.id,
            source: self.source.to_owned(),
            kind,
            stream: stream.0.to_string(),
            version: *version,
            schema: event.schema,
            time: *timestamp,
            correlation_id: meta.correlation_id.clone(),
            causation_id: meta.causation_id.clone(),
            traceparent: meta.traceparent.clone(),
            payload,
        };
        Ok(Some(envelope.encode()))
    }
}

/// The name of a topic's mark, and of its lease.
fn mark(topic: &str) -> String {
    format!("relay-{topic}")
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
