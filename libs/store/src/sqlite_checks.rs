//! Refuses the file of an embedded store that is not a whole one.
//!
//! # Problem
//! SQLite takes an empty file for a new database, and reads one with a piece missing until it meets the gap: perhaps weeks
//! later, perhaps after it wrote over what could have been saved.
//!
//! # Pattern
//! Fail at the door: what can be known about a file is checked when it is opened, and a refusal is one sentence that names
//! the file.
//!
//! # Here
//! [`before_opening`] looks at the header, for SQLite would already change what is not ours. [`after_opening`] looks at
//! the length, the last positions and a sample of the others, which takes the same time for every size; only small files
//! are read through.
//!
//! # Limits
//! A write-ahead log that was deleted after a crash takes the last commits with it unnoticed, and a byte that flips in a
//! large file is met where it is read.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use rusqlite::{Connection, ErrorCode};

use crate::sqlite_file::{Form, beside, folder};

/// Files up to this size are read through when they are opened: from a cold disk that takes 20 ms a MiB.
const SMALL_BYTES: u64 = 8 << 20;

/// What is the matter with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A file was to be made where there is one.
    #[error("exists already")]
    Exists,
    /// A file was to be opened where there is none.
    #[error("does not exist")]
    Missing,
    /// The file is gone, and what belongs to it is not.
    #[error("does not exist, but its log {0} does: the file was lost or moved without it")]
    LogAlone(String),
    /// It has no bytes at all.
    #[error("is empty: it was cut off, for a store is never made like that")]
    Empty,
    /// It does not begin like a database.
    #[error("is not a SQLite database")]
    NotADatabase,
    /// Something else keeps its data there.
    #[error("is a database of another application (its application_id is {0:#x})")]
    Foreign(u32),
    /// A newer program wrote it.
    #[error("was written by a newer version (its layout is {0}, this program knows {1})")]
    Newer(i64, u32),
    /// It is shorter than it says.
    #[error("is cut off: {missing} of its {pages} pages are missing")]
    Torn {
        /// Pages that are neither in the file nor in its log.
        missing: u64,
        /// Pages it should have.
        pages: u64,
    },
    /// Its events are not all there.
    #[error("has lost events: position {0} is missing")]
    Hole(i64),
    /// SQLite found a contradiction in it.
    #[error("is damaged: {0}")]
    Damaged(String),
    /// It cannot be written to.
    #[error("cannot be written to: it or its folder is read-only")]
    ReadOnly,
    /// The operating system or SQLite would not let us.
    #[error("cannot be opened: {0}")]
    Unavailable(String),
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Refusal {
        Refusal::Unavailable(error.to_string())
    }
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Refusal {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt) => Refusal::Damaged(error.to_string()),
            Some(ErrorCode::NotADatabase) => Refusal::NotADatabase,
            Some(ErrorCode::ReadOnly) => Refusal::ReadOnly,
            _ => Refusal::Unavailable(error.to_string()),
        }
    }
}

/// What can be seen without SQLite; the length of the file in bytes.
pub(crate) fn before_opening(file: &Path, form: &Form) -> Result<u64, Refusal> {
    let metadata = match fs::metadata(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            no_log_alone(file)?;
            return Err(Refusal::Missing);
        }
        metadata => metadata?,
    };
    if metadata.len() == 0 {
        return Err(Refusal::Empty);
    }
    if metadata.permissions().readonly() || fs::metadata(folder(file))?.permissions().readonly() {
        return Err(Refusal::ReadOnly);
    }
    let mut header = [0; 100];
    match File::open(file)?.read_exact(&mut header) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(Refusal::NotADatabase),
        read => read?,
    }
    if !header.starts_with(b"SQLite format 3\0") {
        return Err(Refusal::NotADatabase);
    }
    let application_id = number_at(&header, 68);
    if application_id != form.application_id {
        return Err(Refusal::Foreign(application_id));
    }
    // Where there is a log, the header may be older or newer than it; without one SQLite would only say "malformed".
    if !beside(file, "-wal").try_exists()? {
        let page_bytes = match u64::from(number_at(&header, 16) >> 16) {
            1 => 65_536,
            bytes => bytes.max(512),
        };
        let (pages, whole) = (u64::from(number_at(&header, 28)), metadata.len() / page_bytes);
        if whole < pages {
            return Err(Refusal::Torn { missing: pages - whole, pages });
        }
    }
    Ok(metadata.len())
}

/// A log without its file is what is left of a loss.
pub(crate) fn no_log_alone(file: &Path) -> Result<(), Refusal> {
    let log = beside(file, "-wal");
    if log.try_exists()? { Err(Refusal::LogAlone(log.display().to_string())) } else { Ok(()) }
}

/// What takes SQLite to see, once it has taken up the log that a crash left.
pub(crate) fn after_opening(file: &Path, bytes: u64, db: &Connection, form: &Form) -> Result<(), Refusal> {
    let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
    let layout = number("PRAGMA user_version")?;
    if layout > i64::from(form.layout) {
        return Err(Refusal::Newer(layout, form.layout));
    }
    let (pages, page_bytes) = (number("PRAGMA page_count")? as u64, number("PRAGMA page_size")? as u64);
    let logged = pages_in_log(&beside(file, "-wal"), page_bytes)?;
    // The page at this offset is never written: SQLite keeps its locks there.
    let locks = (1 << 30) / page_bytes + 1;
    let missing =
        (bytes / page_bytes + 1..=pages).filter(|page| *page != locks && !logged.contains(page)).count() as u64;
    // A page that a transaction took and gave back is in neither.
    if missing > number("PRAGMA freelist_count")? as u64 {
        return Err(Refusal::Torn { missing, pages });
    }
    let small = bytes <= SMALL_BYTES;
    (form.holes)(db, small)?;
    if small {
        let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(Refusal::Damaged(verdict.replace('\n', ": ")));
        }
    }
    Ok(())
}

/// The pages that a crash in the middle of writing the log back may have left out of the file.
fn pages_in_log(log: &Path, page_bytes: u64) -> Result<BTreeSet<u64>, Refusal> {
    let mut pages = BTreeSet::new();
    let mut log = match File::open(log) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(pages),
        log => log?,
    };
    let (mut header, mut frame) = ([0; 32], [0; 24]);
    let length = log.metadata()?.len();
    if length < header.len() as u64 {
        return Ok(pages);
    }
    log.read_exact(&mut header)?;
    let mut at = header.len() as u64;
    while at + frame.len() as u64 + page_bytes <= length {
        log.seek(SeekFrom::Start(at))?;
        log.read_exact(&mut frame)?;
        // Frames of an earlier round carry other salts.
        if frame[8..16] != header[16..24] {
            break;
        }
        pages.insert(number_at(&frame, 0).into());
        at += frame.len() as u64 + page_bytes;
    }
    Ok(pages)
}

/// Positions are dense: the last thousand are looked at, and 64 of the others.
pub(crate) fn no_holes(db: &Connection, small: bool) -> Result<(), Refusal> {
    let last: i64 = db.query_row("SELECT ifnull(max(position), 0) FROM events", [], |row| row.get(0))?;
    let mut find = db.prepare("SELECT 1 FROM events WHERE position = ?1")?;
    for position in (1..=64).map(|n| last / 64 * n).chain(last - 1_000..last).filter(|position| *position > 0) {
        if !find.exists([position])? {
            return Err(Refusal::Hole(position));
        }
    }
    if !small {
        return Ok(());
    }
    let hole = "SELECT row FROM (SELECT position, row_number() OVER (ORDER BY position) AS row FROM events)
        WHERE position <> row LIMIT 1";
    match db.query_row(hole, [], |row| row.get(0)) {
        Ok(position) => Err(Refusal::Hole(position)),
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn number_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use clock::SystemClock;
    use tempfile::TempDir;

    use super::*;
    use crate::Store;
    use crate::contract::{HandClock, Subject};
    use crate::sqlite::Sqlite;

    /// A closed store with `events` events.
    async fn store(events: usize) -> (PathBuf, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        let clock = HandClock::new();
        let subject = Subject::new(Arc::new(Sqlite::create(&file, clock.clone()).unwrap()), clock, ());
        for n in 0..events / 100 {
            let commit = subject.step(&n.to_string(), "s", crate::Expected::Any, 100);
            subject.store.commit(commit).await.unwrap();
        }
        (file, folder)
    }

    #[track_caller]
    fn refused(file: &Path) -> Refusal {
        match Sqlite::open(file, Arc::new(SystemClock)) {
            Ok(_) => panic!("it was opened"),
            Err(error) => {
                let sentence = error.to_string();
                assert!(
                    sentence.starts_with(&format!("{} ", file.display())) && !sentence.contains('\n'),
                    "{sentence}"
                );
                error.reason
            }
        }
    }

    fn change(file: &Path, sql: &str) {
        Connection::open(file).unwrap().execute_batch(sql).unwrap();
    }

    #[tokio::test]
    async fn a_lost_file_never_looks_like_a_first_start() {
        let (file, folder) = store(0).await;
        let clock = Arc::new(SystemClock);
        let made_twice = Sqlite::create(&file, clock.clone()).err().unwrap();
        assert_eq!(made_twice.reason, Refusal::Exists);
        fs::remove_file(&file).unwrap();
        assert_eq!(refused(&file), Refusal::Missing);
        fs::write(beside(&file, "-wal"), "what was not written back").unwrap();
        let alone = Refusal::LogAlone(beside(&file, "-wal").display().to_string());
        assert_eq!(refused(&file), alone);
        assert_eq!(Sqlite::create(&file, clock).err().unwrap().reason, alone);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was made");
    }

    #[tokio::test]
    async fn a_half_made_file_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        for leftover in [".new", ".new-wal", ".new-journal"] {
            fs::write(beside(&file, leftover), "the power went").unwrap();
        }
        let store = Sqlite::create(&file, Arc::new(SystemClock)).unwrap();
        assert_eq!(store.version(&"s".into()).await, Ok(0));
        drop(store);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn what_is_no_store_is_refused_untouched() {
        let (file, _folder) = store(0).await;
        let whole = fs::read(&file).unwrap();
        let mut garbage = whole.clone();
        garbage[..16].copy_from_slice(b"SQLite format 2\0");
        let foreign = _folder.path().join("foreign.db");
        change(&foreign, "PRAGMA application_id = 7; CREATE TABLE theirs (a)");
        let cases = [
            (Vec::new(), Refusal::Empty),
            (garbage, Refusal::NotADatabase),
            (b"short".to_vec(), Refusal::NotADatabase),
            (vec![0; 8_192], Refusal::NotADatabase),
            (fs::read(foreign).unwrap(), Refusal::Foreign(7)),
        ];
        for (bytes, refusal) in cases {
            fs::write(&file, &bytes).unwrap();
            assert_eq!(refused(&file), refusal);
            assert!(fs::read(&file).unwrap() == bytes, "{refusal} left it as it was");
        }
        fs::write(&file, whole).unwrap();
        change(&file, "PRAGMA user_version = 9");
        assert_eq!(refused(&file), Refusal::Newer(9, 1));
    }

    #[tokio::test]
    async fn a_file_that_is_cut_off_is_refused() {
        let (file, _folder) = store(1_000).await;
        let whole = fs::read(&file).unwrap();
        let pages = whole.len() as u64 / 4_096;
        for missing in [1, pages / 2, pages - 1] {
            fs::write(&file, &whole[..((pages - missing) * 4_096) as usize]).unwrap();
            assert_eq!(refused(&file), Refusal::Torn { missing, pages });
        }
        fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(refused(&file), Refusal::Torn { missing: 1, pages });
        fs::write(&file, &whole).unwrap();
        assert!(Sqlite::open(&file, Arc::new(SystemClock)).is_ok());
    }

    /// What a crash leaves: the file and its log, copied while the store is open.
    async fn crashed() -> (PathBuf, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("live.db");
        let clock = HandClock::new();
        let subject = Subject::new(Arc::new(Sqlite::create(&file, clock.clone()).unwrap()), clock, ());
        for n in 0..20 {
            subject.store.commit(subject.step(&n.to_string(), "s", crate::Expected::Any, 100)).await.unwrap();
        }
        let copy = folder.path().join("store.db");
        for part in ["", "-wal"] {
            fs::copy(beside(&file, part), beside(&copy, part)).unwrap();
        }
        (copy, folder)
    }

    #[tokio::test]
    async fn a_file_that_lags_behind_its_log_is_whole() {
        let (file, _folder) = crashed().await;
        let (bytes, log) = (fs::metadata(&file).unwrap().len(), fs::metadata(beside(&file, "-wal")).unwrap().len());
        assert!(log > 2 * bytes, "the events are in the log");
        let store = Sqlite::open(&file, Arc::new(SystemClock)).unwrap();
        assert_eq!(store.version(&"s".into()).await, Ok(2_000));
        drop(store);
        assert!(Sqlite::open(&file, Arc::new(SystemClock)).is_ok());
    }

    #[tokio::test]
    async fn a_file_that_is_cut_off_is_not_hidden_by_a_log() {
        let (file, _folder) = store(20_000).await;
        let whole = fs::read(&file).unwrap();
        // A commit after the cut leaves a log that writes to the end of the file: it looks whole in length afterwards.
        let clock = HandClock::new();
        let subject = Subject::new(Arc::new(Sqlite::open(&file, clock.clone()).unwrap()), clock, ());
        subject.store.commit(subject.step("last", "s", crate::Expected::Any, 100)).await.unwrap();
        let log = fs::read(beside(&file, "-wal")).unwrap();
        drop(subject);
        for cut in [whole.len() / 2, whole.len() - 10 * 4_096] {
            fs::write(&file, &whole[..cut]).unwrap();
            fs::write(beside(&file, "-wal"), &log).unwrap();
            for _ in 0..2 {
                let Refusal::Torn { missing, pages } = refused(&file) else { panic!("it is cut off") };
                assert!((5..pages).contains(&missing), "{missing} of {pages}");
                assert!(fs::read(&file).unwrap() == whole[..cut] && fs::read(beside(&file, "-wal")).unwrap() == log);
            }
        }
    }

    #[tokio::test]
    async fn lost_events_are_noticed() {
        let (file, folder) = store(5_000).await;
        for (position, found) in [(4_999, 4_999), (1, 1), (2_500, 2_500)] {
            let copy = folder.path().join("copy.db");
            fs::copy(&file, &copy).unwrap();
            change(&copy, &format!("DELETE FROM events WHERE position = {position}"));
            let Refusal::Hole(hole) = refused(&copy) else { panic!("position {position}") };
            assert!((found..=found + 1).contains(&hole), "{hole}");
        }
        // Without reading it through: a large file is judged by its end and by a sample.
        for hole in ["position = 4500", "position BETWEEN 1000 AND 1200"] {
            let copy = folder.path().join("copy.db");
            fs::copy(&file, &copy).unwrap();
            change(&copy, &format!("DELETE FROM events WHERE {hole}"));
            let db = Connection::open(&copy).unwrap();
            assert!(matches!(no_holes(&db, false), Err(Refusal::Hole(_))), "{hole}");
        }
        assert_eq!(no_holes(&Connection::open(&file).unwrap(), true), Ok(()));
    }

    #[tokio::test]
    async fn damage_in_a_small_file_is_noticed() {
        let (file, _folder) = store(1_000).await;
        let mut bytes = fs::read(&file).unwrap();
        let page = bytes.len() / 4_096 / 2 * 4_096;
        bytes[page..page + 64].fill(0xff);
        fs::write(&file, bytes).unwrap();
        assert!(matches!(refused(&file), Refusal::Damaged(_)));
    }

    #[tokio::test]
    async fn what_cannot_be_written_to_is_refused() {
        let (file, folder) = store(0).await;
        for path in [&file, folder.path()] {
            let before = fs::metadata(path).unwrap().permissions();
            let mut read_only = before.clone();
            read_only.set_readonly(true);
            fs::set_permissions(path, read_only).unwrap();
            assert_eq!(refused(&file), Refusal::ReadOnly);
            fs::set_permissions(path, before).unwrap();
        }
        assert!(Sqlite::open(&file, Arc::new(SystemClock)).is_ok());
    }
}
