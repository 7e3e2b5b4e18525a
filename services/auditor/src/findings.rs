//! PURE. What does not hold at present, invariant by invariant, whatever page it stands on.
//!
//! Pages are in memory only while something happens to them, so what is wrong with them is kept here as well: counted
//! exactly, and listed up to [`MOST_LISTED`] for each invariant. Whoever judges a page again says what it counted for before;
//! a page that is good again counts no more.
use std::collections::BTreeMap;

use clock::Timestamp;
use serde::{Deserialize, Serialize};

use crate::invariant::{Finding, Invariant};

/// So many findings of an invariant are listed.
pub const MOST_LISTED: usize = 50;

/// What does not hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    broken: BTreeMap<Invariant, Broken>,
    /// The last message of each partition that belongs to no page.
    strays: BTreeMap<String, u64>,
}

/// How an invariant is broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// Since when, counted from when it last held.
    pub since: Timestamp,
    /// By how many pages, shelves and messages.
    pub count: u64,
    /// By some of them, each with what is wrong there.
    pub listed: BTreeMap<String, Vec<Finding>>,
}

impl Findings {
    /// Puts what is wrong with a page or shelf now in the place of what was. `before` is what it counted for, and becomes
    /// what it counts for. Whether anything changed.
    pub fn replace(&mut self, subject: &str, before: &mut Vec<Invariant>, findings: Vec<Finding>) -> bool {
        let mut now = BTreeMap::<Invariant, Vec<Finding>>::new();
        findings.into_iter().for_each(|finding| now.entry(finding.invariant).or_default().push(finding));
        let mut changed = false;
        for invariant in before.iter().filter(|invariant| !now.contains_key(invariant)) {
            self.heal(*invariant, subject);
            changed = true;
        }
        let invariants = now.keys().copied().collect();
        for (invariant, findings) in now {
            changed |= self.count(invariant, subject, findings, before.contains(&invariant));
        }
        *before = invariants;
        changed
    }

    /// A message that belongs to no page, at this offset of its partition; `false` for one that was counted before.
    pub fn stray(&mut self, partition: &str, offset: u64, finding: Finding) -> bool {
        if self.strays.get(partition).is_some_and(|last| offset <= *last) {
            return false;
        }
        self.strays.insert(partition.to_owned(), offset);
        self.count(finding.invariant, &format!("{partition}/{offset}"), vec![finding], false)
    }

    fn heal(&mut self, invariant: Invariant, subject: &str) {
        let Some(broken) = self.broken.get_mut(&invariant) else { return };
        broken.listed.remove(subject);
        broken.count = broken.count.saturating_sub(1);
        if broken.count == 0 {
            self.broken.remove(&invariant);
        }
    }

    fn count(&mut self, invariant: Invariant, subject: &str, findings: Vec<Finding>, counted: bool) -> bool {
        let since = findings.iter().map(|finding| finding.since).min().unwrap_or_default();
        let new = || Broken { since, count: 0, listed: BTreeMap::new() };
        let broken = self.broken.entry(invariant).or_insert_with(new);
        if !counted {
            broken.count += 1;
            broken.since = broken.since.min(since);
        }
        let room = broken.listed.len() < MOST_LISTED || broken.listed.contains_key(subject);
        let same = !room || broken.listed.get(subject) == Some(&findings);
        if !same {
            broken.listed.insert(subject.to_owned(), findings);
        }
        !(counted && same)
    }

    /// How the invariant is broken; `None` if it holds.
    #[must_use]
    pub fn broken(&self, invariant: Invariant) -> Option<&Broken> {
        self.broken.get(&invariant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(invariant: Invariant, since: i64) -> Finding {
        let (stream, sentence) = ("order-1".into(), "it is wrong".into());
        Finding { invariant, stream, since: Timestamp(since), sentence }
    }

    const KEPT: Invariant = Invariant::MoneyAddsUp;
    const ENDS: Invariant = Invariant::EveryOrderEnds;

    #[test]
    fn what_is_good_again_counts_no_more() {
        let (mut findings, mut one, mut other) = (Findings::default(), vec![], vec![]);
        assert!(!findings.replace("1", &mut one, vec![]));
        assert!(findings.replace("1", &mut one, vec![finding(KEPT, 7), finding(KEPT, 5), finding(ENDS, 9)]));
        assert!(findings.replace("2", &mut other, vec![finding(KEPT, 3)]));
        assert_eq!((&one, &other), (&vec![KEPT, ENDS], &vec![KEPT]));
        let broken = findings.broken(KEPT).unwrap();
        assert_eq!((broken.count, broken.since, broken.listed["1"].len()), (2, Timestamp(3), 2));
        assert!(!findings.replace("2", &mut other, vec![finding(KEPT, 3)]), "nothing new");
        assert!(findings.replace("2", &mut other, vec![finding(KEPT, 4)]), "another");
        assert!(findings.replace("1", &mut one, vec![]));
        assert_eq!((findings.broken(ENDS), one.len()), (None, 0));
        let broken = findings.broken(KEPT).unwrap();
        assert!(broken.count == 1 && broken.listed.keys().eq(["2"]), "{broken:?}");
        findings.replace("2", &mut other, vec![]);
        assert_eq!(findings, Findings::default());
    }

    #[test]
    fn what_is_not_listed_is_counted_all_the_same() {
        let (mut findings, mut pages) = (Findings::default(), vec![vec![]; 2 * MOST_LISTED]);
        for (n, before) in pages.iter_mut().enumerate() {
            assert!(findings.replace(&n.to_string(), before, vec![finding(KEPT, 7)]));
        }
        assert!(!findings.replace("99", &mut pages[99], vec![finding(KEPT, 7)]), "it is not counted again");
        let broken = findings.broken(KEPT).unwrap();
        assert_eq!((broken.count, broken.listed.len()), (2 * MOST_LISTED as u64, MOST_LISTED));
        for (n, before) in pages.iter_mut().enumerate() {
            assert!(findings.broken(KEPT).is_some());
            findings.replace(&n.to_string(), before, vec![]);
        }
        assert_eq!(findings.broken(KEPT), None);
    }

    #[test]
    fn a_message_of_no_page_counts_once_and_for_good() {
        let mut findings = Findings::default();
        assert!(findings.stray("t/0", 3, finding(Invariant::NothingMissing, 7)));
        assert!(!findings.stray("t/0", 3, finding(Invariant::NothingMissing, 7)), "it came again");
        assert!(findings.stray("t/1", 3, finding(Invariant::NothingMissing, 7)));
        assert!(findings.stray("t/0", 4, finding(Invariant::NothingMissing, 7)));
        assert_eq!(findings.broken(Invariant::NothingMissing).unwrap().count, 3);
    }
}
