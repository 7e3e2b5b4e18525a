//! The rules of a saga, asked one by one and in random order.
use super::*;
use crate::definition::{Offers, Step};
use proptest::prelude::*;

const SAGA: &str = "checkout-1";

fn definition() -> Arc<Definition> {
    let offers = Offers::from([
        ("a-service", ["one", "undo_one"].as_slice()),
        ("b-service", &["two", "undo_two"]),
        ("c-service", &["three", "undo_three"]),
        ("d-service", &["four"]),
    ]);
    let text = "
name: checkout
timeout: 30s
steps:
  - {name: one, service: a-service, compensation: undo_one, retry: {attempts: 2, first: 100ms, max: 1s}}
  - {name: two, service: b-service, compensation: undo_two, retry: {attempts: 2, first: 100ms, max: 1s}}
  - {name: three, service: c-service, compensation: undo_three, kind: pivot, retry: {attempts: 2, first: 100ms, max: 1s}}
  - {name: four, service: d-service, kind: retriable, retry: {attempts: 2, first: 100ms, max: 1s}}
";
    Arc::new(Definition::from_yaml(text, &offers).unwrap())
}

/// A saga that is told things, one after the other; `now` moves by hand.
struct Told {
    saga: Saga,
    now: Timestamp,
    sent: Vec<Command>,
}

impl Told {
    fn started() -> Told {
        let mut told = Told { saga: Saga::default(), now: Timestamp(0), sent: vec![] };
        let (data, correlation_id, traceparent) = (Arc::new(Value::Null), "order-1".into(), String::new());
        assert!(told.tell(&Input::Start {
            saga: SAGA.into(),
            definition: definition(),
            data,
            correlation_id,
            traceparent
        }));
        told
    }

    /// Tells it something; whether it changed anything.
    fn tell(&mut self, input: &Input) -> bool {
        let reaction = self.saga.react(input, At { now: self.now, chance: 0 });
        if reaction.events.is_empty() {
            assert_eq!(reaction, Reaction::default(), "without events there are no effects");
            return false;
        }
        self.saga = std::mem::take(&mut self.saga).fold(&reaction.events);
        assert_eq!(reaction.timer, self.saga.due(), "the timer belongs to the state that is committed with it");
        self.sent.extend(reaction.send);
        true
    }

    fn reply(&mut self, command: &str, outcome: Outcome) -> bool {
        let tries = self.saga.awaited.tries;
        self.tell(&Input::Reply { command_id: format!("{SAGA}/{command}"), tries, outcome })
    }

    fn accept(mut self, commands: &[&str]) -> Told {
        for command in commands {
            assert!(self.reply(command, Outcome::Accepted(Value::Null)), "{command} is awaited");
        }
        self
    }

    /// Lets time pass until the saga is due, and tells it.
    fn wait(&mut self) {
        self.now = self.now.max(self.saga.due().expect("not ended"));
        assert!(self.tell(&Input::Tick));
    }

    /// The actions sent, in order, without repetitions.
    fn actions(&self) -> Vec<&str> {
        let mut actions: Vec<_> = self.sent.iter().map(|command| command.action.as_str()).collect();
        actions.dedup();
        actions
    }
}

fn refused() -> Outcome {
    Outcome::Refused(Refusal { reason: "declined".into(), message: "no".into(), facts: Value::Null })
}

fn unknown() -> Outcome {
    Outcome::Unknown("no answer".into())
}

#[test]
fn accepted_steps_lead_to_the_end() {
    let told = Told::started().accept(&["one/do", "two/do", "three/do", "four/do"]);
    assert_eq!((told.saga.end(), told.saga.due()), (Some(End::Completed), None));
    assert_eq!(told.actions(), ["one", "two", "three", "four"]);
}

#[test]
fn a_refused_step_undoes_those_before_it_in_reverse_and_not_itself() {
    let mut told = Told::started().accept(&["one/do", "two/do"]);
    assert!(told.reply("three/do", refused()));
    let told = told.accept(&["two/undo", "one/undo"]);
    assert_eq!(told.saga.end(), Some(End::Compensated));
    assert_eq!(told.actions(), ["one", "two", "three", "undo_two", "undo_one"]);
    assert!(matches!(told.saga.turned_back(), Some(Why::Refused { step, .. }) if step == "three"));
}

#[test]
fn a_refused_first_step_leaves_nothing_to_undo() {
    let mut told = Told::started();
    assert!(told.reply("one/do", refused()));
    assert_eq!((told.saga.end(), told.actions()), (Some(End::Compensated), vec!["one"]));
}

/// SG-2: a step whose outcome is unknown is undone as well.
#[test]
fn an_unanswered_step_is_tried_again_and_then_undone_with_the_others() {
    let mut told = Told::started().accept(&["one/do"]);
    assert!(told.reply("two/do", unknown()));
    told.wait();
    assert!(told.reply("two/do", unknown()), "the second of two attempts");
    let told = told.accept(&["two/undo", "one/undo"]);
    assert_eq!(told.saga.end(), Some(End::Compensated));
    assert_eq!(told.actions(), ["one", "two", "undo_two", "undo_one"]);
    assert_eq!(told.sent.iter().filter(|command| command.id == "checkout-1/two/do").count(), 2, "both under one id");
}

/// SG-1: late, duplicate and foreign replies change nothing.
#[test]
fn replies_that_are_not_awaited_change_nothing() {
    let mut told = Told::started().accept(&["one/do"]);
    for foreign in ["one/do", "one/undo", "two/undo", "three/do", "two", "elsewhere/do"] {
        assert!(!told.reply(foreign, Outcome::Accepted(Value::Null)), "{foreign}");
        assert!(!told.reply(foreign, refused()), "{foreign}");
    }
    assert!(told.reply("two/do", refused()));
    assert!(!told.reply("two/do", Outcome::Accepted(Value::Null)), "a late reply to what is being undone");
    let mut told = told.accept(&["one/undo"]);
    assert!(!told.reply("one/undo", Outcome::Accepted(Value::Null)), "a reply after the end");
    assert!(!told.tell(&Input::Tick) && !told.tell(&Input::Cancel { by: "x".into() }));
}

#[test]
fn an_unknown_outcome_of_an_earlier_try_does_not_count_against_the_present_one() {
    let mut told = Told::started();
    assert!(told.reply("one/do", unknown()));
    told.wait();
    let stale = Input::Reply { command_id: "checkout-1/one/do".into(), tries: 1, outcome: unknown() };
    assert!(!told.tell(&stale));
    let definite =
        Input::Reply { command_id: "checkout-1/one/do".into(), tries: 1, outcome: Outcome::Accepted(Value::Null) };
    assert!(told.tell(&definite), "a definite answer holds whichever try it answers");
}

/// The pivot rule: from the moment it is sent, no timeout compensates.
#[test]
fn a_sent_pivot_is_tried_until_it_answers() {
    let mut told = Told::started().accept(&["one/do", "two/do"]);
    for _ in 0..50 {
        assert!(told.reply("three/do", unknown()));
        told.wait();
    }
    told.now = told.now.after(Duration::from_secs(86_400));
    told.wait();
    assert_eq!((told.saga.turned_back(), told.saga.end()), (None, None));
    let told = told.accept(&["three/do", "four/do"]);
    assert_eq!(told.saga.end(), Some(End::Completed));
}

#[test]
fn a_step_after_the_pivot_is_tried_until_it_succeeds_even_if_refused() {
    let mut told = Told::started().accept(&["one/do", "two/do", "three/do"]);
    for outcome in [refused(), unknown(), refused()] {
        assert!(told.reply("four/do", outcome));
        told.wait();
    }
    assert_eq!(told.accept(&["four/do"]).saga.end(), Some(End::Completed));
}

/// SG-5: a compensation is never given up; the others wait for it in order; somebody is told.
#[test]
fn an_undo_that_fails_a_thousand_times_is_tried_again() {
    let mut told = Told::started().accept(&["one/do", "two/do"]);
    assert!(told.reply("three/do", refused()));
    let mut alarms = 0;
    for round in 0..1_000 {
        assert!(told.reply("two/undo", if round % 2 == 0 { unknown() } else { refused() }));
        alarms += u32::from(told.saga.alarming());
        let waited = told.saga.due().unwrap().since(told.now);
        assert!(waited <= Duration::from_secs(1), "the backoff is capped: {waited:?}");
        told.wait();
    }
    assert_eq!((alarms, told.saga.end()), (1_000 / ALARM_EVERY, None));
    assert_eq!(told.accept(&["two/undo", "one/undo"]).saga.end(), Some(End::Compensated));
}

#[test]
fn a_saga_past_its_deadline_turns_back_before_the_pivot() {
    let mut told = Told::started().accept(&["one/do"]);
    told.now = Timestamp(0).after(Duration::from_secs(30));
    assert!(told.tell(&Input::Tick));
    let told = told.accept(&["two/undo", "one/undo"]);
    assert!(matches!(told.saga.turned_back(), Some(Why::TimedOut { step }) if step == "two"));

    let mut told = Told::started().accept(&["one/do"]);
    told.now = Timestamp(0).after(Duration::from_secs(31));
    assert!(told.reply("two/do", Outcome::Accepted(Value::Null)));
    assert_eq!(told.actions().last(), Some(&"undo_two"), "the pivot is not sent after the deadline");
}

#[test]
fn work_in_progress_counts_as_no_attempt_but_the_deadline_holds() {
    let mut told = Told::started();
    for _ in 0..10 {
        assert!(told.reply(
            "one/do",
            if told.sent.len().is_multiple_of(2) { Outcome::InProgress } else { Outcome::NotSent("open".into()) }
        ));
        told.wait();
    }
    assert!(told.reply("one/do", unknown()), "the first of two attempts");
    told.wait();
    assert_eq!(told.saga.turned_back(), None);
    told.now = Timestamp(0).after(Duration::from_secs(30));
    assert!(told.reply("one/do", Outcome::InProgress));
    assert_eq!(told.actions(), ["one", "undo_one"]);
}

#[test]
fn a_sender_that_died_is_replaced_after_its_lease() {
    let mut told = Told::started();
    assert!(!told.tell(&Input::Tick), "too early");
    let lease = told.saga.due().unwrap().since(told.now);
    assert!(lease > told.sent[0].timeout, "longer than the try may take");
    told.wait();
    told.wait();
    assert_eq!(told.sent.len(), 2);
    assert_eq!((told.sent[1].id.as_str(), told.sent[1].tries), ("checkout-1/one/do", 2));
}

#[test]
fn a_cancel_turns_back_whatever_was_requested_the_pivot_included() {
    let mut told = Told::started().accept(&["one/do", "two/do"]);
    assert!(told.tell(&Input::Cancel { by: "customer:kim".into() }));
    assert!(!told.tell(&Input::Cancel { by: "customer:kim".into() }), "once is enough");
    assert!(!told.reply("three/do", Outcome::Accepted(Value::Null)), "late");
    let told = told.accept(&["three/undo", "two/undo", "one/undo"]);
    assert_eq!(told.saga.end(), Some(End::Compensated));

    let mut told = Told::started().accept(&["one/do", "two/do", "three/do"]);
    assert!(told.tell(&Input::Cancel { by: "customer:kim".into() }));
    assert!(!told.reply("four/do", Outcome::Accepted(Value::Null)));
    assert_eq!(told.accept(&["three/undo", "two/undo", "one/undo"]).saga.end(), Some(End::Compensated));
}

#[test]
fn operators_retry_skip_and_force() {
    let operator = |action| Input::Operator { by: "operator:lee".into(), reason: "called the bank".into(), action };
    let mut told = Told::started().accept(&["one/do"]);
    assert!(told.reply("two/do", unknown()));
    assert!(told.tell(&operator(Action::Retry)));
    assert_eq!(told.sent.last().unwrap().id, "checkout-1/two/do");
    assert!(told.tell(&operator(Action::Force)));
    assert!(matches!(told.saga.turned_back(), Some(Why::Forced { .. })));
    assert!(told.tell(&operator(Action::Skip)), "undo_two, done by hand");
    assert_eq!(told.accept(&["one/undo"]).saga.end(), Some(End::Compensated));
}

#[test]
fn an_operator_cannot_turn_back_what_has_passed_the_pivot() {
    let force = Input::Operator { by: "operator:lee".into(), reason: "typo".into(), action: Action::Force };
    let mut told = Told::started().accept(&["one/do", "two/do"]);
    assert!(told.tell(&force), "the pivot itself can be undone");
    let mut told = Told::started().accept(&["one/do", "two/do", "three/do"]);
    assert!(!told.tell(&force));
    assert_eq!(told.accept(&["four/do"]).saga.end(), Some(End::Completed));
}

/// SG-10: a saga ends by the definition that it began with.
#[test]
fn the_definition_is_in_the_first_event() {
    let reaction = Saga::default().react(
        &Input::Start {
            saga: SAGA.into(),
            definition: definition(),
            data: Arc::default(),
            correlation_id: String::new(),
            traceparent: String::new(),
        },
        At { now: Timestamp(0), chance: 0 },
    );
    let text = serde_json::to_string(&reaction.events[0]).unwrap();
    let Event::SagaStarted { definition: pinned, .. } = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
    assert_eq!(pinned, definition());
}

/// A participant that keeps its promises, as a model: what holds at the end.
#[derive(Default)]
struct World {
    done: std::collections::BTreeSet<usize>,
    undone: std::collections::BTreeSet<usize>,
}

fn inputs() -> impl Strategy<Value = (u8, u8, u64)> {
    (0u8..10, 0u8..7, 0u64..40_000)
}

proptest! {
    /// Whatever happens in whatever order: undos come in reverse order of requests, nothing is undone after completion,
    /// and once answers come again the saga ends with everything done or everything undone.
    #[test]
    fn in_any_order_of_events_a_saga_ends_whole(script in proptest::collection::vec(inputs(), 0..60)) {
        let mut told = Told::started();
        let mut world = World::default();
        let steps: Vec<Step> = definition().steps.clone();
        for (kind, which, millis) in script {
            told.now = told.now.after(Duration::from_millis(millis));
            // A command whose fate is drawn from what was sent so far, old or new.
            let sent = told.sent[usize::from(which) % told.sent.len()].clone();
            match kind {
                0..=3 => { let outcome = carry_out(&mut world, &steps, &sent); told.tell(&reply(&sent, outcome)); }
                4 => { carry_out(&mut world, &steps, &sent); told.tell(&reply(&sent, unknown())); }
                5 => { told.tell(&reply(&sent, unknown())); }
                6 => { told.tell(&reply(&sent, Outcome::InProgress)); }
                7 => { told.tell(&Input::Cancel { by: "customer:kim".into() }); }
                _ => { told.tell(&Input::Tick); }
            }
        }
        for _ in 0..100 {
            let Some(due) = told.saga.due() else { break };
            if let Some(command) = told.saga.command() {
                let outcome = carry_out(&mut world, &steps, &command);
                told.tell(&reply(&command, outcome));
            } else {
                told.now = told.now.max(due);
                told.tell(&Input::Tick);
            }
        }
        let undos: Vec<usize> = told.sent.iter().filter(|c| c.undo).map(|c| step_of(&steps, c)).collect();
        prop_assert!(undos.windows(2).all(|pair| pair[0] >= pair[1]), "{undos:?}");
        match told.saga.end() {
            Some(End::Completed) => prop_assert_eq!((world.done.len(), world.undone.len()), (4, 0)),
            Some(End::Compensated) => {
                // A retriable step that was on its way when a cancel came has no undo: its owner refuses it.
                let left: Vec<_> = world.done.iter().filter(|n| **n < 3 && !world.undone.contains(n)).collect();
                prop_assert!(left.is_empty(), "{left:?} remain");
            }
            None => prop_assert!(false, "it never ended"),
        }
    }
}

fn reply(command: &Command, outcome: Outcome) -> Input {
    Input::Reply { command_id: command.id.clone(), tries: command.tries, outcome }
}

fn step_of(steps: &[Step], command: &Command) -> usize {
    let this = |step: &Step| step.name == command.action || step.compensation.as_deref() == Some(&command.action);
    steps.iter().position(this).unwrap()
}

/// Idempotent, and an action that arrives after its undo is refused.
fn carry_out(world: &mut World, steps: &[Step], command: &Command) -> Outcome {
    let step = step_of(steps, command);
    if command.undo {
        world.undone.insert(step);
    } else if world.undone.contains(&step) {
        return refused();
    } else {
        world.done.insert(step);
    }
    Outcome::Accepted(Value::Null)
}

/// Anything that can be said to a saga, by anybody, about any of its commands and others.
fn anything() -> impl Strategy<Value = Input> {
    let command = proptest::sample::select(
        &["one/do", "one/undo", "two/do", "two/undo", "three/do", "three/undo", "four/do", "four/undo", "five/do"][..],
    );
    let outcome = prop_oneof![
        4 => Just(Outcome::Accepted(Value::Null)),
        1 => Just(refused()),
        2 => Just(unknown()),
        1 => Just(Outcome::InProgress),
        1 => Just(Outcome::NotSent("open".into())),
    ];
    let action = proptest::sample::select(&[Action::Retry, Action::Skip, Action::Force][..]);
    let answered = (command, 1..4_u32, outcome).prop_map(|(command, tries, outcome)| Input::Reply {
        command_id: format!("{SAGA}/{command}"),
        tries,
        outcome,
    });
    prop_oneof![
        16 => answered,
        4 => Just(Input::Tick),
        1 => Just(Input::Cancel { by: "customer:kim".into() }),
        1 => action.prop_map(|action| Input::Operator { by: "operator:lee".into(), reason: "x".into(), action }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is said, late, twice, out of turn or from elsewhere, with time standing still or leaping.
    #[test]
    fn whatever_is_said_the_record_makes_sense(
        script in proptest::collection::vec((anything(), prop_oneof![6 => Just(0_u64), 3 => 0..3_000_u64, 1 => 0..40_000_u64]), 0..60),
    ) {
        const PIVOT: usize = 2;
        let (mut told, definition) = (Told::started(), definition());
        let (mut record, mut requested, mut refusals, mut undos) = (vec![], vec![0], vec![], vec![]);
        for (input, millis) in script {
            told.now = told.now.after(Duration::from_millis(millis));
            let at = At { now: told.now, chance: 0 };
            let (awaited, ended) = (told.saga.awaited, told.saga.end());
            let events = told.saga.react(&input, at).events;
            prop_assert_eq!(&events, &told.saga.react(&input, at).events, "the same twice");
            prop_assert!(ended.is_none() || events.is_empty(), "{:?} after the end", events);
            if let Input::Reply { command_id, .. } = &input {
                let awaits = definition.command_id(SAGA, awaited.step, awaited.undo);
                prop_assert!(events.is_empty() || *command_id == awaits, "{} for {}", command_id, awaits);
            }
            for event in &events {
                match event {
                    Event::StepRequested { step, undo: false, .. } => requested.push(*step),
                    Event::StepRequested { step, undo: true, .. } => undos.push(*step),
                    Event::StepRefused { step, .. } => refusals.push(*step),
                    Event::StepAccepted { step, undo, .. } => prop_assert_eq!((*step, *undo), (awaited.step, awaited.undo)),
                    Event::SagaTurnedBack { why: Why::TimedOut { .. } } => {
                        prop_assert!(!requested.contains(&PIVOT), "time compensated a pivot that was sent: {:?}", record);
                    }
                    Event::SagaTurnedBack { why: Why::Forced { .. } | Why::Refused { .. } } => {
                        prop_assert!(!requested.contains(&(PIVOT + 1)), "turned back past the pivot: {:?}", record);
                    }
                    _ => {}
                }
            }
            record.extend(events);
            told.tell(&input);
            // Steps go forward one by one, and what was tried is undone from the last to the first.
            requested.dedup();
            undos.dedup();
            prop_assert_eq!(&requested, &(0..requested.len()).collect::<Vec<_>>());
            let mut to_undo = requested.clone();
            to_undo.retain(|step| !refusals.contains(step) && *step <= PIVOT);
            to_undo.reverse();
            prop_assert!(to_undo.starts_with(&undos) || undos.is_empty(), "{:?} instead of {:?}", undos, to_undo);
            match told.saga.end() {
                Some(End::Compensated) => prop_assert_eq!(&undos, &to_undo),
                Some(End::Completed) => prop_assert_eq!((requested.len(), undos.len()), (4, 0)),
                None => prop_assert!(told.saga.due().is_some(), "somebody looks at it again"),
            }
        }
    }
}
