//! The port to whoever moves money. Every call has a key; the same key is the same charge or refund, whatever is repeated.
use async_trait::async_trait;

use crate::payment::{Charge, Charged};

/// The bank did not answer: whether it did what was asked is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bank did not answer: {0}")]
pub struct NoAnswer(pub String);

/// A bank.
#[async_trait]
pub trait PaymentProvider: Send + Sync + 'static {
    /// Charges, once per key. `reference` is what the bank calls it by when it reports on its own.
    async fn charge(&self, charge: &Charge, reference: &str) -> Result<Charged, NoAnswer>;

    /// What became of the charge with this key; `None` if the bank has not done it (it may still be working on it).
    async fn outcome(&self, key: &str) -> Result<Option<Charged>, NoAnswer>;

    /// Calls a charge off: after it, a charge with this key is never taken. If it was taken or declined before, that is
    /// the answer, and it stands.
    async fn cancel(&self, key: &str) -> Result<Charged, NoAnswer>;

    /// Gives a taken charge back, once per charge.
    async fn refund(&self, charge_key: &str, key: &str) -> Result<(), NoAnswer>;
}
