//! What happens after an order is confirmed, on a shop that has nothing else to do; and what the shop takes with nothing to do.
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use host::Process;
use prost_types::Timestamp;
use serde::Deserialize;
use tokio::time::sleep;

use crate::connection::Connection;
use crate::drive::Work;
use crate::proc::Usage;
use crate::report::{Report, bar};
use crate::server::{Folder, Server, program};
use crate::shop::{Orders, catalogue, fill_shelves};
use crate::tally::Latencies;

const MOST_P99_MS: f64 = 50.0;
const MOST_IDLE_PERCENT: f64 = 1.0;
/// A parcel is picked up as soon as its order is confirmed, and stays on its way: its arrival is no part of what is measured.
const AT_ONCE: [&str; 4] = ["--pick-up-ms", "0", "--transit-ms", "86400000"];
/// How often it is looked whether an order was shipped.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const PATIENCE: u32 = 2_000;
/// After the last order there is still something to write.
const SETTLE: Duration = Duration::from_secs(3);

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Orders, one after another
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub orders: u32,
    /// Seconds for which the idle shop is watched
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
}

#[derive(Deserialize)]
struct Placed {
    order_id: String,
}

#[derive(Deserialize)]
struct Trail {
    events: Vec<Happened>,
}

#[derive(Deserialize)]
struct Happened {
    #[serde(rename = "type")]
    kind: String,
    recorded_at: String,
}

/// Measures both.
///
/// # Errors
/// If an answer was unexpected, or the server cannot be started.
pub async fn run(options: Options) -> Result<()> {
    let report = Report::begin("One order at a time.");
    let folder = Folder::make("fulfilment")?;
    let (server, _) = Server::start(&program()?, &folder.at("data"), &AT_ONCE).await?;
    let run = Process::on_this_machine().ids.next().to_string();
    let products = catalogue(server.address()).await?;
    fill_shelves(server.address(), &run, &products).await?;
    let orders = Arc::new(Orders::new(&run, 1, products));
    let (mut connection, mut took) = (Connection::open(server.address()).await?, Latencies::default());
    for _ in 0..options.orders {
        took.record(confirmed_to_shipped(&mut connection, &orders).await?);
    }
    report.head(&["idle shop, one order at a time", "orders", "p50 ms", "p99 ms", "bars"]);
    let (p50, p99) = (took.ms(0.5), took.ms(0.99));
    let bars = bar("p99 ≤ 50 ms", p99 <= MOST_P99_MS);
    report.row(&[
        "from OrderConfirmed to OrderShipped".to_owned(),
        options.orders.to_string(),
        format!("{p50:.1}"),
        format!("{p99:.1}"),
        bars,
    ]);

    sleep(SETTLE).await;
    let before = Usage::of(server.pid())?;
    sleep(Duration::from_secs(options.seconds)).await;
    let spent = Usage::of(server.pid())?.since(&before);
    let percent = 100.0 * spent.total.total().as_secs_f64() / options.seconds as f64;
    report.line("");
    report.head(&["nothing to do", "seconds", "of a core", "bars"]);
    let bars = bar("≤ 1 %", percent <= MOST_IDLE_PERCENT);
    report.row(&["the process".to_owned(), options.seconds.to_string(), format!("{percent:.2} %"), bars]);
    server.stop().await?;
    report.end()
}

/// How long it took an order from being confirmed to being shipped, by the times that the shop recorded.
pub(crate) async fn confirmed_to_shipped(connection: &mut Connection, orders: &Orders) -> Result<Duration> {
    let mut call = orders.next();
    call.headers_mut().remove("x-customer-id");
    let answer = connection.send(call).await?;
    orders.judge(&answer).map_err(anyhow::Error::msg)?;
    let Placed { order_id } = serde_json::from_slice(&answer.body)?;
    for _ in 0..PATIENCE {
        let trail = connection.get(&format!("/v1/orders/{order_id}/events")).await?;
        let Trail { events } = serde_json::from_slice(&trail)?;
        let at = |kind: &str| events.iter().find(|event| event.kind == kind).map(|event| micros(&event.recorded_at));
        if let (Some(confirmed), Some(shipped)) = (at("OrderConfirmed"), at("OrderShipped")) {
            return Ok(Duration::from_micros(u64::try_from(shipped? - confirmed?).unwrap_or(0)));
        }
        sleep(LOOK_EVERY).await;
    }
    bail!("order {order_id} was not shipped")
}

/// Microseconds since 1970, of a time as the shop writes it.
fn micros(time: &str) -> Result<i64> {
    let Timestamp { seconds, nanos } = time.parse().with_context(|| format!("{time} is no time"))?;
    Ok(seconds * 1_000_000 + i64::from(nanos) / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(micros("1970-01-01T00:00:01.000250Z").unwrap(), 1_000_250);
        assert!(micros("soon").is_err());
    }
}
