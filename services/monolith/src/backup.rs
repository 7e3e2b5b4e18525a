//! Copies a data folder, also of a shop that is open.
//!
//! # Problem
//! `cp -r` of an open folder is no backup: its files are of different moments.
//!
//! # Pattern
//! A consistent cut over all files ([`store::sqlite_backup`]), put together beside its place and renamed once it is whole.
//!
//! # Here
//! The files of all services and of the bus are pinned at one moment; what each has told the others by then is in the copy, and
//! what was under way goes on there as it does after a kill. The seals are copied as far as they went at that moment. The search
//! indices are left out: they are made again.
//!
//! # Limits
//! A copy takes as long as the disk takes to read and write all of it.
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use clock::{Clock, SystemClock};
use store::seal;
use store::sqlite_backup::pin_together;

use crate::folder::{self, Closing, Folder};

/// Copies the folder `data` to `to`, which must not exist. If no shop is open on it, none can be opened meanwhile.
///
/// # Errors
/// A sentence that names what cannot be copied. `to` does not exist then.
pub fn backup(data: &Path, to: &Path) -> anyhow::Result<()> {
    if to.exists() {
        bail!("{} exists already; a backup is made where there is nothing", to.display());
    }
    // Danger: before the folder is taken and its stores are opened, which makes what is missing of both.
    if folder::listed(data)?.is_empty() {
        bail!("no shop was opened on the data folder {} yet", data.display());
    }
    let new = unfinished(to)?;
    let folder = Folder::take_if_free(data)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // Of a shop that was killed, the files are looked at first, as at a start. Danger: they stay open for as long as they are
    // copied, for the header of a file is read through a handle of its own.
    let stores = folder.as_ref().map(|folder| folder.stores(&clock)).transpose()?;
    let closing = stores.as_ref().and(folder.as_ref()).map(Closing);
    // Again: an earlier version may have had fewer files.
    let names = folder::listed(data)?;
    remove_unfinished(&new)?;
    fs::create_dir_all(&new).with_context(|| cannot(&new))?;
    let copied = copy(data, &names, &new).and_then(|()| fs::rename(&new, to).with_context(|| cannot(to)));
    copied.inspect_err(|_| drop(fs::remove_dir_all(&new)))?;
    let around = to.parent().filter(|around| !around.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(around).and_then(|around| around.sync_all()).with_context(|| cannot(to))?;
    // Whatever ends it earlier drops them in the same order.
    drop(closing);
    drop(stores);
    Ok(())
}

fn copy(data: &Path, names: &[String], new: &Path) -> anyhow::Result<()> {
    let files: Vec<PathBuf> = names.iter().map(|name| data.join(format!("{name}.db"))).collect();
    let mut seals = vec![];
    let sources = pin_together(&files, || {
        for name in names {
            let file = folder::seals(data, name);
            match fs::metadata(&file) {
                Ok(metadata) => seals.push((file, seal::whole_bytes(metadata.len()))),
                Err(why) if why.kind() == io::ErrorKind::NotFound => {}
                Err(why) => return Err(format!("{} cannot be looked at: {why}", file.display())),
            }
        }
        Ok(())
    });
    for (source, name) in sources.map_err(|why| anyhow!(why))?.into_iter().zip(names) {
        source.copy(&new.join(format!("{name}.db"))).map_err(|why| anyhow!(why))?;
    }
    for (file, bytes) in seals {
        let name = file.file_name().unwrap_or_default();
        copy_beginning(&file, bytes, &new.join(name)).with_context(|| cannot(&file))?;
    }
    folder::write_manifest(new, names)
}

/// Copies so many bytes.
fn copy_beginning(from: &Path, bytes: u64, to: &Path) -> io::Result<()> {
    let mut copy = File::create_new(to)?;
    io::copy(&mut File::open(from)?.take(bytes), &mut copy)?;
    copy.sync_all()
}

/// Where a copy is put together, beside its place: nobody takes half of one for a whole.
fn unfinished(to: &Path) -> anyhow::Result<PathBuf> {
    let Some(name) = to.file_name() else {
        bail!("{} does not end with a name; say how the copy is to be named", to.display());
    };
    let mut name = name.to_owned();
    name.push(".unfinished");
    Ok(to.with_file_name(name))
}

/// Removes what a backup left that was killed. A folder that holds anything else is somebody's, and stays.
fn remove_unfinished(new: &Path) -> anyhow::Result<()> {
    let entries = match fs::read_dir(new) {
        Ok(entries) => entries,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(why).with_context(|| cannot(new)),
    };
    for entry in entries {
        let name = entry.with_context(|| cannot(new))?.file_name();
        if !name.to_str().is_some_and(folder::is_of_a_copy) {
            bail!(
                "{} is in the way, and no backup left it (it holds {}); move it, or choose another name",
                new.display(),
                name.to_string_lossy()
            );
        }
    }
    fs::remove_dir_all(new).with_context(|| cannot(new))
}

fn cannot(path: &Path) -> String {
    format!("{} cannot be copied", path.display())
}
