//! One run of a seed: the shop opens, customers come, things go wrong; then peace, and everything has to come to its end.
use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use simulation::faults::Spared;
use simulation::plan::{Action, plan};
use simulation::runs::{Broken, Outcome};
use turmoil::{Builder, Sim};

use crate::customers::{CUSTOMERS, HOMES, Histories, Person, customer, operator};
use crate::judge::Judge;
use crate::sabotage::Sabotage;
use crate::world::{REPLICAS, World, hosts};

/// The grain of time.
const TICK: Duration = Duration::from_millis(4);
/// How long planned faults go on.
const TROUBLE: Duration = Duration::from_secs(8);
/// How long customers may take, with faults.
const WORK: Duration = Duration::from_secs(180);
/// How long after the last fault everything must have come to its end (I-14, I-15).
const REST: Duration = Duration::from_secs(60);
/// How often the books are looked at.
const LOOK_EVERY: u64 = 10;

thread_local! {
    /// What panicked in this run: tokio keeps a task's panic to itself.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(vec![]) };
    /// What was logged since the last step.
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(vec![]) };
}

/// Has panics of simulated hosts, and what they log as a warning or worse, remembered instead of printed.
pub fn remember_what_hosts_say() {
    std::panic::set_hook(Box::new(|panic| PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()))));
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).without_time().with_ansi(false);
    log.with_target(false).with_writer(|| Logged).init();
}

/// Writes log lines into [`LOG`].
struct Logged;

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn run(seed: u64, spared: &Spared, sabotage: Option<Sabotage>) -> Outcome {
    let world = World::new(seed, spared, sabotage);
    let mut sim = Builder::new()
        .rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(WORK + REST)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(8))
        .enable_random_order()
        .build();
    world.open(&mut sim);
    let histories = Histories::default();
    for home in 0..HOMES {
        let people =
            (0..CUSTOMERS / HOMES).map(|number| Person::new(&world, &histories, &format!("customer-{home}-{number}")));
        let living = people.map(customer).collect::<Vec<_>>();
        sim.client(format!("home-{home}"), async move {
            join_all(living).await;
            Ok(())
        });
    }
    let person = Person::new(&world, &histories, "operator");
    sim.client("operator", async move {
        operator(person).await;
        Ok(())
    });
    let mut stage = Stage { world: &world, judge: Judge::new(&world), histories, steps: 0 };
    let broken = stage.play(&mut sim);
    drop(sim);
    stage.outcome(broken)
}

struct Stage<'a> {
    world: &'a World,
    judge: Judge,
    histories: Histories,
    steps: u64,
}

impl Stage<'_> {
    fn play(&mut self, sim: &mut Sim<'_>) -> Vec<Broken> {
        let everybody: Vec<String> = REPLICAS.iter().flat_map(|(service, _)| hosts(service)).collect();
        let mut planned = plan(&self.world.faults, self.world.seed, &everybody, TROUBLE).into_iter().peekable();
        loop {
            while let Some((_, action)) = planned.next_if(|(at, _)| *at <= sim.elapsed()) {
                self.carry_out(sim, &action);
            }
            if let Err(broken) = self.step(sim) {
                return broken;
            }
            let all_done = self.histories.done.load(Ordering::SeqCst) == CUSTOMERS;
            if all_done && planned.peek().is_none() {
                break;
            }
            if sim.elapsed() > WORK {
                return broken("I-14", "customers did not come to their end");
            }
        }
        self.make_peace(sim, &everybody);
        let until = sim.elapsed() + REST;
        loop {
            if let Err(broken) = self.step(sim) {
                return broken;
            }
            if !self.steps.is_multiple_of(LOOK_EVERY) {
                continue;
            }
            let open = self.judge.open();
            // What the auditor waits for others left undone: after so long the verdict says what it is.
            if open.is_empty() && (!self.judge.auditor_waits() || sim.elapsed() > until) {
                break;
            }
            if !open.is_empty() && sim.elapsed() > until {
                return broken("I-14/15", &format!("{REST:?} after the last fault: {}", open.join("; ")));
            }
        }
        self.histories.over.store(true, Ordering::SeqCst);
        let until = sim.elapsed() + REST;
        while self.histories.gone.load(Ordering::SeqCst) <= CUSTOMERS {
            if let Err(broken) = self.step(sim) {
                return broken;
            }
            if sim.elapsed() > until {
                return broken("I-16", "customers and operators cannot see their orders and products");
            }
        }
        self.judge.verdict(&self.histories)
    }

    /// A tick of everything; what is wrong for good after it.
    fn step(&mut self, sim: &mut Sim<'_>) -> Result<(), Vec<Broken>> {
        self.world.time.advance_to(sim.elapsed());
        for database in self.world.databases.values() {
            database.advance();
        }
        if let Err(why) = sim.step() {
            return Err(broken("no panic", &why.to_string()));
        }
        self.steps += 1;
        for line in String::from_utf8_lossy(&LOG.take()).lines() {
            self.world.trace.line(&format!("LOG {line}"));
        }
        let panics = PANICS.take();
        if !panics.is_empty() {
            return Err(broken("no panic", &panics.join("; ")));
        }
        if self.steps.is_multiple_of(LOOK_EVERY) {
            let broken = self.judge.look();
            if !broken.is_empty() {
                return Err(broken);
            }
        }
        Ok(())
    }

    fn carry_out(&self, sim: &mut Sim<'_>, action: &Action) {
        if !action.carry_out(sim) {
            return;
        }
        self.world.trace.line(&format!("FAULT {action:?}"));
        if let Action::Crash(host) = action {
            self.world.databases.values().for_each(|database| database.crashed(host));
        }
    }

    fn make_peace(&self, sim: &mut Sim<'_>, everybody: &[String]) {
        self.world.trace.line("PEACE");
        self.world.faults.make_peace();
        for a in everybody {
            self.carry_out(sim, &Action::Start(a.clone()));
            for b in everybody.iter().filter(|b| *b > a) {
                sim.repair(a.as_str(), b.as_str());
            }
        }
    }

    fn outcome(self, broken: Vec<Broken>) -> Outcome {
        let (faults, trace) = (&self.world.faults, &self.world.trace);
        Outcome {
            broken,
            trace: trace.lines(),
            hash: trace.hash(),
            struck: faults.struck(),
            counts: faults.counts(),
            done: self
                .histories
                .counts
                .lock()
                .unwrap()
                .iter()
                .map(|(what, count)| ((*what).to_owned(), *count))
                .collect(),
        }
    }
}

fn broken(invariant: &str, sentence: &str) -> Vec<Broken> {
    vec![Broken { invariant: invariant.to_owned(), sentence: sentence.to_owned() }]
}
