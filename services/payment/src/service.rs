//! Use cases: charge and refund, as a participant with a provider (see [`saga::participant`]).
//!
//! The bank is asked under the command's id as key. A charge that was not answered is asked after by its key, and asked for
//! again under it. An undo that finds a charge unsettled calls it off by its key first; only then it is clear whether
//! there is money to give back.
use std::sync::Arc;
use std::time::Duration;

use host::call::Caller;
use host::error::Refusal;
use host::{Process, check};
use proto::payment::{ChargePaymentRequest, ChargePaymentResponse, RefundPaymentRequest, RefundPaymentResponse};
use saga::participant::{Asking, Awaits, Participant, in_progress};
use store::folded::Folded;
use store::{Meta, Store, StreamId};

use crate::payment::{Charge, Charged, Command, Payment, Rejection, Stage};
use crate::provider::PaymentProvider;

/// How long the bank may take to answer: less than a saga waits for a step, so that "in progress" is heard.
pub const BANK_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long after its intent a payment is looked at again: a charge is asked for, and then asked after.
pub const LEASE: Duration = Duration::from_millis(3_500);

impl Asking for Payment {
    fn awaits(&self) -> Awaits {
        match self.stage {
            Stage::Charging | Stage::Refunding { .. } => Awaits::Answer,
            _ => Awaits::Nothing,
        }
    }
}

/// The payments of the shop. Clones share them.
#[derive(Clone)]
pub struct Payments {
    payments: Participant<Payment>,
    bank: Arc<dyn PaymentProvider>,
}

impl Payments {
    /// Payments over the service's store and a bank.
    pub fn new(process: &Process, store: Arc<dyn Store>, bank: Arc<dyn PaymentProvider>) -> Payments {
        Payments { payments: Participant::new(process, store, "payment", BANK_TIMEOUT, LEASE), bank }
    }

    /// Listens to timers until the process stops.
    pub fn listen(&self) {
        let this = self.clone();
        self.payments.listen(move |stream, payment, origin| {
            let this = this.clone();
            async move { this.settle(&stream, payment, &origin, false).await }
        });
    }

    /// Charges an order, once.
    ///
    /// # Errors
    /// The bank's refusal, `already_refunded`, or `in_progress`.
    pub async fn charge(
        &self,
        caller: &Caller,
        request: ChargePaymentRequest,
    ) -> Result<ChargePaymentResponse, Refusal> {
        let ChargePaymentRequest { order_id, amount, currency, payment_method: method } = request;
        check::id("order_id", &order_id)?;
        check::number("amount", amount, 1..=1_000_000_000_000)?;
        check::text("currency", &currency, 3..=3)?;
        crate::known_method(&method)?;
        let key = caller.command()?.to_string();
        let payment =
            self.carry_out(caller, &order_id, &Command::Charge(Charge { key, amount, currency, method })).await?;
        match payment.stage {
            Stage::Charged { reference } => Ok(ChargePaymentResponse { reference }),
            Stage::Declined { reason } => {
                Err(Refusal::precondition(reason, "the bank refused the card; choose another way to pay"))
            }
            Stage::Untouched | Stage::Charging => Err(in_progress()),
            Stage::Refunding { .. } | Stage::Refunded => Err(Rejection::AlreadyRefunded.into()),
        }
    }

    /// Gives the money of an order back, or sees that none is ever taken.
    ///
    /// # Errors
    /// `in_progress` while the bank has not answered.
    pub async fn refund(
        &self,
        caller: &Caller,
        request: RefundPaymentRequest,
    ) -> Result<RefundPaymentResponse, Refusal> {
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
        self.payments.load(&self.payments.stream(order_id)).await.map(|payment| payment.state)
    }

    /// The bank reported on its own how the charge of an order ended.
    ///
    /// # Errors
    /// If it was not asked for that; UNAVAILABLE if it cannot be recorded, and the timer finds out then.
    pub async fn reported(&self, order_id: &str, charged: Charged) -> Result<(), Refusal> {
        let stream = self.payments.stream(order_id);
        let payment = self.payments.load(&stream).await?;
        if payment.state.stage == Stage::Untouched {
            return Err(Rejection::NothingAsked.into());
        }
        let origin = self.payments.origin(&stream).await?;
        let key = payment.state.charge.key.clone();
        self.payments.record(&stream, payment, &key, &Command::SettleCharge(charged), &origin).await.map(|_| ())
    }

    async fn carry_out(&self, caller: &Caller, order_id: &str, command: &Command) -> Result<Payment, Refusal> {
        // A charge mostly comes first.
        let guess = matches!(command, Command::Charge(_)).then(Folded::default);
        let intent = self.payments.intend(caller, order_id, command, guess).await?;
        match intent.to_settle {
            Some((stream, origin)) => {
                self.settle(&stream, intent.folded, &origin, true).await.map(|payment| payment.state)
            }
            None => Ok(intent.folded.state),
        }
    }

    /// Takes an open payment as far as the bank answers. `fresh` is one that nobody has asked the bank about.
    async fn settle(
        &self,
        stream: &StreamId,
        mut payment: Folded<Payment>,
        origin: &Meta,
        fresh: bool,
    ) -> Result<Folded<Payment>, Refusal> {
        loop {
            let Payment { stage, charge } = payment.state.clone();
            let key = &charge.key;
            let (id, outcome) = match &stage {
                Stage::Charging => (key, Command::SettleCharge(self.ask_to_charge(stream, &charge, fresh).await?)),
                Stage::Refunding { taken: false, .. } => {
                    (key, Command::SettleCharge(self.payments.patiently(self.bank.cancel(key)).await?))
                }
                Stage::Refunding { taken: true, key: refund } => {
                    self.payments.patiently(self.bank.refund(key, refund)).await?;
                    (refund, Command::SettleRefund)
                }
                Stage::Untouched | Stage::Charged { .. } | Stage::Declined { .. } | Stage::Refunded => {
                    return Ok(payment);
                }
            };
            // Danger: killed here, the bank has acted and nothing says so but the intent. Its timer asks by the same key.
            payment = self.payments.record(stream, payment, id, &outcome, origin).await?;
            let order_id = self.payments.order_id(stream);
            tracing::info!(order_id, stage = payment.state.stage.word(), "payment settled");
        }
    }

    async fn ask_to_charge(&self, stream: &StreamId, charge: &Charge, fresh: bool) -> Result<Charged, Refusal> {
        let order_id = self.payments.order_id(stream);
        let asked_after = || self.payments.patiently(self.bank.outcome(&charge.key));
        if !fresh && let Some(charged) = asked_after().await? {
            return Ok(charged);
        }
        match self.payments.patiently(self.bank.charge(charge, order_id)).await {
            Err(unanswered) if fresh => asked_after().await?.ok_or(unanswered),
            answered => answered,
        }
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Refusal {
        let (reason, message) = match rejection {
            Rejection::AlreadyRefunded => ("already_refunded", "the payment was called off before this charge arrived"),
            Rejection::AnotherCharge => ("another_charge", "the order has been charged under another command id"),
            Rejection::NothingAsked => ("nothing_asked", "the bank was not asked for anything"),
        };
        Refusal::precondition(reason, message)
    }
}
