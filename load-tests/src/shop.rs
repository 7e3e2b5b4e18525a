//! What is asked of the shop: the catalogue, enough stock, orders by Zipf's law, single products.
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use serde::Deserialize;

use crate::chance::{Chance, Zipf};
use crate::connection::{Answer, Call, Connection, get, post};
use crate::drive::Work;
use crate::tally::Judged;

/// Booked of each product: the most at once.
const STOCK: &str = r#"{"quantity":1000000000}"#;
const MOST_LINES: u64 = 3;
const MOST_PIECES: u64 = 3;
const CUSTOMERS: u64 = 1_000;
/// How an order that went well may stand when it is answered: confirmed, or already on its way.
pub const WENT_WELL: [&str; 3] = ["confirmed", "shipped", "delivered"];

/// A product, as far as who orders it has to know it.
#[derive(Clone, Debug, Deserialize)]
pub struct Product {
    sku: String,
    unit_price: i64,
}

#[derive(Deserialize)]
struct Page {
    products: Vec<Product>,
    next_page_token: String,
}

#[derive(Deserialize)]
struct Order<'a> {
    status: &'a str,
}

/// All products that the server sells.
///
/// # Errors
/// If it does not list them, or has too few to choose from.
pub async fn catalogue(address: SocketAddr) -> Result<Vec<Product>> {
    let mut connection = Connection::open(address).await?;
    let (mut products, mut token) = (Vec::new(), String::new());
    loop {
        let page = connection.get(&format!("/v1/products?page_size=100&page_token={token}")).await?;
        let page: Page = serde_json::from_slice(&page).context("a page of products is not what it should be")?;
        products.extend(page.products);
        if page.next_page_token.is_empty() {
            break;
        }
        token = page.next_page_token;
    }
    ensure!(
        products.len() as u64 >= MOST_LINES,
        "the shop sells {} products; orders need {MOST_LINES}",
        products.len()
    );
    Ok(products)
}

/// Books enough stock of each product for any run. `run` names the run: the same run books once.
///
/// # Errors
/// If the server refuses.
pub async fn fill_shelves(address: SocketAddr, run: &str, products: &[Product]) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    for Product { sku, .. } in products {
        let key = format!("stock-{run}");
        let headers = [("x-operator", "load-tests"), ("idempotency-key", key.as_str())];
        let answer = connection.send(post(&format!("/v1/products/{sku}:receive"), STOCK.to_owned(), &headers)).await?;
        ensure!(answer.status == StatusCode::OK, "receiving {sku} answered {}", answer.sentence());
    }
    Ok(())
}

/// Orders, which wait until they are settled unless they are made [`Orders::without_wait`].
#[derive(Debug)]
pub struct Orders {
    run: String,
    seed: u64,
    products: Vec<Product>,
    zipf: Zipf,
    next: AtomicU64,
    waits: bool,
}

impl Orders {
    /// Orders of a run, whose name makes their keys its own, over a catalogue.
    #[must_use]
    pub fn new(run: &str, seed: u64, products: Vec<Product>) -> Orders {
        let zipf = Zipf::over(products.len());
        Orders { run: run.to_owned(), seed, zipf, products, next: AtomicU64::new(0), waits: true }
    }

    /// Orders that are answered as soon as they are placed.
    #[must_use]
    pub fn without_wait(run: &str, seed: u64, products: Vec<Product>) -> Orders {
        Orders { waits: false, ..Orders::new(run, seed, products) }
    }

    fn body(&self, n: u64) -> String {
        let mut chance = Chance::of(self.seed, n);
        let count = usize::try_from(1 + chance.below(MOST_LINES)).expect("a handful");
        let lines = self.zipf.different(count, &mut chance).into_iter().map(|product| {
            let Product { sku, unit_price } = &self.products[product];
            let quantity = 1 + chance.below(MOST_PIECES);
            format!(r#"{{"sku":"{sku}","quantity":{quantity},"unit_price":{unit_price}}}"#)
        });
        let lines = lines.collect::<Vec<_>>().join(",");
        format!(
            r#"{{"lines":[{lines}],"payment_method":"pm_card_ok","shipping_address":{{"recipient":"김장터","street":"세종대로 110","city":"서울","postal_code":"04524","country":"KR"}}}}"#
        )
    }
}

impl Work for Orders {
    fn next(&self) -> Call {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let (key, customer) = (format!("{}-{n}", self.run), format!("customer-{}", n % CUSTOMERS));
        let headers = [("idempotency-key", key.as_str()), ("x-customer-id", customer.as_str()), ("prefer", "wait=30")];
        post("/v1/orders", self.body(n), &headers[..if self.waits { 3 } else { 2 }])
    }

    fn judge(&self, answer: &Answer) -> Judged {
        let order: Option<Order<'_>> = serde_json::from_slice(&answer.body).ok();
        match (answer.status, order.map(|order| order.status)) {
            (StatusCode::CREATED, Some("ORDER_STATUS_CONFIRMED")) => Ok("confirmed"),
            (StatusCode::CREATED, Some("ORDER_STATUS_SHIPPED")) => Ok("shipped"),
            (StatusCode::CREATED, Some("ORDER_STATUS_DELIVERED")) => Ok("delivered"),
            (StatusCode::CREATED, Some("ORDER_STATUS_REJECTED")) => Ok("rejected"),
            (StatusCode::CREATED, Some("ORDER_STATUS_CANCELLED")) => Ok("cancelled"),
            _ => Err(answer.sentence()),
        }
    }
}

/// Looks at single products, one after another.
#[derive(Debug)]
pub struct Looks {
    targets: Vec<String>,
    next: AtomicU64,
}

impl Looks {
    /// Looks at each of these.
    #[must_use]
    pub fn at(products: &[Product]) -> Looks {
        let targets = products.iter().map(|product| format!("/v1/products/{}", product.sku));
        Looks { targets: targets.collect(), next: AtomicU64::new(0) }
    }
}

impl Work for Looks {
    fn next(&self) -> Call {
        let n = self.next.fetch_add(1, Ordering::Relaxed) % self.targets.len() as u64;
        get(&self.targets[usize::try_from(n).expect("it is an index")])
    }

    fn judge(&self, answer: &Answer) -> Judged {
        if answer.status == StatusCode::OK { Ok("seen") } else { Err(answer.sentence()) }
    }
}

/// How often an order had to be decided anew because another took the same stock; `None` if the server does not tell.
pub async fn conflicts(address: SocketAddr) -> Option<f64> {
    let text = Connection::open(address).await.ok()?.get("/metrics").await.ok()?;
    metric(std::str::from_utf8(&text).ok()?, "inventory_conflicts_total")
}

/// The value of a metric, all its labels summed.
fn metric(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with([' ', '{']) {
            return None;
        }
        rest.rsplit_once(' ')?.1.parse::<f64>().ok()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn products() -> Vec<Product> {
        (1..=60).map(|n| Product { sku: format!("SKU-{n:04}"), unit_price: 100 * n }).collect()
    }

    fn answer(status: u16, body: &'static str) -> Answer {
        Answer { status: StatusCode::from_u16(status).unwrap(), body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn an_order_has_one_to_three_lines_at_the_price_of_the_catalogue() {
        let orders = Orders::new("run", 1, products());
        let mut seen = [false; 4];
        for n in 0..200 {
            let body: serde_json::Value = serde_json::from_str(&orders.body(n)).unwrap();
            let lines = body["lines"].as_array().unwrap();
            seen[lines.len()] = true;
            for line in lines {
                let price: i64 = line["sku"].as_str().unwrap()[4..].parse().unwrap();
                assert_eq!(line["unit_price"], 100 * price);
                assert!((1..=3).contains(&line["quantity"].as_i64().unwrap()));
            }
        }
        assert_eq!(seen, [false, true, true, true]);
        assert_eq!(orders.body(5), Orders::new("other", 1, products()).body(5), "the seed alone decides");
    }

    #[test]
    fn no_two_orders_have_the_same_key() {
        let orders = Orders::new("run", 1, products());
        let key = |call: &Call| call.headers()["idempotency-key"].clone();
        assert_ne!(key(&orders.next()), key(&orders.next()));
    }

    #[test]
    fn only_a_settled_order_is_expected() {
        let orders = Orders::new("run", 1, products());
        let judge = |status, body| orders.judge(&answer(status, body));
        assert_eq!(judge(201, r#"{"order_id":"a","status":"ORDER_STATUS_CONFIRMED"}"#), Ok("confirmed"));
        assert_eq!(judge(201, r#"{"status":"ORDER_STATUS_REJECTED","rejection":{"reason":"x"}}"#), Ok("rejected"));
        for (status, body) in [
            (201, r#"{"status":"ORDER_STATUS_PLACED"}"#),
            (200, r#"{"status":"ORDER_STATUS_CONFIRMED"}"#),
            (503, r#"{"status":503}"#),
            (201, ""),
        ] {
            assert!(judge(status, body).unwrap_err().contains(body), "{status} {body}");
        }
    }

    #[test]
    fn a_metric_is_the_sum_of_its_lines() {
        let text =
            "# HELP a_total a\n# TYPE a_total counter\na_total 3\na_total_more 9\nb{x=\"1 2\"} 1\nb{x=\"2\"} 2.5\n";
        let close = |name, expected: f64| metric(text, name).is_some_and(|value| (value - expected).abs() < 1e-9);
        assert!(close("a_total", 3.0) && close("b", 3.5));
        assert_eq!(metric(text, "c"), None);
    }
}
