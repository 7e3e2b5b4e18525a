//! PURE. What a saga does next, given what happened.
//!
//! # Problem
//! The hard cases of a saga are orders of events: a reply after the undo, a timeout whose action took effect, a cancel
//! while the last step is on its way. Code that mixes deciding with sending cannot be asked about them.
//!
//! # Pattern
//! A state machine as a pure function: state and input give events and effects.
//!
//! # Here
//! ```text
//!             all steps accepted
//!  Forward ---------------------------> Ended(Completed)
//!     |  refused; unanswered too often or too long (before the pivot is sent); cancelled; forced
//!     v
//!  Compensating ----------------------> Ended(Compensated)
//!             all that was requested is undone, in reverse
//! ```
//! One command at a time is awaited. What carries its id is an answer to it, whichever try it answers; what carries another
//! id is late or foreign and changes nothing. Undoing, and everything from the pivot on, is tried for ever.
//!
//! # Limits
//! `Refused` means that the participant is certain that nothing took effect: the refused step itself is not undone.
use std::sync::Arc;
use std::time::Duration;

use clock::Timestamp;
use decider::Decider;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::definition::{Definition, Kind};

/// How much longer than a try may take its sender keeps the exclusive right to it.
pub const GRACE: Duration = Duration::from_millis(500);
/// An unanswered undo, or step after the pivot, raises an alarm at this many tries and at every further so many.
pub const ALARM_EVERY: u32 = 5;

/// When something happens, and a number drawn for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The present moment.
    pub now: Timestamp,
    /// Picks the jitter of a wait.
    pub chance: u64,
}

/// Why a participant says no, for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Stable word.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// Further facts, such as the new price.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub facts: Value,
}

/// What became of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect, now or at an earlier try.
    Accepted(Value),
    /// It did not take effect and will not under this command id.
    Refused(Refusal),
    /// No answer, or one that says nothing: it may have taken effect.
    Unknown(String),
    /// The participant works on it. Counts as no try.
    InProgress,
    /// It was not sent: refused on this side of the wire. Counts as no try.
    NotSent(String),
}

/// What an operator may do to a saga that is stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Try the awaited command again now.
    Retry,
    /// Take the awaited command as accepted: somebody did by hand what it asks for.
    Skip,
    /// Turn back, unless a step after the pivot was requested: from there on there is nothing to turn back to.
    Force,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The owner begins a saga.
    Start {
        /// Its id: its stream's name, and what its command ids begin with.
        saga: Arc<str>,
        /// Its steps.
        definition: Arc<Definition>,
        /// What participants need to know, as the owner has it.
        data: Arc<Value>,
        /// The business transaction it belongs to.
        correlation_id: String,
        /// The trace it belongs to.
        traceparent: String,
    },
    /// A try ended.
    Reply {
        /// Of which command.
        command_id: String,
        /// Which try it was, as [`Command::tries`] said. A definite outcome holds whichever it was.
        tries: u32,
        /// How.
        outcome: Outcome,
    },
    /// Time passed.
    Tick,
    /// The customer, or whoever the owner lets, calls it off.
    Cancel {
        /// Who.
        by: String,
    },
    /// An operator acts.
    Operator {
        /// Who.
        by: String,
        /// Why.
        reason: String,
        /// How.
        action: Action,
    },
}

/// Why a saga turned back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Why {
    /// A step was refused.
    Refused {
        /// Which.
        step: String,
        /// Why.
        refusal: Refusal,
    },
    /// A step went unanswered too often, or the saga took too long.
    TimedOut {
        /// The step it was at.
        step: String,
    },
    /// It was called off.
    Cancelled {
        /// By whom.
        by: String,
    },
    /// An operator forced it.
    Forced {
        /// Who.
        by: String,
    },
}

/// How a saga ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Every step was accepted.
    Completed,
    /// Everything that was requested is undone.
    Compensated,
}

/// What a saga's stream records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the inputs and of the step")]
pub enum Event {
    /// It began.
    SagaStarted {
        saga: Arc<str>,
        definition: Arc<Definition>,
        data: Arc<Value>,
        correlation_id: String,
        traceparent: String,
        started: Timestamp,
        deadline: Timestamp,
    },
    /// A command is to be sent; from here on it counts as sent. `attempt` counts from 1.
    StepRequested { step: usize, action: String, undo: bool, attempt: u32, until: Timestamp },
    /// It took effect.
    StepAccepted { step: usize, undo: bool, reply: Value },
    /// It did not and will not.
    StepRefused { step: usize, refusal: Refusal },
    /// A try brought no answer; the next is due at `again`.
    StepUnanswered { step: usize, undo: bool, why: String, counted: bool, again: Timestamp },
    /// From here on what was requested is undone.
    SagaTurnedBack { why: Why },
    /// Somebody stepped in.
    OperatorActed { by: String, reason: String, action: Action },
    /// Nothing more will be sent.
    SagaEnded { end: End },
}

/// A command to send to a participant.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Its id, the same at every try.
    pub id: String,
    /// Whom.
    pub service: String,
    /// What.
    pub action: String,
    /// Whether it undoes a step.
    pub undo: bool,
    /// Which try this is, from 1.
    pub tries: u32,
    /// How long to wait for the answer.
    pub timeout: Duration,
}

/// Where a saga is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Forward,
    Compensating,
    Ended(End),
}

/// What became of a step so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Untouched,
    Requested,
    Accepted,
    Refused,
    Undone,
}

/// The command that an answer is awaited of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Awaited {
    step: usize,
    undo: bool,
    /// Tries that count.
    attempts: u32,
    /// Tries.
    tries: u32,
    /// When it is due to be looked at again.
    due: Timestamp,
    /// Whether a try is on its way; else the next one is waited for.
    sent: bool,
}

/// A saga, as a fold of its stream. `Default` is one that has not begun.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saga {
    begun: Option<Arc<Begun>>,
    phase: Phase,
    turned_back: Option<Why>,
    progress: Vec<Progress>,
    awaited: Awaited,
}

#[derive(Clone, Debug, PartialEq)]
struct Begun {
    saga: Arc<str>,
    definition: Arc<Definition>,
    data: Arc<Value>,
    correlation_id: String,
    traceparent: String,
    deadline: Timestamp,
}

/// What a saga decided: events to commit, and what to do once they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reaction {
    /// What to commit. Empty: nothing changes, and nothing is to be done.
    pub events: Vec<Event>,
    /// What to send after the commit.
    pub send: Option<Command>,
    /// When to look at it again, to be armed in the same commit; `None` once it ended.
    pub timer: Option<Timestamp>,
}

impl Saga {
    /// What it does next.
    ///
    /// An input that says nothing new (a late, duplicate or foreign reply, an early tick) gives no events.
    #[must_use]
    pub fn react(&self, input: &Input, at: At) -> Reaction {
        let events = self.events(input, at);
        if events.is_empty() {
            return Reaction::default();
        }
        let after = self.clone().fold(&events);
        let send =
            events.iter().any(|event| matches!(event, Event::StepRequested { .. })).then(|| after.command()).flatten();
        Reaction { send, timer: after.due(), events }
    }

    fn events(&self, input: &Input, at: At) -> Vec<Event> {
        match (input, &self.begun, self.phase) {
            (Input::Start { .. }, None, _) => self.start(input, at),
            (_, None, _) | (Input::Start { .. }, _, _) | (_, _, Phase::Ended(_)) => vec![],
            (Input::Reply { command_id, tries, outcome }, Some(begun), _) => {
                let awaited = begun.definition.command_id(&begun.saga, self.awaited.step, self.awaited.undo);
                let this_try = self.awaited.sent && *tries == self.awaited.tries;
                let definite = matches!(outcome, Outcome::Accepted(_) | Outcome::Refused(_));
                if *command_id == awaited && (definite || this_try) {
                    self.answered(begun, outcome, at)
                } else {
                    vec![]
                }
            }
            (Input::Tick, Some(begun), _) => self.tick(begun, at),
            (Input::Cancel { by }, Some(_), Phase::Forward) => {
                self.turn_back(Why::Cancelled { by: by.clone() }, vec![], at)
            }
            (Input::Cancel { .. }, ..) => vec![],
            (Input::Operator { by, reason, action }, Some(begun), _) => {
                let acted = Event::OperatorActed { by: by.clone(), reason: reason.clone(), action: *action };
                match action {
                    Action::Retry => vec![
                        acted,
                        self.request(begun, self.awaited.step, self.awaited.undo, self.awaited.attempts + 1, at),
                    ],
                    Action::Skip => self.accepted(&Value::Null, vec![acted], at),
                    Action::Force if self.phase == Phase::Forward && !self.past_the_pivot(begun) => {
                        self.turn_back(Why::Forced { by: by.clone() }, vec![acted], at)
                    }
                    Action::Force => vec![],
                }
            }
        }
    }

    fn start(&self, input: &Input, at: At) -> Vec<Event> {
        let Input::Start { saga, definition, data, correlation_id, traceparent } = input.clone() else { return vec![] };
        let (started, deadline) = (at.now, at.now.after(Duration::from_millis(definition.timeout_ms)));
        let started = Event::SagaStarted { saga, definition, data, correlation_id, traceparent, started, deadline };
        self.then_next(vec![started], at)
    }

    fn answered(&self, begun: &Begun, outcome: &Outcome, at: At) -> Vec<Event> {
        let Awaited { step, undo, .. } = self.awaited;
        match outcome {
            Outcome::Accepted(reply) => self.accepted(reply, vec![], at),
            Outcome::Refused(refusal) if !undo && begun.definition.steps[step].kind != Kind::Retriable => {
                let refused = Event::StepRefused { step, refusal: refusal.clone() };
                let why = Why::Refused { step: begun.definition.steps[step].name.clone(), refusal: refusal.clone() };
                self.turn_back(why, vec![refused], at)
            }
            // An undo, or a step after the pivot, that is refused has not been done, and must be.
            Outcome::Refused(refusal) => self.unanswered(begun, format!("refused: {}", refusal.message), true, at),
            Outcome::Unknown(why) => self.unanswered(begun, why.clone(), true, at),
            Outcome::InProgress => self.unanswered(begun, "in progress".to_owned(), false, at),
            Outcome::NotSent(why) => self.unanswered(begun, format!("not sent: {why}"), false, at),
        }
    }

    fn accepted(&self, reply: &Value, mut events: Vec<Event>, at: At) -> Vec<Event> {
        let Awaited { step, undo, .. } = self.awaited;
        events.push(Event::StepAccepted { step, undo, reply: reply.clone() });
        self.then_next(events, at)
    }

    fn unanswered(&self, begun: &Begun, why: String, counted: bool, at: At) -> Vec<Event> {
        let Awaited { step, undo, attempts, tries, .. } = self.awaited;
        let definition = &begun.definition.steps[step];
        let spent = counted && attempts >= definition.attempts;
        if self.may_turn_back() && (spent || at.now >= begun.deadline) {
            return self.turn_back(Why::TimedOut { step: definition.name.clone() }, vec![], at);
        }
        let again = at.now.after(definition.backoff().wait(tries, at.chance));
        vec![Event::StepUnanswered { step, undo, why, counted, again }]
    }

    fn tick(&self, begun: &Begun, at: At) -> Vec<Event> {
        let Awaited { step, undo, attempts, due, sent, .. } = self.awaited;
        if self.may_turn_back() && at.now >= begun.deadline {
            return self.turn_back(Why::TimedOut { step: begun.definition.steps[step].name.clone() }, vec![], at);
        }
        if at.now < due {
            return vec![];
        }
        if sent {
            self.unanswered(begun, "no answer in time".to_owned(), true, at)
        } else {
            vec![self.request(begun, step, undo, attempts + 1, at)]
        }
    }

    fn past_the_pivot(&self, begun: &Begun) -> bool {
        let mut steps = begun.definition.steps.iter().zip(&self.progress);
        steps.any(|(step, progress)| step.kind == Kind::Retriable && *progress != Progress::Untouched)
    }

    /// Before the pivot was sent, time may turn a saga back. From there on only a definite answer does.
    fn may_turn_back(&self) -> bool {
        let sent = |begun: &Arc<Begun>| {
            let mut steps = begun.definition.steps.iter().zip(&self.progress);
            steps.any(|(step, progress)| step.kind != Kind::Compensatable && *progress != Progress::Untouched)
        };
        self.phase == Phase::Forward && !self.begun.as_ref().is_some_and(sent)
    }

    fn turn_back(&self, why: Why, mut events: Vec<Event>, at: At) -> Vec<Event> {
        events.push(Event::SagaTurnedBack { why });
        self.then_next(events, at)
    }

    /// Completes `events` with the next command, or the end.
    fn then_next(&self, mut events: Vec<Event>, at: At) -> Vec<Event> {
        let after = self.clone().fold(&events);
        let Some(begun) = &after.begun else { return events };
        let steps = &begun.definition.steps;
        let event = match after.phase {
            Phase::Ended(_) => return events,
            Phase::Forward => match after.progress.iter().position(|progress| *progress == Progress::Untouched) {
                None => Event::SagaEnded { end: End::Completed },
                Some(step) if after.may_turn_back() && at.now >= begun.deadline => {
                    return after.turn_back(Why::TimedOut { step: steps[step].name.clone() }, events, at);
                }
                Some(step) => after.request(begun, step, false, 1, at),
            },
            Phase::Compensating => {
                let undoable = |step: &usize| {
                    matches!(after.progress[*step], Progress::Requested | Progress::Accepted)
                        && steps[*step].compensation.is_some()
                };
                match (0..steps.len()).rev().find(undoable) {
                    None => Event::SagaEnded { end: End::Compensated },
                    Some(step) => after.request(begun, step, true, 1, at),
                }
            }
        };
        events.push(event);
        events
    }

    fn request(&self, begun: &Begun, step: usize, undo: bool, attempt: u32, at: At) -> Event {
        let definition = &begun.definition.steps[step];
        let action = if undo { definition.compensation.clone().unwrap_or_default() } else { definition.name.clone() };
        Event::StepRequested { step, action, undo, attempt, until: at.now.after(definition.timeout() + GRACE) }
    }

    /// The awaited command, if one is on its way.
    #[must_use]
    pub fn command(&self) -> Option<Command> {
        let begun = self.begun.as_ref()?;
        if matches!(self.phase, Phase::Ended(_)) || !self.awaited.sent {
            return None;
        }
        let Awaited { step, undo, tries, .. } = self.awaited;
        let definition = &begun.definition.steps[step];
        let action = if undo { definition.compensation.clone()? } else { definition.name.clone() };
        let id = begun.definition.command_id(&begun.saga, step, undo);
        Some(Command { id, service: definition.service.clone(), action, undo, tries, timeout: definition.timeout() })
    }

    /// When it has to be looked at again; `None` once it ended.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        let begun = self.begun.as_ref()?;
        match self.phase {
            Phase::Ended(_) => None,
            _ if self.may_turn_back() => Some(self.awaited.due.min(begun.deadline)),
            _ => Some(self.awaited.due),
        }
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        if let Phase::Ended(end) = self.phase { Some(end) } else { None }
    }

    /// Why it turned back, if it did.
    #[must_use]
    pub fn turned_back(&self) -> Option<&Why> {
        self.turned_back.as_ref()
    }

    /// What its owner said of it at the start; null if it has not begun.
    #[must_use]
    pub fn data(&self) -> Arc<Value> {
        self.begun.as_ref().map(|begun| begun.data.clone()).unwrap_or_default()
    }

    /// Its id; empty if it has not begun.
    #[must_use]
    pub fn id(&self) -> &str {
        self.begun.as_ref().map_or("", |begun| &begun.saga)
    }

    /// The name of its definition; empty if it has not begun.
    #[must_use]
    pub fn name(&self) -> &str {
        self.begun.as_ref().map_or("", |begun| &begun.definition.name)
    }

    /// The business transaction and the trace that it belongs to; empty if it has not begun.
    #[must_use]
    pub fn context(&self) -> (&str, &str) {
        self.begun.as_ref().map_or(("", ""), |begun| (&begun.correlation_id, &begun.traceparent))
    }

    /// What is awaited, on its way or to be tried again: the action, and how often it was tried; `None` once it ended.
    #[must_use]
    pub fn awaiting(&self) -> Option<(&str, u32)> {
        let begun = self.begun.as_ref().filter(|_| self.end().is_none())?;
        let Awaited { step, undo, tries, .. } = self.awaited;
        let step = begun.definition.steps.get(step)?;
        let action = if undo { step.compensation.as_deref()? } else { &step.name };
        Some((action, tries))
    }

    /// Whether somebody should look: an undo, or a step after the pivot, keeps going unanswered.
    #[must_use]
    pub fn alarming(&self) -> bool {
        let tries = self.awaited.tries;
        self.end().is_none() && !self.may_turn_back() && tries >= ALARM_EVERY && tries.is_multiple_of(ALARM_EVERY)
    }
}

impl Decider for Saga {
    type Command = (Input, At);
    type Event = Event;
    type Rejection = std::convert::Infallible;

    fn decide(&self, (input, at): &(Input, At)) -> Result<Vec<Event>, Self::Rejection> {
        Ok(self.react(input, *at).events)
    }

    fn evolve(mut self, event: &Event) -> Saga {
        match event {
            Event::SagaStarted { saga, definition, data, correlation_id, traceparent, deadline, .. } => {
                self.progress = vec![Progress::Untouched; definition.steps.len()];
                self.begun = Some(Arc::new(Begun {
                    saga: saga.clone(),
                    definition: definition.clone(),
                    data: data.clone(),
                    correlation_id: correlation_id.clone(),
                    traceparent: traceparent.clone(),
                    deadline: *deadline,
                }));
            }
            Event::StepRequested { step, undo, attempt, until, .. } => {
                let again = (self.awaited.step, self.awaited.undo) == (*step, *undo);
                let tries = if again { self.awaited.tries + 1 } else { 1 };
                self.awaited = Awaited { step: *step, undo: *undo, attempts: *attempt, tries, due: *until, sent: true };
                if !undo {
                    self.progress[*step] = Progress::Requested;
                }
            }
            Event::StepAccepted { step, undo: true, .. } => self.progress[*step] = Progress::Undone,
            Event::StepAccepted { step, undo: false, .. } => self.progress[*step] = Progress::Accepted,
            Event::StepRefused { step, .. } => self.progress[*step] = Progress::Refused,
            Event::StepUnanswered { counted, again, .. } => {
                let attempts = self.awaited.attempts - u32::from(!counted);
                self.awaited = Awaited { attempts, due: *again, sent: false, ..self.awaited };
            }
            Event::SagaTurnedBack { why } => {
                self.phase = Phase::Compensating;
                self.turned_back = Some(why.clone());
            }
            Event::OperatorActed { .. } => {}
            Event::SagaEnded { end } => self.phase = Phase::Ended(*end),
        }
        self
    }
}

#[cfg(test)]
#[path = "react_tests.rs"]
mod tests;
