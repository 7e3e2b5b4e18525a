//! Any commands, in any order, against a recount of everything that was written down.
use clock::Timestamp;
use decider::Decider;
use decider::spec::history;
use order::order::{Cancellation, Cause, Command, Details, Event, Order, Rejection, Status};
use proptest::collection::vec;
use proptest::prelude::*;

static ALL: [Command; 7] = [
    Command::Confirm,
    Command::Fail(Cause { reason: String::new(), message: String::new(), sku: String::new(), unit_price: None }),
    Command::RequestCancellation,
    Command::Cancel,
    Command::RefuseCancellation,
    Command::Ship,
    Command::Deliver,
];

fn command() -> impl Strategy<Value = (Command, Timestamp)> {
    let command = prop_oneof![
        2 => (1..5_i64).prop_map(|total| Command::Place(Details { total, ..Details::default() })),
        9 => proptest::sample::select(&ALL[..]),
    ];
    // Clocks of other processes may be behind.
    (command, (0..50_i64).prop_map(Timestamp))
}

/// How often each came, in the order in which the events are declared, and the moments.
fn recount(book: &[Event]) -> ([usize; 8], Vec<Timestamp>) {
    let (mut counts, mut moments) = ([0; 8], vec![]);
    for event in book {
        let (which, at) = match event {
            Event::OrderPlaced { at, .. } => (0, at),
            Event::OrderConfirmed { at } => (1, at),
            Event::OrderRejected { at, .. } => (2, at),
            Event::OrderCancellationRequested { at } => (3, at),
            Event::OrderCancellationRefused { at } => (4, at),
            Event::OrderCancelled { at } => (5, at),
            Event::OrderShipped { at } => (6, at),
            Event::OrderDelivered { at } => (7, at),
        };
        counts[which] += 1;
        moments.push(*at);
    }
    (counts, moments)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_order_goes_one_way_and_ends_once(commands in vec(command(), 0..30)) {
        let mut book = Vec::<Event>::new();
        for turn in history::<Order>(commands) {
            let ([placed, confirmed, rejected, wished, late, off, shipped, _], _) = recount(&book);
            let said = |why: Rejection| turn.outcome == Err(why);
            match &turn.command.0 {
                Command::Place(_) => prop_assert_eq!(said(Rejection::Exists), placed == 1),
                _ if placed == 0 => prop_assert!(said(Rejection::Unknown)),
                // Before it is confirmed, a wish to call it off decides: it can only become cancelled.
                Command::Confirm => {
                    let open = off + rejected + shipped == 0;
                    prop_assert_eq!(turn.outcome.is_ok(), open && (confirmed == 1 || wished == 0), "{:?}", book);
                }
                Command::RequestCancellation if rejected == 1 => prop_assert!(said(Rejection::AlreadyRejected)),
                Command::RequestCancellation => {
                    prop_assert_eq!(said(Rejection::TooLate), late == 1 || shipped == 1 && wished == 0, "{:?}", book);
                }
                Command::Ship => prop_assert_eq!(turn.outcome.is_ok(), confirmed == 1 && off == 0),
                Command::Deliver => prop_assert_eq!(turn.outcome.is_ok(), shipped == 1),
                _ => {}
            }
            prop_assert!(rejected + off == 0 || turn.events().is_empty(), "{:?} after {:?}", turn.events(), book);
            book.extend(turn.events().iter().cloned());

            let (counts, moments) = recount(&book);
            let [placed, confirmed, rejected, wished, late, off, shipped, arrived] = counts;
            prop_assert!(counts.iter().all(|count| *count <= 1) && moments.is_sorted(), "{:?}", book);
            prop_assert!(confirmed + rejected <= placed && arrived <= shipped && shipped <= confirmed, "{:?}", book);
            prop_assert!(off + late <= wished && off + shipped <= 1 && off + rejected <= 1, "{:?}", book);
            let status = match turn.after.status {
                Status::Absent => placed == 0,
                Status::Placed => placed == 1 && confirmed + rejected + off == 0,
                Status::Confirmed => confirmed == 1 && off + shipped == 0,
                Status::Shipped => shipped == 1 && arrived == 0,
                Status::Delivered => arrived == 1,
                Status::Rejected(_) => rejected == 1,
                Status::Cancelled => off == 1,
            };
            prop_assert!(status, "{:?} after {:?}", turn.after.status, book);
            let wish = [Cancellation::None, Cancellation::Requested, Cancellation::TooLate, Cancellation::Done];
            prop_assert_eq!(turn.after.cancellation, wish[if off == 1 { 3 } else { wished + late }]);
            if turn.outcome.is_ok() && !matches!(turn.command.0, Command::Place(_)) {
                prop_assert_eq!(turn.after.decide(&turn.command), Ok(vec![]), "the same again adds nothing");
            }
            if turn.after.ended() {
                for command in &ALL {
                    let more = turn.after.decide(&(command.clone(), Timestamp(99))).unwrap_or_default();
                    prop_assert_eq!(more, vec![], "{:?} after the end", command);
                }
            }
        }
    }
}
