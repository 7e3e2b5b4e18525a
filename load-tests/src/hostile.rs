//! Clients that take what others need: they hang up, read nothing, follow, or wait. What becomes of the others meanwhile.
//!
//! Each kind takes every place that it can get, for an order that does not settle: its payment's database is locked, or the
//! payment process is stopped. Meanwhile others ask for `/healthz`, look at a product and place orders, each over a
//! connection of its own, as often as before.
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use host::Process;
use http::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use crate::connection::{Call, Connection, get};
use crate::drive::Work;
use crate::report::{Report, bar};
use crate::server::{Folder, Server, program, read_url};
use crate::shop::{Looks, Orders, catalogue, fill_shelves};
use crate::tally::Latencies;

/// How much slower others may be than without anybody in their way.
const MOST_TIMES: f64 = 2.0;
/// What is too short to be told apart on a busy machine, in milliseconds.
const NOISE_MS: f64 = 5.0;
/// Requests that are sent at once by a client that reads no answer.
const PIPELINED: usize = 400;
/// How often each of the others asks.
const EVERY: Duration = Duration::from_millis(20);

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where a shop is open, as http://ADDRESS:PORT; without it one is started in one process
    #[arg(long, value_parser = read_url, requires = "payment")]
    pub url: Option<SocketAddr>,
    /// The id of that shop's payment process, which is stopped and continued
    #[arg(long, requires = "url")]
    pub payment: Option<u32>,
    /// So many hostile clients of each kind
    #[arg(long, default_value_t = 800, value_parser = clap::value_parser!(u16).range(1..=4_000))]
    pub clients: u16,
    /// For so many seconds each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
}

/// What keeps orders from being settled.
enum Unsettled {
    Locked(rusqlite::Connection),
    Stopped(u32),
}

impl Unsettled {
    fn by(shop: &Shop, options: &Options) -> Result<Unsettled> {
        if let Some(payment) = options.payment {
            signal("-STOP", payment)?;
            return Ok(Unsettled::Stopped(payment));
        }
        let (_, folder) = shop.started.as_ref().context("whose payment is to be locked?")?;
        let database = rusqlite::Connection::open(folder.at("data/payment.db"))?;
        database.execute_batch("PRAGMA busy_timeout = 10000; BEGIN IMMEDIATE")?;
        Ok(Unsettled::Locked(database))
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        // Where it cannot be undone, the shop is gone.
        match self {
            Unsettled::Locked(database) => _ = database.execute_batch("ROLLBACK"),
            Unsettled::Stopped(payment) => _ = signal("-CONT", *payment),
        }
    }
}

fn signal(signal: &str, process: u32) -> Result<()> {
    ensure!(Command::new("kill").args([signal, &process.to_string()]).status()?.success(), "process {process} is gone");
    Ok(())
}

/// The shop, and what was started for it.
struct Shop {
    address: SocketAddr,
    started: Option<(Server, Folder)>,
}

/// How hostile clients behave.
#[derive(Clone, Copy, Debug)]
enum Kind {
    HangUp,
    ReadNothing,
    Follow,
    Wait,
}

impl Kind {
    const ALL: [(Kind, &str); 4] = [
        (Kind::HangUp, "ask to wait 30 s and hang up"),
        (Kind::ReadNothing, "send 400 requests and read nothing"),
        (Kind::Follow, "follow an order"),
        (Kind::Wait, "wait 30 s for an order"),
    ];

    /// What one such client sends.
    fn bytes(self, order: &Order) -> Vec<u8> {
        let Order { id, customer } = order;
        let head = |target: &str, more: &str| {
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nX-Customer-Id: {customer}\r\n{more}\r\n")
        };
        let order = format!("/v1/orders/{id}");
        match self {
            Kind::HangUp | Kind::Wait => head(&order, "Prefer: wait=30\r\n").into_bytes(),
            Kind::ReadNothing => head("/openapi.json", "").repeat(PIPELINED).into_bytes(),
            Kind::Follow => head(&format!("{order}:watch"), "").into_bytes(),
        }
    }

    /// Opens one such client, if it is let in.
    async fn client(self, address: SocketAddr, order: &Order) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(address).await.ok()?;
        // One that is refused may find its connection closed.
        stream.write_all(&self.bytes(order)).await.ok()?;
        (!matches!(self, Kind::HangUp)).then_some(stream)
    }
}

/// Measures it.
///
/// # Errors
/// If others were not answered as they should be.
pub async fn run(options: Options) -> Result<()> {
    let mut report = Report::begin("Server and all clients share the cores.");
    let shop = open(&options).await?;
    let run = Process::on_this_machine().ids.next().to_string();
    let products = catalogue(shop.address).await?;
    fill_shelves(shop.address, &run, &products).await?;
    let others = Others { looks: Looks::at(&products), orders: Orders::without_wait(&run, 1, products) };
    let unsettled = Unsettled::by(&shop, &options)?;
    let order = place(shop.address, &others.orders).await?;

    others.ask(shop.address, options.seconds, &mut report, "warm-up").await;
    report.head(&["hostile clients", "of others", "p50 ms", "p99 ms", "bars"]);
    for (kind, name) in Kind::ALL {
        // Measured each time: the orders that do not settle become more, and are tried again and again.
        let quiet = others.ask(shop.address, options.seconds, &mut report, "quiet").await;
        quiet.rows(&report, "none", None);
        let mut clients = Vec::new();
        for _ in 0..options.clients {
            clients.extend(kind.client(shop.address, &order).await);
        }
        let meanwhile = others.ask(shop.address, options.seconds, &mut report, name).await;
        meanwhile.rows(&report, &format!("{} that {name}", options.clients), Some(&quiet));
        drop(clients);
        sleep(Duration::from_secs(1)).await;
    }
    drop(unsettled);
    if let Some((server, folder)) = shop.started {
        server.stop().await?;
        drop(folder);
    }
    report.end()
}

async fn open(options: &Options) -> Result<Shop> {
    if let Some(address) = options.url {
        return Ok(Shop { address, started: None });
    }
    let folder = Folder::make("hostile")?;
    let (server, _) = Server::start(&program()?, &folder.at("data"), &[]).await?;
    Ok(Shop { address: server.address(), started: Some((server, folder)) })
}

/// An order, and whose it is.
struct Order {
    id: String,
    customer: String,
}

async fn place(address: SocketAddr, orders: &Orders) -> Result<Order> {
    let call = orders.next();
    let customer = call.headers()["x-customer-id"].to_str()?.to_owned();
    let answer = Connection::open(address).await?.send(call).await?;
    ensure!(answer.status == StatusCode::CREATED, "an order was answered {}", answer.sentence());
    let order: serde_json::Value = serde_json::from_slice(&answer.body)?;
    Ok(Order { id: order["order_id"].as_str().context("an order has an id")?.to_owned(), customer })
}

/// Clients who only want to be served.
struct Others {
    looks: Looks,
    orders: Orders,
}

/// How long they were kept, by what they asked for.
struct Latency([(&'static str, Latencies); 3]);

impl Others {
    /// Each asks for so many seconds, every [`EVERY`].
    async fn ask(&self, address: SocketAddr, seconds: u32, report: &mut Report, phase: &str) -> Latency {
        let mut asked = JoinSet::new();
        let (until, mut ticks) = (Instant::now() + Duration::from_secs(u64::from(seconds)), interval(EVERY));
        while Instant::now() < until {
            ticks.tick().await;
            for (kind, call) in [get("/healthz"), self.looks.next(), self.orders.next()].into_iter().enumerate() {
                asked.spawn(async move { (kind, once(address, call).await) });
            }
        }
        let mut latency =
            Latency(["GET /healthz", "GET a product", "POST an order"].map(|name| (name, Latencies::default())));
        let mut tally = crate::tally::Tally::default();
        while let Some(answered) = asked.join_next().await {
            match answered {
                Ok((kind, Ok(took))) => latency.0[kind].1.record(took),
                Ok((_, Err(why))) => tally.fail(format!("{why:#}")),
                Err(why) => tally.fail(why.to_string()),
            }
        }
        report.check(phase, &tally);
        latency
    }
}

/// One request over a connection of its own; how long it took.
async fn once(address: SocketAddr, call: Call) -> Result<Duration> {
    let started = Instant::now();
    let answer = Connection::open(address).await?.send(call).await?;
    ensure!(answer.status.is_success(), "answered {}", answer.sentence());
    Ok(started.elapsed())
}

impl Latency {
    fn rows(&self, report: &Report, name: &str, quiet: Option<&Latency>) {
        for (n, (what, took)) in self.0.iter().enumerate() {
            let (p50, p99) = (took.ms(0.5), took.ms(0.99));
            let bars = quiet.map_or_else(String::new, |quiet| {
                bar("p99 ≤ 2 × quiet", p99 <= (MOST_TIMES * quiet.0[n].1.ms(0.99)).max(NOISE_MS))
            });
            report.row(&[name.to_owned(), (*what).to_owned(), format!("{p50:.1}"), format!("{p99:.1}"), bars]);
        }
    }
}
