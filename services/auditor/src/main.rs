//! The auditor as a process of its own.
use std::process::ExitCode;
use std::time::Duration;

use auditor::invariant::Terms;
use clap::Parser;
use program::process::{self, Settings};
use program::servers::{Need, Servers};
use telemetry::metrics::Red;

/// Jangteo's auditor: keeps the books of the whole shop from what its services publish.
///
/// SIGTERM or Ctrl-C ends it within 25 seconds. It ends with 0; with 1 if it could not start, 2 if its settings are wrong, 3 if
/// work under way was cut off, which goes on at the next start.
#[derive(Parser)]
#[command(version)]
struct Config {
    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    servers: Servers,

    /// How long after its order was confirmed a parcel is picked up, in milliseconds, as shipping has it
    #[arg(long, env = "JANGTEO_PICK_UP_MS", default_value_t = 5_000, value_name = "MS")]
    pick_up_ms: u64,

    /// How long a parcel is on its way, in milliseconds, as shipping has it
    #[arg(long, env = "JANGTEO_TRANSIT_MS", default_value_t = 5_000, value_name = "MS")]
    transit_ms: u64,
}

fn main() -> ExitCode {
    let Config { settings, servers, pick_up_ms, transit_ms } = program::settings::parse();
    let terms = Terms::at_the_pace_of(Duration::from_millis(pick_up_ms), Duration::from_millis(transit_ms));
    process::run(&settings, servers.listen, async |process, _| {
        let messages = servers.messages(&process, Need::Always)?;
        let store = servers.store(&process, "auditor").await?;
        let red = Red::new(&process.metrics, "grpc");
        let books = auditor::start(&process, store, &messages, terms, red);
        Ok(process::services(&process, [("shop.auditor.v1.BookService", books)]))
    })
}
