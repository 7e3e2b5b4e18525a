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
mod world;

use std::process::ExitCode;

use simulation::runs::{Summary, campaign, smaller};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, otherwise: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    let (from, seeds) = (number("--from", 1), number("--seeds", 5));
    let shop = |seed: u64, spared: &_| run::run(seed, spared, None);
    run::remember_what_hosts_say();
    #[expect(clippy::disallowed_methods, reason = "real time is what is told")]
    let started = std::time::Instant::now();
    let summary = campaign(&shop, from..from + seeds, |summary: &Summary| println!("{} held", summary.held));
    println!("{:?} in {:?}", summary.done, started.elapsed());
    println!("{:?}", summary.counts);
    if let Some((seed, outcome)) = &summary.broken {
        println!("seed {seed}: {:#?}", outcome.broken);
        let (spared, outcome) = smaller(&shop, *seed, outcome, 100);
        println!("{spared:?}");
        println!("{}", outcome.trace.join("\n"));
        println!("{:#?}", outcome.broken);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
