//! Says what is the matter once, however often it is tried again. PURE.
//!
//! # Problem
//! Whoever tries again ten times a second says ten times a second that it failed, and the line that matters is not found.
//!
//! # Pattern
//! Edges, not levels: a line when the trouble begins, when its reason changes, and when it is over.
//!
//! # Here
//! [`Trouble`] remembers the reasons that were said, and forgets them when it is over: two that take turns are two lines.
//!
//! # Limits
//! At most [`REASONS`] lines a trouble. What begins and ends all the time is said all the time.
use std::collections::BTreeSet;

/// So many reasons are said of one trouble.
pub const REASONS: usize = 8;

/// A trouble that may be there. Quiet at first.
#[derive(Debug, Default)]
pub struct Trouble(BTreeSet<String>);

impl Trouble {
    /// There is trouble; whether it is to be said: it begins with this, or has a reason that was not said yet.
    pub fn is_news(&mut self, why: &str) -> bool {
        self.0.len() < REASONS && self.0.insert(why.to_owned())
    }

    /// There is none; whether it is to be said: there was until now.
    pub fn is_over(&mut self) -> bool {
        !std::mem::take(&mut self.0).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_when_it_begins_when_its_reason_changes_and_when_it_is_over() {
        let mut trouble = Trouble::default();
        assert!(!trouble.is_over(), "there was none");
        for _ in 0..2 {
            let said = ["away", "away", "late", "away", "late"].map(|why| trouble.is_news(why));
            assert_eq!(said, [true, false, true, false, false]);
            assert_eq!([trouble.is_over(), trouble.is_over()], [true, false]);
        }
        let said = (0..100).filter(|n| trouble.is_news(&format!("reason {n}"))).count();
        assert_eq!(said, REASONS, "reasons that never repeat come to an end");
    }
}
