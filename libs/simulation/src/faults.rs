//! What goes wrong, where and how often: decided by the seed, counted, and each of it can be left out.
//!
//! # Problem
//! A fault that a random generator strews cannot be taken back without changing all that come after it: a run that fails
//! under two hundred faults says nothing about the two that matter.
//!
//! # Pattern
//! Faults as a function of the seed, the place and how often it was asked there; a run is repeated with some of them spared
//! until none is left that is not needed (delta debugging).
//!
//! # Here
//! Whoever may fail asks [`Faults::strikes`]. Planned faults (crashes, partitions) ask too, once each. From the moment that
//! [`Faults::make_peace`] is called nothing strikes any more, and liveness is owed.
//!
//! # Limits
//! Sparing a fault changes what happens after it, so what is left is small, not the smallest.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::chance::{mix, number_of};

macro_rules! classes {
    ($($name:ident $word:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "their words say it")]
        pub enum Class { $($name),* }

        impl Class {
            /// All of them.
            pub const ALL: &[Class] = &[$(Class::$name),*];

            /// What it is called in summaries and arguments.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Class::$name => $word),* }
            }
        }
    };
}

classes! {
    Crash "host-crash",
    Partition "partition",
    PartitionOneWay "partition-one-way",
    Loss "loss",
    Reset "reset",
    StoreBefore "store-unavailable-before",
    StoreAfter "store-unavailable-after",
    StoreInDoubt "store-in-doubt",
    StoreSlow "store-slow",
    StoreRead "store-unreadable",
    StoreLate "positions-late",
    BusRefuses "bus-refuses",
    BusCuts "bus-keeps-a-prefix",
    BusUnknown "bus-answer-lost",
    BusSlow "bus-delay",
    BusRepeats "bus-repeats",
    BusMixes "bus-reorders",
    BusReplaces "member-replaced",
    Poison "poison",
    BankHangs "bank-hangs",
    BankReplyLost "bank-reply-lost",
    BankTwice "bank-reports-twice",
    BankLate "bank-settles-late",
    CarrierHangs "carrier-hangs",
    CarrierReplyLost "carrier-reply-lost",
    Skew "clock-skew",
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Class {
    type Err = String;

    fn from_str(word: &str) -> Result<Class, String> {
        let known = || Class::ALL.iter().map(|class| class.word()).collect::<Vec<_>>().join(", ");
        let class = Class::ALL.iter().copied().find(|class| class.word() == word);
        class.ok_or_else(|| format!("no kind of fault is called {word}; there are {}", known()))
    }
}

/// One fault of a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Strike {
    /// What kind.
    pub class: Class,
    /// Where, such as `order-1`.
    pub place: String,
    /// How often that kind could have struck there before.
    pub number: u64,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}#{}", self.class, self.place, self.number)
    }
}

impl FromStr for Strike {
    type Err = String;

    fn from_str(word: &str) -> Result<Strike, String> {
        let parts = word.split_once('@').and_then(|(class, rest)| Some((class, rest.rsplit_once('#')?)));
        let (class, (place, number)) = parts.ok_or_else(|| format!("a fault is KIND@PLACE#NUMBER, not {word}"))?;
        let number = number.parse().map_err(|_| format!("the number of a fault is one, not {number}"))?;
        Ok(Strike { class: class.parse()?, place: place.to_owned(), number })
    }
}

/// What is left out of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spared {
    /// Whole kinds.
    pub classes: BTreeSet<Class>,
    /// Single ones.
    pub strikes: BTreeSet<Strike>,
}

impl Spared {
    /// Whether nothing is left out.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.classes.is_empty() && self.strikes.is_empty()
    }
}

impl fmt::Display for Spared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes = self.classes.iter().map(ToString::to_string);
        f.write_str(&classes.chain(self.strikes.iter().map(ToString::to_string)).collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Spared {
    type Err = String;

    fn from_str(words: &str) -> Result<Spared, String> {
        let mut spared = Spared::default();
        for word in words.split(',').filter(|word| !word.is_empty()) {
            if word.contains('@') {
                _ = spared.strikes.insert(word.parse()?)
            } else {
                _ = spared.classes.insert(word.parse()?)
            }
        }
        Ok(spared)
    }
}

/// The faults of one run. Clones share them.
#[derive(Clone)]
pub struct Faults(Arc<Mutex<State>>);

struct State {
    seed: u64,
    peace: bool,
    spared: Spared,
    asked: BTreeMap<(Class, String), u64>,
    struck: Vec<Strike>,
    counts: BTreeMap<Class, u64>,
}

impl Faults {
    /// The faults of a seed, without some.
    #[must_use]
    pub fn of(seed: u64, spared: Spared) -> Faults {
        let (asked, counts) = Default::default();
        Faults(Arc::new(Mutex::new(State { seed, peace: false, spared, asked, struck: vec![], counts })))
    }

    /// Whether a fault strikes here now, once in `one_in` times; and a number to draw its extent from.
    pub fn strikes(&self, class: Class, place: &str, one_in: u64) -> Option<u64> {
        let mut state = self.state();
        let number = state.asked.entry((class, place.to_owned())).or_default();
        *number += 1;
        let number = *number;
        if state.peace {
            return None;
        }
        let drawn = mix(&[state.seed, class as u64, number_of(place), number]);
        if !drawn.is_multiple_of(one_in.max(1)) {
            return None;
        }
        let strike = Strike { class, place: place.to_owned(), number };
        if state.spared.classes.contains(&class) || state.spared.strikes.contains(&strike) {
            return None;
        }
        *state.counts.entry(class).or_default() += 1;
        state.struck.push(strike);
        Some(mix(&[drawn]))
    }

    /// A number for this place that is no fault, such as how long something takes.
    pub fn drawn(&self, what: &'static str, place: &str) -> u64 {
        let mut state = self.state();
        let key = (Class::Skew, format!("{what} {place}"));
        let number = state.asked.entry(key).or_default();
        *number += 1;
        let number = *number;
        mix(&[state.seed, number_of(what), number_of(place), number])
    }

    /// Counts what happened by itself.
    pub fn seen(&self, class: Class) {
        *self.state().counts.entry(class).or_default() += 1;
    }

    /// From here on nothing strikes.
    pub fn make_peace(&self) {
        self.state().peace = true;
    }

    /// Whether nothing strikes any more.
    #[must_use]
    pub fn at_peace(&self) -> bool {
        self.state().peace
    }

    /// What struck, in its order.
    #[must_use]
    pub fn struck(&self) -> Vec<Strike> {
        self.state().struck.clone()
    }

    /// How often each kind struck.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Class, u64> {
        self.state().counts.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The faults that a failure needs, of those that struck: halves, quarters and so on are spared for as long as it still
/// fails, within `tries` runs.
pub fn needed(struck: &[Strike], mut tries: usize, fails: impl Fn(&Spared) -> bool) -> Spared {
    let mut spared = Spared::default();
    for class in Class::ALL {
        let mut without = spared.clone();
        without.classes.insert(*class);
        if struck.iter().any(|strike| strike.class == *class) && tries > 0 {
            tries -= 1;
            if fails(&without) {
                spared = without;
            }
        }
    }
    let mut left: Vec<&Strike> = struck.iter().filter(|strike| !spared.classes.contains(&strike.class)).collect();
    let mut size = left.len().div_ceil(2);
    while size > 0 && tries > 0 && !left.is_empty() {
        let mut kept = vec![];
        for part in left.chunks(size) {
            let mut without = spared.clone();
            without.strikes.extend(part.iter().map(|strike| (*strike).clone()));
            tries = tries.saturating_sub(1);
            if tries > 0 && fails(&without) { spared = without } else { kept.extend_from_slice(part) }
        }
        left = kept;
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    spared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(spared: Spared) -> Faults {
        let faults = Faults::of(5, spared);
        for n in 0..3_000 {
            faults.strikes(Class::Reset, ["a", "b"][n % 2], 10);
            faults.strikes(Class::StoreSlow, "a", 20);
        }
        faults
    }

    #[test]
    fn the_seed_decides_and_sparing_one_moves_no_other() {
        let all = run(Spared::default()).struck();
        assert_eq!(all, run(Spared::default()).struck());
        assert!((350..550).contains(&all.len()), "{}", all.len());
        let mut spared = Spared::default();
        spared.strikes.insert(all[3].clone());
        let mut without = all;
        without.remove(3);
        assert_eq!(run(spared).struck(), without);
        spared = Spared::default();
        spared.classes.insert(Class::Reset);
        assert!(run(spared).struck().iter().all(|strike| strike.class == Class::StoreSlow));
    }

    #[test]
    fn a_fault_is_read_as_it_is_written() {
        let strike = Strike { class: Class::StoreInDoubt, place: "order-1/order".into(), number: 7 };
        assert_eq!(strike.to_string().parse(), Ok(strike.clone()));
        let spared = Spared { classes: [Class::Reset, Class::Skew].into(), strikes: [strike].into() };
        assert_eq!(spared.to_string().parse(), Ok(spared));
        assert!(Class::ALL.iter().all(|class| class.word().parse() == Ok(*class)));
        for word in ["", "reset", "reset@a", "reset@a#x", "earthquake@a#1"] {
            assert!(word.parse::<Strike>().is_err(), "{word}");
        }
    }

    #[test]
    fn in_peace_nothing_strikes() {
        let faults = Faults::of(5, Spared::default());
        faults.make_peace();
        assert!((0..1_000).all(|_| faults.strikes(Class::Reset, "a", 1).is_none()));
        assert_eq!(faults.counts(), BTreeMap::new());
    }

    #[test]
    fn what_a_failure_does_not_need_is_left_out() {
        let all = run(Spared::default()).struck();
        let needs = [all[40].clone(), all[300].clone()];
        let fails = |spared: &Spared| {
            needs.iter().all(|strike| !spared.classes.contains(&strike.class) && !spared.strikes.contains(strike))
        };
        let spared = needed(&all, 500, fails);
        let left: Vec<_> = run(spared).struck();
        assert_eq!(left, needs);
    }
}
