//! How many files the process may have open, and how many clients that leaves room for.
//!
//! # Problem
//! A connection is an open file. A process that accepts clients until the files run out cannot open its own database any more,
//! and some systems allow 256.
//!
//! # Pattern
//! Resource budgeting: what the process needs for itself is set aside first; clients get what is left.
//!
//! # Here
//! [`connections`] raises the soft limit as far as the hard one allows, up to [`WANTED`]. [`OWN`] files are the process's, a few more are
//! for health checks on a full server ([`RESERVED`]), and the rest, at most [`CONNECTIONS`], is for clients.
//!
//! # Limits
//! [`OWN`] is counted, not measured: a service that opens more files must raise it.
use std::io;

use anyhow::{Context, bail};
use host::http_server::{CONNECTIONS, RESERVED};

/// What a process needs beside its clients, in open files: of the whole shop in one process at most eleven for each of its eight
/// databases (a writer and four readers with two files each, and the memory they share) and three for each of its two search
/// indices, and 60 for its lock, seals, log, signals and the connections to other services and servers.
pub const OWN: usize = 160;
/// As many as are asked of the system.
pub const WANTED: usize = 4_096;

/// With fewer clients a process is not worth starting.
const FEWEST: usize = 16;

/// How many clients may be connected at a time.
///
/// # Errors
/// If the system allows too few open files.
pub fn connections() -> anyhow::Result<usize> {
    let allowed = raised().context("the limit of open files cannot be read")?;
    let connections = for_clients(allowed)?;
    if connections < CONNECTIONS {
        tracing::warn!(allowed, connections, "few files may be open at a time (ulimit -n), so few clients are let in");
    }
    Ok(connections)
}

/// Raises the soft limit; what it is then.
fn raised() -> io::Result<usize> {
    let allowed = rlimit::increase_nofile_limit(WANTED as u64).or_else(|_| rlimit::Resource::NOFILE.get_soft())?;
    Ok(usize::try_from(allowed).unwrap_or(usize::MAX))
}

fn for_clients(allowed: usize) -> anyhow::Result<usize> {
    let left = allowed.saturating_sub(OWN + RESERVED);
    if left < FEWEST {
        let (least, needed) = (OWN + RESERVED + FEWEST, OWN + RESERVED + CONNECTIONS);
        bail!(
            "only {allowed} files may be open at a time, and at least {least} are needed: allow more before the start, as with `ulimit -n {needed}`"
        );
    }
    Ok(left.min(CONNECTIONS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_the_process_does_not_need() {
        assert_eq!(for_clients(1 << 20).unwrap(), CONNECTIONS);
        assert_eq!(for_clients(OWN + RESERVED + 64).unwrap(), 64);
        let refused = for_clients(128).unwrap_err().to_string();
        assert!(refused.starts_with("only 128 files may be open at a time, and at least 192 are needed"), "{refused}");
        assert!(refused.ends_with("`ulimit -n 976`"), "{refused}");
    }
}
