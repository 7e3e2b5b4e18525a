//! Any commands, in any order, against a recount of everything that was written down.
use clock::Timestamp;
use decider::Decider;
use decider::spec::history;
use proptest::collection::vec;
use proptest::prelude::*;
use shipping::carrier::{Ask, Booking, Entry, SERVED};
use shipping::shipment::{Booked, Command, Event, Parcel, PickedUp, Rejection, Shipment, Stage};

fn picked_up() -> impl Strategy<Value = PickedUp> {
    prop_oneof![(0..9_i64).prop_map(|at| PickedUp::Left { expected: Timestamp(at) }), Just(PickedUp::CalledOff)]
}

fn command() -> impl Strategy<Value = Command> {
    let booked = prop_oneof![
        3 => Just(Booked::Labelled { tracking_number: "T-1".into() }),
        1 => Just(Booked::Refused { reason: "country_not_served".into() }),
        1 => Just(Booked::CalledOff {}),
    ];
    let parcel = |key: u8| Parcel { key: format!("key-{key}"), ..Parcel::default() };
    prop_oneof![
        2 => (0..2_u8).prop_map(move |key| Command::Create(parcel(key))),
        2 => booked.prop_map(Command::SettleCreate),
        1 => (0..2_u8).prop_map(|key| Command::Cancel { key: format!("undo-{key}") }),
        1 => picked_up().prop_map(Command::SettleCancel),
        2 => (0..9_i64).prop_map(|at| Command::Dispatch { at: Timestamp(at) }),
        2 => picked_up().prop_map(Command::SettlePickUp),
        1 => Just(Command::SettleDelivery),
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        2 => proptest::sample::select(&["KR", "AQ"][..]).prop_map(|country| Ask::Book(country.into())),
        1 => Just(Ask::Cancel),
        2 => (0..9_i64).prop_map(|at| Ask::PickUp(Timestamp(at))),
        2 => (0..9_i64).prop_map(|now| Ask::Track(Timestamp(now))),
    ]
}

/// How often each came, in the order in which the events are declared.
fn counts(book: &[Event]) -> [usize; 8] {
    let mut counts = [0; 8];
    for event in book {
        counts[match event {
            Event::ShipmentRequested { .. } => 0,
            Event::ShipmentCreated { .. } => 1,
            Event::ShipmentRefused { .. } => 2,
            Event::ShipmentCancelRequested { .. } => 3,
            Event::ShipmentCancelled {} => 4,
            Event::PickUpScheduled { .. } => 5,
            Event::ShipmentDispatched { .. } => 6,
            Event::ShipmentDelivered {} => 7,
        }] += 1;
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_parcel_at_most_and_it_leaves_or_is_called_off(commands in vec(command(), 0..24)) {
        let mut book = Vec::<Event>::new();
        for turn in history::<Shipment>(commands) {
            let [requested, .., called_off, _, left, arrived] = counts(&book);
            let undone = called_off + counts(&book)[3] > 0;
            match (&turn.command, &turn.outcome) {
                (Command::Create(_), outcome) if undone && left == 0 => {
                    prop_assert_eq!(outcome, &Err(Rejection::AlreadyCancelled), "{:?}", book);
                }
                (Command::Create(_), outcome) if requested == 0 => prop_assert!(outcome.is_ok()),
                (Command::Cancel { .. }, outcome) => prop_assert_eq!(outcome.is_ok(), left == 0, "the carrier has it"),
                (Command::SettleDelivery, outcome) => prop_assert_eq!(outcome.is_ok(), left == 1),
                _ => {}
            }
            prop_assert!(called_off + arrived == 0 || turn.events().is_empty(), "{:?} after {:?}", turn.events(), book);
            book.extend(turn.events().iter().cloned());

            let [requested, created, refused, undoing, called_off, scheduled, left, arrived] = counts(&book);
            prop_assert!(counts(&book).iter().all(|count| *count <= 1), "{:?}", book);
            prop_assert!(created + refused <= requested && scheduled <= created && left <= requested, "{:?}", book);
            prop_assert!(left + called_off <= 1 && arrived <= left && left <= scheduled + undoing, "{:?}", book);
            let ended = matches!(turn.after.stage, Stage::Cancelled | Stage::Delivered);
            prop_assert_eq!(ended, called_off + arrived == 1);
            if turn.outcome.is_ok() {
                prop_assert_eq!(turn.after.decide(&turn.command), Ok(vec![]), "the same again adds nothing");
            }
        }
    }

    /// The carrier labels a parcel once, and picks it up or calls it off; it arrives when its time has come.
    #[test]
    fn the_carrier_picks_up_or_calls_off(asks in vec(ask(), 0..24)) {
        let mut book = Vec::<Entry>::new();
        for turn in history::<Booking>(asks) {
            let labelled = book.iter().any(|entry| matches!(entry, Entry::Labelled {}));
            let off = book.iter().any(|entry| matches!(entry, Entry::CalledOff {}));
            let left = book.iter().find_map(|entry| if let Entry::PickedUp { expected } = entry { Some(*expected) } else { None });
            let arrived = book.iter().any(|entry| matches!(entry, Entry::Delivered {}));
            let expected = match &turn.command {
                Ask::Book(country) if book.is_empty() && SERVED.contains(&country.as_str()) => vec![Entry::Labelled {}],
                Ask::Book(country) if book.is_empty() => vec![Entry::Refused { country: country.clone() }],
                Ask::Cancel if book.is_empty() || labelled && !off && left.is_none() => vec![Entry::CalledOff {}],
                Ask::PickUp(at) if labelled && !off && left.is_none() => vec![Entry::PickedUp { expected: *at }],
                Ask::Track(now) if left.is_some_and(|expected| expected <= *now) && !arrived => vec![Entry::Delivered {}],
                _ => vec![],
            };
            prop_assert_eq!(turn.events(), &expected[..], "{:?} after {:?}", turn.command, book);
            book.extend(expected);
            prop_assert_eq!(turn.after.decide(&turn.command), Ok(vec![]), "the same again adds nothing");
        }
    }
}
