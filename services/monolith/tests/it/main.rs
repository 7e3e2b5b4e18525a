//! The whole shop, over HTTP, in process or as the real program.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "what a long test did is part of its result")]
#![expect(unreachable_pub, reason = "one test binary: its modules use each other")]

mod audit;
mod auditing;
mod bad_input;
mod books;
mod checkout;
mod crash_matrix;
#[path = "../customers/mod.rs"]
mod customers;
#[cfg(target_os = "linux")]
mod failing_disk;
mod faults;
mod finding;
mod fulfilment;
mod harness;
mod history;
mod kill;
#[path = "../ledgers/mod.rs"]
mod ledgers;
mod limits;
mod open_files;
mod operators;
mod program;
mod saga_matrix;
mod views;
mod watch;
