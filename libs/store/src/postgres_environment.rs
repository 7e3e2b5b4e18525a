//! Keeps the environment from changing where and how a store connects.
//!
//! # Problem
//! sqlx fills in what an address does not say from the variables that psql reads. A shell with `PGSSLMODE=require` makes every
//! connection fail, one with `PGOPTIONS` changes what all statements do, and nothing says so.
//!
//! # Pattern
//! What a setting names is asked directly.
//!
//! # Here
//! What the address leaves out gets its usual value. For what cannot be taken back from sqlx, [`foreign`] names the variable.
//!
//! # Limits
//! `~/.pgpass` is not read either: an address without a password has none.
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// Variables that sqlx reads and nothing can undo, each with the parameter that an address has for it.
const FOREIGN: [(&str, &str); 4] =
    [("PGOPTIONS", "options"), ("PGSSLROOTCERT", "sslrootcert"), ("PGSSLCERT", "sslcert"), ("PGSSLKEY", "sslkey")];

/// The variable of the environment that would change connections to the address, if there is one.
pub(crate) fn foreign(url: &str) -> Option<&'static str> {
    let set = |variable: &str| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
    FOREIGN
        .into_iter()
        .find(|(name, parameter)| set(name) && (*name == "PGOPTIONS" || !has(url, parameter)))
        .map(|(name, _)| name)
}

/// The options with nothing in them that the address does not say.
pub(crate) fn direct(mut options: PgConnectOptions, url: &str) -> PgConnectOptions {
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, _) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    let port = place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if place.split(':').next().is_none_or(str::is_empty) && !has(url, "host") && !has(url, "hostaddr") {
        options = options.host("localhost");
    }
    if !port && !has(url, "port") {
        options = options.port(5432);
    }
    if user.split(':').next().is_none_or(str::is_empty) && !has(url, "user") {
        options = options.username("postgres");
    }
    if !user.contains(':') && !has(url, "password") {
        options = options.password("");
    }
    if path.is_empty() && !has(url, "dbname") {
        let user = options.get_username().to_owned();
        options = options.database(&user);
    }
    if !has(url, "sslmode") && !has(url, "ssl-mode") {
        options = options.ssl_mode(PgSslMode::Prefer);
    }
    if !has(url, "application_name") {
        options = options.application_name("jangteo");
    }
    options
}

/// Whether the address has a parameter.
fn has(url: &str, parameter: &str) -> bool {
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    parameters.split('&').any(|part| part.split('=').next() == Some(parameter))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use crate::postgres_schema::Address;

    const URL: &str = "postgres://127.0.0.1/";
    const HOSTILE: [(&str, &str); 8] = [
        ("PGHOST", "db.example.com"),
        ("PGHOSTADDR", "192.0.2.1"),
        ("PGPORT", "1"),
        ("PGUSER", "somebody"),
        ("PGPASSWORD", "s3cret"),
        ("PGDATABASE", "elsewhere"),
        ("PGSSLMODE", "require"),
        ("PGAPPNAME", "other"),
    ];

    /// Runs one of the tests below in a process with variables of its own.
    fn run(test: &str, variables: &[(&str, &str)]) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("postgres_environment::tests::{test}"), "--ignored", "--nocapture"]);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    #[test]
    fn what_psql_reads_from_the_environment_changes_no_connection() {
        run("the_address_is_what_counts", &HOSTILE);
        run("the_address_is_what_counts", &[]);
    }

    #[test]
    fn what_cannot_be_taken_back_is_refused_by_name() {
        run("options_are_refused", &[("PGOPTIONS", "-c search_path=elsewhere")]);
    }

    #[test]
    #[ignore = "run by another in a process of its own"]
    fn the_address_is_what_counts() {
        let Address { options, name } = Address::parse(URL).unwrap();
        assert_eq!(name, "127.0.0.1:5432/postgres");
        assert_eq!((options.get_username(), options.get_application_name()), ("postgres", Some("jangteo")));
        assert!(matches!(options.get_ssl_mode(), sqlx::postgres::PgSslMode::Prefer));
        let whole = Address::parse("postgres://lee:secret@[::1]:7000/shop?sslmode=disable").unwrap();
        assert_eq!(whole.options.get_username(), "lee");
        assert!(whole.name.ends_with(":7000/shop"), "{}", whole.name);
        assert!(matches!(whole.options.get_ssl_mode(), sqlx::postgres::PgSslMode::Disable));
    }

    #[test]
    #[ignore = "run by another in a process of its own"]
    fn options_are_refused() {
        let Err(refused) = Address::parse(URL).map(drop) else { panic!("it is not refused") };
        assert!(refused.to_string().contains("PGOPTIONS"), "{refused}");
    }
}
