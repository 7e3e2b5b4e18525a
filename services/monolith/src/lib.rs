//! The whole shop in one process.
//!
//! | file | holds |
//! |---|---|
//! | [`shop`] | the composition root: services over their stores, the gateway in front |
//! | [`folder`] | the data folder: one file per service, one process per folder |
//! | [`commands`] | what else can be done with a data folder: verify, replay |
//!
//! `main.rs` is the program that `cargo run` lands in; tests put the same shop together over other stores.

pub mod commands;
pub mod folder;
pub mod shop;
