//! What a process costs, as Linux tells it under `/proc`: CPU by user, system and thread, and memory.
//!
//! CPU is counted in ticks of 10 ms: a phase should last seconds.
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Linux shows user space 100 ticks a second, whatever the kernel counts in.
const TICK: Duration = Duration::from_millis(10);

/// CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In the program.
    pub user: Duration,
    /// In the kernel on its behalf.
    pub system: Duration,
}

impl Cpu {
    /// Both.
    #[must_use]
    pub fn total(self) -> Duration {
        self.user + self.system
    }

    fn since(self, before: Cpu) -> Cpu {
        Cpu { user: self.user.saturating_sub(before.user), system: self.system.saturating_sub(before.system) }
    }
}

/// What a process had used at some moment.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    total: Cpu,
    threads: BTreeMap<u32, (String, Cpu)>,
}

/// What it used between two moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// In all, also by threads that are gone.
    pub total: Cpu,
    /// By the names of the threads that are left, the busiest first.
    pub by_thread: Vec<(String, Cpu)>,
}

impl Usage {
    /// What the process has used by now.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of(pid: u32) -> Result<Usage> {
        let (_, total) = read_stat(&format!("/proc/{pid}/stat"))?;
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))? {
            let Ok(entry) = entry else { continue };
            let thread = entry.file_name().to_string_lossy().parse();
            // A thread may end between the listing and the look.
            let stat = read_stat(&entry.path().join("stat").to_string_lossy());
            if let (Ok(thread), Ok(stat)) = (thread, stat) {
                threads.insert(thread, stat);
            }
        }
        Ok(Usage { total, threads })
    }

    /// What it used since `before`.
    #[must_use]
    pub fn since(&self, before: &Usage) -> Spent {
        let mut names: BTreeMap<&str, Cpu> = BTreeMap::new();
        for (thread, (name, cpu)) in &self.threads {
            let earlier = before.threads.get(thread).map_or(Cpu::default(), |(_, cpu)| *cpu);
            let spent = cpu.since(earlier);
            let sum = names.entry(name).or_default();
            *sum = Cpu { user: sum.user + spent.user, system: sum.system + spent.system };
        }
        let mut by_thread: Vec<_> = names.into_iter().map(|(name, cpu)| (name.to_owned(), cpu)).collect();
        by_thread.sort_by_key(|(_, cpu)| std::cmp::Reverse(cpu.total()));
        Spent { total: self.total.since(before.total), by_thread }
    }
}

fn read_stat(file: &str) -> Result<(String, Cpu)> {
    let text = fs::read_to_string(file).with_context(|| format!("{file} cannot be read"))?;
    stat(&text).with_context(|| format!("{file} is not what Linux writes: {text}"))
}

/// Name and CPU of a process or thread, from the text of its `stat`.
fn stat(text: &str) -> Option<(String, Cpu)> {
    // Danger: a name may hold blanks and brackets; only the last bracket ends it.
    let (head, rest) = text.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut time = || Some(TICK * fields.next()?.parse::<u32>().ok()?);
    Some((name.to_owned(), Cpu { user: time()?, system: time()? }))
}

/// The memory that a process has for itself and that no file is behind, in bytes.
///
/// # Errors
/// If there is no such process.
pub fn rss_anon(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&file).with_context(|| format!("{file} cannot be read"))?;
    status_bytes(&text, "RssAnon:").with_context(|| format!("{file} has no RssAnon"))
}

/// Memory of a process that is in the machine's, in bytes, files that it has mapped included.
///
/// # Errors
/// If there is no such process.
pub fn resident(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&file).with_context(|| format!("{file} cannot be read"))?;
    status_bytes(&text, "VmRSS:").with_context(|| format!("{file} has no VmRSS"))
}

fn status_bytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The machine: how many cores, and which.
#[must_use]
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    format!("{cores} cores, {}", cpu_model(&text).unwrap_or("unknown CPU"))
}

fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "4242 (writer of (a).db) S 1 4242 4242 0 -1 4194304 2153 0 0 0 250 75 9 8 20 0 12 0 81 7 9 1844";

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_stat_is_read_whatever_the_name() {
        let (name, cpu) = stat(STAT).unwrap();
        assert_eq!((name.as_str(), cpu.user, cpu.system), ("writer of (a).db", ms(2_500), ms(750)));
        for broken in ["", "1 (a) S 1", "1 a S 1 1 1 1 1 1 1 1 1 1 1 1 1", "1 (a) S 1 1 1 0 -1 4 2 0 0 0 x 75"] {
            assert_eq!(stat(broken), None, "{broken}");
        }
    }

    #[test]
    fn threads_of_one_name_are_summed_and_the_busiest_comes_first() {
        let cpu = |user, system| Cpu { user: ms(user), system: ms(system) };
        let usage = |total, threads: &[(u32, &str, Cpu)]| Usage {
            total,
            threads: threads.iter().map(|(id, name, cpu)| (*id, ((*name).to_owned(), *cpu))).collect(),
        };
        let before =
            usage(cpu(100, 0), &[(1, "writer", cpu(10, 0)), (2, "worker", cpu(10, 0)), (9, "gone", cpu(50, 0))]);
        let after =
            usage(cpu(200, 20), &[(1, "writer", cpu(20, 10)), (2, "worker", cpu(40, 0)), (3, "worker", cpu(5, 5))]);
        let spent = after.since(&before);
        assert_eq!(spent.total, cpu(100, 20));
        assert_eq!(spent.by_thread, [("worker".to_owned(), cpu(35, 5)), ("writer".to_owned(), cpu(10, 10))]);
    }

    #[test]
    fn memory_and_model_are_read() {
        let status = "Name:\tmonolith\nVmRSS:\t  100000 kB\nRssAnon:\t   61440 kB\nRssFile:\t 1 kB\n";
        assert_eq!(status_bytes(status, "RssAnon:"), Some(60 * 1024 * 1024));
        assert_eq!(status_bytes("Name:\tkthread\n", "RssAnon:"), None);
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nmodel name\t: B\n"), Some("A CPU @ 2 GHz"));
        assert_eq!(cpu_model("processor\t: 0\n"), None);
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(!usage.threads.is_empty());
        assert!(rss_anon(std::process::id()).unwrap() > 0);
        assert!(Usage::of(u32::MAX).is_err());
    }
}
