//! Metrics in the Prometheus text form. Labels come from the program (routes, methods, states), never from requests, so
//! that their number is bounded.
use std::time::Duration;

use prometheus::{Counter, CounterVec, Encoder, GaugeVec, HistogramVec, Opts, Registry, TextEncoder};

/// The metrics of one process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// A counter with labels.
    ///
    /// # Panics
    /// If the name is taken: names are constants of the program.
    #[must_use]
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> CounterVec {
        let counters = CounterVec::new(Opts::new(name, help), labels).expect("a well-formed metric");
        self.registry.register(Box::new(counters.clone())).expect("a metric of its own name");
        counters
    }

    /// A counter.
    ///
    /// # Panics
    /// If the name is taken.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        let counter = Counter::new(name, help).expect("a well-formed metric");
        self.registry.register(Box::new(counter.clone())).expect("a metric of its own name");
        counter
    }

    /// A gauge with labels.
    ///
    /// # Panics
    /// If the name is taken.
    #[must_use]
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        let gauges = GaugeVec::new(Opts::new(name, help), labels).expect("a well-formed metric");
        self.registry.register(Box::new(gauges.clone())).expect("a metric of its own name");
        gauges
    }

    /// A histogram of seconds with labels, from 0.5 ms to 30 s.
    ///
    /// # Panics
    /// If the name is taken.
    #[must_use]
    pub fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let buckets = vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let options = prometheus::HistogramOpts::new(name, help).buckets(buckets);
        let histogram = HistogramVec::new(options, labels).expect("a well-formed metric");
        self.registry.register(Box::new(histogram.clone())).expect("a metric of its own name");
        histogram
    }

    /// All of them as text (Prometheus exposition format 0.0.4).
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("memory takes every write");
        String::from_utf8(text).expect("metric names and labels are UTF-8")
    }
}

/// Rate, errors and duration per route: one histogram, whose count is the rate and whose `outcome` label tells errors.
#[derive(Clone, Debug)]
pub struct Red {
    seconds: HistogramVec,
}

impl Red {
    /// The histogram `<prefix>_request_seconds{route, outcome}`.
    #[must_use]
    pub fn new(metrics: &Metrics, prefix: &str) -> Red {
        let help = "Duration of requests by route and outcome.";
        Red { seconds: metrics.seconds(&format!("{prefix}_request_seconds"), help, &["route", "outcome"]) }
    }

    /// Counts a request that took `took`. Route and outcome are words of the program.
    pub fn observe(&self, route: &str, outcome: &str, took: Duration) {
        self.seconds.with_label_values(&[route, outcome]).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_observed_is_in_the_text() {
        let metrics = Metrics::default();
        Red::new(&metrics, "http").observe("/v1/orders", "201", Duration::from_millis(3));
        let text = metrics.text();
        assert!(text.contains(r#"http_request_seconds_count{outcome="201",route="/v1/orders"} 1"#), "{text}");
        assert!(
            text.contains(r#"http_request_seconds_bucket{outcome="201",route="/v1/orders",le="0.005"} 1"#),
            "{text}"
        );
    }
}
