//! The order service as a process of its own.
use std::process::ExitCode;

use anyhow::anyhow;
use clap::Parser;
use order::Neighbours;
use program::process::{self, Settings};
use program::rebuild::{self, Command};
use program::servers::{self, Need, Search, Servers};
use search::projection::Meters;
use telemetry::metrics::Red;

/// Jangteo's order service: orders, and the sagas that carry them through the other services.
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

    /// The replicas of inventory, as HOST:PORT[,HOST:PORT]
    #[arg(long, env = "JANGTEO_INVENTORY", value_name = "HOSTS")]
    inventory: String,

    /// The replicas of payment
    #[arg(long, env = "JANGTEO_PAYMENT", value_name = "HOSTS")]
    payment: String,

    /// The replicas of shipping
    #[arg(long, env = "JANGTEO_SHIPPING", value_name = "HOSTS")]
    shipping: String,
}

fn main() -> ExitCode {
    let Config { command, settings, servers, search, inventory, payment, shipping } = program::settings::parse();
    if let Some(Command::Rebuild) = command {
        return rebuild::run(&servers, &search, &order::found::Found);
    }
    process::run(&settings, servers.listen, async |process, _| {
        let (messages, index) = (servers.messages(&process, Need::Later)?, search.index(&process, &servers, "order")?);
        let neighbours = Neighbours {
            inventory: servers::to(&process, "inventory", &inventory)?,
            payment: servers::to(&process, "payment", &payment)?,
            shipping: servers::to(&process, "shipping", &shipping)?,
        };
        let store = servers.store(&process, "order").await?;
        let (meters, red) = (Meters::new(&process), Red::new(&process.metrics, "grpc"));
        let served = order::start(&process, store, &messages, (index, &meters), neighbours, red)
            .map_err(|why| anyhow!("a saga is refused: {why}"))?;
        let services = [
            ("shop.order.v1.OrderService", served.orders),
            ("shop.order.v1.SagaService", served.sagas),
            ("shop.messaging.v1.DeadLetterService", served.dead_letters),
        ];
        Ok(process::services(&process, services))
    })
}
