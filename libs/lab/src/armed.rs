//! Ends this process at a point, if it is armed to.
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Point;

/// Where, and how often it is still come by.
static ARMED: OnceLock<(Point, AtomicU64)> = OnceLock::new();

/// What cannot be armed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place to crash at: it is NAME or NAME:TIMES, where NAME is one of {1}")]
pub struct Unknown(String, String);

/// Arms this process to end at a point, such as `published`, or the n-th time that it comes by, such as `published:10`.
///
/// # Errors
/// If there is no such point.
pub fn arm(text: &str) -> Result<(), Unknown> {
    let (name, times) = text.split_once(':').unwrap_or((text, "1"));
    let point = Point::ALL.into_iter().find(|point| point.name() == name);
    let times = times.parse().ok().filter(|times| *times > 0);
    let Some((point, times)) = point.zip(times) else {
        let names = Point::ALL.map(Point::name).join(", ");
        return Err(Unknown(text.to_owned(), names));
    };
    // Armed once; a second time changes nothing.
    let _ = ARMED.set((point, AtomicU64::new(times)));
    Ok(())
}

pub(crate) fn reached(point: Point) {
    if let Some((armed, left)) = ARMED.get()
        && *armed == point
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_points_that_exist_are_armed() {
        for text in ["", "nowhere", "published:0", "published:x", "published:1:2"] {
            let why = arm(text).unwrap_err().to_string();
            assert!(why.contains("one of written, committed"), "{why}");
        }
    }

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Point::ALL.map(Point::name).into();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
