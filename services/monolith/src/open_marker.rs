//! What the lock file says while a shop is open: which files are open, by their inode.
//!
//! # Problem
//! A data folder that is copied while the shop writes to it (`cp -r`) has files of different moments: each opens, and together
//! they never were. A write-ahead log that is deleted after a crash takes the last commits with it, and nobody notices.
//!
//! # Pattern
//! A dirty flag, as file systems have it, that also says what it is about.
//!
//! # Here
//! [`write`] puts names and inodes into the lock file once all is open; a clean end empties it. Whoever opens the folder and
//! finds them compares: after a crash the files are the same ones, in a copy they are others, and [`check`] refuses it by name.
//!
//! # Limits
//! A copy that was begun before the shop was opened, or ended after it was closed, may be mixed and look clean. A copy of a
//! folder whose shop was killed is whole, and refused like the others: whoever knows that nobody wrote to it meanwhile deletes
//! its lock file.
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use store::file_watch::FileWatch;

/// How the names end of the files that belong together; those of write-ahead logs last.
const KINDS: [&str; 3] = [".lock", ".db", ".db-wal"];

#[derive(Serialize, Deserialize)]
struct Marker {
    /// Names in the folder, and their inodes.
    open: BTreeMap<String, u64>,
}

/// Whether the files of the folder are those that were open when the lock file was written.
///
/// # Errors
/// A sentence that names the first that is not.
pub(crate) fn check(folder: &Path, mut lock: &File) -> anyhow::Result<()> {
    let shown = folder.display();
    let mut text = String::new();
    lock.rewind()
        .and_then(|()| lock.read_to_string(&mut text))
        .with_context(|| format!("{shown}: its lock file cannot be read"))?;
    if text.is_empty() {
        return Ok(());
    }
    let marker: Marker = serde_json::from_str(&text).with_context(|| {
        format!("{shown}: its lock file is damaged; if the shop on it was closed or killed, delete jangteo.lock")
    })?;
    for (name, inode) in marker.open {
        let file = folder.join(&name);
        let file = file.display();
        match fs::metadata(folder.join(&name)) {
            Ok(metadata) if metadata.ino() == inode => {}
            Ok(_) => bail!(
                "{file} is not the file that the shop had open: {shown} was copied while the shop was open, and such files do \
                 not fit each other. Restore a copy that `backup` made, or go on with the original folder. If nobody wrote to it \
                 while it was copied, for the shop had been killed, delete jangteo.lock in the copy"
            ),
            Err(why) if why.kind() == io::ErrorKind::NotFound => bail!(
                "{file} is missing: the shop was killed or copied with it, and the last commits are in it. Put it back, or \
                 restore a copy that `backup` made"
            ),
            Err(why) => return Err(why).with_context(|| format!("{file} cannot be looked at")),
        }
    }
    Ok(())
}

/// Says which files are open. `closing`: without the write-ahead logs, which are about to be removed.
pub(crate) fn write(folder: &Path, mut lock: &File, watch: &FileWatch, closing: bool) -> io::Result<()> {
    let kinds = if closing { &KINDS[..2] } else { &KINDS[..] };
    let open = watch.files().into_iter().filter_map(|(path, identity)| {
        let name = path.strip_prefix(folder).ok()?.to_str()?.to_owned();
        kinds.iter().any(|kind| name.ends_with(kind)).then_some((name, identity.inode))
    });
    let open = open.collect();
    let text = serde_json::to_vec(&Marker { open })?;
    lock.rewind()?;
    lock.set_len(0)?;
    lock.write_all(&text)?;
    lock.sync_data()
}

/// Says that nothing is open.
pub(crate) fn clear(lock: &File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.sync_data()
}
