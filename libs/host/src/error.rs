//! The one table of errors. A [`Refusal`] is made where the rules or a limit say no, travels as a gRPC status with
//! `google.rpc.ErrorInfo`, and becomes a problem (RFC 9457) at the gateway; what each code means is said here only.
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};
use tonic_types::{ErrorDetail, ErrorInfo, StatusExt};

/// Whether the same call may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// The answer is definite: nothing took effect, and the same call gets the same answer.
    No,
    /// Unknown or not now: the same call may be made again, under the same command id.
    SameId,
}

/// The reason of [`Refusal::outage`].
pub const OUTAGE: &str = "outage";

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The gRPC code.
    pub code: Code,
    /// Its word in problem documents.
    pub word: &'static str,
    /// The HTTP status that the gateway answers with.
    pub http: StatusCode,
    /// Whether the same call may be made again.
    pub again: Again,
}

const fn row(code: Code, word: &'static str, http: StatusCode, again: Again) -> Row {
    Row { code, word, http, again }
}

/// Every code but OK. The first row of a code is the one that counts.
pub const TABLE: [Row; 16] = [
    row(Code::InvalidArgument, "INVALID_ARGUMENT", StatusCode::BAD_REQUEST, Again::No),
    row(Code::OutOfRange, "OUT_OF_RANGE", StatusCode::BAD_REQUEST, Again::No),
    row(Code::Unauthenticated, "UNAUTHENTICATED", StatusCode::UNAUTHORIZED, Again::No),
    row(Code::PermissionDenied, "PERMISSION_DENIED", StatusCode::FORBIDDEN, Again::No),
    row(Code::NotFound, "NOT_FOUND", StatusCode::NOT_FOUND, Again::No),
    row(Code::AlreadyExists, "ALREADY_EXISTS", StatusCode::CONFLICT, Again::No),
    row(Code::FailedPrecondition, "FAILED_PRECONDITION", StatusCode::UNPROCESSABLE_ENTITY, Again::No),
    row(Code::Aborted, "ABORTED", StatusCode::CONFLICT, Again::SameId),
    row(Code::ResourceExhausted, "RESOURCE_EXHAUSTED", StatusCode::TOO_MANY_REQUESTS, Again::SameId),
    row(Code::Unavailable, "UNAVAILABLE", StatusCode::SERVICE_UNAVAILABLE, Again::SameId),
    row(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", StatusCode::GATEWAY_TIMEOUT, Again::SameId),
    row(Code::Cancelled, "CANCELLED", StatusCode::SERVICE_UNAVAILABLE, Again::SameId),
    row(Code::Unimplemented, "UNIMPLEMENTED", StatusCode::NOT_IMPLEMENTED, Again::No),
    row(Code::Internal, "INTERNAL", StatusCode::INTERNAL_SERVER_ERROR, Again::SameId),
    row(Code::DataLoss, "DATA_LOSS", StatusCode::INTERNAL_SERVER_ERROR, Again::SameId),
    row(Code::Unknown, "UNKNOWN", StatusCode::INTERNAL_SERVER_ERROR, Again::SameId),
];

/// The row of a code; that of UNKNOWN for what is not an error.
#[must_use]
pub fn row_of(code: Code) -> Row {
    TABLE.into_iter().find(|row| row.code == code).unwrap_or(TABLE[TABLE.len() - 1])
}

const DOMAIN: &str = "jangteo";
const FIELD: &str = "field";

/// What a status may carry, in bytes. A peer takes 16 KiB of headers, in which a message stands twice, and each byte that is not
/// ASCII as three; one that is too large breaks the connection of all others.
const MOST_MESSAGE: usize = 1_024;
const MOST_REASON: usize = 64;
const MOST_FIELD: usize = 256;
const MOST_FACT: usize = 256;
const MOST_FACTS: usize = 8;

/// Why a call is not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind.
    pub code: Code,
    /// A stable word for programs, such as `out_of_stock`.
    pub reason: Cow<'static, str>,
    /// A sentence for people, with what they can do.
    pub message: String,
    /// The JSON path of the field to blame, such as `lines[0].quantity`.
    pub field: Option<String>,
    /// Further facts for programs, such as the new price.
    pub facts: BTreeMap<String, String>,
}

impl Refusal {
    /// A refusal without field and facts.
    pub fn new(code: Code, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Refusal {
        Refusal { code, reason: reason.into(), message: message.into(), field: None, facts: BTreeMap::new() }
    }

    /// A field is not what it must be.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Refusal {
        Refusal::new(Code::InvalidArgument, "invalid", message).field(field)
    }

    /// The rules say no in the present state.
    pub fn precondition(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Refusal {
        Refusal::new(Code::FailedPrecondition, reason, message)
    }

    /// There is no such thing, or not for this caller.
    pub fn not_found(message: impl Into<String>) -> Refusal {
        Refusal::new(Code::NotFound, "not_found", message)
    }

    /// It cannot be done now, and whether the call took effect is unknown. Why is a sentence for the caller.
    pub fn unavailable(why: impl Display) -> Refusal {
        Refusal::new(Code::Unavailable, "unavailable", format!("try again: {why}"))
    }

    /// A server that this depends on does not answer; whether the call took effect is unknown. What it said is kept from clients:
    /// it may name hosts, roles and files.
    pub fn outage(what_it_said: impl Display) -> Refusal {
        Refusal::new(Code::Unavailable, OUTAGE, format!("try again: {what_it_said}"))
    }

    /// The work goes on and has no outcome yet.
    pub fn in_progress(message: impl Into<String>) -> Refusal {
        Refusal::new(Code::Aborted, "in_progress", message)
    }

    /// Names the field to blame.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Refusal {
        self.field = Some(field.into());
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl Display) -> Refusal {
        self.facts.insert(name.to_owned(), value.to_string());
        self
    }

    /// Whether the same call may be made again.
    #[must_use]
    pub fn again(&self) -> Again {
        row_of(self.code).again
    }

    /// Reads a status from another service.
    #[must_use]
    pub fn of(status: &Status) -> Refusal {
        let mut refusal =
            Refusal::new(status.code(), row_of(status.code()).word.to_ascii_lowercase(), status.message());
        if let Some(info) = status.get_error_details().error_info() {
            refusal.reason = info.reason.clone().into();
            refusal.facts = info.metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            refusal.field = refusal.facts.remove(FIELD);
        }
        refusal
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let field = refusal.field.map(|field| (FIELD.to_owned(), cut(field, MOST_FIELD)));
        let facts = refusal.facts.into_iter().filter(|(name, _)| name.len() <= MOST_REASON).take(MOST_FACTS);
        let facts = facts.map(|(name, value)| (name, cut(value, MOST_FACT)));
        let metadata = facts.chain(field).collect();
        let reason = cut(refusal.reason.into_owned(), MOST_REASON);
        let info = ErrorInfo { reason, domain: DOMAIN.to_owned(), metadata };
        Status::with_error_details_vec(refusal.code, cut(refusal.message, MOST_MESSAGE), [ErrorDetail::from(info)])
    }
}

/// The beginning of a text that is too long, with a mark that something is missing.
fn cut(mut text: String, most: usize) -> String {
    const MORE: char = '…';
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most - MORE.len_utf8()));
        text.push(MORE);
    }
    text
}

/// A value as a message quotes it: its beginning, for whoever sent it knows the rest.
#[must_use]
pub fn quoted(value: &str) -> String {
    const MOST_QUOTED: usize = 96;
    format!("{:?}", cut(value.to_owned(), MOST_QUOTED))
}

/// A refusal in the form in which it is remembered under a command id.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    code: i32,
    reason: String,
    message: String,
    field: Option<String>,
    facts: BTreeMap<String, String>,
}

impl From<Refusal> for Kept {
    fn from(refusal: Refusal) -> Kept {
        let Refusal { code, reason, message, field, facts } = refusal;
        Kept { code: code as i32, reason: reason.into_owned(), message, field, facts }
    }
}

impl From<Kept> for Refusal {
    fn from(kept: Kept) -> Refusal {
        let Kept { code, reason, message, field, facts } = kept;
        Refusal { code: Code::from(code), reason: reason.into(), message, field, facts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_way_over_grpc() {
        let refusal = Refusal::precondition("price_changed", "the price of SKU-1 is 900 now, not 800 원")
            .field("lines[0].unit_price")
            .fact("unit_price", 900);
        assert_eq!(Refusal::of(&Status::from(refusal.clone())), refusal);
    }

    #[test]
    fn a_refusal_of_any_length_fits_into_the_headers_of_its_answer() {
        for long in ["x", "장", "🍵"].map(|letter| letter.repeat(20_000)) {
            let mut refusal = Refusal::invalid(long.clone(), long.clone());
            refusal.reason = long.clone().into();
            refusal.facts = (0..100).map(|n| (n.to_string(), long.clone())).collect();
            refusal.facts.insert(long.clone(), long.clone());
            let headers = Status::from(refusal).into_http::<()>().into_parts().0.headers;
            let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
            assert!(bytes < 12 << 10, "{bytes}");
            let read = Refusal::of(&Status::from_header_map(&headers).unwrap());
            assert!(
                read.message.chars().next() == long.chars().next() && read.message.ends_with('…'),
                "{}",
                read.message
            );
            assert_eq!(read.facts.len(), MOST_FACTS);
            assert_eq!(quoted(&long).chars().filter(|c| *c == '…').count(), 1);
        }
        assert_eq!(quoted("원"), "\"원\"");
    }

    #[test]
    fn a_foreign_status_keeps_code_and_message() {
        let refusal = Refusal::of(&Status::unavailable("connection refused"));
        assert_eq!(
            (refusal.code, refusal.reason.as_ref(), refusal.again()),
            (Code::Unavailable, "unavailable", Again::SameId)
        );
    }

    #[test]
    fn the_table_has_every_code_once() {
        for code in 1..=16 {
            assert_eq!(TABLE.iter().filter(|row| row.code == Code::from(code)).count(), 1, "{code}");
        }
    }
}
