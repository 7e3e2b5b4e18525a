//! Places in the shop's code where a crash is interesting: between two effects of which the second must follow.
//!
//! # Problem
//! Whoever kills processes at random moments seldom hits the microseconds between a commit and what has to follow it.
//!
//! # Pattern
//! Failpoints: named places in the code that a laboratory can arm.
//!
//! # Here
//! Code says [`reached`] at a [`Point`]. In a build with the feature `lab` a process may be armed to end there, the n-th time that
//! it comes by ([`armed::arm`]): at once, without unwinding, as by SIGKILL. In every other build the call is empty.
//!
//! # Limits
//! One process, one armed point. What the operating system had been handed by then stays handed over, as with a real crash.

#[cfg(feature = "lab")]
pub mod armed;

use std::fmt;

/// A place between two effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A batch of commits is written, and not committed.
    Written,
    /// A batch is committed, and nobody has been told.
    Committed,
    /// Events were appended, and have no positions yet.
    Appended,
    /// Messages are on the bus, and the relay's cursor is behind them.
    Published,
    /// Messages are in effect, and not acknowledged.
    TakenIn,
    /// A saga's event is committed, and its command is not sent.
    StepCommitted,
    /// A participant has answered, and the saga has not recorded it.
    StepAnswered,
    /// The bank or the carrier was asked and has answered, and nothing of it is recorded.
    ProviderAnswered,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 8] = [
        Point::Written,
        Point::Committed,
        Point::Appended,
        Point::Published,
        Point::TakenIn,
        Point::StepCommitted,
        Point::StepAnswered,
        Point::ProviderAnswered,
    ];

    /// Its name, as it is armed by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Point::Written => "written",
            Point::Committed => "committed",
            Point::Appended => "appended",
            Point::Published => "published",
            Point::TakenIn => "taken-in",
            Point::StepCommitted => "step-committed",
            Point::StepAnswered => "step-answered",
            Point::ProviderAnswered => "provider-answered",
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The process comes by this place.
#[inline]
pub fn reached(point: Point) {
    #[cfg(feature = "lab")]
    armed::reached(point);
    #[cfg(not(feature = "lab"))]
    let _ = point;
}
