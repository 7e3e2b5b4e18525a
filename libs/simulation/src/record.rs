//! A campaign's summary in a file, so that it can go on where it was interrupted.
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::faults::Class;
use crate::runs::Summary;

/// How often it is written, in seeds.
const EVERY: u64 = 20;

/// What a campaign found so far.
#[derive(Debug, Default)]
pub struct Record {
    file: Option<PathBuf>,
    /// It; seeds before it held.
    pub summary: Summary,
}

impl Record {
    /// Reads the file, or begins it.
    ///
    /// # Errors
    /// A sentence, if it is no record.
    pub fn open(file: &Path) -> Result<Record, String> {
        let summary = match fs::read_to_string(file) {
            Ok(text) => read(&text).ok_or_else(|| format!("{} is no record of a campaign", file.display()))?,
            Err(_) => Summary::default(),
        };
        Ok(Record { file: Some(file.to_owned()), summary })
    }

    /// Writes it, now and then.
    ///
    /// # Panics
    /// As [`Record::end`].
    pub fn keep(&self, summary: &Summary) {
        if summary.held.is_multiple_of(EVERY) {
            self.end(summary);
        }
    }

    /// Writes it.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn end(&self, summary: &Summary) {
        if let Some(file) = self.file.as_deref() {
            let beside = file.with_extension("new");
            let written = fs::write(&beside, write(summary)).and_then(|()| fs::rename(&beside, file));
            written.unwrap_or_else(|why| panic!("{} cannot be written: {why}", file.display()));
        }
    }
}

fn write(summary: &Summary) -> String {
    let Summary { held, repeated, hash, counts, done, .. } = summary;
    let counts: BTreeMap<_, _> = counts.iter().map(|(class, count)| (class.word(), count)).collect();
    json!({"held": held, "repeated": repeated, "hash": hash, "counts": counts, "done": done}).to_string()
}

fn read(text: &str) -> Option<Summary> {
    let value: Value = serde_json::from_str(text).ok()?;
    let number = |name: &str| value[name].as_u64();
    let counts =
        value["counts"].as_object()?.iter().map(|(word, count)| Some((word.parse::<Class>().ok()?, count.as_u64()?)));
    let done = value["done"].as_object()?.iter().map(|(what, count)| Some((what.clone(), count.as_u64()?)));
    Some(Summary {
        held: number("held")?,
        repeated: number("repeated")?,
        hash: number("hash")?,
        counts: counts.collect::<Option<_>>()?,
        done: done.collect::<Option<_>>()?,
        broken: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_nothing_else_is_taken_for_one() {
        let counts = [(Class::Reset, 3)].into();
        let done = [("orders placed".to_owned(), 7)].into();
        let summary = Summary { held: 40, repeated: 4, hash: u64::MAX, counts, done, broken: None };
        let again = read(&write(&summary)).unwrap();
        assert_eq!((again.held, again.repeated, again.hash), (40, 4, u64::MAX));
        assert_eq!((again.counts, again.done), (summary.counts, summary.done));
        for text in ["", "{}", r#"{"held":1,"repeated":0,"hash":1,"counts":{"earthquake":1},"done":{}}"#] {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
