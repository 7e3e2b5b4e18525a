//! Any commands, in any order, against what a clerk with pencil and paper would say.
use decider::Decider;
use decider::spec::history;
use inventory::product::{self, Description, Product};
use inventory::reservation::{self, Held, Reservation};
use inventory::stock::{self, MAX_RECEIVED, Stock};
use proptest::collection::vec;
use proptest::prelude::*;

/// What is asked of stock, or happens to what is set aside of it.
#[derive(Clone, Copy, Debug)]
enum Move {
    Asked(stock::Command),
    Happened(stock::Event),
}

fn stock_move() -> impl Strategy<Value = Move> {
    // Services let no other quantities through. The large ones come near what a store can hold.
    let quantity = prop_oneof![6 => 1..20_i64, 1 => Just(MAX_RECEIVED), 1 => MAX_RECEIVED - 30..MAX_RECEIVED];
    (0..4_u8, quantity).prop_map(|(kind, quantity)| match kind {
        0 => Move::Asked(stock::Command::Receive(quantity)),
        1 => Move::Asked(stock::Command::Reserve(quantity)),
        2 => Move::Happened(stock::Event::StockReleased { quantity }),
        _ => Move::Happened(stock::Event::StockShipped { quantity }),
    })
}

fn held() -> impl Strategy<Value = Vec<Held>> {
    vec((0..3_u8, 1..5_i64).prop_map(|(n, quantity)| Held { sku: format!("SKU-{n}"), quantity }), 1..3)
}

fn reservation_command() -> impl Strategy<Value = reservation::Command> {
    prop_oneof![
        held().prop_map(reservation::Command::Reserve),
        Just(reservation::Command::Release),
        Just(reservation::Command::Ship),
    ]
}

fn product_command() -> impl Strategy<Value = product::Command> {
    let description = |n| Description { name_en: format!("name {n}"), ..Description::default() };
    prop_oneof![
        (0..3_u8, 1..4_i64)
            .prop_map(move |(n, unit_price)| product::Command::Add { description: description(n), unit_price }),
        (1..4_i64).prop_map(|unit_price| product::Command::ChangePrice { unit_price }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Three heaps: on the shelf, set aside, gone. A heap gives what it has, and never more; reservations take no more from what
    /// is set aside than they put there.
    #[test]
    fn pieces_move_between_heaps_and_none_is_made_or_lost(moves in vec(stock_move(), 0..60)) {
        let (mut shelf, mut aside, mut gone, mut stock) = (0, 0, 0, Stock::default());
        for made in moves {
            let moved = match made {
                Move::Asked(stock::Command::Receive(n)) if shelf + aside + gone + n <= MAX_RECEIVED => { shelf += n; true }
                Move::Asked(stock::Command::Reserve(n)) if n <= shelf => { shelf -= n; aside += n; true }
                Move::Asked(_) => false,
                Move::Happened(stock::Event::StockReleased { quantity }) if quantity <= aside => { aside -= quantity; shelf += quantity; true }
                Move::Happened(stock::Event::StockShipped { quantity }) if quantity <= aside => { aside -= quantity; gone += quantity; true }
                Move::Happened(_) => continue,
            };
            let outcome = match made {
                Move::Asked(command) => stock.decide(&command),
                Move::Happened(event) => Ok(vec![event]),
            };
            prop_assert_eq!(moved, outcome.is_ok(), "{:?}", made);
            if let (Move::Asked(stock::Command::Reserve(_)), Err(why)) = (made, &outcome) {
                prop_assert_eq!(*why, stock::Rejection::OutOfStock { available: shelf });
            }
            stock = outcome.unwrap_or_default().iter().fold(stock, Stock::evolve);
            prop_assert_eq!((stock.available(), stock.reserved, stock.shipped), (shelf, aside, gone));
            prop_assert!(stock.available() >= 0 && stock.reserved >= 0 && stock.received <= MAX_RECEIVED);
        }
    }

    /// The first of reserving and releasing decides what the second is told.
    #[test]
    fn an_order_holds_goods_at_most_once(commands in vec(reservation_command(), 0..12)) {
        use reservation::{Command, Event};
        let (mut book, mut once) = (Vec::<Event>::new(), None);
        for turn in history::<Reservation>(commands) {
            let wrote = |wanted: fn(&Event) -> bool| book.iter().any(wanted);
            let reserved = wrote(|event| matches!(event, Event::InventoryReserved { .. }));
            let released = wrote(|event| matches!(event, Event::InventoryReleased {}));
            let shipped = wrote(|event| matches!(event, Event::InventoryShipped {}));
            let takes_effect = match &turn.command {
                Command::Reserve(goods) if book.is_empty() => { once = Some(goods.clone()); true }
                Command::Reserve(_) => false,
                Command::Release => !released && !shipped,
                Command::Ship => reserved && !released && !shipped,
            };
            prop_assert_eq!(turn.events().len(), usize::from(takes_effect), "{:?} after {:?}", turn.command, book);
            let nothing_to_do = matches!(&turn.command, Command::Release if released)
                || matches!(&turn.command, Command::Ship if shipped);
            prop_assert_eq!(turn.outcome.is_ok(), takes_effect || nothing_to_do);
            book.extend(turn.events().iter().cloned());
            let ended = book.iter().any(|event| !matches!(event, Event::InventoryReserved { .. }));
            let holds = once.as_deref().filter(|_| !ended).unwrap_or_default();
            prop_assert_eq!(turn.after.held(), holds);
            if turn.outcome.is_ok() && !matches!(turn.command, Command::Reserve(_)) {
                prop_assert_eq!(turn.after.decide(&turn.command), Ok(vec![]), "the same again adds nothing");
            }
        }
    }

    /// A product is what it was first said to be, and costs what was last said.
    #[test]
    fn a_product_is_added_once_and_has_its_latest_price(commands in vec(product_command(), 0..20)) {
        let mut known: Option<(Description, i64)> = None;
        for turn in history::<Product>(commands) {
            let before = known.clone();
            match (&turn.command, &mut known) {
                (product::Command::Add { description, unit_price }, None) => known = Some((description.clone(), *unit_price)),
                (product::Command::ChangePrice { unit_price }, Some((_, price))) => *price = *unit_price,
                _ => prop_assert!(turn.outcome.is_err(), "{:?}", turn.command),
            }
            prop_assert_eq!(turn.events().len(), usize::from(known != before));
            prop_assert_eq!(turn.after.unit_price, known.as_ref().map(|(_, price)| *price));
            for seen in 0..5 {
                let sold = turn.after.check_price(seen).is_ok();
                prop_assert_eq!(sold, known.as_ref().is_some_and(|(_, price)| *price == seen));
            }
            if let Some((description, _)) = &known {
                prop_assert_eq!(&turn.after.description, description);
            }
        }
    }
}
