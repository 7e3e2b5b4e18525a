//! Commands one after another, each announced and timed, up to the first that fails.
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use crate::fleet::Fleet;
use crate::infra::Infra;
use crate::packages;
use crate::servers::Server;

/// Why a chore ended early.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// What is told.
    pub(crate) sentence: String,
    /// How the process ends.
    pub(crate) code: u8,
}

impl Failed {
    /// A chore that fails of itself, and not with the code of a process.
    pub(crate) fn new(sentence: impl Into<String>) -> Failed {
        Failed { sentence: sentence.into(), code: 1 }
    }
}

/// The cargo that runs this program, and the workspace it is for.
pub(crate) struct Cargo {
    program: OsString,
    root: PathBuf,
}

impl Cargo {
    /// The one that started this program, or the first in the path.
    #[expect(clippy::disallowed_methods, reason = "cargo says in CARGO where it is")]
    pub(crate) fn of_this_run() -> Cargo {
        let program = std::env::var("CARGO").map_or_else(|_| OsString::from("cargo"), OsString::from);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        Cargo { program, root: root.canonicalize().unwrap_or(root) }
    }

    /// The root of the workspace.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where cargo puts what it builds.
    pub(crate) fn target(&self) -> Result<PathBuf, Failed> {
        let metadata = self.command(&["metadata", "--format-version", "1", "--no-deps"]).output();
        let text = metadata.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let untold = || Failed::new("cargo metadata does not tell where the target folder is");
        target_directory(&text).map(PathBuf::from).ok_or_else(untold)
    }

    /// A command that is to run at the root of the workspace.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // With a target of its own cargo would put the programs elsewhere than they are looked for.
        command.current_dir(&self.root).args(arguments).env_remove("CARGO_BUILD_TARGET");
        command
    }

    /// Announces a command, runs it and tells how long it took.
    pub(crate) fn step(&self, arguments: &[&str]) -> Result<(), Failed> {
        self.step_with(arguments, &[])
    }

    /// The same with more in its environment.
    pub(crate) fn step_with(&self, arguments: &[&str], environment: &[(&str, String)]) -> Result<(), Failed> {
        let name = format!("cargo {}", arguments.join(" "));
        println!("==> {name}");
        let mut command = self.command(arguments);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let (status, took) = timed(|| command.status());
        judge(&name, status)?;
        println!("==> {name}: {:.1} s\n", took.as_secs_f64());
        Ok(())
    }
}

/// One set of features for all of it: another one would compile everything again.
pub(crate) const BUILD: &[&str] = &["build", "--workspace", "--all-features"];
const CHECKS: [&[&str]; 3] =
    [&["fmt", "--check"], &["clippy", "--workspace", "--all-features", "--all-targets", "--", "-D", "warnings"], BUILD];
const TEST: &[&str] = &["test", "--workspace", "--all-features"];
/// What is asked of a shop over HTTP, of whatever it is made.
const HTTP: &[&str] = &["--test", "http"];

/// Everything that has to hold before a change goes in.
pub(crate) fn test(cargo: &Cargo) -> Result<(), Failed> {
    let (outcome, took) = timed(|| {
        CHECKS.iter().try_for_each(|arguments| cargo.step(arguments))?;
        with_servers(cargo)?;
        crate::proto::check(cargo)?;
        crate::api::check(cargo)?;
        crate::simulate::run(cargo, &["--seeds", crate::simulate::SEEDS_OF_TEST])?;
        crate::simulate::run(cargo, &["--without", "all"])?;
        crash(cargo)
    });
    outcome?;
    let all = "format, lints, build, tests, the shop as processes, the .proto files, the REST interface, simulation and crashes";
    println!("{all}: passed in {:.1} s", took.as_secs_f64());
    Ok(())
}

/// The tests, with real servers for those that need them, and the shop as processes of its own on these servers. They run as
/// long as the tests do, unless they ran before.
fn with_servers(cargo: &Cargo) -> Result<(), Failed> {
    let infra =
        match Infra::of(cargo, None, None, false).and_then(|infra| infra.up_if_down().map(|by_us| (infra, by_us))) {
            Ok(infra) => infra,
            Err(why) => {
                missing(&format!("no real servers: {}", why.sentence))?;
                return cargo.step(TEST);
            }
        };
    let (infra, by_us) = infra;
    if let Err(why) = packages::system(&packages::OF_TESTS) {
        missing(&format!("no servers that tests start for themselves: {}", why.sentence))?;
    }
    let tested = cargo.step_with(TEST, &infra.addresses()).and_then(|()| {
        let fleet = Fleet::of_test(cargo)?;
        if fleet.runs() {
            return Err(Failed::new("the shop's processes run already; stop them with `cargo xtask down`"));
        }
        let opened = fleet.up();
        let shop = [("JANGTEO_TEST_SHOP", fleet.open_at())];
        let asked = opened.and_then(|()| cargo.step_with(&[TEST, HTTP].concat(), &shop));
        fleet.stop().and(asked)
    });
    let stopped = if by_us { infra.down(&Server::ALL) } else { Ok(()) };
    tested.and(stopped)
}

/// The shop killed at random, for a few minutes.
fn crash(cargo: &Cargo) -> Result<(), Failed> {
    match Infra::of(cargo, None, None, true).and_then(|infra| infra.install()) {
        Ok(()) => crate::crash::run(cargo, &["--kills", crate::crash::KILLS_OF_TEST]),
        Err(why) => missing(&format!("nothing is killed, for there are no real servers: {}", why.sentence)),
    }
}

/// The part of [`test`] that needs a shop to talk to.
pub(crate) fn test_api(cargo: &Cargo) -> Result<(), Failed> {
    cargo.step(BUILD)?;
    crate::api::check(cargo)
}

/// The target folder in the JSON of `cargo metadata`. A path with a quote or a backslash in it is not found.
fn target_directory(metadata: &str) -> Option<&str> {
    let (_, rest) = metadata.split_once(r#""target_directory":""#)?;
    let (path, _) = rest.split_once('"')?;
    (!path.contains('\\')).then_some(path)
}

/// Whether a command that ended, ended well.
pub(crate) fn judge(name: &str, status: io::Result<ExitStatus>) -> Result<(), Failed> {
    let status = status.map_err(|why| Failed::new(format!("{name} cannot be run: {why}")))?;
    if status.success() {
        return Ok(());
    }
    // A process that a signal ended has no code.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Err(Failed { sentence: format!("{name} failed ({status}); nothing after it was run"), code })
}

/// What a check does that cannot be made for want of `what`: it fails on CI, and is skipped aloud on a developer's machine.
pub(crate) fn missing(what: &str) -> Result<(), Failed> {
    if on_ci() {
        return Err(Failed::new(what));
    }
    println!("!!! SKIPPED: {what}\n");
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "CI says so in the environment")]
fn on_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// All that a program said.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Waits for a process to end, and ends it when it takes too long.
///
/// # Errors
/// If it took too long.
#[expect(clippy::disallowed_methods, reason = "another process is waited for, in real time")]
pub(crate) fn within(limit: Duration, child: &mut Child) -> io::Result<ExitStatus> {
    let until = Instant::now() + limit;
    while Instant::now() < until {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("it did not end within {} s", limit.as_secs())))
}

/// Looks until something holds, for so long; whether it did.
#[expect(clippy::disallowed_methods, reason = "another process is waited for, in real time")]
pub(crate) fn until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Does something and tells how long it took.
#[expect(clippy::disallowed_methods, reason = "real time is what is told")]
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let outcome = work();
    (outcome, started.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn the_target_folder_is_found() {
        let text = r#"{"packages":[],"target_directory":"/a/b c","version":1}"#;
        assert_eq!(target_directory(text), Some("/a/b c"));
        for other in ["", r#"{"version":1}"#, r#"{"target_directory":"/a\\b"}"#] {
            assert_eq!(target_directory(other), None, "{other}");
        }
    }

    #[test]
    fn a_failure_keeps_its_exit_code() {
        let failed = judge("cargo fmt", Ok(ExitStatus::from_raw(101 << 8))).unwrap_err();
        assert_eq!(failed.code, 101);
        assert!(failed.sentence.starts_with("cargo fmt failed"), "{}", failed.sentence);
        assert_eq!(judge("cargo fmt", Ok(ExitStatus::from_raw(0))), Ok(()));
    }

    #[test]
    fn a_signal_and_a_missing_program_are_failures_too() {
        assert_eq!(judge("cargo test", Ok(ExitStatus::from_raw(9))).unwrap_err().code, 1);
        let missing = Command::new("/nowhere/cargo").status();
        assert!(judge("cargo test", missing).unwrap_err().sentence.contains("cannot be run"));
    }

    #[test]
    fn a_process_that_does_not_end_is_ended() {
        let mut endless = Command::new("sleep").arg("60").spawn().unwrap();
        let why = within(Duration::from_millis(50), &mut endless).unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::TimedOut);
        assert!(endless.try_wait().unwrap().is_some(), "it is gone");
        let mut short = Command::new("true").spawn().unwrap();
        assert!(within(Duration::from_secs(60), &mut short).unwrap().success());
    }

    #[test]
    fn programs_are_built_where_they_are_looked_for() {
        let command = Cargo::of_this_run().command(&["build"]);
        let removed = command.get_envs().find(|(name, _)| *name == "CARGO_BUILD_TARGET");
        assert_eq!(removed.map(|(_, value)| value), Some(None));
    }

    #[test]
    fn commands_run_at_the_root_of_the_workspace() {
        let root = Cargo::of_this_run().root;
        assert!(root.join("xtask").join("Cargo.toml").exists(), "{}", root.display());
    }
}
