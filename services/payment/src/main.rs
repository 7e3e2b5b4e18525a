//! The payment service as a process of its own.
use std::process::ExitCode;

use clap::Parser;
use payment::bank::Bank;
use program::process::{self, Settings};
use program::servers::{self, Need, Servers};
use telemetry::metrics::Red;
use tokio::try_join;

/// Jangteo's payment service: takes and gives back the money of orders.
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

    /// The database of the simulated bank, which is not the shop's
    #[arg(long, env = "JANGTEO_BANK_POSTGRES", hide_env_values = true, value_name = "URL")]
    bank: String,
}

fn main() -> ExitCode {
    let Config { settings, servers, bank } = program::settings::parse();
    process::run(&settings, servers.listen, async |process, _| {
        let messages = servers.messages(&process, Need::Later)?;
        let ledger = servers::store(&process, "bank ledger", ("JANGTEO_BANK_POSTGRES", &bank));
        let (store, ledger) = try_join!(servers.store(&process, "payment"), ledger)?;
        let (bank, reports) = Bank::new(&process, ledger);
        let red = Red::new(&process.metrics, "grpc");
        let payment = payment::start(&process, store, &messages, (std::sync::Arc::new(bank), reports), red);
        Ok(process::services(&process, [("shop.payment.v1.PaymentService", payment)]))
    })
}
