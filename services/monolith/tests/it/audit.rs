//! The auditor's judgement of a shop in which nothing is under way: of what was published, held against the bank's and the
//! carrier's own books, and of the logs of all services.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use auditor::books::Books;
use auditor::fact::Fact;
use auditor::invariant::Finding;
use auditor::logs::{Inbox, Logs, Queues};
use clock::Timestamp;
use messaging::envelope::Envelope;
use monolith::shop::Stores;
use store::{Recorded, Store};

use crate::ledgers::{banked, carried};

/// Who listens to whom.
const LISTENERS: [(&str, &str); 3] = [("shipping", "order"), ("order", "shipping"), ("inventory", "shipping")];

/// What is wrong with the shop now, if nothing is under way.
pub async fn findings(stores: &Stores, now: Timestamp) -> Vec<Finding> {
    let logs = logs(stores).await;
    let mut findings = logs.judge(&queues(stores, &logs).await, now, Duration::ZERO);
    findings.extend(published(stores, &logs).await.judge_complete());
    findings
}

fn services(stores: &Stores) -> [(&'static str, &dyn Store); 6] {
    let Stores { order, inventory, payment, shipping, bank, carrier, .. } = stores;
    [
        ("order", order.as_ref()),
        ("inventory", inventory.as_ref()),
        ("payment", payment.as_ref()),
        ("shipping", shipping.as_ref()),
        ("bank", bank.as_ref()),
        ("carrier", carrier.as_ref()),
    ]
}

/// Everything that the stores have recorded.
pub async fn logs(stores: &Stores) -> Logs {
    let mut logs = Logs::default();
    for (service, store) in services(stores) {
        let mut log: Vec<Recorded> = vec![];
        let mut looks = 0;
        // The memory store gives what is new at the second look.
        while looks < 2 {
            let page = store.read_all(log.len() as u64, 1_000).await.unwrap();
            looks = if page.is_empty() { looks + 1 } else { 0 };
            log.extend(page);
        }
        logs.logs.insert(service.to_owned(), log);
    }
    logs
}

/// How far it was told and taken in.
async fn queues(stores: &Stores, logs: &Logs) -> Queues {
    let mut queues = Queues::default();
    for (service, store) in &services(stores)[..4] {
        let cursor = store.mark(&format!("relay-{service}-events")).await.unwrap();
        queues.relays.insert((*service).to_owned(), cursor);
        let parked = store.streams("parked-", "", 100).await.unwrap();
        queues.parked.extend(parked.iter().map(ToString::to_string));
    }
    for (consumer, of) in LISTENERS {
        let (_, store) = services(stores).into_iter().find(|(service, _)| *service == consumer).unwrap();
        let streams: BTreeSet<_> = logs.logs[of].iter().map(|recorded| recorded.stream.to_string()).collect();
        let mut marks = BTreeMap::new();
        for stream in streams {
            let mark = store.mark(&format!("inbox-{consumer}-{of}-events-{stream}")).await.unwrap();
            marks.insert(stream, mark);
        }
        queues.inboxes.push(Inbox { consumer: consumer.to_owned(), of: of.to_owned(), marks });
    }
    queues
}

/// The books of what was published up to now, with the ledgers.
async fn published(stores: &Stores, logs: &Logs) -> Books {
    const TOPICS: [&str; 4] = ["order-events", "inventory-events", "payment-events", "shipping-events"];
    let mut books = Books::with_ledgers();
    let mut member = stores.bus.subscribe("audit", &TOPICS).await.unwrap();
    let mut left = 0;
    for topic in TOPICS {
        left += stores.bus.lag("audit", topic).await.unwrap();
    }
    let mut seen = BTreeSet::new();
    while (seen.len() as u64) < left {
        for delivered in member.next(1_000).await.unwrap() {
            seen.insert((delivered.topic, delivered.partition, delivered.offset));
            books.hear(&Fact::of(Envelope::decode(&delivered.message).unwrap())).unwrap();
        }
    }
    logs.logs["bank"].iter().for_each(|recorded| books.bank(&banked(recorded)));
    logs.logs["carrier"].iter().for_each(|recorded| books.carrier(&carried(recorded)));
    books
}
