//! What a running process shows of itself: log lines that carry a trace id ([`logs`], [`trace`], each once: [`trouble`]) and metrics ([`metrics`]).
//!
//! Nothing that goes out here may hold a secret, card data or personal data: lines and labels carry ids, reasons and
//! durations, never bodies.

pub mod logs;
pub mod metrics;
pub mod trace;
pub mod trouble;
