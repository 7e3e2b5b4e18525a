//! The inventory service as a process of its own.
use std::process::ExitCode;

use clap::Parser;
use inventory::catalogue;
use program::process::{self, Settings};
use program::servers::{Cached, Search, Servers};
use search::projection::Meters;
use telemetry::metrics::Red;

/// Jangteo's inventory service: catalogue, prices and stock.
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

    #[command(flatten)]
    search: Search,

    #[command(flatten)]
    cached: Cached,
}

fn main() -> ExitCode {
    let Config { settings, servers, search, cached } = Config::parse();
    process::run(&settings, servers.listen, async |process, _| {
        let (messages, index) = (servers.messages(&process)?, search.index(&servers, "product")?);
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
