//! Use cases: create and cancel, as a participant with a provider (see [`saga::participant`]).
//!
//! A carrier calls a parcel off by its key whether or not it was booked, and booking again under a key is asking what became
//! of it.
use std::sync::Arc;
use std::time::Duration;

use host::call::Caller;
use host::error::Refusal;
use host::{Process, check};
use proto::shipping::{CancelShipmentRequest, CancelShipmentResponse, CreateShipmentRequest, CreateShipmentResponse};
use saga::participant::{Asking, Awaits, Participant, in_progress};
use store::folded::Folded;
use store::{Commit, Meta, Store, StreamId};

use crate::carrier::Carrier;
use crate::shipment::{Address, Command, Parcel, Rejection, Shipment, Stage};

/// How long the carrier may take to answer: less than a saga waits for a step.
pub const CARRIER_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long after its intent a shipment is looked at again: longer than whoever recorded it may still be asking.
pub const LEASE: Duration = Duration::from_millis(2_000);

impl Asking for Shipment {
    fn awaits(&self) -> Awaits {
        match self.stage {
            Stage::Requested | Stage::Cancelling { .. } => Awaits::Answer,
            Stage::Waiting { at } => Awaits::Moment(at),
            Stage::Dispatched { expected } => Awaits::Moment(expected),
            _ => Awaits::Nothing,
        }
    }
}

/// The shipments of the shop. Clones share them.
#[derive(Clone)]
pub struct Shipments {
    process: Process,
    shipments: Participant<Shipment>,
    carrier: Arc<dyn Carrier>,
    pick_up: Duration,
}

impl Shipments {
    /// Shipments over the service's store and a carrier, who is asked for a parcel as long as `pick_up` after its order was
    /// confirmed: until then it can be called off.
    pub fn new(process: &Process, store: Arc<dyn Store>, carrier: Arc<dyn Carrier>, pick_up: Duration) -> Shipments {
        let shipments = Participant::new(process, store, "shipment", CARRIER_TIMEOUT, LEASE);
        Shipments { process: process.clone(), shipments, carrier, pick_up }
    }

    /// Listens to timers until the process stops.
    pub fn listen(&self) {
        let this = self.clone();
        self.shipments.listen(move |stream, shipment, origin| {
            let this = this.clone();
            async move { this.settle(&stream, shipment, &origin).await }
        });
    }

    /// Books the parcel of an order, once.
    ///
    /// # Errors
    /// The carrier's refusal, `already_cancelled`, or `in_progress`.
    pub async fn create(
        &self,
        caller: &Caller,
        request: CreateShipmentRequest,
    ) -> Result<CreateShipmentResponse, Refusal> {
        check::id("order_id", &request.order_id)?;
        let address = address(request.address.unwrap_or_default())?;
        let key = caller.command()?.to_string();
        let shipment = self.carry_out(caller, &request.order_id, &Command::Create(Parcel { key, address })).await?;
        match shipment.stage {
            Stage::Created | Stage::Waiting { .. } | Stage::Dispatched { .. } | Stage::Delivered => {
                Ok(CreateShipmentResponse { tracking_number: shipment.tracking_number })
            }
            Stage::Refused { reason } => {
                Err(Refusal::precondition(reason, "the carrier does not serve the country of the address"))
            }
            Stage::Untouched | Stage::Requested => Err(in_progress()),
            Stage::Cancelling { .. } | Stage::Cancelled => Err(Rejection::AlreadyCancelled.into()),
        }
    }

    /// Calls the parcel of an order off, or sees that none is ever booked.
    ///
    /// # Errors
    /// `too_late`, or `in_progress`.
    pub async fn cancel(
        &self,
        caller: &Caller,
        request: CancelShipmentRequest,
    ) -> Result<CancelShipmentResponse, Refusal> {
        check::id("order_id", &request.order_id)?;
        let key = caller.command()?.to_string();
        let shipment = self.carry_out(caller, &request.order_id, &Command::Cancel { key }).await?;
        match shipment.stage {
            Stage::Cancelled => Ok(CancelShipmentResponse {}),
            Stage::Dispatched { .. } | Stage::Delivered => Err(Rejection::TooLate.into()),
            _ => Err(in_progress()),
        }
    }

    /// The order is confirmed: its parcel can be picked up.
    ///
    /// # Errors
    /// `no_parcel`, or UNAVAILABLE.
    pub async fn dispatch(&self, blank: &Commit, order_id: &str) -> Result<(), Refusal> {
        let now = self.process.clock.now();
        let command = Command::Dispatch { at: now.after(self.pick_up) };
        if let Some((stream, shipment)) = self.shipments.take_in(blank, order_id, &command).await?
            && self.pick_up.is_zero()
        {
            let (this, origin) = (self.clone(), blank.meta.clone());
            self.process.tasks.spawn(async move {
                // What is not settled here, the timer settles.
                let _ = this.settle(&stream, shipment, &origin).await;
            });
        }
        Ok(())
    }

    /// The shipment of an order.
    ///
    /// # Errors
    /// UNAVAILABLE if it cannot be read.
    pub async fn get(&self, order_id: &str) -> Result<Shipment, Refusal> {
        check::id("order_id", order_id)?;
        self.shipments.load(&self.shipments.stream(order_id)).await.map(|shipment| shipment.state)
    }

    async fn carry_out(&self, caller: &Caller, order_id: &str, command: &Command) -> Result<Shipment, Refusal> {
        // A booking mostly comes first.
        let guess = matches!(command, Command::Create(_)).then(Folded::default);
        let intent = self.shipments.intend(caller, order_id, command, guess).await?;
        match intent.to_settle {
            Some((stream, origin)) => self.settle(&stream, intent.folded, &origin).await.map(|shipment| shipment.state),
            None => Ok(intent.folded.state),
        }
    }

    /// Takes an open shipment as far as the carrier answers.
    async fn settle(
        &self,
        stream: &StreamId,
        mut shipment: Folded<Shipment>,
        origin: &Meta,
    ) -> Result<Folded<Shipment>, Refusal> {
        loop {
            let Shipment { stage, parcel, .. } = shipment.state.clone();
            let (key, now) = (&parcel.key, self.process.clock.now());
            let (id, outcome) = match &stage {
                Stage::Requested => {
                    (key.clone(), Command::SettleCreate(self.shipments.patiently(self.carrier.book(&parcel)).await?))
                }
                Stage::Cancelling { key: cancel } => {
                    let outcome = self.shipments.patiently(self.carrier.cancel(key)).await?;
                    (cancel.clone(), Command::SettleCancel(outcome))
                }
                Stage::Waiting { at } if now >= *at => {
                    let outcome = self.shipments.patiently(self.carrier.pick_up(key)).await?;
                    (format!("{key}/pick-up"), Command::SettlePickUp(outcome))
                }
                Stage::Dispatched { expected } if now >= *expected => {
                    if !self.shipments.patiently(self.carrier.delivered(key)).await? {
                        return Ok(shipment);
                    }
                    (format!("{key}/delivery"), Command::SettleDelivery)
                }
                _ => return Ok(shipment),
            };
            // Danger: killed here, the carrier has acted and nothing says so but the intent. Its timer asks by the same key.
            shipment = self.shipments.record(stream, shipment, &id, &outcome, origin).await?;
            let order_id = self.shipments.order_id(stream);
            tracing::info!(order_id, stage = shipment.state.stage.word(), "shipment settled");
        }
    }
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

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Refusal {
        let (reason, message) = match rejection {
            Rejection::AlreadyCancelled => ("already_cancelled", "the shipment was called off before it was asked for"),
            Rejection::AnotherShipment => ("another_shipment", "the order has a shipment under another command id"),
            Rejection::TooLate => ("too_late", "the parcel has left"),
            Rejection::NoParcel => ("no_parcel", "there is no parcel that could"),
        };
        Refusal::precondition(reason, message)
    }
}
