//! The gateway from outside, over a shop of canned answers.
#![allow(clippy::unwrap_used, reason = "tests, and what they stand on, fail by panicking")]
mod bad_input;
mod caching;
mod callers;
mod network;
mod openapi;
mod openapi_schemas;
mod refusals;
mod resources;
mod shop;
mod waiting;
