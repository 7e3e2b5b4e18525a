//! A shop at an address, and what is asked of it.
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Customers' lists, sagas and books are looked at so often while something is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long anything may take, on a machine with other work.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How fast parcels are in a shop that is opened here.
const PACE: [&str; 4] = ["--pick-up-ms", "1000", "--transit-ms", "1000"];

/// Where the shop is, for all tests of this run.
#[expect(clippy::disallowed_methods, reason = "tests are told in the environment where the shop is")]
fn address() -> &'static str {
    static OPEN: OnceLock<(String, Option<Opened>)> = OnceLock::new();
    let open = || match std::env::var("JANGTEO_TEST_SHOP") {
        Ok(address) => (address, None),
        Err(_) => {
            let opened = Opened::new();
            (opened.address.clone(), Some(opened))
        }
    };
    &OPEN.get_or_init(open).0
}

/// A shop that this run opened. Nothing in a static is dropped, so the program is told to end with its standard input.
struct Opened {
    address: String,
    _child: Child,
    _data: tempfile::TempDir,
}

impl Opened {
    fn new() -> Opened {
        let data = tempfile::tempdir().unwrap();
        let parent = std::process::id().to_string();
        // The shell waits for this process to go, and takes the shop and its data with it.
        let script = r#""$@" & shop=$!; (while kill -0 "$0" 2>/dev/null; do sleep 0.2; done; kill "$shop"; wait "$shop"; rm -rf "$DATA") >/dev/null 2>&1 & wait "$shop""#;
        let mut child = Command::new("sh")
            .args(["-c", script, &parent, env!("CARGO_BIN_EXE_monolith"), "--port", "0", "--log", "warn"])
            .args(PACE)
            .arg("--data")
            .arg(data.path())
            .env("DATA", data.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let open = lines.filter_map(|line| line.strip_prefix("Jangteo is open at http://").map(str::to_owned)).next();
        let address = open.expect("the shop opens").split(',').next().unwrap().to_owned();
        Opened { address, _child: child, _data: data }
    }
}

/// One who asks, with names that nobody else has.
pub struct Client {
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
    /// The customer's name.
    pub name: String,
    keys: AtomicU64,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The text of a field that must be there.
    pub fn text(&self, field: &str) -> &str {
        text(&self.body, field)
    }
}

pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

impl Client {
    /// A customer whose name begins so.
    #[expect(clippy::disallowed_methods, reason = "names that no other run has")]
    pub fn new(name: &str) -> Client {
        let http = Client::over_tcp();
        let unique = uuid::Uuid::now_v7().simple().to_string();
        Client { http, name: format!("{name}-{unique}"), keys: AtomicU64::new(0) }
    }

    fn over_tcp() -> hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>> {
        hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http()
    }

    /// A key that was not used before.
    pub fn key(&self) -> String {
        format!("{}-{}", self.name, self.keys.fetch_add(1, Ordering::Relaxed))
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", address()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let asked = async {
            let answer = self.http.request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
            let (head, body) = answer.into_parts();
            let bytes = body.collect().await.unwrap().to_bytes();
            let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
            Answer {
                status: head.status,
                headers: head.headers,
                body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()),
            }
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .unwrap_or_else(|_| panic!("{path} was not answered in {PATIENCE:?}"))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[("X-Customer-Id", &self.name)], String::new()).await
    }

    /// As an operator.
    pub async fn look(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[("X-Operator", "lee")], String::new()).await
    }

    /// Places an order, and waits up to so many seconds until it is settled.
    pub async fn place(&self, key: &str, wait: u32, body: &Value) -> Answer {
        let wait = format!("wait={wait}");
        let headers = [("X-Customer-Id", self.name.as_str()), ("Idempotency-Key", key), ("Prefer", &wait)];
        self.send(Method::POST, "/v1/orders", &headers, body.to_string()).await
    }

    pub async fn cancel(&self, key: &str, order_id: &str, wait: u32) -> Answer {
        let wait = format!("wait={wait}");
        let headers = [("X-Customer-Id", self.name.as_str()), ("Idempotency-Key", key), ("Prefer", &wait)];
        self.send(Method::POST, &format!("/v1/orders/{order_id}:cancel"), &headers, "{}".to_owned()).await
    }

    /// As an operator.
    pub async fn act(&self, path: &str, body: &Value) -> Answer {
        let key = self.key();
        self.send(Method::POST, path, &[("X-Operator", "lee"), ("Idempotency-Key", &key)], body.to_string()).await
    }

    /// A product that nobody else sells, with so many pieces.
    pub async fn product(&self, name: &str, pieces: i64) -> Product {
        let unique = self.key().rsplit_once('-').map(|(name, n)| format!("{}{n}", &name[name.len() - 16..])).unwrap();
        let product = Product { sku: format!("{name}-{}", unique.to_uppercase()), unit_price: 7_000 };
        let body = json!({
            "sku": product.sku, "name_ko": format!("{name} 시험"), "name_en": format!("{name} for a test"),
            "category": "tests", "unit_price": product.unit_price, "currency": "KRW",
        });
        let added = self.act("/v1/products", &body).await;
        assert_eq!(added.status, StatusCode::CREATED, "{added:?}");
        let received = self.act(&format!("/v1/products/{}:receive", product.sku), &json!({"quantity": pieces})).await;
        assert_eq!(received.status, StatusCode::OK, "{received:?}");
        product
    }

    /// Asks until an answer fits.
    pub async fn until(&self, path: &str, fits: impl Fn(&Answer) -> bool) -> Answer {
        self.until_it(path, async || self.get(path).await, fits).await
    }

    /// Asks as an operator until an answer fits.
    pub async fn until_looked(&self, path: &str, fits: impl Fn(&Answer) -> bool) -> Answer {
        self.until_it(path, async || self.look(path).await, fits).await
    }

    async fn until_it(&self, path: &str, ask: impl AsyncFn() -> Answer, fits: impl Fn(&Answer) -> bool) -> Answer {
        let started = Instant::now();
        loop {
            let answer = ask().await;
            if fits(&answer) {
                return answer;
            }
            assert!(started.elapsed() < PATIENCE, "{path} after {PATIENCE:?}: {answer:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// An order, once it stands so.
    pub async fn order(&self, order_id: &str, status: &str) -> Value {
        self.until(&format!("/v1/orders/{order_id}"), |answer| answer.text("status") == status).await.body
    }
}

/// Something that is sold.
pub struct Product {
    pub sku: String,
    pub unit_price: i64,
}

impl Product {
    /// An order of so many pieces.
    pub fn order(&self, quantity: i64, method: &str, country: &str) -> Value {
        json!({
            "lines": [{"sku": self.sku, "quantity": quantity, "unit_price": self.unit_price}],
            "payment_method": method,
            "shipping_address": {
                "recipient": "Kim", "street": "Sejong-daero 110", "city": "Seoul", "postal_code": "04524",
                "country": country,
            },
        })
    }

    /// How many pieces can be ordered.
    pub async fn available(&self, client: &Client) -> i64 {
        client.get(&format!("/v1/products/{}", self.sku)).await.body["available"].as_i64().unwrap()
    }
}
