//! Alive, and ready or why not. A process that is alive and not ready is left running and gets no requests.
//!
//! A part that is away for all replicas at once must not make all of them unready, if they can answer without it. So a part is missing
//! or degraded:
//!
//! | part | of | without it | readiness |
//! |---|---|---|---|
//! | its own database | order, inventory, payment, shipping, auditor | nothing can be answered | missing |
//! | Kafka | order, inventory, payment, shipping | orders are taken; their events wait in the log | degraded |
//! | Kafka | auditor | the books do not get on, and nobody can say how far behind they are | missing |
//! | relay, consumer, inbox | order, inventory, payment, shipping | the same as without Kafka | degraded |
//! | sagas | order | a saga that cannot be read waits; all others go on | degraded |
//! | search | order, inventory | searches are refused or behind; all else is answered | degraded |
//! | seals | all with seals | nobody can vouch for the log | missing |
//! | the lease of the auditor | auditor | another replica has the books | missing |
//! | Redis, other services | all | the database is asked; calls are refused one by one | not asked |
//!
//! What is degraded is said in `/readyz`, after `ok`, in the log when it begins and ends, and as the metric [`METRIC`].
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The metric that is 1 for each part which cannot work, with whether the process is ready without it.
pub const METRIC: &str = "part_impaired";

/// Where the parts of a process say whether they can work. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<String, State>>>,
}

/// What is the matter with a part.
#[derive(Clone, Debug)]
enum State {
    Missing(String),
    Degraded(String),
}

impl Health {
    /// The part cannot work, and why: without it the process should get no requests.
    pub fn missing(&self, part: &str, why: impl Into<String>) {
        self.lock().insert(part.to_owned(), State::Missing(why.into()));
    }

    /// The part cannot work, and why: without it the process still answers most requests, and stays ready.
    pub fn degraded(&self, part: &str, why: impl Into<String>) {
        self.lock().insert(part.to_owned(), State::Degraded(why.into()));
    }

    /// The part can work.
    pub fn ready(&self, part: &str) {
        self.lock().remove(part);
    }

    /// The part can work unless there is a reason why not.
    pub fn tell(&self, part: &str, why: Option<impl ToString>) {
        match why {
            Some(why) => self.missing(part, why.to_string()),
            None => self.ready(part),
        }
    }

    /// What cannot work and makes the process unready, by part, with the reason; empty means ready.
    #[must_use]
    pub fn unready(&self) -> BTreeMap<String, String> {
        let of = |(part, state): (&String, &State)| match state {
            State::Missing(why) => Some((part.clone(), why.clone())),
            State::Degraded(_) => None,
        };
        self.lock().iter().filter_map(of).collect()
    }

    /// What cannot work although the process is ready, by part, with the reason.
    #[must_use]
    pub fn impaired(&self) -> BTreeMap<String, String> {
        let of = |(part, state): (&String, &State)| match state {
            State::Degraded(why) => Some((part.clone(), why.clone())),
            State::Missing(_) => None,
        };
        self.lock().iter().filter_map(of).collect()
    }

    /// What `/readyz` says, a line each: what is missing, or else `ok`, and what is degraded.
    #[must_use]
    pub fn page(&self) -> String {
        let unready = self.unready();
        let ok = unready.is_empty().then(|| "ok\n".to_owned());
        let missing = unready.into_iter().map(|(part, why)| format!("{part}: {why}\n"));
        let degraded = self.impaired().into_iter().map(|(part, why)| format!("degraded: {part}: {why}\n"));
        ok.into_iter().chain(missing).chain(degraded).collect()
    }

    /// The metric [`METRIC`], as `/metrics` has it; empty if everything works.
    #[must_use]
    pub fn metrics(&self) -> String {
        let line = |part: &String, ready: bool| {
            let part = part.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', " ");
            format!("{METRIC}{{part=\"{part}\",ready=\"{ready}\"}} 1\n")
        };
        let (unready, impaired) = (self.unready(), self.impaired());
        let lines: String =
            unready.keys().map(|part| line(part, false)).chain(impaired.keys().map(|part| line(part, true))).collect();
        match lines.is_empty() {
            true => lines,
            false => format!(
                "# HELP {METRIC} Parts that cannot work, and whether the process is ready without them.\n# TYPE {METRIC} gauge\n{lines}"
            ),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, State>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_missing_or_degraded_or_ready_and_never_two_of_them() {
        let health = Health::default();
        assert_eq!((health.page().as_str(), health.metrics().as_str()), ("ok\n", ""));
        health.missing("order store", "away");
        health.degraded("Kafka", "away");
        let of = |all: BTreeMap<String, String>| all.into_keys().collect::<Vec<_>>();
        assert_eq!((of(health.unready()), of(health.impaired())), (vec!["order store".into()], vec!["Kafka".into()]));
        let metrics = health.metrics();
        assert!(metrics.contains("part_impaired{part=\"order store\",ready=\"false\"} 1\n"), "{metrics}");
        assert!(metrics.contains("part_impaired{part=\"Kafka\",ready=\"true\"} 1\n"), "{metrics}");
        health.degraded("order store", "slow");
        assert_eq!((of(health.unready()).len(), of(health.impaired()).len()), (0, 2));
        health.ready("order store");
        assert_eq!(health.page(), "ok\ndegraded: Kafka: away\n");
    }
}
