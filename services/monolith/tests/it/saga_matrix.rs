//! Every step against everything that can become of a call: the order ends confirmed or fully compensated, each effect
//! happens at most once, and no money is kept without a confirmed order.
use crate::books;
use crate::faults::{Fault, Plan};
use crate::harness::{World, order, text};
use http::StatusCode;
use order::order::Status;
use std::time::Duration;

const STEPS: [(&str, &str); 3] = [
    ("ReserveInventory", "ReleaseInventory"),
    ("ChargePayment", "RefundPayment"),
    ("CreateShipment", "CancelShipment"),
];

/// Places one order under a plan and gives its end, with the books balanced.
async fn end_of(plan: &Plan, method: &str, country: &str) -> Status {
    let world = World::new();
    let shop = world.shop_with(plan).await;
    let placed = shop.place("k1", 0, &order(method, country)).await;
    assert_eq!(placed.status, StatusCode::CREATED, "{}", placed.body);
    shop.settled(text(&placed.body, "order_id")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(books::open_sagas(&world.stores).await, Vec::<String>::new());
    world.is_clean().await;
    books::balance(&world.stores).await.into_values().next().unwrap()
}

fn reason(status: &Status) -> &str {
    if let Status::Rejected(cause) = status { &cause.reason } else { "not rejected" }
}

#[tokio::test(start_paused = true)]
async fn a_refused_step_is_compensated() {
    for (action, _) in STEPS {
        let end = end_of(&Plan::default().fault(action, Fault::Refused, 1), "pm_card_ok", "KR").await;
        assert_eq!(reason(&end), "refused_by_test", "{action}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_times_out_once_is_tried_again() {
    for (action, _) in STEPS {
        let plan = Plan::default().fault(action, Fault::TimesOut, 1);
        assert_eq!(end_of(&plan, "pm_card_ok", "KR").await, Status::Confirmed, "{action}");
        assert_eq!(plan.calls().iter().filter(|call| *call == action).count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_before_the_pivot_that_never_answers_is_compensated_although_nobody_knows_whether_it_happened() {
    for (fault, (action, undo)) in [Fault::TimesOut, Fault::ReplyLost]
        .into_iter()
        .flat_map(|fault| STEPS[..2].iter().map(move |step| (fault, step)))
    {
        let plan = Plan::default().fault(action, fault, usize::MAX);
        assert_eq!(reason(&end_of(&plan, "pm_card_ok", "KR").await), "timed_out", "{action} {fault:?}");
        assert!(plan.calls().contains(&(*undo).to_owned()), "{action} {fault:?}: {:?}", plan.calls());
    }
}

#[tokio::test(start_paused = true)]
async fn a_pivot_that_does_not_answer_for_long_is_not_compensated() {
    for fault in [Fault::TimesOut, Fault::ReplyLost] {
        let plan = Plan::default().fault("CreateShipment", fault, 8);
        assert_eq!(end_of(&plan, "pm_card_ok", "KR").await, Status::Confirmed, "{fault:?}");
        assert!(!plan.calls().contains(&"CancelShipment".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_asked_for_again_and_nothing_happens_twice() {
    for (action, _) in STEPS {
        let plan = Plan::default().fault(action, Fault::ReplyLost, 1);
        assert_eq!(end_of(&plan, "pm_card_ok", "KR").await, Status::Confirmed, "{action}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_arrives_twice_happens_once() {
    for (action, undo) in STEPS {
        let plan = Plan::default().fault(action, Fault::Twice, usize::MAX);
        assert_eq!(end_of(&plan, "pm_card_ok", "KR").await, Status::Confirmed, "{action}");
        let plan = Plan::default().fault(undo, Fault::Twice, usize::MAX);
        assert_eq!(reason(&end_of(&plan, "pm_card_ok", "AQ").await), "country_not_served", "{undo}");
    }
}

/// SG-5: however often an undo fails, it is tried until it succeeds.
#[tokio::test(start_paused = true)]
async fn an_undo_is_tried_until_it_succeeds() {
    for fault in [Fault::TimesOut, Fault::ReplyLost, Fault::Refused] {
        for (_, undo) in &STEPS[..2] {
            let plan = Plan::default().fault(undo, fault, 6);
            assert_eq!(reason(&end_of(&plan, "pm_card_ok", "AQ").await), "country_not_served", "{undo} {fault:?}");
        }
    }
}

/// SG-3: an action that arrives after its undo is refused and leaves no effect.
#[tokio::test(start_paused = true)]
async fn a_call_that_arrives_after_its_undo_is_refused() {
    for (action, undo) in STEPS {
        let world = World::new();
        let plan = Plan::default().fault(action, Fault::Held, usize::MAX);
        let shop = world.shop_with(&plan).await;
        let placed = shop.place("k1", 0, &order("pm_card_ok", "KR")).await;
        let order_id = text(&placed.body, "order_id");
        while !plan.calls().contains(&action.to_owned()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The pivot would be tried for ever; a cancellation turns it back.
        assert_eq!(shop.cancel("c1", order_id, 0).await.status, StatusCode::ACCEPTED);
        assert_eq!(text(&shop.settled(order_id).await, "status"), "ORDER_STATUS_CANCELLED");
        assert!(plan.calls().contains(&undo.to_owned()));
        let answers = plan.let_arrive().await;
        assert!(
            !answers.is_empty() && answers.iter().all(|code| *code == Some(tonic::Code::FailedPrecondition)),
            "{action}: {answers:?}"
        );
        books::balance(&world.stores).await;
        world.is_clean().await;
    }
}

/// The bank takes the money while, or before, the undo asks what became of it.
#[tokio::test(start_paused = true)]
async fn a_provider_that_settles_after_the_undo_arrived_keeps_nothing() {
    for (method, wait_ms) in [
        ("pm_card_slow", 0),
        ("pm_card_slow", 1_000),
        ("pm_card_slow", 2_990),
        ("pm_card_slow", 3_010),
        ("pm_card_lost_reply", 10),
    ] {
        let world = World::new();
        let shop = world.shop().await;
        let placed = shop.place("k1", 0, &order(method, "KR")).await;
        let order_id = text(&placed.body, "order_id");
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        assert_eq!(shop.cancel("c1", order_id, 0).await.status, StatusCode::ACCEPTED);
        shop.settled(order_id).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let end = books::balance(&world.stores).await.into_values().next().unwrap();
        assert_eq!(end, Status::Cancelled, "{method} after {wait_ms} ms");
        world.is_clean().await;
    }
}

/// A cancellation at any moment of a checkout, every call of which takes its time, has one winner, and the loser leaves
/// nothing behind.
#[tokio::test(start_paused = true)]
async fn a_cancellation_at_any_moment_leaves_the_books_balanced() {
    let (mut before, mut after) = (0, 0);
    for millis in 0..80 {
        let world = World::new();
        let slow = |plan: Plan, (action, undo)| plan.fault(action, Fault::Slow, 9).fault(undo, Fault::Slow, 9);
        let shop = world.shop_with(&STEPS.into_iter().fold(Plan::default(), slow)).await;
        let placed = shop.place("k1", 0, &order("pm_card_ok", "KR")).await;
        let order_id = text(&placed.body, "order_id");
        tokio::time::sleep(Duration::from_millis(millis)).await;
        let answer = shop.cancel("c1", order_id, 0).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
        assert_eq!(text(&shop.settled(order_id).await, "status"), "ORDER_STATUS_CANCELLED", "after {millis} ms");
        let own_saga = world.stores.order.version(&format!("cancellation-{order_id}").as_str().into()).await.unwrap();
        *(if own_saga == 0 { &mut before } else { &mut after }) += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((books::open_sagas(&world.stores).await, books::armed(&world.stores).await), (vec![], 0));
        books::balance(&world.stores).await;
        world.is_clean().await;
    }
    assert!(before >= 10 && after >= 10, "{before} before the confirmation, {after} after it");
}

/// The cancellation of a confirmed order: the carrier decides, and from there on everything is tried until it is done.
#[tokio::test(start_paused = true)]
async fn a_cancellation_of_a_confirmed_order_is_carried_through_whatever_happens_to_its_calls() {
    for (_, undo) in STEPS {
        for fault in [Fault::TimesOut, Fault::ReplyLost, Fault::Twice] {
            let world = World::new();
            let shop = world.shop_with(&Plan::default().fault(undo, fault, 6)).await;
            let placed = shop.place("k1", 10, &order("pm_card_ok", "KR")).await;
            let order_id = text(&placed.body, "order_id");
            assert_eq!(shop.cancel("c1", order_id, 0).await.status, StatusCode::ACCEPTED);
            let settled = shop.settled(order_id).await;
            assert_eq!(text(&settled, "status"), "ORDER_STATUS_CANCELLED", "{undo} {fault:?}");
            books::balance(&world.stores).await;
            world.is_clean().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_carrier_that_says_too_late_leaves_the_order_confirmed_and_nothing_undone() {
    let world = World::new();
    let plan = Plan::default().fault("CancelShipment", Fault::Refused, 1);
    let shop = world.shop_with(&plan).await;
    let placed = shop.place("k1", 10, &order("pm_card_ok", "KR")).await;
    let order_id = text(&placed.body, "order_id");
    assert_eq!(shop.cancel("c1", order_id, 0).await.status, StatusCode::ACCEPTED);
    let settled = shop.settled(order_id).await;
    assert_eq!(
        (text(&settled, "status"), text(&settled, "cancellation")),
        ("ORDER_STATUS_CONFIRMED", "CANCELLATION_TOO_LATE")
    );
    assert!(!plan.calls().contains(&"RefundPayment".to_owned()));
    let again = shop.cancel("c2", order_id, 0).await;
    assert_eq!((again.status, text(&again.body, "reason")), (StatusCode::UNPROCESSABLE_ENTITY, "too_late"));
    let orders = books::balance(&world.stores).await;
    assert_eq!(orders.into_values().collect::<Vec<_>>(), [Status::Confirmed]);
    world.is_clean().await;
}
