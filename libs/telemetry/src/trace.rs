//! The trace that a piece of work belongs to, in the form of W3C Trace Context.
//!
//! One checkout keeps one trace id through HTTP, gRPC, commits and timers: the id travels in headers and metadata, and
//! beside every event, from which a timer takes it up again.
use std::fmt;

/// A `traceparent`: the trace's id and the id of the piece of work that it was handed on by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Identifies the trace; never 0.
    pub trace_id: u128,
    /// Identifies the caller's span; never 0.
    pub span_id: u64,
    /// The flags of W3C Trace Context: bit 0 says that the trace is recorded, bit 1 that its id is random.
    pub flags: u8,
}

/// Recorded.
const SAMPLED: u8 = 1;
/// The flags that are handed on; others are to be set to 0.
const KNOWN_FLAGS: u8 = 3;

impl Trace {
    /// A new trace from two drawn numbers.
    #[must_use]
    pub fn new(trace_id: u128, span_id: u64) -> Trace {
        Trace { trace_id: trace_id.max(1), span_id: span_id.max(1), flags: SAMPLED }
    }

    /// The same trace with another span.
    #[must_use]
    pub fn with_span(self, span_id: u64) -> Trace {
        Trace { span_id: span_id.max(1), ..self }
    }

    /// Reads a header; `None` if it is malformed, so that a new trace begins, as the standard asks.
    #[must_use]
    pub fn parse(header: &str) -> Option<Trace> {
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex =
            |text: &str, digits| text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let known = version != "00" || parts.next().is_none();
        if !(known && version != "ff" && hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2)) {
            return None;
        }
        let (trace_id, span_id) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
        let flags = u8::from_str_radix(flags, 16).ok()? & KNOWN_FLAGS;
        (trace_id != 0 && span_id != 0).then_some(Trace { trace_id, span_id, flags })
    }
}

/// The trace id of a `traceparent` as it stands there; empty if it has none.
#[must_use]
pub fn trace_id(traceparent: &str) -> &str {
    traceparent.get(3..35).unwrap_or_default()
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_survives_the_round() {
        for flags in ["00", "01", "02", "03"] {
            let text = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
            assert_eq!(Trace::parse(&text).unwrap().to_string(), text);
        }
        let unknown = Trace::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fd").unwrap();
        assert_eq!(unknown.flags, 1, "what is not known is not handed on");
    }

    #[test]
    fn the_id_of_a_trace_is_read_as_it_stands() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(trace_id(text), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(["", "00-4bf9", "00é"].map(trace_id), [""; 3]);
    }

    #[test]
    fn malformed_headers_are_ignored() {
        let zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let upper = "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01";
        let long = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x";
        let version = "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for text in ["", "00", "é", zero, upper, long, version] {
            assert_eq!(Trace::parse(text), None, "{text}");
        }
    }
}
