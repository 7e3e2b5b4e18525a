//! `cargo run`: the whole shop in one process, on embedded stores.
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Parser, Subcommand};
use clock::{Clock, SystemClock};
use host::Process;
use host::health::Health;
use host::http_server::{self, Limits};
use monolith::folder::Folder;
use monolith::shop::{self, Pace, Stores, Surroundings};
use monolith::{catalogue, commands};
use store::seal;
use telemetry::logs::{self, Format};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long work under way may go on once the process was told to stop.
const DRAIN: Duration = Duration::from_secs(25);

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

    /// How long after its order was confirmed a parcel is picked up, in milliseconds; until then it can be called off
    #[arg(long, env = "JANGTEO_PICK_UP_MS", default_value_t = 5_000, value_name = "MS")]
    pick_up_ms: u64,

    /// How long a parcel is on its way, in milliseconds
    #[arg(long, env = "JANGTEO_TRANSIT_MS", default_value_t = 5_000, value_name = "MS")]
    transit_ms: u64,

    /// Which log lines are written to standard error, such as `warn` or `info,saga=debug`
    #[arg(long, env = "JANGTEO_LOG", default_value = "info", value_name = "FILTER")]
    log: String,

    /// Log lines as JSON, one object a line
    #[arg(long, env = "JANGTEO_LOG_JSON")]
    log_json: bool,
}

/// What to do with a data folder instead of opening the shop on it. The shop must be closed.
#[derive(Subcommand)]
enum Command {
    /// Check every event against its seal; ends with 1 if one does not fit, and names the first
    Verify,
    /// Make the search indices anew from the logs, and say how the old ones differed
    Rebuild,
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
    let config = Config::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => return failed(&anyhow!(why).context("the runtime cannot be started")),
    };
    let outcome = match &config.command {
        None => runtime.block_on(run(config)).map(|()| true),
        Some(command) => runtime.block_on(look(&config, command)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => failed(&why),
    }
}

fn failed(why: &anyhow::Error) -> ExitCode {
    // Nothing can be done about a standard error that is closed.
    let _ = writeln!(std::io::stderr(), "error: {why:#}");
    ExitCode::FAILURE
}

/// Carries out a command on a folder that holds data; whether all is well.
async fn look(config: &Config, command: &Command) -> anyhow::Result<bool> {
    if !config.data.is_dir() {
        bail!("there is no data folder {}", config.data.display());
    }
    let folder = Folder::take(&config.data)?;
    if folder.is_new() {
        bail!("no shop was opened on the data folder {} yet", config.data.display());
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let stores = folder.stores(&clock)?;
    let mut out = std::io::stdout().lock();
    match command {
        Command::Verify => commands::verify(&folder, &stores, &mut out).await,
        Command::Rebuild => commands::rebuild(&folder, stores, &mut out).await.map(|()| true),
        Command::Replay { stream, to } => commands::replay(&stores, stream, *to, &mut out).await.map(|()| true),
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let format = if config.log_json { Format::Json } else { Format::Text };
    let _written_to_the_end = logs::init(&config.log, format).map_err(|why| anyhow!(why))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, config.port));
    let taken = || format!("port {} cannot be listened on; choose another with --port", config.port);
    let listener = TcpListener::bind(address).await.with_context(taken)?;
    let address = listener.local_addr()?;
    let folder = Folder::take(&config.data)?;

    let process = Process::on_this_machine();
    let stores = folder.stores(&process.clock)?;
    let pace =
        Pace { pick_up: Duration::from_millis(config.pick_up_ms), transit: Duration::from_millis(config.transit_ms) };
    let surroundings = Surroundings::simulated(&process, &stores, pace);
    let shop = shop::open(&process, &stores, surroundings).map_err(|why| anyhow!(why))?;
    let stocked = catalogue::stock(&process, &shop.inventory, &catalogue::PRODUCTS).await;
    stocked.map_err(|status| anyhow!("the shelves cannot be stocked: {}", status.message()))?;
    // Before anybody is told that the shop is open: whoever knows may close it.
    let stop = told_to_stop()?;
    greet(&process, address, &config);

    let gateway = Arc::new(shop.gateway);
    let answer = move |request| {
        let gateway = gateway.clone();
        async move { gateway.handle(request).await }
    };
    let served = process.tasks.spawn(http_server::serve(listener, process.tasks.clone(), Limits::default(), answer));
    for (name, store) in stores.sealed() {
        let (store, seals, health) = (store.clone(), folder.seals(name), process.health.clone());
        process.tasks.spawn_until_stop(async move {
            if let Err(why) = seal::run(store.as_ref(), &seals).await {
                tracing::error!(%why, "the log of {name} is not sealed any more");
                health.missing(&format!("{name} seals"), why.to_string());
            }
        });
    }
    process.tasks.spawn_until_stop(look_after(process.health.clone(), stores));
    stop.await;
    process.health.missing("process", "it is stopping");
    tracing::info!("stopping");
    if !process.tasks.drain(DRAIN).await {
        tracing::warn!("some work did not come to its end; it goes on at the next start");
    }
    served.await?;
    Ok(())
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

/// Resolves when the process is told to stop. It listens from here on, not from when it is waited for.
fn told_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        let (terminate, interrupt) = (std::pin::pin!(terminate.recv()), std::pin::pin!(interrupt.recv()));
        futures::future::select(terminate, interrupt).await;
    })
}

fn greet(process: &Process, address: SocketAddr, config: &Config) {
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
    let text = format!(
        "\nJangteo is open at http://{address}, its data is in {}\n\n\
         look      curl -s http://{address}/v1/products\n          curl -s http://{address}/v1/orders\n          curl -s http://{address}/metrics\n\n\
         confirmed: goods reserved, card charged, parcel ordered\n{}\n\n\
         declined: the card is refused, the goods go back\n{}\n\n\
         compensated: the carrier does not serve the country, the money and the goods go back\n{}\n\n",
        config.data.display(),
        line("happy", "pm_card_ok", "KR"),
        line("declined", "pm_card_declined", "KR"),
        line("compensated", "pm_card_ok", "AQ"),
    );
    // A closed standard output is no reason to close the shop.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
