//! The whole shop in one process.
//!
//! | file | holds |
//! |---|---|
//! | [`shop`] | the composition root: services over their stores, the gateway in front |
//! | [`folder`] | the data folder: one file per service, one process per folder |
//! | `open_marker` | what the lock file says while the shop is open; refuses a folder that was copied meanwhile |
//! | [`backup`] | copies a folder, also while the shop is open |
//! | [`commands`] | what else can be done with a data folder: verify, replay |
//!
//! `main.rs` is the program that `cargo run` lands in; tests put the same shop together over other stores.

pub mod backup;
pub mod commands;
pub mod folder;
mod open_marker;
pub mod shop;
