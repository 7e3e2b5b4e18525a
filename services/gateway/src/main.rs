//! The gateway as a process of its own.
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::anyhow;
use clap::Parser;
use gateway::{Gateway, Limits};
use program::process::{self, Opened, Settings};
use program::servers;

/// Jangteo's gateway: REST in, gRPC out.
///
/// SIGTERM or Ctrl-C ends it within 25 seconds. It ends with 0; with 1 if it could not start, 2 if its settings are wrong, 3 if
/// requests under way were cut off.
#[derive(Parser)]
#[command(version)]
struct Config {
    #[command(flatten)]
    settings: Settings,

    /// Where it answers requests
    #[arg(long, env = "JANGTEO_LISTEN", default_value = "127.0.0.1:8080", value_name = "IP:PORT")]
    listen: SocketAddr,

    /// The replicas of order, as HOST:PORT[,HOST:PORT]
    #[arg(long, env = "JANGTEO_ORDER", value_name = "HOSTS")]
    order: String,

    /// The replicas of inventory
    #[arg(long, env = "JANGTEO_INVENTORY", value_name = "HOSTS")]
    inventory: String,

    /// The replicas of shipping
    #[arg(long, env = "JANGTEO_SHIPPING", value_name = "HOSTS")]
    shipping: String,

    /// The replicas of the auditor
    #[arg(long, env = "JANGTEO_AUDITOR", value_name = "HOSTS")]
    auditor: String,
}

fn main() -> ExitCode {
    let Config { settings, listen, order, inventory, shipping, auditor } = Config::parse();
    process::run(&settings, listen, async |process, _| {
        let order = servers::to(&process, "order", &order)?;
        let inventory = servers::to(&process, "inventory", &inventory)?;
        let upstreams = [
            ("shop.inventory.v1.InventoryService", inventory.clone()),
            ("shop.order.v1.OrderService", order.clone()),
            ("shop.order.v1.SagaService", order.clone()),
            ("shop.messaging.v1.DeadLetterService/order", order),
            ("shop.messaging.v1.DeadLetterService/inventory", inventory),
            ("shop.messaging.v1.DeadLetterService/shipping", servers::to(&process, "shipping", &shipping)?),
            ("shop.auditor.v1.BookService", servers::to(&process, "auditor", &auditor)?),
        ];
        let gateway = Arc::new(Gateway::new(&process, upstreams, Limits::default()).map_err(|why| anyhow!(why))?);
        let handler = process::handler(move |request| {
            let gateway = gateway.clone();
            async move { gateway.handle(request).await }
        });
        Ok(Opened { handler, greeting: String::new() })
    })
}
