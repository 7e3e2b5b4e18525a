//! Use cases: create and cancel, each an intent, a call to the carrier, and an outcome.
//!
//! The same pattern as in payment, where it is explained: the intent is committed with a timer, the carrier is asked under
//! the command's id as key, the outcome is committed under that id; until then the answer is "in progress". It is simpler
//! here, for a carrier calls a parcel off by its key whether or not it was booked, and booking again under a key is asking
//! what became of it.
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clock::Timestamp;
use decider::Decider;
use host::call::Caller;
use host::error::Refusal;
use host::use_case::{origin, unavailable};
use host::{Process, check};
use proto::shipping::{CancelShipmentRequest, CancelShipmentResponse, CreateShipmentRequest, CreateShipmentResponse};
use store::folded::{self, Change, Done, Folded};
use store::{CommitId, Meta, Store, StreamId, TimerChange, timers};
use tracing::Instrument;

use crate::carrier::{Carrier, NoAnswer};
use crate::shipment::{Address, Command, Parcel, Rejection, Shipment, Stage};

/// How long the carrier may take to answer: less than a saga waits for a step.
pub const CARRIER_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long after its intent a shipment is looked at again: longer than whoever recorded it may still be asking.
pub const LEASE: Duration = Duration::from_millis(2_000);

/// The shipments of the shop. Clones share them.
#[derive(Clone)]
pub struct Shipments {
    process: Process,
    store: Arc<dyn Store>,
    carrier: Arc<dyn Carrier>,
}

impl Shipments {
    /// Shipments over the service's store and a carrier.
    pub fn new(process: &Process, store: Arc<dyn Store>, carrier: Arc<dyn Carrier>) -> Shipments {
        Shipments { process: process.clone(), store, carrier }
    }

    /// Listens to timers until the process stops.
    pub fn listen(&self) {
        let shipments = self.clone();
        let act = move |due: timers::Due| {
            let shipments = shipments.clone();
            shipments.process.tasks.clone().spawn(async move {
                if let Err(why) = shipments.settle(&StreamId::from(due.key.as_str())).await {
                    tracing::info!(shipment = due.key, why = why.message, "not settled yet; the timer tries again");
                }
            });
        };
        self.process.tasks.spawn_until_stop(timers::run(self.store.clone(), LEASE, act));
    }

    /// Books the parcel of an order, once.
    ///
    /// # Errors
    /// The carrier's refusal, `already_cancelled`, or `in_progress`.
    pub async fn create(&self, caller: &Caller, request: CreateShipmentRequest) -> Result<CreateShipmentResponse, Refusal> {
        check::id("order_id", &request.order_id)?;
        let address = address(request.address.unwrap_or_default())?;
        let key = caller.command()?.to_string();
        let shipment = self.carry_out(caller, &request.order_id, &Command::Create(Parcel { key, address })).await?;
        match shipment.stage {
            Stage::Created { tracking_number } | Stage::Dispatched { tracking_number } | Stage::Delivered { tracking_number } => {
                Ok(CreateShipmentResponse { tracking_number })
            }
            Stage::Refused { reason } => Err(Refusal::precondition(reason, "the carrier does not serve the country of the address")),
            Stage::Untouched | Stage::Requested => Err(in_progress()),
            Stage::Cancelling { .. } | Stage::Cancelled => Err(refused(Rejection::AlreadyCancelled)),
        }
    }

    /// Calls the parcel of an order off, or sees that none is ever booked.
    ///
    /// # Errors
    /// `too_late`, or `in_progress`.
    pub async fn cancel(&self, caller: &Caller, request: CancelShipmentRequest) -> Result<CancelShipmentResponse, Refusal> {
        check::id("order_id", &request.order_id)?;
        let key = caller.command()?.to_string();
        let shipment = self.carry_out(caller, &request.order_id, &Command::Cancel { key }).await?;
        if shipment.stage == Stage::Cancelled { Ok(CancelShipmentResponse {}) } else { Err(in_progress()) }
    }

    /// The shipment of an order.
    ///
    /// # Errors
    /// UNAVAILABLE if it cannot be read.
    pub async fn get(&self, order_id: &str) -> Result<Shipment, Refusal> {
        check::id("order_id", order_id)?;
        self.load(&stream(order_id)).await
    }

    /// Records the intent; if nobody did before, sees it settled. The state then tells the answer.
    async fn carry_out(&self, caller: &Caller, order_id: &str, ask: &Command) -> Result<Shipment, Refusal> {
        let (id, meta) = origin(caller, order_id)?;
        let stream = stream(order_id);
        let due = self.process.clock.now().after(LEASE);
        let decided = Mutex::new(Ok(vec![]));
        let decide = |shipment: &Folded<Shipment>| {
            let outcome = shipment.state.decide(ask);
            decided.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&outcome);
            let events = outcome.unwrap_or_default();
            let timer = arm(&stream, &shipment.state.clone().fold(&events), due).filter(|_| !events.is_empty());
            Change { reply: vec![], timers: timer.into_iter().collect(), events }
        };
        let (store, ids) = (self.store.as_ref(), &self.process.ids);
        let intent = CommitId::from(format!("{id}/intent"));
        let done = folded::change(store, ids, &stream, &intent, &meta, decide).await.map_err(unavailable)?;
        let events = decided.into_inner().unwrap_or_else(PoisonError::into_inner).map_err(refused)?;
        match done {
            Done::Now(shipment) if events.is_empty() => Ok(shipment.state),
            Done::Now(shipment) => self.settle_from(&stream, shipment.state, &meta).await,
            // Whoever recorded the intent is at it; if they died, the timer is.
            Done::Before(_) => self.load(&stream).await,
        }
    }

    /// Takes an open shipment as far as the carrier answers.
    ///
    /// # Errors
    /// UNAVAILABLE or `in_progress` while store or carrier do not answer.
    pub async fn settle(&self, stream: &StreamId) -> Result<Shipment, Refusal> {
        let shipment = self.load(stream).await?;
        let origin = folded::origin(self.store.as_ref(), stream).await.map_err(unavailable)?;
        let span = tracing::info_span!("shipment", trace_id = origin.traceparent.get(3..35));
        self.settle_from(stream, shipment, &origin).instrument(span).await
    }

    async fn settle_from(&self, stream: &StreamId, mut shipment: Shipment, origin: &Meta) -> Result<Shipment, Refusal> {
        loop {
            let (id, outcome) = match &shipment.stage {
                Stage::Requested => {
                    let booked = patiently(self.carrier.book(&shipment.parcel)).await?;
                    (shipment.parcel.key.clone(), Command::SettleCreate(booked))
                }
                Stage::Cancelling { key } => {
                    patiently(self.carrier.cancel(&shipment.parcel.key)).await?;
                    (key.clone(), Command::SettleCancel)
                }
                _ => return Ok(shipment),
            };
            // Danger: killed here, the carrier has acted and nothing says so but the intent. Its timer asks by the same key.
            shipment = self.record(stream, id, &outcome, origin).await?;
            tracing::info!(stage = shipment.stage.word(), "shipment settled");
        }
    }

    /// Commits an outcome under the id of the command that it settles.
    async fn record(&self, stream: &StreamId, id: String, outcome: &Command, origin: &Meta) -> Result<Shipment, Refusal> {
        let meta = Meta { causation_id: id.clone(), actor: "carrier".to_owned(), ..origin.clone() };
        let due = self.process.clock.now().after(LEASE);
        let decide = |shipment: &Folded<Shipment>| {
            let events = shipment.state.decide(outcome).unwrap_or_default();
            let open = arm(stream, &shipment.state.clone().fold(&events), due);
            let timer = open.unwrap_or_else(|| TimerChange::Clear { key: stream.0.to_string() });
            Change { reply: vec![], timers: if events.is_empty() { vec![] } else { vec![timer] }, events }
        };
        let (store, ids) = (self.store.as_ref(), &self.process.ids);
        match folded::change::<Shipment>(store, ids, stream, &CommitId::from(id), &meta, decide).await.map_err(unavailable)? {
            Done::Now(shipment) => Ok(shipment.state),
            Done::Before(_) => self.load(stream).await,
        }
    }

    async fn load(&self, stream: &StreamId) -> Result<Shipment, Refusal> {
        folded::load::<Shipment>(self.store.as_ref(), stream).await.map(|shipment| shipment.state).map_err(unavailable)
    }
}

const PREFIX: &str = "shipment-";

fn stream(order_id: &str) -> StreamId {
    StreamId::from(format!("{PREFIX}{order_id}"))
}

/// The timer of a shipment that waits for the carrier.
fn arm(stream: &StreamId, shipment: &Shipment, due: Timestamp) -> Option<TimerChange> {
    let open = matches!(shipment.stage, Stage::Requested | Stage::Cancelling { .. });
    open.then(|| TimerChange::Set { key: stream.0.to_string(), due })
}

fn address(message: proto::shipping::Address) -> Result<Address, Refusal> {
    let proto::shipping::Address { recipient, street, city, postal_code, country } = message;
    check::text("address.recipient", &recipient, 1..=100)?;
    check::text("address.street", &street, 1..=200)?;
    check::text("address.city", &city, 1..=100)?;
    check::text("address.postal_code", &postal_code, 1..=16)?;
    check::text("address.country", &country, 2..=2)?;
    Ok(Address { recipient, street, city, postal_code, country })
}

async fn patiently<T>(answer: impl Future<Output = Result<T, NoAnswer>>) -> Result<T, Refusal> {
    match tokio::time::timeout(CARRIER_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(why)) => Err(Refusal::unavailable(why)),
        Err(_) => Err(in_progress()),
    }
}

fn in_progress() -> Refusal {
    Refusal::in_progress("the carrier has not answered yet; ask again under the same command id")
}

fn refused(rejection: Rejection) -> Refusal {
    match rejection {
        Rejection::AlreadyCancelled => Refusal::precondition("already_cancelled", "the shipment was called off before it was asked for"),
        Rejection::AnotherShipment => Refusal::precondition("another_shipment", "the order has a shipment under another command id"),
        Rejection::TooLate => Refusal::precondition("too_late", "the parcel has left"),
        Rejection::NoParcel => Refusal::precondition("no_parcel", "there is no parcel that could"),
    }
}
