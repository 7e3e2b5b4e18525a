//! How many connections to Postgres the shop's processes take, and whether the server has them.
use std::collections::BTreeMap;

use crate::steps::Failed;

/// How many databases a replica of a service opens.
const DATABASES: [(&str, u32); 5] = [("inventory", 1), ("order", 1), ("payment", 2), ("shipping", 2), ("auditor", 1)];
/// How many connections a process has to each: as `CONNECTIONS` in the store.
const EACH: u32 = 7;
/// How many are kept for whoever looks on: psql, tests, a process that starts beside another that stops, and the server's own.
const RESERVE: u32 = 20;
/// What the server is configured with; containers have the same.
const CONFIGURATION: &str = include_str!("../../deploy/local/postgresql.auto.conf");

/// Refuses replicas that want more connections than the server has.
///
/// # Errors
/// A sentence with the sum and the limit.
pub(crate) fn check(replicas: &BTreeMap<&'static str, u16>) -> Result<(), Failed> {
    let of = |service: &str| u32::from(replicas.get(service).copied().unwrap_or(1));
    let wanted: u32 = DATABASES.iter().map(|(service, databases)| of(service) * databases * EACH).sum();
    let limit = configured(CONFIGURATION).ok_or_else(|| Failed::new("the local Postgres has no max_connections"))?;
    if wanted + RESERVE <= limit {
        return Ok(());
    }
    Err(Failed::new(format!(
        "these replicas take {wanted} connections of Postgres and {RESERVE} are kept for others, but its max_connections is {limit}: \
         a replica of payment or shipping takes {}, one of another service {EACH}",
        2 * EACH
    )))
}

/// The number behind `max_connections` in a configuration or a command line.
fn configured(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("max_connections")?;
    let digits = rest.trim_start_matches([' ', '=']);
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_want_more_connections_than_there_are_are_refused_with_the_sum() {
        for fits in [
            &[][..],
            &[("order", 2), ("inventory", 2), ("payment", 2), ("shipping", 2)],
            &[("order", 9), ("inventory", 9)],
        ] {
            assert!(check(&fits.iter().copied().collect()).is_ok(), "{fits:?}");
        }
        let all = ["order", "inventory", "payment", "shipping"].map(|service| (service, 9));
        let why = check(&BTreeMap::from(all)).unwrap_err().sentence;
        assert!(why.contains("385 connections") && why.contains("max_connections is 200"), "{why}");
    }

    #[test]
    fn the_numbers_are_those_of_the_store_and_of_both_servers() {
        let store = include_str!("../../libs/store/src/postgres.rs");
        assert!(store.contains(&format!("pub const CONNECTIONS: usize = {EACH};")));
        let containers = include_str!("../../docker-compose.yml");
        assert_eq!(configured(containers), configured(CONFIGURATION));
        for (service, databases) in DATABASES {
            let main = format!("{}/../services/{service}/src/main.rs", env!("CARGO_MANIFEST_DIR"));
            let main = std::fs::read_to_string(main).unwrap();
            let opened = main.matches("servers.store(").count() + main.matches("servers::store(").count();
            assert_eq!(opened, databases as usize, "{service}");
        }
    }
}
