//! Any commands, in any order, against a recount of everything that was written down.
use decider::Decider;
use decider::spec::history;
use payment::bank::{Account, Ask, Entry, TOKENS};
use payment::payment::{Charge, Charged, Command, Event, Payment, Rejection, Stage};
use proptest::collection::vec;
use proptest::prelude::*;

fn charge() -> impl Strategy<Value = Charge> {
    (0..2_u8, 1..9_i64, proptest::sample::select(&TOKENS[..])).prop_map(|(key, amount, method)| Charge {
        key: format!("key-{key}"),
        amount,
        currency: "KRW".into(),
        method: method.into(),
    })
}

fn command() -> impl Strategy<Value = Command> {
    let charged = prop_oneof![
        Just(Charged::Taken { reference: "b-1".into() }),
        Just(Charged::Declined { reason: "card_declined".into() }),
        Just(Charged::CalledOff {}),
    ];
    prop_oneof![
        charge().prop_map(Command::Charge),
        charged.prop_map(Command::SettleCharge),
        (0..2_u8).prop_map(|key| Command::Refund { key: format!("undo-{key}") }),
        Just(Command::SettleRefund),
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        charge().prop_map(|charge| Ask::Charge(charge, "ours".into())),
        Just(Ask::Cancel),
        (0..2_u8).prop_map(|key| Ask::Refund(format!("undo-{key}"))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn at_most_one_charge_and_one_refund_and_nothing_after_the_end(commands in vec(command(), 0..20)) {
        let mut book = Vec::<Event>::new();
        for turn in history::<Payment>(commands) {
            let count = |wanted: fn(&Event) -> bool| book.iter().filter(|event| wanted(event)).count();
            let closed = count(|event| matches!(event, Event::PaymentRefunded {} | Event::PaymentVoided {})) > 0;
            let undoing = count(|event| matches!(event, Event::RefundRequested { .. })) > 0;
            let taken = count(|event| matches!(event, Event::PaymentCharged { .. })) > 0;
            let first = book.iter().find_map(|event| if let Event::ChargeRequested { charge } = event { Some(charge) } else { None });
            match (&turn.command, &turn.outcome) {
                (Command::Charge(_), outcome) if closed || undoing => {
                    prop_assert_eq!(outcome, &Err(Rejection::AlreadyRefunded));
                }
                (Command::Charge(asked), outcome) => match first {
                    None => prop_assert_eq!(outcome, &Ok(vec![Event::ChargeRequested { charge: asked.clone() }])),
                    Some(first) if first.key == asked.key => prop_assert_eq!(outcome, &Ok(vec![])),
                    Some(_) => prop_assert_eq!(outcome, &Err(Rejection::AnotherCharge)),
                },
                (Command::Refund { .. }, outcome) => prop_assert!(outcome.is_ok(), "an undo is never refused"),
                (Command::SettleCharge(_), outcome) => prop_assert_eq!(outcome.is_ok(), first.is_some() || closed),
                (Command::SettleRefund, outcome) => prop_assert_eq!(outcome.is_ok(), closed || undoing && taken),
            }
            prop_assert!(!closed || turn.events().is_empty(), "{:?} after {:?}", turn.events(), book);
            book.extend(turn.events().iter().cloned());

            let count = |wanted: fn(&Event) -> bool| book.iter().filter(|event| wanted(event)).count();
            let charged = count(|event| matches!(event, Event::PaymentCharged { .. }));
            let refunded = count(|event| matches!(event, Event::PaymentRefunded {}));
            let voided = count(|event| matches!(event, Event::PaymentVoided {}));
            prop_assert!(charged <= 1 && refunded <= charged && voided <= 1 - charged, "{:?}", book);
            let asked = count(|event| matches!(event, Event::ChargeRequested { .. }));
            let undone = count(|event| matches!(event, Event::RefundRequested { .. }));
            prop_assert!(asked <= 1 && undone <= asked, "{:?}", book);
            prop_assert_eq!(turn.after.stage == Stage::Refunded, refunded + voided == 1);
            if turn.outcome.is_ok() {
                prop_assert_eq!(turn.after.decide(&turn.command), Ok(vec![]), "the same again adds nothing");
            }
        }
    }

    /// The bank moves money once each way, under one key, and never after it was called off.
    #[test]
    fn the_bank_debits_once_and_credits_once(asks in vec(ask(), 0..20)) {
        let mut ledger = Vec::<Entry>::new();
        for turn in history::<Account>(asks) {
            let debited = ledger.iter().any(|entry| matches!(entry, Entry::Debited { .. }));
            let credited = ledger.iter().any(|entry| matches!(entry, Entry::Credited { .. }));
            let expected = match &turn.command {
                Ask::Charge(charge, reference) if ledger.is_empty() => vec![match charge.method.strip_prefix("pm_card_") {
                    Some("declined") => Entry::Refused { reason: "card_declined".into() },
                    Some("insufficient_funds") => Entry::Refused { reason: "insufficient_funds".into() },
                    _ => Entry::Debited { amount: charge.amount, currency: "KRW".into(), reference: reference.clone() },
                }],
                Ask::Cancel if ledger.is_empty() => vec![Entry::CalledOff {}],
                Ask::Refund(key) if debited && !credited => vec![Entry::Credited { key: key.clone() }],
                _ => vec![],
            };
            prop_assert_eq!(turn.events(), &expected[..], "{:?} after {:?}", turn.command, ledger);
            prop_assert_eq!(turn.outcome.is_err(), matches!(turn.command, Ask::Refund(_)) && !debited);
            ledger.extend(expected);
            if turn.outcome.is_ok() {
                prop_assert_eq!(turn.after.decide(&turn.command), Ok(vec![]), "the same key is the same deed");
            }
        }
    }
}
