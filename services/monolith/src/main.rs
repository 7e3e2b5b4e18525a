//! `cargo run`: the whole shop in one process, on embedded stores.
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::{Parser, Subcommand};
use clock::{Clock, SystemClock};
use gateway::host_names::HostNames;
use host::Process;
use host::health::Health;
use inventory::catalogue;
use monolith::folder::{Closing, Folder};
use monolith::shop::{self, Pace, Stores, Surroundings};
use monolith::{backup, commands};
use program::process::{self, Opened, Settings};
use store::file_watch::FileWatch;
use store::seal;

/// How often it is looked whether the stores can be read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Jangteo: a shop of six services in one process.
///
/// Everything it knows is in the data folder. SIGTERM or Ctrl-C ends it within 25 seconds; SIGKILL loses nothing.
#[derive(Parser)]
#[command(version)]
struct Config {
    #[command(subcommand)]
    command: Option<Command>,

    /// Folder for the data, made if it does not exist; one process per folder
    #[arg(long, global = true, env = "JANGTEO_DATA", default_value = "data", value_name = "DIR")]
    data: PathBuf,

    /// Port to listen on, on the loopback address; 0 picks a free one
    #[arg(long, env = "JANGTEO_PORT", default_value_t = 8080, value_name = "N")]
    port: u16,

    /// Names, beside addresses and localhost, under which it is asked
    #[arg(long, env = "JANGTEO_HOST_NAMES", value_name = "NAMES", value_delimiter = ',')]
    host_names: Vec<String>,

    /// How long after its order was confirmed a parcel is picked up, in milliseconds; until then it can be called off
    #[arg(long, env = "JANGTEO_PICK_UP_MS", default_value_t = 5_000, value_name = "MS")]
    pick_up_ms: u64,

    /// How long a parcel is on its way, in milliseconds
    #[arg(long, env = "JANGTEO_TRANSIT_MS", default_value_t = 5_000, value_name = "MS")]
    transit_ms: u64,

    #[command(flatten)]
    settings: Settings,
}

/// What to do with a data folder instead of opening the shop on it. But for a backup, the shop must be closed.
#[derive(Subcommand)]
enum Command {
    /// Check every event against its seal; ends with 1 if one does not fit, and names the first
    Verify,
    /// Make the search indices anew from the logs, and say how the old ones differed
    Rebuild,
    /// Copy the data folder, also while the shop is open: the copy is of one moment, and is opened with --data
    Backup {
        /// Where to; it must not exist
        to: PathBuf,
    },
    /// Print each event of a stream, and the state after it
    Replay {
        /// Such as order-ID, checkout-ID, payment-ID, shipment-ID, reservation-ID, product-SKU or stock-SKU
        stream: String,
        /// The last version to print; all if absent
        #[arg(long, value_name = "VERSION")]
        to: Option<u64>,
    },
}

fn main() -> ExitCode {
    let config: Config = program::settings::parse();
    match &config.command {
        None => run(&config),
        Some(command) => process::on_a_runtime(async {
            let good = look(&config, command).await?;
            Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }),
    }
}

/// Carries out a command on a folder that holds data; whether all is well.
async fn look(config: &Config, command: &Command) -> anyhow::Result<bool> {
    if !config.data.is_dir() {
        bail!("there is no data folder {}", config.data.display());
    }
    let mut out = std::io::stdout().lock();
    match command {
        Command::Backup { to } => backup::backup(&config.data, to).map(|()| true),
        Command::Verify => {
            let (folder, stores) = open(&config.data)?;
            let _closing = Closing(&folder);
            commands::verify(&folder, &stores, &mut out).await
        }
        Command::Rebuild => {
            let (folder, stores) = open(&config.data)?;
            commands::rebuild(&folder, stores, &mut out).await.map(|()| true)
        }
        Command::Replay { stream, to } => {
            let (folder, stores) = open(&config.data)?;
            let _closing = Closing(&folder);
            commands::replay(&stores, stream, *to, &mut out).await.map(|()| true)
        }
    }
}

/// Takes the folder of a closed shop, and opens its stores.
fn open(data: &Path) -> anyhow::Result<(Folder, Stores)> {
    let folder = Folder::take(data)?;
    if folder.is_new() {
        bail!("no shop was opened on the data folder {} yet", data.display());
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let stores = folder.stores(&clock)?;
    Ok((folder, stores))
}

fn run(config: &Config) -> ExitCode {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, config.port));
    // Danger: the folder is given back after the stores are closed, which the end of the runtime does.
    let held = OnceLock::<Arc<Folder>>::new();
    process::run(&config.settings, address, async |process, address| {
        let folder = Folder::take(&config.data)?;
        let folder = held.get_or_init(|| Arc::new(folder)).clone();
        let stores = folder.stores(&process.clock)?;
        let closing = Closing(folder.clone());
        sealed_as_far_as_logged(&folder, &stores).await?;
        let [pick_up, transit] = [config.pick_up_ms, config.transit_ms].map(Duration::from_millis);
        let surroundings = Surroundings::simulated(&process, &stores, Pace { pick_up, transit });
        let shop = shop::open(&process, &stores, surroundings).map_err(|why| anyhow!(why))?;
        let stocked = catalogue::stock(&process, &shop.inventory, &catalogue::PRODUCTS).await;
        stocked.map_err(|status| anyhow!("the shelves cannot be stocked: {}", status.message()))?;
        let greeting = greeting(&process, address, config);
        process.tasks.spawn_until_stop(watch_over(process.health.clone(), folder.watch().clone()));
        seal(&process, &folder, &stores);
        close_with(&process, closing);
        process.tasks.spawn_until_stop(look_after(process.health.clone(), stores));
        let gateway = Arc::new(shop.gateway.on_port(HostNames::of(address.ip(), &config.host_names)));
        let handler = process::handler(move |request| {
            let gateway = gateway.clone();
            async move { gateway.handle(request).await }
        });
        Ok(Opened { handler, greeting })
    })
}

/// Refuses a log that ends before its seals do: something of it was lost.
async fn sealed_as_far_as_logged(folder: &Folder, stores: &Stores) -> anyhow::Result<()> {
    for (name, store) in stores.sealed() {
        seal::reaches_seals(store.as_ref(), &folder.seals(name)).await?;
    }
    Ok(())
}

/// Says in the folder that the stores are being closed, once the process is told to stop.
fn close_with(process: &Process, closing: Closing<Arc<Folder>>) {
    let tasks = process.tasks.clone();
    process.tasks.spawn(async move {
        tasks.stopping().await;
        drop(closing);
    });
}

/// Seals the logs as they grow.
fn seal(process: &Process, folder: &Arc<Folder>, stores: &Stores) {
    for (name, store) in stores.sealed() {
        let (store, folder, health) = (store.clone(), folder.clone(), process.health.clone());
        process.tasks.spawn_until_stop(async move {
            let part = format!("{name} seals");
            seal::run(store.as_ref(), &folder.seals(name), folder.watch(), |why| health.tell(&part, why)).await;
        });
    }
}

/// Looks whether the data folder is still the one that was opened. Whoever writes refuses while it is not.
async fn watch_over(health: Health, watch: FileWatch) {
    const PART: &str = "data folder";
    let mut lost = false;
    loop {
        match watch.check_all() {
            Ok(()) => {
                if std::mem::take(&mut lost) {
                    tracing::info!("the data folder is whole again");
                }
                health.ready(PART);
            }
            Err(why) => {
                // Once: whoever removes a folder removes one file after another.
                if !std::mem::replace(&mut lost, true) {
                    tracing::error!("{why}: the shop accepts nothing until it is back; stop the shop if it is gone");
                }
                health.missing(PART, why);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Says of each store whether it can be read.
async fn look_after(health: Health, stores: Stores) {
    loop {
        for (name, store) in stores.named() {
            match store.version(&"health".into()).await {
                Ok(_) => health.ready(name),
                Err(why) => health.missing(name, why.to_string()),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How to look around, and three orders that end in three ways.
fn greeting(process: &Process, address: SocketAddr, config: &Config) -> String {
    let (sku, .., unit_price) = catalogue::PRODUCTS[0];
    // A key of its own for each start: the same line twice is one order, a new start is a new one.
    let start = process.clock.now().0 / 1_000_000;
    let line = |name: &str, method: &str, country: &str| {
        let body = format!(
            r#"{{"lines":[{{"sku":"{sku}","quantity":2,"unit_price":{unit_price}}}],"payment_method":"{method}","shipping_address":{{"recipient":"Kim Jangteo","street":"Sejong-daero 110","city":"Seoul","postal_code":"04524","country":"{country}"}}}}"#
        );
        format!(
            "curl -s http://{address}/v1/orders -H 'Content-Type: application/json' -H 'Idempotency-Key: {name}-{start}' -H 'Prefer: wait=10' -d '{body}'"
        )
    };
    format!(
        "\nJangteo is open at http://{address}, its data is in {}\n\n\
         look      curl -s http://{address}/v1/products\n          curl -s http://{address}/v1/orders\n          curl -s http://{address}/metrics\n\n\
         confirmed: goods reserved, card charged, parcel ordered\n{}\n\n\
         declined: the card is refused, the goods go back\n{}\n\n\
         compensated: the carrier does not serve the country, the money and the goods go back\n{}\n\n",
        config.data.display(),
        line("happy", "pm_card_ok", "KR"),
        line("declined", "pm_card_declined", "KR"),
        line("compensated", "pm_card_ok", "AQ"),
    )
}
