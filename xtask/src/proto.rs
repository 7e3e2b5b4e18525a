//! Holds the .proto files to their style and to what was published: `buf`, installed below the target folder.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::npm;
use crate::steps::{Cargo, Failed, judge, said};

/// Where the pinned package is described.
const PINNED: &str = "xtask/buf";
/// What clients may have been generated from.
const PUBLISHED: &str = "proto/published.binpb";
/// A field that a check takes away, to see that it is missed: its file, its line, and what is said of it.
const TAKEN_AWAY: (&str, &str, &str) = ("shop/order/v1/order.proto", "  int64 total = 6;\n", "with name \"total\"");

/// Lints the files, compares them with what was published, and sees that a removed field would be refused.
pub(crate) fn check(cargo: &Cargo) -> Result<(), Failed> {
    println!("==> buf lint, buf breaking");
    let Some(buf) = installed(cargo)? else { return Ok(()) };
    let root = cargo.root();
    judge("buf lint proto", Command::new(&buf).current_dir(root).args(["lint", "proto"]).status())?;
    let against = ["breaking", "proto", "--against", PUBLISHED];
    judge("buf breaking proto", Command::new(&buf).current_dir(root).args(against).status())?;
    refuses_a_removed_field(&buf, root, &cargo.target()?.join("buf").join("removed"))?;
    println!("==> buf lint, buf breaking: passed; a removed field is refused\n");
    Ok(())
}

/// Makes the present files the published ones.
pub(crate) fn release(cargo: &Cargo) -> Result<(), Failed> {
    let Some(buf) = installed(cargo)? else { return Err(Failed::new("buf is needed for this")) };
    let build = ["build", "proto", "--exclude-source-info", "-o", PUBLISHED];
    judge("buf build proto", Command::new(&buf).current_dir(cargo.root()).args(build).status())
}

fn refuses_a_removed_field(buf: &Path, root: &Path, copy: &Path) -> Result<(), Failed> {
    let (file, line, complaint) = TAKEN_AWAY;
    let without = || -> io::Result<bool> {
        if copy.exists() {
            fs::remove_dir_all(copy)?;
        }
        copy_all(&root.join("proto"), copy)?;
        let text = fs::read_to_string(copy.join(file))?;
        fs::write(copy.join(file), text.replace(line, ""))?;
        Ok(text.contains(line))
    };
    let there = without().map_err(|why| Failed::new(format!("proto cannot be copied: {why}")))?;
    if !there {
        return Err(Failed::new(format!("{file} has no line {line:?} that could be taken away")));
    }
    let output = Command::new(buf).current_dir(root).arg("breaking").arg(copy).args(["--against", PUBLISHED]).output();
    let output = output.map_err(|why| Failed::new(format!("buf breaking cannot be started: {why}")))?;
    let text = said(&output);
    if output.status.success() || !text.contains(complaint) {
        return Err(Failed::new(format!("buf did not refuse a removed field; it said: {text}")));
    }
    Ok(())
}

/// The `.proto` files and `buf`'s settings; nothing else is needed.
fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let wanted = source.extension().is_some_and(|extension| extension == "proto" || extension == "yaml");
        if entry.file_type()?.is_dir() {
            copy_all(&source, &target)?;
        } else if wanted {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// The pinned `buf`, installed if it is not; `None` without npm on a developer's machine.
fn installed(cargo: &Cargo) -> Result<Option<PathBuf>, Failed> {
    let programs = npm::installed(
        &cargo.root().join(PINNED),
        &cargo.target()?.join("buf"),
        "buf is not installed, and the .proto files are not checked",
    )?;
    Ok(programs.map(|programs| programs.join("buf")))
}
