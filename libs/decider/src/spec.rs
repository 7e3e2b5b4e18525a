//! The test kit for rules: given these events, when this is asked for, then that happens.
use crate::Decider;

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
