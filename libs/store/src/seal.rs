//! Seals over a log: whoever changes what was recorded is found out.
//!
//! # Problem
//! An event log is only as good as nobody having touched it. A database file can be edited by whoever reaches it, and looks
//! the same afterwards.
//!
//! # Pattern
//! Hash chain: each event's seal is a hash over the event and the seal before it, kept apart from the log. A change
//! anywhere breaks every seal from there on.
//!
//! # Here
//! [`run`] follows the log by position and appends one seal (SHA-256, 32 bytes) for each event to a file of its own, synced
//! before the next; the n-th seal belongs to position n. [`verify`] goes through log and seals and names the first position
//! that does not fit: changed, missing, put in, or cut off at the end. What has no seal yet is reported as unsealed, not as
//! good: normally what was recorded in the last second ([`EVERY`]).
//!
//! # Limits
//! Whoever can write both files can forge both, or take the seals away and have the log sealed anew as it then is: copy the
//! seals elsewhere from time to time. What is altered before it is sealed is sealed as it then is.
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use telemetry::trouble::Trouble;
use tokio::time::{sleep, timeout};

use crate::file_watch::FileWatch;
use crate::{Meta, NewEvent, Position, ReadError, Recorded, Store};

/// How often the log is looked at for events to seal.
pub const EVERY: Duration = Duration::from_secs(1);
/// How often the log is looked at although nobody said that it grew.
const SELDOM: Duration = Duration::from_secs(9);
/// So many events are read at once.
const PAGE: usize = 1_000;
const SEAL_BYTES: usize = 32;
/// The first bytes of a file of seals.
const MAGIC: &[u8; SEAL_BYTES] = b"jangteo seals 1                 ";

/// A hash over an event and all before it.
pub type Seal = [u8; SEAL_BYTES];

/// Why a file of seals cannot be used, or the log under it does not reach it.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file cannot be read or written.
    #[error("{file} cannot be used: {why}")]
    File {
        /// Which.
        file: String,
        /// Why.
        why: std::io::Error,
    },
    /// It is no file of seals.
    #[error("{0} is no file of seals")]
    Foreign(String),
    /// The log ends before the seals do: its tail was cut off, or an older log was put back.
    #[error(
        "the log ends at position {log}, but {file} has seals up to {sealed}: events were lost; restore a backup, or see `verify`"
    )]
    Shorter {
        /// The file of seals.
        file: String,
        /// Where the log ends.
        log: Position,
        /// Where the seals end.
        sealed: Position,
    },
    /// The file is not the one that was opened any more.
    #[error("{0}")]
    Lost(String),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] ReadError),
}

/// The seal of an event after another. Every column of the event is in it.
#[must_use]
pub fn seal(before: &Seal, recorded: &Recorded) -> Seal {
    let Recorded { position, stream, version, timestamp, event, meta } = recorded;
    let NewEvent { id, kind, schema, data } = event;
    let Meta { correlation_id, causation_id, actor, traceparent } = meta;
    let mut hash = Sha256::new();
    hash.update(before);
    for number in [position.unwrap_or(0), *version, u64::from(*schema)] {
        hash.update(number.to_be_bytes());
    }
    hash.update(timestamp.0.to_be_bytes());
    hash.update(id.as_bytes());
    for text in [&*stream.0, kind, data, correlation_id, causation_id, actor, traceparent] {
        // With its length: otherwise a letter could move from one field to the next unseen.
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    let digest = hash.finalize();
    std::array::from_fn(|n| digest[n])
}

/// How many bytes of a file of seals are whole seals: a kill may leave a part of one behind them.
#[must_use]
pub fn whole_bytes(length: u64) -> u64 {
    length - length % SEAL_BYTES as u64
}

/// A file of seals, open for more.
struct Seals {
    name: String,
    file: File,
    count: Position,
    last: Seal,
}

impl Seals {
    /// Opens the file, or makes it if it may. Half a seal at its end is what a kill left of a write, and is taken off; so is what
    /// was written after the first `kept` seals.
    fn open(path: &Path, make: bool, kept: Option<Position>) -> Result<Seals, SealError> {
        let name = path.display().to_string();
        let broken = |why| SealError::File { file: name.clone(), why };
        let mut file =
            OpenOptions::new().read(true).write(true).create(make).truncate(false).open(path).map_err(broken)?;
        let length = file.metadata().map_err(broken)?.len();
        let unit = SEAL_BYTES as u64;
        if length < unit {
            let mut begun = vec![];
            file.read_to_end(&mut begun).map_err(broken)?;
            if !MAGIC.starts_with(&begun) {
                return Err(SealError::Foreign(name));
            }
            file.set_len(0).and_then(|()| file.rewind()).map_err(broken)?;
            file.write_all(MAGIC).map_err(broken)?;
            file.sync_all().map_err(broken)?;
            return Ok(Seals { name, file, count: 0, last: *MAGIC });
        }
        let mut magic = Seal::default();
        file.read_exact(&mut magic).map_err(broken)?;
        if magic != *MAGIC {
            return Err(SealError::Foreign(name));
        }
        let whole = whole_bytes(kept.map_or(length, |kept| length.min((kept + 1) * unit)));
        file.set_len(whole).map_err(broken)?;
        let mut last = Seal::default();
        file.seek(SeekFrom::Start(whole - unit)).map_err(broken)?;
        file.read_exact(&mut last).map_err(broken)?;
        Ok(Seals { name, file, count: whole / unit - 1, last })
    }

    /// Seals events that follow the last one.
    fn append(&mut self, events: &[Recorded]) -> Result<(), SealError> {
        let mut last = self.last;
        let mut bytes = Vec::with_capacity(events.len() * SEAL_BYTES);
        for event in events {
            last = seal(&last, event);
            bytes.extend_from_slice(&last);
        }
        // Some kilobytes and one sync a second: short enough to be written where it stands.
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(|why| SealError::File { file: self.name.clone(), why })?;
        (self.last, self.count) = (last, self.count + events.len() as Position);
        Ok(())
    }
}

/// Seals a log as it grows, for ever. The file of seals is watched from then on.
///
/// Whatever goes wrong is tried again, for it may pass: a disk that is full, a process without a file handle to spare. `tell` is
/// told what is the matter each time, and `None` each time that nothing is. A log that cannot be read for a while is no matter.
pub async fn run(store: &dyn Store, path: &Path, watch: &FileWatch, tell: impl Fn(Option<&SealError>)) {
    let mut sealer = Sealer { path, watch, seals: None, kept: None };
    let mut trouble = Trouble::default();
    let mut growth = store.growth();
    loop {
        // Before looking: what is recorded after the look ends the wait.
        growth.borrow_and_update();
        match sealer.seal_page(store).await {
            Ok(sealed) => {
                tell(None);
                if trouble.is_over() {
                    tracing::info!(file = %path.display(), "the log is sealed again");
                }
                if sealed < PAGE {
                    sleep(EVERY).await;
                    // Either ends the wait.
                    let _ = timeout(SELDOM, growth.changed()).await;
                }
            }
            Err(why) => {
                if !matches!(why, SealError::Log(ReadError::Unavailable(_))) {
                    tell(Some(&why));
                }
                if trouble.is_news(&why.to_string()) {
                    tracing::warn!(%why, "nothing is sealed until that is mended");
                }
                sleep(EVERY).await;
            }
        }
    }
}

/// Seals page after page, and begins anew with the file when one fails.
struct Sealer<'a> {
    path: &'a Path,
    watch: &'a FileWatch,
    seals: Option<Seals>,
    /// How many seals are known to be on the disk, once the file was opened.
    kept: Option<Position>,
}

impl Sealer<'_> {
    /// Seals the next page; how many events it had.
    async fn seal_page(&mut self, store: &dyn Store) -> Result<usize, SealError> {
        self.watch.check(self.path).map_err(SealError::Lost)?;
        // Danger: after a failed write nobody knows what is in the file. It is opened anew, and what is not known to be on the
        // disk is written again.
        let mut seals = match self.seals.take() {
            Some(seals) => seals,
            None => self.open(store).await?,
        };
        let sealed = seal_page(store, &mut seals).await?;
        self.kept = Some(seals.count);
        self.seals = Some(seals);
        self.watch.check(self.path).map_err(SealError::Lost)?;
        Ok(sealed)
    }

    /// Danger: a file that was there and is not is never made again. It would have the log sealed as it is by then.
    async fn open(&self, store: &dyn Store) -> Result<Seals, SealError> {
        let seals = Seals::open(self.path, self.kept.is_none(), self.kept)?;
        reaches(store, &seals.name, seals.count).await?;
        self.watch.add(self.path).map_err(|why| SealError::File { file: seals.name.clone(), why })?;
        Ok(seals)
    }
}

/// Whether the log goes on at least as far as it is sealed; one that is not sealed yet does.
///
/// # Errors
/// [`SealError::Shorter`] if it does not: something of it was lost, or an older one was put back.
pub async fn reaches_seals(store: &dyn Store, path: &Path) -> Result<(), SealError> {
    let file = path.display().to_string();
    match std::fs::metadata(path) {
        Ok(seals) => reaches(store, &file, (seals.len() / SEAL_BYTES as u64).saturating_sub(1)).await,
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
        Err(why) => Err(SealError::File { file, why }),
    }
}

async fn reaches(store: &dyn Store, file: &str, sealed: Position) -> Result<(), SealError> {
    let log = store.end().await?;
    if log < sealed {
        return Err(SealError::Shorter { file: file.to_owned(), log, sealed });
    }
    Ok(())
}

/// Seals the next page; how many events it had.
async fn seal_page(store: &dyn Store, seals: &mut Seals) -> Result<usize, SealError> {
    let page = store.read_all(seals.count, PAGE).await?;
    if !page.is_empty() {
        seals.append(&page)?;
    }
    Ok(page.len())
}

/// What [`verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every sealed event is as it was sealed.
    Good {
        /// How many are sealed.
        sealed: Position,
        /// How many are not sealed yet: nothing is said of them.
        unsealed: u64,
    },
    /// The event at this position is not the one that was sealed, or is not there.
    Broken {
        /// The first position that does not fit.
        position: Position,
        /// What is wrong with it.
        why: String,
    },
}

/// Goes through a whole log and its seals.
///
/// # Errors
/// If either cannot be read at all.
pub async fn verify(store: &dyn Store, path: &Path) -> Result<Verdict, SealError> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|why| SealError::File { file: name.clone(), why })?;
    let (magic, seals) = bytes.split_first_chunk::<SEAL_BYTES>().ok_or(SealError::Foreign(name.clone()))?;
    if magic != MAGIC {
        return Err(SealError::Foreign(name));
    }
    let seals = seals.as_chunks::<SEAL_BYTES>().0;
    let (mut position, mut last) = (0, *MAGIC);
    loop {
        let page = store.read_all(position, PAGE).await?;
        for recorded in &page {
            let next = position + 1;
            if recorded.position != Some(next) {
                return Ok(Verdict::Broken { position: next, why: "there is no event at it".to_owned() });
            }
            let Some(sealed) = seals.get(position as usize) else { break };
            last = seal(&last, recorded);
            if last != *sealed {
                let NewEvent { kind, .. } = &recorded.event;
                let why =
                    format!("version {} of {} ({kind}) is not what was sealed", recorded.version, recorded.stream);
                return Ok(Verdict::Broken { position: next, why });
            }
            position = next;
        }
        if page.is_empty() && position < seals.len() as Position {
            let why = format!("the log ends before it; seals go on up to {}", seals.len());
            return Ok(Verdict::Broken { position: position + 1, why });
        }
        if position == seals.len() as Position {
            let (mut end, mut unsealed) = (position, 0);
            loop {
                let page = store.read_all(end, PAGE).await?;
                let Some(last) = page.last() else { return Ok(Verdict::Good { sealed: position, unsealed }) };
                (end, unsealed) = (last.position.unwrap_or(end), unsealed + page.len() as u64);
            }
        }
    }
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
