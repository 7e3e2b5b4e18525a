//! The data folder: one file per service, used by one process at a time, and never mistaken for an empty one.
//!
//! # Problem
//! Services that share a database share its schema, its locks and its outages. And a store that is created where one was
//! lost starts the shop anew, silently, without its orders.
//!
//! # Pattern
//! Database per service: nobody reads another's.
//!
//! # Here
//! A manifest lists the files that hold data. A file that is listed and missing, empty or damaged is refused by name; only
//! what is not listed may be made, all of it at the first start, or what an earlier version did not have. The manifest is
//! written after the files and before the first request, so that a process killed in between has lost nothing.
//!
//! # Limits
//! The files stand in one folder on one disk; they are services' own by whom they are handed to, not by rights.
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, anyhow, bail};
use clock::Clock;
use messaging::Bus;
use search::fts::Fts;
use serde::{Deserialize, Serialize};
use store::Store;
use store::file_watch::FileWatch;
use store::sqlite::Sqlite;

use crate::open_marker;
use crate::shop::Stores;

const MANIFEST: &str = "jangteo.json";
const LOCK: &str = "jangteo.lock";
const APPLICATION: &str = "jangteo";
const VERSION: u32 = 1;
/// The stores' files, in the order of [`Stores`], and the bus's.
const FILES: [&str; 8] = ["order", "inventory", "payment", "shipping", "bank", "carrier", "auditor", BUS];
const BUS: &str = "bus";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    application: String,
    version: u32,
    files: Vec<String>,
}

/// A data folder in use. Dropping it lets another process have it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    watch: FileWatch,
    lock: File,
    /// Whether the lock file says what is open.
    marked: AtomicBool,
}

impl Folder {
    /// Takes the folder for this process; makes it if it does not exist.
    ///
    /// # Errors
    /// A sentence naming the folder, if it cannot be written, is somebody else's, or is in use.
    pub fn take(path: &Path) -> anyhow::Result<Folder> {
        let shown = path.display();
        Folder::take_if_free(path)?.ok_or_else(|| {
            anyhow!("the data folder {shown} is in use by another process; stop it, or choose another with --data")
        })
    }

    /// The same; `None` if another process uses it.
    ///
    /// # Errors
    /// A sentence naming the folder, if it cannot be written, or is somebody else's.
    pub fn take_if_free(path: &Path) -> anyhow::Result<Option<Folder>> {
        let shown = path.display();
        fs::create_dir_all(path).with_context(|| format!("the data folder {shown} cannot be made"))?;
        refuse_foreign(path)?;
        let open = File::options().create(true).truncate(false).read(true).write(true).open(path.join(LOCK));
        let lock = open.with_context(|| format!("the data folder {shown} cannot be written"))?;
        match lock.try_lock() {
            Ok(()) => {
                let watch = FileWatch::default();
                let watched = watch.add(path).and_then(|_| watch.add(&path.join(LOCK)));
                watched.with_context(|| format!("the data folder {shown} cannot be looked at"))?;
                Ok(Some(Folder { path: path.to_owned(), watch, lock, marked: AtomicBool::new(false) }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(why)) => {
                Err(why).with_context(|| format!("the data folder {shown} cannot be locked"))
            }
        }
    }

    /// Opens the stores; makes those that the manifest does not list.
    ///
    /// # Errors
    /// A sentence naming the file that cannot be opened, and why.
    pub fn stores(&self, clock: &Arc<dyn Clock>) -> anyhow::Result<Stores> {
        open_marker::check(&self.path, &self.lock)?;
        let listed = listed(&self.path)?;
        let listed_or_not = |name: &str| listed.contains(&name.to_owned());
        // Side by side: opening is waiting for the disk.
        let (opened, bus) = std::thread::scope(|scope| {
            let bus = scope.spawn(|| self.bus(listed_or_not(BUS)));
            let threads = FILES.iter().filter(|name| **name != BUS);
            let threads: Vec<_> =
                threads.map(|name| scope.spawn(|| self.store(name, listed_or_not(name), clock))).collect();
            let broke = |_| anyhow!("opening a file broke");
            let opened: anyhow::Result<Vec<_>> =
                threads.into_iter().map(|thread| thread.join().map_err(broke).flatten()).collect();
            (opened, bus.join().map_err(broke).flatten())
        });
        let (opened, bus) = (opened?, bus?);
        if FILES.iter().any(|name| !listed.contains(&(*name).to_owned())) {
            write_manifest(&self.path, &FILES.map(str::to_owned))?;
        }
        let manifest = self.path.join(MANIFEST);
        self.watch.add(&manifest).with_context(|| format!("{} cannot be looked at", manifest.display()))?;
        let mut opened = opened.into_iter();
        let mut next = || opened.next().expect("one store for each file");
        let stores = Stores {
            order: next(),
            inventory: next(),
            payment: next(),
            shipping: next(),
            bank: next(),
            carrier: next(),
            auditor: next(),
            bus,
            order_search: Arc::new(Fts::open(&self.index("order"))?),
            product_search: Arc::new(Fts::open(&self.index("product"))?),
        };
        self.mark(false)?;
        Ok(stores)
    }

    fn mark(&self, closing: bool) -> anyhow::Result<()> {
        self.marked.store(true, Ordering::Relaxed);
        let written = open_marker::write(&self.path, &self.lock, &self.watch, closing);
        written.with_context(|| format!("{} cannot be written", self.path.join(LOCK).display()))
    }

    fn bus(&self, listed: bool) -> anyhow::Result<Arc<dyn Bus>> {
        let file = self.path.join(format!("{BUS}.db"));
        let made = listed || file.exists();
        let watch = self.watch.clone();
        let bus = if made {
            messaging::sqlite::Sqlite::open_watched(&file, watch)
        } else {
            messaging::sqlite::Sqlite::create_watched(&file, watch)
        };
        Ok(Arc::new(bus?))
    }

    fn store(&self, name: &str, listed: bool, clock: &Arc<dyn Clock>) -> anyhow::Result<Arc<dyn Store>> {
        let file = self.path.join(format!("{name}.db"));
        // A file that is there and not listed was made by a process that was killed before it served anybody.
        let (clock, watch) = (clock.clone(), self.watch.clone());
        let store = if listed || file.exists() {
            Sqlite::open_watched(&file, clock, watch)
        } else {
            Sqlite::create_watched(&file, clock, watch)
        };
        Ok(Arc::new(store?))
    }

    /// What has to stay where it is while the shop is open: the folder, its lock, its manifest, and the stores' files. The
    /// indices are not in it: one that is lost is made again.
    #[must_use]
    pub fn watch(&self) -> &FileWatch {
        &self.watch
    }

    /// Where an index is. The manifest does not list it: it can be made again.
    #[must_use]
    pub fn index(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}-search.db"))
    }

    /// Where the seals of a service's log are.
    #[must_use]
    pub fn seals(&self, service: &str) -> PathBuf {
        seals(&self.path, service)
    }

    /// Whether a shop was ever opened on it.
    #[must_use]
    pub fn is_new(&self) -> bool {
        !self.path.join(MANIFEST).exists()
    }
}

/// Says in the folder, when it is dropped, that its stores are about to be closed.
///
/// Danger: to be declared after the stores, so that it is dropped before them. Otherwise a kill between their end and the
/// folder's leaves a lock file that names write-ahead logs which were rightly removed.
#[derive(Debug)]
pub struct Closing<F: Deref<Target = Folder>>(pub F);

impl<F: Deref<Target = Folder>> Drop for Closing<F> {
    fn drop(&mut self) {
        if let Err(why) = self.0.mark(true) {
            tracing::warn!("{why:#}");
        }
    }
}

impl Drop for Folder {
    /// Danger: after the stores. What is open when the lock file is emptied can be copied unnoticed.
    fn drop(&mut self) {
        if self.marked.load(Ordering::Relaxed)
            && let Err(why) = open_marker::clear(&self.lock)
        {
            tracing::warn!(%why, "the lock file still says that the shop is open; it can be opened on this folder, not on a copy");
        }
    }
}

/// Where the seals of a service's log are in a data folder.
pub(crate) fn seals(folder: &Path, service: &str) -> PathBuf {
    folder.join(format!("{service}.seals"))
}

/// The files that the manifest of a data folder lists; none, if there is none.
pub(crate) fn listed(folder: &Path) -> anyhow::Result<Vec<String>> {
    let file = folder.join(MANIFEST);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(why) => return Err(why).with_context(|| format!("{} cannot be read", file.display())),
    };
    let manifest: Manifest = serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))?;
    if manifest.application != APPLICATION || manifest.version != VERSION {
        let Manifest { application, version, .. } = manifest;
        bail!(
            "{} is of {application} version {version}; this program reads {APPLICATION} version {VERSION}",
            file.display()
        );
    }
    Ok(manifest.files)
}

/// Says which files a data folder has to have, once they are there.
pub(crate) fn write_manifest(folder: &Path, files: &[String]) -> anyhow::Result<()> {
    let files = files.to_vec();
    let text =
        serde_json::to_string_pretty(&Manifest { application: APPLICATION.to_owned(), version: VERSION, files })?;
    let (file, new) = (folder.join(MANIFEST), folder.join(format!("{MANIFEST}.new")));
    let written = || -> std::io::Result<()> {
        let mut handle = File::create(&new)?;
        handle.write_all(text.as_bytes())?;
        handle.sync_all()?;
        fs::rename(&new, &file)?;
        File::open(folder)?.sync_all()
    };
    written().with_context(|| format!("{} cannot be written", file.display()))
}

fn is_manifest_or_store(name: &str) -> bool {
    name.starts_with(MANIFEST) || FILES.iter().any(|file| name.starts_with(&format!("{file}.db")))
}

/// Whether a file of this name may be in a copy of a data folder on which no shop was opened.
pub(crate) fn is_of_a_copy(name: &str) -> bool {
    is_manifest_or_store(name) || FILES.iter().any(|file| Path::new(name) == seals(Path::new(""), file))
}

/// A folder with a manifest is ours; without one it may hold what a first start that was killed left, and nothing else.
fn refuse_foreign(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let ours = |name: &str| name == LOCK || is_manifest_or_store(name);
    if path.join(MANIFEST).exists() {
        return Ok(());
    }
    let entries = fs::read_dir(path).with_context(|| format!("the data folder {shown} cannot be read"))?;
    for entry in entries {
        let name = entry.with_context(|| format!("the data folder {shown} cannot be read"))?.file_name();
        if !name.to_str().is_some_and(ours) {
            bail!(
                "{shown} is not a data folder of this shop (it holds {}); choose an empty one with --data",
                name.to_string_lossy()
            );
        }
    }
    Ok(())
}
