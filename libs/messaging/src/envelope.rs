//! A message as everybody reads it: the attributes of CloudEvents 1.0 in binary mode (headers), and the fact as protobuf.
//!
//! By the Kafka protocol binding 1.0 an attribute `x` is the header `ce_x`, and `datacontenttype` is the header `content-type`:
//!
//! | attribute | here | the specification asks for |
//! |---|---|---|
//! | `specversion` | `1.0` | that |
//! | `id` | the event's UUID | unique for its source, not empty |
//! | `source` | the service, such as `order` | a URI-reference, not empty: a relative one |
//! | `type` | the full name of the protobuf message | not empty |
//! | `subject` | the stream, which is the key as well | not empty if it is there |
//! | `time` | when it was recorded, in UTC | RFC 3339 |
//! | `datacontenttype` | `application/protobuf`; absent where there is no data | a media type (RFC 2046) |
//! | `streamversion`, `schemaversion`, `correlationid`, `causationid` | extensions; the last two may be empty | names of at most 20 lower-case letters and digits |
//!
//! `traceparent` is a header of its own, without `ce_`, as W3C Trace Context and its libraries for Kafka have it.
//!
//! Topics are kept for ever, so that messages of earlier programs are read as well: they have `time` in microseconds since 1970, and
//! no `content-type`.
//!
//! One event is one message. In a stream that is published, an event that is nobody else's business travels as an empty
//! envelope, so that versions stay dense and whoever listens can tell a duplicate, the next one, and a gap.
use clock::Timestamp;
use uuid::Uuid;

use crate::Message;
use crate::parked::shortened;

const SPECVERSION: (&str, &str) = ("ce_specversion", "1.0");
const ID: &str = "ce_id";
const SOURCE: &str = "ce_source";
const TYPE: &str = "ce_type";
const SUBJECT: &str = "ce_subject";
const TIME: &str = "ce_time";
const VERSION: &str = "ce_streamversion";
const SCHEMA: &str = "ce_schemaversion";
const CORRELATION: &str = "ce_correlationid";
const CAUSATION: &str = "ce_causationid";
pub(crate) const TRACEPARENT: &str = "traceparent";
const CONTENT_TYPE: (&str, &str) = ("content-type", "application/protobuf");

/// So many characters are quoted of what somebody else wrote.
const QUOTED: usize = 100;

/// The type of an envelope that only keeps versions dense.
pub const PRIVATE: &str = "shop.events.v1.Private";

/// What travels with a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The event's id, unique for ever.
    pub id: Uuid,
    /// The service that recorded it, such as `order`.
    pub source: String,
    /// The full name of the fact's protobuf message, or [`PRIVATE`].
    pub kind: String,
    /// The stream it belongs to; also the key.
    pub stream: String,
    /// Its place in the stream, from 1.
    pub version: u64,
    /// Which version of the fact's form, from 1.
    pub schema: u16,
    /// When it was recorded.
    pub time: Timestamp,
    /// The business transaction that it belongs to.
    pub correlation_id: String,
    /// What led to it.
    pub causation_id: String,
    /// The trace, in the form of W3C Trace Context.
    pub traceparent: String,
    /// The fact, as protobuf; empty if private.
    pub payload: Vec<u8>,
}

impl Envelope {
    /// Whether it only keeps versions dense.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.kind == PRIVATE
    }

    /// The message that carries it.
    #[must_use]
    pub fn encode(&self) -> Message {
        let header = |name: &str, value: String| (name.to_owned(), value);
        let mut headers = vec![
            header(SPECVERSION.0, SPECVERSION.1.to_owned()),
            header(ID, self.id.to_string()),
            header(SOURCE, self.source.clone()),
            header(TYPE, self.kind.clone()),
            header(SUBJECT, self.stream.clone()),
            header(TIME, written(self.time)),
            header(VERSION, self.version.to_string()),
            header(SCHEMA, self.schema.to_string()),
            header(CORRELATION, self.correlation_id.clone()),
            header(CAUSATION, self.causation_id.clone()),
            header(TRACEPARENT, self.traceparent.clone()),
        ];
        if !self.is_private() {
            headers.push(header(CONTENT_TYPE.0, CONTENT_TYPE.1.to_owned()));
        }
        Message { key: self.stream.clone(), headers, payload: self.payload.clone() }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// What is missing or malformed, as a sentence. Such a message is parked, never skipped.
    pub fn decode(message: &Message) -> Result<Envelope, String> {
        let text = |name: &str| {
            let mut found = message.headers.iter().filter(|(header, _)| header == name).map(|(_, value)| value);
            match (found.next(), found.next()) {
                (Some(value), None) => Ok(value.clone()),
                (None, _) => Err(format!("header {name} is missing")),
                (Some(_), Some(_)) => Err(format!("header {name} stands twice")),
            }
        };
        let malformed = |name: &'static str| move |_| format!("header {name} is malformed");
        if text(SPECVERSION.0)? != SPECVERSION.1 {
            return Err(format!("header {} is not {}", SPECVERSION.0, SPECVERSION.1));
        }
        let stream = text(SUBJECT)?;
        if stream != message.key {
            let quoted = |text: &str| shortened(text, QUOTED);
            return Err(format!("the key is {}, and the stream is {}", quoted(&message.key), quoted(&stream)));
        }
        let version = text(VERSION)?.parse().map_err(malformed(VERSION))?;
        if version == 0 {
            return Err(format!("header {VERSION} counts from 1"));
        }
        Ok(Envelope {
            id: text(ID)?.parse().map_err(|_| format!("header {ID} is malformed"))?,
            source: text(SOURCE)?,
            kind: text(TYPE)?,
            stream,
            version,
            schema: text(SCHEMA)?.parse().map_err(malformed(SCHEMA))?,
            time: read(&text(TIME)?).ok_or_else(|| format!("header {TIME} is malformed"))?,
            correlation_id: text(CORRELATION)?,
            causation_id: text(CAUSATION)?,
            traceparent: text(TRACEPARENT)?,
            payload: message.payload.clone(),
        })
    }
}

const MICROSECONDS: i64 = 1_000_000;

/// A time as protobuf has it.
pub(crate) fn to_proto(Timestamp(time): Timestamp) -> prost_types::Timestamp {
    let nanos = i32::try_from(time.rem_euclid(MICROSECONDS) * 1_000).unwrap_or_default();
    prost_types::Timestamp { seconds: time.div_euclid(MICROSECONDS), nanos }
}

/// A time as RFC 3339 has it.
fn written(time: Timestamp) -> String {
    to_proto(time).to_string()
}

/// The time that is written there, by RFC 3339 or in microseconds since 1970.
fn read(text: &str) -> Option<Timestamp> {
    if let Ok(microseconds) = text.parse() {
        return Some(Timestamp(microseconds));
    }
    let prost_types::Timestamp { seconds, nanos } = text.parse().ok()?;
    Some(Timestamp(seconds.checked_mul(MICROSECONDS)?.checked_add(i64::from(nanos) / 1_000)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn envelope() -> Envelope {
        Envelope {
            id: Uuid::from_u128(7),
            source: "order".into(),
            kind: "shop.events.v1.OrderConfirmed".into(),
            stream: "order-1".into(),
            version: 2,
            schema: 1,
            time: Timestamp(1_800_000_000_000_001),
            correlation_id: "1".into(),
            causation_id: "checkout-1/confirm_order/do".into(),
            traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
            payload: vec![0, 255, 7],
        }
    }

    /// OX-16: what travels beside a fact survives the trip.
    #[test]
    fn an_envelope_survives_the_trip() {
        assert_eq!(Envelope::decode(&envelope().encode()), Ok(envelope()));
    }

    /// Byte for byte as any program that knows the specification reads it.
    #[test]
    fn a_message_is_a_cloud_event() {
        let headers = envelope().encode().headers;
        let expected = [
            ("ce_specversion", "1.0"),
            ("ce_id", "00000000-0000-0000-0000-000000000007"),
            ("ce_source", "order"),
            ("ce_type", "shop.events.v1.OrderConfirmed"),
            ("ce_subject", "order-1"),
            ("ce_time", "2027-01-15T08:00:00.000001Z"),
            ("ce_streamversion", "2"),
            ("ce_schemaversion", "1"),
            ("ce_correlationid", "1"),
            ("ce_causationid", "checkout-1/confirm_order/do"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("content-type", "application/protobuf"),
        ];
        assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for (name, _) in &headers {
            let attribute = name.strip_prefix("ce_").unwrap_or("x");
            let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            assert!((1..=20).contains(&attribute.len()) && attribute.chars().all(legal), "{name}");
        }
        let private = Envelope { kind: PRIVATE.into(), payload: vec![], ..envelope() };
        assert!(!private.encode().headers.iter().any(|(name, _)| name == "content-type"));
    }

    /// As programs before this one wrote it; topics are kept for ever.
    #[test]
    fn a_message_of_an_earlier_program_is_read() {
        let headers = [
            ("ce_specversion", "1.0"),
            ("ce_id", "00000000-0000-0000-0000-000000000007"),
            ("ce_source", "order"),
            ("ce_type", "shop.events.v1.OrderConfirmed"),
            ("ce_subject", "order-1"),
            ("ce_time", "1800000000000001"),
            ("ce_streamversion", "2"),
            ("ce_schemaversion", "1"),
            ("ce_correlationid", "1"),
            ("ce_causationid", "checkout-1/confirm_order/do"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let message = Message { key: "order-1".into(), headers, payload: vec![0, 255, 7] };
        assert_eq!(Envelope::decode(&message), Ok(envelope()));
    }

    #[test]
    fn whatever_is_missing_or_malformed_is_named() {
        let whole = Envelope { kind: PRIVATE.into(), ..envelope() }.encode();
        for n in 0..whole.headers.len() {
            let name = &whole.headers[n].0;
            let mut without = whole.clone();
            without.headers.remove(n);
            assert_eq!(Envelope::decode(&without), Err(format!("header {name} is missing")));
            let mut twice = whole.clone();
            twice.headers.push(whole.headers[n].clone());
            assert_eq!(Envelope::decode(&twice), Err(format!("header {name} stands twice")));
        }
        for (name, value) in
            [(ID, "x"), (VERSION, "-1"), (VERSION, "0"), (SCHEMA, "70000"), (TIME, "today"), (SPECVERSION.0, "2")]
        {
            let mut bad = whole.clone();
            bad.headers.iter_mut().find(|(header, _)| header == name).unwrap().1 = value.into();
            assert!(Envelope::decode(&bad).unwrap_err().contains(name), "{name} {value}");
        }
        let mut moved = whole;
        moved.key = "order-2".into();
        assert_eq!(Envelope::decode(&moved), Err("the key is order-2, and the stream is order-1".into()));
    }

    proptest! {
        #[test]
        fn a_time_survives_the_trip(time in -1_000_000_000_000_000_i64..10_000_000_000_000_000) {
            prop_assert_eq!(read(&written(Timestamp(time))), Some(Timestamp(time)));
        }

        #[test]
        fn whatever_arrives_is_read_or_refused(key in ".{0,20}", headers in proptest::collection::vec(("[a-z_]{0,20}", ".{0,20}"), 0..12)) {
            let _ = Envelope::decode(&Message { key, headers, payload: vec![] });
        }
    }
}
