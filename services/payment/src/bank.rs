//! A bank to try things with: an outside party with a ledger file of its own, idempotent by key, and with cards that
//! misbehave on demand.
//!
//! | token | what the bank does |
//! |---|---|
//! | `pm_card_ok` | takes the money |
//! | `pm_card_declined`, `pm_card_insufficient_funds` | refuses |
//! | `pm_card_slow` | takes it after [`SLOW`] |
//! | `pm_card_lost_reply` | takes it, and never answers |
//! | `pm_card_twice` | takes it, and answers twice |
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use decider::Decider;
use host::Process;
use serde::{Deserialize, Serialize};
use store::folded::{self, Change, Done, Failed, Folded};
use store::{Commit, Meta, Store, StreamId};
use tokio::sync::mpsc;

use crate::payment::{Charge, Charged};
use crate::provider::{NoAnswer, PaymentProvider};

/// How long `pm_card_slow` takes: longer than anybody waits for one try.
pub const SLOW: Duration = Duration::from_secs(3);
/// The tokens that the bank knows.
pub const TOKENS: [&str; 6] = [
    "pm_card_ok",
    "pm_card_declined",
    "pm_card_insufficient_funds",
    "pm_card_slow",
    "pm_card_lost_reply",
    "pm_card_twice",
];

/// A report that the bank makes on its own: the charge known to us as `reference` ended like this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What we called it when we charged.
    pub reference: String,
    /// How it ended.
    pub charged: Charged,
}

/// An entry of the bank's ledger. The stream is `charge-<key>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// Money moved to the shop.
    Debited {
        /// Amount in minor units.
        amount: i64,
        /// ISO 4217 code.
        currency: String,
        /// What the shop calls it.
        reference: String,
    },
    /// The card was refused.
    Refused {
        /// Why.
        reason: String,
    },
    /// Called off before any money moved.
    CalledOff {},
    /// Money moved back.
    Credited {
        /// Key of the refund.
        key: String,
    },
}

/// What the ledger says of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Account {
    /// Nothing.
    #[default]
    Unknown,
    /// Debited, and perhaps credited.
    Debited {
        /// Whether the money was given back.
        credited: bool,
    },
    /// Refused.
    Refused(String),
    /// Called off.
    CalledOff,
}

/// What the bank is asked.
#[derive(Clone, Debug)]
pub enum Ask {
    /// To charge.
    Charge(Charge, String),
    /// To call off.
    Cancel,
    /// To refund, with a key.
    Refund(String),
}

impl Decider for Account {
    type Command = Ask;
    type Event = Entry;
    type Rejection = &'static str;

    fn decide(&self, ask: &Ask) -> Result<Vec<Entry>, &'static str> {
        Ok(match (ask, self) {
            (Ask::Charge(charge, reference), Account::Unknown) => vec![match charge.method.as_str() {
                "pm_card_declined" => Entry::Refused { reason: "card_declined".to_owned() },
                "pm_card_insufficient_funds" => Entry::Refused { reason: "insufficient_funds".to_owned() },
                _ => Entry::Debited {
                    amount: charge.amount,
                    currency: charge.currency.clone(),
                    reference: reference.clone(),
                },
            }],
            (Ask::Cancel, Account::Unknown) => vec![Entry::CalledOff {}],
            (Ask::Refund(key), Account::Debited { credited: false }) => vec![Entry::Credited { key: key.clone() }],
            (Ask::Refund(_), Account::Debited { credited: true }) | (Ask::Charge(..) | Ask::Cancel, _) => vec![],
            (Ask::Refund(_), _) => return Err("there is no such charge to give back"),
        })
    }

    fn evolve(self, entry: &Entry) -> Account {
        match entry {
            Entry::Debited { .. } => Account::Debited { credited: false },
            Entry::Refused { reason } => Account::Refused(reason.clone()),
            Entry::CalledOff {} => Account::CalledOff,
            Entry::Credited { .. } => Account::Debited { credited: true },
        }
    }
}

/// The bank simulator. Clones are the same bank.
#[derive(Clone)]
pub struct Bank {
    process: Process,
    ledger: Arc<dyn Store>,
    reports: mpsc::Sender<Report>,
}

impl Bank {
    /// A bank over its ledger, and the reports that it makes on its own.
    #[must_use]
    pub fn new(process: &Process, ledger: Arc<dyn Store>) -> (Bank, mpsc::Receiver<Report>) {
        let (reports, receiver) = mpsc::channel(1_024);
        (Bank { process: process.clone(), ledger, reports }, receiver)
    }

    async fn ask(&self, key: &str, ask: Ask) -> Result<Account, NoAnswer> {
        let stream = StreamId::from(format!("charge-{key}"));
        let id = match &ask {
            Ask::Charge(..) => key.to_owned(),
            Ask::Cancel => format!("{key}/cancel"),
            Ask::Refund(refund) => refund.clone(),
        };
        let decide = |account: &Folded<Account>| account.state.decide(&ask).map(Change::only);
        let (ledger, ids) = (self.ledger.as_ref(), &self.process.ids);
        // A charge mostly comes first.
        let guess = matches!(ask, Ask::Charge(..)).then(Folded::default);
        match folded::change(ledger, ids, &stream, guess, &Commit::new(id.into(), Meta::default()), decide).await {
            Ok(Done::Now(account) | Done::Nothing(account)) => Ok(account.state),
            Ok(Done::Before(_)) => self.account(key).await,
            Err(Failed::Rejected(why)) => Err(NoAnswer(format!("{why}: {key}"))),
            Err(Failed::Store(why)) => Err(NoAnswer(why.to_string())),
        }
    }

    async fn account(&self, key: &str) -> Result<Account, NoAnswer> {
        let account = folded::load(self.ledger.as_ref(), &StreamId::from(format!("charge-{key}"))).await;
        account.map(|account| account.state).map_err(|why| NoAnswer(why.to_string()))
    }

    async fn charge_at_leisure(&self, charge: Charge, reference: String) -> Result<Charged, NoAnswer> {
        if charge.method == "pm_card_slow" {
            tokio::time::sleep(SLOW).await;
        }
        let (key, method) = (charge.key.clone(), charge.method.clone());
        let account = self.ask(&key, Ask::Charge(charge, reference.clone())).await?;
        let charged =
            charged(&key, &account).ok_or_else(|| NoAnswer("the ledger forgot what it just wrote".to_owned()))?;
        if method == "pm_card_twice" {
            // A report that finds no room is one that got lost on the way.
            let _ = self.reports.try_send(Report { reference, charged: charged.clone() });
        }
        Ok(charged)
    }
}

fn charged(key: &str, account: &Account) -> Option<Charged> {
    match account {
        Account::Unknown => None,
        Account::Debited { .. } => Some(Charged::Taken { reference: format!("bank-{key}") }),
        Account::Refused(reason) => Some(Charged::Declined { reason: reason.clone() }),
        Account::CalledOff => Some(Charged::CalledOff {}),
    }
}

#[async_trait]
impl PaymentProvider for Bank {
    async fn charge(&self, charge: &Charge, reference: &str) -> Result<Charged, NoAnswer> {
        // The bank goes on when the caller hangs up.
        let (bank, charge, reference) = (self.clone(), charge.clone(), reference.to_owned());
        let (mut answer, answered) = tokio::sync::oneshot::channel();
        let work = async move {
            let silent = charge.method == "pm_card_lost_reply";
            let charged = bank.charge_at_leisure(charge, reference).await;
            if silent {
                // Until the caller hangs up.
                return answer.closed().await;
            }
            drop(answer.send(charged));
        };
        self.process.tasks.spawn(work);
        answered.await.unwrap_or_else(|_| Err(NoAnswer("the bank closes".to_owned())))
    }

    async fn outcome(&self, key: &str) -> Result<Option<Charged>, NoAnswer> {
        Ok(charged(key, &self.account(key).await?))
    }

    async fn cancel(&self, key: &str) -> Result<Charged, NoAnswer> {
        let account = self.ask(key, Ask::Cancel).await?;
        charged(key, &account).ok_or_else(|| NoAnswer("the ledger forgot what it just wrote".to_owned()))
    }

    async fn refund(&self, charge_key: &str, key: &str) -> Result<(), NoAnswer> {
        self.ask(charge_key, Ask::Refund(key.to_owned())).await.map(|_| ())
    }
}
