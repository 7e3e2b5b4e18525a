//! Builds what a measurement needs in release form, and runs it.
use std::fs::{self, File};
use std::path::Path;

use crate::fleet::Fleet;
use crate::infra::Infra;
use crate::servers::Server;
use crate::steps::{Cargo, Failed, judge};

/// What can be measured.
pub(crate) const KINDS: [&str; 9] =
    ["saga", "checkout", "fulfilment", "facts", "flat", "appends", "relay", "processes", "hostile"];
/// What is measured in the measuring program itself.
const INSIDE: [&str; 4] = ["saga", "facts", "appends", "relay"];
/// What needs the clients of real servers.
const INFRA: [&str; 2] = ["appends", "relay"];
/// The ports of the servers under a measurement, a set of their own.
const PORTS: u16 = 27_400;
const LAST_LINES: usize = 10;

/// Measures one of [`KINDS`], with arguments that go on as they are.
pub(crate) fn run(cargo: &Cargo, kind: &str, arguments: &[&str]) -> Result<(), Failed> {
    if kind == "processes" {
        return processes(cargo, arguments);
    }
    // Everything else is asked of a server.
    let server: &[&str] = if INSIDE.contains(&kind) { &[] } else { &["--package", "monolith"] };
    let infra: &[&str] = if INFRA.contains(&kind) { &["--features", "load-tests/infra"] } else { &[] };
    cargo.step(&[&["build", "--release", "--package", "load-tests"], server, infra].concat())?;

    let target = cargo.target()?;
    let program = target.join("release").join("load-tests");
    let mut command = std::process::Command::new(&program);
    command.arg(kind).args(arguments);
    let name = format!("{} {kind}", program.display());
    if kind != "saga" {
        return judge(&name, command.status());
    }
    // Its standard error is the engine's log, which is measured with it.
    let log = target.join("bench-saga.log");
    let file = File::create(&log).map_err(|why| Failed { sentence: format!("{}: {why}", log.display()), code: 1 })?;
    println!("its log lines go to {}\n", log.display());
    judge(&name, command.stderr(file).status()).map_err(|failed| with_last_lines(&failed, &log))
}

/// The shop as processes, on servers that have nothing else to do and nothing in them at first.
fn processes(cargo: &Cargo, arguments: &[&str]) -> Result<(), Failed> {
    let home = Infra::folder(cargo)?.join("bench");
    let infra = || Infra::of(cargo, Some(&home), Some(PORTS), true);
    infra()?.reset()?;
    let infra = infra()?;
    infra.up(&Server::ALL)?;
    let fleet = Fleet::read(cargo, &["--quick", "--pace-ms", "0"])?.apart(infra, &home, None)?;
    fleet.build(cargo)?;
    let measured = fleet.up().and_then(|()| {
        let program = cargo.target()?.join("quick").join("load-tests");
        let mut command = std::process::Command::new(&program);
        command.args(["processes", "--url", &format!("http://{}", fleet.open_at())]);
        for (service, replica) in fleet.all() {
            let id = fleet.process(service, replica).id().unwrap_or_default();
            command.args(["--process", &format!("{service}={id}")]);
        }
        judge("load-tests processes", command.args(arguments).status())
    });
    let settings = "SELECT name || ' = ' || setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit')";
    println!("\nPostgres:");
    let shown = judge("psql", fleet.infra().psql("order").args(["-Atqc", settings]).status());
    let stopped = fleet.stop();
    let down = fleet.infra().down(&Server::ALL);
    measured.and(shown).and(stopped).and(down)
}

fn with_last_lines(failed: &Failed, log: &Path) -> Failed {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
    Failed { sentence: format!("{}; the last lines of its log:\n{last}", failed.sentence), code: failed.code }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_what_was_said_last() {
        let file = std::env::temp_dir().join(format!("xtask-{}", std::process::id()));
        fs::write(&file, (1..=50).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        let failed = with_last_lines(&Failed { sentence: "it failed".to_owned(), code: 3 }, &file);
        fs::remove_file(&file).unwrap();
        assert_eq!(failed.code, 3);
        assert!(failed.sentence.contains("line 50") && !failed.sentence.contains("line 40\n"), "{}", failed.sentence);
    }
}
