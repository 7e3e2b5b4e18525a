//! Rules as pure functions: what may happen (`decide`) and what it means (`evolve`).
//!
//! # Problem
//! Rules that read a database, a clock or another service while they decide can be tested only with all of these, and
//! cannot be repeated: the second run sees another world.
//!
//! # Pattern
//! The decider (Jérémie Chassaing, "Functional Event Sourcing Decider"): a command and the present state give events or a
//! rejection; an event and the state give the next state. Nothing else goes in, nothing else comes out.
//!
//! # Here
//! Every aggregate of every service implements [`Decider`] in a file of its own, marked PURE; the simulated outside parties
//! do so too, beside their adapters. Whoever runs it loads the
//! state by folding events, and commits what it decides. [`spec`] is the test kit: given, when, then.
//!
//! # Limits
//! A rule over several aggregates needs a commit over several streams, or a saga. What `decide` may not ask for, time and
//! new ids, comes in with the command.

pub mod spec;

use std::fmt::Debug;

/// An aggregate's rules. `Default` is the state before the first event.
pub trait Decider: Default + Clone + Send + Sync + 'static {
    /// What is asked for, in the imperative.
    type Command;
    /// What happened, in the past tense.
    type Event: Clone + Debug + PartialEq + Send + Sync + 'static;
    /// Why the rules say no.
    type Rejection: Debug + PartialEq;

    /// The events that the command leads to in this state; none if it changes nothing.
    ///
    /// # Errors
    /// The rejection, if the rules do not allow it. The state is as before.
    fn decide(&self, command: &Self::Command) -> Result<Vec<Self::Event>, Self::Rejection>;

    /// The state after the event. It never refuses: the event has happened.
    #[must_use]
    fn evolve(self, event: &Self::Event) -> Self;

    /// The state after several events in order.
    #[must_use]
    fn fold<'a>(self, events: impl IntoIterator<Item = &'a Self::Event>) -> Self {
        events.into_iter().fold(self, |state, event| state.evolve(event))
    }
}
