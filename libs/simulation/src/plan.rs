//! What is planned to go wrong with hosts and links, and when.
use std::time::Duration;

use turmoil::Sim;

use crate::chance::Chance;
use crate::faults::{Class, Faults};

/// Something that happens to hosts or links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A host dies.
    Crash(String),
    /// It starts again.
    Start(String),
    /// Nothing gets from one to the other, in both directions or only in this one.
    Cut(String, String, bool),
    /// It does again.
    Heal(String, String, bool),
}

/// Candidates of each kind in a run; one in two of them strikes.
const CRASHES: u64 = 7;
const CUTS: u64 = 5;
const LOSSES: u64 = 12;

/// The plan of a seed for these hosts, up to some time: in order, and each fault with its end.
#[must_use]
pub fn plan(faults: &Faults, seed: u64, hosts: &[String], until: Duration) -> Vec<(Duration, Action)> {
    let mut chance = Chance::of(seed, "plan");
    let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
    let mut plan = vec![];
    let mut add = |chance: &mut Chance, strikes: bool, lasts: (u64, u64), action: (Action, Action)| {
        let at = 200 + chance.below(until);
        let end = at + lasts.0 + chance.below(lasts.1);
        if strikes {
            plan.push((Duration::from_millis(at), action.0));
            plan.push((Duration::from_millis(end), action.1));
        }
    };
    for _ in 0..CRASHES {
        let host = chance.pick(hosts).clone();
        let strikes = faults.strikes(Class::Crash, "plan", 2).is_some();
        let lasts = if chance.one_in(5) { (3_000, 6_000) } else { (20, 2_500) };
        add(&mut chance, strikes, lasts, (Action::Crash(host.clone()), Action::Start(host)));
    }
    for (class, count, lasts) in [
        (Class::Partition, CUTS, (200, 3_000)),
        (Class::PartitionOneWay, CUTS, (200, 3_000)),
        (Class::Loss, LOSSES, (2, 30)),
    ] {
        for _ in 0..count {
            let (a, b) = (chance.pick(hosts).clone(), chance.pick(hosts).clone());
            let both = class == Class::Partition;
            let strikes = a != b && faults.strikes(class, "plan", 2).is_some();
            let action = (Action::Cut(a.clone(), b.clone(), both), Action::Heal(a, b, both));
            add(&mut chance, strikes, lasts, action);
        }
    }
    plan.sort_by_key(|(at, _)| *at);
    plan
}

impl Action {
    /// Makes it happen, if it can: a host dies once at a time.
    pub fn carry_out(&self, sim: &mut Sim<'_>) -> bool {
        match self {
            Action::Crash(host) if sim.is_host_running(host.as_str()) => sim.crash(host.as_str()),
            Action::Start(host) if !sim.is_host_running(host.as_str()) => sim.bounce(host.as_str()),
            Action::Crash(_) | Action::Start(_) => return false,
            Action::Cut(a, b, true) => sim.partition(a.as_str(), b.as_str()),
            Action::Cut(a, b, false) => sim.partition_oneway(a.as_str(), b.as_str()),
            Action::Heal(a, b, true) => sim.repair(a.as_str(), b.as_str()),
            Action::Heal(a, b, false) => sim.repair_oneway(a.as_str(), b.as_str()),
        }
        true
    }
}
