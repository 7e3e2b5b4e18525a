//! The books of the shop, read from the stores: money, goods and parcels of every order fit its status.
use std::collections::BTreeMap;

use inventory::reservation::{self, Reservation};
use inventory::stock::Stock;
use monolith::shop::Stores;
use order::order::{Order, Status};
use payment::bank::Entry;
use shipping::carrier::Booking;
use store::folded::{self, Folded};
use store::{Store, StreamId};

/// What the books say of one order.
#[derive(Debug, Default, PartialEq)]
pub struct Page {
    pub debits: usize,
    pub credits: usize,
    pub holding: bool,
    pub shipped: bool,
    pub parcels: usize,
    pub delivered: usize,
}

/// Every stream that starts with `prefix`.
async fn streams(store: &dyn Store, prefix: &str) -> Vec<StreamId> {
    let mut all: Vec<StreamId> = vec![];
    loop {
        let after = all.last().map_or(String::new(), |last| last.to_string());
        let page = store.streams(prefix, &after, 1_000).await.unwrap();
        let end = page.len() < 1_000;
        all.extend(page);
        if end {
            return all;
        }
    }
}

/// Judges every order: all settled, each effect at most once, and exactly those of its status.
///
/// Gives the orders by id with their status.
pub async fn balance(stores: &Stores) -> BTreeMap<String, Status> {
    let mut pages: BTreeMap<String, Page> = BTreeMap::new();
    money(stores.bank.as_ref(), &mut pages).await;
    parcels(stores.carrier.as_ref(), &mut pages).await;
    goods(stores.inventory.as_ref(), &mut pages).await;
    let mut orders = BTreeMap::new();
    for stream in streams(stores.order.as_ref(), "order-").await {
        let order: Folded<Order> = folded::load(stores.order.as_ref(), &stream).await.unwrap();
        let id = stream.0.strip_prefix("order-").unwrap().to_owned();
        let page = pages.remove(&id).unwrap_or_default();
        assert!(order.state.settled(), "{stream} is not settled: {order:?}");
        let sold = Page { debits: 1, parcels: 1, ..Page::default() };
        let expected = match order.state.status {
            Status::Confirmed => Page { holding: true, ..sold },
            Status::Shipped => Page { shipped: true, ..sold },
            Status::Delivered => Page { shipped: true, delivered: 1, ..sold },
            _ => Page { debits: page.debits, credits: page.debits, ..Page::default() },
        };
        assert_eq!(page, expected, "{stream} is {:?}", order.state.status);
        orders.insert(id, order.state.status);
    }
    assert!(pages.is_empty(), "effects without an order: {pages:?}");
    orders
}

/// Timers of sagas, payments and shipments that are still armed.
pub async fn armed(stores: &Stores) -> u64 {
    let mut armed = 0;
    for store in [&stores.order, &stores.payment, &stores.shipping] {
        armed += store.armed().await.unwrap();
    }
    armed
}

/// Sagas that have not ended.
pub async fn open_sagas(stores: &Stores) -> Vec<String> {
    let mut open = vec![];
    for prefix in ["checkout-", "cancellation-"] {
        for stream in streams(stores.order.as_ref(), prefix).await {
            let saga: Folded<saga::Saga> = folded::load(stores.order.as_ref(), &stream).await.unwrap();
            if saga.state.end().is_none() {
                open.push(format!("{stream} turned back: {:?}", saga.state.turned_back()));
            }
        }
    }
    open
}

/// The bank's own ledger: at most one debit a charge, given back at most once.
async fn money(bank: &dyn Store, pages: &mut BTreeMap<String, Page>) {
    for stream in streams(bank, "charge-").await {
        let entries = bank.load(&stream, 0, 100).await.unwrap();
        let entries: Vec<Entry> = entries.iter().map(|entry| folded::decode(entry).unwrap()).collect();
        let page = pages.entry(order_of(&stream, "charge-checkout-")).or_default();
        page.debits += entries.iter().filter(|entry| matches!(entry, Entry::Debited { .. })).count();
        page.credits += entries.iter().filter(|entry| matches!(entry, Entry::Credited { .. })).count();
        assert!(page.debits <= 1 && page.credits <= page.debits, "{stream}: {entries:?}");
    }
}

/// The carrier's own book.
async fn parcels(carrier: &dyn Store, pages: &mut BTreeMap<String, Page>) {
    for stream in streams(carrier, "parcel-").await {
        let booking: Folded<Booking> = folded::load(carrier, &stream).await.unwrap();
        let page = pages.entry(order_of(&stream, "parcel-checkout-")).or_default();
        let delivered = matches!(booking.state, Booking::Delivered { .. });
        let picked_up = delivered || matches!(booking.state, Booking::PickedUp { .. });
        page.parcels += usize::from(picked_up || booking.state == Booking::Labelled);
        page.delivered += usize::from(delivered);
    }
}

/// What orders hold, and that the totals of stock are the sum of it.
async fn goods(inventory: &dyn Store, pages: &mut BTreeMap<String, Page>) {
    let (mut held, mut shipped): (BTreeMap<String, i64>, BTreeMap<String, i64>) = Default::default();
    for stream in streams(inventory, "reservation-").await {
        let reservation: Folded<Reservation> = folded::load(inventory, &stream).await.unwrap();
        let id = stream.0.strip_prefix("reservation-").unwrap().to_owned();
        let page = pages.entry(id).or_default();
        page.holding = matches!(reservation.state, Reservation::Holding(_));
        page.shipped = reservation.state == Reservation::Shipped;
        let first = inventory.load(&stream, 0, 1).await.unwrap();
        if let reservation::Event::InventoryReserved { held: lines } = folded::decode(&first[0]).unwrap() {
            let total = if page.shipped { &mut shipped } else { &mut held };
            for line in lines.iter().filter(|_| page.holding || page.shipped) {
                *total.entry(line.sku.clone()).or_default() += line.quantity;
            }
        }
    }
    for stream in streams(inventory, "stock-").await {
        let stock: Folded<Stock> = folded::load(inventory, &stream).await.unwrap();
        let sku = stream.0.strip_prefix("stock-").unwrap();
        let sum = |of: &BTreeMap<String, i64>| of.get(sku).copied().unwrap_or(0);
        let totals = (stock.state.reserved, stock.state.shipped);
        assert_eq!(totals, (sum(&held), sum(&shipped)), "{stream} against the reservations");
        assert!(stock.state.available() >= 0, "{stream}: {stock:?}");
    }
}

fn order_of(stream: &StreamId, prefix: &str) -> String {
    let rest = stream.0.strip_prefix(prefix).unwrap_or_else(|| panic!("{stream} belongs to no checkout"));
    rest.split('/').next().unwrap().to_owned()
}
