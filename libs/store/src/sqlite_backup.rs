//! Copies files of embedded stores as they are together at one moment, while a process writes to them.
//!
//! # Problem
//! A file that is copied while it is written to is of no moment at all, and files that are copied one after another are of
//! different ones: the money is in one and the order not yet in the other.
//!
//! # Pattern
//! Consistent cut: stop all writers for a moment, take a snapshot of each file, let them go on, and copy the snapshots at leisure.
//!
//! # Here
//! [`Source::stop_writers`] takes the write lock of a file, which SQLite shares among processes; [`Source::pin`] begins a read
//! transaction, which keeps its snapshot in the write-ahead log. Once all files are pinned the locks are given back. Writers
//! wait for some milliseconds and are refused nothing. What is copied is what a process would find that was killed at that
//! moment, and that is what each of them is made for.
//!
//! # Limits
//! The write-ahead logs grow for as long as the copy takes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::sqlite_file::sentence;

/// How often a lock is asked for, and how many times. A busy writer leaves it for microseconds.
const ASK_EVERY: Duration = Duration::from_micros(200);
const TIMES: i32 = 20_000;
/// So many pages are copied between two looks for an error.
const PAGES: i32 = 4_096;

/// A file that is copied.
pub struct Source {
    file: PathBuf,
    writer: Connection,
    reader: Connection,
}

impl Source {
    /// Opens a file that some process may be writing to.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn open(file: &Path) -> Result<Source, String> {
        let attempt = || {
            let [writer, reader] = [OpenFlags::SQLITE_OPEN_READ_WRITE, OpenFlags::SQLITE_OPEN_READ_ONLY]
                .map(|flags| Connection::open_with_flags(file, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX));
            let (writer, reader) = (writer?, reader?);
            // Danger: the last to close would remove the log, which belongs to the process that writes.
            writer.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            writer.busy_handler(Some(ask_again))?;
            Ok(Source { file: file.into(), writer, reader })
        };
        attempt().map_err(|error| sentence(file, &error))
    }

    /// From now on nobody writes to the file.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn stop_writers(&self) -> Result<(), String> {
        self.writer.execute_batch("BEGIN IMMEDIATE").map_err(|error| sentence(&self.file, &error))
    }

    /// From now on [`Source::copy`] gives the file as it is now.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn pin(&self) -> Result<(), String> {
        let pinned = self.reader.execute_batch("BEGIN").and_then(|()| {
            // The snapshot is taken by the first read.
            self.reader.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
        });
        pinned.map_err(|error| sentence(&self.file, &error))
    }

    /// Lets the others write again.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn release_writers(&self) -> Result<(), String> {
        self.writer.execute_batch("ROLLBACK").map_err(|error| sentence(&self.file, &error))
    }

    /// Makes `to` what was pinned, on the disk.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn copy(self, to: &Path) -> Result<(), String> {
        let attempt = || {
            let mut copy = Connection::open(to)?;
            copy.execute_batch("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON")?;
            Backup::new(&self.reader, &mut copy)?.run_to_completion(PAGES, Duration::ZERO, None)?;
            copy.close().map_err(|(_, error)| error)
        };
        attempt().map_err(|error| sentence(to, &error))
    }
}

/// Danger: sooner than SQLite's own handler would. All other files stand still while one is waited for.
#[expect(clippy::disallowed_methods, reason = "a program that copies files has nothing else to do")]
fn ask_again(times: i32) -> bool {
    std::thread::sleep(ASK_EVERY);
    times < TIMES
}

/// Opens files and pins them all at one moment.
///
/// # Errors
/// A sentence that names the file with which it did not succeed. Nobody is kept from writing then.
pub fn pin_together(files: &[PathBuf], meanwhile: impl FnOnce() -> Result<(), String>) -> Result<Vec<Source>, String> {
    let sources = files.iter().map(|file| Source::open(file)).collect::<Result<Vec<_>, _>>()?;
    sources.iter().try_for_each(Source::stop_writers)?;
    sources.iter().try_for_each(Source::pin)?;
    meanwhile()?;
    sources.iter().try_for_each(Source::release_writers)?;
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::contract::{HandClock, Subject};
    use crate::sqlite::Sqlite;
    use crate::{Expected, Store};

    /// Two stores are written to in turn, by a thread that has no end: in a copy the second is never ahead of the first.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn files_are_copied_as_they_were_at_one_moment() {
        let (clock, folder) = (HandClock::new(), tempfile::tempdir().unwrap());
        let files = ["a.db", "b.db"].map(|name| folder.path().join(name));
        let stores = [0, 1].map(|n| Arc::new(Sqlite::create(&files[n], clock.clone()).unwrap()));
        let subject = Subject::new(stores[0].clone(), clock.clone(), ());
        let steps: Vec<_> = (0..20_000).map(|n| subject.step(&n.to_string(), "s", Expected::Any, 2)).collect();
        let (writing, stop) = (stores.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        #[expect(clippy::disallowed_methods, reason = "it is no part of the shop")]
        let writer = tokio::spawn(async move {
            for step in steps {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                for store in &writing {
                    store.commit(step.clone()).await.unwrap();
                }
            }
        });
        let mut last = 0;
        for n in 0..10 {
            while stores[1].version(&"s".into()).await.unwrap() < last + 20 {
                tokio::task::yield_now().await;
            }
            let sources = pin_together(&files, || Ok(())).unwrap();
            let copies = ["a", "b"].map(|name| folder.path().join(format!("{name}-{n}.db")));
            for (source, copy) in sources.into_iter().zip(&copies) {
                source.copy(copy).unwrap();
            }
            let mut versions = vec![];
            for copy in &copies {
                let store = Sqlite::open(copy, clock.clone()).unwrap();
                versions.push(store.version(&"s".into()).await.unwrap());
            }
            assert!(versions[0] == versions[1] || versions[0] == versions[1] + 2, "{versions:?}");
            assert!(versions[1] > last, "it goes on meanwhile");
            last = versions[1];
        }
        stop.store(true, Ordering::Relaxed);
        writer.await.unwrap();
    }
}
