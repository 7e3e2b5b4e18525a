//! PURE. What the sagas in a log have to be, and what their commands do at the services.
//!
//! A saga asks for its steps in order, each when the one before was accepted. Once it turned back it undoes what it had asked
//! for, the last first, each when the one before was undone; what was refused did not happen and is not undone. From the
//! moment the pivot was asked for, time turns nothing back. Nothing follows its end. A command takes effect once, whatever
//! was sent twice: no event stands twice in one stream under its id, and of the events that settle it there is one.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use clock::Timestamp;
use saga::react::{Action, Event};
use saga::{Definition, End, Kind, Why};
use store::{Recorded, folded};

use crate::invariant::{Finding, Invariant};
use crate::logs::{Logs, finding};

/// What streams of sagas are named by, before the order's id.
const KINDS: [&str; 2] = ["checkout-", "cancellation-"];
/// Events that settle a command at a service; of these there is one for each command and stream.
const SETTLING: [&str; 11] = [
    "InventoryReserved",
    "InventoryReleased",
    "PaymentCharged",
    "PaymentDeclined",
    "PaymentRefunded",
    "PaymentVoided",
    "ShipmentCreated",
    "ShipmentRefused",
    "ShipmentCancelled",
    "ShipmentDispatched",
    "ShipmentDelivered",
];

/// Whether a causation id is that of a saga, or of one of its commands.
pub(crate) fn names_one(cause: &str) -> bool {
    KINDS.iter().any(|kind| cause.starts_with(kind))
}

/// The sagas of a log.
#[derive(Default)]
pub(crate) struct Sagas<'a> {
    sagas: BTreeMap<&'a str, Walk<'a>>,
    /// When each command was asked for first.
    asked: BTreeMap<String, &'a Recorded>,
}

/// What became of a step so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Untouched,
    Asked,
    Accepted,
    Refused,
    Undone,
}

/// A saga as its events are gone through.
struct Walk<'a> {
    begun: &'a Recorded,
    definition: Arc<Definition>,
    deadline: Timestamp,
    progress: Vec<Progress>,
    awaited: Option<(usize, bool)>,
    turned_back: bool,
    skipping: bool,
    ended: bool,
    /// Whether it did what it must not: what follows is not judged.
    lost: bool,
    /// Steps that a service said to have done.
    accepted: Vec<(usize, &'a Recorded)>,
}

impl<'a> Sagas<'a> {
    /// Goes through all sagas of the log, and says of each the first thing that it must not do.
    pub(crate) fn of(log: &'a [Recorded], findings: &mut Vec<Finding>) -> Sagas<'a> {
        let mut sagas = Sagas::default();
        for recorded in log.iter().filter(|recorded| names_one(&recorded.stream.0)) {
            let event: Event = match folded::decode(recorded) {
                Ok(event) => event,
                Err(why) => {
                    findings.push(finding(Invariant::NothingMissing, recorded, why.to_string()));
                    continue;
                }
            };
            if let Err(why) = sagas.step(&recorded.stream.0, recorded, &event) {
                findings.push(finding(Invariant::UndoneInReverse, recorded, why));
            }
        }
        sagas
    }

    fn step(&mut self, stream: &'a str, recorded: &'a Recorded, event: &Event) -> Result<(), String> {
        let Some(walk) = self.sagas.get_mut(stream) else {
            let Event::SagaStarted { definition, deadline, .. } = event else {
                return Err(format!("it begins with {}", recorded.event.kind));
            };
            self.sagas.insert(stream, Walk::new(recorded, definition.clone(), *deadline));
            return Ok(());
        };
        if let Event::StepRequested { step, undo, .. } = event
            && *step < walk.progress.len()
        {
            let command = walk.definition.command_id(stream, *step, *undo);
            self.asked.entry(command).or_insert(recorded);
        }
        if walk.lost {
            return Ok(());
        }
        let stepped = walk.step(event, recorded);
        walk.lost = stepped.is_err();
        stepped
    }

    /// The first event of a saga.
    pub(crate) fn begun(&self, saga: &str) -> Option<&'a Recorded> {
        self.sagas.get(saga).map(|walk| walk.begun)
    }

    /// The event that asks for a command first.
    pub(crate) fn asked(&self, command: &str) -> Option<&'a Recorded> {
        self.asked.get(command).copied()
    }

    /// Which sagas are open for too long, which commands took effect twice, and which were accepted without an effect.
    pub(crate) fn judge(&self, logs: &Logs, now: Timestamp, limit: Duration, findings: &mut Vec<Finding>) {
        let mut effects = BTreeMap::<&str, Vec<&Recorded>>::new();
        for noted in logs.all().filter(|noted| !names_one(&noted.recorded.stream.0)) {
            let cause = noted.recorded.meta.causation_id.as_str();
            if names_one(cause) && cause.contains('/') {
                effects.entry(cause).or_default().push(noted.recorded);
            }
        }
        for (command, effects) in &effects {
            twice(command, effects, findings);
        }
        for (saga, walk) in self.sagas.iter().filter(|(_, walk)| !walk.lost) {
            if !walk.ended && now.since(walk.deadline) >= limit {
                let why = "the saga has not ended long after its deadline".to_owned();
                findings.push(finding(Invariant::EveryOrderEnds, walk.begun, why));
            }
            for (step, recorded) in &walk.accepted {
                let command = walk.definition.command_id(saga, *step, false);
                if !effects.contains_key(command.as_str()) {
                    let why = format!("{command} was accepted, and no service recorded that it did anything");
                    findings.push(finding(Invariant::UndoneInReverse, recorded, why));
                }
            }
        }
    }
}

/// Whether the effects of one command show that it took effect twice.
fn twice(command: &str, effects: &[&Recorded], findings: &mut Vec<Finding>) {
    let (mut seen, mut settled) = (BTreeSet::new(), BTreeSet::new());
    for recorded in effects {
        let (stream, kind) = (&*recorded.stream.0, recorded.event.kind.as_str());
        let again = !seen.insert((stream, kind));
        if again || SETTLING.contains(&kind) && !settled.insert(stream) {
            let why = format!("{command} took effect more than once: {kind}");
            findings.push(finding(Invariant::UndoneInReverse, recorded, why));
        }
    }
}

impl<'a> Walk<'a> {
    fn new(begun: &'a Recorded, definition: Arc<Definition>, deadline: Timestamp) -> Walk<'a> {
        let progress = vec![Progress::Untouched; definition.steps.len()];
        let [turned_back, skipping, ended, lost] = [false; 4];
        let (awaited, accepted) = (None, vec![]);
        Walk { begun, definition, deadline, progress, awaited, turned_back, skipping, ended, lost, accepted }
    }

    /// Goes one event further.
    ///
    /// # Errors
    /// Why that must not be.
    fn step(&mut self, event: &Event, recorded: &'a Recorded) -> Result<(), String> {
        if self.ended {
            return Err(format!("{} follows its end", recorded.event.kind));
        }
        match event {
            Event::SagaStarted { .. } => return Err("it begins twice".to_owned()),
            Event::StepRequested { step, undo, action, .. } => self.request(*step, *undo, action)?,
            Event::StepAccepted { step, undo, .. } => {
                self.is_awaited(*step, *undo)?;
                self.progress[*step] = if *undo { Progress::Undone } else { Progress::Accepted };
                if !std::mem::take(&mut self.skipping) && !undo {
                    self.accepted.push((*step, recorded));
                }
            }
            Event::StepRefused { step, .. } => {
                self.is_awaited(*step, false)?;
                if self.definition.steps[*step].kind == Kind::Retriable {
                    return Err(format!("{} cannot be refused for good", self.name(*step, false)));
                }
                self.progress[*step] = Progress::Refused;
            }
            Event::StepUnanswered { step, undo, .. } => self.is_awaited(*step, *undo)?,
            Event::SagaTurnedBack { why } => self.turn_back(why)?,
            Event::OperatorActed { action, .. } => self.skipping = *action == Action::Skip,
            Event::SagaEnded { end } => self.end(*end)?,
        }
        Ok(())
    }

    fn request(&mut self, step: usize, undo: bool, action: &str) -> Result<(), String> {
        let definition = self.definition.steps.get(step).ok_or_else(|| format!("there is no step {step}"))?;
        let called = if undo { definition.compensation.as_deref() } else { Some(definition.name.as_str()) };
        if called != Some(action) {
            return Err(format!("{action} is not what step {step} is to do"));
        }
        if self.awaited == Some((step, undo)) {
            return Ok(());
        }
        let next = match (undo, self.turned_back) {
            (false, false) => self.next_step(),
            (true, true) => self.next_undo(),
            _ => None,
        };
        if next != Some(step) {
            return Err(format!("it asks for {} out of turn", self.name(step, undo)));
        }
        if !undo {
            self.progress[step] = Progress::Asked;
        }
        self.awaited = Some((step, undo));
        Ok(())
    }

    /// The first step that was not asked for, if all before it were accepted.
    fn next_step(&self) -> Option<usize> {
        self.progress
            .iter()
            .position(|progress| *progress != Progress::Accepted)
            .filter(|step| self.is(*step, Progress::Untouched))
    }

    /// The last step that may have happened and can be undone.
    fn next_undo(&self) -> Option<usize> {
        let undoable = |step: &usize| {
            (self.is(*step, Progress::Asked) || self.is(*step, Progress::Accepted))
                && self.definition.steps[*step].compensation.is_some()
        };
        (0..self.progress.len()).rev().find(undoable)
    }

    fn is(&self, step: usize, progress: Progress) -> bool {
        self.progress.get(step) == Some(&progress)
    }

    fn is_awaited(&self, step: usize, undo: bool) -> Result<(), String> {
        if self.awaited == Some((step, undo)) && !self.is(step, Progress::Undone) {
            return Ok(());
        }
        Err(format!("it takes an answer to {}, which it does not await", self.name(step, undo)))
    }

    fn turn_back(&mut self, why: &Why) -> Result<(), String> {
        let asked = |kinds: &[Kind]| {
            let mut steps = self.definition.steps.iter().zip(&self.progress);
            steps.any(|(step, progress)| kinds.contains(&step.kind) && *progress != Progress::Untouched)
        };
        let too_late = match why {
            Why::TimedOut { .. } => asked(&[Kind::Pivot, Kind::Retriable]),
            Why::Forced { .. } => asked(&[Kind::Retriable]),
            Why::Refused { .. } | Why::Cancelled { .. } => false,
        };
        if too_late || self.turned_back {
            return Err(format!("it turned back where it cannot any more: {why:?}"));
        }
        self.turned_back = true;
        Ok(())
    }

    fn end(&mut self, end: End) -> Result<(), String> {
        let done = match end {
            End::Completed => !self.turned_back && self.progress.iter().all(|step| *step == Progress::Accepted),
            End::Compensated => self.turned_back && self.next_undo().is_none(),
        };
        if !done {
            return Err(format!("it ended as {end:?}, and was not"));
        }
        self.ended = true;
        Ok(())
    }

    fn name(&self, step: usize, undo: bool) -> String {
        let name = self.definition.steps.get(step).map_or("a step that it does not have", |step| &step.name);
        format!("{}{name}", if undo { "the undo of " } else { "" })
    }
}
