//! Figures as a Markdown table, printed as they come: what was measured before a mistake is not lost with it.
use std::io::Write;
use std::time::Duration;

use crate::proc::{Spent, machine};
use crate::tally::Tally;

/// A report on standard output that counts what should not have been.
#[derive(Debug, Default)]
pub struct Report {
    unexpected: u64,
}

impl Report {
    /// Begins a report with the command line and the machine.
    #[must_use]
    pub fn begin(about: &str) -> Report {
        let words: Vec<_> = std::env::args().collect();
        let report = Report::default();
        let build = if cfg!(debug_assertions) { "**Debug build: its figures say nothing.** " } else { "" };
        report.line(&format!("`{}`\n\n{build}Machine: {}. {about}\n", words.join(" "), machine()));
        report
    }

    /// Prints a line.
    pub fn line(&self, text: &str) {
        // Nobody is left to tell if standard output is closed.
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// Begins a table.
    pub fn head(&self, columns: &[&str]) {
        self.line(&format!("| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len())));
    }

    /// Prints a line of the table.
    pub fn row(&self, cells: &[String]) {
        self.line(&format!("| {} |", cells.join(" | ")));
    }

    /// Keeps in mind what a phase did not expect, and says it.
    pub fn check(&mut self, phase: &str, tally: &Tally) {
        if let Some((count, first)) = tally.unexpected() {
            self.unexpected += count;
            let _ = writeln!(std::io::stderr(), "{phase}: {count} unexpected answers; the first: {first}");
        }
    }

    /// Prints where the CPU of `count` things went, by user and system and by thread.
    pub fn by_thread(&self, what: &str, spent: &Spent, count: u64) {
        let total = spent.total.total().as_secs_f64().max(f64::MIN_POSITIVE);
        self.line(&format!("\nCPU of {what}, by thread:\n"));
        self.head(&["thread", "user µs", "system µs", "share"]);
        let row = |name: &str, user: Duration, system: Duration| {
            let share = 100.0 * (user + system).as_secs_f64() / total;
            let cells = [name.to_owned(), micros(user, count), micros(system, count), format!("{share:.0} %")];
            self.row(&cells);
        };
        for (name, cpu) in &spent.by_thread {
            row(name, cpu.user, cpu.system);
        }
        row("all", spent.total.user, spent.total.system);
        self.line("");
    }

    /// Ends the report.
    ///
    /// # Errors
    /// If anything was not expected.
    pub fn end(self) -> anyhow::Result<()> {
        anyhow::ensure!(self.unexpected == 0, "{} answers were unexpected", self.unexpected);
        Ok(())
    }
}

/// A bar and whether it was met.
#[must_use]
pub fn bar(text: &str, met: bool) -> String {
    format!("{text}: {}", if met { "met" } else { "**missed**" })
}

/// A number without decimals, its thousands apart.
#[must_use]
pub fn whole(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What each of `count` things took of a time, in microseconds.
#[must_use]
pub fn micros(time: Duration, count: u64) -> String {
    whole(each(time, count) * 1e6)
}

/// What each of `count` things took of a time, in seconds.
#[must_use]
pub fn each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() / count.max(1) as f64
}

/// Bytes in MiB.
#[must_use]
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        for (number, text) in [(0.0, "0"), (999.4, "999"), (1_000.0, "1,000"), (1_234_567.0, "1,234,567"), (-3.0, "0")]
        {
            assert_eq!(whole(number), text);
        }
    }

    #[test]
    fn a_time_is_shared_among_all_and_nothing_takes_nothing() {
        assert_eq!(micros(Duration::from_secs(2), 1_000), "2,000");
        assert_eq!(micros(Duration::ZERO, 0), "0");
        assert!((mib(3 << 20) - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_was_unexpected_fails_the_report() {
        let (mut report, mut tally) = (Report::default(), Tally::default());
        report.check("a phase", &tally);
        assert!(Report::default().end().is_ok());
        tally.fail("503".to_owned());
        report.check("a phase", &tally);
        assert!(report.end().unwrap_err().to_string().contains("1 answers"));
    }
}
