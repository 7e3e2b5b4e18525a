//! Answers that say no: problem documents (RFC 9457). What each code means stands in the one table, [`host::error`];
//! only what HTTP alone knows (405, 408, 413, 414, 415) gets its status here.
use std::collections::BTreeMap;

use bytes::Bytes;
use host::error::{OUTAGE, Refusal, row_of};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use telemetry::trace::Trace;
use tonic::{Code, Status};

use crate::upstream;

/// The longest `detail`, in bytes: a message may quote what the client sent.
const MAX_DETAIL_BYTES: usize = 500;

/// Refusals for want of a server: what it said, with its name and those of roles and files, is for the log.
const OUTAGES: [&str; 2] = [OUTAGE, "search_unavailable"];
/// What the client is told instead.
const NO_ANSWER: &str = "a part of the shop does not answer; try again";

/// A request that is not answered as asked.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    refusal: Box<Refusal>,
    allow: Option<String>,
    cause: Option<String>,
    shown_as: Option<Box<Response<Full<Bytes>>>>,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        match refusal.code {
            Code::Internal | Code::Unknown | Code::DataLoss => {
                let cause = format!("{}: {}", refusal.reason, refusal.message);
                Problem { cause: Some(cause), ..Problem::hidden(refusal.code) }
            }
            code if OUTAGES.contains(&refusal.reason.as_ref()) => {
                let shown = Refusal { message: NO_ANSWER.to_owned(), facts: BTreeMap::new(), ..refusal };
                Problem { cause: Some(refusal.message), ..Problem::at(row_of(code).http, shown) }
            }
            code => Problem::at(row_of(code).http, refusal),
        }
    }
}

impl Problem {
    /// A problem with another status than the table has for its code.
    pub(crate) fn at(status: StatusCode, refusal: Refusal) -> Problem {
        Problem { status, refusal: Box::new(refusal), allow: None, cause: None, shown_as: None }
    }

    /// What a service answered. A status without details was made on the way: it may name addresses, and is not shown.
    pub(crate) fn of(status: &Status) -> Problem {
        if upstream::was_lost(status) || (status.code() == Code::Cancelled && status.details().is_empty()) {
            let refusal = Refusal::new(status.code(), "unavailable", NO_ANSWER);
            return Problem { cause: Some(status.message().to_owned()), ..Problem::from(refusal) };
        }
        Problem::from(Refusal::of(status))
    }

    /// Something is wrong inside: the client gets the trace id, the log gets the cause.
    pub(crate) fn internal(cause: impl Into<String>) -> Problem {
        Problem { cause: Some(cause.into()), ..Problem::hidden(Code::Internal) }
    }

    /// Nothing is served at this path.
    pub(crate) fn nothing_here() -> Problem {
        Problem::from(Refusal::new(Code::NotFound, "no_such_path", "nothing is served at this path"))
    }

    /// Nothing is served at this path, which may be one with an id that is not percent-encoded.
    pub(crate) fn nothing_at(path: &str) -> Problem {
        // A collection, a thing in it, and a list in that: whatever is longer, or has a ':', may hold an id that broke it.
        let may_be_broken = path.contains(':') || path.split('/').filter(|part| !part.is_empty()).count() > 4;
        if !may_be_broken {
            return Problem::nothing_here();
        }
        let why = "nothing is served at this path; within an id, ':' is written %3A and '/' is written %2F";
        Problem::from(Refusal::new(Code::NotFound, "no_such_path", why))
    }

    /// The path is served, but not with this method.
    pub(crate) fn method_not_allowed(allow: String) -> Problem {
        let message = format!("this path takes {allow}");
        let refusal = Refusal::new(Code::Unimplemented, "method_not_allowed", message);
        Problem { allow: Some(allow), ..Problem::at(StatusCode::METHOD_NOT_ALLOWED, refusal) }
    }

    /// The same problem, of which the client is shown this instead.
    pub(crate) fn shown_as(self, response: Response<Full<Bytes>>) -> Problem {
        Problem { shown_as: Some(Box::new(response)), ..self }
    }

    /// The status of the problem.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The sentence that the client is told.
    #[cfg(test)]
    pub(crate) fn detail(&self) -> &str {
        &self.refusal.message
    }

    /// What really went wrong, for the log; `None` if the client was told.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The answer.
    pub(crate) fn into_response(self, trace: Trace) -> Response<Full<Bytes>> {
        if let Some(instead) = self.shown_as {
            return *instead;
        }
        let retry = matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
            || (self.status == StatusCode::CONFLICT && self.refusal.reason == "in_progress");
        let document = self.document(trace);
        let mut response = Response::new(Full::from(document.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if retry {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        }
        if let Some(allow) = self.allow.and_then(|allow| HeaderValue::try_from(allow).ok()) {
            headers.insert(header::ALLOW, allow);
        }
        response
    }

    fn hidden(code: Code) -> Problem {
        let message = "something is wrong in the shop; the trace id finds it in the log";
        Problem::at(row_of(code).http, Refusal::new(code, "internal", message))
    }

    fn document(&self, trace: Trace) -> Value {
        let refusal = &self.refusal;
        let mut document = Map::new();
        let mut put = |name: &str, value: Value| document.insert(name.to_owned(), value);
        put("type", format!("urn:jangteo:problem:{}", refusal.reason).into());
        put("title", title(&refusal.reason).into());
        put("status", self.status.as_u16().into());
        put("code", row_of(refusal.code).word.into());
        put("reason", refusal.reason.as_ref().into());
        put("detail", shortened(&refusal.message).into());
        if let Some(field) = &refusal.field {
            put("field", shortened(field).into());
        }
        if !refusal.facts.is_empty() {
            put("facts", json!(refusal.facts));
        }
        put("trace_id", format!("{:032x}", trace.trace_id).into());
        Value::Object(document)
    }
}

/// `out_of_stock` as people read it: `Out of stock`.
fn title(reason: &str) -> String {
    let words = reason.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn shortened(text: &str) -> String {
    if text.len() <= MAX_DETAIL_BYTES {
        return text.to_owned();
    }
    let end = (0..=MAX_DETAIL_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let long = "장".repeat(1_000);
        let cut = shortened(&long);
        assert!(cut.len() <= MAX_DETAIL_BYTES + "…".len() && cut.ends_with("장…"), "{cut}");
        assert_eq!(shortened("short"), "short");
    }
}
