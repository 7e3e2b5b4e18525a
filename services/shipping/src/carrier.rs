//! The port to whoever carries parcels, and a carrier to try things with: an outside party with a book of its own,
//! idempotent by key.
use std::sync::Arc;

use async_trait::async_trait;
use decider::Decider;
use host::Process;
use serde::{Deserialize, Serialize};
use store::folded::{self, Change, Done, Failed, Folded};
use store::{Commit, Meta, Store, StreamId};

use crate::shipment::{Booked, Parcel};

/// The carrier did not answer: whether it did what was asked is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the carrier did not answer: {0}")]
pub struct NoAnswer(pub String);

/// A carrier. The same key is the same parcel, whatever is repeated.
#[async_trait]
pub trait Carrier: Send + Sync + 'static {
    /// Books a parcel, once per key.
    async fn book(&self, parcel: &Parcel) -> Result<Booked, NoAnswer>;

    /// Calls a parcel off, whether or not it was booked: after it, a booking with this key is never made.
    async fn cancel(&self, key: &str) -> Result<(), NoAnswer>;
}

/// The countries that the simulated carrier serves.
pub const SERVED: [&str; 6] = ["KR", "JP", "TW", "SG", "US", "DE"];

/// An entry of the carrier's book. The stream is `parcel-<key>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A label was made.
    Labelled {},
    /// The country is not served.
    Refused {
        /// Which.
        country: String,
    },
    /// Called off.
    CalledOff {},
}

/// What the book says of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Booking {
    /// Nothing.
    #[default]
    Unknown,
    /// A label was made.
    Labelled,
    /// Refused.
    Refused,
    /// Called off, before or after.
    CalledOff,
}

/// What the carrier is asked.
#[derive(Clone, Debug)]
pub enum Ask {
    /// To carry a parcel to this country.
    Book(String),
    /// To call it off.
    Cancel,
}

impl Decider for Booking {
    type Command = Ask;
    type Event = Entry;
    type Rejection = std::convert::Infallible;

    fn decide(&self, ask: &Ask) -> Result<Vec<Entry>, Self::Rejection> {
        Ok(match (ask, self) {
            (Ask::Book(country), Booking::Unknown) if SERVED.contains(&country.as_str()) => vec![Entry::Labelled {}],
            (Ask::Book(country), Booking::Unknown) => vec![Entry::Refused { country: country.clone() }],
            (Ask::Cancel, Booking::Unknown | Booking::Labelled) => vec![Entry::CalledOff {}],
            (Ask::Book(_) | Ask::Cancel, _) => vec![],
        })
    }

    fn evolve(self, entry: &Entry) -> Booking {
        match entry {
            Entry::Labelled {} => Booking::Labelled,
            Entry::Refused { .. } => Booking::Refused,
            Entry::CalledOff {} => Booking::CalledOff,
        }
    }
}

/// The carrier simulator. Clones are the same carrier.
#[derive(Clone)]
pub struct Simulator {
    process: Process,
    book: Arc<dyn Store>,
}

impl Simulator {
    /// A carrier over its book.
    #[must_use]
    pub fn new(process: &Process, book: Arc<dyn Store>) -> Simulator {
        Simulator { process: process.clone(), book }
    }

    async fn ask(&self, key: &str, ask: Ask) -> Result<Booking, NoAnswer> {
        let stream = StreamId::from(format!("parcel-{key}"));
        let id = match &ask {
            Ask::Book(_) => key.to_owned(),
            Ask::Cancel => format!("{key}/cancel"),
        };
        let decide = |booking: &Folded<Booking>| booking.state.decide(&ask).map(Change::only);
        let (book, ids) = (self.book.as_ref(), &self.process.ids);
        // A booking mostly comes first.
        let guess = matches!(ask, Ask::Book(_)).then(Folded::default);
        let booked =
            match folded::change(book, ids, &stream, guess, &Commit::new(id.into(), Meta::default()), decide).await {
                Ok(Done::Now(booking) | Done::Nothing(booking)) => Ok(booking),
                Ok(Done::Before(_)) => folded::load(book, &stream).await,
                Err(Failed::Store(why)) => Err(why),
            };
        booked.map(|booking| booking.state).map_err(|why| NoAnswer(why.to_string()))
    }
}

#[async_trait]
impl Carrier for Simulator {
    async fn book(&self, parcel: &Parcel) -> Result<Booked, NoAnswer> {
        match self.ask(&parcel.key, Ask::Book(parcel.address.country.clone())).await? {
            Booking::Labelled => Ok(Booked::Labelled { tracking_number: tracking_number(&parcel.key) }),
            Booking::Refused => Ok(Booked::Refused { reason: "country_not_served".to_owned() }),
            Booking::CalledOff => Ok(Booked::CalledOff {}),
            Booking::Unknown => Err(NoAnswer("the book forgot what was just written".to_owned())),
        }
    }

    async fn cancel(&self, key: &str) -> Result<(), NoAnswer> {
        self.ask(key, Ask::Cancel).await.map(|_| ())
    }
}

/// The same key has the same number, without a look into the book (FNV-1a, 64 bits).
fn tracking_number(key: &str) -> String {
    let hash = key
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("JT{hash:016X}KR")
}
