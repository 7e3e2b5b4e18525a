//! The real servers behind the ports of a service that is a process of its own.
//!
//! # Problem
//! Processes start in any order, and servers go away and come back: whoever insists on an order is restarted until it happens
//! to be right, and says nothing meanwhile.
//!
//! # Pattern
//! Wait, say what is missed, go on.
//!
//! # Here
//! [`store`] asks until the database is there and fits; what it lacks is in `/readyz` and, once, in the log. The bus and the
//! index are asked when they are needed, by whoever says so in the health too.
//!
//! # Limits
//! What only a person can mend (a wrong password, a schema of a later version) is asked for again as well: once it is mended, no
//! restart is needed.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use cache::redis::Redis;
use cache::{Cache, KEEP};
use clap::Args;
use host::Process;
use host::health::Health;
use host::replicas;
use host::transport::Transport;
use messaging::Messages;
use messaging::kafka::{self, Kafka};
use search::Index;
use search::elastic::Elastic;
use search::fts::Fts;
use store::Store;
use store::file_watch::FileWatch;
use store::postgres::{Postgres, Refusal};
use store::seal;
use telemetry::trouble::Trouble;

/// How often a database is asked for that is not there.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether a server answers.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Under which name it is said whether the brokers answer.
const KAFKA: &str = "Kafka";

/// Settings of a process with one service.
#[derive(Args, Clone, Debug)]
pub struct Servers {
    /// Where it answers calls, `/healthz`, `/readyz` and `/metrics`
    #[arg(long, env = "JANGTEO_LISTEN", default_value = "127.0.0.1:7000", value_name = "IP:PORT")]
    pub listen: SocketAddr,

    /// The service's own database, as postgres://USER:PASSWORD@HOST:PORT/DATABASE
    #[arg(long, env = "JANGTEO_POSTGRES", hide_env_values = true, value_name = "URL")]
    postgres: String,

    /// Brokers, as HOST:PORT[,HOST:PORT]
    #[arg(long, env = "JANGTEO_KAFKA", value_name = "HOSTS")]
    kafka: String,

    /// In how many places each topic is kept that this service makes; with three, a broker may be away
    #[arg(long, env = "JANGTEO_KAFKA_REPLICAS", default_value_t = 1, value_name = "N")]
    kafka_replicas: u16,

    /// What the names of topics, groups and indices begin with, so that several shops can share servers
    #[arg(long, env = "JANGTEO_PREFIX", default_value = "", value_name = "TEXT")]
    prefix: String,

    /// Folder for the seals of the log, which must exist; each replica keeps its own. Without one the log is not sealed
    #[arg(long, env = "JANGTEO_SEALS", value_name = "DIR")]
    seals: Option<PathBuf>,

    #[cfg(feature = "lab")]
    #[command(flatten)]
    lab: crate::lab::Lab,
}

/// What a process can do without a server; which service needs which is said in [`host::health`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It answers nothing, and is unready.
    Always,
    /// What it would do there waits, and it is ready.
    Later,
}

impl Servers {
    /// The store of a service, once it is there; its log is sealed from then on.
    ///
    /// # Errors
    /// If the address is malformed.
    pub async fn store(&self, process: &Process, service: &'static str) -> anyhow::Result<Arc<dyn Store>> {
        let store = store(process, &format!("{service} store"), ("JANGTEO_POSTGRES", &self.postgres)).await?;
        #[cfg(feature = "lab")]
        let store = self.lab.store(store);
        if let Some(folder) = &self.seals {
            let (store, file, health) =
                (store.clone(), folder.join(format!("{service}.seals")), process.health.clone());
            process.tasks.spawn_until_stop(async move {
                seal::run(store.as_ref(), &file, &FileWatch::default(), |why| health.tell("seals", why)).await;
            });
        }
        Ok(store)
    }

    /// The store of a service, for a command: it must be there.
    ///
    /// # Errors
    /// A sentence, if it is not.
    pub async fn database(&self) -> anyhow::Result<Arc<dyn Store>> {
        Ok(Arc::new(Postgres::open(&self.postgres, None).await.context("JANGTEO_POSTGRES")?))
    }

    /// What carries messages; whether the brokers answer is said in the process's health, which is degraded or unready without them.
    ///
    /// # Errors
    /// If the brokers' addresses are malformed.
    pub fn messages(&self, process: &Process, need: Need) -> anyhow::Result<Messages> {
        let settings =
            kafka::Settings { servers: self.kafka.clone(), prefix: self.prefix.clone(), replicas: self.kafka_replicas };
        let kafka = Kafka::new(&settings).context("JANGTEO_KAFKA, JANGTEO_KAFKA_REPLICAS or JANGTEO_PREFIX")?;
        let bus = Arc::new(kafka);
        let messages = Messages::new(process, bus.clone());
        process.health.missing(KAFKA, "it was not asked yet");
        process.tasks.spawn_until_stop(look_after(process.health.clone(), KAFKA.to_owned(), need, move || {
            let bus = bus.clone();
            async move { bus.answers().await.map_err(|why| why.to_string()) }
        }));
        #[cfg(feature = "lab")]
        let messages = Messages { without: self.lab.armed()?, ..messages };
        Ok(messages)
    }
}

/// The store in the database that a setting names, once it is there.
///
/// # Errors
/// If the address is malformed, which does not pass.
pub async fn store(process: &Process, part: &str, (setting, url): (&str, &str)) -> anyhow::Result<Arc<dyn Store>> {
    let mut trouble = Trouble::default();
    let store = loop {
        match Postgres::open(url, None).await {
            Ok(store) => break Arc::new(store),
            // Neither can change while the process runs.
            Err(why) if matches!(why.reason, Refusal::Address | Refusal::Environment(_)) => {
                return Err(anyhow!("{setting}: {why}"));
            }
            Err(why) => {
                let why = why.to_string();
                if trouble.is_news(&why) {
                    tracing::warn!("{part}: {why}; until that is mended, the process waits");
                }
                process.health.missing(part, why);
                tokio::time::sleep(ASK_EVERY).await;
            }
        }
    };
    process.health.ready(part);
    let looked_at = store.clone();
    process.tasks.spawn_until_stop(look_after(process.health.clone(), part.to_owned(), Need::Always, move || {
        let store = looked_at.clone();
        async move { store.version(&"health".into()).await.map(|_| ()).map_err(|why| why.to_string()) }
    }));
    Ok(store)
}

/// Says whether a server answers, for as long as the process runs.
async fn look_after<A>(health: Health, part: String, need: Need, ask: impl Fn() -> A)
where
    A: Future<Output = Result<(), String>>,
{
    let mut trouble = Trouble::default();
    loop {
        match ask().await {
            Ok(()) => {
                if trouble.is_over() {
                    tracing::info!("{part}: it answers again");
                }
                health.ready(&part);
            }
            Err(why) => {
                if trouble.is_news(&why) {
                    tracing::warn!("{part}: it does not answer: {why}");
                }
                match need {
                    Need::Always => health.missing(&part, why),
                    Need::Later => health.degraded(&part, why),
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Settings of a service that can be searched.
#[derive(Args, Clone, Debug)]
pub struct Search {
    /// Elasticsearch, as http://HOST:PORT. Without it each replica keeps an index of its own
    #[arg(long, env = "JANGTEO_ELASTICSEARCH", value_name = "URL")]
    elasticsearch: Option<String>,

    /// Folder for the index of this replica, which must exist; it is used without Elasticsearch only. Without one the index is in
    /// memory: it grows with the log, and is made anew at each start
    #[arg(long, env = "JANGTEO_SEARCH_FOLDER", value_name = "DIR")]
    search_folder: Option<PathBuf>,
}

impl Search {
    /// The index of a name on the servers of a service.
    ///
    /// # Errors
    /// If the address is malformed, or the folder cannot be used.
    pub fn index(&self, process: &Process, servers: &Servers, name: &str) -> anyhow::Result<Arc<dyn Index>> {
        // Where the setting is there and empty, as composed settings have it, there is none.
        Ok(match self.elasticsearch.as_ref().filter(|url| !url.is_empty()) {
            None => Arc::new(self.own(name)?),
            Some(url) => {
                let index = Elastic::new(url, &format!("{}jangteo-{name}", servers.prefix), process.ids.clone());
                Arc::new(index.context("JANGTEO_ELASTICSEARCH")?)
            }
        })
    }
}

impl Search {
    /// An index of this replica alone.
    fn own(&self, name: &str) -> anyhow::Result<Fts> {
        match &self.search_folder {
            None => Ok(Fts::in_memory()),
            Some(folder) => Fts::open_alone(folder, name).context("JANGTEO_SEARCH_FOLDER"),
        }
    }
}

/// Settings of a service whose replicas share a cache.
#[derive(Args, Clone, Debug)]
pub struct Cached {
    /// Redis, as redis://[[USER]:PASSWORD@]HOST:PORT. Without it each replica asks the database, and shows nothing while that is away
    #[arg(long, env = "JANGTEO_REDIS", hide_env_values = true, value_name = "URL")]
    redis: Option<String>,
}

impl Cached {
    /// The cache of a service beside its servers, if there is one.
    ///
    /// # Errors
    /// If the address is malformed.
    pub fn cache(&self, servers: &Servers, service: &str) -> anyhow::Result<Option<Arc<dyn Cache>>> {
        let url = self.redis.as_ref().filter(|url| !url.is_empty());
        let prefix = format!("{}jangteo:{service}:", servers.prefix);
        let redis = url.map(|url| Redis::new(url, &prefix, KEEP).map(|redis| Arc::new(redis) as Arc<dyn Cache>));
        redis.transpose().context("JANGTEO_REDIS")
    }
}

/// A transport to another service, at HOST:PORT[,HOST:PORT].
///
/// # Errors
/// A sentence, if the addresses are malformed.
pub fn to(process: &Process, service: &str, addresses: &str) -> anyhow::Result<Transport> {
    let broken = |why| anyhow!("JANGTEO_{}: {why}", service.to_uppercase());
    replicas::by_name(&process.tasks, addresses).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        search: Search,
    }

    /// Memory is small in a container: an index that is to be kept elsewhere is kept there, and only there.
    #[tokio::test]
    async fn an_index_without_a_server_is_kept_in_the_folder_that_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let own = |arguments: &[&str]| {
            let program = Program::try_parse_from(std::iter::once("program").chain(arguments.iter().copied())).unwrap();
            program.search.own("order")
        };
        assert!(own(&[]).is_ok(), "then it is in memory");
        let place = folder.path().to_str().unwrap();
        let kept = own(&["--search-folder", place]).unwrap();
        assert!(folder.path().join("order-search.db").exists());
        let second = format!("{:#}", own(&["--search-folder", place]).err().unwrap());
        assert!(second.contains("JANGTEO_SEARCH_FOLDER") && second.contains("another process"), "{second}");
        drop(kept);
        assert!(own(&["--search-folder", "/nowhere"]).is_err());
    }

    /// Orders are taken while the brokers are away: no replica of any service may leave the rotation over them.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_away_makes_unready_only_who_can_do_nothing_without_it() {
        for (need, unready) in [(Need::Always, true), (Need::Later, false)] {
            let health = Health::default();
            health.missing(KAFKA, "it was not asked yet");
            let away = || async { Err("it is away".to_owned()) };
            let looking = look_after(health.clone(), KAFKA.to_owned(), need, away);
            assert!(tokio::time::timeout(LOOK_EVERY, looking).await.is_err());
            assert_eq!((health.unready().is_empty(), health.impaired().is_empty()), (!unready, unready));
            let back = look_after(health.clone(), KAFKA.to_owned(), need, || async { Ok(()) });
            assert!(tokio::time::timeout(LOOK_EVERY, back).await.is_err());
            assert!(health.unready().is_empty() && health.impaired().is_empty());
        }
    }
}
