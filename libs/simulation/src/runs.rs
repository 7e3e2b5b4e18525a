//! Many seeds, one after another: each in a process of its own, some of them twice; and a broken one with the faults that it
//! needs.
//!
//! A process, for tokio draws some of its chance from a count that goes on from runtime to runtime.
use std::collections::BTreeMap;
use std::thread;

use crate::entropy;
use crate::faults::{Class, Spared, Strike, needed};

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What did not hold; empty if all did.
    pub broken: Vec<Broken>,
    /// What happened.
    pub trace: Vec<String>,
    /// Differs if anything that happened does.
    pub hash: u64,
    /// The faults that struck.
    pub struck: Vec<Strike>,
    /// How often each kind did, those included that happen by themselves.
    pub counts: BTreeMap<Class, u64>,
    /// What was done, by words of the run's own.
    pub done: BTreeMap<String, u64>,
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its number, such as `I-3`.
    pub invariant: String,
    /// What was found.
    pub sentence: String,
}

/// What is run: a seed, without some of its faults.
pub type Run = dyn Fn(u64, &Spared) -> Outcome + Sync;

/// One run, the only one of this process, on a thread whose chance is the seed's. If it panics it is broken.
pub fn alone(run: &Run, seed: u64, spared: &Spared) -> Outcome {
    let outcome = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            entropy::seed(seed);
            align_task_ids();
            run(seed, spared)
        });
        worker.join()
    });
    outcome.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let sentence = said.unwrap_or("something that is no text").to_owned();
        Outcome { broken: vec![Broken { invariant: "no panic".to_owned(), sentence }], ..Outcome::default() }
    })
}

/// tokio drops the tasks of a host that crashes in an order that depends on their ids, and ids go on from run to run.
#[expect(clippy::disallowed_methods, reason = "it is ids that are wanted, and no work")]
fn align_task_ids() {
    const EVERY: u64 = 64;
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    let next = || runtime.block_on(async { tokio::spawn(async {}).id().to_string().parse::<u64>().unwrap_or(0) });
    while next() % EVERY != EVERY - 1 {}
}

/// The sum of many runs.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Runs that held.
    pub held: u64,
    /// The first that did not.
    pub broken: Option<(u64, Outcome)>,
    /// Runs that were repeated and compared.
    pub repeated: u64,
    /// Faults by kind.
    pub counts: BTreeMap<Class, u64>,
    /// What was done.
    pub done: BTreeMap<String, u64>,
    /// Mixed from all runs: two campaigns over the same seeds have the same.
    pub hash: u64,
}

impl Summary {
    /// Adds what another process found.
    pub fn add(&mut self, other: Summary) {
        self.held += other.held;
        self.repeated += other.repeated;
        self.hash = crate::chance::mix(&[self.hash, other.hash]);
        other.counts.into_iter().for_each(|(class, count)| *self.counts.entry(class).or_default() += count);
        other.done.into_iter().for_each(|(what, count)| *self.done.entry(what).or_default() += count);
    }
}

/// What does not hold of a seed that does not decide its run.
const SAME: &str = "the seed decides";
/// Every so many seeds one is run twice.
const REPEAT_EVERY: u64 = 10;

/// Runs further seeds until one is broken. `progress` is told after each that held.
pub fn campaign(
    run: &Run,
    mut summary: Summary,
    seeds: impl IntoIterator<Item = u64>,
    progress: impl Fn(&Summary, u64),
) -> Summary {
    for seed in seeds {
        let mut outcome = run(seed, &Spared::default());
        if outcome.broken.is_empty() && seed % REPEAT_EVERY == 0 {
            summary.repeated += 1;
            outcome.broken.extend(difference(&outcome, &run(seed, &Spared::default())));
        }
        if !outcome.broken.is_empty() {
            summary.broken = Some((seed, outcome));
            return summary;
        }
        summary.held += 1;
        summary.hash = crate::chance::mix(&[summary.hash, outcome.hash]);
        for (class, count) in outcome.counts {
            *summary.counts.entry(class).or_default() += count;
        }
        for (what, count) in outcome.done {
            *summary.done.entry(what).or_default() += count;
        }
        progress(&summary, seed);
    }
    summary
}

fn difference(one: &Outcome, two: &Outcome) -> Option<Broken> {
    let sentence = || format!("run twice, it is {:016x} and {:016x}", one.hash, two.hash);
    (one.hash != two.hash).then(|| Broken { invariant: SAME.to_owned(), sentence: sentence() })
}

/// The same failure with fewer faults: what can be spared, and the run without it.
#[must_use]
pub fn smaller(run: &Run, seed: u64, outcome: &Outcome, tries: usize) -> (Spared, Outcome) {
    if outcome.broken.iter().any(|broken| broken.invariant == SAME) {
        return (Spared::default(), outcome.clone());
    }
    let wanted: Vec<_> = outcome.broken.iter().map(|broken| broken.invariant.clone()).collect();
    let breaks = |outcome: &Outcome| outcome.broken.iter().any(|broken| wanted.contains(&broken.invariant));
    let spared = needed(&outcome.struck, tries, |spared| breaks(&run(seed, spared)));
    let without = run(seed, &spared);
    if breaks(&without) { (spared, without) } else { (Spared::default(), outcome.clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Faults;

    fn toy(seed: u64, spared: &Spared) -> Outcome {
        let faults = Faults::of(seed, spared.clone());
        let hits = (0..50).filter(|_| faults.strikes(Class::Reset, "a", 5).is_some()).count();
        let mut outcome =
            Outcome { struck: faults.struck(), counts: faults.counts(), hash: seed, ..Outcome::default() };
        if seed == 7 && hits >= 2 {
            outcome.broken.push(Broken { invariant: "I-0".into(), sentence: "two at once".into() });
        }
        outcome
    }

    #[test]
    fn a_campaign_stops_at_the_first_that_is_broken_and_two_are_the_same() {
        let summary = campaign(&toy, Summary::default(), 0..7, |_, _| {});
        assert_eq!((summary.held, summary.repeated, summary.broken.is_none()), (7, 1, true));
        assert_eq!(campaign(&toy, Summary::default(), 0..7, |_, _| {}).hash, summary.hash);
        let (seed, outcome) = campaign(&toy, Summary::default(), 0..20, |_, _| {}).broken.unwrap();
        assert_eq!((seed, outcome.broken[0].sentence.as_str()), (7, "two at once"));
        let (_, small) = smaller(&toy, seed, &outcome, 200);
        assert_eq!(small.struck.len(), 2);
    }

    #[test]
    fn a_panic_and_a_run_that_differs_from_itself_are_broken() {
        let bug = |_: u64, _: &Spared| -> Outcome { panic!("a bug") };
        assert_eq!(alone(&bug, 1, &Spared::default()).broken[0].sentence, "a bug");
        static TURN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let fickle = |_: u64, _: &Spared| Outcome {
            hash: TURN.fetch_add(1, std::sync::atomic::Ordering::SeqCst),
            ..Outcome::default()
        };
        assert_eq!(
            campaign(&fickle, Summary::default(), 10..11, |_, _| {}).broken.unwrap().1.broken[0].invariant,
            "the seed decides"
        );
    }
}
