//! `cargo xtask crash`: the shop's processes and servers are killed and stopped at random while customers shop, and at every
//! named place in the code; then everything is started again, and the books are judged.
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::fleet::Fleet;
use crate::infra::Infra;
use crate::processes::Process;
use crate::servers::Server;
use crate::simulate;
use crate::steps::{Cargo, Failed, judge, within};

/// How many times something is killed unless it is said.
const KILLS: u64 = 40;
/// How many in `cargo xtask test`.
pub(crate) const KILLS_OF_TEST: &str = "20";
/// The ports of the servers that are killed: a set of their own, with nothing in it at first.
const PORTS: u16 = 26_400;
/// Replicas, and how fast parcels are.
const FLEET: [&str; 4] = ["--replicas", "order=2,inventory=2,payment=2,shipping=2", "--pace-ms", "300"];
/// Builds it as fast code.
const QUICK: &str = "--quick";
/// The longest that something stays frozen.
const FREEZE: Duration = Duration::from_secs(20);
/// How long the judge may take, with the shop coming to its end.
const JUDGE: Duration = Duration::from_secs(400);
/// Places in the code where a process can be made to crash (`lab::Point`), and the services that come by them.
const POINTS: [(&str, &[&str]); 8] = [
    ("written", &["order", "inventory", "payment", "shipping", "auditor"]),
    ("committed", &["order", "inventory", "payment", "shipping", "auditor"]),
    ("appended", &["order", "inventory", "payment", "shipping"]),
    ("published", &["order", "inventory", "payment", "shipping"]),
    ("taken-in", &["order", "inventory", "shipping"]),
    ("step-committed", &["order"]),
    ("step-answered", &["order"]),
    ("provider-answered", &["payment", "shipping"]),
];
/// What can be taken away: by the processes themselves, or in their databases.
const GUARANTEES: [&str; 3] = ["inbox", "commit-id-check", "sequencer"];
/// Positions are drawn when a row is written, as serial numbers are, and not in the order of the commits.
const NO_SEQUENCER: [&str; 5] = [
    "CREATE SEQUENCE hasty",
    "GRANT USAGE ON SEQUENCE hasty TO PUBLIC",
    "SELECT setval('hasty', greatest(1, (SELECT max(position) FROM events)))",
    "CREATE FUNCTION hasten() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.position := nextval('hasty'); RETURN NEW; END $$",
    "CREATE TRIGGER hasty BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION hasten()",
];

/// What is done to a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT some seconds later.
    Freeze,
    /// It crashes by itself, at a place in its code.
    At(&'static str),
}

/// What was told on the command line.
struct Told {
    kills: u64,
    seed: u64,
    without: Option<String>,
    quick: bool,
}

/// Runs it.
///
/// # Errors
/// If something is wrong with the shop afterwards, or could not be started.
pub(crate) fn run(cargo: &Cargo, arguments: &[&str]) -> Result<(), Failed> {
    let told = read(arguments)?;
    let quick: &[&str] = if told.quick { &["--profile", "quick"] } else { &[] };
    let program = simulate::test_program(cargo, "crash", &[&["--workspace", "--all-features"], quick].concat())?;
    let home = Infra::folder(cargo)?.join("crash");
    let infra = || Infra::of(cargo, Some(&home), Some(PORTS), true);
    // Always from nothing: what an earlier run left is no longer of interest, or broken on purpose.
    infra()?.reset()?;
    let infra = infra()?;
    infra.up(&Server::ALL)?;
    let fleet = Fleet::read(cargo, &[&FLEET[..], if told.quick { &[QUICK] } else { &[] }].concat())?;
    fleet.build(cargo)?;
    let fleet = fleet.apart(infra, &home, told.without.as_deref())?;
    let ended = campaign(&fleet, &program, &told);
    let stopped = fleet.stop();
    let down = fleet.infra().down(&Server::ALL);
    ended.and(stopped).and(down)
}

fn read(arguments: &[&str]) -> Result<Told, Failed> {
    let mut told = Told { kills: KILLS, seed: 1, without: None, quick: false };
    let mut rest = arguments.iter().copied();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| Failed::new(format!("{word} needs a value")));
        let number = |text: &str| text.parse().map_err(|_| Failed::new(format!("{text} is no number")));
        match word {
            "--kills" => told.kills = number(value()?)?,
            "--seed" => told.seed = number(value()?)?,
            QUICK => told.quick = true,
            "--without" => told.without = Some(value()?.to_owned()),
            other => return Err(Failed::new(format!("crash does not know {other}"))),
        }
    }
    if let Some(other) = told.without.as_deref().filter(|word| !GUARANTEES.contains(word)) {
        return Err(Failed::new(format!("--without is one of {}, not {other}", GUARANTEES.join(", "))));
    }
    Ok(told)
}

fn campaign(fleet: &Fleet, program: &Path, told: &Told) -> Result<(), Failed> {
    fleet.up()?;
    if told.without.as_deref() == Some("sequencer") {
        hurry(fleet)?;
    }
    let mut customers = Customers::start(fleet, program, told.without.as_deref())?;
    let mut blows =
        Blows { fleet, chance: Chance::new(told.seed), down: vec![], rising: vec![], done: BTreeMap::new() };
    let struck = (0..told.kills).try_for_each(|number| {
        customers.still_shop()?;
        blows.strike(number)
    });
    let raised = struck.and_then(|()| blows.raise_all()).and_then(|()| fleet.up());
    let judged = raised.and_then(|()| customers.judged());
    println!("\n| what | how | times |\n|---|---|---|");
    for ((victim, blow), times) in &blows.done {
        let how = match blow {
            Blow::Kill => "SIGKILL".to_owned(),
            Blow::Freeze => format!("SIGSTOP, up to {} s", FREEZE.as_secs()),
            Blow::At(point) => format!("crash at `{point}`"),
        };
        println!("| {victim} | {how} | {times} |");
    }
    println!(
        "\nseed {}: {} blows, {}",
        told.seed,
        blows.done.values().sum::<u64>(),
        if judged.is_ok() { "nothing broken" } else { "broken" }
    );
    judged
}

/// Takes the sequencer's work away from all databases.
fn hurry(fleet: &Fleet) -> Result<(), Failed> {
    for service in ["order", "inventory", "payment", "shipping"] {
        let mut psql = fleet.infra().psql(service);
        psql.args(["-q", "-v", "ON_ERROR_STOP=1"]).args(NO_SEQUENCER.iter().flat_map(|step| ["-c", step]));
        psql.stdout(Stdio::null());
        judge("psql", psql.status())?;
    }
    Ok(())
}

/// The customers, and the judge that they become.
struct Customers(Child);

impl Customers {
    fn start(fleet: &Fleet, program: &Path, without: Option<&str>) -> Result<Customers, Failed> {
        let mut command = Command::new(program);
        command
            .envs(fleet.infra().addresses())
            .env("JANGTEO_TEST_SHOP", fleet.open_at())
            .env("JANGTEO_WITHOUT", without.unwrap_or_default())
            .env("JANGTEO_TEST_CRASH", "1");
        let started = command.stdin(Stdio::piped()).spawn();
        started.map(Customers).map_err(|why| Failed::new(format!("{} cannot be started: {why}", program.display())))
    }

    fn still_shop(&mut self) -> Result<(), Failed> {
        match self.0.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(Failed::new("the customers gave up; what they said is above")),
        }
    }

    /// Lets them stop shopping, and look at what became of it.
    fn judged(&mut self) -> Result<(), Failed> {
        if let Some(mut told) = self.0.stdin.take() {
            // They have gone if it cannot be written.
            let _ = told.write_all(b"enough\n");
        }
        judge("the judgement of the shop", within(JUDGE, &mut self.0))
    }
}

impl Drop for Customers {
    fn drop(&mut self) {
        // Gone already, or of no more use.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Something that is down, and when it comes back.
struct Down {
    victim: Victim,
    frozen: bool,
    back: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Service(&'static str, u16),
    Server(Server),
}

impl Victim {
    fn name(self) -> &'static str {
        match self {
            Victim::Service(service, _) => service,
            Victim::Server(server) => server.name(),
        }
    }
}

/// The first server that did not come back.
fn risen_well(risen: Vec<(Victim, JoinHandle<Result<(), Failed>>)>) -> Result<(), Failed> {
    let broke = |_| Err(Failed::new("starting a server broke"));
    risen.into_iter().try_for_each(|(_, thread)| thread.join().unwrap_or_else(broke))
}

struct Blows<'a> {
    fleet: &'a Fleet,
    chance: Chance,
    down: Vec<Down>,
    /// Servers that are starting: they take their time, and nobody waits for them.
    rising: Vec<(Victim, JoinHandle<Result<(), Failed>>)>,
    done: BTreeMap<(&'static str, Blow), u64>,
}

impl Blows<'_> {
    #[expect(clippy::disallowed_methods, reason = "real processes, in real time")]
    fn strike(&mut self, number: u64) -> Result<(), Failed> {
        sleep(Duration::from_millis(100 + self.chance.below(1_400)));
        self.raise(Instant::now())?;
        let victim = self.victim();
        if self.down.iter().any(|down| down.victim == victim) || self.rising.iter().any(|(rising, _)| *rising == victim)
        {
            return Ok(());
        }
        let process = self.process(victim);
        // Every place in its turn; everything else by chance.
        let blow = match victim {
            Victim::Service(service, _) if number.is_multiple_of(3) && service != "gateway" => {
                let points: Vec<_> = POINTS.iter().filter(|(_, services)| services.contains(&service)).collect();
                Blow::At(points[usize::try_from(self.chance.below(points.len() as u64)).unwrap_or(0)].0)
            }
            _ if self.chance.below(5) == 0 => Blow::Freeze,
            _ => Blow::Kill,
        };
        let away = match blow {
            Blow::Freeze => 1_000 + self.chance.below(u64::try_from(FREEZE.as_millis()).unwrap_or(0) - 1_000),
            _ => self.chance.below(3_000),
        };
        match (blow, victim) {
            (Blow::Freeze, _) => process.signal_all("STOP"),
            (Blow::At(point), Victim::Service(service, replica)) => {
                process.stop("TERM")?;
                let fault = format!("{point}:{}", 1 + self.chance.below(20));
                process.start(self.fleet.command(service, replica)?.env("JANGTEO_FAULT", fault))?;
            }
            _ => _ = process.kill(),
        }
        *self.done.entry((victim.name(), blow)).or_default() += 1;
        println!("{} {number}: {} {blow:?}, {away} ms", self.fleet.open_at(), victim.name());
        let back = Instant::now() + Duration::from_millis(away);
        self.down.push(Down { victim, frozen: blow == Blow::Freeze, back });
        Ok(())
    }

    /// Servers less often than services.
    fn victim(&mut self) -> Victim {
        let services: Vec<_> = self.fleet.all().map(|(service, replica)| Victim::Service(service, replica)).collect();
        let servers = Server::ALL.map(Victim::Server);
        let from: &[Victim] = if self.chance.below(4) == 0 { &servers } else { &services };
        from[usize::try_from(self.chance.below(from.len() as u64)).unwrap_or(0)]
    }

    fn process(&self, victim: Victim) -> Process {
        match victim {
            Victim::Service(service, replica) => self.fleet.process(service, replica),
            Victim::Server(server) => self.fleet.infra().process(server),
        }
    }

    /// Brings back what has been down for long enough.
    fn raise(&mut self, now: Instant) -> Result<(), Failed> {
        let (risen, rising) =
            std::mem::take(&mut self.rising).into_iter().partition(|(_, thread)| thread.is_finished());
        self.rising = rising;
        risen_well(risen)?;
        let (ready, down) = std::mem::take(&mut self.down).into_iter().partition(|down| down.back <= now);
        self.down = down;
        for Down { victim, frozen, .. } in ready {
            let process = self.process(victim);
            if frozen {
                process.signal_all("CONT");
            }
            match victim {
                Victim::Server(server) => self.rising.push((victim, self.fleet.infra().rise(server))),
                // One that is armed runs until it crashes; if it has not by the end, it is as good as any.
                Victim::Service(service, replica) if process.id().is_none() => {
                    process.start(&mut self.fleet.command(service, replica)?)?;
                }
                Victim::Service(..) => {}
            }
        }
        // Whoever crashed by itself since.
        for (service, replica) in self.fleet.all() {
            let process = self.fleet.process(service, replica);
            let victim = Victim::Service(service, replica);
            if process.id().is_none() && !self.down.iter().any(|down| down.victim == victim) {
                process.start(&mut self.fleet.command(service, replica)?)?;
            }
        }
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "everything comes back at once")]
    fn raise_all(&mut self) -> Result<(), Failed> {
        self.raise(Instant::now() + FREEZE)?;
        risen_well(std::mem::take(&mut self.rising))?;
        // A process that is still armed would crash while it is judged.
        for (service, replica) in self.fleet.all().filter(|(service, _)| *service != "gateway") {
            self.fleet.process(service, replica).stop("TERM")?;
        }
        Ok(())
    }
}
