//! `load-tests`: measures the shop and prints what it found as Markdown, with the bars that it should meet.
//!
//! It ends with an error if any answer was not as expected; a missed bar is printed, and no error.
use clap::{Parser, Subcommand};
#[cfg(feature = "infra")]
use load_tests::{appends, relay};
use load_tests::{checkout, facts, flat, fulfilment, hostile, processes, saga};
use tokio::runtime::Builder;

/// Measures the shop. It starts its own server: `monolith` beside this program.
#[derive(Parser, Debug)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand, Debug)]
enum Bench {
    /// The saga engine alone, in this process; standard error has to lead to a file
    Saga(saga::Options),
    /// A whole checkout over HTTP, the edge alone, and the start of an empty shop
    Checkout(checkout::Options),
    /// What is published and found beside the requests: the relay, and the search
    Facts(facts::Options),
    /// Commits to PostgreSQL in groups, and single rows beside them
    #[cfg(feature = "infra")]
    Appends(appends::Options),
    /// The relay of an embedded log onto Kafka, and whether it comes back in order
    #[cfg(feature = "infra")]
    Relay(relay::Options),
    /// From confirmed to shipped on an idle shop, and what an idle shop takes
    Fulfilment(fulfilment::Options),
    /// Others, while clients hang up, read nothing, follow or wait
    Hostile(hostile::Options),
    /// The shop as processes of its own, which are open already
    Processes(processes::Options),
    /// Whether a shop with a past is as fast, as small and as quick to start as a new one
    Flat(flat::Options),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().bench {
        // The engine runs as it does in a server: on as many threads as there are cores.
        Bench::Saga(options) => Builder::new_multi_thread().enable_all().build()?.block_on(saga::run(options)),
        Bench::Facts(options) => Builder::new_multi_thread().enable_all().build()?.block_on(facts::run(options)),
        #[cfg(feature = "infra")]
        Bench::Appends(options) => Builder::new_multi_thread().enable_all().build()?.block_on(appends::run(options)),
        #[cfg(feature = "infra")]
        Bench::Relay(options) => Builder::new_multi_thread().enable_all().build()?.block_on(relay::run(options)),
        // One thread costs the server least.
        Bench::Checkout(options) => {
            Builder::new_current_thread().enable_all().build()?.block_on(checkout::run(options))
        }
        Bench::Fulfilment(options) => {
            Builder::new_current_thread().enable_all().build()?.block_on(fulfilment::run(options))
        }
        Bench::Hostile(options) => Builder::new_current_thread().enable_all().build()?.block_on(hostile::run(options)),
        Bench::Processes(options) => {
            Builder::new_current_thread().enable_all().build()?.block_on(processes::run(options))
        }
        Bench::Flat(options) => Builder::new_current_thread().enable_all().build()?.block_on(flat::run(options)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> bool {
        Cli::try_parse_from(line.split(' ')).is_err()
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "load-tests",
            "load-tests everything",
            "load-tests saga --sagas 0",
            "load-tests saga --in-flight 0",
            "load-tests saga --url http://127.0.0.1:1",
            "load-tests checkout --orders many",
            "load-tests checkout --in-flight 100000",
            "load-tests checkout --rate 0",
            "load-tests checkout --phase lunch",
            "load-tests checkout --url https://127.0.0.1:8080",
            "load-tests flat --turns 0",
            "load-tests processes",
            "load-tests processes --url http://127.0.0.1:8080 --process order",
            "load-tests flat --orders -1",
            "load-tests hostile --url http://127.0.0.1:8080",
        ] {
            assert!(refused(line), "{line}");
        }
    }

    #[test]
    fn what_the_manual_says_is_taken() {
        for line in [
            "load-tests saga",
            "load-tests saga --sagas 40000 --in-flight 64",
            "load-tests checkout --orders 20000 --phase throughput --phase edge --seed 7",
            "load-tests checkout --url http://127.0.0.1:8080",
            "load-tests flat --orders 200000",
            "load-tests hostile --url http://127.0.0.1:8080 --payment 7 --clients 160",
            "load-tests processes --url http://127.0.0.1:8080 --process order=1 --process gateway=2 --rate 20",
            "load-tests fulfilment --orders 300 --seconds 15",
            "load-tests facts --events 100000 --orders 200000 --products 1000",
        ] {
            assert!(!refused(line), "{line}");
        }
    }
}
