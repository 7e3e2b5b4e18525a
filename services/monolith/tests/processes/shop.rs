//! A whole shop of processes, each service over a database of its own.
use http::{Method, StatusCode};
use tokio::time::{Instant, sleep};

use crate::customers::{client, order, send, text};
use crate::servers::Servers;
use crate::service::{PATIENCE, Service, free_port};

/// How long a gateway goes on answering once it is told to stop, in milliseconds.
pub const LINGER_MS: u64 = 1_500;

/// The processes, and what they were started with.
pub struct Shop {
    pub gateway: Service,
    pub services: Vec<(&'static str, Service)>,
    settings: Vec<(&'static str, String)>,
    /// Whose address is whose.
    pub databases: Vec<(&'static str, String)>,
    /// What each of them is on, in the order of [`SERVICES`]; then the bank's and the carrier's.
    pub servers: Vec<Servers>,
}

const SERVICES: [(&str, &str); 4] = [
    ("inventory", "JANGTEO_INVENTORY"),
    ("payment", "JANGTEO_PAYMENT"),
    ("shipping", "JANGTEO_SHIPPING"),
    ("order", "JANGTEO_ORDER"),
];

impl Shop {
    /// Opens it, with so many replicas of order and inventory; `None` without servers.
    pub async fn open(replicas: usize, otherwise: &[(&'static str, String)]) -> Option<Shop> {
        let mut servers = Vec::new();
        for _ in 0..6 {
            servers.push(Servers::find().await?);
        }
        let mut settings = servers[0].settings(&[
            ("JANGTEO_PICK_UP_MS", "100".to_owned()),
            ("JANGTEO_TRANSIT_MS", "100".to_owned()),
            ("JANGTEO_LINGER_MS", LINGER_MS.to_string()),
            ("JANGTEO_BANK_POSTGRES", servers[4].postgres()),
            ("JANGTEO_CARRIER_POSTGRES", servers[5].postgres()),
        ]);
        settings.extend(otherwise.iter().cloned());
        let (mut ports, mut databases) = (Vec::new(), Vec::new());
        for (n, (name, address)) in SERVICES.into_iter().enumerate() {
            let count = if matches!(name, "order" | "inventory") { replicas } else { 1 };
            let addresses: Vec<_> = (0..count).map(|_| format!("127.0.0.1:{}", free_port())).collect();
            settings.push((address, addresses.join(",")));
            databases.push((name, servers[n].postgres()));
            ports.extend(addresses.into_iter().map(|address| (name, address)));
        }
        let gateway = Service::start("gateway", &settings);
        let mut shop = Shop { gateway, services: Vec::new(), settings, databases, servers };
        for (name, address) in ports {
            let service = shop.start(name, address);
            shop.services.push((name, service));
        }
        for (_, service) in &mut shop.services {
            service.is_ready().await;
        }
        shop.gateway.is_ready().await;
        Some(shop)
    }

    /// Starts a replica of a service.
    pub fn start(&self, name: &'static str, address: String) -> Service {
        let (_, database) = self.databases.iter().find(|(it, _)| *it == name).unwrap();
        let mut settings = self.settings.clone();
        settings.push(("JANGTEO_POSTGRES", database.clone()));
        Service::start_at(name, address, &settings)
    }

    /// The replicas of a service.
    pub fn replicas(&self, name: &str) -> impl Iterator<Item = &Service> {
        self.services.iter().filter(move |(it, _)| *it == name).map(|(_, service)| service)
    }

    /// Places an order and waits until it is where it ends; its id.
    pub async fn ordered(&self, key: &str, method: &str, country: &str, ends: &str) -> String {
        let headers = [("Idempotency-Key", key), ("Content-Type", "application/json"), ("Prefer", "wait=20")];
        let body = order(method, country).to_string();
        let placed = send(&client(), &self.gateway.address, Method::POST, "/v1/orders", &headers, body).await;
        let (status, placed) = placed.unwrap();
        assert_eq!(status, StatusCode::CREATED, "{placed}");
        let order_id = text(&placed, "order_id").to_owned();
        let started = Instant::now();
        loop {
            let (_, seen) = self.gateway.get(&format!("/v1/orders/{order_id}")).await;
            if seen["status"] == ends {
                return order_id;
            }
            assert!(started.elapsed() < PATIENCE, "{seen}");
            sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}
