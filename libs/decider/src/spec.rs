//! The test kit for rules: given these events, when this is asked for, then that happens; and what comes of any commands.
use std::fmt::Debug;

use crate::Decider;

/// What came of one command of a history.
pub struct Turn<D: Decider> {
    /// What was asked for.
    pub command: D::Command,
    /// What the rules said.
    pub outcome: Result<Vec<D::Event>, D::Rejection>,
    /// The state after it.
    pub after: D,
}

/// Asks for one thing after the other. Rules remember nothing and draw nothing: whatever they say, they say twice.
///
/// # Panics
/// If they do not, or if the state is not what its events make of nothing.
#[must_use]
pub fn history<D: Decider + PartialEq + Debug>(commands: impl IntoIterator<Item = D::Command>) -> Vec<Turn<D>> {
    let (mut state, mut events, mut turns) = (D::default(), vec![], vec![]);
    for command in commands {
        let outcome = state.decide(&command);
        assert_eq!(outcome, state.decide(&command), "asked twice, the rules say two things");
        if let Ok(decided) = &outcome {
            state = state.fold(decided);
            events.extend(decided.iter().cloned());
        }
        assert_eq!(state, D::default().fold(&events), "the state is a fold of its events");
        turns.push(Turn { command, outcome, after: state.clone() });
    }
    turns
}

impl<D: Decider> Turn<D> {
    /// What happened.
    pub fn events(&self) -> &[D::Event] {
        self.outcome.as_deref().unwrap_or_default()
    }
}

/// Starts from the state after `events`.
pub fn given<D: Decider>(events: impl IntoIterator<Item = D::Event>) -> Given<D> {
    Given(events.into_iter().fold(D::default(), |state, event| state.evolve(&event)))
}

/// A state to ask something of.
pub struct Given<D: Decider>(D);

impl<D: Decider> Given<D> {
    /// Asks for `command`.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "a test reads better without a borrow")]
    pub fn when(self, command: D::Command) -> When<D> {
        let outcome = self.0.decide(&command);
        When { state: self.0, outcome }
    }
}

/// What the rules said.
pub struct When<D: Decider> {
    state: D,
    outcome: Result<Vec<D::Event>, D::Rejection>,
}

impl<D: Decider> When<D> {
    /// Expects exactly these events, and gives the state after them.
    ///
    /// # Panics
    /// If the rules decided otherwise.
    #[track_caller]
    pub fn then(self, events: impl IntoIterator<Item = D::Event>) -> D {
        let expected: Vec<_> = events.into_iter().collect();
        assert_eq!(self.outcome.as_ref(), Ok(&expected));
        self.state.fold(&expected)
    }

    /// Expects that nothing happens and nothing is refused.
    ///
    /// # Panics
    /// If the rules decided otherwise.
    #[track_caller]
    pub fn then_nothing(self) {
        self.then([]);
    }

    /// Expects this rejection.
    ///
    /// # Panics
    /// If the rules decided otherwise.
    #[track_caller]
    pub fn then_rejected(self, rejection: &D::Rejection) {
        assert_eq!(self.outcome.as_ref(), Err(rejection));
    }
}
