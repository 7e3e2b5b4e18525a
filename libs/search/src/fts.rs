//! The index on SQLite's FTS5, in a file that can be thrown away.
//!
//! # Problem
//! A shop on a laptop should be searched without a search server; and an index that is broken must not keep it from opening.
//!
//! # Pattern
//! An embedded inverted index behind the same port.
//!
//! # Here
//! Tokens are made by [`crate::words`]; FTS5 only stores them. Owner and facets are tokens too, in a column of their own and
//! in hexadecimal, so that no text can look like one: whatever is filtered by is part of the one search, which FTS5 walks
//! from the newest document on and leaves as soon as the page is full. Documents and checkpoint are one transaction. A file
//! that is damaged, or of another form, is made anew. Beginnings of up to eight letters are indexed too: the documents of a
//! longer one are gathered before the first is known. Parts of the index are merged eight at a time: merging is most of what
//! writing costs, and more parts cost a search little.
//!
//! # Limits
//! One process per file. Of an index in a file, memory holds 2 MiB for the writer and 2 for the reader, however much is in it; of one
//! in memory, all of it. A crash may lose the last writes (`synchronous=NORMAL`): the checkpoint is lost with them, and they
//! are written again.
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use store::Version;
use uuid::Uuid;

use crate::words::{Term, tokens};
use crate::{Change, Checkpoint, Document, Index, Query, SearchError};

/// The form of the file. Another one is made anew.
const FORM: i64 = 4;
const TABLES: &str = "
    CREATE TABLE documents (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, version INTEGER NOT NULL) STRICT;
    CREATE TABLE progress (one INTEGER PRIMARY KEY CHECK (one = 1), position INTEGER NOT NULL, event BLOB NOT NULL) STRICT;
    CREATE VIRTUAL TABLE terms USING fts5(words, marks, content='', contentless_delete=1, tokenize='ascii', prefix='1 2 3 4 5 6 7 8');
    INSERT INTO terms (terms, rank) VALUES ('automerge', 8);";

/// An index in one file, or in memory.
pub struct Fts {
    file: PathBuf,
    writer: Arc<Mutex<Connection>>,
    /// Absent in memory, where the writer reads.
    reader: Option<Arc<Mutex<Connection>>>,
    /// Kept for as long as the file is open.
    _lock: Option<File>,
}

impl Fts {
    /// Opens the index in `file`, or makes it; what cannot be used is removed first.
    ///
    /// # Errors
    /// A sentence, if the file cannot be made.
    pub fn open(file: &Path) -> Result<Fts, SearchError> {
        let there = file.exists();
        let opened = connect(file).and_then(|db| usable(&db).map(|usable| usable.then_some(db)));
        let db = match opened {
            Ok(Some(db)) => db,
            other => {
                if there {
                    let why = other.err().map_or("it has another form".to_owned(), |why| why.to_string());
                    tracing::warn!(file = %file.display(), why, "a search index is made anew");
                }
                remove(file).map_err(|why| unavailable(file, &why))?;
                let db = connect(file).map_err(|why| unavailable(file, &why))?;
                make(&db).map_err(|why| unavailable(file, &why))?;
                db
            }
        };
        let reader = connect(file).map_err(|why| unavailable(file, &why))?;
        let reader = Some(Arc::new(Mutex::new(reader)));
        Ok(Fts { file: file.to_owned(), writer: Arc::new(Mutex::new(db)), reader, _lock: None })
    }

    /// Opens an index in a folder that other processes may have been given too: whoever comes second is refused.
    ///
    /// # Errors
    /// A sentence, if another process has it, or its file cannot be made.
    pub fn open_alone(folder: &Path, name: &str) -> Result<Fts, SearchError> {
        let locked = folder.join(format!("{name}-search.lock"));
        let lock = File::options().create(true).truncate(false).write(true).open(&locked);
        let lock = lock.map_err(|why| unavailable(&locked, &why))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(unavailable(
                    folder,
                    &"another process keeps its index there; each needs a folder of its own",
                ));
            }
            Err(TryLockError::Error(why)) => return Err(unavailable(&locked, &why)),
        }
        Ok(Fts { _lock: Some(lock), ..Fts::open(&folder.join(format!("{name}-search.db")))? })
    }

    /// An index that is gone with the process.
    ///
    /// # Panics
    /// If there is no memory for it.
    #[must_use]
    pub fn in_memory() -> Fts {
        let db = Connection::open_in_memory().expect("memory can be had");
        make(&db).expect("memory can be written");
        Fts { file: "memory".into(), writer: Arc::new(Mutex::new(db)), reader: None, _lock: None }
    }

    /// Reads on the calling task: a page of an index takes about as long as handing it to another thread.
    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, SearchError> {
        let db = self.reader.as_ref().unwrap_or(&self.writer);
        let db = db.lock().unwrap_or_else(PoisonError::into_inner);
        query(&db).map_err(|why| unavailable(&self.file, &why))
    }

    /// Writes on a thread where it may take its time; in memory at once, for then nothing waits for a disk, and a simulation has
    /// one thread only.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, SearchError> {
        let (writer, file) = (self.writer.clone(), self.file.clone());
        let work = move || change(&mut writer.lock().unwrap_or_else(PoisonError::into_inner));
        if self.reader.is_none() {
            return work().map_err(|why| unavailable(&file, &why));
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(written) => written.map_err(|why| unavailable(&file, &why)),
            Err(broken) => Err(unavailable(&file, &broken)),
        }
    }
}

fn unavailable(file: &Path, why: &dyn std::fmt::Display) -> SearchError {
    SearchError::Unavailable(format!("{}: {why}", file.display()))
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(file)?;
    db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    db.execute_batch(
        "PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000; PRAGMA cache_size = -2048;
         PRAGMA journal_size_limit = 4194304;",
    )?;
    Ok(db)
}

fn usable(db: &Connection) -> rusqlite::Result<bool> {
    let form: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if form != FORM {
        return Ok(false);
    }
    // Reads a page of each table; what is damaged deeper fails a search, which says so.
    db.query_row("SELECT count(*) FROM (SELECT 1 FROM documents LIMIT 1)", [], |_| Ok(()))?;
    db.query_row("SELECT count(*) FROM terms WHERE terms MATCH '\"a\"' LIMIT 1", [], |_| Ok(()))?;
    Ok(true)
}

fn make(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {FORM}; COMMIT;"))
}

/// Removes an index and what SQLite keeps beside it.
pub(crate) fn remove(file: &Path) -> std::io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(PathBuf::from(name)) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(why),
            _ => {}
        }
    }
    Ok(())
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn owner_mark(owner: &str) -> String {
    format!("o{}", hex(owner))
}

fn facet_mark(name: &str, value: &str) -> String {
    format!("f{}x{}", hex(name), hex(value))
}

fn marks(document: &Document) -> String {
    let facets = document.facets.iter().map(|(name, value)| facet_mark(name, value));
    std::iter::once(owner_mark(&document.owner)).chain(facets).collect::<Vec<_>>().join(" ")
}

/// The search in the words of FTS5. Tokens are letters and digits only, and stand in quotes.
fn expression(terms: &[Term], query: &Query) -> String {
    let facets = query.facets.iter().map(|(name, value)| facet_mark(name, value));
    let marks = std::iter::once(owner_mark(&query.owner)).chain(facets).map(|mark| format!("marks : \"{mark}\""));
    let words = terms.iter().map(|term| match term {
        Term::Prefix(word) => format!("words : \"{word}\" *"),
        Term::Phrase(words) => {
            format!("words : {}", words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" + "))
        }
    });
    marks.chain(words).collect::<Vec<_>>().join(" AND ")
}

fn put(db: &Connection, document: &Document) -> rusqlite::Result<()> {
    let known: Option<(i64, i64)> = db
        .prepare_cached("SELECT key, version FROM documents WHERE id = ?1")?
        .query_row([&document.id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let version = i64::try_from(document.version).unwrap_or(i64::MAX);
    let key = match known {
        Some((_, kept)) if kept >= version => return Ok(()),
        Some((key, _)) => {
            db.prepare_cached("UPDATE documents SET version = ?2 WHERE key = ?1")?.execute([key, version])?;
            db.prepare_cached("DELETE FROM terms WHERE rowid = ?1")?.execute([key])?;
            key
        }
        None => {
            db.prepare_cached("INSERT INTO documents (id, version) VALUES (?1, ?2)")?
                .execute(params![document.id, version])?;
            db.last_insert_rowid()
        }
    };
    // A token between two texts that no search has: no phrase goes over it.
    let words: Vec<_> = document.text.iter().map(|text| tokens(text).join(" ")).collect();
    db.prepare_cached("INSERT INTO terms (rowid, words, marks) VALUES (?1, ?2, ?3)")?.execute(params![
        key,
        words.join(" · "),
        marks(document)
    ])?;
    Ok(())
}

fn read_checkpoint(db: &Connection) -> rusqlite::Result<Checkpoint> {
    let row = |row: &rusqlite::Row<'_>| {
        let (position, event) = (row.get::<_, i64>(0)? as u64, Uuid::from_bytes(row.get(1)?));
        Ok(Checkpoint { position, event })
    };
    let read = db.prepare_cached("SELECT position, event FROM progress")?.query_row([], row).optional()?;
    Ok(read.unwrap_or_default())
}

#[async_trait]
impl Index for Fts {
    async fn write(&self, change: Change) -> Result<(), SearchError> {
        let Change { after, documents, checkpoint } = change;
        let change = move |db: &mut Connection| {
            let step = db.transaction()?;
            let at = read_checkpoint(&step)?.position;
            if at < after {
                return Ok(Some(at));
            }
            documents.iter().try_for_each(|(_, document)| put(&step, document))?;
            let position = i64::try_from(checkpoint.position).unwrap_or(i64::MAX);
            step.prepare_cached("INSERT OR REPLACE INTO progress VALUES (1, ?1, ?2)")?
                .execute(params![position, checkpoint.event.as_bytes()])?;
            step.commit().map(|()| None)
        };
        match self.change(change).await? {
            None => Ok(()),
            Some(at) => Err(SearchError::not_so_far(at, after)),
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint, SearchError> {
        self.read(read_checkpoint)
    }

    async fn version(&self, id: &str) -> Result<Version, SearchError> {
        let select = "SELECT version FROM documents WHERE id = ?1";
        let read = |db: &Connection| db.prepare_cached(select)?.query_row([id], |row| row.get::<_, i64>(0)).optional();
        self.read(read).map(|version| version.unwrap_or(0) as Version)
    }

    async fn find(&self, terms: &[Term], query: &Query, before: u64) -> Result<Vec<(u64, String)>, SearchError> {
        let (expression, before) = (expression(terms, query), i64::try_from(before).unwrap_or(i64::MAX));
        let size = i64::try_from(query.size).unwrap_or(i64::MAX);
        let read = |db: &Connection| {
            // In the order of FTS5's own rows, so that it ends with the page; the names are looked up for the page only.
            let mut found = db.prepare_cached(
                "SELECT rowid FROM terms WHERE terms MATCH ?1 AND rowid < ?2 ORDER BY rowid DESC LIMIT ?3",
            )?;
            let keys: Vec<i64> =
                found.query_map(params![expression, before, size], |row| row.get(0))?.collect::<Result<_, _>>()?;
            let mut name = db.prepare_cached("SELECT id FROM documents WHERE key = ?1")?;
            keys.into_iter().map(|key| Ok((key as u64, name.query_row([key], |row| row.get(0))?))).collect()
        };
        self.read(read)
    }

    async fn all(&self) -> Result<Vec<(String, Version)>, SearchError> {
        self.read(|db| {
            let mut all = db.prepare("SELECT id, version FROM documents ORDER BY key")?;
            let rows = all.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as Version)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })
    }

    async fn clear(&self) -> Result<(), SearchError> {
        let change = |db: &mut Connection| {
            db.execute_batch("BEGIN; DROP TABLE documents; DROP TABLE progress; DROP TABLE terms;")?;
            db.execute_batch(&format!("{TABLES} COMMIT;"))
        };
        self.change(change).await
    }
}

#[cfg(test)]
#[path = "fts_tests.rs"]
mod tests;
