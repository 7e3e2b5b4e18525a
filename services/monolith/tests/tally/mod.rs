//! A listener that must not be told twice: it counts. What the shop's own services make of a fact they make once by their rules
//! too; nothing but the inbox keeps this one from counting a parcel again.
use std::sync::Arc;

use async_trait::async_trait;
use clock::Ids;
use host::Process;
use messaging::Messages;
use messaging::consumer::{Consumer, Failure, Handler, Interest, Receipt};
use messaging::envelope::Envelope;
use proto::events::KINDS;
use serde::{Deserialize, Serialize};
use store::folded::{encode, persist, unreadable};
use store::{Append, CommitError, Expected, Store, StreamId};

/// Its name.
pub const TALLY: &str = "tally";
const COUNTED: &str = "shop.events.v1.OrderDelivered";

#[derive(Serialize, Deserialize)]
enum Event {
    ParcelCounted {},
}

struct Counting {
    store: Arc<dyn Store>,
    ids: Arc<Ids>,
}

/// Counts delivered orders, until the process stops.
pub fn listen(process: &Process, store: Arc<dyn Store>, messages: &Messages) {
    let handler = Arc::new(Counting { store: store.clone(), ids: process.ids.clone() });
    Consumer::new(process, store, messages, (TALLY, &["order-events"]), handler).listen();
}

/// The stream of an order, whose version is how often it was counted.
fn stream(fact: &Envelope) -> StreamId {
    format!("tally-{}", fact.stream).into()
}

#[async_trait]
impl Handler for Counting {
    fn interest(&self, kind: &str) -> Interest {
        Interest::of(kind, &[COUNTED], KINDS)
    }

    async fn handle(&self, fact: &Envelope, receipt: &Receipt) -> Result<(), Failure> {
        let events = vec![encode(&Event::ParcelCounted {}, &self.ids)];
        let mut commit = receipt.commit();
        commit.appends.push(Append { stream: stream(fact), expected: Expected::Any, events });
        match persist(self.store.as_ref(), commit).await {
            Ok(()) | Err(CommitError::AlreadyHandled(_)) => Ok(()),
            Err(other) => Err(unreadable(other).into()),
        }
    }
}
