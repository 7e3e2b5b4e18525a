//! Notices that an open file is no longer the one that its name stands for.
//!
//! # Problem
//! A file that is removed while it is open can be written on as before: every answer says that it is on the disk, and all of
//! it is gone with the process. `rm -rf` of the data folder and `git clean -fdx` do that to a shop that is open.
//!
//! # Pattern
//! Compare identities: device and inode of what the path names now with those of what was opened.
//!
//! # Here
//! [`FileWatch`] remembers who the files are. Whoever writes asks for its log after each transaction, before it answers;
//! somebody looks at all of them each second ([`FileWatch::check_all`]). Once one is lost, whoever shares the watch writes
//! nothing until it is back: a shop whose parts are kept in different folders is no shop.
//!
//! # Limits
//! A file that is removed between the check and the answer is noticed by the next one. It says nothing of what is in a file.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which file it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    /// Its number on the device.
    pub inode: u64,
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Identity {
        Identity { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The files that have to stay where they are. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct FileWatch(Arc<Watched>);

#[derive(Debug, Default)]
struct Watched {
    files: Mutex<BTreeMap<PathBuf, Identity>>,
    lost: Mutex<Option<String>>,
}

impl FileWatch {
    /// From now on `path` has to name what it names now, which is returned.
    ///
    /// # Errors
    /// If it names nothing.
    pub fn add(&self, path: &Path) -> io::Result<Identity> {
        let identity = Identity::from(&fs::metadata(path)?);
        lock(&self.0.files).insert(path.to_owned(), identity);
        Ok(identity)
    }

    /// The watched files and folders, and who they are.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, Identity> {
        lock(&self.0.files).clone()
    }

    /// What was found lost and has not come back. Costs nothing.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        lock(&self.0.lost).clone()
    }

    /// Whether `path` is still what it was; one that is not watched is.
    ///
    /// # Errors
    /// A sentence that names it.
    pub fn check(&self, path: &Path) -> Result<(), String> {
        let opened = lock(&self.0.files).get(path).copied();
        opened.map_or(Ok(()), |opened| self.check_opened(path, opened))
    }

    /// The same, for whoever kept what [`FileWatch::add`] returned.
    ///
    /// # Errors
    /// A sentence that names it.
    pub fn check_opened(&self, path: &Path, opened: Identity) -> Result<(), String> {
        same(path, opened).inspect_err(|why| _ = lock(&self.0.lost).get_or_insert_with(|| why.clone()))
    }

    /// Whether all are still what they were. Where all are back, nothing is lost any more.
    ///
    /// # Errors
    /// A sentence that names the first that is not.
    pub fn check_all(&self) -> Result<(), String> {
        // Danger: the lock is held meanwhile. A writer that finds a loss now must not see it forgotten.
        let mut lost = lock(&self.0.lost);
        let checked = self.files().iter().try_for_each(|(path, opened)| same(path, *opened));
        *lost = checked.clone().err();
        checked
    }
}

/// Whether `path` names what was opened under it.
///
/// # Errors
/// A sentence that names it.
pub fn same(path: &Path, opened: Identity) -> Result<(), String> {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(metadata) if Identity::from(&metadata) == opened => Ok(()),
        Ok(_) => Err(format!("{shown} was replaced while it was in use; what is written would be lost")),
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            Err(format!("{shown} was removed while it was in use; what is written would be lost"))
        }
        Err(why) => Err(format!("{shown} cannot be looked at: {why}")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_or_replaced_is_named_until_it_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b, aside] = ["a", "b", "aside"].map(|name| folder.path().join(name));
        for path in [&a, &b] {
            fs::write(path, "theirs").unwrap();
        }
        let watch = FileWatch::default();
        for path in [&a, &b] {
            watch.add(path).unwrap();
        }
        watch.add(folder.path()).unwrap();
        assert!(watch.add(&aside).is_err(), "what is not there cannot be watched");
        assert_eq!((watch.check_all(), watch.lost(), watch.check(&aside)), (Ok(()), None, Ok(())));

        fs::rename(&b, &aside).unwrap();
        let removed = format!("{} was removed while it was in use; what is written would be lost", b.display());
        assert_eq!((watch.check(&a), watch.lost()), (Ok(()), None));
        assert_eq!((watch.check(&b), watch.lost()), (Err(removed.clone()), Some(removed.clone())));
        fs::copy(&aside, &b).unwrap();
        assert_eq!(watch.check_all(), Err(removed.replace("removed", "replaced")));
        fs::rename(&aside, &b).unwrap();
        assert_eq!((watch.check_all(), watch.lost()), (Ok(()), None), "it is back");
    }
}
