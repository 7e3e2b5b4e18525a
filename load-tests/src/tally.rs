//! What became of the requests of a phase: how long they took and how they ended.
use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest latency that is told apart from longer ones.
const LONGEST_US: u64 = 120_000_000;

/// Latencies, to three digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("bounds that fit each other"))
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(LONGEST_US).clamp(1, LONGEST_US));
    }

    /// What the share `quantile` of them did not exceed, in milliseconds; 0 if there are none.
    #[must_use]
    pub fn ms(&self, quantile: f64) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.value_at_quantile(quantile) as f64 / 1000.0 }
    }
}

/// How an answer was judged: a word that counts it, or a sentence that says what is wrong with it.
pub type Judged = Result<&'static str, String>;

/// The requests of one phase.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// From when a request should have been sent to its answer: a server that stalls cannot hide it by stopping the load.
    pub corrected: Latencies,
    /// From when it was sent.
    pub service: Latencies,
    /// From the first request of the phase to its last answer.
    pub wall: Duration,
    /// Not sent, because too many were under way.
    pub dropped: u64,
    words: BTreeMap<&'static str, u64>,
    unexpected: u64,
    first_unexpected: Option<String>,
}

impl Tally {
    /// Counts an answer; only expected ones have a latency that says something.
    pub fn add(&mut self, judged: Judged, corrected: Duration, service: Duration) {
        match judged {
            Ok(word) => {
                *self.words.entry(word).or_default() += 1;
                self.corrected.record(corrected);
                self.service.record(service);
            }
            Err(why) => self.fail(why),
        }
    }

    /// Counts an answer that should not have been, or one that is missing.
    pub fn fail(&mut self, why: String) {
        self.unexpected += 1;
        self.first_unexpected.get_or_insert(why);
    }

    /// Takes over what another counted beside it.
    pub fn merge(&mut self, other: Tally) {
        for (mine, other) in [(&mut self.corrected, &other.corrected), (&mut self.service, &other.service)] {
            mine.0.add(&other.0).expect("all have the same bounds");
        }
        for (word, count) in other.words {
            *self.words.entry(word).or_default() += count;
        }
        self.wall = self.wall.max(other.wall);
        self.dropped += other.dropped;
        self.unexpected += other.unexpected;
        self.first_unexpected = self.first_unexpected.take().or(other.first_unexpected);
    }

    /// How many were answered as expected.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.words.values().sum()
    }

    /// How many were answered as expected, in a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.answered() as f64 / self.wall.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Which percentage ended with one of these words.
    #[must_use]
    pub fn percent(&self, words: &[&str]) -> f64 {
        let count: u64 = words.iter().filter_map(|word| self.words.get(word)).sum();
        100.0 * count as f64 / (self.answered() + self.unexpected).max(1) as f64
    }

    /// How they ended, in words.
    #[must_use]
    pub fn endings(&self) -> String {
        self.words.iter().map(|(word, count)| format!("{count} {word}")).collect::<Vec<_>>().join(", ")
    }

    /// How many were not answered as expected, and what the first of them said.
    #[must_use]
    pub fn unexpected(&self) -> Option<(u64, &str)> {
        self.first_unexpected.as_deref().map(|first| (self.unexpected, first))
    }
}

/// The middle one of some figures; 0 if there are none.
#[must_use]
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn close(figure: f64, expected: f64) -> bool {
        (figure - expected).abs() <= expected / 500.0
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::default();
        (1..=100).for_each(|n| latencies.record(ms(n)));
        for (quantile, expected) in [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0)] {
            let figure = latencies.ms(quantile);
            assert!(close(figure, expected), "{quantile} is {figure}, not {expected}");
        }
    }

    #[test]
    fn nothing_recorded_and_longer_than_the_longest_are_no_mistake() {
        let mut latencies = Latencies::default();
        assert!(latencies.ms(0.99).abs() < f64::EPSILON);
        latencies.record(Duration::from_secs(3600));
        latencies.record(Duration::ZERO);
        assert!(close(latencies.ms(1.0), 120_000.0));
        assert!(close(latencies.ms(0.0), 0.001));
    }

    #[test]
    fn a_merged_tally_counts_both() {
        let (mut one, mut other) = (Tally::default(), Tally::default());
        one.add(Ok("confirmed"), ms(10), ms(1));
        other.add(Ok("confirmed"), ms(30), ms(3));
        other.add(Ok("rejected"), ms(30), ms(3));
        other.add(Err("503: busy".to_owned()), ms(30), ms(3));
        other.fail("no answer".to_owned());
        (one.wall, other.wall, other.dropped) = (ms(500), ms(1_000), 2);
        one.merge(other);
        assert_eq!((one.answered(), one.dropped, one.wall), (3, 2, ms(1_000)));
        assert_eq!(one.unexpected(), Some((2, "503: busy")));
        assert_eq!(one.endings(), "2 confirmed, 1 rejected");
        assert!(close(one.percent(&["confirmed", "shipped"]), 40.0));
        assert!(close(one.rate(), 3.0));
        assert!(
            close(one.corrected.ms(0.3), 10.0) && close(one.corrected.ms(1.0), 30.0) && close(one.service.ms(1.0), 3.0)
        );
    }

    #[test]
    fn the_median_is_the_middle() {
        assert!(close(median(&[3.0, 1.0, 2.0]), 2.0));
        assert!(close(median(&[4.0, 1.0, 2.0, 3.0]), 2.5));
        assert!(median(&[]).abs() < f64::EPSILON);
    }
}
