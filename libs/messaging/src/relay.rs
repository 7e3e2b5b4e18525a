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
//! cursor, a mark in the service's own store. Killed in between, it publishes a page again: whoever listens finds the
//! versions familiar. A page that cannot be published is tried again from its first message, so that a partition only ever
//! receives prefixes, and the order of a key is that of its stream. An event that is nobody else's business travels as an
//! empty envelope, so that versions stay dense.
//!
//! # Limits
//! At least once. Two relays at a time do no harm, but publish twice: the mark moves for one of them only.
use std::sync::Arc;
use std::time::Duration;

use clock::Ids;
use store::{Commit, CommitError, CommitId, MarkMove, Meta, Position, ReadError, Recorded, Store};

use crate::envelope::{Envelope, PRIVATE};
use crate::{Bus, BusError, Message};

/// How often the log is looked at when nothing is to be published.
pub const EVERY: Duration = Duration::from_millis(50);
/// How long is waited after a failure.
pub const AFTER_FAILURE: Duration = Duration::from_millis(500);
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
        kind: &'static str,
        /// The fact, encoded.
        payload: Vec<u8>,
    },
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
}

/// Publishes the log of one service to one topic.
pub struct Relay {
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    ids: Arc<Ids>,
    source: &'static str,
    topic: String,
    publicity: Publicity,
}

impl Relay {
    /// A relay of the service `source` to the topic `<source>-events`, which must exist.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        bus: Arc<dyn Bus>,
        ids: Arc<Ids>,
        source: &'static str,
        publicity: Publicity,
    ) -> Relay {
        Relay { store, bus, ids, source, topic: format!("{source}-events"), publicity }
    }

    /// The topic that it publishes to.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Publishes the log as it grows, for ever.
    pub async fn run(&self) {
        loop {
            match self.step().await {
                Ok(0) => tokio::time::sleep(EVERY).await,
                Ok(_) => {}
                Err(why) => {
                    tracing::warn!(topic = self.topic, %why, "nothing is published; the relay tries again");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    /// Publishes one page and moves the cursor; how many events it was.
    ///
    /// # Errors
    /// As [`RelayError`]; nothing was skipped then.
    pub async fn step(&self) -> Result<usize, RelayError> {
        let mark = format!("relay-{}", self.topic);
        let cursor = self.store.mark(&mark).await?;
        let page = self.store.read_all(cursor, PAGE).await?;
        let Some(end) = page.last().and_then(|last| last.position) else { return Ok(0) };
        let messages =
            page.iter().filter_map(|event| self.message(event).transpose()).collect::<Result<Vec<_>, _>>()?;
        if !messages.is_empty() {
            self.bus.publish(&self.topic, messages).await?;
        }
        // Danger: only after the bus has kept it. Killed before this line, the page goes out again; after it, never again.
        self.advance(mark, cursor, end).await?;
        Ok(page.len())
    }

    async fn advance(&self, name: String, from: Position, to: Position) -> Result<(), ReadError> {
        let id = CommitId::from(self.ids.next().to_string());
        let marks = vec![MarkMove { name, from, to }];
        let commit = Commit { marks, ..Commit::new(id, Meta::default()) };
        match store::folded::persist(self.store.as_ref(), commit).await {
            // Another relay was here; the next step begins where it is.
            Ok(()) | Err(CommitError::AlreadyHandled(_) | CommitError::Conflict { .. }) => Ok(()),
            Err(other) => Err(store::folded::unreadable(other)),
        }
    }

    fn message(&self, recorded: &Recorded) -> Result<Option<Message>, ReadError> {
        let (kind, payload) = match (self.publicity)(recorded)? {
            Public::Nothing => return Ok(None),
            Public::Version => (PRIVATE, vec![]),
            Public::Fact { kind, payload } => (kind, payload),
        };
        let Recorded { stream, version, timestamp, event, meta, .. } = recorded;
        let envelope = Envelope {
            id: event.id,
            source: self.source.to_owned(),
            kind: kind.to_owned(),
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

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
