//! Bank and carrier on a bad day: they hang, act without answering, and act long after they were given up.
use std::future::pending;
use std::time::Duration;

use async_trait::async_trait;
use host::Process;
use payment::bank::Bank;
use payment::payment::{Charge, Charged};
use payment::provider::{self, PaymentProvider};
use shipping::carrier::{Carrier, NoAnswer, Simulator};
use shipping::shipment::{Booked, Parcel, PickedUp};
use simulation::faults::Class;

use crate::world::World;

const HANGS: u64 = 25;
const REPLY_LOST: u64 = 25;
const LATE: u64 = 30;

/// A bank with faults.
pub struct UnreliableBank {
    world: World,
    process: Process,
    bank: Bank,
}

impl UnreliableBank {
    pub fn new(world: &World, process: &Process, bank: Bank) -> UnreliableBank {
        UnreliableBank { world: world.clone(), process: process.clone(), bank }
    }
}

fn strikes(world: &World, class: Class, place: &str, one_in: u64) -> Option<u64> {
    let struck = world.faults.strikes(class, place, one_in)?;
    world.trace.line(&format!("FAULT {class}"));
    Some(struck)
}

/// Does what is asked, or not, and answers, or not.
async fn perhaps<T>(world: &World, (hangs, lost): (Class, Class), place: &str, work: impl Future<Output = T>) -> T {
    if strikes(world, hangs, place, HANGS).is_some() {
        pending::<()>().await;
    }
    let done = work.await;
    if strikes(world, lost, place, REPLY_LOST).is_some() {
        pending::<()>().await;
    }
    done
}

const BANK: (Class, Class) = (Class::BankHangs, Class::BankReplyLost);
const CARRIER: (Class, Class) = (Class::CarrierHangs, Class::CarrierReplyLost);

#[async_trait]
impl PaymentProvider for UnreliableBank {
    async fn charge(&self, charge: &Charge, reference: &str) -> Result<Charged, provider::NoAnswer> {
        let charge = match &self.world.sabotage {
            Some(sabotage) => sabotage.charge(charge, &self.process),
            None => charge.clone(),
        };
        if charge.method == "pm_card_twice" {
            self.world.faults.seen(Class::BankTwice);
        }
        if let Some(drawn) = strikes(&self.world, Class::BankLate, "charge", LATE) {
            let (bank, reference) = (self.bank.clone(), reference.to_owned());
            self.process.tasks.spawn(async move {
                tokio::time::sleep(Duration::from_millis(drawn % 5_000)).await;
                // Nobody waits for it any more.
                drop(bank.charge(&charge, &reference).await);
            });
            return pending().await;
        }
        perhaps(&self.world, BANK, "charge", self.bank.charge(&charge, reference)).await
    }

    async fn outcome(&self, key: &str) -> Result<Option<Charged>, provider::NoAnswer> {
        perhaps(&self.world, BANK, "outcome", self.bank.outcome(key)).await
    }

    async fn cancel(&self, key: &str) -> Result<Charged, provider::NoAnswer> {
        perhaps(&self.world, BANK, "cancel", self.bank.cancel(key)).await
    }

    async fn refund(&self, charge_key: &str, key: &str) -> Result<(), provider::NoAnswer> {
        perhaps(&self.world, BANK, "refund", self.bank.refund(charge_key, key)).await
    }
}

/// A carrier with faults.
pub struct UnreliableCarrier {
    world: World,
    carrier: Simulator,
}

impl UnreliableCarrier {
    pub fn new(world: &World, carrier: Simulator) -> UnreliableCarrier {
        UnreliableCarrier { world: world.clone(), carrier }
    }
}

#[async_trait]
impl Carrier for UnreliableCarrier {
    async fn book(&self, parcel: &Parcel) -> Result<Booked, NoAnswer> {
        perhaps(&self.world, CARRIER, "book", self.carrier.book(parcel)).await
    }

    async fn cancel(&self, key: &str) -> Result<PickedUp, NoAnswer> {
        perhaps(&self.world, CARRIER, "cancel", self.carrier.cancel(key)).await
    }

    async fn pick_up(&self, key: &str) -> Result<PickedUp, NoAnswer> {
        perhaps(&self.world, CARRIER, "pick-up", self.carrier.pick_up(key)).await
    }

    async fn delivered(&self, key: &str) -> Result<bool, NoAnswer> {
        perhaps(&self.world, CARRIER, "delivered", self.carrier.delivered(key)).await
    }
}
