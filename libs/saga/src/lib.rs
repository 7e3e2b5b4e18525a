//! Transactions over several services, without a transaction over several services.
//!
//! # Problem
//! An order reserves goods in one service, takes money in another, books a parcel in a third. Each can refuse, each can
//! take effect and lose its answer, and the process in between can die at any line.
//!
//! # Pattern
//! The saga (Garcia-Molina and Salem, 1987), orchestrated: a list of steps, each with the action that undoes it. If a step
//! before the pivot fails, the steps tried so far are undone in reverse; from the pivot on there is only forward.
//!
//! # Here
//! | file | holds |
//! |---|---|
//! | [`definition`] | the steps, read from YAML and checked when loaded |
//! | [`react`] | PURE: what a saga does next, given what happened |
//! | [`runner`] | commits what was decided, sends commands, listens to timers |
//! | [`participant`] | the other side, where an outside party is involved: intent, call, outcome |
//!
//! The saga is a stream of its owner's store. The undo is registered before the action: the event that requests a step is
//! committed before its command is sent, and whatever was requested is undone when the saga turns back, whether or not it
//! ever happened. Command ids (`<saga>/<step>/do|undo`) never change between tries: participants recognise them.
//!
//! # Limits
//! There is no isolation: others see the goods reserved before the money is taken. Participants must be idempotent by
//! command id and must refuse an action that arrives after its undo; the contract is theirs to keep. Steps run one after
//! another.

pub mod definition;
pub mod participant;
pub mod react;
pub mod runner;

pub use definition::{Definition, Kind, Step};
pub use react::{Command, End, Input, Outcome, Saga, Why};
pub use runner::{Owner, Participants, Pending, Runner};
