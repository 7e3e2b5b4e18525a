//! The gateway as a process of its own.
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use clap::Parser;
use gateway::host_names::HostNames;
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

    /// Names, beside addresses and localhost, under which it is asked: without any it takes every name, or on a loopback address
    /// none
    #[arg(long, env = "JANGTEO_HOST_NAMES", value_name = "NAMES", value_delimiter = ',')]
    host_names: Vec<String>,

    /// How long it goes on answering once SIGTERM has made it unready, in milliseconds, so that others send it nothing more
    #[arg(long, env = "JANGTEO_LINGER_MS", default_value_t = 2_000, value_name = "MS")]
    linger_ms: u64,

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
    let Config { settings, listen, host_names, linger_ms, order, inventory, shipping, auditor } =
        program::settings::parse();
    let settings = Settings { linger: Duration::from_millis(linger_ms), ..settings };
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
        let gateway = Gateway::new(&process, upstreams, Limits::of(process.connections)).map_err(|why| anyhow!(why))?;
        let gateway = Arc::new(gateway.on_port(HostNames::of(listen.ip(), &host_names)));
        let handler = process::handler(move |request| {
            let gateway = gateway.clone();
            async move { gateway.handle(request).await }
        });
        Ok(Opened { handler, greeting: String::new() })
    })
}
