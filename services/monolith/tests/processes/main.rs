//! What the processes of the shop do about servers that are wrong or missing, and about settings that cannot be meant.
//!
//! The programs are those beside this test: `cargo build --workspace --all-features` builds them. The servers are those that the
//! environment names; databases, roles, topics and indices are each test's own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]
#![expect(unreachable_pub, reason = "one test binary: its modules use each other")]
#![expect(clippy::disallowed_methods, reason = "tests are told in the environment where the servers are")]

mod caches;
#[path = "../customers/mod.rs"]
#[expect(dead_code, reason = "only its client is used here")]
mod customers;
mod databases;
mod disks;
mod indices;
mod log_lines;
mod messages;
mod older;
mod proxy;
mod receipts;
mod rolling;
mod servers;
mod service;
mod settings;
mod shop;
mod views;
