//! Makes and opens the file of an embedded store.
//!
//! # Problem
//! SQLite is kind: it takes a missing file for a new database, and lets a setting that it does not obey silently stay as
//! it was. Both turn a loss into wrong answers.
//!
//! # Pattern
//! Making a file and opening one are two functions, so that a lost file never looks like a first start; and what an answer
//! rests on is asked back, on every connection.
//!
//! # Here
//! [`create`] builds the file under another name and renames it: a crash leaves all of it or nothing. [`open`] has
//! [`sqlite_checks`] look at it first.
//!
//! # Limits
//! Who keeps two processes from one file is the data folder, by its lock.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::file_watch::FileWatch;
use crate::fsync;
use crate::sqlite_checks::{self, Refusal};

/// What is kept in a file, and how one tells.
pub struct Form {
    /// Stands in the header of every such file, and of no other.
    pub application_id: u32,
    /// The layout of the tables; a file of a newer one is refused.
    pub layout: u32,
    /// The SQL that makes them.
    pub tables: &'static str,
    /// The SQL that makes what is missing of the views that people read: no program does, so they are no part of the layout.
    pub views: &'static str,
    /// Looks for what is missing in a file that opens: at all of it if it is small, otherwise at what takes the same time
    /// for every size.
    pub holes: fn(&Connection, small: bool) -> Result<(), Refusal>,
}

/// The file of an event store: "JANG".
pub(crate) const STORE: Form =
    Form { application_id: 0x4a41_4e47, layout: 1, tables: TABLES, views: VIEWS, holes: sqlite_checks::no_holes };
/// With ids that grow with time a writer is as fast with 2 MiB as with 16; what is more is for the few that do not. With
/// all its readers busy a file takes 16 MiB, and eight files must fit a small process.
const WRITER_CACHE_KIB: u32 = 8 << 10;
const READER_CACHE_KIB: u32 = 2 << 10;

const TABLES: &str = "
    CREATE TABLE streams (key INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE events (
        position INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE,
        stream INTEGER NOT NULL, version INTEGER NOT NULL, type TEXT NOT NULL, schema INTEGER NOT NULL,
        data TEXT NOT NULL, timestamp INTEGER NOT NULL, correlation_id TEXT NOT NULL, causation_id TEXT NOT NULL,
        actor TEXT NOT NULL, traceparent TEXT NOT NULL, UNIQUE (stream, version)) STRICT;
    CREATE TABLE commits (id TEXT PRIMARY KEY, reply BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE timers (key TEXT PRIMARY KEY, due INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX timers_due ON timers (due);
    CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE snapshots (
        stream INTEGER PRIMARY KEY, version INTEGER NOT NULL, schema INTEGER NOT NULL, data TEXT NOT NULL) STRICT;";

/// A column of microseconds since 1970 as a moment, as the API writes it.
macro_rules! moment {
    ($column:literal) => {
        concat!(
            "strftime('%Y-%m-%dT%H:%M:%S', ",
            $column,
            " / 1000000, 'unixepoch') || printf('.%06dZ', ",
            $column,
            " % 1000000)"
        )
    };
}

/// What both have has the same names and columns on PostgreSQL (`postgres_views.rs`), which has `streams_readable` and
/// `leases_readable` too.
const VIEWS: &str = concat!(
    "CREATE VIEW IF NOT EXISTS events_readable AS
        SELECT position, name AS stream, version, type, ",
    moment!("timestamp"),
    " AS recorded_at, data, actor, correlation_id, causation_id, substr(traceparent, 4, 32) AS trace_id,
        lower(substr(hex(id), 1, 8) || '-' || substr(hex(id), 9, 4) || '-' || substr(hex(id), 13, 4) || '-'
            || substr(hex(id), 17, 4) || '-' || substr(hex(id), 21)) AS event_id, schema
        FROM events JOIN streams ON key = stream;
    CREATE VIEW IF NOT EXISTS timers_readable AS SELECT key, ",
    moment!("due"),
    " AS due_at FROM timers;
    CREATE VIEW IF NOT EXISTS snapshots_readable AS
        SELECT name AS stream, version, schema, data FROM snapshots JOIN streams ON key = stream;"
);

/// Why a file was not opened. It was not changed either.
#[derive(Debug, thiserror::Error)]
#[error("{} {reason}", file.display())]
pub struct OpenError {
    /// The store's file.
    pub file: PathBuf,
    /// What is the matter with it.
    pub reason: Refusal,
}

/// Makes the file, which must not exist.
///
/// # Errors
/// If the file exists, or its log without it does, or it cannot be written.
pub fn create(file: &Path, form: &Form) -> Result<(), OpenError> {
    let attempt = || {
        if file.try_exists()? {
            return Err(Refusal::Exists);
        }
        sqlite_checks::no_log_alone(file)?;
        let new = beside(file, ".new");
        for leftover in ["", "-wal", "-shm", "-journal"] {
            match fs::remove_file(beside(&new, leftover)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        let db = connect(&new, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE, WRITER_CACHE_KIB)?;
        db.execute_batch(&format!(
            "BEGIN; PRAGMA application_id = {}; PRAGMA user_version = {}; {} {} COMMIT;",
            form.application_id, form.layout, form.tables, form.views
        ))?;
        db.close().map_err(|(_, error)| error)?;
        fs::rename(&new, file)?;
        // Danger: a renamed file is only there after a power cut if its folder was synced.
        Ok(File::open(folder(file))?.sync_all()?)
    };
    attempt().map_err(|reason| OpenError { file: file.into(), reason })
}

/// Opens the file, which must exist and be whole, for its one writer.
///
/// Danger: no other connection of this process may be open to it. The header is read through a handle of its own, and
/// closing that would drop the others' locks (POSIX).
///
/// # Errors
/// If the file is missing, of another form, or not whole. It stays as it is.
pub fn open(file: &Path, form: &Form) -> Result<Connection, OpenError> {
    let attempt = || {
        let bytes = sqlite_checks::before_opening(file, form)?;
        let db = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITER_CACHE_KIB)?;
        // Danger: closing would write the log back. Of a file that is refused, nothing may change: a gap that the log was
        // written over can no longer be seen.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        sqlite_checks::after_opening(file, bytes, &db, form)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        if let Err(why) = db.execute_batch(form.views) {
            tracing::warn!(file = %file.display(), %why, "the views of the file cannot be made; only people miss them");
        }
        Ok(db)
    };
    attempt().map_err(|reason| OpenError { file: file.into(), reason })
}

/// A further connection to a file that is open, for reading.
///
/// # Errors
/// SQLite's, or that the file is another one by now.
pub fn reader(file: &Path, watch: &FileWatch) -> rusqlite::Result<Connection> {
    watch.check(file).map_err(failure)?;
    connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY, READER_CACHE_KIB)
}

fn connect(file: &Path, flags: OpenFlags, cache_kib: u32) -> rusqlite::Result<Connection> {
    fsync::register().map_err(failure)?;
    let db = Connection::open_with_flags_and_vfs(file, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX, fsync::NAME)?;
    if !flags.contains(OpenFlags::SQLITE_OPEN_READ_ONLY) {
        // The log is cut back to 16 MiB after something long had kept it from being written back.
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 1000; PRAGMA journal_size_limit = 16777216",
        )?;
    }
    db.execute_batch(&format!(
        "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON; PRAGMA cache_size = -{cache_kib}; PRAGMA busy_timeout = 5000"
    ))?;
    // Danger: a pragma that is not obeyed does not fail. An answer must mean that the commit is on the disk.
    // Nor must it be in the drive's own memory, where a Mac leaves it unless it is asked for more (F_FULLFSYNC).
    for (setting, needed) in [("synchronous", 2), ("fullfsync", 1), ("checkpoint_fullfsync", 1)] {
        let set: i64 = db.query_row(&format!("PRAGMA {setting}"), [], |row| row.get(0))?;
        if set != needed {
            return Err(failure(format!("{setting} is {set}, it must be {needed}")));
        }
    }
    let journal: String = db.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if journal != "wal" {
        return Err(failure(format!("journal_mode is {journal}, it must be wal")));
    }
    db.set_prepared_statement_cache_capacity(32);
    // One plan a statement, whatever is bound to it. Otherwise each read whose range is a parameter is planned anew, which
    // costs three times the read.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(db)
}

/// What to say about an error of SQLite's, naming the file.
#[must_use]
pub fn sentence(file: &Path, error: &rusqlite::Error) -> String {
    let file = file.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            format!("{file} is damaged ({error}): stop, keep a copy, and restore it from a backup")
        }
        Some(ErrorCode::DiskFull) => format!("{file} cannot grow: the disk is full"),
        _ => format!("{file}: {error}"),
    }
}

fn failure(why: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR), Some(why))
}

/// The file whose name is that of `file` and `more`.
pub(crate) fn beside(file: &Path, more: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(more);
    name.into()
}

/// Where `file` lies.
pub(crate) fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::contract::{HandClock, START, Subject};
    use crate::sqlite::Sqlite;
    use crate::{Commit, Expected, Snapshot, TimerChange};

    /// On a Mac, fsync leaves what was written in the drive's own memory. Elsewhere the setting changes nothing.
    #[test]
    fn every_connection_syncs_as_far_as_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        create(&file, &STORE).unwrap();
        let writer = open(&file, &STORE).unwrap();
        let reader = reader(&file, &FileWatch::default()).unwrap();
        for db in [writer, reader] {
            let setting = |name: &str| db.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).unwrap();
            assert_eq!([setting("synchronous"), setting("fullfsync"), setting("checkpoint_fullfsync")], [2, 1, 1]);
        }
    }

    /// What `sqlite3` shows of a file, a column beside the other.
    fn shown(file: &Path, query: &str) -> Vec<String> {
        let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let mut query = db.prepare(query).unwrap();
        query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[tokio::test]
    async fn a_person_reads_names_and_times_of_a_file_that_an_earlier_program_made() {
        let folder = tempfile::tempdir().unwrap();
        let (file, clock) = (folder.path().join("store.db"), HandClock::new());
        drop(Sqlite::create(&file, clock.clone()).unwrap());
        let views = "SELECT name FROM sqlite_schema WHERE type = 'view' ORDER BY name";
        let names = shown(&file, views);
        assert_eq!(names, ["events_readable", "snapshots_readable", "timers_readable"]);
        let db = Connection::open(&file).unwrap();
        names.iter().for_each(|name| db.execute_batch(&format!("DROP VIEW {name}")).unwrap());
        drop(db);

        let subject = Subject::new(Arc::new(Sqlite::open(&file, clock.clone()).unwrap()), clock, ());
        let timers =
            vec![TimerChange::Set { key: "saga-1".into(), due: START.after(Duration::from_micros(60_000_001)) }];
        let placed = Commit { timers, ..subject.step("a", "order-1", Expected::NoStream, 2) };
        subject.store.commit(placed).await.unwrap();
        let snapshot = Snapshot { version: 2, schema: 1, data: r#"{"n":1}"#.into() };
        subject.store.keep_snapshot(&"order-1".into(), snapshot).await.unwrap();
        let id = subject.log(2).await[1].event.id;
        drop(subject);
        assert_eq!(shown(&file, views), names);
        let events = "SELECT concat_ws(' ', position, stream, version, type, recorded_at, data, actor, correlation_id, causation_id,
            trace_id, event_id, schema) FROM events_readable WHERE stream = 'order-1' AND version = 2";
        let event = r#"2 order-1 2 Happened 2023-11-14T22:13:20.000000Z {"n":1} customer:1 order-1 command-1"#;
        assert_eq!(shown(&file, events), [format!("{event} 4bf92f3577b34da6a3ce929d0e0e4736 {id} 1")]);
        let timers = "SELECT concat_ws(' ', key, due_at) FROM timers_readable";
        assert_eq!(shown(&file, timers), ["saga-1 2023-11-14T22:14:20.000001Z"]);
        let snapshots = "SELECT concat_ws(' ', stream, version, schema, data) FROM snapshots_readable";
        assert_eq!(shown(&file, snapshots), [r#"order-1 2 1 {"n":1}"#]);
    }
}
