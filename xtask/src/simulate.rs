//! Builds the simulation as fast code, and runs it in one process per core.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::steps::{Cargo, Failed, judge, within};

/// How many seeds are run unless it is said.
const SEEDS: &str = "1000";
/// How many are run in `cargo xtask test`.
pub(crate) const SEEDS_OF_TEST: &str = "200";
/// A campaign that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Runs a campaign, one seed, or the table of missing guarantees.
pub(crate) fn run(cargo: &Cargo, arguments: &[&str]) -> Result<(), Failed> {
    let program = build(cargo)?;
    if arguments.contains(&"--trace") {
        return judge("simulation", Command::new(&program).args(arguments).status());
    }
    if arguments.contains(&"--without") {
        return side_by_side(arguments, |process, of| {
            let mut command = Command::new(&program);
            command.args(arguments).args(["--from", &process.to_string(), "--step", &of.to_string()]);
            command
        });
    }
    let value = |name: &str, otherwise: &'static str| -> String {
        let at = arguments.iter().position(|argument| *argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(otherwise, |value| value).to_owned()
    };
    let (from, seeds) = (number(&value("--from", "1"))?, number(&value("--seeds", SEEDS))?);
    let folder = cargo.target()?.join("simulation-records");
    let resumes = arguments.contains(&"--resume");
    let records = records(&folder, from, resumes)?;
    side_by_side(arguments, |process, of| {
        let mut command = Command::new(&program);
        let (from, seeds) = (from + process - 1, (seeds + 1).saturating_sub(process));
        command.args(["--from", &from.to_string(), "--seeds", &seeds.to_string(), "--step", &of.to_string()]);
        command.arg("--record").arg(&records[usize::try_from(process - 1).unwrap_or(0)]);
        command
    })?;
    judge("simulation", Command::new(&program).arg("--sum").args(&records).status())
}

fn number(text: &str) -> Result<u64, Failed> {
    text.parse().map_err(|_| Failed::new(format!("{text} is no number of seeds")))
}

fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64)
}

/// Where each process keeps what it found. Without `resumes` it begins anew.
fn records(folder: &Path, from: u64, resumes: bool) -> Result<Vec<PathBuf>, Failed> {
    let failed = |why: std::io::Error| Failed::new(format!("{} cannot be written: {why}", folder.display()));
    fs::create_dir_all(folder).map_err(failed)?;
    let of = cores();
    let files: Vec<_> = (1..=of).map(|process| folder.join(format!("{from}-{process}-of-{of}.json"))).collect();
    for file in files.iter().filter(|file| !resumes && file.exists()) {
        fs::remove_file(file).map_err(failed)?;
    }
    Ok(files)
}

/// One process per core; when one fails, the others are ended.
fn side_by_side(arguments: &[&str], command: impl Fn(u64, u64) -> Command) -> Result<(), Failed> {
    // A table of one row is one process's.
    let of = if arguments.contains(&"--without") && !arguments.contains(&"all") { 1 } else { cores() };
    let start = |process| command(process, of).stdin(Stdio::null()).spawn();
    let mut running: Vec<Child> = (1..=of)
        .map(start)
        .collect::<Result<_, _>>()
        .map_err(|why| Failed::new(format!("the simulation cannot be started: {why}")))?;
    let mut outcome = Ok(());
    while let Some(mut child) = running.pop() {
        if outcome.is_err() {
            // It may have ended by itself.
            let _ = child.kill();
        }
        let ended = judge("simulation", within(LONGEST, &mut child));
        outcome = outcome.and(ended);
    }
    outcome
}

/// The program, built.
fn build(cargo: &Cargo) -> Result<PathBuf, Failed> {
    test_program(cargo, "simulation", &["--profile", "quick", "--package", "monolith"])
}

/// A test target that is a program of its own, built as the arguments say.
///
/// # Errors
/// If it cannot be built.
pub(crate) fn test_program(cargo: &Cargo, name: &str, built: &[&str]) -> Result<PathBuf, Failed> {
    let arguments = [&["test", "--test", name, "--no-run"], built].concat();
    cargo.step(&arguments)?;
    let output = cargo.command(&arguments).args(["--message-format", "json"]).output();
    let output = output.map_err(|why| Failed::new(format!("cargo cannot be run: {why}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let untold = || Failed::new(format!("cargo does not tell where the test {name} is"));
    executable(&text, name).map(PathBuf::from).ok_or_else(untold)
}

/// The program in what cargo says as JSON, one object a line. A path with a quote or a backslash in it is not found.
fn executable<'a>(messages: &'a str, name: &str) -> Option<&'a str> {
    let named = format!(r#""name":"{name}""#);
    let of_test = |line: &&str| line.contains(r#""kind":["test"]"#) && line.contains(&named);
    let (_, rest) = messages.lines().filter(of_test).find_map(|line| line.split_once(r#""executable":""#))?;
    let (path, _) = rest.split_once('"')?;
    (!path.contains('\\')).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found() {
        let text = r#"{"target":{"kind":["bin"],"name":"monolith"},"executable":"/t/monolith"}
            {"target":{"kind":["test"],"name":"simulation"},"executable":"/t/simulation-1"}"#;
        assert_eq!(executable(text, "simulation"), Some("/t/simulation-1"));
        assert_eq!(executable(r#"{"executable":null}"#, "simulation"), None);
    }

    #[test]
    fn a_campaign_begins_anew_unless_it_is_resumed() {
        let folder = std::env::temp_dir().join(format!("xtask-records-{}", std::process::id()));
        let files = records(&folder, 1, false).unwrap();
        fs::write(&files[0], "{}").unwrap();
        assert!(records(&folder, 1, true).unwrap()[0].exists());
        assert!(!records(&folder, 1, false).unwrap()[0].exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
