use std::sync::Arc;

use saga::definition::Offers;
use saga::react::{Action, Event, Refusal};
use saga::{Definition, End, Why};
use serde_json::{Value, json};
use store::{Meta, NewEvent};

use super::*;

const CHECKOUT: &str = "
name: checkout
timeout: 30s
steps:
  - {name: reserve_inventory, service: inventory-service, compensation: release_inventory}
  - {name: charge_payment, service: payment-service, compensation: refund_payment}
  - {name: create_shipment, service: shipping-service, compensation: cancel_shipment, kind: pivot}
  - {name: confirm_order, service: order-service, kind: retriable}
";
const LIMIT: Duration = Duration::from_secs(60);
const DEADLINE: Timestamp = Timestamp(30_000_000);

fn definition() -> Arc<Definition> {
    let offers = Offers::from([
        ("inventory-service", ["reserve_inventory", "release_inventory"].as_slice()),
        ("payment-service", &["charge_payment", "refund_payment"]),
        ("shipping-service", &["create_shipment", "cancel_shipment"]),
        ("order-service", &["confirm_order"]),
    ]);
    Arc::new(Definition::from_yaml(CHECKOUT, &offers).unwrap())
}

/// Logs as they are written, an event a second.
#[derive(Default)]
struct Writing {
    logs: Logs,
    count: i64,
}

impl Writing {
    /// Writes an event down, and gives its id.
    fn note(&mut self, service: &str, stream: &str, kind: &str, data: &Value, cause: &str) -> Uuid {
        self.count += 1;
        let log = self.logs.logs.entry(service.into()).or_default();
        let version = log.iter().filter(|recorded| &*recorded.stream.0 == stream).count() as u64 + 1;
        let id = Uuid::from_u128(self.count as u128);
        log.push(Recorded {
            position: Some(log.len() as u64 + 1),
            stream: stream.into(),
            version,
            timestamp: Timestamp(self.count * 1_000_000),
            event: NewEvent { id, kind: kind.into(), schema: 1, data: data.to_string() },
            meta: Meta { causation_id: cause.into(), ..Meta::default() },
        });
        id
    }

    fn saga(&mut self, event: &Event, cause: &str) {
        let tagged = serde_json::to_value(event).unwrap();
        let (kind, data) = tagged.as_object().unwrap().iter().next().unwrap();
        self.note("order", "checkout-1", kind, data, cause);
    }

    fn placed() -> Writing {
        let mut writing = Writing::default();
        writing.note("order", "order-1", "OrderPlaced", &json!({}), "idem-1");
        writing.note("order", "customer-kim", "OrderListed", &json!({}), "idem-1");
        let started = Event::SagaStarted {
            saga: "checkout-1".into(),
            definition: definition(),
            data: Arc::new(Value::Null),
            correlation_id: "1".into(),
            traceparent: String::new(),
            started: Timestamp(0),
            deadline: DEADLINE,
        };
        writing.saga(&started, "idem-1");
        writing.ask(0, false, "idem-1");
        writing
    }

    fn ask(&mut self, step: usize, undo: bool, cause: &str) {
        let definition = &definition().steps[step];
        let action = if undo { definition.compensation.clone().unwrap() } else { definition.name.clone() };
        self.saga(&Event::StepRequested { step, action, undo, attempt: 1, until: Timestamp(0) }, cause);
    }

    fn accept(&mut self, step: usize, undo: bool) {
        self.saga(&Event::StepAccepted { step, undo, reply: Value::Null }, "checkout-1");
    }

    fn turn_back(&mut self) {
        self.saga(&Event::SagaTurnedBack { why: Why::Cancelled { by: "kim".into() } }, "idem-2");
    }

    fn reserve(mut self) -> Writing {
        let reserve = "checkout-1/reserve_inventory/do";
        self.note("inventory", "reservation-1", "InventoryReserved", &json!({}), reserve);
        self.note("inventory", "stock-TEA", "StockReserved", &json!({}), reserve);
        self.accept(0, false);
        self.ask(1, false, "checkout-1");
        self
    }

    fn charge(mut self) -> Writing {
        let charge = "checkout-1/charge_payment/do";
        let charged = json!({"charge": {"key": charge, "amount": 900, "currency": "KRW"}});
        self.note("payment", "payment-1", "ChargeRequested", &charged, charge);
        let account = format!("charge-{charge}");
        self.note("bank", &account, "Debited", &json!({"amount": 900, "currency": "KRW"}), "");
        self.note("payment", "payment-1", "PaymentCharged", &json!({}), charge);
        self.accept(1, false);
        self.ask(2, false, "checkout-1");
        self
    }

    fn label(mut self) -> Writing {
        let create = "checkout-1/create_shipment/do";
        self.note("shipping", "shipment-1", "ShipmentRequested", &json!({"parcel": {"key": create}}), create);
        self.note("carrier", &format!("parcel-{create}"), "Labelled", &json!({}), "");
        self.note("shipping", "shipment-1", "ShipmentCreated", &json!({}), create);
        self.accept(2, false);
        self.ask(3, false, "checkout-1");
        self
    }

    /// An order that was delivered.
    fn delivered() -> Writing {
        let mut writing = Writing::placed().reserve().charge().label();
        let confirmed =
            writing.note("order", "order-1", "OrderConfirmed", &json!({}), "checkout-1/confirm_order/do").to_string();
        writing.accept(3, false);
        writing.saga(&Event::SagaEnded { end: End::Completed }, "checkout-1");
        let create = "checkout-1/create_shipment/do";
        let parcel = format!("parcel-{create}");
        writing.note("shipping", "shipment-1", "PickUpScheduled", &json!({}), &confirmed);
        writing.note("carrier", &parcel, "PickedUp", &json!({}), "");
        let left = format!("{create}/pick-up");
        let left = writing.note("shipping", "shipment-1", "ShipmentDispatched", &json!({}), &left).to_string();
        writing.note("inventory", "reservation-1", "InventoryShipped", &json!({}), &left);
        writing.note("inventory", "stock-TEA", "StockShipped", &json!({}), &left);
        writing.note("order", "order-1", "OrderShipped", &json!({}), &left);
        writing.note("carrier", &parcel, "Delivered", &json!({}), "");
        let arrived = format!("{create}/delivery");
        let arrived = writing.note("shipping", "shipment-1", "ShipmentDelivered", &json!({}), &arrived).to_string();
        writing.note("order", "order-1", "OrderDelivered", &json!({}), &arrived);
        writing
    }

    /// An order that the carrier refused.
    fn undone() -> Writing {
        let mut writing = Writing::placed().reserve().charge();
        let create = "checkout-1/create_shipment/do";
        writing.note("shipping", "shipment-1", "ShipmentRequested", &json!({"parcel": {"key": create}}), create);
        writing.note("carrier", &format!("parcel-{create}"), "Refused", &json!({"country": "AQ"}), "");
        writing.note("shipping", "shipment-1", "ShipmentRefused", &json!({}), create);
        writing.saga(&Event::StepRefused { step: 2, refusal: Refusal::default() }, "checkout-1");
        let why = Why::Refused { step: "create_shipment".into(), refusal: Refusal::default() };
        writing.saga(&Event::SagaTurnedBack { why }, "checkout-1");
        writing.ask(1, true, "checkout-1");
        let refund = "checkout-1/charge_payment/undo";
        writing.note("payment", "payment-1", "RefundRequested", &json!({"key": refund}), refund);
        writing.note("bank", "charge-checkout-1/charge_payment/do", "Credited", &json!({"key": refund}), "");
        writing.note("payment", "payment-1", "PaymentRefunded", &json!({}), refund);
        writing.accept(1, true);
        writing.ask(0, true, "checkout-1");
        let release = "checkout-1/reserve_inventory/undo";
        writing.note("inventory", "reservation-1", "InventoryReleased", &json!({}), release);
        writing.note("inventory", "stock-TEA", "StockReleased", &json!({}), release);
        writing.accept(0, true);
        writing.saga(&Event::SagaEnded { end: End::Compensated }, "checkout-1");
        writing.note("order", "order-1", "OrderRejected", &json!({}), "checkout-1");
        writing
    }

    /// Everything was told and taken in.
    fn queues(&self) -> Queues {
        let last = |of: &str| self.logs.log(of).iter().map(|event| (event.stream.to_string(), event.version)).collect();
        let inbox = |consumer: &str, of: &str| Inbox { consumer: consumer.into(), of: of.into(), marks: last(of) };
        let end = |(service, log): (&String, &Vec<Recorded>)| (service.clone(), log.len() as u64);
        Queues {
            relays: self.logs.logs.iter().map(end).collect(),
            inboxes: vec![inbox("shipping", "order"), inbox("order", "shipping")],
            parked: vec![],
        }
    }

    fn findings(&self) -> Vec<Finding> {
        self.logs.judge(&self.queues(), DEADLINE.after(LIMIT), LIMIT)
    }

    /// Takes an event out, as if it had never been recorded.
    fn without(mut self, service: &str, kind: &str) -> Writing {
        let log = self.logs.logs.get_mut(service).unwrap();
        let place = log.iter().position(|recorded| recorded.event.kind == kind).unwrap();
        let Recorded { stream, .. } = log.remove(place);
        for (position, recorded) in (1..).zip(log.iter_mut()) {
            recorded.position = Some(position);
        }
        for (version, recorded) in (1..).zip(log.iter_mut().filter(|recorded| recorded.stream == stream)) {
            recorded.version = version;
        }
        self
    }

    fn event(&mut self, service: &str, kind: &str) -> &mut Recorded {
        self.logs.logs.get_mut(service).unwrap().iter_mut().find(|recorded| recorded.event.kind == kind).unwrap()
    }
}

fn said(findings: &[Finding]) -> Vec<(Invariant, &str)> {
    findings.iter().map(|finding| (finding.invariant, finding.sentence.as_str())).collect()
}

#[track_caller]
fn assert_only(findings: &[Finding], invariant: Invariant, sentence: &str) {
    let all = said(findings);
    assert!(all.iter().all(|(found, _)| *found == invariant), "{all:?}");
    assert!(all.iter().any(|(_, said)| said.contains(sentence)), "{all:?}");
}

#[test]
fn what_the_shop_does_is_good() {
    for (name, writing) in [("delivered", Writing::delivered()), ("undone", Writing::undone())] {
        assert_eq!(said(&writing.findings()), [], "{name}");
    }
}

#[test]
fn positions_versions_and_time_have_no_hole() {
    type Spoil = fn(&mut Recorded);
    let cases: [(&str, Spoil); 4] = [
        ("stands at position", |recorded| recorded.position = Some(99)),
        ("and says none", |recorded| recorded.position = None),
        ("and 5 follows", |recorded| recorded.version = 5),
        ("recorded before what is in front of it", |recorded| recorded.timestamp = Timestamp(1)),
    ];
    for (sentence, spoil) in cases {
        let mut writing = Writing::delivered();
        spoil(writing.event("inventory", "StockShipped"));
        let queues = writing.queues();
        let findings = writing.logs.judge(&queues, DEADLINE, LIMIT);
        let of_inventory: Vec<_> =
            findings.into_iter().filter(|finding| finding.invariant == Invariant::NothingMissing).collect();
        assert_only(&of_inventory, Invariant::NothingMissing, sentence);
    }
    let mut writing = Writing::delivered();
    writing.event("inventory", "StockShipped").event.id = Uuid::from_u128(1);
    assert_only(&writing.findings(), Invariant::NothingMissing, "another event has the same id");
}

#[test]
fn every_event_has_a_cause_that_was_there_before() {
    let cases = [
        ("order", "OrderShipped", Uuid::from_u128(99).to_string(), "no event has that id"),
        ("order", "OrderShipped", Uuid::from_u128(42).to_string(), "no event has that id"),
        ("order", "OrderConfirmed", Uuid::from_u128(30).to_string(), "which was recorded later"),
        ("inventory", "InventoryReserved", Uuid::from_u128(6).to_string(), "which was recorded later"),
        ("payment", "PaymentCharged", String::new(), "which says nothing"),
        ("payment", "PaymentCharged", "idem-1".into(), "which nobody gives there"),
        ("inventory", "InventoryReserved", "idem-1".into(), "which nobody gives there"),
        ("payment", "PaymentCharged", "checkout-1".into(), "a saga that had not begun"),
        ("order", "OrderConfirmed", "checkout-2".into(), "a saga that had not begun"),
        ("order", "OrderPlaced", "checkout-1".into(), "a saga that had not begun"),
        ("inventory", "StockShipped", "checkout-1".into(), "a saga that had not begun"),
        ("inventory", "InventoryShipped", "checkout-2/reserve_inventory/do".into(), "which no saga had asked for"),
        ("inventory", "InventoryShipped", "checkout-1/reserve_inventory/undo".into(), "which no saga had asked for"),
        ("shipping", "ShipmentDispatched", "checkout-2/create_shipment/do/pick-up".into(), "no saga had asked for"),
    ];
    for (service, kind, cause, sentence) in cases {
        let mut writing = Writing::delivered();
        writing.event(service, kind).meta.causation_id.clone_from(&cause);
        let findings = writing.findings();
        let missing: Vec<_> =
            findings.into_iter().filter(|finding| finding.invariant == Invariant::NothingMissing).collect();
        assert_only(&missing, Invariant::NothingMissing, sentence);
        assert!(missing[0].sentence.contains(&cause), "{missing:?}");
    }
}

/// An effect that was recorded before its step was asked for.
#[test]
fn nothing_is_done_before_it_was_asked_for() {
    let mut writing = Writing::delivered();
    writing.event("payment", "ChargeRequested").timestamp = Timestamp(1);
    assert_only(&writing.findings(), Invariant::NothingMissing, "which no saga had asked for");
}

type Written = fn() -> Writing;

#[track_caller]
fn assert_each(cases: &[(&str, Written)]) {
    for (sentence, written) in cases {
        let findings = written().findings();
        let found = |finding: &Finding| {
            finding.invariant == Invariant::UndoneInReverse
                && finding.stream == "checkout-1"
                && finding.sentence.contains(sentence)
        };
        assert!(findings.iter().any(found), "{sentence}: {findings:?}");
    }
}

#[test]
fn a_saga_goes_forward_step_by_step() {
    assert_each(&[
        ("it begins with StepRequested", || Writing::delivered().without("order", "SagaStarted")),
        ("asks for charge_payment out of turn", || {
            let mut writing = Writing::placed();
            writing.ask(1, false, "checkout-1");
            writing
        }),
        ("takes an answer to charge_payment, which it does not await", || {
            let mut writing = Writing::placed();
            writing.accept(1, false);
            writing
        }),
        ("takes an answer to reserve_inventory, which it does not await", || {
            let mut writing = Writing::placed().reserve();
            writing.accept(0, false);
            writing
        }),
        ("confirm_order is not what step 0 is to do", || {
            let mut writing = Writing::placed();
            let (action, until) = ("confirm_order".to_owned(), Timestamp(0));
            writing.saga(&Event::StepRequested { step: 0, action, undo: false, attempt: 2, until }, "checkout-1");
            writing
        }),
        ("it begins twice", || {
            let mut writing = Writing::placed();
            let start = writing.event("order", "SagaStarted").event.data.clone();
            writing.note("order", "checkout-1", "SagaStarted", &start.parse().unwrap(), "idem-2");
            writing
        }),
        ("confirm_order cannot be refused for good", || {
            let mut writing = Writing::placed().reserve().charge().label();
            writing.saga(&Event::StepRefused { step: 3, refusal: Refusal::default() }, "checkout-1");
            writing
        }),
    ]);
}

#[test]
fn a_saga_goes_back_in_reverse() {
    assert_each(&[
        ("asks for the undo of reserve_inventory out of turn", || {
            let mut writing = Writing::placed().reserve().charge();
            writing.turn_back();
            writing.ask(0, true, "checkout-1");
            writing
        }),
        ("asks for the undo of charge_payment out of turn", || {
            let mut writing = Writing::placed().reserve();
            writing.ask(1, true, "checkout-1");
            writing
        }),
        ("asks for charge_payment out of turn", || {
            let mut writing = Writing::placed();
            writing.accept(0, false);
            writing.turn_back();
            writing.ask(1, false, "checkout-1");
            writing
        }),
        ("it turned back where it cannot", || {
            let mut writing = Writing::placed();
            writing.turn_back();
            writing.turn_back();
            writing
        }),
        ("it turned back where it cannot", || {
            let mut writing = Writing::placed().reserve().charge();
            writing
                .saga(&Event::SagaTurnedBack { why: Why::TimedOut { step: "create_shipment".into() } }, "checkout-1");
            writing
        }),
        ("it turned back where it cannot", || {
            let mut writing = Writing::placed().reserve().charge().label();
            writing.saga(&Event::SagaTurnedBack { why: Why::Forced { by: "lee".into() } }, "idem-2");
            writing
        }),
    ]);
}

#[test]
fn a_saga_ends_as_it_went() {
    assert_each(&[
        ("it ended as Completed, and was not", || {
            let mut writing = Writing::placed().reserve();
            writing.saga(&Event::SagaEnded { end: End::Completed }, "checkout-1");
            writing
        }),
        ("it ended as Compensated, and was not", || {
            let mut writing = Writing::placed().reserve();
            writing.turn_back();
            writing.saga(&Event::SagaEnded { end: End::Compensated }, "checkout-1");
            writing
        }),
        ("StepRequested follows its end", || {
            let mut writing = Writing::delivered();
            writing.ask(3, false, "checkout-1");
            writing
        }),
    ]);
}

#[test]
fn a_saga_that_cannot_be_read_says_so() {
    let mut writing = Writing::delivered();
    writing.event("order", "SagaEnded").event.data = "{}".into();
    assert!(said(&writing.findings()).iter().any(|(invariant, _)| *invariant == Invariant::NothingMissing));
}

/// I-8: whatever was sent twice, it took effect once.
#[test]
fn a_command_takes_effect_once() {
    for (service, stream, kind, cause) in [
        ("inventory", "reservation-1", "InventoryReserved", "checkout-1/reserve_inventory/do"),
        ("inventory", "reservation-1", "InventoryReleased", "checkout-1/reserve_inventory/do"),
        ("inventory", "stock-TEA", "StockReserved", "checkout-1/reserve_inventory/do"),
        ("payment", "payment-1", "PaymentDeclined", "checkout-1/charge_payment/do"),
        ("shipping", "shipment-1", "ShipmentCancelled", "checkout-1/create_shipment/do/pick-up"),
    ] {
        let mut writing = Writing::delivered();
        writing.note(service, stream, kind, &json!({}), cause);
        let findings = writing.findings();
        let twice = findings.iter().filter(|finding| finding.invariant == Invariant::UndoneInReverse);
        let twice: Vec<_> = twice.cloned().collect();
        assert_only(&twice, Invariant::UndoneInReverse, "took effect more than once");
    }
}

#[test]
fn what_was_accepted_was_done_unless_an_operator_says_so() {
    let nothing_reserved =
        || Writing::delivered().without("inventory", "InventoryReserved").without("inventory", "StockReserved");
    let why = "checkout-1/reserve_inventory/do was accepted, and no service recorded that it did anything";
    assert_only(&nothing_reserved().findings(), Invariant::UndoneInReverse, why);

    let mut writing = Writing::placed();
    let by_hand = Event::OperatorActed { by: "lee".into(), reason: "by hand".into(), action: Action::Skip };
    writing.saga(&by_hand, "idem-2");
    writing.accept(0, false);
    writing.ask(1, false, "idem-2");
    let findings = writing.logs.judge(&writing.queues(), DEADLINE, LIMIT);
    assert_eq!(said(&findings), []);
}

#[test]
fn a_saga_ends_in_time() {
    let writing = Writing::placed().reserve().charge();
    let at = |now| writing.logs.judge(&writing.queues(), now, LIMIT);
    assert_eq!(said(&at(Timestamp(DEADLINE.after(LIMIT).0 - 1))), []);
    let findings = at(DEADLINE.after(LIMIT));
    assert_only(&findings, Invariant::EveryOrderEnds, "the saga has not ended");
    assert_eq!(findings[0].stream, "checkout-1");
}

#[test]
fn everything_is_told_and_taken_in() {
    let writing = Writing::delivered();
    let judge = |queues: &Queues| writing.logs.judge(queues, DEADLINE, LIMIT);
    let mut queues = writing.queues();
    *queues.relays.get_mut("order").unwrap() -= 1;
    assert_only(&judge(&queues), Invariant::EverythingHeard, "version 4 was not told: the relay is at");

    let mut queues = writing.queues();
    queues.inboxes[0].marks.insert("order-1".into(), 3);
    assert_only(&judge(&queues), Invariant::EverythingHeard, "shipping has taken in version 3, and the last is 4");
    queues.inboxes[0].marks.remove("order-1");
    assert_only(&judge(&queues), Invariant::EverythingHeard, "shipping has taken in version 0");

    let mut queues = writing.queues();
    queues.parked.push("parked-shipping-order-events-order-1".into());
    assert_only(&judge(&queues), Invariant::EverythingHeard, "are parked");

    // What is nobody else's business need not be told.
    let mut writing = Writing::delivered();
    let queues = writing.queues();
    writing.note("order", "customer-kim", "OrderListed", &json!({}), "idem-2");
    assert_eq!(said(&writing.logs.judge(&queues, DEADLINE, LIMIT)), []);
}

/// I-17: nothing that bank or carrier did is without its intent and its outcome, and no outcome is made up.
#[test]
fn every_call_is_on_record_before_and_after() {
    let cases = [
        ("payment", "ChargeRequested", "bank did something that payment has nothing of"),
        ("payment", "PaymentCharged", "bank entered Debited, and payment did not record PaymentCharged"),
        ("bank", "Debited", "PaymentCharged is on record, and bank has no Debited"),
        ("shipping", "ShipmentRequested", "carrier did something that shipping has nothing of"),
        ("shipping", "ShipmentCreated", "carrier entered Labelled, and shipping did not record ShipmentCreated or"),
        ("shipping", "PickUpScheduled", "shipping had not recorded PickUpScheduled before carrier entered PickedUp"),
        ("shipping", "ShipmentDispatched", "carrier entered PickedUp, and shipping did not record ShipmentDispatched"),
        ("shipping", "ShipmentDelivered", "carrier entered Delivered, and shipping did not record ShipmentDelivered"),
        ("carrier", "Labelled", "ShipmentCreated is on record, and carrier has no Labelled"),
        ("carrier", "PickedUp", "ShipmentDispatched is on record, and carrier has no PickedUp"),
        ("carrier", "Delivered", "ShipmentDelivered is on record, and carrier has no Delivered"),
    ];
    let undone = [
        ("payment", "RefundRequested", "payment had not recorded RefundRequested before bank entered Credited"),
        ("payment", "PaymentRefunded", "bank entered Credited, and payment did not record PaymentRefunded"),
        ("bank", "Credited", "PaymentRefunded is on record, and bank has no Credited"),
        ("shipping", "ShipmentRefused", "ShipmentRequested is on record, and what came of it is not"),
        ("carrier", "Refused", "ShipmentRefused is on record, and carrier has no Refused"),
    ];
    let spoilt = cases.map(|case| (Writing::delivered(), case)).into_iter();
    for (writing, (service, kind, sentence)) in spoilt.chain(undone.map(|case| (Writing::undone(), case))) {
        let findings = writing.without(service, kind).findings();
        let found =
            |finding: &Finding| finding.invariant == Invariant::CallsOnRecord && finding.sentence.starts_with(sentence);
        assert!(findings.iter().any(found), "without {kind}: {findings:?}");
    }
    let mut writing = Writing::delivered();
    writing.event("bank", "Debited").event.data = json!({"amount": 901, "currency": "KRW"}).to_string();
    assert_only(&writing.findings(), Invariant::CallsOnRecord, "bank took 901");
    let mut writing = Writing::delivered();
    writing.event("bank", "Debited").timestamp = Timestamp(i64::MAX);
    assert_only(&writing.findings(), Invariant::CallsOnRecord, "payment did not record PaymentCharged");
    let mut writing = Writing::delivered();
    writing.event("bank", "Debited").timestamp = Timestamp(1);
    assert_only(&writing.findings(), Invariant::CallsOnRecord, "payment had not recorded ChargeRequested before bank");
    let mut writing = Writing::delivered();
    writing.note("bank", "charge-checkout-1/charge_payment/do", "Gave", &json!({}), "");
    assert_only(&writing.findings(), Invariant::CallsOnRecord, "bank entered Gave, which it never does");
}
