//! Carries sagas out: commits what [`crate::react`] decided, sends the command, takes the answer back to it.
//!
//! # Problem
//! Between the commit of a step and the answer to its command the process may die, and nobody may notice; or two may carry
//! on at once.
//!
//! # Pattern
//! Lease: who commits a step has the exclusive right to carry it out for a while; after that, anybody may.
//!
//! # Here
//! Whoever commits a step carries out its effect at once; there is no leader, and no step waits for a poll while all goes
//! well. The timer armed in the same commit is the lease: if the one who committed dies before it has an answer, whoever
//! claims the timer goes on, under the same command id. A restart needs nothing else.
//!
//! A saga that cannot be read, or whose owner cannot read what ends with it, waits for its repair: that is said once for each, and by
//! the process's health until it goes on, here or in another replica. No other saga waits for it.
//!
//! # Limits
//! Leases are judged by the machine's clock: if it is set back by an hour, what was interrupted waits for an hour. Two who
//! carry on at once do no harm (one id, exact versions), but twice the work.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use host::Process;
use lab::Point;
use prometheus::{Counter, CounterVec};
use store::folded::{self, Folded, persist, unreadable};
use store::timers::{self, Due};
use store::{Append, Commit, CommitError, CommitId, Meta, ReadError, Store, StreamId, TimerChange};
use telemetry::trace::trace_id;
use telemetry::trouble::Trouble;
use tracing::Instrument;

use crate::react::{At, Command, End, Event, GRACE, Input, Outcome, Reaction, Saga};

/// A claimed timer of a saga is due again after this, unless the saga moved it: whoever claimed it has to commit, which
/// arms it anew.
const CLAIM: Duration = GRACE;
/// How often the open sagas are counted while anything happens, and while nothing seems to: other replicas may be busy.
const COUNT_EVERY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often it is looked whether what could not be read is repaired: another replica may carry it on.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Under which name it says that sagas cannot be read.
const PART: &str = "sagas";
const TRIES: u32 = 16;

/// Whom commands go to.
#[async_trait]
pub trait Participants: Send + Sync + 'static {
    /// Sends a command and tells what became of it. Dropped when the command's time is over.
    async fn send(&self, saga: &Saga, command: &Command) -> Outcome;
}

/// Whose sagas they are.
#[async_trait]
pub trait Owner: Send + Sync + 'static {
    /// What else changes in the commit that ends the saga, such as the status of its order.
    async fn ending(&self, saga: &Saga, end: End) -> Result<Vec<Append>, ReadError>;

    /// The saga has ended, and that is durable.
    fn ended(&self, saga: &Saga, end: End);
}

/// A step that was decided and waits to be committed, alone or with what its owner changes beside it. Once committed, it
/// must be carried on; if it is not, its timer does it later.
#[derive(Debug)]
pub struct Pending {
    stream: StreamId,
    after: Folded<Saga>,
    events: Vec<Event>,
    send: Option<Command>,
    /// What it appends.
    pub appends: Vec<Append>,
    /// The timer it arms or clears.
    pub timer: TimerChange,
}

/// Runs the sagas of one owner. Clones share it.
#[derive(Clone)]
pub struct Runner(Arc<Inner>);

struct Inner {
    process: Process,
    store: Arc<dyn Store>,
    participants: Arc<dyn Participants>,
    owner: Arc<dyn Owner>,
    open: AtomicU64,
    trouble: Mutex<Trouble>,
    corrupt: Mutex<BTreeMap<StreamId, Corrupt>>,
    events: CounterVec,
    late: Counter,
    alarms: Counter,
}

/// A saga that waits for a repair.
struct Corrupt {
    why: String,
    /// Whether it can be read itself, and what it needs to go on cannot: then it may be tried again, and has gone on when it has ended.
    itself_read: bool,
}

impl Runner {
    /// A runner over the owner's store. Call [`Runner::listen`] to have timers heard.
    pub fn new(
        process: &Process,
        store: Arc<dyn Store>,
        participants: Arc<dyn Participants>,
        owner: Arc<dyn Owner>,
    ) -> Runner {
        let metrics = &process.metrics;
        Runner(Arc::new(Inner {
            process: process.clone(),
            store,
            participants,
            owner,
            open: AtomicU64::new(0),
            trouble: Mutex::default(),
            corrupt: Mutex::default(),
            events: metrics.counters(
                "saga_events_total",
                "Events of sagas by definition and kind.",
                &["saga", "event"],
            ),
            late: metrics
                .counter("saga_late_replies_total", "Late, duplicate or foreign replies; they change nothing."),
            alarms: metrics.counter("saga_alarms_total", "Undos and steps after the pivot that keep going unanswered."),
        }))
    }

    /// Listens to timers until the process stops.
    pub fn listen(&self) {
        let runner = self.clone();
        let heard = timers::run(self.0.store.clone(), CLAIM, move |due| runner.wake(due));
        self.0.process.tasks.spawn_until_stop(heard);
        let runner = self.clone();
        self.0.process.tasks.spawn_until_stop(async move {
            loop {
                tokio::time::sleep(LOOK_AGAIN).await;
                runner.look_again().await;
            }
        });
        let runner = self.clone();
        self.0.process.tasks.spawn_until_stop(async move {
            let mut growth = runner.0.store.growth();
            loop {
                // Every open saga has a timer. Where they cannot be counted, the last count stands.
                if let Ok(open) = runner.0.store.armed().await {
                    runner.0.open.store(open, Ordering::Relaxed);
                }
                tokio::time::sleep(COUNT_EVERY.0).await;
                // Either ends the wait.
                let _ = tokio::time::timeout(COUNT_EVERY.1, growth.changed()).await;
            }
        });
    }

    /// How many sagas of this store are open, in whatever process, as of some moments ago.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.0.open.load(Ordering::Relaxed)
    }

    /// The present state of a saga.
    ///
    /// # Errors
    /// As [`folded::load`].
    pub async fn load(&self, stream: &StreamId) -> Result<Folded<Saga>, ReadError> {
        folded::load(self.0.store.as_ref(), stream).await
    }

    /// Has an operator act on a saga, once per command id; whether its rules take that where it stands.
    ///
    /// # Errors
    /// If the store cannot be read, or it is unknown whether it happened.
    pub async fn act(&self, stream: &StreamId, input: &Input, id: CommitId, meta: Meta) -> Result<bool, ReadError> {
        if self.0.store.reply(&id).await?.is_some() {
            return Ok(true);
        }
        let saga = self.load(stream).await?;
        let pending = self.try_input(stream, saga, input, || (id.clone(), meta.clone())).await?;
        Ok(pending.map(|pending| self.carry_on(pending)).is_some())
    }

    /// Decides what the saga does on `input`, to be committed by the caller together with what it changes itself; `None`
    /// if the input changes nothing.
    ///
    /// # Errors
    /// If its owner cannot say what else changes.
    pub async fn decide(
        &self,
        stream: &StreamId,
        saga: &Folded<Saga>,
        input: &Input,
    ) -> Result<Option<Pending>, ReadError> {
        let Inner { process, owner, .. } = self.0.as_ref();
        // A fresh id is chance enough for jitter, and its source is seeded where everything is.
        let chance = u64::try_from(process.ids.next().as_u128() & u128::from(u64::MAX)).expect("64 bits");
        let Reaction { events, send, timer } =
            saga.state.react(input, At { now: process.clock.now(), chance: chance << 2 });
        if events.is_empty() {
            return Ok(None);
        }
        let mut appends = vec![folded::append(stream, saga.version, &events, &process.ids)];
        let after = saga.clone().then(&events);
        if let Some(end) = after.state.end() {
            appends.extend(owner.ending(&after.state, end).await?);
        }
        let key = stream.0.to_string();
        let timer = timer.map_or(TimerChange::Clear { key: key.clone() }, |due| TimerChange::Set { key, due });
        Ok(Some(Pending { stream: stream.clone(), after, events, send, appends, timer }))
    }

    /// Carries on what was committed, in the background.
    pub fn carry_on(&self, pending: Pending) {
        let runner = self.clone();
        let span = span(&pending.after.state, &pending.stream);
        self.0.process.tasks.spawn(async move { runner.carry(pending).await }.instrument(span));
    }

    async fn carry(&self, mut pending: Pending) {
        loop {
            let Pending { stream, after, events, send, .. } = pending;
            self.count(&after.state, &events);
            if let Some(end) = after.state.end() {
                tracing::info!(end = ?end, "saga ended");
                return self.0.owner.ended(&after.state, end);
            }
            let Some(command) = send else { return };
            lab::reached(Point::StepCommitted);
            let outcome =
                match tokio::time::timeout(command.timeout, self.0.participants.send(&after.state, &command)).await {
                    Ok(outcome) => outcome,
                    Err(_) => Outcome::Unknown("no answer in time".to_owned()),
                };
            lab::reached(Point::StepAnswered);
            log(&command, &outcome);
            let reply = Input::Reply { command_id: command.id, tries: command.tries, outcome };
            match self.apply(&stream, after, &reply).await {
                Ok(Some(next)) => pending = next,
                Ok(None) => return self.0.late.inc(),
                // Danger: the reply is lost here. The timer finds the saga, and the participant knows the command id.
                Err(_) => return,
            }
        }
    }

    /// Decides and commits, anew whenever somebody else moved the saga; `None` if the input says nothing new by then.
    async fn apply(&self, stream: &StreamId, saga: Folded<Saga>, input: &Input) -> Result<Option<Pending>, ReadError> {
        let (correlation_id, traceparent) = saga.state.context();
        let meta = Meta {
            correlation_id: correlation_id.to_owned(),
            causation_id: stream.0.to_string(),
            actor: format!("saga:{stream}"),
            traceparent: traceparent.to_owned(),
        };
        let fresh = || (CommitId::from(self.0.process.ids.next().to_string()), meta.clone());
        let moved = self.try_input(stream, saga, input, fresh).await;
        let ended = moved.as_ref().map(|moved| moved.as_ref().is_some_and(|moved| moved.after.state.end().is_some()));
        self.tell(stream, true, ended);

        moved
    }

    /// Says once that sagas cannot be moved, however many there are, and once that it is over; of each that is corrupt, once.
    fn tell(&self, stream: &StreamId, itself_read: bool, ended: Result<bool, &ReadError>) {
        match ended {
            Ok(ended) => {
                if self.trouble().is_over() {
                    tracing::info!("sagas go on");
                }
                self.tell_repaired(stream, ended);
            }
            Err(ReadError::Unavailable(why)) => {
                if self.trouble().is_news(why) {
                    tracing::warn!(why, "sagas cannot go on; their timers try again");
                }
            }
            Err(ReadError::Corrupt(why)) => {
                self.tell_corrupt(stream, Corrupt { why: why.clone(), itself_read });
            }
        }
    }

    fn tell_corrupt(&self, stream: &StreamId, corrupt: Corrupt) {
        let (mut all, why) = (self.corrupt(), corrupt.why.clone());
        let before = all.insert(stream.clone(), corrupt);
        if before.is_none_or(|before| before.why != why) {
            tracing::error!(%stream, why, "a saga cannot be read; it waits until that is repaired");
            self.report_corrupt(&all);
        }
    }

    /// A saga was read; whether it has ended, too.
    fn tell_repaired(&self, stream: &StreamId, ended: bool) {
        let mut all = self.corrupt();
        if all.get(stream).is_some_and(|corrupt| ended || !corrupt.itself_read) {
            all.remove(stream);
            tracing::info!(%stream, "a saga that could not be read goes on");
            self.report_corrupt(&all);
        }
    }

    fn report_corrupt(&self, all: &BTreeMap<StreamId, Corrupt>) {
        let health = &self.0.process.health;
        let Some((stream, Corrupt { why, .. })) = all.first_key_value() else { return health.ready(PART) };
        let others = if all.len() == 1 { String::new() } else { format!(", and {} more", all.len() - 1) };
        health.degraded(PART, format!("{stream} cannot be read and waits{others}: {why}"));
    }

    /// Looks whether sagas can be read that could not, or have ended.
    async fn look_again(&self) {
        let all: Vec<_> = self.corrupt().keys().cloned().collect();
        for stream in all {
            if let Ok(saga) = self.load(&stream).await {
                self.tell_repaired(&stream, saga.state.end().is_some());
            }
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn corrupt(&self) -> MutexGuard<'_, BTreeMap<StreamId, Corrupt>> {
        self.0.corrupt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn try_input(
        &self,
        stream: &StreamId,
        mut saga: Folded<Saga>,
        input: &Input,
        origin: impl Fn() -> (CommitId, Meta) + Send + Sync,
    ) -> Result<Option<Pending>, ReadError> {
        for _ in 0..TRIES {
            let Some(pending) = self.decide(stream, &saga, input).await? else { return Ok(None) };
            let (id, meta) = origin();
            let (appends, timers) = (pending.appends.clone(), vec![pending.timer.clone()]);
            match persist(self.0.store.as_ref(), Commit { appends, timers, ..Commit::new(id, meta) }).await {
                // Handled before is this very commit, whose first answer was lost, or the same act of an operator: carried on
                // twice, it is the same command.
                Ok(()) | Err(CommitError::AlreadyHandled(_)) => return Ok(Some(pending)),
                Err(CommitError::Conflict { .. }) => saga = self.load(stream).await?,
                Err(other) => return Err(unreadable(other)),
            }
        }
        Err(ReadError::Unavailable(format!("{stream} moved {TRIES} times while it was being moved")))
    }

    fn wake(&self, due: Due) {
        let runner = self.clone();
        self.0.process.tasks.spawn(async move {
            let stream = StreamId::from(due.key.as_str());
            let woken = async {
                let saga = runner.load(&stream).await.inspect_err(|why| runner.tell(&stream, false, Err(why)))?;
                let span = span(&saga.state, &stream);
                runner.apply(&stream, saga, &Input::Tick).instrument(span.clone()).await.map(|pending| (pending, span))
            };
            if let Ok((Some(pending), span)) = woken.await {
                runner.carry(pending).instrument(span).await;
            }
            drop(due);
        });
    }

    fn count(&self, saga: &Saga, events: &[Event]) {
        for event in events {
            let word = match event {
                Event::SagaStarted { .. } => "started",
                Event::StepRequested { .. } => "step_requested",
                Event::StepAccepted { .. } => "step_accepted",
                Event::StepRefused { .. } => "step_refused",
                Event::StepUnanswered { .. } => "step_unanswered",
                Event::SagaTurnedBack { .. } => "turned_back",
                Event::OperatorActed { .. } => "operator_acted",
                Event::SagaEnded { end: End::Completed } => "completed",
                Event::SagaEnded { end: End::Compensated } => "compensated",
            };
            self.0.events.with_label_values(&[saga.name(), word]).inc();
        }
        if saga.alarming() {
            self.0.alarms.inc();
            tracing::error!("a saga is stuck: the awaited command keeps going unanswered");
        }
    }
}

fn span(saga: &Saga, stream: &StreamId) -> tracing::Span {
    let (_, traceparent) = saga.context();
    let trace_id = trace_id(traceparent);
    tracing::info_span!(parent: None, "saga", trace_id, id = %stream)
}

fn log(command: &Command, outcome: &Outcome) {
    let Command { action, tries, .. } = command;
    match outcome {
        Outcome::Accepted(_) => tracing::info!(action, "step accepted"),
        Outcome::Refused(refusal) => tracing::info!(action, reason = refusal.reason, "step refused"),
        Outcome::Unknown(why) => warn(command, why, "step unanswered"),
        Outcome::InProgress => tracing::info!(action, tries, "step in progress"),
        Outcome::NotSent(why) => warn(command, why, "step not sent"),
    }
}

fn warn(Command { action, tries, .. }: &Command, why: &str, what: &'static str) {
    tracing::warn!(action, tries, why, "{what}");
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
