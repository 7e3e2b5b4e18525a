//! Holds a run to the invariants: the shop's books after every step that can break them, and, once faults have stopped, that
//! everything comes to its end.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use auditor::books::Books;
use auditor::fact::Fact;
use auditor::invariant::{Finding, Terms};
use auditor::logs::{Inbox, Logs, Queues};
use clock::Timestamp;
use futures::FutureExt;
use inventory::product::Product;
use inventory::stock::Stock;
use messaging::Subscription;
use messaging::envelope::Envelope;
use messaging::parked::Parked;
use order::order::{Order, Status};
use simulation::runs::Broken;
use simulation::store::Database;
use store::folded::{self, Folded};
use store::{Position, Recorded, StreamId};
use uuid::Uuid;

use crate::customers::{Histories, Seen, Told};
use crate::ledgers::{banked, carried};
use crate::tally::TALLY;
use crate::world::COUNTS;
use crate::world::{FOR_GOOD, World};

/// The streams that others are told of, by service.
const PUBLISHED: [(&str, &[&str]); 4] = [
    ("order", &["order-"]),
    ("inventory", &["reservation-", "stock-"]),
    ("payment", &["payment-"]),
    ("shipping", &["shipment-"]),
];
/// Who listens to whom.
const LISTENERS: [(&str, &str); 4] =
    [("shipping", "order"), ("order", "shipping"), ("inventory", "shipping"), (TALLY, "order")];
const AUDITOR: &str = "auditor";
/// Loops and open connections of a process that has nothing to do.
const MOST_TASKS: usize = 40;

pub struct Judge {
    world: World,
    books: Books,
    subscription: Option<Box<dyn Subscription>>,
    read: BTreeMap<&'static str, Position>,
    /// Events that were recorded and not yet published.
    unpublished: BTreeSet<Uuid>,
    published: BTreeSet<Uuid>,
    broken: Vec<Broken>,
}

/// The database of a listener.
fn of_listener(consumer: &'static str) -> &'static str {
    if consumer == TALLY { COUNTS } else { consumer }
}

/// The answer of something that does not wait: everything here is in memory.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory answers at once")
}

impl Judge {
    pub fn new(world: &World) -> Judge {
        let (read, unpublished, published, broken) = Default::default();
        let (world, books) = (world.clone(), Books::with_ledgers());
        Judge { world, books, subscription: None, read, unpublished, published, broken }
    }

    /// Takes in what happened since the last look, and says what is wrong for good.
    pub fn look(&mut self) -> Vec<Broken> {
        for (name, prefixes) in PUBLISHED {
            for recorded in self.news(name) {
                if prefixes.iter().any(|prefix| recorded.stream.0.starts_with(prefix))
                    && !self.published.contains(&recorded.event.id)
                {
                    self.unpublished.insert(recorded.event.id);
                }
            }
        }
        for recorded in self.news("bank") {
            self.books.bank(&banked(&recorded));
        }
        for recorded in self.news("carrier") {
            self.books.carrier(&carried(&recorded));
        }
        self.listen();
        let mut broken = std::mem::take(&mut self.broken);
        broken.extend(self.books.judge(self.now(), &FOR_GOOD).iter().map(said));
        broken
    }

    fn now(&self) -> Timestamp {
        self.world.time.clock(0).now()
    }

    /// What was recorded in a database since the last look.
    fn news(&mut self, name: &'static str) -> Vec<Recorded> {
        let after = self.read.entry(name).or_default();
        let page = at_once(self.world.databases[name].truth().read_all(*after, 10_000)).expect("memory can be read");
        *after = page.last().and_then(|last| last.position).unwrap_or(*after);
        page
    }

    fn listen(&mut self) {
        let topics = PUBLISHED.map(|(name, _)| format!("{name}-events"));
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        if self.subscription.is_none() {
            self.subscription = at_once(self.world.bus.subscribe("judge", &topics)).ok();
        }
        let Some(subscription) = &mut self.subscription else { return };
        while let Some(Ok(batch)) = subscription.next(10_000).now_or_never() {
            for delivered in batch {
                let envelope = match Envelope::decode(&delivered.message) {
                    Ok(envelope) => envelope,
                    Err(sentence) => {
                        self.broken.push(Broken { invariant: "I-6".to_owned(), sentence });
                        continue;
                    }
                };
                self.published.insert(envelope.id);
                self.unpublished.remove(&envelope.id);
                if let Err(sentence) = self.books.hear(&Fact::of(envelope)) {
                    self.broken.push(Broken { invariant: "I-6".to_owned(), sentence });
                }
            }
        }
    }

    /// What is still under way.
    pub fn open(&self) -> Vec<String> {
        let mut open = vec![];
        for (name, database) in &self.world.databases {
            if !database.is_idle() {
                open.push(format!("commits wait in {name}"));
            }
            // The auditor waits for what others leave undone: that is theirs.
            for (key, _) in at_once(database.truth().timers("", 3)).expect("memory can be read") {
                if *name != AUDITOR {
                    open.push(format!("timer {key} of {name} is armed"));
                }
            }
        }
        let topics = PUBLISHED.map(|(name, _)| format!("{name}-events"));
        let heard = [("shipping", "order-events"), ("order", "shipping-events"), ("inventory", "shipping-events")];
        for (group, topic) in heard.into_iter().chain(topics.iter().map(|topic| (AUDITOR, topic.as_str()))) {
            match at_once(self.world.bus.lag(group, topic)) {
                Ok(0) => {}
                lag => open.push(format!("{group} is behind on {topic}: {lag:?}")),
            }
        }
        for name in ["order", "inventory", "shipping", COUNTS] {
            let truth = self.world.databases[name].truth();
            for stream in at_once(truth.streams("parked-", "", 1_000)).expect("memory can be read") {
                let parked: Folded<Parked> = at_once(folded::load(truth, &stream)).expect("it can be read");
                let mark = at_once(truth.mark(&stream.0.replacen("parked-", "inbox-", 1))).expect("memory can be read");
                if parked.state.waiting(mark) > 0 {
                    open.push(format!("{stream} holds messages that are not in effect"));
                }
            }
        }
        if !self.unpublished.is_empty() {
            open.push(format!("{} events are not published", self.unpublished.len()));
        }
        open
    }

    /// What does not hold in the end, when nothing is under way any more.
    pub fn verdict(&self, histories: &Histories) -> Vec<Broken> {
        let mut broken: Vec<Broken> =
            self.books.judge(Timestamp(i64::MAX), &Terms::ALL_DELIVERED).iter().map(said).collect();
        broken.extend(self.logs().judge(&self.queues(), self.now(), Duration::ZERO).iter().map(said));
        let orders = self.orders();
        let mut say = |invariant: &str, sentence: String| {
            broken.push(Broken { invariant: invariant.to_owned(), sentence });
        };
        let mut keys: BTreeMap<&str, &str> = BTreeMap::new();
        for (id, order) in &orders {
            if let Some(other) = keys.insert(&order.details.shipping_address.street, id) {
                say("I-19", format!("orders {id} and {other} were placed under one key"));
            }
        }
        for call in self.world.overdue.lock().unwrap().iter() {
            say("I-13", call.clone());
        }
        for (host, (process, _)) in self.world.processes.lock().unwrap().iter() {
            let tasks = process.tasks.count();

            if tasks > MOST_TASKS {
                say("I-20", format!("{tasks} tasks are left on {host}, where nothing is under way"));
            }
        }
        self.hold_the_auditor(&mut say);
        let tally = self.world.databases[COUNTS].truth();
        for stream in at_once(tally.streams("tally-", "", 100_000)).expect("memory can be read") {
            let times = at_once(tally.version(&stream)).expect("memory can be read");
            if times != 1 {
                say("once in effect", format!("{stream} was counted {times} times"));
            }
        }
        for (customer, told) in histories.told.lock().unwrap().iter() {
            hold(customer, told, &orders, &mut say);
            for one in told {
                if let Told::Product { sku, price, available } = one
                    && (*price, *available) != self.product(sku)
                {
                    say("I-16", format!("{sku} is shown as {available} at {price}, and it is {:?}", self.product(sku)));
                }
            }
        }
        broken
    }

    /// Whether the auditor waits for something.
    pub fn auditor_waits(&self) -> bool {
        at_once(self.world.databases[AUDITOR].truth().armed()).expect("memory can be read") > 0
    }

    /// The auditor was crashed, cut off and told everything twice like everybody else, and has the same in its books.
    fn hold_the_auditor(&self, say: &mut impl FnMut(&str, String)) {
        let truth = self.world.databases[AUDITOR].truth();
        if self.auditor_waits() {
            say("the auditor's books", "something is waited for that does not come".to_owned());
        }
        let written = |stream: &StreamId| -> Option<serde_json::Value> {
            let last = at_once(truth.version(stream)).expect("memory can be read").checked_sub(1)?;
            let last = at_once(truth.load(stream, last, 1)).expect("memory can be read").pop()?;
            serde_json::from_str(&last.event.data).ok()
        };
        if let Some(findings) = written(&"findings".into())
            && findings["findings"]["broken"] != serde_json::json!({})
        {
            say("the auditor's books", findings["findings"].to_string());
        }
        for (sku, shelf) in self.books.shelves() {
            let (ours, theirs) = (serde_json::to_value(shelf), written(&format!("shelf-{sku}").as_str().into()));
            let (ours, theirs) = (ours.unwrap_or_default(), theirs.unwrap_or_default()["shelf"].clone());
            if ["version", "received", "taken"].iter().any(|field| ours[*field] != theirs[*field]) {
                say("the auditor's books", format!("{sku} is {theirs} in its books, and {ours} as it was published"));
            }
        }
    }

    /// Everything that was recorded.
    fn logs(&self) -> Logs {
        let services = self.world.databases.iter().filter(|(name, _)| **name != COUNTS);
        let log = |(name, database): (&&str, &Arc<Database>)| {
            let log = at_once(database.truth().read_all(0, 1_000_000)).expect("memory can be read");
            ((*name).to_owned(), log)
        };
        Logs { logs: services.map(log).collect() }
    }

    /// How far everybody has taken it in. What was not published, or is parked, is looked at while it is waited for.
    fn queues(&self) -> Queues {
        let mut queues = Queues::default();
        for (consumer, of) in LISTENERS {
            let (truth, theirs) =
                (self.world.databases[of_listener(consumer)].truth(), self.world.databases[of].truth());
            let streams = at_once(theirs.streams("", "", 1_000_000)).expect("memory can be read");
            let mark = |stream: &StreamId| {
                let mark = at_once(truth.mark(&format!("inbox-{consumer}-{of}-events-{stream}")));
                (stream.to_string(), mark.expect("memory can be read"))
            };
            let marks = streams.iter().map(mark).collect();
            queues.inboxes.push(Inbox { consumer: consumer.to_owned(), of: of.to_owned(), marks });
        }
        queues
    }

    /// Price and pieces of a product.
    fn product(&self, sku: &str) -> (i64, i64) {
        let truth = self.world.databases["inventory"].truth();
        let product: Folded<Product> =
            at_once(folded::load(truth, &format!("product-{sku}").into())).expect("readable");
        let stock: Folded<Stock> = at_once(folded::load(truth, &format!("stock-{sku}").into())).expect("readable");
        (product.state.unit_price.unwrap_or(-1), stock.state.available())
    }

    fn orders(&self) -> BTreeMap<String, Order> {
        let truth = self.world.databases["order"].truth();
        let streams = at_once(truth.streams("order-", "", 100_000)).expect("memory can be read");
        let load = |stream: &StreamId| {
            let order: Folded<Order> = at_once(folded::load(truth, stream)).expect("an order can be read");
            (stream.0.strip_prefix("order-").unwrap_or_default().to_owned(), order.state)
        };
        streams.iter().map(load).collect()
    }
}

fn said(finding: &Finding) -> Broken {
    let Finding { invariant, stream, sentence, .. } = finding;
    Broken { invariant: invariant.number().to_owned(), sentence: format!("{stream}: {sentence}") }
}

/// What one customer was told is true, stays true, and does not go backwards.
fn hold(customer: &str, told: &[Told], orders: &BTreeMap<String, Order>, say: &mut impl FnMut(&str, String)) {
    let mut by_key: BTreeMap<&str, &str> = BTreeMap::new();
    let mut versions: BTreeMap<&str, i64> = BTreeMap::new();
    let mut promised: BTreeSet<&str> = BTreeSet::new();
    for one in told {
        let seen = match one {
            Told::Placed { key, order } => {
                if by_key.insert(key, &order.order_id).is_some_and(|before| before != order.order_id) {
                    say("I-19", format!("{customer} was answered two orders under {key}"));
                }
                order
            }
            Told::Missing { order_id } => {
                say("I-10", format!("{customer} was told that {order_id} does not exist"));
                continue;
            }
            Told::CancelAccepted(order) => {
                if ["ORDER_STATUS_PLACED", "ORDER_STATUS_CANCELLED"].contains(&order.status.as_str()) {
                    promised.insert(&order.order_id);
                }
                order
            }
            Told::Saw(order) => order,
            Told::Product { .. } => continue,
            Told::Listed { how, order_ids } => {
                for id in by_key.values().filter(|id| !order_ids.iter().any(|listed| listed == **id)) {
                    say("I-16", format!("{customer} {how} no order {id}"));
                }
                continue;
            }
        };
        let Seen { order_id, status, version } = seen;
        let last = versions.entry(order_id).or_default();
        if version < last {
            say("I-11", format!("{customer} saw version {version} of {order_id} after {last}"));
        }
        *last = *version;
        let Some(order) = orders.get(order_id.as_str()) else {
            say("I-9", format!("order {order_id} was answered to {customer} and is gone"));
            continue;
        };
        let end = &order.status;
        let kept = match status.as_str() {
            "ORDER_STATUS_CONFIRMED" => {
                *end == Status::Delivered || (*end == Status::Cancelled && may_cancel(told, order_id))
            }
            "ORDER_STATUS_SHIPPED" | "ORDER_STATUS_DELIVERED" => *end == Status::Delivered,
            "ORDER_STATUS_REJECTED" => matches!(end, Status::Rejected(_)),
            "ORDER_STATUS_CANCELLED" => *end == Status::Cancelled,
            _ => true,
        };
        if !kept {
            say("I-9", format!("{customer} was told {status} of {order_id}, which is {end:?}"));
        }
    }
    for id in promised {
        let end = orders.get(id).map(|order| &order.status);
        if end != Some(&Status::Cancelled) {
            say("I-9", format!("{customer} was promised that {id} is cancelled, and it is {end:?}"));
        }
    }
}

/// Whether the customer's own cancellation of an order was accepted.
fn may_cancel(told: &[Told], order_id: &str) -> bool {
    told.iter().any(|told| matches!(told, Told::CancelAccepted(order) if order.order_id == order_id))
}
