//! The auditor: keeps the books of the whole shop from what its services publish, and says where they do not add up.
//!
//! | file | holds |
//! |---|---|
//! | [`invariant`] | PURE: what always holds, and what is said where it does not |
//! | [`fact`] | PURE: what services publish, as the auditor reads it |
//! | [`page`] | PURE: what is known of one order |
//! | [`shelf`] | PURE: what is known of one product's stock |
//! | [`ledgers`] | PURE: what bank and carrier have in books of their own |
//! | [`books`] | PURE: all pages and shelves |
//! | [`findings`] | PURE: what does not hold at present |
//! | [`logs`] | PURE: what the services' own logs have to be, where somebody may read them |
//! | `sagas`, `calls` | PURE: the sagas in these logs; what bank and carrier did against what is on record |
//! | [`heard`] | listens to what all services publish |
//! | [`desk`] | the books in memory, and how they get onto paper |
//! | `kept` | the books on paper |
//! | `service` | use case: the books as operators see them |
//! | `grpc` | driving adapter |

pub mod books;
mod calls;
pub mod desk;
pub mod fact;
pub mod findings;
mod grpc;
pub mod heard;
pub mod invariant;
mod kept;
pub mod ledgers;
pub mod logs;
pub mod page;
mod sagas;
mod service;
pub mod shelf;

use std::sync::Arc;

use host::Process;
use host::transport::{Transport, in_process};
use messaging::Messages;
use proto::auditor::book_service_server::BookServiceServer;
use store::Store;
use telemetry::metrics::Red;

use heard::Listener;
use invariant::Terms;
use service::{Auditor, Shown};

/// Starts the service over its store: listens to all others, and serves.
pub fn start(process: &Process, store: Arc<dyn Store>, messages: &Messages, terms: Terms, red: Red) -> Transport {
    let (shown, bus, metrics) = (Shown::default(), messages.bus.clone(), &process.metrics);
    let broken = "What breaks an invariant of the shop by the auditor's books; 0 if it holds.";
    let behind = "Messages that are not in the auditor's books for certain; NaN if that cannot be measured.";
    let listener = Listener {
        process: process.clone(),
        store: store.clone(),
        bus: bus.clone(),
        terms,
        shown: shown.clone(),
        broken: metrics.gauges("books_broken", broken, &["invariant"]),
        behind: metrics.gauges("books_behind", behind, &["topic"]),
    };
    listener.start();
    in_process(BookServiceServer::new(grpc::Grpc(Auditor { store, bus, shown })), red)
}
