//! `cargo xtask`: the chores of the repository, each one command.
#![expect(clippy::print_stdout, reason = "it is a program for a terminal")]
#![expect(clippy::print_stderr, reason = "it is a program for a terminal")]

mod api;
mod bench;
mod chance;
mod connections;
mod crash;
mod fleet;
mod infra;
mod mutants;
mod mutations;
mod npm;
mod packages;
mod processes;
mod proto;
mod python;
mod servers;
mod shop;
mod simulate;
mod steps;
mod typescript;

use std::process::ExitCode;

use steps::Cargo;

const MANUAL: &str = "\
cargo xtask test
    Everything that has to hold before a change goes in: format, lints, build, tests, on real servers where they need some,
    the shop as processes of its own, the style of the .proto files and that they still fit what was published, that the shop
    answers as /openapi.json says, and the simulation. Stops at the first failure. Installs what it needs below the target folder.

cargo xtask test api
    Of all that only the REST interface: two generated clients and schemathesis at the shop as it is built.

cargo xtask simulate [--seeds N] [--from SEED] [--resume]
    Runs the whole shop under a seeded simulation, one process per core: every seed has to hold. With --resume a campaign
    goes on where it was interrupted.
cargo xtask simulate --trace SEED [--spare FAULTS] [--without GUARANTEE]
    One seed, and what happened in it.
cargo xtask simulate --without all|GUARANTEE
    Takes guarantees away, one at a time, and shows which seed missed it and what broke.

cargo xtask infra up|down|status|reset|kill [--only SERVER,...] [--local] [--home DIR] [--ports FIRST]
    The real servers, for the shop's processes and for tests: Postgres, Redis, Kafka and Elasticsearch. In containers where
    Docker answers, otherwise (or with --local) as local processes, whose programs are fetched once. They listen on the
    loopback address; `down` keeps their data, `reset` forgets it, `kill` is a crash. With --home and --ports they are a
    second set beside the first.

cargo xtask up [--replicas order=2,...] [--quick] [--pace-ms MS]
    The shop as processes of its own, one per service and replica, on the real servers, which are brought up if they are not.
    Says where it is open and where the logs are. With --quick it is built as fast code; with --pace-ms parcels are picked up
    and arrive after so long.
cargo xtask down
    Stops what `up` started, and nothing else.

cargo xtask crash [--kills N] [--seed SEED] [--quick] [--without inbox|commit-id-check|sequencer]
    The shop as processes, with two replicas of most, on servers of its own: while customers shop, services and servers are
    killed, frozen, and made to crash at named places in the code. Then the books are judged. With a guarantee missing it must fail.

cargo xtask release proto
    Makes the present .proto files the published ones, which later ones must fit.

cargo xtask mutants [WORD]
    Breaks the shop on purpose in a copy of the repository, one thing at a time, and sees that a test notices each. With a
    word, only what has it in its name. Takes some ten minutes.

cargo xtask bench saga|checkout|fulfilment|facts|flat|hostile|appends|relay|processes [arguments]
    Builds in release form what the measurement needs, and runs it. `cargo xtask bench checkout --help` lists the
    arguments of one. `appends` needs a PostgreSQL server (JANGTEO_TEST_POSTGRES), `relay` Kafka (JANGTEO_TEST_KAFKA).
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        [] | ["help" | "--help" | "-h"] => {
            print!("{MANUAL}");
            return ExitCode::SUCCESS;
        }
        ["test"] => steps::test(&Cargo::of_this_run()),
        ["test", "api"] => steps::test_api(&Cargo::of_this_run()),
        ["simulate", rest @ ..] => simulate::run(&Cargo::of_this_run(), rest),
        ["up", rest @ ..] => fleet::up(&Cargo::of_this_run(), rest),
        ["crash", rest @ ..] => crash::run(&Cargo::of_this_run(), rest),
        ["down"] => fleet::down(&Cargo::of_this_run()),
        ["infra", rest @ ..] => infra::run(&Cargo::of_this_run(), rest),
        ["release", "proto"] => proto::release(&Cargo::of_this_run()),
        ["mutants"] => mutants::run(&Cargo::of_this_run(), ""),
        ["mutants", word] => mutants::run(&Cargo::of_this_run(), word),
        ["bench", kind, rest @ ..] if bench::KINDS.contains(kind) => bench::run(&Cargo::of_this_run(), kind, rest),
        other => {
            eprint!("`cargo xtask {}` is not among these:\n\n{MANUAL}", other.join(" "));
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("{}", failed.sentence);
            ExitCode::from(failed.code)
        }
    }
}
