//! Checks of what comes from outside: each refusal names the field and the limit.
use std::fmt::Display;
use std::ops::RangeInclusive;

use icu_properties::CodePointSetData;
use icu_properties::props::{BidiControl, DefaultIgnorableCodePoint};
use uuid::Uuid;

use crate::error::Refusal;

/// A text of so many characters, at least one of them to be seen, and none of them a control character: neither one of those that
/// terminals obey nor one that changes the direction of writing, by which a text can look like another.
///
/// # Errors
/// Names the field and the limit.
pub fn text(field: &str, value: &str, length: RangeInclusive<usize>) -> Result<(), Refusal> {
    let count = value.chars().count();
    if !length.contains(&count) {
        let message = format!("{field} has {} to {} characters, not {count}", length.start(), length.end());
        return Err(Refusal::invalid(field, message));
    }
    if value.chars().any(char::is_control) {
        return Err(Refusal::invalid(field, format!("{field} has a control character")));
    }
    if value.chars().any(|c| CodePointSetData::new::<BidiControl>().contains(c)) {
        let message = format!("{field} has a character that changes the direction of writing");
        return Err(Refusal::invalid(field, message));
    }
    if !value.chars().any(is_seen) {
        return Err(Refusal::invalid(field, format!("{field} has nothing that can be seen")));
    }
    Ok(())
}

/// Whether a character leaves something on paper.
fn is_seen(c: char) -> bool {
    const EMPTY_BRAILLE: char = '\u{2800}';
    let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    !c.is_whitespace() && c != EMPTY_BRAILLE && !ignorable.contains(c)
}

/// A number in a range.
///
/// # Errors
/// Names the field and the limit.
pub fn number<T: PartialOrd + Display + Copy>(field: &str, value: T, range: RangeInclusive<T>) -> Result<(), Refusal> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(Refusal::invalid(field, format!("{field} is {} to {}, not {value}", range.start(), range.end())))
}

/// An id that the shop gave.
///
/// # Errors
/// Names the field.
pub fn id(field: &str, value: &str) -> Result<(), Refusal> {
    // One spelling only: streams are named by it.
    match Uuid::try_parse(value) {
        Ok(id) if id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == value => Ok(()),
        _ => Err(Refusal::invalid(field, format!("{field} is an id such as 0190b8f1-2c3d-7e4f-8a9b-0c1d2e3f4a5b"))),
    }
}

/// A stock keeping unit.
///
/// # Errors
/// Names the field.
pub fn sku(field: &str, value: &str) -> Result<(), Refusal> {
    let fits = (3..=32).contains(&value.len()) && value.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'0'..=b'9' | b'-'));
    if fits { Ok(()) } else { Err(Refusal::invalid(field, format!("{field} is 3 to 32 of A-Z, 0-9 and '-'"))) }
}

/// The sizes of a page asked for.
///
/// # Errors
/// Names the limit.
pub fn page_size(asked: Option<i32>) -> Result<usize, Refusal> {
    let size = asked.unwrap_or(20);
    number("page_size", size, 1..=100)?;
    Ok(usize::try_from(size).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_can_be_read_and_is_read_in_its_own_order() {
        for good in ["Kim", " 김 장터 ", "a\u{ad}b", "👩\u{200d}🌾", "नमस्ते", "שלום"] {
            assert_eq!(text("name", good, 1..=100), Ok(()), "{good:?}");
        }
        let unseen =
            [" ", "\u{200b}", "\u{ad}\u{2060}", "\u{3164}", "\u{3000}", "\u{2800}", "\u{e0001}", "\u{fe0f}", "\u{a0}"];
        for blank in unseen {
            let refused = text("name", blank, 1..=100).unwrap_err();
            assert_eq!(
                (&*refused.message, refused.field.as_deref()),
                ("name has nothing that can be seen", Some("name")),
                "{blank:?}"
            );
        }
        for control in ["\u{61c}", "\u{200e}", "\u{200f}", "\u{202a}", "\u{202e}", "\u{2066}", "\u{2069}"] {
            let refused = text("name", &format!("Kim{control}x"), 1..=100).unwrap_err();
            assert_eq!(refused.message, "name has a character that changes the direction of writing", "{control:?}");
        }
        assert!(text("name", "a\tb", 1..=100).unwrap_err().message.contains("control character"));
    }
}
