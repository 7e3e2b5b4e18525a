//! What every program of the shop is made of, whichever services run in it.
//!
//! | file | holds |
//! |---|---|
//! | [`process`] | from the start to an orderly end: settings, log lines, one port, signals, drain, exit code |
//! | [`open_files`] | how many clients the system has room for |
//! | [`settings`] | reads arguments and environment |
//! | [`pages`] | what a process says of itself: alive, ready or why not, metrics |
//! | `servers.rs` | the store, the bus and the index of a service, on real servers |
//! | `rebuild.rs` | a command instead of serving: the search index of a service is made anew |
//! | `lab.rs` | what a process lacks or breaks on purpose, in builds for it |
//!
//! A program of one service is then its settings and what [`process::run`] opens.

#[cfg(feature = "lab")]
pub mod lab;
pub mod open_files;
pub mod pages;
pub mod process;
#[cfg(feature = "infra")]
pub mod rebuild;
#[cfg(feature = "infra")]
pub mod servers;
pub mod settings;
