//! Processes that outlive this program: started with a file that says which they are, found again by it, and stopped.
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::steps::{Failed, until};

/// How long a process is given to end before it is killed.
const ENDING: Duration = Duration::from_secs(30);

/// How long one that was killed may take to be gone, with all that it started.
const GOING: Duration = Duration::from_secs(30);

/// A process by its name in a folder, running or not.
pub(crate) struct Process {
    name: String,
    /// Holds its id and when it was started, which no later process of the same id shares.
    file: PathBuf,
    /// Where its output goes.
    pub(crate) log: PathBuf,
}

impl Process {
    /// The process of this name in a folder, which must exist.
    pub(crate) fn new(folder: &Path, name: &str) -> Process {
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        Process { name: name.to_owned(), file: file("pid"), log: file("log") }
    }

    /// Its id, if it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        let text = fs::read_to_string(&self.file).ok()?;
        let (id, started) = text.split_once(' ')?;
        let id = id.parse().ok()?;
        (born(id)? == started).then_some(id)
    }

    /// Starts it in a group of its own, so that a Ctrl-C meant for this program does not reach it.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub(crate) fn start(&self, command: &mut Command) -> Result<(), Failed> {
        let mut started = || -> io::Result<u32> {
            let log = File::options().create(true).append(true).open(&self.log)?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
            let mut child = command.spawn()?;
            let id = child.id();
            // Otherwise its id would be taken for a process's after its end, by Postgres for one.
            std::thread::spawn(move || child.wait());
            Ok(id)
        };
        // One that was killed a moment ago may not be gone yet: a server refuses to start beside it.
        let before = fs::read_to_string(&self.file).ok().and_then(|text| text.split_once(' ')?.0.parse::<u32>().ok());
        if let Some(before) = before {
            until(GOING, || !matches!(state_and_birth(before), Some((state, _)) if is_over(&state)));
        }
        let id = started().map_err(|why| Failed::new(format!("{} cannot be started: {why}", self.name)))?;
        self.adopt(id)
    }

    /// Writes down that this is the process, which somebody else started.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn adopt(&self, id: u32) -> Result<(), Failed> {
        let born = born(id).unwrap_or_default();
        let broken = |why| Failed::new(format!("{} cannot be written: {why}", self.file.display()));
        fs::write(&self.file, format!("{id} {born}")).map_err(broken)
    }

    /// Asks it to end by a signal, such as `TERM`; kills it if it does not. It may have ended already.
    ///
    /// # Errors
    /// If it cannot even be killed.
    pub(crate) fn stop(&self, signal: &str) -> Result<(), Failed> {
        let Some(id) = self.id() else { return Ok(()) };
        self.signal(signal);
        if !until(ENDING, || self.id().is_none()) {
            println!("{} does not end; it is killed", self.name);
            if !self.kill() {
                return Err(Failed::new(format!("{} (process {id}) cannot be ended", self.name)));
            }
        }
        // Nothing depends on it: the id in it is nobody's.
        let _ = fs::remove_file(&self.file);
        Ok(())
    }

    /// Kills it, and waits until it is gone: until then it would be taken for running. Whether it is gone.
    pub(crate) fn kill(&self) -> bool {
        self.signal("KILL");
        until(GOING, || self.id().is_none())
    }

    /// Sends it a signal, if it runs.
    pub(crate) fn signal(&self, signal: &str) {
        if let Some(id) = self.id() {
            // It may have ended in between.
            let _ = Command::new("kill").args([format!("-{signal}"), id.to_string()]).status();
        }
    }

    /// Sends a signal to it and to all that it started, which servers may have put into sessions of their own.
    pub(crate) fn signal_all(&self, signal: &str) {
        let Some(id) = self.id() else { return };
        let mut all = vec![id];
        let mut next = 0;
        while next < all.len() {
            let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", all[next])).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
            next += 1;
        }
        // Some may have ended in between.
        let _ = Command::new("kill").arg(format!("-{signal}")).args(all.iter().map(u32::to_string)).status();
    }

    /// Memory that it takes, in MiB; what it shares with others is shared out.
    pub(crate) fn memory(&self) -> Option<u64> {
        let map = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.id()?)).ok()?;
        let line = map.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib / 1024)
    }

    /// The end of its output.
    pub(crate) fn last_lines(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// Waits until no process has a folder as its working folder any more. What a server had started outlives it by some moments
/// when it is killed, and a Postgres refuses to start beside it.
pub(crate) fn await_deserted(folder: &Path) {
    until(GOING, || !is_worked_in(folder));
}

fn is_worked_in(folder: &Path) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.map(|process| process.path().join("cwd")).any(|cwd| fs::read_link(cwd).is_ok_and(|at| at == folder))
}

/// When a process was started, in ticks of the kernel since it booted; `None` if there is none, or only what is left of one.
fn born(id: u32) -> Option<String> {
    let (state, birth) = state_and_birth(id)?;
    (!is_over(&state)).then_some(birth)
}

fn state_and_birth(id: u32) -> Option<(String, String)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, which may hold anything, ends with the last parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.nth(18)?.to_owned()))
}

/// Whether only an entry in the kernel's table is left of a process in this state, until somebody has waited for it.
fn is_over(state: &str) -> bool {
    matches!(state, "Z" | "X")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str) -> Process {
        let folder = std::env::temp_dir().join(format!("xtask-processes-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Process::new(&folder, name)
    }

    #[test]
    fn a_process_is_found_again_and_stopped_once() {
        let sleeper = process("sleeper");
        assert_eq!(sleeper.id(), None);
        sleeper.start(Command::new("sleep").arg("60")).unwrap();
        let again = process("sleeper");
        assert!(again.id().is_some());
        assert!(again.memory().is_some());
        again.stop("TERM").unwrap();
        assert_eq!(sleeper.id(), None);
        again.stop("TERM").unwrap();
    }

    #[test]
    fn an_id_that_belongs_to_another_by_now_is_left_alone() {
        let other = process("other");
        fs::write(&other.file, format!("{} 1", std::process::id())).unwrap();
        assert_eq!(other.id(), None);
        other.stop("KILL").unwrap();
    }

    #[test]
    fn a_folder_is_deserted_once_the_last_process_in_it_has_ended() {
        let folder =
            std::env::temp_dir().canonicalize().unwrap().join(format!("xtask-deserted-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let worker = process("worker");
        worker.start(Command::new("sleep").arg("60").current_dir(&folder)).unwrap();
        assert!(is_worked_in(&folder));
        assert!(worker.kill());
        await_deserted(&folder);
        assert!(!is_worked_in(&folder));
    }

    #[test]
    fn what_ended_is_not_running_even_before_somebody_waited_for_it() {
        let short = process("short");
        short.start(&mut Command::new("true")).unwrap();
        assert!(until(Duration::from_secs(10), || short.id().is_none()));
    }
}
