//! `cargo xtask mutants`: breaks the program on purpose, one thing at a time, and sees whether a test notices.
//!
//! # Problem
//! A test that is green says nothing of what it would notice. An index of patterns with their tests is a claim.
//!
//! # Pattern
//! Mutation testing, by hand-picked mutations: each is a plausible fault, and a survivor is a missing test.
//!
//! # Here
//! [`mutations`] lists them. Each is made in a copy of the repository below the target folder, which keeps what was built for
//! the next one. First the copy is tested as it is; then each mutation has to compile, and its test has to fail.
//!
//! # Limits
//! Minutes, and gigabytes below the target folder. One mutation at a time; what is not in the list is not tried.
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::infra::Infra;
use crate::mutations::{self, Mutation};
use crate::servers::Server;
use crate::steps::{Cargo, Failed, timed, within};

/// What of the root is not copied.
const LEFT_OUT: [&str; 3] = ["target", ".git", "data"];
/// Packages whose tests need real servers, and the feature that brings them.
const ON_SERVERS: [&str; 3] = ["store", "messaging", "search"];
/// How long the tests of one mutation may take: one that hangs is noticed, but by nobody who says so.
const PATIENCE: Duration = Duration::from_secs(240);

/// What became of a mutation.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Caught(String),
    Survived,
    NotCompiled,
    Hung,
}

/// Makes every mutation whose name has `word` in it, and prints which test caught it.
pub(crate) fn run(cargo: &Cargo, word: &str) -> Result<(), Failed> {
    let chosen: Vec<_> = mutations::all().filter(|mutation| mutation.name.contains(word)).collect();
    if chosen.is_empty() {
        return Err(Failed::new(format!("no mutation has `{word}` in its name")));
    }
    let folder = cargo.target()?.join("mutants");
    let infra = Infra::of(cargo, None, None, false)?;
    let on_servers = chosen.iter().any(|mutation| ON_SERVERS.contains(&mutation.package));
    let by_us = on_servers && infra.up_if_down()?;
    let (tree, built, log) = (folder.join("tree"), folder.join("target"), folder.join("log"));
    let servers = infra.addresses().into();
    let outcome = all(&chosen, &Copy { cargo, tree, built, log, servers });
    let down = if by_us { infra.down(&Server::ALL) } else { Ok(()) };
    outcome.and(down)
}

fn all(chosen: &[&Mutation], copy: &Copy<'_>) -> Result<(), Failed> {
    copy.freshen().map_err(|why| Failed::new(format!("{} cannot be written: {why}", copy.tree.display())))?;
    copy.is_sound(chosen)?;
    let mut bad = 0;
    for mutation in chosen {
        let (fate, took) = timed(|| copy.fate(mutation));
        let told = match fate? {
            Fate::Caught(test) => test,
            Fate::Survived => "!!! SURVIVED".to_owned(),
            Fate::NotCompiled => "!!! does not compile".to_owned(),
            Fate::Hung => format!("!!! its tests came to no end within {} s", PATIENCE.as_secs()),
        };
        bad += usize::from(told.starts_with("!!!"));
        println!("{:45} {told} ({:.0} s)", mutation.name, took.as_secs_f64());
    }
    if bad > 0 {
        return Err(Failed::new(format!("{bad} of {} mutations were not caught", chosen.len())));
    }
    println!("all {} mutations were caught", chosen.len());
    Ok(())
}

/// A copy of the repository that may be broken.
struct Copy<'a> {
    cargo: &'a Cargo,
    tree: PathBuf,
    built: PathBuf,
    log: PathBuf,
    /// Where tests find real servers.
    servers: Vec<(&'static str, String)>,
}

impl Copy<'_> {
    /// Makes the copy what the repository is. What is the same stays untouched, so that little is built anew.
    fn freshen(&self) -> io::Result<()> {
        fs::create_dir_all(&self.tree)?;
        mirror(self.cargo.root(), &self.tree, &LEFT_OUT)
    }

    /// Nothing can be said of a mutation whose test fails without it.
    fn is_sound(&self, chosen: &[&Mutation]) -> Result<(), Failed> {
        let mut filters: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for mutation in chosen {
            filters.entry((mutation.package, mutation.tests)).or_default().push(filter(mutation));
        }
        for ((package, tests), filters) in filters {
            println!("==> {package}, unbroken");
            let (built, passed) = self.test(package, tests, &filters)?;
            if !(built && passed == Some(true)) {
                let why = format!("the tests of {package} fail as it is; see {}", self.log.display());
                return Err(Failed::new(why));
            }
        }
        Ok(())
    }

    /// Breaks one thing, sees what the tests say, and mends it.
    fn fate(&self, mutation: &Mutation) -> Result<Fate, Failed> {
        let file = self.tree.join(mutation.file);
        let failed = |why: io::Error| Failed::new(format!("{}: {why}", file.display()));
        let text = fs::read_to_string(&file).map_err(failed)?;
        if text.matches(mutation.find).count() != 1 {
            let why = format!("{} has not exactly once what {} replaces", mutation.file, mutation.name);
            return Err(Failed::new(why));
        }
        fs::write(&file, text.replace(mutation.find, mutation.put)).map_err(failed)?;
        let said = self.test(mutation.package, mutation.tests, &[filter(mutation)]);
        // Danger: written anew, so that its time is later than what was built of the mutation.
        fs::write(&file, text).map_err(failed)?;
        let (built, passed) = said?;
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        Ok(fate(built, passed, &log))
    }

    /// Builds and runs tests, whose words go to the log. Whether they were built, and whether they passed; `None` if they
    /// came to no end.
    fn test(&self, package: &str, tests: Option<&str>, filters: &[&str]) -> Result<(bool, Option<bool>), Failed> {
        let mut arguments = vec!["test", "--no-run", "--package", package];
        arguments.extend(tests.map_or(vec!["--lib"], |tests| vec!["--test", tests]));
        if ON_SERVERS.contains(&package) {
            arguments.extend(["--features", "infra"]);
        }
        let cannot = |why: io::Error| Failed::new(format!("the tests of {package} cannot be run: {why}"));
        let mut build = self.cargo.command(&arguments);
        build.env("CARGO_TARGET_DIR", &self.built);
        if !self.logged(&mut build, &self.tree)?.status().map_err(cannot)?.success() {
            return Ok((false, None));
        }
        let told = fs::read_to_string(&self.log).map_err(cannot)?;
        let program = executable(&told).ok_or_else(|| Failed::new("cargo does not tell where it put the tests"))?;
        // Not by cargo: what comes to no end is ended, and that would end cargo only.
        let mut command = Command::new(program);
        command.envs(self.servers.iter().map(|(name, value)| (name, value)));
        let folders = ["libs", "services"].map(|folder| self.tree.join(folder).join(package));
        let folder = folders.iter().find(|folder| folder.exists()).unwrap_or(&self.tree);
        let mut running = self.logged(command.args(filters), folder)?.spawn().map_err(cannot)?;
        match within(PATIENCE, &mut running) {
            Ok(status) => Ok((true, Some(status.success()))),
            Err(why) if why.kind() == io::ErrorKind::TimedOut => Ok((true, None)),
            Err(why) => Err(cannot(why)),
        }
    }

    /// The command in a folder of the copy, all of whose words go to the log.
    fn logged<'a>(&self, command: &'a mut Command, folder: &Path) -> Result<&'a mut Command, Failed> {
        let cannot = |why: io::Error| Failed::new(format!("{} cannot be written: {why}", self.log.display()));
        let log = File::create(&self.log).map_err(cannot)?;
        command.current_dir(folder).stdin(Stdio::null()).stdout(log.try_clone().map_err(cannot)?).stderr(log);
        Ok(command)
    }
}

/// The program in what cargo says of a build: `Executable tests/it/main.rs (/…/it-0123)`.
fn executable(told: &str) -> Option<&str> {
    let line = told.lines().find(|line| line.trim_start().starts_with("Executable "))?;
    line.split_once('(')?.1.strip_suffix(')')
}

/// What the test is called where it runs: `tests/<name>` leaves its own name out.
fn filter(mutation: &Mutation) -> &str {
    let own = mutation.tests.and_then(|tests| mutation.caught_by.strip_prefix(tests));
    own.and_then(|rest| rest.strip_prefix("::")).unwrap_or(mutation.caught_by)
}

fn fate(built: bool, passed: Option<bool>, log: &str) -> Fate {
    let failed = log.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    match (built, passed, failed) {
        (false, ..) => Fate::NotCompiled,
        (true, None, _) => Fate::Hung,
        (true, Some(false), Some(test)) => Fate::Caught(test.to_owned()),
        _ => Fate::Survived,
    }
}

/// Makes `to` what `from` is, without what is left out of it, and without itself. Files that are the same are not touched.
fn mirror(from: &Path, to: &Path, left_out: &[&str]) -> io::Result<()> {
    let mut wanted = BTreeMap::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        if !left_out.iter().any(|out| name == *out) && !to.starts_with(&path) {
            wanted.insert(name, path);
        }
    }
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if wanted.contains_key(&entry.file_name()) {
            continue;
        }
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    for (name, path) in wanted {
        let there = to.join(name);
        if path.is_dir() {
            fs::create_dir_all(&there)?;
            mirror(&path, &there, &[])?;
            continue;
        }
        let bytes = fs::read(&path)?;
        if fs::read(&there).ok().as_ref() != Some(&bytes) {
            fs::write(&there, bytes)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_test_that_fails_has_caught_a_mutation() {
        let log = "running 2 tests\ntest a::b ... ok\ntest a::c ... FAILED\n";
        assert_eq!(fate(true, Some(false), log), Fate::Caught("a::c".into()));
        assert_eq!(fate(true, Some(true), "running 0 tests\n"), Fate::Survived);
        assert_eq!(fate(true, Some(false), "error: no such target\n"), Fate::Survived);
        assert_eq!(fate(true, None, log), Fate::Hung);
        assert_eq!(fate(false, Some(false), log), Fate::NotCompiled);
    }

    #[test]
    fn the_program_is_found_in_what_cargo_says() {
        let told = "   Compiling a\n    Finished x\n  Executable unittests src/lib.rs (/t/deps/a-01)\n";
        assert_eq!(executable(told), Some("/t/deps/a-01"));
        assert_eq!(executable("    Finished x\n"), None);
    }

    #[test]
    fn a_mirror_is_the_same_without_what_is_left_out() {
        let folder = std::env::temp_dir().join(format!("xtask-mirror-{}", std::process::id()));
        let (from, to) = (folder.join("from"), folder.join("to"));
        for path in ["from/target", "from/a", "to/a", "to/b"] {
            fs::create_dir_all(folder.join(path)).unwrap();
        }
        for (path, text) in [("from/target/x", ""), ("from/a/same", "1"), ("from/a/new", "2"), ("to/a/same", "1")] {
            fs::write(folder.join(path), text).unwrap();
        }
        fs::write(to.join("b/old"), "3").unwrap();
        let before = fs::metadata(to.join("a/same")).unwrap().modified().unwrap();
        mirror(&from, &to, &["target"]).unwrap();
        assert_eq!(fs::metadata(to.join("a/same")).unwrap().modified().unwrap(), before);
        assert_eq!(fs::read_to_string(to.join("a/new")).unwrap(), "2");
        assert!(!to.join("b").exists() && !to.join("target").exists());
        let inside = from.join("target");
        mirror(&folder, &inside, &[]).unwrap();
        assert!(inside.join("to/a/new").exists() && !inside.join("from").exists(), "it is not copied into itself");
        fs::remove_dir_all(&folder).unwrap();
    }
}
