//! Where the brokers are, and what librdkafka says about them.
//!
//! # Problem
//! A client library that cannot reach its brokers says so on standard error, once per broker and second, and answers its
//! caller with a code that names neither the broker nor the reason.
//!
//! # Pattern
//! One place for what all clients have in common: their settings, their log lines, their errors as sentences.
//!
//! # Here
//! [`Voice`] turns librdkafka's lines into ours, the same kind at most once in [`QUIET`], and remembers the last trouble, so
//! that an error can say what was behind it.
//!
//! # Limits
//! Brokers are spoken to in clear: no TLS, no password.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use tokio::time::Instant;

use crate::{BusError, MAX_NAME_BYTES};

/// How long a question to the brokers may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a kind of line is not repeated.
const QUIET: Duration = Duration::from_secs(10);
/// Longest prefix, in bytes: Kafka's names have at most 249.
const MAX_PREFIX_BYTES: usize = 48;

/// The brokers, and what this shop's names begin with there.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    servers: String,
    prefix: String,
}

impl Cluster {
    pub(crate) fn new(servers: &str, prefix: &str) -> Result<Cluster, BusError> {
        let named = |server: &str| matches!(server.rsplit_once(':'), Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok());
        if !servers.split(',').all(named) {
            let why = format!("brokers are named as host:port, separated by commas, not {servers:?}");
            return Err(BusError::Malformed(why));
        }
        if prefix.len() > MAX_PREFIX_BYTES || !prefix.chars().all(legal) {
            let why = format!("a prefix has at most {MAX_PREFIX_BYTES} letters, digits, dots, _ and -, not {prefix:?}");
            return Err(BusError::Malformed(why));
        }
        Ok(Cluster { servers: servers.into(), prefix: prefix.into() })
    }

    /// What every client is made with.
    pub(crate) fn settings(&self) -> ClientConfig {
        let mut settings = ClientConfig::new();
        settings
            // All that it says: an error may rest on what is not worth a line.
            .set_log_level(RDKafkaLogLevel::Info)
            .set("bootstrap.servers", &self.servers)
            .set("client.id", "jangteo")
            // A broker that comes back is found within a second.
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.timeout.ms", "10000");
        settings
    }

    /// What a topic or group is called on the brokers.
    pub(crate) fn there(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// What a topic is called here.
    pub(crate) fn here<'a>(&self, name: &'a str) -> &'a str {
        name.strip_prefix(&self.prefix).unwrap_or(name)
    }

    /// Why no topic can be called that.
    pub(crate) fn check_topic(&self, topic: &str) -> Result<(), BusError> {
        check_length("topic", topic)?;
        if !topic.chars().all(legal) || [".", ".."].contains(&self.there(topic).as_str()) {
            let why = format!("the name of a topic on Kafka has letters, digits, dots, _ and -, not {topic:?}");
            return Err(BusError::Malformed(why));
        }
        Ok(())
    }

    /// What failed, at which brokers, why, and what was behind it.
    pub(crate) fn unavailable(&self, what: &str, why: &impl std::fmt::Display, voice: &Voice) -> BusError {
        let behind = match &*lock(&voice.0.trouble) {
            trouble if trouble.is_empty() => String::new(),
            trouble => format!("; before that: {trouble}"),
        };
        BusError::Unavailable(format!("Kafka at {}: {what}: {why}{behind}", self.servers))
    }
}

pub(crate) fn check_length(what: &str, name: &str) -> Result<(), BusError> {
    match name.len() {
        1..=MAX_NAME_BYTES => Ok(()),
        n => Err(BusError::Malformed(format!("the name of a {what} has 1 to {MAX_NAME_BYTES} bytes, not {n}"))),
    }
}

fn legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || ".-_".contains(c)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a client of librdkafka says. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Voice(Arc<Heard>);

#[derive(Default)]
struct Heard {
    /// The last that went wrong; empty if nothing did.
    trouble: Mutex<String>,
    /// When each kind was last said, and how often it was not since.
    said: Mutex<BTreeMap<String, (Instant, u64)>>,
}

impl Voice {
    fn trouble(&self, line: &str) {
        // Without the name of the thread, which stands in front.
        let said = line.strip_prefix("[thrd:").and_then(|line| line.split_once("]: ")).map_or(line, |(_, said)| said);
        // Nor how often and how long it was tried, which is never the same.
        let said = said.split_once(" (after ").map_or(said, |(said, _)| said);
        said.clone_into(&mut lock(&self.0.trouble));
    }

    /// How many lines of this kind were left out since the last one, if another may be said now.
    fn may_say(&self, kind: &str) -> Option<u64> {
        let (mut said, now) = (lock(&self.0.said), Instant::now());
        match said.get_mut(kind) {
            Some((last, left_out)) if now.duration_since(*last) < QUIET => {
                *left_out += 1;
                None
            }
            _ => Some(said.insert(kind.to_owned(), (now, 0)).map_or(0, |(_, left_out)| left_out)),
        }
    }
}

impl ClientContext for Voice {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, line: &str) {
        use RDKafkaLogLevel as Level;
        let trouble = matches!(level, Level::Emerg | Level::Alert | Level::Critical | Level::Error);
        if trouble || kind == "FAIL" {
            self.trouble(line);
        }
        if let Some(left_out) = self.may_say(kind) {
            say(level, kind, left_out, line);
        }
    }

    fn error(&self, error: KafkaError, why: &str) {
        if let Some(left_out) = self.may_say("ERROR") {
            tracing::debug!(%error, left_out, "librdkafka: {why}");
        }
    }
}

impl ConsumerContext for Voice {}

fn say(level: RDKafkaLogLevel, kind: &str, left_out: u64, line: &str) {
    use RDKafkaLogLevel as Level;
    match level {
        Level::Emerg | Level::Alert | Level::Critical => tracing::error!(kind, left_out, "librdkafka: {line}"),
        // Whoever asked is told what comes of it, and says it once.
        _ => tracing::debug!(kind, left_out, "librdkafka: {line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_is_said_once_in_a_while_and_what_was_left_out_is_counted() {
        let voice = Voice::default();
        assert_eq!((voice.may_say("FAIL"), voice.may_say("ERROR")), (Some(0), Some(0)));
        for _ in 0..1_000 {
            assert_eq!(voice.may_say("FAIL"), None);
        }
        tokio::time::advance(QUIET).await;
        assert_eq!(
            (voice.may_say("FAIL"), voice.may_say("FAIL"), voice.may_say("ERROR")),
            (Some(1_000), None, Some(0))
        );
    }

    #[test]
    fn names_there_begin_with_the_prefix_and_names_here_do_not() {
        let cluster = Cluster::new("kafka:9092", "shop-").unwrap();
        assert_eq!((cluster.there("t").as_str(), cluster.here("shop-t")), ("shop-t", "t"));
    }
}
