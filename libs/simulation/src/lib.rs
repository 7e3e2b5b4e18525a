//! A world that a seed decides: network, databases, bus, clocks and faults, in true time that is only advanced.
//!
//! # Problem
//! "Nothing is lost, nothing happens twice" holds in every test that somebody thought of. What breaks it is an order of
//! events that nobody did, and that does not come again when it is looked for.
//!
//! # Pattern
//! Deterministic simulation: the product's own code in one thread, under a scheduler, a network, stores, clocks and chance
//! that all come from one number. A failure is that number.
//!
//! # Here
//! | file | holds |
//! |---|---|
//! | [`chance`] | numbers that a seed decides |
//! | [`faults`] | what goes wrong, counted, and sparing it |
//! | [`time`] | true time, and clocks that are wrong |
//! | [`net`] | connections and listeners on turmoil's network |
//! | [`plan`] | hosts that die, links that are cut |
//! | [`store`] | databases, the weakest that the port allows |
//! | [`bus`] | the bus as a host has it |
//! | [`http`] | clients, and what they sent and were answered |
//! | [`trace`] | what happened, line by line |
//! | [`runs`] | many seeds, each in a process of its own; a failure with what it needs |
//! | [`outcome`] | how a run ended, as text |
//! | [`record`] | what was found so far, in a file |
//! | [`entropy`] | the operating system's chance, taken over |
//!
//! The shop in it is a test target of the monolith: this crate knows no service.
//!
//! # Limits
//! One thread sees no data races, and a database here is one lock. What is wrong with SQLite, a disk or a broker is for the
//! tests with real ones.

pub mod bus;
pub mod chance;
pub mod entropy;
pub mod faults;
pub mod http;
pub mod net;
pub mod outcome;
pub mod plan;
pub mod record;
pub mod runs;
pub mod store;
pub mod time;
pub mod trace;
