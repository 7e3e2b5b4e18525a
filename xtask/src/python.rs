//! The Python programs that hold the REST interface to its document, installed below the target folder.
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::steps::{Cargo, Failed, judge, missing, said};

/// What is installed, each package by its hash.
const PINNED: &str = "xtask/api/requirements.txt";
/// What the packages need of a Python.
const FIT: &str = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))";

/// An environment with the pinned packages in it.
pub(crate) struct Python {
    programs: PathBuf,
}

impl Python {
    /// The one below the target folder, installed if it is not; `None` without a fitting python3 on a developer's machine.
    ///
    /// # Errors
    /// On CI without python3, and if the packages cannot be installed.
    pub(crate) fn installed(cargo: &Cargo) -> Result<Option<Python>, Failed> {
        let venv = cargo.target()?.join("api").join("venv");
        let python = Python { programs: venv.join("bin") };
        let fits = Command::new("python3").args(["-c", FIT]).output().is_ok_and(|output| output.status.success());
        if !fits {
            let what = "python3 (3.11 or later, with venv) is missing: the REST interface is not held to /openapi.json";
            return missing(what).map(|()| None);
        }
        let pinned = cargo.root().join(PINNED);
        let wanted = fs::read_to_string(&pinned).map_err(|why| Failed::new(format!("{PINNED}: {why}")))?;
        // Packages are of one version of Python, and the environment only points to it.
        let wanted = format!("{}{wanted}", version());
        let mark = venv.join("installed.txt");
        if fs::read_to_string(&mark).ok().as_ref() == Some(&wanted) {
            return Ok(Some(python));
        }
        println!("{PINNED} is installed; this takes a while");
        let make = ["-m", "venv", "--clear"];
        judge("python3 -m venv", Command::new("python3").args(make).arg(&venv).status())?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"];
        let mut pip = python.command("python");
        pip.args(install).arg("--require-hashes").arg("-r").arg(&pinned);
        judge("pip install", pip.status())?;
        // Last: half an installation has no mark.
        fs::write(&mark, wanted).map_err(|why| Failed::new(format!("{} cannot be written: {why}", mark.display())))?;
        Ok(Some(python))
    }

    /// A program of the environment, which speaks to the loopback address without a proxy and leaves no compiled files about.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.env("NO_PROXY", "127.0.0.1").env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

fn version() -> String {
    Command::new("python3").arg("--version").output().map(|output| said(&output)).unwrap_or_default()
}
