//! PURE. What services publish, as the auditor reads it.
use std::collections::BTreeMap;
use std::fmt;

use clock::Timestamp;
use messaging::envelope::Envelope;
use prost::{Message, Name};
use proto::events as told;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Which version of a fact's form is read.
const SCHEMA: u16 = 1;
/// What the names of facts begin with.
const PACKAGE: &str = "shop.events.v1.";
/// What streams of stock are named by, before the SKU, and who tells of them.
const STOCK: (&str, &str) = ("stock-", "inventory");
/// The most products of an order.
pub const MOST_PRODUCTS: usize = 100;
/// Longest id of an order, and longest SKU, that a page or a shelf is kept under.
const LONGEST_ID: usize = 64;

/// What is recorded of an order in one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// The order itself.
    Order,
    /// The goods set aside for it.
    Reservation,
    /// Its money.
    Payment,
    /// Its parcel.
    Shipment,
}

impl Part {
    /// All four.
    pub const ALL: [Part; 4] = [Part::Order, Part::Reservation, Part::Payment, Part::Shipment];

    /// What its streams are named by, before the order's id.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Part::Order => "order-",
            Part::Reservation => "reservation-",
            Part::Payment => "payment-",
            Part::Shipment => "shipment-",
        }
    }

    /// The service that tells of it.
    #[must_use]
    pub fn source(self) -> &'static str {
        match self {
            Part::Order => "order",
            Part::Reservation => "inventory",
            Part::Payment => "payment",
            Part::Shipment => "shipping",
        }
    }
}

/// What a stream is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About<'a> {
    /// A part of this order.
    Order(Part, &'a str),
    /// The stock of this SKU.
    Stock(&'a str),
}

impl About<'_> {
    /// By the stream's name.
    ///
    /// # Errors
    /// A sentence, if no service has such a stream.
    pub fn of(stream: &str) -> Result<About<'_>, String> {
        let order = |part: Part| Some(About::Order(part, stream.strip_prefix(part.prefix())?));
        let stock = || stream.strip_prefix(STOCK.0).map(About::Stock);
        let about = Part::ALL.into_iter().find_map(order).or_else(stock);
        let plain = |id: &str| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        about
            .filter(|about| {
                let (About::Order(_, id) | About::Stock(id)) = about;
                (1..=LONGEST_ID).contains(&id.len()) && plain(id)
            })
            .ok_or_else(|| format!("no service has a stream {}", shown(stream)))
    }

    /// The service that tells of it.
    #[must_use]
    pub fn source(self) -> &'static str {
        match self {
            About::Order(part, _) => part.source(),
            About::Stock(_) => STOCK.1,
        }
    }
}

/// So many pieces of a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goods {
    /// What.
    pub sku: String,
    /// How many pieces.
    pub quantity: i64,
}

/// An amount of money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// In minor units.
    pub amount: i64,
    /// ISO 4217 code.
    pub currency: String,
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.amount, shown(&self.currency))
    }
}

/// What happens to an order, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "see Moment::words")]
pub enum Moment {
    Placed,
    Confirmed,
    Rejected,
    Cancelled,
    Shipped,
    Delivered,
    Reserved,
    Released,
    Left,
    Requested,
    Charged,
    Refunded,
    Labelled,
    CalledOff,
    Dispatched,
    Arrived,
}

impl Moment {
    /// In whose stream it is.
    #[must_use]
    pub fn part(self) -> Part {
        match self {
            Moment::Placed
            | Moment::Confirmed
            | Moment::Rejected
            | Moment::Cancelled
            | Moment::Shipped
            | Moment::Delivered => Part::Order,
            Moment::Reserved | Moment::Released | Moment::Left => Part::Reservation,
            Moment::Requested | Moment::Charged | Moment::Refunded => Part::Payment,
            Moment::Labelled | Moment::CalledOff | Moment::Dispatched | Moment::Arrived => Part::Shipment,
        }
    }

    /// What happened, as a clause.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Moment::Placed => "the order was placed",
            Moment::Confirmed => "the order was confirmed",
            Moment::Rejected => "the order was rejected",
            Moment::Cancelled => "the order was cancelled",
            Moment::Shipped => "the order was shipped",
            Moment::Delivered => "the order was delivered",
            Moment::Reserved => "goods were set aside",
            Moment::Released => "the goods were given back",
            Moment::Left => "the goods left the books",
            Moment::Requested => "the money was asked for",
            Moment::Charged => "the money was taken",
            Moment::Refunded => "the money was given back",
            Moment::Labelled => "the parcel got its label",
            Moment::CalledOff => "the parcel was called off",
            Moment::Dispatched => "the parcel left",
            Moment::Arrived => "the parcel arrived",
        }
    }
}

/// What a fact says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing but that it is there.
    Private,
    /// An order was placed.
    Placed {
        /// What was ordered, by SKU.
        goods: Vec<Goods>,
        /// What it costs.
        total: Money,
        /// The sum of its lines, in minor units.
        sum: i64,
    },
    /// Goods were set aside; by SKU.
    Reserved(Vec<Goods>),
    /// The bank is asked for money.
    Requested(Money),
    /// Something that needs no words.
    Happened(Moment),
    /// So many pieces of the SKU arrived.
    Received(i64),
    /// Something that this program cannot read, and why.
    Unreadable(String),
}

impl Body {
    /// What happened to an order, if anything did.
    #[must_use]
    pub fn moment(&self) -> Option<Moment> {
        match self {
            Body::Placed { .. } => Some(Moment::Placed),
            Body::Reserved(_) => Some(Moment::Reserved),
            Body::Requested(_) => Some(Moment::Requested),
            Body::Happened(moment) => Some(*moment),
            Body::Private | Body::Received(_) | Body::Unreadable(_) => None,
        }
    }
}

/// A published fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The event's id.
    pub id: Uuid,
    /// The service that told it.
    pub source: String,
    /// The stream that it belongs to.
    pub stream: String,
    /// Its place there, from 1.
    pub version: u64,
    /// What it says.
    pub body: Body,
    /// What led to it: the id of a command, or of a fact.
    pub causation_id: String,
    /// The business transaction that it belongs to.
    pub correlation_id: String,
    /// When it was recorded.
    pub time: Timestamp,
}

impl Fact {
    /// The fact in an envelope. What cannot be read of it is [`Body::Unreadable`].
    #[must_use]
    pub fn of(envelope: Envelope) -> Fact {
        let body = match &envelope {
            private if private.is_private() => Body::Private,
            Envelope { schema, .. } if *schema != SCHEMA => {
                Body::Unreadable(format!("its schema is {schema}; this program reads {SCHEMA}"))
            }
            Envelope { kind, payload, stream, .. } => decode(kind, payload, stream).unwrap_or_else(Body::Unreadable),
        };
        let Envelope { id, source, stream, version, causation_id, correlation_id, time, .. } = envelope;
        Fact { id, source, stream, version, body, causation_id, correlation_id, time }
    }
}

/// Reads a fact of this kind, the full name of its message, in this stream.
///
/// # Errors
/// Why it cannot be read, or does not belong into the stream, as a sentence.
pub fn decode(kind: &str, payload: &[u8], stream: &str) -> Result<Body, String> {
    let (id, body) = read(kind.strip_prefix(PACKAGE).unwrap_or_default(), payload)?
        .ok_or_else(|| format!("this program knows no fact {}", shown(kind)))?;
    let prefix = body.moment().map_or(STOCK.0, |moment| moment.part().prefix());
    if stream.strip_prefix(prefix) == Some(&*id) {
        return Ok(body);
    }
    Err(format!("it belongs to stream {prefix}{}", shown(&id)))
}

/// What a message says, and of which order or SKU; nothing if its name is none of ours.
fn read(name: &str, payload: &[u8]) -> Result<Option<(String, Body)>, String> {
    fn happened<M: Message + Default>(payload: &[u8], moment: Moment, id: fn(M) -> String) -> Read {
        message(payload).map(|read| (id(read), Body::Happened(moment)))
    }
    type Read = Result<(String, Body), String>;
    let read = match name {
        told::OrderPlaced::NAME => placed(payload),
        told::OrderConfirmed::NAME => {
            happened::<told::OrderConfirmed>(payload, Moment::Confirmed, |read| read.order_id)
        }
        told::OrderRejected::NAME => happened::<told::OrderRejected>(payload, Moment::Rejected, |read| read.order_id),
        told::OrderCancelled::NAME => {
            happened::<told::OrderCancelled>(payload, Moment::Cancelled, |read| read.order_id)
        }
        told::OrderShipped::NAME => happened::<told::OrderShipped>(payload, Moment::Shipped, |read| read.order_id),
        told::OrderDelivered::NAME => {
            happened::<told::OrderDelivered>(payload, Moment::Delivered, |read| read.order_id)
        }
        told::StockReserved::NAME => reserved(payload),
        told::StockReleased::NAME => happened::<told::StockReleased>(payload, Moment::Released, |read| read.order_id),
        told::StockShipped::NAME => happened::<told::StockShipped>(payload, Moment::Left, |read| read.order_id),
        told::StockReceived::NAME => received(payload),
        told::PaymentRequested::NAME => requested(payload),
        told::PaymentCharged::NAME => happened::<told::PaymentCharged>(payload, Moment::Charged, |read| read.order_id),
        told::PaymentRefunded::NAME => {
            happened::<told::PaymentRefunded>(payload, Moment::Refunded, |read| read.order_id)
        }
        told::ShipmentCreated::NAME => {
            happened::<told::ShipmentCreated>(payload, Moment::Labelled, |read| read.order_id)
        }
        told::ShipmentCancelled::NAME => {
            happened::<told::ShipmentCancelled>(payload, Moment::CalledOff, |read| read.order_id)
        }
        told::ShipmentDispatched::NAME => {
            happened::<told::ShipmentDispatched>(payload, Moment::Dispatched, |read| read.order_id)
        }
        told::ShipmentDelivered::NAME => {
            happened::<told::ShipmentDelivered>(payload, Moment::Arrived, |read| read.order_id)
        }
        _ => return Ok(None),
    };
    read.map(Some)
}

fn reserved(payload: &[u8]) -> Result<(String, Body), String> {
    let told::StockReserved { order_id, goods: lines } = message(payload)?;
    Ok((order_id, Body::Reserved(goods(lines.into_iter().map(|line| (line.sku, line.quantity)))?)))
}

fn received(payload: &[u8]) -> Result<(String, Body), String> {
    let told::StockReceived { sku, quantity } = message(payload)?;
    Ok((sku, Body::Received(positive(quantity)?)))
}

fn requested(payload: &[u8]) -> Result<(String, Body), String> {
    let told::PaymentRequested { order_id, amount, currency } = message(payload)?;
    Ok((order_id, Body::Requested(Money { amount, currency })))
}

fn placed(payload: &[u8]) -> Result<(String, Body), String> {
    let told::OrderPlaced { order_id, items, total, currency, .. } = message(payload)?;
    let sum = items.iter().fold(0_i64, |sum, item| sum.saturating_add(item.quantity.saturating_mul(item.unit_price)));
    let goods = goods(items.into_iter().map(|item| (item.sku, item.quantity)))?;
    Ok((order_id, Body::Placed { goods, total: Money { amount: total, currency }, sum }))
}

fn message<M: Message + Default>(payload: &[u8]) -> Result<M, String> {
    M::decode(payload).map_err(|why| format!("its payload cannot be read: {why}"))
}

/// Goods by SKU, each SKU once.
fn goods(lines: impl Iterator<Item = (String, i64)>) -> Result<Vec<Goods>, String> {
    let mut all = BTreeMap::<String, i64>::new();
    for (sku, quantity) in lines {
        About::of(&format!("{}{sku}", STOCK.0)).map_err(|_| format!("{} is no SKU", shown(&sku)))?;
        let sum = all.entry(sku).or_default();
        *sum = sum.saturating_add(positive(quantity)?);
    }
    if !(1..=MOST_PRODUCTS).contains(&all.len()) {
        return Err(format!("it names 1 to {MOST_PRODUCTS} products, not {}", all.len()));
    }
    Ok(all.into_iter().map(|(sku, quantity)| Goods { sku, quantity }).collect())
}

fn positive(quantity: i64) -> Result<i64, String> {
    if quantity > 0 { Ok(quantity) } else { Err(format!("a quantity is at least 1, not {quantity}")) }
}

/// As much of a text from outside as a sentence bears.
pub(crate) fn shown(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use messaging::envelope::PRIVATE;

    fn envelope<M: Message + Name>(stream: &str, fact: &M) -> Envelope {
        Envelope {
            id: Uuid::from_u128(7),
            source: "order".into(),
            kind: M::full_name(),
            stream: stream.into(),
            version: 2,
            schema: 1,
            time: Timestamp(9),
            correlation_id: "1".into(),
            causation_id: "checkout-1/confirm_order/do".into(),
            traceparent: String::new(),
            payload: fact.encode_to_vec(),
        }
    }

    fn confirmed() -> Envelope {
        envelope("order-1", &told::OrderConfirmed { order_id: "1".into() })
    }

    #[test]
    fn every_published_fact_is_read() {
        let parts = ["Item", "Goods"].map(|part| format!("{PACKAGE}{part}"));
        let facts: Vec<_> = told::KINDS.iter().filter(|kind| !parts.contains(&(**kind).to_owned())).collect();
        assert_eq!(facts.len() + parts.len(), told::KINDS.len());
        for kind in facts {
            let unread = decode(kind, &[], "diary").unwrap_err();
            assert!(!unread.contains("knows no fact"), "{kind}: {unread}");
        }
        for unknown in ["shop.events.v1.OrderPraised", "OrderConfirmed", ""] {
            assert!(decode(unknown, &[], "order-1").unwrap_err().contains("knows no fact"));
        }
    }

    #[test]
    fn a_fact_says_what_the_envelope_does() {
        let fact = Fact::of(confirmed());
        assert_eq!((fact.body, fact.version, fact.time), (Body::Happened(Moment::Confirmed), 2, Timestamp(9)));
        assert_eq!((&*fact.stream, &*fact.causation_id), ("order-1", "checkout-1/confirm_order/do"));
        let private = Envelope { kind: PRIVATE.into(), payload: vec![], ..confirmed() };
        assert_eq!(Fact::of(private).body, Body::Private);
        let item = |sku: &str, quantity| told::Item { sku: sku.into(), quantity, unit_price: 300 };
        let placed = told::OrderPlaced {
            order_id: "1".into(),
            items: vec![item("TEA-2", 1), item("TEA-1", 2)],
            total: 901,
            currency: "KRW".into(),
            ..told::OrderPlaced::default()
        };
        let goods = [("TEA-1", 2), ("TEA-2", 1)].map(|(sku, quantity)| Goods { sku: sku.into(), quantity }).to_vec();
        let total = Money { amount: 901, currency: "KRW".into() };
        assert_eq!(Fact::of(envelope("order-1", &placed)).body, Body::Placed { goods, total, sum: 900 });
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let goods = |sku: &str, quantity| told::StockReserved {
            order_id: "1".into(),
            goods: vec![told::Goods { sku: sku.into(), quantity }],
        };
        let many = (0..101).map(|n| told::Goods { sku: format!("TEA-{n}"), quantity: 1 }).collect();
        let of_stock = |sku: &str, quantity| told::StockReceived { sku: sku.into(), quantity };
        let cases = [
            (Envelope { schema: 2, ..confirmed() }, "its schema is 2"),
            (Envelope { payload: vec![255], ..confirmed() }, "its payload cannot be read"),
            (Envelope { stream: "order-2".into(), ..confirmed() }, "it belongs to stream order-1"),
            (Envelope { stream: "payment-1".into(), ..confirmed() }, "it belongs to stream order-1"),
            (envelope("reservation-1", &goods("TEA-1", 0)), "a quantity is at least 1, not 0"),
            (envelope("reservation-1", &goods("a b", 1)), "a b is no SKU"),
            (envelope("reservation-1", &told::StockReserved { goods: many, ..goods("TEA-1", 1) }), "products, not 101"),
            (envelope("reservation-1", &told::StockReserved::default()), "it names 1 to 100 products, not 0"),
            (envelope("stock-TEA-1", &of_stock("TEA-1", -1)), "a quantity is at least 1"),
            (envelope("stock-TEA-1", &of_stock("TEA-2", 1)), "it belongs to stream stock-TEA-2"),
        ];
        for (envelope, said) in cases {
            let Body::Unreadable(why) = Fact::of(envelope).body else { panic!("{said}: it was read") };
            assert!(why.contains(said), "{why}");
        }
    }
}
