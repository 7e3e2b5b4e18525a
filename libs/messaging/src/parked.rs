//! PURE. The messages of one key that a consumer could not take in: with their bytes, until somebody deals with them.
//!
//! They are a stream of the consumer's own store, `parked-<consumer>-<topic>-<key>`, so that what operators did about
//! them, and why, is kept like everything else.
use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clock::Timestamp;
use decider::Decider;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use store::Version;

use crate::{Delivered, MAX_KEY_BYTES, Message, Offset, Partition};

/// Why a message is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is no envelope.
    Undecodable,
    /// Nobody told this program of such a fact.
    UnknownType,
    /// The fact is of a form that this program does not read.
    UnknownSchema,
    /// It breaks a rule: the same again is refused again.
    Refused,
    /// Its handler failed, every time.
    Failed,
    /// Versions before it never arrived.
    Gap,
    /// It waits for one before it that is parked.
    Behind,
}

impl Reason {
    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Reason::Undecodable => "undecodable",
            Reason::UnknownType => "unknown_type",
            Reason::UnknownSchema => "unknown_schema",
            Reason::Refused => "refused",
            Reason::Failed => "failed",
            Reason::Gap => "gap",
            Reason::Behind => "behind",
        }
    }
}

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its partition of the topic.
    pub partition: Partition,
    /// Its offset there.
    pub offset: Offset,
    /// Its place in the stream of its key; absent if it cannot be read.
    pub version: Option<Version>,
}

impl Place {
    /// What makes it one message, however often it comes: its version, or where it stands if it cannot be read.
    fn identity(self) -> Result<Version, (Partition, Offset)> {
        self.version.ok_or((self.partition, self.offset))
    }
}

/// The longest payload that is kept with a parked message, and so much of headers: as JSON they fit into one event.
const KEPT_PAYLOAD: usize = 1 << 19;
const KEPT_HEADERS: (usize, usize) = (256, 1 << 15);
/// So many characters are kept of a sentence.
const KEPT_MESSAGE: usize = 1_000;

/// What could not be kept of a message: it stands in its topic alone. By this it is known to be the one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// How many bytes its key, headers and payload have.
    pub bytes: usize,
    /// The hash (SHA-256) of its payload, in hexadecimal digits.
    pub sha256: String,
}

impl LeftOut {
    /// What there is to say of a message.
    #[must_use]
    pub fn of(Message { key, headers, payload }: &Message) -> LeftOut {
        let sha256 = Sha256::digest(payload).iter().map(|byte| format!("{byte:02x}")).collect();
        LeftOut { bytes: key.len() + headers_bytes(headers) + payload.len(), sha256 }
    }
}

fn headers_bytes(headers: &[(String, String)]) -> usize {
    headers.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// A parked message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Where it stands.
    pub place: Place,
    /// Its key.
    pub key: String,
    /// Its attributes.
    pub headers: Vec<(String, String)>,
    /// Its payload, as base64.
    payload: String,
    /// Why it is parked.
    pub reason: Reason,
    /// The same as a sentence.
    pub message: String,
    /// Since when.
    pub at: Timestamp,
    /// There if the message is too large to be kept: then payload and headers are not, and of a long key there is the hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
}

impl Waiting {
    /// A message that cannot be taken in, and why.
    #[must_use]
    pub fn new(
        delivered: &Delivered,
        version: Option<Version>,
        (reason, message): (Reason, String),
        at: Timestamp,
    ) -> Waiting {
        let Delivered { topic, partition, offset, message: whole } = delivered;
        let Message { key, headers, payload } = whole;
        let place = Place { partition: *partition, offset: *offset, version };
        let message = shortened(&message, KEPT_MESSAGE);
        let fits = key.len() <= MAX_KEY_BYTES
            && payload.len() <= KEPT_PAYLOAD
            && headers.len() <= KEPT_HEADERS.0
            && headers_bytes(headers) <= KEPT_HEADERS.1;
        if fits {
            let payload = BASE64_STANDARD.encode(payload);
            return Waiting {
                place,
                key: key.clone(),
                headers: headers.clone(),
                payload,
                reason,
                message,
                at,
                left_out: None,
            };
        }
        let left_out = LeftOut::of(whole);
        let message = format!(
            "{message}; with {} bytes it is too large to be kept here and stands in {topic} alone, in partition {partition} at \
             offset {offset}",
            left_out.bytes
        );
        let (key, headers, payload) = (short(key), vec![], String::new());
        Waiting { place, key, headers, payload, reason, message, at, left_out: Some(left_out) }
    }

    /// The message as it was published; empty if it is [left out](Waiting::left_out).
    #[must_use]
    pub fn original(&self) -> Message {
        // Made by `new`, or the store would be corrupt: then it stays unreadable.
        let payload = BASE64_STANDARD.decode(&self.payload).unwrap_or_default();
        Message { key: self.key.clone(), headers: self.headers.clone(), payload }
    }

    /// About how many bytes it takes in the store.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.payload.len() + self.key.len() + headers_bytes(&self.headers) + self.message.len()
    }
}

/// What can be done to the parked messages of a key.
#[derive(Clone, Debug)]
pub enum Command {
    /// Keep these; those that are kept already are not kept twice.
    Park(Vec<Waiting>),
    /// An operator wants them taken in.
    AskRedrive {
        /// Who.
        by: String,
        /// Why.
        reason: String,
        /// Whether versions that never arrived are to be taken as skipped, once.
        over_gap: bool,
    },
    /// One of them is in effect.
    TakeIn(Place),
    /// An operator gives one of them up.
    Skip {
        /// Which.
        place: Place,
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
}

/// What happened to the parked messages of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the commands")]
pub enum Event {
    /// One was parked.
    MessageParked { waiting: Waiting },
    /// An operator wants them taken in.
    RedriveAsked { by: String, reason: String, over_gap: bool },
    /// One is in effect.
    MessageRedriven { place: Place },
    /// One was given up.
    MessageSkipped { place: Place, by: String, reason: String },
}

/// Nothing is parked that the command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NothingWaits;

/// The messages of one key that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parked {
    /// Those with a place in their stream.
    pub versions: BTreeMap<Version, Waiting>,
    /// Those that cannot be read, in the order in which they came.
    pub unreadable: Vec<Waiting>,
}

impl Parked {
    /// How many wait that are not in effect, where everything up to `mark` is.
    #[must_use]
    pub fn waiting(&self, mark: Version) -> usize {
        self.unreadable.len() + self.versions.range(mark + 1..).count()
    }

    /// Whether something that is not in effect stands before `version`.
    #[must_use]
    pub fn stands_before(&self, mark: Version, version: Version) -> bool {
        !self.unreadable.is_empty() || self.versions.range(mark + 1..).next().is_some_and(|(first, _)| *first < version)
    }

    /// All that waits: what cannot be read first, then by version.
    pub fn all(&self) -> impl Iterator<Item = &Waiting> {
        self.unreadable.iter().chain(self.versions.values())
    }

    fn holds(&self, place: Place) -> bool {
        match place.version {
            Some(version) => self.versions.contains_key(&version),
            None => self.unreadable.iter().any(|waiting| waiting.place == place),
        }
    }
}

impl Decider for Parked {
    type Command = Command;
    type Event = Event;
    type Rejection = NothingWaits;

    fn decide(&self, command: &Command) -> Result<Vec<Event>, NothingWaits> {
        let nothing_waits = self.versions.is_empty() && self.unreadable.is_empty();
        match command {
            Command::Park(messages) => {
                // A batch may have the same message twice.
                let mut met = BTreeSet::new();
                let new = messages.iter().filter(|waiting| !self.holds(waiting.place));
                let new = new.filter(|waiting| met.insert(waiting.place.identity()));
                Ok(new.map(|waiting| Event::MessageParked { waiting: waiting.clone() }).collect())
            }
            Command::AskRedrive { .. } if nothing_waits => Err(NothingWaits),
            Command::AskRedrive { by, reason, over_gap } => {
                Ok(vec![Event::RedriveAsked { by: by.clone(), reason: reason.clone(), over_gap: *over_gap }])
            }
            Command::TakeIn(place) | Command::Skip { place, .. } if !self.holds(*place) => Err(NothingWaits),
            Command::TakeIn(place) => Ok(vec![Event::MessageRedriven { place: *place }]),
            Command::Skip { place, by, reason } => {
                Ok(vec![Event::MessageSkipped { place: *place, by: by.clone(), reason: reason.clone() }])
            }
        }
    }

    fn evolve(mut self, event: &Event) -> Parked {
        match event {
            Event::MessageParked { waiting } => match waiting.place.version {
                Some(version) => _ = self.versions.insert(version, waiting.clone()),
                None => self.unreadable.push(waiting.clone()),
            },
            Event::RedriveAsked { .. } => {}
            Event::MessageRedriven { place } | Event::MessageSkipped { place, .. } => match place.version {
                Some(version) => _ = self.versions.remove(&version),
                None => self.unreadable.retain(|waiting| waiting.place != *place),
            },
        }
        self
    }
}

/// Longer keys are known by their hash in the names of marks and streams.
pub(crate) const LONGEST_KEY: usize = 80;

/// A key as it stands in names: itself, or its hash if it is long or has what no name may have. The short form of a short form is
/// itself.
pub(crate) fn short(key: &str) -> String {
    if key.len() <= LONGEST_KEY && !key.contains('\0') {
        return key.to_owned();
    }
    let digest = Sha256::digest(key);
    digest.iter().fold("sha256-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// A text that somebody else wrote, as it may be quoted: so many characters of it.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use decider::spec::{given, history};
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn waiting(offset: Offset, version: Option<Version>) -> Waiting {
        let message = Message { key: "k".into(), headers: vec![("a".into(), "1".into())], payload: vec![0, 255] };
        let delivered = Delivered { topic: "t".into(), partition: 3, offset, message };
        Waiting::new(&delivered, version, (Reason::Refused, "it breaks a rule".into()), Timestamp(7))
    }
    fn parked(offset: Offset, version: Option<Version>) -> Event {
        Event::MessageParked { waiting: waiting(offset, version) }
    }
    fn place(offset: Offset, version: Option<Version>) -> Place {
        Place { partition: 3, offset, version }
    }

    #[test]
    fn a_parked_message_keeps_its_bytes() {
        let original = waiting(1, Some(4)).original();
        assert_eq!(
            original,
            Message { key: "k".into(), headers: vec![("a".into(), "1".into())], payload: vec![0, 255] }
        );
    }

    #[test]
    fn a_message_is_parked_once_however_often_it_comes() {
        let again = vec![waiting(9, Some(4)), waiting(2, None), waiting(3, None)];
        given::<Parked>([parked(1, Some(4)), parked(2, None)]).when(Command::Park(again)).then([parked(3, None)]);
    }

    #[test]
    fn a_message_that_comes_twice_at_once_is_parked_once() {
        let twice = vec![waiting(1, Some(4)), waiting(2, None), waiting(2, None), waiting(9, Some(4))];
        given::<Parked>([]).when(Command::Park(twice)).then([parked(1, Some(4)), parked(2, None)]);
    }

    /// As the program before this one wrote it.
    #[test]
    fn what_was_parked_before_is_still_read() {
        let kept = r#"{"type":"MessageParked","waiting":{"place":{"partition":2,"offset":7,"version":4},"key":"order-1","headers":[["ce_id","x"]],"payload":"AP8H","reason":"failed","message":"it went wrong","at":1800000000000000}}"#;
        let waiting = serde_json::from_str::<serde_json::Value>(kept).unwrap()["waiting"].take();
        let waiting: Waiting = serde_json::from_value(waiting).unwrap();
        assert_eq!((waiting.original().payload, waiting.left_out.is_none()), (vec![0, 255, 7], true));
    }

    #[test]
    fn what_is_taken_in_or_given_up_waits_no_more() {
        let skip = Command::Skip { place: place(2, None), by: "operator:lee".into(), reason: "junk".into() };
        let skipped = Event::MessageSkipped { place: place(2, None), by: "operator:lee".into(), reason: "junk".into() };
        let left = given::<Parked>([parked(1, Some(4)), parked(2, None)]).when(skip.clone()).then([skipped]);
        assert_eq!((left.waiting(3), left.waiting(4)), (1, 0));
        let left = given::<Parked>([parked(1, Some(4))])
            .when(Command::TakeIn(place(1, Some(4))))
            .then([Event::MessageRedriven { place: place(1, Some(4)) }]);
        assert_eq!(left.decide(&skip), Err(NothingWaits));
    }

    #[test]
    fn only_what_is_not_in_effect_stands_before_others() {
        let key = given::<Parked>([]).when(Command::Park(vec![waiting(1, Some(4))])).then([parked(1, Some(4))]);
        assert!(key.stands_before(3, 5) && !key.stands_before(3, 4) && !key.stands_before(4, 6));
    }

    #[test]
    fn nothing_can_be_redriven_where_nothing_waits() {
        let ask = || Command::AskRedrive { by: "operator:lee".into(), reason: "fixed".into(), over_gap: false };
        given::<Parked>([]).when(ask()).then_rejected(&NothingWaits);
    }

    fn command() -> impl Strategy<Value = Command> {
        let one = || (0..6_u64, option::weighted(0.7, 1..6_u64)).prop_map(|(offset, version)| waiting(offset, version));
        let operator = || (String::from("operator:lee"), String::from("mended"));
        prop_oneof![
            4 => vec(one(), 0..5).prop_map(Command::Park),
            3 => one().prop_map(|waiting| Command::TakeIn(waiting.place)),
            2 => one().prop_map(move |waiting| {
                let (by, reason) = operator();
                Command::Skip { place: waiting.place, by, reason }
            }),
            1 => any::<bool>().prop_map(move |over_gap| {
                let (by, reason) = operator();
                Command::AskRedrive { by, reason, over_gap }
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// A list of names on a door: written up once, struck out by whoever deals with it.
        #[test]
        fn what_waits_is_what_was_parked_and_not_dealt_with(commands in vec(command(), 0..20), mark in 0..7_u64) {
            let mut door: Vec<Place> = vec![];
            let same = |a: &Place, b: &Place| match (a.version, b.version) {
                (Some(a), Some(b)) => a == b,
                (None, None) => a.offset == b.offset,
                _ => false,
            };
            for turn in history::<Parked>(commands) {
                match &turn.command {
                    Command::Park(messages) => for Waiting { place, .. } in messages {
                        if !door.iter().any(|there| same(there, place)) {
                            door.push(*place);
                        }
                    },
                    Command::TakeIn(place) | Command::Skip { place, .. } => {
                        let before = door.len();
                        door.retain(|there| !same(there, place));
                        prop_assert_eq!(turn.outcome.is_ok(), door.len() < before);
                    }
                    Command::AskRedrive { .. } => prop_assert_eq!(turn.outcome.is_ok(), !door.is_empty()),
                }
                let mut shown: Vec<_> = turn.after.all().map(|waiting| waiting.place.identity()).collect();
                let mut listed: Vec<_> = door.iter().map(|place| place.identity()).collect();
                shown.sort_unstable();
                listed.sort_unstable();
                prop_assert_eq!(shown, listed);
                let ahead = |place: &&Place| place.version.is_none_or(|version| version > mark);
                prop_assert_eq!(turn.after.waiting(mark), door.iter().filter(ahead).count());
                for version in 0..8 {
                    let before = |place: &Place| place.version.is_none_or(|other| other > mark && other < version);
                    prop_assert_eq!(turn.after.stands_before(mark, version), door.iter().any(before), "{} {:?}", version, door);
                }
            }
        }
    }
}
