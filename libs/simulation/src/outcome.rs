//! How a run ended, as text: from the process that it had for its own.
use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::runs::{Broken, Outcome};

/// Writes it on one line.
#[must_use]
pub fn write(outcome: &Outcome) -> String {
    let Outcome { broken, trace, hash, struck, counts, done } = outcome;
    let broken: Vec<_> = broken.iter().map(|broken| [&broken.invariant, &broken.sentence]).collect();
    let struck: Vec<_> = struck.iter().map(ToString::to_string).collect();
    let counts: BTreeMap<_, _> = counts.iter().map(|(class, count)| (class.word(), count)).collect();
    json!({"broken": broken, "trace": trace, "hash": hash, "struck": struck, "counts": counts, "done": done})
        .to_string()
}

/// Reads it; `None` if it is none.
#[must_use]
pub fn read(text: &str) -> Option<Outcome> {
    let value: Value = serde_json::from_str(text).ok()?;
    let texts = |value: &Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let broken = value["broken"].as_array()?.iter().map(|one| {
        let [invariant, sentence] = texts(one)?.try_into().ok()?;
        Some(Broken { invariant, sentence })
    });
    let struck = texts(&value["struck"])?;
    let counts = value["counts"].as_object()?.iter().map(|(word, count)| Some((word.parse().ok()?, count.as_u64()?)));
    let done = value["done"].as_object()?.iter().map(|(what, count)| Some((what.clone(), count.as_u64()?)));
    Some(Outcome {
        broken: broken.collect::<Option<_>>()?,
        trace: texts(&value["trace"])?,
        hash: value["hash"].as_u64()?,
        struck: struck.iter().map(|strike| strike.parse().ok()).collect::<Option<_>>()?,
        counts: counts.collect::<Option<_>>()?,
        done: done.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Class, Strike};

    #[test]
    fn an_outcome_is_read_as_it_was_written_and_nothing_else_is_taken_for_one() {
        let outcome = Outcome {
            broken: vec![Broken { invariant: "I-1".into(), sentence: "a \"b\"\nc".into() }],
            trace: vec!["line".into()],
            hash: u64::MAX,
            struck: vec![Strike { class: Class::Loss, place: "plan".into(), number: 3 }],
            counts: [(Class::Loss, 1)].into(),
            done: [("orders placed".to_owned(), 7)].into(),
        };
        let again = read(&write(&outcome)).unwrap();
        assert_eq!((again.broken, again.trace, again.hash), (outcome.broken, outcome.trace, outcome.hash));
        assert_eq!((again.struck, again.counts, again.done), (outcome.struck, outcome.counts, outcome.done));
        assert!(read("").is_none() && read("{}").is_none());
    }
}
