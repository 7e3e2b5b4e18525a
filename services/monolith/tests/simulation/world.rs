//! The shop as hosts of the simulation: a composition root like the monolith's, with a network between its services.
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use auditor::invariant::Terms;
use clock::Ids;
use gateway::{Gateway, Limits};
use host::Process;
use host::http_server::{self, serve};
use host::network::{services, to};
use host::replicas::in_turn;
use host::transport::Transport;
use http::Request;
use messaging::memory::Memory;
use messaging::{Bus, Messages};
use order::Neighbours;
use payment::bank::Bank;
use resilience::deadline;
use search::fts::Fts;
use search::projection::Meters;
use shipping::carrier::Simulator;
use simulation::bus;
use simulation::chance::{Chance, mix};
use simulation::faults::{Class, Faults, Spared};
use simulation::net::{Connector, Listener};
use simulation::store::Database;
use simulation::time::Time;
use simulation::trace::Trace;
use store::Store;
use telemetry::metrics::Red;
use tokio::time::Instant;
use tonic::body::Body;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use turmoil::Sim;

use crate::outside::{UnreliableBank, UnreliableCarrier};
use crate::sabotage::{Missing, Sabotage};
use crate::tally;

/// How long a parcel waits to be picked up, and how long it is on its way: at least so long, and less than so much longer.
const PICK_UP: Duration = Duration::from_millis(400);
const TRANSIT_MS: (u64, u64) = (300, 2_500);

/// Whatever may be waited for is waited for: only what is wrong for good counts.
pub const FOR_GOOD: Terms = Terms { grace: Duration::MAX, settle: Duration::MAX, deliver: Duration::MAX };

/// The database of the listener that counts.
pub const COUNTS: &str = "counts";
/// How long a call may be worked on after its deadline (I-13).
const AFTER_DEADLINE: Duration = Duration::from_millis(50);

/// The services by name, each with how many of it there are.
pub const REPLICAS: [(&str, usize); 6] =
    [("gateway", 2), ("order", 2), ("inventory", 2), ("payment", 1), ("shipping", 1), ("auditor", 1)];

/// The hosts of a service.
pub fn hosts(service: &str) -> Vec<String> {
    let count = REPLICAS.iter().find(|(name, _)| *name == service).map_or(0, |(_, count)| *count);
    (1..=count).map(|number| format!("{service}-{number}")).collect()
}

/// What outlives the hosts. Clones are the same.
#[derive(Clone)]
pub struct World {
    pub seed: u64,
    pub faults: Faults,
    pub time: Time,
    pub trace: Trace,
    pub databases: BTreeMap<&'static str, Arc<Database>>,
    pub bus: Arc<dyn Bus>,
    pub sabotage: Option<Sabotage>,
    /// The processes that run, and how often each host was started.
    pub processes: Arc<Mutex<BTreeMap<String, (Process, u64)>>>,
    /// Calls that were worked on after their deadline.
    pub overdue: Arc<Mutex<Vec<String>>>,
}

impl World {
    pub fn new(seed: u64, spared: &Spared, sabotage: Option<Sabotage>) -> World {
        let (faults, time) = (Faults::of(seed, spared.clone()), Time::default());
        let trace = Trace::new(&time);
        let database = |name| (name, Database::new(name, &faults, &time, &trace));
        let services = ["order", "inventory", "payment", "shipping", "auditor"].map(database);
        let databases = services.into_iter().chain(["bank", "carrier", COUNTS].map(database));
        World {
            seed,
            databases: databases.collect(),
            bus: Arc::new(Memory::new(mix(&[seed, 1]))),
            faults,
            time,
            trace,
            sabotage,
            processes: Arc::default(),
            overdue: Arc::default(),
        }
    }

    /// Whether operators mend whatever is parked as soon as it is.
    pub fn mends_at_once(&self) -> bool {
        self.sabotage.as_ref().is_some_and(|sabotage| sabotage.missing == Missing::RedriveLocked)
    }

    /// A database as a host has it.
    fn store(&self, process: &Process, host: &str, name: &'static str) -> Arc<dyn Store> {
        let store = self.databases[name].seen_from(host);
        match &self.sabotage {
            Some(sabotage) => sabotage.store(store, name, process),
            None => store,
        }
    }

    /// A new process on a host, with a clock that may be wrong.
    fn process(&self, host: &str) -> Process {
        let mut processes = self.processes.lock().unwrap();
        let starts = processes.get(host).map_or(0, |(_, starts)| *starts) + 1;
        let skew = self
            .faults
            .strikes(Class::Skew, host, 3)
            .map_or(0, |drawn| i64::try_from(drawn % 3_000_000).unwrap() - 1_500_000);
        let clock = self.time.clock(skew);
        let chance = Mutex::new(Chance::of(mix(&[self.seed, starts]), host));
        let ids = Ids::from_chance(clock.clone(), move || chance.lock().unwrap().draw());
        let process = Process::new(clock, Arc::new(ids));
        processes.insert(host.to_owned(), (process.clone(), starts));
        self.trace.line(&format!("{host} starts, its clock is {} ms off", skew / 1_000));
        process
    }

    fn messages(&self, process: &Process, host: &str) -> Messages {
        let bus: Arc<dyn Bus> = Arc::new(bus::Access::new(&self.bus, &self.faults, &self.trace, host));
        let messages = Messages::new(process, bus);
        match &self.sabotage {
            Some(sabotage) => sabotage.messages(messages, process),
            None => messages,
        }
    }

    /// The way from a host to another service.
    fn way(&self, host: &str, service: &str) -> Transport {
        let connector = Connector::new(&self.faults, host);
        let replicas = hosts(service).into_iter().map(|replica| {
            let authority = format!("{replica}:{}", simulation::net::PORT).parse().expect("a host and a port");
            to(connector.clone(), authority)
        });
        let way = in_turn(replicas.collect());
        match &self.sabotage {
            Some(sabotage) => sabotage.way(way),
            None => way,
        }
    }

    /// Adds the shop's hosts to a simulation.
    pub fn open(&self, sim: &mut Sim<'_>) {
        for (service, _) in REPLICAS {
            for host in hosts(service) {
                let (world, name) = (self.clone(), host.clone());
                sim.host(host, move || {
                    let (world, name) = (world.clone(), name.clone());
                    async move { world.run(service, &name).await.map_err(Into::into) }
                });
            }
        }
    }

    /// The program of a host.
    fn run<'a>(&'a self, service: &str, host: &'a str) -> Pin<Box<dyn Future<Output = Result<(), String>> + 'a>> {
        match service {
            "gateway" => Box::pin(self.gateway(host)),
            "order" => Box::pin(self.order(host)),
            "inventory" => Box::pin(self.inventory(host)),
            "payment" => Box::pin(self.payment(host)),
            "auditor" => Box::pin(self.auditor(host)),
            _ => Box::pin(self.shipping(host)),
        }
    }

    async fn serve<const N: usize>(
        &self,
        process: &Process,
        host: &str,
        served: [(&'static str, Transport); N],
    ) -> Result<(), String> {
        let listener = Listener::bind(&self.faults, host).await.map_err(|why| why.to_string())?;
        let served = served.map(|(name, transport)| (name, self.watched(transport)));
        serve(listener, process.tasks.clone(), http_server::Limits::default(), services(served)).await;
        Ok(())
    }

    /// Notes calls that are worked on after their deadline (I-13).
    fn watched(&self, transport: Transport) -> Transport {
        let overdue = self.overdue.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request: Request<Body>| {
            let (transport, overdue, path) = (transport.clone(), overdue.clone(), request.uri().path().to_owned());
            let time = request.headers().get(deadline::HEADER).and_then(deadline::decode);
            async move {
                let begun = Instant::now();
                let answer = transport.oneshot(request).await;
                if time.is_some_and(|time| begun.elapsed() > time + AFTER_DEADLINE) {
                    overdue.lock().unwrap().push(format!("{path} took {:?} of {time:?}", begun.elapsed()));
                }
                answer
            }
        }))
    }

    async fn order(&self, host: &str) -> Result<(), String> {
        let process = self.process(host);
        let messages = self.messages(&process, host);
        let way = |service| self.way(host, service);
        let neighbours = Neighbours { inventory: way("inventory"), payment: way("payment"), shipping: way("shipping") };
        let (index, meters) = (Arc::new(Fts::in_memory()), Meters::new(&process));
        let red = Red::new(&process.metrics, "grpc");
        let store = self.store(&process, host, "order");
        let served = order::start(&process, store, &messages, (index, &meters), neighbours, red);
        let served = served.map_err(|why| why.to_string())?;
        let services = [
            ("shop.order.v1.OrderService", served.orders),
            ("shop.order.v1.SagaService", served.sagas),
            ("shop.messaging.v1.DeadLetterService", served.dead_letters),
        ];
        self.serve(&process, host, services).await
    }

    async fn inventory(&self, host: &str) -> Result<(), String> {
        let process = self.process(host);
        let messages = self.messages(&process, host);
        let (index, meters) = (Arc::new(Fts::in_memory()), Meters::new(&process));
        let red = Red::new(&process.metrics, "grpc");
        let served =
            inventory::start(&process, self.store(&process, host, "inventory"), None, &messages, (index, &meters), red);
        let services = [
            ("shop.inventory.v1.InventoryService", served.inventory),
            ("shop.messaging.v1.DeadLetterService", served.dead_letters),
        ];
        self.serve(&process, host, services).await
    }

    async fn payment(&self, host: &str) -> Result<(), String> {
        let process = self.process(host);
        let messages = self.messages(&process, host);
        let (bank, reports) = Bank::new(&process, self.store(&process, host, "bank"));
        let bank = Arc::new(UnreliableBank::new(self, &process, bank));
        let red = Red::new(&process.metrics, "grpc");
        let served = payment::start(&process, self.store(&process, host, "payment"), &messages, (bank, reports), red);
        self.serve(&process, host, [("shop.payment.v1.PaymentService", served)]).await
    }

    async fn shipping(&self, host: &str) -> Result<(), String> {
        let process = self.process(host);
        let messages = self.messages(&process, host);
        let transit = Duration::from_millis(TRANSIT_MS.0 + mix(&[self.seed, 2]) % TRANSIT_MS.1);
        let carrier = Simulator::new(&process, self.store(&process, host, "carrier"), transit);
        let carrier = Arc::new(UnreliableCarrier::new(self, carrier));
        let red = Red::new(&process.metrics, "grpc");
        let served =
            shipping::start(&process, self.store(&process, host, "shipping"), &messages, (carrier, PICK_UP), red);
        let services = [
            ("shop.shipping.v1.ShippingService", served.shipping),
            ("shop.messaging.v1.DeadLetterService", served.dead_letters),
        ];
        self.serve(&process, host, services).await
    }

    async fn auditor(&self, host: &str) -> Result<(), String> {
        let process = self.process(host);
        let (store, messages) = (self.store(&process, host, "auditor"), self.messages(&process, host));
        let books = auditor::start(&process, store, &messages, FOR_GOOD, Red::new(&process.metrics, "grpc"));
        self.serve(&process, host, [("shop.auditor.v1.BookService", books)]).await
    }

    async fn gateway(&self, host: &str) -> Result<(), String> {
        let process = self.process(host);
        let way = |service| self.way(host, service);
        let upstreams = [
            ("shop.inventory.v1.InventoryService", way("inventory")),
            ("shop.order.v1.OrderService", way("order")),
            ("shop.order.v1.SagaService", way("order")),
            ("shop.messaging.v1.DeadLetterService/order", way("order")),
            ("shop.messaging.v1.DeadLetterService/inventory", way("inventory")),
            ("shop.messaging.v1.DeadLetterService/shipping", way("shipping")),
            ("shop.auditor.v1.BookService", way("auditor")),
        ];
        tally::listen(&process, self.store(&process, host, COUNTS), &self.messages(&process, host));
        let gateway = Arc::new(Gateway::new(&process, upstreams, Limits::default())?);
        let listener = Listener::bind(&self.faults, host).await.map_err(|why| why.to_string())?;
        let answer = move |request| {
            let gateway = gateway.clone();
            async move { gateway.handle(request).await }
        };
        serve(listener, process.tasks.clone(), http_server::Limits::default(), answer).await;
        Ok(())
    }
}
