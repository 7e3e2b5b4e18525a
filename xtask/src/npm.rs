//! Programs that npm installs below the target folder, pinned by a lock file.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::steps::{Failed, judge, missing};

/// The folder of the programs that `pinned` describes, installed into `folder` unless they are; `None` without npm on a
/// developer's machine, which is told what is `unchecked` then.
///
/// # Errors
/// On CI without npm, and if they cannot be installed.
pub(crate) fn installed(pinned: &Path, folder: &Path, unchecked: &str) -> Result<Option<PathBuf>, Failed> {
    let (programs, lock) = (folder.join("node_modules/.bin"), "package-lock.json");
    let same = || {
        fs::read(pinned.join(lock)).ok().is_some_and(|lock_file| fs::read(folder.join(lock)).ok() == Some(lock_file))
    };
    if programs.exists() && same() {
        return Ok(Some(programs));
    }
    if Command::new("npm").arg("--version").output().is_err() {
        return missing(&format!("npm is missing: {unchecked}")).map(|()| None);
    }
    let copied = fs::create_dir_all(folder).and_then(|()| {
        ["package.json", lock, ".npmrc"]
            .iter()
            .try_for_each(|name| fs::copy(pinned.join(name), folder.join(name)).map(drop))
    });
    copied.map_err(|why| Failed::new(format!("{} cannot be written: {why}", folder.display())))?;
    let install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    let outcome = judge("npm ci", Command::new("npm").current_dir(folder).args(install).status());
    if outcome.is_err() {
        // Half an installation would be taken for a whole one.
        let _ = fs::remove_file(folder.join(lock));
    }
    outcome.map(|()| Some(programs))
}
