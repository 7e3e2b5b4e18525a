//! The inventory service as a process of its own.
use std::process::ExitCode;

use clap::Parser;
use inventory::catalogue;
use program::process::{self, Settings};
use program::rebuild::{self, Command};
use program::servers::{Cached, Need, Search, Servers};
use search::projection::Meters;
use telemetry::metrics::Red;

/// Jangteo's inventory service: catalogue, prices and stock.
///
/// SIGTERM or Ctrl-C ends it within 25 seconds. It ends with 0; with 1 if it could not start, 2 if its settings are wrong, 3 if
/// work under way was cut off, which goes on at the next start. `rebuild` has the same settings, and ends with 0, or with 1 if
/// the index stays as it was.
#[derive(Parser)]
#[command(version)]
struct Config {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    servers: Servers,

    #[command(flatten)]
    search: Search,

    #[command(flatten)]
    cached: Cached,
}

fn main() -> ExitCode {
    let Config { command, settings, servers, search, cached } = program::settings::parse();
    if let Some(Command::Rebuild) = command {
        return rebuild::run(&servers, &search, &inventory::found::Found);
    }
    process::run(&settings, servers.listen, async |process, _| {
        let (messages, index) =
            (servers.messages(&process, Need::Later)?, search.index(&process, &servers, "product")?);
        let cache = cached.cache(&servers, "inventory")?;
        let store = servers.store(&process, "inventory").await?;
        let (meters, red) = (Meters::new(&process), Red::new(&process.metrics, "grpc"));
        let served = inventory::start(&process, store, cache, &messages, (index, &meters), red);
        catalogue::stock_as_soon_as_possible(&process, served.inventory.clone(), &catalogue::PRODUCTS);
        let services = [
            ("shop.inventory.v1.InventoryService", served.inventory),
            ("shop.messaging.v1.DeadLetterService", served.dead_letters),
        ];
        Ok(process::services(&process, services))
    })
}
