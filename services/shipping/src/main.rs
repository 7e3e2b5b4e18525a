//! The shipping service as a process of its own.
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use program::process::{self, Settings};
use program::servers::{self, Need, Servers};
use shipping::carrier::Simulator;
use telemetry::metrics::Red;
use tokio::try_join;

/// Jangteo's shipping service: sends parcels.
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

    /// The database of the simulated carrier, which is not the shop's
    #[arg(long, env = "JANGTEO_CARRIER_POSTGRES", hide_env_values = true, value_name = "URL")]
    carrier: String,

    /// How long after its order was confirmed a parcel is picked up, in milliseconds; until then it can be called off
    #[arg(long, env = "JANGTEO_PICK_UP_MS", default_value_t = 5_000, value_name = "MS")]
    pick_up_ms: u64,

    /// How long a parcel is on its way, in milliseconds
    #[arg(long, env = "JANGTEO_TRANSIT_MS", default_value_t = 5_000, value_name = "MS")]
    transit_ms: u64,
}

fn main() -> ExitCode {
    let Config { settings, servers, carrier, pick_up_ms, transit_ms } = program::settings::parse();
    let [pick_up, transit] = [pick_up_ms, transit_ms].map(Duration::from_millis);
    process::run(&settings, servers.listen, async |process, _| {
        let messages = servers.messages(&process, Need::Later)?;
        let book = servers::store(&process, "carrier book", ("JANGTEO_CARRIER_POSTGRES", &carrier));
        let (store, carrier) = try_join!(servers.store(&process, "shipping"), book)?;
        let carrier = Arc::new(Simulator::new(&process, carrier, transit));
        let red = Red::new(&process.metrics, "grpc");
        let served = shipping::start(&process, store, &messages, (carrier, pick_up), red);
        let services = [
            ("shop.shipping.v1.ShippingService", served.shipping),
            ("shop.messaging.v1.DeadLetterService", served.dead_letters),
        ];
        Ok(process::services(&process, services))
    })
}
