//! What the headers of a request say: who asks, under which key, in which trace, and how long they would wait.
use std::time::Duration;

use clock::Ids;
use host::call::{Caller, LONGEST_WAIT, new_trace};
use host::error::Refusal;
use http::{HeaderMap, Method, StatusCode, header};
use resilience::deadline::Deadline;
use sha2::{Digest, Sha256};
use telemetry::trace::Trace;
use tonic::Code;

use crate::problem::Problem;
use crate::routes::{Found, Route};

/// The header that names the customer, until there is a sign-in.
pub(crate) const CUSTOMER: &str = "X-Customer-Id";
/// Who asks if nobody says so.
pub(crate) const DEFAULT_CUSTOMER: &str = "demo";
/// The header that names the operator, until there is a sign-in.
pub(crate) const OPERATOR: &str = "X-Operator";
/// The most characters of a customer's or operator's name.
pub(crate) const MAX_NAME_CHARS: usize = 64;
/// The header that lets a client repeat a request whose answer got lost.
pub(crate) const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// The most characters of an idempotency key.
pub(crate) const MAX_KEY_CHARS: usize = 100;
/// The header of the trace, in requests and answers.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// The header that says which preference was honoured (RFC 7240).
pub(crate) const PREFERENCE_APPLIED: &str = "preference-applied";
const PREFER: &str = "prefer";

/// The trace that a request belongs to, with a span of our own; a new one if it brings none.
pub(crate) fn trace(headers: &HeaderMap, ids: &Ids) -> Trace {
    let ours = new_trace(ids);
    let theirs = headers.get(TRACEPARENT).and_then(|value| Trace::parse(value.to_str().ok()?));
    theirs.map_or(ours, |theirs| theirs.with_span(ours.span_id))
}

/// Who asks for what a request asks, with `patience` and what they would wait beyond it.
///
/// # Errors
/// INVALID_ARGUMENT for a malformed name or key, PERMISSION_DENIED where an operator is needed.
pub(crate) fn caller(
    found: &Found<'_>,
    headers: &HeaderMap,
    trace: Trace,
    patience: Duration,
) -> Result<Caller, Refusal> {
    let (customer, actor) = if found.route.operators_only {
        let message = format!("this is for operators: say who you are in the header {OPERATOR}");
        let refused = || Refusal::new(Code::PermissionDenied, "operator_required", message).field(OPERATOR);
        (String::new(), format!("operator:{}", name(headers, OPERATOR)?.ok_or_else(refused)?))
    } else {
        let customer = name(headers, CUSTOMER)?.unwrap_or(DEFAULT_CUSTOMER);
        (customer.to_owned(), format!("customer:{customer}"))
    };
    let command_id = match found.route.method {
        Method::POST => Some(command_id(&actor, found.route, &found.variables, idempotency_key(headers)?).into()),
        _ => None,
    };
    let wait = if found.route.waits { wait(headers) } else { Duration::ZERO };
    let deadline = Deadline::after(patience + wait);
    Ok(Caller { command_id, customer: customer.into(), actor: actor.into(), trace, deadline, wait })
}

/// The same caller, who does not wait for an order to be settled.
pub(crate) fn at_once(caller: Caller, patience: Duration) -> Caller {
    Caller { wait: Duration::ZERO, deadline: Deadline::after(patience), ..caller }
}

/// The id of a command: the same for the same caller, route and key, so that the service that carries it out knows it
/// again, whichever replica of the gateway it comes through.
fn command_id(actor: &str, route: &Route, variables: &[(&str, String)], key: &str) -> String {
    let words = [actor, route.method.as_str(), &route.template, key];
    let mut hash = Sha256::new();
    for word in words.into_iter().chain(variables.iter().map(|(_, value)| value.as_str())) {
        hash.update(word.as_bytes());
        // No word has a NUL: paths and headers are refused with one. So two lists of words never hash as one text.
        hash.update([0]);
    }
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("idem-{hex}")
}

fn idempotency_key(headers: &HeaderMap) -> Result<&str, Refusal> {
    let wrong = |message: &str| Refusal::invalid(IDEMPOTENCY_KEY, message);
    let rule = format!("{IDEMPOTENCY_KEY} has 1 to {MAX_KEY_CHARS} visible ASCII characters");
    let key = single(headers, IDEMPOTENCY_KEY, &rule)?.ok_or_else(|| {
        wrong("a POST needs the header Idempotency-Key: a text of your own, the same whenever you repeat this request")
    })?;
    if key.is_empty() || key.len() > MAX_KEY_CHARS || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong(&rule));
    }
    Ok(key)
}

fn name<'a>(headers: &'a HeaderMap, header: &str) -> Result<Option<&'a str>, Refusal> {
    let rule = format!("{header} has 1 to {MAX_NAME_CHARS} of A-Z, a-z, 0-9, '_' and '-'");
    let fits = |name: &str| {
        (1..=MAX_NAME_CHARS).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    match single(headers, header, &rule)? {
        Some(name) if !fits(name) => Err(Refusal::invalid(header, rule)),
        name => Ok(name),
    }
}

fn single<'a>(headers: &'a HeaderMap, header: &str, rule: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(header).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Refusal::invalid(header, format!("{header} is given twice")));
    }
    value.to_str().map(Some).map_err(|_| Refusal::invalid(header, rule))
}

/// How long the client would wait for a settled answer. Of a preference given twice the first counts, and what is
/// malformed is ignored (RFC 7240, section 2).
fn wait(headers: &HeaderMap) -> Duration {
    let lines = headers.get_all(PREFER).iter().filter_map(|line| line.to_str().ok());
    let mut preferences = lines.flat_map(|line| line.split(',')).filter_map(|one| {
        let (name, value) = one.split(';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then_some(value.trim())
    });
    let Some(value) = preferences.next() else {
        return Duration::ZERO;
    };
    let digits = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Duration::ZERO;
    }
    // Only a number too large for the type does not parse.
    Duration::from_secs(digits.parse().unwrap_or(u64::MAX)).min(LONGEST_WAIT)
}

/// Refuses bodies that say they are something else than plain JSON; one that says nothing is taken at its word.
///
/// # Errors
/// 415.
pub(crate) fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let is_json =
        |value: &str| value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    let is_plain = |value: &str| value.trim().eq_ignore_ascii_case("identity");
    let kinds = headers.get_all(header::CONTENT_TYPE);
    let encodings = headers.get_all(header::CONTENT_ENCODING);
    let fits = kinds.iter().all(|value| value.to_str().is_ok_and(is_json))
        && encodings.iter().all(|value| value.to_str().is_ok_and(is_plain));
    if fits {
        return Ok(());
    }
    let message = "the body must be plain JSON: Content-Type: application/json, and no Content-Encoding";
    let refusal = Refusal::new(Code::InvalidArgument, "unsupported_media_type", message).field("Content-Type");
    Err(Problem::at(StatusCode::UNSUPPORTED_MEDIA_TYPE, refusal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefer(values: &[&str]) -> u64 {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(PREFER, value.parse().unwrap());
        }
        wait(&headers).as_secs()
    }

    #[test]
    fn a_wait_is_read_as_rfc_7240_has_it() {
        assert_eq!(prefer(&["wait=5"]), 5);
        assert_eq!(prefer(&["respond-async, Wait=7; strict"]), 7);
        assert_eq!(prefer(&["return=minimal", "wait = \"9\""]), 9);
        assert_eq!(prefer(&["wait=2, wait=3"]), 2, "the first counts");
        assert_eq!(prefer(&["wait=31"]), 30);
        assert_eq!(prefer(&["wait=99999999999999999999999"]), 30);
        for ignored in ["", "wait", "wait=", "wait=-1", "wait=+1", "wait=1.5", "wait=soon", "waits=3", "wait=٣"] {
            let value = http::HeaderValue::from_bytes(ignored.as_bytes()).unwrap();
            assert_eq!(
                wait(&HeaderMap::from_iter([(http::HeaderName::from_static(PREFER), value)])).as_secs(),
                0,
                "{ignored}"
            );
        }
    }
}
