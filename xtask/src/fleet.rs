//! `cargo xtask up` and `down`: the shop as processes of its own, one per service and replica, on the real servers.
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::connections;
use crate::infra::Infra;
use crate::processes::Process;
use crate::servers::{Server, broken};
use crate::steps::{BUILD, Cargo, Failed, until};

/// The services, the one that customers talk to last.
const SERVICES: [&str; 6] = ["inventory", "payment", "shipping", "order", "auditor", "gateway"];
/// Where the shop is open, as in one process.
const OPEN_AT: u16 = 8_080;
/// The first port of each service; its replicas have the ones after it.
const PORTS: [(&str, u16); 5] =
    [("inventory", 25_420), ("payment", 25_430), ("shipping", 25_440), ("order", 25_450), ("auditor", 25_460)];
/// Of these there is one: customers know one address, and a second auditor would only stand by.
const SINGLE: [&str; 2] = ["gateway", "auditor"];
/// The most replicas of a service.
const MOST: u16 = 9;
/// How long the processes may take to be ready.
const READY: Duration = Duration::from_secs(90);

/// What the shop's processes are.
pub(crate) struct Fleet {
    infra: Infra,
    programs: PathBuf,
    run: PathBuf,
    replicas: BTreeMap<&'static str, u16>,
    /// How fast parcels are, in milliseconds.
    pace: Option<u32>,
    /// Where the gateway is, and how far from their usual ports the others are.
    open_at: u16,
    moved: u16,
    /// The guarantee that its processes do without.
    without: Option<String>,
}

/// Starts the shop's processes.
///
/// # Errors
/// A sentence that says what is wrong with the arguments, with a server, or which process is not ready.
pub(crate) fn up(cargo: &Cargo, arguments: &[&str]) -> Result<(), Failed> {
    let fleet = Fleet::read(cargo, arguments)?;
    fleet.build(cargo)?;
    fleet.up()?;
    println!("\nJangteo is open at http://127.0.0.1:{OPEN_AT}\n");
    for (service, replica) in fleet.all() {
        let address = fleet.address(service, replica);
        println!("{service:<10} http://{address}/readyz  {}", fleet.process(service, replica).log.display());
    }
    println!("\n`cargo xtask down` closes it");
    Ok(())
}

/// Stops the processes that [`up`] started, and the servers if it started them.
///
/// # Errors
/// The first that cannot be stopped.
pub(crate) fn down(cargo: &Cargo) -> Result<(), Failed> {
    Fleet::read(cargo, &[])?.down()
}

/// Forgets what processes keep of logs that are gone with their servers: the seals of an emptied log would be taken for a log that
/// was cut short.
///
/// # Errors
/// If the shop's processes run, or their files cannot be removed.
pub(crate) fn forget(cargo: &Cargo) -> Result<(), Failed> {
    let fleet = Fleet::read(cargo, &[])?;
    if fleet.runs() {
        return Err(Failed::new(
            "the shop's processes run on them: `cargo xtask down` first, and then `cargo xtask infra reset`",
        ));
    }
    fs::remove_dir_all(&fleet.run).map_err(|why| broken(&fleet.run, &why))
}

impl Fleet {
    /// The fleet that the arguments of `up` ask for.
    ///
    /// # Errors
    /// A sentence that says what is wrong with them.
    pub(crate) fn read(cargo: &Cargo, arguments: &[&str]) -> Result<Fleet, Failed> {
        let (mut replicas, mut profile, mut pace) = (BTreeMap::new(), "debug", None);
        let mut rest = arguments.iter().copied();
        while let Some(word) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| Failed::new(format!("{word} needs a value")));
            match word {
                "--replicas" => replicas = read_replicas(value()?)?,
                "--quick" => profile = "quick",
                "--pace-ms" => {
                    let told = value()?;
                    pace = Some(told.parse().map_err(|_| Failed::new(format!("{told} is no number of milliseconds")))?);
                }
                other => return Err(Failed::new(format!("up does not know {other}"))),
            }
        }
        connections::check(&replicas)?;
        let run = cargo.target()?.join("shop");
        fs::create_dir_all(&run).map_err(|why| broken(&run, &why))?;
        let infra = Infra::of(cargo, None, None, false)?;
        let programs = cargo.target()?.join(profile);
        Ok(Fleet { infra, programs, run, replicas, pace, open_at: OPEN_AT, moved: 0, without: None })
    }

    /// The same beside the usual one: on other servers, with files and ports of its own, and without a guarantee.
    ///
    /// # Errors
    /// If its folder cannot be made.
    pub(crate) fn apart(self, infra: Infra, run: &Path, without: Option<&str>) -> Result<Fleet, Failed> {
        let run = run.join("shop");
        fs::create_dir_all(&run).map_err(|why| broken(&run, &why))?;
        let without = without.map(str::to_owned);
        Ok(Fleet { infra, run, without, open_at: OPEN_AT + 1, moved: 1_000, ..self })
    }

    /// The servers that it stands on.
    pub(crate) fn infra(&self) -> &Infra {
        &self.infra
    }

    /// The fleet for tests: several replicas, and parcels that do not take long.
    ///
    /// # Errors
    /// If its folders cannot be made.
    pub(crate) fn of_test(cargo: &Cargo) -> Result<Fleet, Failed> {
        Fleet::read(cargo, &["--replicas", "order=2,inventory=2,payment=2,shipping=2", "--pace-ms", "1000"])
    }

    /// Where customers find it.
    pub(crate) fn open_at(&self) -> String {
        self.address("gateway", 0)
    }

    /// Builds its programs.
    ///
    /// # Errors
    /// If they cannot be built.
    pub(crate) fn build(&self, cargo: &Cargo) -> Result<(), Failed> {
        let quick: &[&str] = if self.programs.ends_with("quick") { &["--profile", "quick"] } else { &[] };
        cargo.step(&[BUILD, quick].concat())
    }

    /// Starts what does not run, and waits until all of it is ready.
    ///
    /// # Errors
    /// Which process is not, and why.
    pub(crate) fn up(&self) -> Result<(), Failed> {
        let theirs = self.run.join("servers");
        if self.infra.up_if_down()? {
            fs::write(&theirs, "").map_err(|why| broken(&theirs, &why))?;
        }
        for (service, replica) in self.all() {
            let process = self.process(service, replica);
            if process.id().is_none() {
                process.start(&mut self.command(service, replica)?)?;
            }
        }
        self.all().try_for_each(|(service, replica)| self.is_ready(service, replica))
    }

    fn is_ready(&self, service: &str, replica: u16) -> Result<(), Failed> {
        let (process, address) = (self.process(service, replica), self.address(service, replica));
        let (mut last, mut ended) = (String::new(), false);
        let ready = until(READY, || {
            ended = process.id().is_none();
            last = get(&address, "/readyz").unwrap_or_else(|why| why.to_string());
            ended || last.starts_with("HTTP/1.1 200 ")
        });
        match (ready, ended) {
            (true, false) => Ok(()),
            (_, true) => {
                Err(Failed::new(format!("{service} {replica} ended; its log ends with\n{}", process.last_lines())))
            }
            (false, false) => Err(Failed::new(format!("{service} {replica} is not ready:\n{last}"))),
        }
    }

    /// Whether any process of it runs.
    pub(crate) fn runs(&self) -> bool {
        SERVICES.iter().any(|service| (0..MOST).any(|replica| self.process(service, replica).id().is_some()))
    }

    /// Stops the processes, those first that others call last.
    ///
    /// # Errors
    /// The first that cannot be stopped.
    pub(crate) fn stop(&self) -> Result<(), Failed> {
        for service in SERVICES.iter().rev() {
            (0..MOST).try_for_each(|replica| self.process(service, replica).stop("TERM"))?;
        }
        Ok(())
    }

    fn down(&self) -> Result<(), Failed> {
        self.stop()?;
        let theirs = self.run.join("servers");
        if theirs.exists() {
            self.infra.down(&Server::ALL)?;
            fs::remove_file(&theirs).map_err(|why| broken(&theirs, &why))?;
        }
        Ok(())
    }

    /// Every process, by service and replica.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, u16)> {
        SERVICES.into_iter().flat_map(|service| {
            let replicas = self.replicas.get(service).copied().unwrap_or(1);
            (0..replicas).map(move |replica| (service, replica))
        })
    }

    /// A process, running or not.
    pub(crate) fn process(&self, service: &str, replica: u16) -> Process {
        Process::new(&self.run, &format!("{service}-{replica}"))
    }

    fn address(&self, service: &str, replica: u16) -> String {
        let port = PORTS
            .iter()
            .find(|(name, _)| *name == service)
            .map_or(self.open_at, |(_, port)| port + self.moved + replica);
        format!("127.0.0.1:{port}")
    }

    fn addresses(&self, service: &str) -> String {
        let of_it = self.all().filter(|(name, _)| *name == service);
        of_it.map(|(name, replica)| self.address(name, replica)).collect::<Vec<_>>().join(",")
    }

    /// The command that starts a process.
    ///
    /// # Errors
    /// If its folder cannot be made.
    pub(crate) fn command(&self, service: &str, replica: u16) -> Result<Command, Failed> {
        let mut command = Command::new(self.programs.join(service));
        for (name, value) in self.infra.of_service(service) {
            command.env(name, value);
        }
        for neighbour in SERVICES.iter().filter(|neighbour| **neighbour != service) {
            command.env(format!("JANGTEO_{}", neighbour.to_uppercase()), self.addresses(neighbour));
        }
        if let Some(pace) = self.pace {
            command.env("JANGTEO_PICK_UP_MS", pace.to_string()).env("JANGTEO_TRANSIT_MS", pace.to_string());
        }
        // The sequencer is missing in the database, and nowhere else.
        if let Some(without) = self.without.as_deref().filter(|without| *without != "sequencer") {
            command.env("JANGTEO_WITHOUT", without);
        }
        let seals = self.run.join(format!("{service}-{replica}-seals"));
        fs::create_dir_all(&seals).map_err(|why| broken(&seals, &why))?;
        command.env("JANGTEO_SEALS", seals).env("JANGTEO_LISTEN", self.address(service, replica));
        Ok(command)
    }
}

/// Reads `order=2,inventory=3`.
fn read_replicas(text: &str) -> Result<BTreeMap<&'static str, u16>, Failed> {
    let one = |part: &str| {
        let (name, count) = part.split_once('=')?;
        let service = SERVICES.into_iter().find(|service| *service == name && !SINGLE.contains(service))?;
        let count = count.parse().ok().filter(|count| (1..=MOST).contains(count))?;
        Some((service, count))
    };
    let told = || {
        let but = SINGLE.join(" and ");
        Failed::new(format!("--replicas is like order=2,payment=3, with 1 to {MOST} of each but {but}"))
    };
    text.split(',').map(|part| one(part).ok_or_else(told)).collect()
}

fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_read_strictly() {
        assert_eq!(read_replicas("order=2,payment=1").unwrap(), BTreeMap::from([("order", 2), ("payment", 1)]));
        for wrong in ["order", "order=0", "order=10", "gateway=2", "auditor=2", "orders=2", ""] {
            assert!(read_replicas(wrong).unwrap_err().sentence.starts_with("--replicas is like"), "{wrong}");
        }
    }
}
