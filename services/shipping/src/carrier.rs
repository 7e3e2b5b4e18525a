//! The port to whoever carries parcels, and a carrier to try things with: an outside party with a book of its own,
//! idempotent by key.
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clock::Timestamp;
use decider::Decider;
use host::Process;
use serde::{Deserialize, Serialize};
use store::folded::{self, Change, Done, Failed, Folded};
use store::{Commit, Meta, Store, StreamId};

use crate::shipment::{Booked, Parcel, PickedUp};

/// The carrier did not answer: whether it did what was asked is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the carrier did not answer: {0}")]
pub struct NoAnswer(pub String);

/// A carrier. The same key is the same parcel, whatever is repeated.
#[async_trait]
pub trait Carrier: Send + Sync + 'static {
    /// Books a parcel, once per key.
    async fn book(&self, parcel: &Parcel) -> Result<Booked, NoAnswer>;

    /// Calls a parcel off, whether or not it was booked: after it, a booking with this key is never made. If it was picked
    /// up before, it has left.
    async fn cancel(&self, key: &str) -> Result<PickedUp, NoAnswer>;

    /// Picks a parcel up that has a label, once, unless it was called off before.
    async fn pick_up(&self, key: &str) -> Result<PickedUp, NoAnswer>;

    /// Whether a parcel that has left was delivered.
    async fn delivered(&self, key: &str) -> Result<bool, NoAnswer>;
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
    /// It left.
    PickedUp {
        /// When it is expected to arrive.
        expected: Timestamp,
    },
    /// It arrived.
    Delivered {},
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
    /// It left.
    PickedUp {
        /// When it is expected to arrive.
        expected: Timestamp,
    },
    /// It arrived.
    Delivered {
        /// When it was expected to.
        expected: Timestamp,
    },
}

/// What the carrier is asked.
#[derive(Clone, Debug)]
pub enum Ask {
    /// To carry a parcel to this country.
    Book(String),
    /// To call it off.
    Cancel,
    /// To pick it up, to arrive at this moment.
    PickUp(Timestamp),
    /// Whether it arrived by now.
    Track(Timestamp),
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
            (Ask::PickUp(expected), Booking::Labelled) => vec![Entry::PickedUp { expected: *expected }],
            (Ask::Track(now), Booking::PickedUp { expected }) if now >= expected => vec![Entry::Delivered {}],
            (Ask::Book(_) | Ask::Cancel | Ask::PickUp(_) | Ask::Track(_), _) => vec![],
        })
    }

    fn evolve(self, entry: &Entry) -> Booking {
        match (entry, self) {
            (Entry::Labelled {}, _) => Booking::Labelled,
            (Entry::Refused { .. }, _) => Booking::Refused,
            (Entry::CalledOff {}, _) => Booking::CalledOff,
            (Entry::PickedUp { expected }, _) => Booking::PickedUp { expected: *expected },
            (Entry::Delivered {}, Booking::PickedUp { expected }) => Booking::Delivered { expected },
            (Entry::Delivered {}, before) => before,
        }
    }
}

/// The carrier simulator. Clones are the same carrier.
#[derive(Clone)]
pub struct Simulator {
    process: Process,
    book: Arc<dyn Store>,
    transit: Duration,
}

impl Simulator {
    /// A carrier over its book, whose parcels are on their way for as long as `transit`.
    #[must_use]
    pub fn new(process: &Process, book: Arc<dyn Store>, transit: Duration) -> Simulator {
        Simulator { process: process.clone(), book, transit }
    }

    async fn ask(&self, key: &str, ask: Ask) -> Result<Booking, NoAnswer> {
        let stream = StreamId::from(format!("parcel-{key}"));
        let id = match &ask {
            Ask::Book(_) => key.to_owned(),
            Ask::Cancel => format!("{key}/cancel"),
            Ask::PickUp(_) => format!("{key}/pick-up"),
            Ask::Track(_) => format!("{key}/delivery"),
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
            Booking::Labelled | Booking::PickedUp { .. } | Booking::Delivered { .. } => {
                Ok(Booked::Labelled { tracking_number: tracking_number(&parcel.key) })
            }
            Booking::Refused => Ok(Booked::Refused { reason: "country_not_served".to_owned() }),
            Booking::CalledOff => Ok(Booked::CalledOff {}),
            Booking::Unknown => Err(forgot()),
        }
    }

    async fn cancel(&self, key: &str) -> Result<PickedUp, NoAnswer> {
        match self.ask(key, Ask::Cancel).await? {
            Booking::PickedUp { expected } | Booking::Delivered { expected } => Ok(PickedUp::Left { expected }),
            Booking::Refused | Booking::CalledOff => Ok(PickedUp::CalledOff),
            Booking::Unknown | Booking::Labelled => Err(forgot()),
        }
    }

    async fn pick_up(&self, key: &str) -> Result<PickedUp, NoAnswer> {
        let expected = self.process.clock.now().after(self.transit);
        match self.ask(key, Ask::PickUp(expected)).await? {
            Booking::PickedUp { expected } | Booking::Delivered { expected } => Ok(PickedUp::Left { expected }),
            Booking::CalledOff => Ok(PickedUp::CalledOff),
            Booking::Unknown | Booking::Labelled | Booking::Refused => {
                Err(NoAnswer(format!("{key} has no label and cannot be picked up")))
            }
        }
    }

    async fn delivered(&self, key: &str) -> Result<bool, NoAnswer> {
        let booking = self.ask(key, Ask::Track(self.process.clock.now())).await?;
        Ok(matches!(booking, Booking::Delivered { .. }))
    }
}

fn forgot() -> NoAnswer {
    NoAnswer("the book forgot what was just written".to_owned())
}

/// The same key has the same number, without a look into the book (FNV-1a, 64 bits).
fn tracking_number(key: &str) -> String {
    let hash = key
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("JT{hash:016X}KR")
}
