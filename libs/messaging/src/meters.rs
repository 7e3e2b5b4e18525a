//! What is measured about messages; one set of metrics for all relays and consumers of a process.
use host::Process;
use prometheus::{CounterVec, GaugeVec};

/// The metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct Meters {
    pub(crate) messages: CounterVec,
    pub(crate) behind: GaugeVec,
    pub(crate) published: CounterVec,
    pub(crate) unsent_age: GaugeVec,
}

impl Meters {
    /// Registers them.
    ///
    /// # Panics
    /// If they are registered already.
    #[must_use]
    pub fn new(process: &Process) -> Meters {
        let metrics = &process.metrics;
        let of = ["consumer", "outcome"];
        let topic = ["consumer", "topic"];
        Meters {
            messages: metrics.counters("messages_total", "Messages by consumer and what became of them.", &of),
            behind: metrics.gauges("messages_behind", "Messages that a consumer has not dealt with; NaN if that cannot be measured.", &topic),
            published: metrics.counters("relay_published_total", "Messages published by topic.", &["topic"]),
            unsent_age: metrics.gauges(
                "relay_oldest_unsent_seconds",
                "Age of the oldest event that no replica has published, by topic; 0 if there is none, NaN if that cannot be measured.",
                &["topic"],
            ),
        }
    }
}
