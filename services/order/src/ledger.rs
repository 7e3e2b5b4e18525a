//! The streams of the order service and how they are named; what a saga changes in them.
use std::sync::Arc;

use async_trait::async_trait;
use decider::Decider;
use host::Process;
use host::call::Caller;
use host::error::Refusal;
use host::use_case::{origin, unavailable};
use saga::{End, Owner, Saga, Why};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::folded::{self, Change, Failed, Folded};
use store::{Append, Commit, ReadError, Store, StreamId};

use crate::followers::Followers;
use crate::order::{Cause, Command, Order, Rejection};

/// What an index of orders records: the stream `customer-<id>` lists a customer's orders as they were placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listing {
    /// The customer placed it.
    OrderListed {
        /// Which.
        order_id: String,
    },
}

/// What order streams are named by, before the id.
pub(crate) const ORDER: &str = "order-";

/// The stream of an order.
pub(crate) fn order_stream(order_id: &str) -> StreamId {
    StreamId::from(format!("{ORDER}{order_id}"))
}

/// The stream of an order's checkout saga.
pub(crate) fn checkout_stream(order_id: &str) -> StreamId {
    StreamId::from(format!("checkout-{order_id}"))
}

/// The stream of an order's cancellation saga.
pub(crate) fn cancellation_stream(order_id: &str) -> StreamId {
    StreamId::from(format!("cancellation-{order_id}"))
}

/// The stream that lists a customer's orders.
pub(crate) fn customer_stream(customer_id: &str) -> StreamId {
    StreamId::from(format!("customer-{customer_id}"))
}

/// Orders in the service's store. Clones share it.
#[derive(Clone)]
pub(crate) struct Ledger {
    pub(crate) process: Process,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) followers: Followers,
}

impl Ledger {
    pub(crate) fn new(process: &Process, store: Arc<dyn Store>) -> Ledger {
        let followers = Followers::new(store.clone(), process.tasks.clone());
        Ledger { process: process.clone(), store, followers }
    }

    pub(crate) async fn order(&self, order_id: &str) -> Result<Folded<Order>, ReadError> {
        folded::load(self.store.as_ref(), &order_stream(order_id)).await
    }

    /// Confirms an order: the last step of its checkout.
    pub(crate) async fn confirm(&self, caller: &Caller, order_id: &str) -> Result<(), Refusal> {
        let (id, meta) = origin(caller, order_id)?;
        let command = (Command::Confirm, self.process.clock.now());
        let decide = |order: &Folded<Order>| order.state.decide(&command).map(Change::only);
        let (store, ids) = (self.store.as_ref(), &self.process.ids);
        match folded::change(store, ids, &order_stream(order_id), None, &Commit::new(id, meta), decide).await {
            // Also if it was confirmed under this command and called off since: to its saga the answer is still yes.
            Ok(_) => Ok(()),
            Err(Failed::Rejected(why)) => Err(refusal(why)),
            Err(Failed::Store(why)) => Err(unavailable(why)),
        }
    }

    /// Records what a fact from another service means for an order, in the commit that takes it in.
    pub(crate) async fn take_in(&self, blank: &Commit, order_id: &str, command: Command) -> Result<(), Refusal> {
        let command = (command, self.process.clock.now());
        let decide = |order: &Folded<Order>| order.state.decide(&command).map(Change::only);
        let (store, ids) = (self.store.as_ref(), &self.process.ids);
        match folded::change(store, ids, &order_stream(order_id), None, blank, decide).await {
            Ok(_) => Ok(()),
            Err(Failed::Rejected(why)) => Err(refusal(why)),
            Err(Failed::Store(why)) => Err(unavailable(why)),
        }
    }

    /// Events of an order, decided on its present state, to be committed with something else.
    pub(crate) fn decided(&self, order_id: &str, order: &Folded<Order>, command: Command) -> Result<Append, Rejection> {
        let events = order.state.decide(&(command, self.process.clock.now()))?;
        Ok(folded::append(&order_stream(order_id), order.version, &events, &self.process.ids))
    }
}

#[async_trait]
impl Owner for Ledger {
    async fn ending(&self, saga: &Saga, end: End) -> Result<Vec<Append>, ReadError> {
        let (order_id, _) = saga.context();
        let command = match (saga.name(), end) {
            // Its last step confirmed the order.
            ("checkout", End::Completed) => return Ok(vec![]),
            ("checkout", End::Compensated) => Command::Fail(cause(saga.turned_back())),
            (_, End::Completed) => Command::Cancel,
            (_, End::Compensated) => Command::RefuseCancellation,
        };
        let order = self.order(order_id).await?;
        let impossible = |why| ReadError::Corrupt(format!("order {order_id} cannot follow its saga: {why:?}"));
        self.decided(order_id, &order, command).map(|append| vec![append]).map_err(impossible)
    }

    fn ended(&self, saga: &Saga, _end: End) {
        self.followers.wake(&order_stream(saga.context().0));
    }
}

/// Why a checkout was undone, in the words of the order.
fn cause(why: Option<&Why>) -> Cause {
    let plain = |reason: &str, message: String| Cause { reason: reason.to_owned(), message, ..Cause::default() };
    match why {
        Some(Why::Refused { refusal, .. }) => {
            let fact = |name: &str| refusal.facts.get(name).and_then(Value::as_str).map(str::to_owned);
            let unit_price = fact("unit_price").and_then(|price| price.parse().ok());
            let sku = fact("sku").unwrap_or_default();
            Cause { reason: refusal.reason.clone(), message: refusal.message.clone(), sku, unit_price }
        }
        Some(Why::TimedOut { step }) => plain("timed_out", format!("{step} was not answered in time; try again later")),
        Some(Why::Forced { .. }) => plain("rejected_by_operator", "the shop called the order off".to_owned()),
        Some(Why::Cancelled { .. }) | None => plain("cancelled", "the order was called off".to_owned()),
    }
}

/// What the rules of an order say, as an answer.
pub(crate) fn refusal(why: Rejection) -> Refusal {
    match why {
        Rejection::Exists => Refusal::new(tonic::Code::AlreadyExists, "exists", "there is such an order"),
        Rejection::Unknown => Refusal::not_found("there is no such order"),
        Rejection::CancellationRequested => {
            Refusal::precondition("cancellation_requested", "the order is being called off")
        }
        Rejection::AlreadyRejected => Refusal::precondition(
            "already_rejected",
            "the order was rejected and everything undone; nothing is left to call off",
        ),
        Rejection::AlreadyEnded => Refusal::precondition("already_ended", "the order has ended"),
        Rejection::NotOnItsWay => {
            Refusal::precondition("not_on_its_way", "the order's parcel cannot have left, or arrived")
        }
        Rejection::TooLate => {
            Refusal::precondition("too_late", "the parcel has left; the order cannot be called off any more")
        }
    }
}
