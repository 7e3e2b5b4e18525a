//! Checks of what comes from outside: each refusal names the field and the limit.
use std::fmt::Display;
use std::ops::RangeInclusive;

use uuid::Uuid;

use crate::error::Refusal;

/// A text of so many characters, none of them a control character.
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
    Ok(())
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
