//! Structured log lines: for people in a terminal, or JSON for machines.
use std::io::{BufWriter, IsTerminal};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// Starts logging to standard error, and keeps it going until the guard is dropped, which writes what is still buffered.
///
/// Lines go through a bounded buffer and a thread of their own: a slow terminal drops lines rather than stop the shop.
///
/// # Errors
/// A sentence, if `filter` is malformed or logging was started before.
pub fn init(filter: &str, format: Format) -> Result<WorkerGuard, String> {
    let filter = EnvFilter::try_new(filter).map_err(|why| format!("the log filter {filter:?} is malformed: {why}"))?;
    // Lines that wait are written together: otherwise each is a call of the system, a dozen for an order.
    let together = BufWriter::new(std::io::stderr());
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(8_192).finish(together);
    let lines = fmt().with_env_filter(filter).with_writer(writer).with_ansi(std::io::stderr().is_terminal());
    match format {
        Format::Text => lines.compact().try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(|why| format!("logging cannot be started: {why}"))?;
    Ok(guard)
}
