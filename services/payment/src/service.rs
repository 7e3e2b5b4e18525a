//! Use cases: charge and refund, each an intent, a call to the bank, and an outcome.
//!
//! # Problem
//! Between the database and the bank there is no transaction. If the bank is asked first, a crash loses the charge; if the
//! answer is recorded first, it is a lie.
//!
//! # Pattern
//! Intent and outcome, with the bank's idempotency key: record what will be asked, ask, record what was answered.
//!
//! # Here
//! The intent is committed with a timer. Whoever committed it asks the bank at once and commits the outcome under the
//! command's id; until then the answer is "in progress". If it dies or hears nothing, the timer has the payment
//! [`Payments::settle`]d: the bank is asked what became of the key, and asked again under the same key. An undo that finds
//! an intent unsettled calls the charge off by its key first. The payment's own stream is what remembers the answer: there
//! is one charge and one refund per order.
//!
//! # Limits
//! The bank must keep keys for as long as intents may be open.
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use decider::Decider;
use host::call::Caller;
use host::error::Refusal;
use host::use_case::{origin, unavailable};
use host::{Process, check};
use proto::payment::{ChargePaymentRequest, ChargePaymentResponse, RefundPaymentRequest, RefundPaymentResponse};
use store::folded::{self, Change, Done, Folded};
use store::{CommitId, Meta, Store, StreamId, TimerChange, timers};
use tracing::Instrument;

use crate::payment::{Charge, Command, Payment, Rejection, Stage};
use crate::provider::{NoAnswer, PaymentProvider};

/// How long the bank may take to answer: less than a saga waits for a step, so that "in progress" is heard.
pub const BANK_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long after its intent a payment is looked at again: longer than whoever recorded it may still be asking.
pub const LEASE: Duration = Duration::from_millis(3_500);

/// The payments of the shop. Clones share them.
#[derive(Clone)]
pub struct Payments {
    process: Process,
    store: Arc<dyn Store>,
    bank: Arc<dyn PaymentProvider>,
}

impl Payments {
    /// Payments over the service's store and a bank.
    pub fn new(process: &Process, store: Arc<dyn Store>, bank: Arc<dyn PaymentProvider>) -> Payments {
        Payments { process: process.clone(), store, bank }
    }

    /// Listens to timers until the process stops.
    pub fn listen(&self) {
        let payments = self.clone();
        let act = move |due: timers::Due| {
            let payments = payments.clone();
            payments.process.tasks.clone().spawn(async move {
                if let Err(why) = payments.settle(&StreamId::from(due.key.as_str())).await {
                    tracing::info!(payment = due.key, why = why.message, "not settled yet; the timer tries again");
                }
            });
        };
        self.process.tasks.spawn_until_stop(timers::run(self.store.clone(), LEASE, act));
    }

    /// Charges an order, once.
    ///
    /// # Errors
    /// The bank's refusal, `already_refunded`, or `in_progress`.
    pub async fn charge(&self, caller: &Caller, request: ChargePaymentRequest) -> Result<ChargePaymentResponse, Refusal> {
        let ChargePaymentRequest { order_id, amount, currency, payment_method: method } = request;
        check::id("order_id", &order_id)?;
        check::number("amount", amount, 1..=1_000_000_000_000)?;
        check::text("currency", &currency, 3..=3)?;
        crate::known_method(&method)?;
        let key = caller.command()?.to_string();
        let payment = self.carry_out(caller, &order_id, &Command::Charge(Charge { key, amount, currency, method })).await?;
        match payment.stage {
            Stage::Charged { reference } => Ok(ChargePaymentResponse { reference }),
            Stage::Declined { reason } => Err(Refusal::precondition(reason, "the bank refused the card; choose another way to pay")),
            Stage::Untouched | Stage::Charging => Err(in_progress()),
            Stage::Refunding { .. } | Stage::Refunded => Err(refused(Rejection::AlreadyRefunded)),
        }
    }

    /// Gives the money of an order back, or sees that none is ever taken.
    ///
    /// # Errors
    /// `in_progress` while the bank has not answered.
    pub async fn refund(&self, caller: &Caller, request: RefundPaymentRequest) -> Result<RefundPaymentResponse, Refusal> {
        check::id("order_id", &request.order_id)?;
        let key = caller.command()?.to_string();
        let payment = self.carry_out(caller, &request.order_id, &Command::Refund { key }).await?;
        if payment.stage == Stage::Refunded { Ok(RefundPaymentResponse {}) } else { Err(in_progress()) }
    }

    /// The payment of an order.
    ///
    /// # Errors
    /// UNAVAILABLE if it cannot be read.
    pub async fn get(&self, order_id: &str) -> Result<Payment, Refusal> {
        check::id("order_id", order_id)?;
        self.load(&stream(order_id)).await
    }

    /// The bank reported on its own how the charge of an order ended.
    ///
    /// # Errors
    /// UNAVAILABLE if it cannot be recorded; the timer finds out then.
    pub async fn reported(&self, order_id: &str, charged: crate::payment::Charged) -> Result<(), Refusal> {
        let stream = stream(order_id);
        let payment = self.load(&stream).await?;
        if payment.stage == Stage::Untouched {
            return Err(refused(Rejection::NothingAsked));
        }
        let origin = folded::origin(self.store.as_ref(), &stream).await.map_err(unavailable)?;
        self.record(&stream, &payment, &Command::SettleCharge(charged), &origin).await.map(|_| ())
    }

    /// Records the intent; if nobody did before, sees it settled. The state then tells the answer.
    async fn carry_out(&self, caller: &Caller, order_id: &str, ask: &Command) -> Result<Payment, Refusal> {
        let (id, meta) = origin(caller, order_id)?;
        let stream = stream(order_id);
        let due = self.process.clock.now().after(LEASE);
        let decided = std::sync::Mutex::new(Ok(vec![]));
        let decide = |payment: &Folded<Payment>| {
            let outcome = payment.state.decide(ask);
            decided.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone_from(&outcome);
            let events = outcome.unwrap_or_default();
            let timers = arm(&stream, &payment.state.clone().fold(&events), due).filter(|_| !events.is_empty());
            Change { reply: vec![], timers: timers.into_iter().collect(), events }
        };
        let (store, ids) = (self.store.as_ref(), &self.process.ids);
        let intent = CommitId::from(format!("{id}/intent"));
        let done = folded::change(store, ids, &stream, &intent, &meta, decide).await.map_err(unavailable)?;
        let events = decided.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_err(refused)?;
        match done {
            Done::Now(payment) if events.is_empty() => Ok(payment.state),
            Done::Now(payment) => self.settle_from(&stream, payment.state, &meta, true).await,
            // Whoever recorded the intent is at it; if they died, the timer is.
            Done::Before(_) => self.load(&stream).await,
        }
    }

    /// Takes an open payment as far as the bank answers.
    ///
    /// # Errors
    /// UNAVAILABLE or `in_progress` while store or bank do not answer.
    pub async fn settle(&self, stream: &StreamId) -> Result<Payment, Refusal> {
        let payment = self.load(stream).await?;
        let origin = folded::origin(self.store.as_ref(), stream).await.map_err(unavailable)?;
        let span = tracing::info_span!("payment", trace_id = origin.traceparent.get(3..35));
        self.settle_from(stream, payment, &origin, false).instrument(span).await
    }

    async fn settle_from(&self, stream: &StreamId, mut payment: Payment, origin: &Meta, fresh: bool) -> Result<Payment, Refusal> {
        loop {
            let key = &payment.charge.key;
            let outcome = match &payment.stage {
                Stage::Charging => Command::SettleCharge(self.ask_to_charge(stream, &payment, fresh).await?),
                Stage::Refunding { taken: false, .. } => Command::SettleCharge(patiently(self.bank.cancel(key)).await?),
                Stage::Refunding { taken: true, key: refund } => {
                    patiently(self.bank.refund(key, refund)).await?;
                    Command::SettleRefund
                }
                Stage::Untouched | Stage::Charged { .. } | Stage::Declined { .. } | Stage::Refunded => return Ok(payment),
            };
            // Danger: killed here, the bank has acted and nothing says so but the intent. Its timer asks by the same key.
            payment = self.record(stream, &payment, &outcome, origin).await?;
            tracing::info!(stage = payment.stage.word(), "payment settled");
        }
    }

    async fn ask_to_charge(&self, stream: &StreamId, payment: &Payment, fresh: bool) -> Result<crate::payment::Charged, Refusal> {
        let order_id = stream.0.strip_prefix(PREFIX).unwrap_or_default();
        if !fresh && let Some(charged) = patiently(self.bank.outcome(&payment.charge.key)).await? {
            return Ok(charged);
        }
        match patiently(self.bank.charge(&payment.charge, order_id)).await {
            Err(unanswered) if fresh => patiently(self.bank.outcome(&payment.charge.key)).await?.ok_or(unanswered),
            answered => answered,
        }
    }

    /// Commits an outcome under the id of the command that it settles.
    async fn record(&self, stream: &StreamId, payment: &Payment, outcome: &Command, origin: &Meta) -> Result<Payment, Refusal> {
        let id = match (&payment.stage, outcome) {
            (Stage::Refunding { key, .. }, Command::SettleRefund) => key,
            _ => &payment.charge.key,
        };
        let meta = Meta { causation_id: id.clone(), actor: "bank".to_owned(), ..origin.clone() };
        let due = self.process.clock.now().after(LEASE);
        let decide = |payment: &Folded<Payment>| {
            let events = payment.state.decide(outcome).unwrap_or_default();
            let open = arm(stream, &payment.state.clone().fold(&events), due);
            let timer = open.unwrap_or_else(|| TimerChange::Clear { key: stream.0.to_string() });
            Change { reply: vec![], timers: if events.is_empty() { vec![] } else { vec![timer] }, events }
        };
        let id = CommitId::from(id.as_str());
        let (store, ids) = (self.store.as_ref(), &self.process.ids);
        match folded::change::<Payment>(store, ids, stream, &id, &meta, decide).await.map_err(unavailable)? {
            Done::Now(payment) => Ok(payment.state),
            Done::Before(_) => self.load(stream).await,
        }
    }

    async fn load(&self, stream: &StreamId) -> Result<Payment, Refusal> {
        folded::load::<Payment>(self.store.as_ref(), stream).await.map(|payment| payment.state).map_err(unavailable)
    }
}

const PREFIX: &str = "payment-";

fn stream(order_id: &str) -> StreamId {
    StreamId::from(format!("{PREFIX}{order_id}"))
}

/// The timer of a payment that waits for the bank.
fn arm(stream: &StreamId, payment: &Payment, due: clock::Timestamp) -> Option<TimerChange> {
    let open = matches!(payment.stage, Stage::Charging | Stage::Refunding { .. });
    open.then(|| TimerChange::Set { key: stream.0.to_string(), due })
}

async fn patiently<T>(answer: impl Future<Output = Result<T, NoAnswer>>) -> Result<T, Refusal> {
    match tokio::time::timeout(BANK_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(why)) => Err(Refusal::unavailable(why)),
        Err(_) => Err(in_progress()),
    }
}

fn in_progress() -> Refusal {
    Refusal::in_progress("the bank has not answered yet; ask again under the same command id")
}

fn refused(rejection: Rejection) -> Refusal {
    match rejection {
        Rejection::AlreadyRefunded => Refusal::precondition("already_refunded", "the payment was called off before this charge arrived"),
        Rejection::AnotherCharge => Refusal::precondition("another_charge", "the order has been charged under another command id"),
        Rejection::NothingAsked => Refusal::precondition("nothing_asked", "the bank was not asked for anything"),
    }
}
