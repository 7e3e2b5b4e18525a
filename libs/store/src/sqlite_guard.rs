//! What the writer of a file asks before and after each transaction, and says when one fails.
//!
//! # Problem
//! A writer whose file was removed commits to nowhere; and one whose disk is full fails a thousand times a second, with as
//! many lines in the log.
//!
//! # Pattern
//! Check before you answer. Log edges, not levels.
//!
//! # Here
//! [`Guard::before`] refuses while any watched file is lost, [`Guard::after`] looks for the write-ahead log after the commit, which
//! is in it: one `stat` beside an fsync. Whoever has the watch looks for the rest each second. [`Guard::failed`] says a reason once, [`Guard::succeeded`] says once that it is over, after
//! [`CALM`] without a failure: on a full disk small transactions still succeed between large ones.
//!
//! # Limits
//! At most eight reasons are said of one trouble.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use telemetry::trouble::Trouble;
use tokio::time::Instant;

use crate::file_watch::{FileWatch, Identity};
use crate::sqlite_file::{beside, sentence};

/// So long nothing may fail before it is said that the trouble is over.
pub const CALM: Duration = Duration::from_secs(1);

/// The guard of one file. Only its writer has it.
#[derive(Debug)]
pub struct Guard {
    file: PathBuf,
    log: PathBuf,
    /// What the log was when it was opened.
    opened: Identity,
    watch: FileWatch,
    trouble: Trouble,
    failed: Option<Instant>,
}

impl Guard {
    /// Guards an open file; it and its log are watched from now on.
    ///
    /// # Errors
    /// If one of them is not there.
    pub fn new(file: &Path, watch: FileWatch) -> io::Result<Guard> {
        let log = beside(file, "-wal");
        watch.add(file)?;
        let opened = watch.add(&log)?;
        Ok(Guard { file: file.into(), log, opened, watch, trouble: Trouble::default(), failed: None })
    }

    /// The file that it guards.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Whether a transaction may begin.
    ///
    /// # Errors
    /// A sentence that names the file that is lost; it may be one of another writer.
    pub fn before(&self) -> Result<(), String> {
        self.watch.lost().map_or(Ok(()), |_| self.watch.check_all())
    }

    /// Whether what was committed is where it will be looked for.
    ///
    /// # Errors
    /// A sentence that names the file that is lost.
    pub fn after(&self) -> Result<(), String> {
        self.watch.check_opened(&self.log, self.opened)
    }

    /// A transaction failed: what to answer. It is logged if it is news.
    pub fn failed(&mut self, error: &rusqlite::Error) -> String {
        let why = sentence(self.file(), error);
        self.failed = Some(Instant::now());
        if self.trouble.is_news(&why) {
            tracing::error!(why, "transactions fail; what is not written is refused, and said no more");
        }
        why
    }

    /// A transaction succeeded.
    pub fn succeeded(&mut self) {
        let Some(failed) = self.failed else { return };
        if failed.elapsed() >= CALM {
            self.failed = None;
            if self.trouble.is_over() {
                tracing::info!(file = %self.file().display(), "transactions succeed again");
            }
        }
    }
}
