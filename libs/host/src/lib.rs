//! What every process of the shop needs around its services, whichever world it runs in.
//!
//! | file | holds |
//! |---|---|
//! | [`error`] | the one table of errors: gRPC code, HTTP status, may it be tried again |
//! | [`call`] | who calls, for whom, under which command id, how long they wait |
//! | [`transport`] | one type under every gRPC client; in process |
//! | [`network`] | the same over a network, at both ends |
//! | [`replicas`] | the same over all replicas of a service |
//! | [`remembered`] | the answer kept under a command id |
//! | [`tasks`] | work that outlives the request that asked for it, and the drain at the end |
//! | [`health`] | alive, and ready or why not |
//! | [`http_server`] | HTTP on a port, within limits |
//! | [`client_io`] | a client's connection, which must speak and read in time |
//! | `answer_body.rs` | the body of an answer, which must be taken in time |
//! | `slots.rs` | how many clients are connected, and who makes room |
//! | [`check`] | checks of what comes from outside |
//! | [`unavailable`] | the refusal of a process that is starting, or full |
//! | [`use_case`] | what a use case needs between its caller and its store |

mod answer_body;
pub mod call;
pub mod check;
pub mod client_io;
pub mod error;
pub mod health;
pub mod http_server;
pub mod network;
pub mod remembered;
pub mod replicas;
mod slots;
pub mod tasks;
pub mod transport;
pub mod unavailable;
pub mod use_case;

use std::sync::Arc;

use clock::{Clock, Ids};
use telemetry::metrics::Metrics;

/// What a composition root hands to every service of its process.
#[derive(Clone)]
pub struct Process {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Makes ids.
    pub ids: Arc<Ids>,
    /// Where metrics go.
    pub metrics: Metrics,
    /// Where work runs.
    pub tasks: tasks::Tasks,
    /// Where parts say whether they can work.
    pub health: health::Health,
    /// The most clients that are connected at a time.
    pub connections: usize,
}

impl Process {
    /// A process on a given clock and ids, with nothing running.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, ids: Arc<Ids>) -> Process {
        let (metrics, tasks, health) = Default::default();
        Process { clock, ids, metrics, tasks, health, connections: http_server::CONNECTIONS }
    }

    /// A process on the machine's clock and chance.
    #[must_use]
    pub fn on_this_machine() -> Process {
        let clock = Arc::new(clock::SystemClock);
        Process::new(clock.clone(), Arc::new(Ids::random(clock)))
    }
}
