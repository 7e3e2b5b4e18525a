//! `cargo xtask infra`: Postgres, Redis, Kafka and Elasticsearch for the shop's processes and for tests: in containers where
//! Docker answers, otherwise as local processes.
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::fleet;
use crate::packages;
use crate::processes::Process;
use crate::servers::{Place, Server, broken};
use crate::steps::{Cargo, Failed, judge, timed, within};

/// The ports of the servers begin here, in containers too.
pub(crate) const PORTS: u16 = 25_400;
/// What the databases and roles are made by.
const ROLES: &str = "deploy/postgres/roles.sql";
/// How long Docker may take to say that it is there.
const DOCKER: Duration = Duration::from_secs(5);

/// The servers, wherever they run.
pub(crate) struct Infra {
    root: PathBuf,
    place: Place,
    in_containers: bool,
}

/// What `cargo xtask infra` was told.
#[derive(Debug, PartialEq, Eq)]
struct Told<'a> {
    verb: &'a str,
    only: Vec<&'a str>,
    home: Option<&'a str>,
    ports: Option<u16>,
    local: bool,
}

/// Carries out `cargo xtask infra`.
///
/// # Errors
/// A sentence that says what is wrong with the arguments, or with a server.
pub(crate) fn run(cargo: &Cargo, arguments: &[&str]) -> Result<(), Failed> {
    let told = read(arguments)?;
    let only: Vec<Server> = if told.only.is_empty() {
        Server::ALL.to_vec()
    } else {
        let unknown = |name: &str| Failed::new(format!("{name} is none of redis, postgres, kafka, elasticsearch"));
        told.only.iter().map(|name| Server::named(name).ok_or_else(|| unknown(name))).collect::<Result<_, _>>()?
    };
    let infra = Infra::of(cargo, told.home.map(Path::new), told.ports, told.local)?;
    match told.verb {
        "up" => infra.up(&only),
        "down" => infra.down(&only),
        "status" => infra.status(),
        "reset" => {
            // First, for it refuses while the shop stands on them.
            if told.home.is_none() {
                fleet::forget(cargo)?;
            }
            infra.reset()
        }
        "kill" => infra.kill(&only),
        other => Err(Failed::new(format!("infra has up, down, status, reset and kill, not {other}"))),
    }
}

fn read<'a>(arguments: &[&'a str]) -> Result<Told<'a>, Failed> {
    let mut told = Told { verb: "", only: vec![], home: None, ports: None, local: false };
    let mut rest = arguments.iter().copied();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| Failed::new(format!("{word} needs a value")));
        match word {
            "--only" => told.only = value()?.split(',').collect(),
            "--home" => told.home = Some(value()?),
            "--ports" => {
                let ports = value()?.parse().ok().filter(|port| (1_024..32_700).contains(port));
                told.ports = Some(ports.ok_or_else(|| Failed::new("--ports is a number from 1024 to 32699"))?);
            }
            "--local" => told.local = true,
            verb if told.verb.is_empty() && !verb.starts_with('-') => told.verb = verb,
            other => return Err(Failed::new(format!("infra does not know {other}"))),
        }
    }
    Ok(told)
}

impl Infra {
    /// The servers below a folder, or those of this repository.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub(crate) fn of(cargo: &Cargo, home: Option<&Path>, ports: Option<u16>, local: bool) -> Result<Infra, Failed> {
        let below = Infra::folder(cargo)?;
        let run = home.map_or_else(|| below.join("run"), Path::to_owned);
        fs::create_dir_all(&run).map_err(|why| broken(&run, &why))?;
        let run = run.canonicalize().map_err(|why| broken(&run, &why))?;
        let settings = cargo.root().join("deploy/local");
        let place = Place { programs: below.join("programs"), run, settings, ports: ports.unwrap_or(PORTS) };
        let in_containers = !local && home.is_none() && docker_answers();
        Ok(Infra { root: cargo.root().to_owned(), place, in_containers })
    }

    /// Where programs and data of local servers are: below the target folder, where the servers, who are not root, get through.
    ///
    /// # Errors
    /// If cargo does not tell where that is.
    pub(crate) fn folder(cargo: &Cargo) -> Result<PathBuf, Failed> {
        let below = cargo.target()?.join("infra");
        if !packages::is_root() || packages::is_open_to_all(&below) {
            return Ok(below);
        }
        let mut hash = DefaultHasher::new();
        below.hash(&mut hash);
        Ok(PathBuf::from(format!("/var/tmp/jangteo-{:016x}", hash.finish())))
    }

    /// Where processes find the servers: names and values of environment variables.
    pub(crate) fn addresses(&self) -> [(&'static str, String); 5] {
        let Place { programs, .. } = &self.place;
        let at = |port: u16| format!("127.0.0.1:{port}");
        let postgres = at(self.place.postgres());
        [
            (
                "JANGTEO_TEST_POSTGRES",
                format!("postgres://postgres:{}@{postgres}/postgres", packages::POSTGRES_PASSWORD),
            ),
            ("JANGTEO_TEST_KAFKA", at(self.place.kafka())),
            ("JANGTEO_TEST_REDIS", format!("redis://{}", at(self.place.redis()))),
            ("JANGTEO_TEST_ELASTICSEARCH", format!("http://{}", at(self.place.elasticsearch()))),
            ("JANGTEO_TEST_KAFKA_HOME", programs.display().to_string()),
        ]
    }

    /// Starts what does not run yet, and waits until all of it answers.
    ///
    /// # Errors
    /// The first server that cannot be brought up, and why.
    pub(crate) fn up(&self, only: &[Server]) -> Result<(), Failed> {
        let (outcome, took) =
            timed(|| if self.in_containers { self.compose_up(only) } else { self.processes_up(only) });
        outcome?;
        if only.contains(&Server::Postgres) {
            self.make_roles()?;
        }
        let how = if self.in_containers { "in containers" } else { "as local processes" };
        println!("the servers are up {how} after {:.1} s", took.as_secs_f64());
        if let Some(version) = self.place.elasticsearch_version() {
            println!("Elasticsearch is {version}");
        }
        println!("for tests:");
        self.addresses().iter().for_each(|(name, value)| println!("export {name}={value}"));
        Ok(())
    }

    /// Makes the roles and databases that are missing.
    fn make_roles(&self) -> Result<(), Failed> {
        let mut roles = if self.in_containers {
            self.compose(&["run", "--rm", "-T", "roles"], &[])
        } else {
            let mut psql = self.place.psql("postgres");
            psql.arg("-q").arg("-f").arg(self.root.join(ROLES));
            psql
        };
        judge(ROLES, roles.stdout(Stdio::null()).status())
    }

    /// What a process of a service is told of them: names and values of environment variables.
    pub(crate) fn of_service(&self, service: &str) -> Vec<(&'static str, String)> {
        let place = &self.place;
        let at = |port: u16| format!("127.0.0.1:{port}");
        let database = |name: &str| format!("postgres://{name}:{name}@{}/{name}", at(place.postgres()));
        vec![
            ("JANGTEO_POSTGRES", database(service)),
            ("JANGTEO_BANK_POSTGRES", database("bank")),
            ("JANGTEO_CARRIER_POSTGRES", database("carrier")),
            ("JANGTEO_KAFKA", at(place.kafka())),
            ("JANGTEO_REDIS", format!("redis://{}", at(place.redis()))),
            ("JANGTEO_ELASTICSEARCH", format!("http://{}", at(place.elasticsearch()))),
        ]
    }

    /// Starts all of them unless they answer; whether they had to be started.
    ///
    /// # Errors
    /// As [`Infra::up`].
    pub(crate) fn up_if_down(&self) -> Result<bool, Failed> {
        if Server::ALL.into_iter().all(|server| self.place.answers(server)) {
            return Ok(false);
        }
        self.up(&Server::ALL).map(|()| true)
    }

    /// The client of Postgres in a database, as its administrator.
    pub(crate) fn psql(&self, database: &str) -> Command {
        self.place.psql(database)
    }

    /// A server as a local process, running or not.
    pub(crate) fn process(&self, server: Server) -> Process {
        self.place.process(server)
    }

    /// Starts a server again that ended; whoever joins the thread waits until it answers.
    pub(crate) fn rise(&self, server: Server) -> thread::JoinHandle<Result<(), Failed>> {
        let place = self.place.clone();
        thread::spawn(move || place.up(server))
    }

    /// Sees to it that the servers' programs are there.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub(crate) fn install(&self) -> Result<(), Failed> {
        packages::install(&self.place)
    }

    fn processes_up(&self, only: &[Server]) -> Result<(), Failed> {
        packages::install(&self.place)?;
        thread::scope(|scope| {
            let starting: Vec<_> = only.iter().map(|server| scope.spawn(|| self.place.up(*server))).collect();
            let broke = |_| Err(Failed::new("starting a server broke"));
            starting.into_iter().map(|thread| thread.join().unwrap_or_else(broke)).collect::<Vec<_>>()
        })
        .into_iter()
        .collect()
    }

    fn compose_up(&self, only: &[Server]) -> Result<(), Failed> {
        judge("docker compose up", self.compose(&["up", "--detach", "--wait"], only).status())
    }

    fn compose(&self, words: &[&str], only: &[Server]) -> Command {
        let mut docker = Command::new("docker");
        docker.current_dir(&self.root).arg("compose").args(words).args(only.iter().map(|server| server.name()));
        docker
    }

    /// Stops servers in good order; their data stays.
    ///
    /// # Errors
    /// If one cannot be stopped.
    pub(crate) fn down(&self, only: &[Server]) -> Result<(), Failed> {
        if self.in_containers {
            return judge("docker compose stop", self.compose(&["stop"], only).status());
        }
        only.iter().try_for_each(|server| self.place.down(*server))
    }

    /// Kills servers as a crash does. Where they run as processes, they stay down until `up`.
    fn kill(&self, only: &[Server]) -> Result<(), Failed> {
        if self.in_containers {
            return judge("docker compose kill", self.compose(&["kill", "--signal", "SIGKILL"], only).status());
        }
        for server in only {
            self.place.process(*server).kill();
        }
        Ok(())
    }

    fn status(&self) -> Result<(), Failed> {
        if self.in_containers {
            return judge("docker compose ps", self.compose(&["ps"], &Server::ALL).status());
        }
        for server in Server::ALL {
            let process = self.place.process(server);
            match (process.id(), process.memory()) {
                (Some(id), Some(mib)) => println!("{} runs: process {id}, {mib} MiB", server.name()),
                (Some(id), None) => println!("{} runs: process {id}", server.name()),
                (None, _) => println!("{} does not run", server.name()),
            }
        }
        println!("data and logs: {}", self.place.run.display());
        Ok(())
    }

    /// Stops all servers, and forgets all data.
    ///
    /// # Errors
    /// If one cannot be stopped, or its data not be removed.
    pub(crate) fn reset(&self) -> Result<(), Failed> {
        if self.in_containers {
            return judge("docker compose down", self.compose(&["down", "--volumes"], &[]).status());
        }
        self.down(&Server::ALL)?;
        fs::remove_dir_all(&self.place.run).map_err(|why| broken(&self.place.run, &why))
    }
}

/// Whether there is a Docker engine to ask.
fn docker_answers() -> bool {
    let mut docker = Command::new("docker");
    docker.arg("version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    docker.spawn().and_then(|mut child| within(DOCKER, &mut child)).is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_with_a_store_start_after_their_roles_are_made() {
        let compose = include_str!("../../docker-compose.yml");
        // Or they would be made on an empty volume only.
        assert!(!compose.contains(":/docker-entrypoint-initdb.d"));
        assert!(compose.contains(&format!("./{ROLES}:/roles.sql:ro")));
        let after = compose.split("&after-servers").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap();
        assert!(after.contains("roles: {condition: service_completed_successfully}"), "{after}");
        let with_a_store: Vec<_> =
            compose.split("\n\n").filter(|service| service.contains("JANGTEO_POSTGRES: postgres://")).collect();
        assert_eq!(with_a_store.len(), 5);
        assert!(with_a_store.iter().all(|service| service.contains("*after-servers")), "{with_a_store:#?}");
    }

    #[test]
    fn arguments_are_read_in_any_order() {
        let told = read(&["--only", "redis,kafka", "up", "--ports", "22000", "--local"]).unwrap();
        assert_eq!((told.verb, told.only, told.ports, told.local), ("up", vec!["redis", "kafka"], Some(22_000), true));
        for (arguments, said) in [
            (&["up", "--ports", "80"][..], "--ports is a number from 1024 to 32699"),
            (&["up", "--home"], "--home needs a value"),
            (&["up", "down"], "infra does not know down"),
        ] {
            assert_eq!(read(arguments).unwrap_err().sentence, said);
        }
    }
}
