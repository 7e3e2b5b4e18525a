//! The request's target, path and query: what a client may write there, read without leniency, for a path that two
//! readers understand differently is a way around whatever stands between them.
use std::borrow::Cow;

use host::error::Refusal;
use http::{StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tonic::Code;

use crate::problem::Problem;

/// What may stand in a path segment as it is (RFC 3986, unreserved); the rest is percent-encoded.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Refuses targets that are too long or that another reader could take for a different path.
///
/// # Errors
/// 414, or 400 for a malformed percent code, text that is not UTF-8, control characters, and `.` or `..` as a segment.
pub(crate) fn check(uri: &Uri, max_bytes: usize) -> Result<(), Problem> {
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    if path.len() + query.len() > max_bytes {
        let message = format!("path and query have at most {max_bytes} bytes");
        let refusal = Refusal::new(Code::OutOfRange, "path_too_long", message);
        return Err(Problem::at(StatusCode::URI_TOO_LONG, refusal));
    }
    for segment in path.split('/') {
        let decoded = decode(segment).map_err(|why| malformed("path", why))?;
        if matches!(decoded.as_ref(), "." | "..") {
            return Err(malformed("path", "a segment is . or .."));
        }
    }
    Ok(())
}

/// The names and values of a query, in their order.
///
/// # Errors
/// 400 for a malformed percent code, text that is not UTF-8, and control characters.
pub(crate) fn query(uri: &Uri) -> Result<Vec<(String, String)>, Problem> {
    let text = |encoded: &str| match decode(&encoded.replace('+', " ")) {
        Ok(text) => Ok(text.into_owned()),
        Err(why) => Err(malformed("query", why)),
    };
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((text(name)?, text(value)?))
        })
        .collect()
}

/// Decodes percent codes.
///
/// # Errors
/// Why it cannot.
pub(crate) fn decode(encoded: &str) -> Result<Cow<'_, str>, &'static str> {
    let mut codes = encoded.split('%').skip(1);
    let is_code = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if !codes.all(is_code) {
        return Err("a % is not followed by two hexadecimal digits");
    }
    let text = percent_decode_str(encoded).decode_utf8().map_err(|_| "it is not UTF-8")?;
    if text.chars().any(char::is_control) {
        return Err("it has a control character");
    }
    Ok(text)
}

/// Writes a value so that it is one path segment, whatever it holds.
pub(crate) fn encode(value: &str) -> String {
    utf8_percent_encode(value, SEGMENT).to_string()
}

fn malformed(part: &str, why: &str) -> Problem {
    Problem::from(Refusal::new(Code::InvalidArgument, "malformed_target", format!("the {part} is malformed: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_decoded_is_text_without_tricks() {
        assert_eq!(decode("%EC%9E%A5-1%2F2").as_deref(), Ok("장-1/2"));
        for bad in ["%", "%4", "a%zz", "%00", "%0a", "%ff", "%c0%ae"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_was_encoded_is_decoded_again() {
        for value in ["a:b/c", "장터", "%2e%2e", "a b+c&d=e", ""] {
            assert_eq!(decode(&encode(value)).as_deref(), Ok(value));
        }
        assert_eq!(encode("SKU-1_a.b~"), "SKU-1_a.b~");
    }
}
