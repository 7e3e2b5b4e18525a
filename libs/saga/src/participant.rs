//! A participant that needs an outside party: a bank, a carrier.
//!
//! # Problem
//! Between a service's database and a bank there is no transaction. If the bank is asked first, a crash forgets the charge;
//! if the answer is recorded first, it is a lie.
//!
//! # Pattern
//! Intent and outcome, with an idempotency key that the outside party knows: record what will be asked, ask, record what
//! was answered.
//!
//! # Here
//! [`Participant::intend`] commits the intent with a timer; whoever committed it asks at once, under the command's id as
//! key, and [`Participant::record`]s the outcome under that id; until then the answer to the saga is "in progress". If
//! they die, or hear nothing, the timer has the stream settled by whoever claims it: asked again, by the same key. The
//! stream itself is what remembers the answer.
//!
//! # Limits
//! The outside party must keep keys for as long as intents may be open.
use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use clock::Timestamp;
use decider::Decider;
use host::Process;
use host::call::Caller;
use host::error::Refusal;
use host::use_case::{origin, unavailable};
use lab::Point;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::folded::{self, Change, Done, Failed, Folded};
use store::timers::{self, Due};
use store::{Commit, Meta, Store, StreamId, TimerChange};
use tracing::Instrument;

/// An aggregate that asks an outside party for things.
pub trait Asking: Decider {
    /// What it waits for.
    fn awaits(&self) -> Awaits;
}

/// What an aggregate waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaits {
    /// Nothing: it asks when it is told to.
    Nothing,
    /// The outside party was asked, and its answer is not recorded.
    Answer,
    /// It is to ask at this moment.
    Moment(Timestamp),
}

/// What one kind of participant has in common with the others. Clones share it.
pub struct Participant<D> {
    process: Process,
    store: Arc<dyn Store>,
    kind: &'static str,
    lease: Duration,
    patience: Duration,
    aggregate: PhantomData<fn() -> D>,
}

impl<D> Clone for Participant<D> {
    fn clone(&self) -> Participant<D> {
        let Participant { process, store, kind, lease, patience, aggregate } = self;
        Participant {
            process: process.clone(),
            store: store.clone(),
            kind,
            lease: *lease,
            patience: *patience,
            aggregate: *aggregate,
        }
    }
}

/// An intent as it stands after it was committed, or found.
pub struct Intent<D> {
    /// The present state.
    pub folded: Folded<D>,
    /// Where to record the outcome; present if this call recorded the intent and now has to ask.
    pub to_settle: Option<(StreamId, Meta)>,
}

impl<D> Participant<D>
where
    D: Asking,
    D::Command: Sync,
    D::Event: Serialize + DeserializeOwned,
    D::Rejection: Into<Refusal> + Send,
{
    /// Participants whose streams are named `<kind>-<order id>`. An answer is waited for as long as `patience`; an open
    /// intent is looked at again after `lease`, which is longer than its maker may be asking.
    pub fn new(
        process: &Process,
        store: Arc<dyn Store>,
        kind: &'static str,
        patience: Duration,
        lease: Duration,
    ) -> Participant<D> {
        Participant { process: process.clone(), store, kind, lease, patience, aggregate: PhantomData }
    }

    /// The stream of an order.
    #[must_use]
    pub fn stream(&self, order_id: &str) -> StreamId {
        StreamId::from(format!("{}-{order_id}", self.kind))
    }

    /// The order of a stream.
    #[must_use]
    pub fn order_id<'a>(&self, stream: &'a StreamId) -> &'a str {
        stream.0.get(self.kind.len() + 1..).unwrap_or_default()
    }

    /// The present state of a stream.
    ///
    /// # Errors
    /// UNAVAILABLE if it cannot be read.
    pub async fn load(&self, stream: &StreamId) -> Result<Folded<D>, Refusal> {
        folded::load(self.store.as_ref(), stream).await.map_err(unavailable)
    }

    /// Where the latest event of a stream comes from.
    ///
    /// # Errors
    /// UNAVAILABLE if it cannot be read.
    pub async fn origin(&self, stream: &StreamId) -> Result<Meta, Refusal> {
        folded::origin(self.store.as_ref(), stream).await.map_err(unavailable)
    }

    /// Records what the command asks for. `guess` is what the stream is likely to be, if that is known.
    ///
    /// # Errors
    /// The rules' rejection; UNAVAILABLE if it is unknown whether it was recorded.
    pub async fn intend(
        &self,
        caller: &Caller,
        order_id: &str,
        command: &D::Command,
        guess: Option<Folded<D>>,
    ) -> Result<Intent<D>, Refusal> {
        let (id, meta) = origin(caller, order_id)?;
        let (stream, intent) = (self.stream(order_id), Commit::new(format!("{id}/intent").into(), meta.clone()));
        let decide =
            |folded: &Folded<D>| folded.state.decide(command).map(|events| self.change(&stream, folded, events));
        let (store, ids) = (self.store.as_ref(), &self.process.ids);
        match folded::change(store, ids, &stream, guess, &intent, decide).await {
            Ok(Done::Now(folded)) => Ok(Intent { folded, to_settle: Some((stream, meta)) }),
            Ok(Done::Nothing(folded)) => Ok(Intent { folded, to_settle: None }),
            // Whoever recorded it is at it; if they died, the timer is.
            Ok(Done::Before(_)) => Ok(Intent { folded: self.load(&stream).await?, to_settle: None }),
            Err(Failed::Rejected(why)) => Err(why.into()),
            Err(Failed::Store(why)) => Err(unavailable(why)),
        }
    }

    /// Records what a fact from another service leads to, in the commit that takes it in; where to go on, if that is new.
    ///
    /// # Errors
    /// The rules' rejection; UNAVAILABLE if it is unknown whether it was recorded.
    pub async fn take_in(
        &self,
        blank: &Commit,
        order_id: &str,
        command: &D::Command,
    ) -> Result<Option<(StreamId, Folded<D>)>, Refusal> {
        let stream = self.stream(order_id);
        let decide =
            |folded: &Folded<D>| folded.state.decide(command).map(|events| self.change(&stream, folded, events));
        match folded::change(self.store.as_ref(), &self.process.ids, &stream, None, blank, decide).await {
            Ok(Done::Now(folded)) => Ok(Some((stream, folded))),
            Ok(Done::Nothing(_) | Done::Before(_)) => Ok(None),
            Err(Failed::Rejected(why)) => Err(why.into()),
            Err(Failed::Store(why)) => Err(unavailable(why)),
        }
    }

    /// Commits an outcome, decided on `present`, under the id of the command that it settles, and gives the state after it.
    ///
    /// # Errors
    /// UNAVAILABLE if it is unknown whether it was recorded.
    pub async fn record(
        &self,
        stream: &StreamId,
        present: Folded<D>,
        id: &str,
        outcome: &D::Command,
        origin: &Meta,
    ) -> Result<Folded<D>, Refusal> {
        let meta = Meta { causation_id: id.to_owned(), actor: format!("{}-provider", self.kind), ..origin.clone() };
        let decide = |folded: &Folded<D>| {
            // What the rules do not take any more was settled otherwise meanwhile.
            Ok::<_, Infallible>(self.change(stream, folded, folded.state.decide(outcome).unwrap_or_default()))
        };
        let (store, ids) = (self.store.as_ref(), &self.process.ids);
        match folded::change(store, ids, stream, Some(present), &Commit::new(id.into(), meta), decide).await {
            Ok(Done::Now(folded) | Done::Nothing(folded)) => Ok(folded),
            Ok(Done::Before(_)) => self.load(stream).await,
            Err(Failed::Store(why)) => Err(unavailable(why)),
        }
    }

    /// Events with the timer that belongs to the state after them; nothing, if there are none.
    fn change(&self, stream: &StreamId, folded: &Folded<D>, events: Vec<D::Event>) -> Change<D::Event> {
        if events.is_empty() {
            return Change::only(events);
        }
        let key = stream.0.to_string();
        let timer = match folded.state.clone().fold(&events).awaits() {
            Awaits::Answer => TimerChange::Set { key, due: self.process.clock.now().after(self.lease) },
            Awaits::Moment(due) => TimerChange::Set { key, due },
            Awaits::Nothing => TimerChange::Clear { key },
        };
        Change { events, reply: vec![], timers: vec![timer] }
    }

    /// Waits for the outside party as long as anybody should.
    ///
    /// # Errors
    /// `in_progress` if it takes longer, UNAVAILABLE if it cannot be reached.
    pub async fn patiently<T, E: std::fmt::Display>(
        &self,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Refusal> {
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(answer)) => {
                lab::reached(Point::ProviderAnswered);
                Ok(answer)
            }
            Ok(Err(why)) => Err(Refusal::outage(why)),
            Err(_) => Err(in_progress()),
        }
    }

    /// Has open streams settled when their timers are due, until the process stops.
    pub fn listen<F>(&self, settle: impl Fn(StreamId, Folded<D>, Meta) -> F + Clone + Send + Sync + 'static)
    where
        F: Future<Output = Result<Folded<D>, Refusal>> + Send,
    {
        let participant = self.clone();
        let act = move |due: Due| {
            let (participant, settle) = (participant.clone(), settle.clone());
            participant.process.tasks.clone().spawn(async move {
                let stream = StreamId::from(due.key.as_str());
                let span = tracing::info_span!(parent: None, "timer", trace_id = tracing::field::Empty, %stream);
                let settled = async {
                    let (state, origin) = (participant.load(&stream).await?, participant.origin(&stream).await?);
                    tracing::Span::current().record("trace_id", telemetry::trace::trace_id(&origin.traceparent));
                    settle(stream.clone(), state, origin).await
                };
                let settled = async {
                    if let Err(why) = settled.await {
                        tracing::info!(why = why.message, "not settled yet; the timer tries again");
                    }
                };
                settled.instrument(span).await;
                drop(due);
            });
        };
        self.process.tasks.spawn_until_stop(timers::run(self.store.clone(), self.lease, act));
    }
}

/// What a saga is told while the outside party has not answered.
#[must_use]
pub fn in_progress() -> Refusal {
    Refusal::in_progress("there is no outcome yet; ask again under the same command id")
}
