//! Use case: the books as operators see them.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clock::Timestamp;
use host::error::Refusal;
use host::use_case::unavailable;
use messaging::Bus;
use proto::auditor as message;
use store::Store;

use crate::desk::Desk;
use crate::findings::{Broken, Findings};
use crate::heard::{GROUP, TOPICS};
use crate::invariant::{Finding, Invariant};

/// So many findings of an invariant are shown.
const MOST_SHOWN: usize = 20;

/// What the listener found, as of its last look; nothing before the first. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Shown(Arc<Mutex<Option<Seen>>>);

#[derive(Default)]
struct Seen {
    findings: Findings,
    not_judged: usize,
}

impl Shown {
    /// Shows what is found by now.
    pub(crate) fn set(&self, desk: &Desk) {
        let mut seen = self.lock();
        let seen = seen.get_or_insert_default();
        if seen.findings != *desk.findings() {
            seen.findings = desk.findings().clone();
        }
        seen.not_judged = desk.not_judged();
    }

    /// They are kept elsewhere.
    pub(crate) fn clear(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The books of the shop.
pub(crate) struct Auditor {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) shown: Shown,
}

impl Auditor {
    /// Whether everything holds that has to, and how far behind that knowledge is.
    pub(crate) async fn books(&self) -> Result<message::Books, Refusal> {
        let mut topics = vec![];
        for topic in TOPICS {
            let behind = self.bus.lag(GROUP, topic).await.map_err(Refusal::unavailable)?;
            topics.push(message::Topic { topic: topic.to_owned(), behind: integer(behind) });
        }
        let under_way = self.store.armed().await.map_err(unavailable)?;
        let seen = self.shown.lock();
        let Some(seen) = &*seen else { return Err(Refusal::unavailable("the books are being opened")) };
        let invariants = Invariant::LIVE.map(|invariant| shown(invariant, seen.findings.broken(invariant)));
        Ok(message::Books {
            invariants: invariants.to_vec(),
            topics,
            orders_under_way: integer(under_way),
            products_not_judged: integer(seen.not_judged as u64),
        })
    }
}

fn shown(invariant: Invariant, broken: Option<&Broken>) -> message::Invariant {
    let findings = broken.into_iter().flat_map(|broken| broken.listed.values().flatten());
    let finding = |Finding { stream, since, sentence, .. }: &Finding| message::Finding {
        stream: stream.clone(),
        since: Some(time(*since)),
        sentence: sentence.clone(),
    };
    message::Invariant {
        number: invariant.number().to_owned(),
        sentence: invariant.sentence().to_owned(),
        holds: broken.is_none(),
        broken_since: broken.map(|broken| time(broken.since)),
        breaks: broken.map_or(0, |broken| integer(broken.count)),
        findings: findings.take(MOST_SHOWN).map(finding).collect(),
    }
}

fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn time(at: Timestamp) -> prost_types::Timestamp {
    let nanos = at.0.rem_euclid(1_000_000) * 1_000;
    prost_types::Timestamp { seconds: at.0.div_euclid(1_000_000), nanos: i32::try_from(nanos).unwrap_or_default() }
}
