//! The whole shop under a seeded simulation: `cargo xtask simulate`, and a few seeds in every `cargo test`.
//!
//! Each service is a host that runs the product's own servers and clients, customers and operators are hosts too. What goes
//! wrong comes from the seed; what must hold whatever goes wrong is judged by the auditor's books, by the logs of the services,
//! and by what customers were told.
#![expect(clippy::print_stdout, reason = "it is a program for a terminal")]
#![expect(clippy::unwrap_used, reason = "a run that cannot go on is broken")]
#![expect(unreachable_pub, reason = "nothing of a test program is reached from elsewhere")]

mod customers;
mod judge;
#[path = "../ledgers/mod.rs"]
mod ledgers;
mod outside;
mod run;
mod sabotage;
#[path = "../tally/mod.rs"]
mod tally;
mod world;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Parser;
use simulation::faults::{Class, Spared};
use simulation::outcome;
use simulation::record::Record;
use simulation::runs::{Broken, Outcome, Run, Summary, alone, campaign, smaller};

use crate::sabotage::{Missing, Sabotage};

/// So few seeds that `cargo test` stays quick.
const A_FEW: u64 = 3;
/// From so many seeds on every kind of fault must have been seen.
const MANY: u64 = 50;
/// A guarantee that is missing must be noticed within so many seeds.
const NOTICED_WITHIN: u64 = 200;
/// So many runs are spent on leaving faults out of a failure.
const TRIES: usize = 120;

/// Runs the shop under seeded simulations.
#[derive(Parser)]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = A_FEW)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Only every so many-th, for several processes side by side
    #[arg(long, default_value_t = 1)]
    step: u64,
    /// Keep what was found in this file, and go on from there
    #[arg(long)]
    record: Option<PathBuf>,
    /// Run one seed and print what happened
    #[arg(long)]
    trace: Option<u64>,
    /// Run one seed and print its outcome for the process that asked
    #[arg(long, hide = true)]
    one: Option<u64>,
    /// With --trace: leave these faults out, as KIND or KIND@PLACE#NUMBER, with commas
    #[arg(long, value_delimiter = ',')]
    spare: Vec<String>,
    /// Take a guarantee away, by its word; `all` for one after another
    #[arg(long)]
    without: Option<String>,
    /// Add up records, and print them
    #[arg(long, num_args = 1..)]
    sum: Vec<PathBuf>,
    /// What `cargo test` passes on to every test program: such a name is none of this one's
    filter: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.filter.is_some() {
        println!("the simulation has no tests by name");
        return ExitCode::SUCCESS;
    }
    run::remember_what_hosts_say();
    if !arguments.sum.is_empty() {
        return sum(&arguments.sum);
    }
    if let Some(seed) = arguments.one {
        let outcome = here(seed, &arguments.spare, arguments.without.as_deref().and_then(missing));
        println!("{}", outcome::write(&outcome.unwrap()));
        return ExitCode::SUCCESS;
    }
    match (&arguments.trace, arguments.without.as_deref()) {
        (Some(seed), without) => trace(*seed, &arguments.spare, without.and_then(missing)),
        (None, None) => hold(&arguments),
        (None, Some("all")) => table(every(&arguments)),
        (None, Some(word)) => match missing(word) {
            Some(missing) => table(vec![missing]),
            None => {
                println!("no guarantee is called {word}; there are {}", words());
                ExitCode::from(2)
            }
        },
    }
}

/// This process's share of the guarantees.
fn every(arguments: &Arguments) -> Vec<Missing> {
    let number = |number: u64| usize::try_from(number).unwrap();
    Missing::ALL.iter().copied().skip(number(arguments.from) - 1).step_by(number(arguments.step)).collect()
}

fn missing(word: &str) -> Option<Missing> {
    Missing::ALL.iter().copied().find(|missing| missing.word() == word)
}

fn words() -> String {
    Missing::ALL.iter().map(|missing| missing.word()).collect::<Vec<_>>().join(", ")
}

/// The shop, each time in a process of its own.
fn shop(missing: Option<Missing>) -> impl Fn(u64, &Spared) -> Outcome + Sync {
    move |seed, spared| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--one").arg(seed.to_string());
        if !spared.is_nothing() {
            command.arg("--spare").arg(spared.to_string());
        }
        if let Some(missing) = missing {
            command.arg("--without").arg(missing.word());
        }
        let output = command.output().unwrap();
        outcome::read(&String::from_utf8_lossy(&output.stdout)).unwrap_or_else(|| {
            let sentence = String::from_utf8_lossy(&output.stderr).into_owned();
            Outcome { broken: vec![Broken { invariant: "no crash".to_owned(), sentence }], ..Outcome::default() }
        })
    }
}

/// One run in this process.
fn here(seed: u64, spare: &[String], missing: Option<Missing>) -> Result<Outcome, String> {
    let spared = spare.join(",").parse()?;
    Ok(alone(&move |seed, spared: &Spared| run::run(seed, spared, missing.map(Sabotage::of)), seed, &spared))
}

/// Every seed holds, and every kind of fault was met.
fn hold(arguments: &Arguments) -> ExitCode {
    let shop = shop(None);
    let mut record = match arguments.record.as_deref().map(Record::open).transpose() {
        Ok(record) => record.unwrap_or_default(),
        Err(why) => {
            println!("{why}");
            return ExitCode::from(2);
        }
    };
    let first = arguments.from + record.summary.held * arguments.step;
    let seeds = (first..arguments.from + arguments.seeds).step_by(usize::try_from(arguments.step).unwrap());
    let summary = campaign(&shop, std::mem::take(&mut record.summary), seeds, |summary, seed| {
        if summary.held.is_multiple_of(25) {
            println!("seed {seed}: {} seeds held, {} orders", summary.held, summary.done["orders placed"]);
        }
        record.keep(summary);
    });
    if let Some((seed, outcome)) = &summary.broken {
        explain(&shop, *seed, outcome);
        return ExitCode::FAILURE;
    }
    record.end(&summary);
    if arguments.record.is_some() { ExitCode::SUCCESS } else { conclude(&summary) }
}

/// What several processes found.
fn sum(files: &[PathBuf]) -> ExitCode {
    let mut all = Summary::default();
    for file in files {
        match Record::open(file) {
            Ok(record) => all.add(record.summary),
            Err(why) => {
                println!("{why}");
                return ExitCode::from(2);
            }
        }
    }
    conclude(&all)
}

fn conclude(summary: &Summary) -> ExitCode {
    print(summary);
    let never: Vec<_> = Class::ALL.iter().filter(|class| !summary.counts.contains_key(class)).collect();
    if summary.held >= MANY && !never.is_empty() {
        println!("never injected: {never:?}");
        return ExitCode::FAILURE;
    }
    println!("\n{} passed, 0 failed", summary.held);
    ExitCode::SUCCESS
}

fn print(summary: &Summary) {
    println!(
        "\nseeds held: {}, run twice and the same: {}, mixed: {:016x}",
        summary.held, summary.repeated, summary.hash
    );
    println!("\n| done | |\n|---|---|");
    summary.done.iter().for_each(|(what, count)| println!("| {what} | {count} |"));
    println!("\n| fault | times |\n|---|---|");
    summary.counts.iter().for_each(|(class, count)| println!("| {class} | {count} |"));
}

/// A broken seed, with the command that repeats it and what it needs.
fn explain(shop: &Run, seed: u64, outcome: &Outcome) {
    println!("\nseed {seed} is broken:");
    outcome.broken.iter().for_each(|broken| println!("  {}: {}", broken.invariant, broken.sentence));
    println!("again: cargo xtask simulate --trace {seed}\n\nit still is with fewer faults:");
    let (spared, outcome) = smaller(shop, seed, outcome, TRIES);
    outcome.trace.iter().for_each(|line| println!("{line}"));
    outcome.broken.iter().for_each(|broken| println!("  {}: {}", broken.invariant, broken.sentence));
    println!("this one: cargo xtask simulate --trace {seed} --spare {spared}");
}

fn trace(seed: u64, spare: &[String], missing: Option<Missing>) -> ExitCode {
    let outcome = match here(seed, spare, missing) {
        Ok(outcome) => outcome,
        Err(why) => {
            println!("{why}");
            return ExitCode::from(2);
        }
    };
    outcome.trace.iter().for_each(|line| println!("{line}"));
    outcome.broken.iter().for_each(|broken| println!("  {}: {}", broken.invariant, broken.sentence));
    if outcome.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Each guarantee is missed, and for its own reason.
fn table(all: Vec<Missing>) -> ExitCode {
    let count = all.len();
    if all.first() == Missing::ALL.first() || count == 1 {
        println!("| without | noticed by seed | broken |\n|---|---|---|");
    }
    let mut unnoticed = 0;
    for missing in all {
        let summary = campaign(&shop(Some(missing)), Summary::default(), 1..=NOTICED_WITHIN, |_, _| {});
        let right = |outcome: &Outcome| {
            outcome.broken.iter().find(|broken| missing.breaks().contains(&broken.invariant.as_str())).cloned()
        };
        let row = match &summary.broken {
            None => format!("**nobody** within {NOTICED_WITHIN} seeds |"),
            Some((seed, outcome)) => match right(outcome) {
                Some(broken) => format!("{seed} | {}: {}", broken.invariant, broken.sentence),
                None => format!("{seed} | **for another reason**: {:?}", outcome.broken),
            },
        };
        unnoticed += u32::from(row.contains("**"));
        println!("| {} | {row} |", missing.word());
    }
    println!("\n{} passed, {unnoticed} failed", count - unnoticed as usize);
    if unnoticed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
