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
use rusqlite::{Connection, OpenFlags};

use crate::fsync;
use crate::sqlite_checks::{self, Refusal};

/// "JANG", in the header of every file of ours.
pub(crate) const APPLICATION_ID: u32 = 0x4a41_4e47;
/// The layout of the tables; a file of a newer one is refused.
pub(crate) const LAYOUT: u32 = 1;
/// With ids that grow with time a writer is as fast with 2 MiB as with 16; what is more is for the few that do not. With
/// all its readers busy a file takes 16 MiB, and six files must fit a small process.
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
pub(crate) fn create(file: &Path) -> Result<(), OpenError> {
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
            "BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {LAYOUT}; {TABLES} COMMIT;"
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
pub(crate) fn open(file: &Path) -> Result<Connection, OpenError> {
    let attempt = || {
        let bytes = sqlite_checks::before_opening(file)?;
        let db = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE, WRITER_CACHE_KIB)?;
        // Danger: closing would write the log back. Of a file that is refused, nothing may change: a gap that the log was
        // written over can no longer be seen.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        sqlite_checks::after_opening(file, bytes, &db)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        Ok(db)
    };
    attempt().map_err(|reason| OpenError { file: file.into(), reason })
}

/// A further connection to a file that is open, for reading.
pub(crate) fn reader(file: &Path) -> rusqlite::Result<Connection> {
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
        "PRAGMA synchronous = FULL; PRAGMA cache_size = -{cache_kib}; PRAGMA busy_timeout = 5000"
    ))?;
    // Danger: a pragma that is not obeyed does not fail. An answer must mean that the commit is on the disk.
    let synchronous: i64 = db.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
    let journal: String = db.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if (synchronous, journal.as_str()) != (2, "wal") {
        let why = format!("synchronous is {synchronous} and journal_mode {journal}, they must be 2 (FULL) and wal");
        return Err(failure(why));
    }
    db.set_prepared_statement_cache_capacity(32);
    // One plan a statement, whatever is bound to it. Otherwise each read whose range is a parameter is planned anew, which
    // costs three times the read.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(db)
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
