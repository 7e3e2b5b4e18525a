//! Reads the settings of a program: its arguments, and the environment for what they do not say.
use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::{Arg, Command, Parser};

/// The settings that the program was started with. A variable that is there and empty is none, as files of settings have it. What is
/// wrong ends the program with 2 and a sentence.
#[must_use]
pub fn parse<C: Parser>() -> C {
    let matches = without_empty(C::command(), &|name| std::env::var_os(name)).get_matches();
    C::from_arg_matches(&matches).unwrap_or_else(|why| why.exit())
}

/// A command that does not look at the variables which are empty.
fn without_empty(command: Command, variable: &dyn Fn(&OsStr) -> Option<OsString>) -> Command {
    let heed = |arg: Arg| match arg.get_env().and_then(variable) {
        Some(value) if value.is_empty() => arg.env(Resettable::Reset),
        _ => arg,
    };
    command.mut_args(heed).mut_subcommands(|command| without_empty(command, variable))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;

    #[derive(Parser)]
    struct Settings {
        #[arg(long, env = "JANGTEO_POSTGRES")]
        postgres: String,
        #[arg(long, env = "JANGTEO_PORT", default_value_t = 8080)]
        port: u16,
    }

    /// Of a setting that must be given it is said that it is missing, and not that a database has no name.
    #[test]
    fn a_variable_that_is_empty_is_not_looked_at() {
        let all_empty = |_: &OsStr| Some(OsString::new());
        let command = || without_empty(Settings::command(), &all_empty);
        assert!(command().get_arguments().all(|arg| arg.get_env().is_none()));
        let missing = command().try_get_matches_from(["program"]).unwrap_err();
        assert_eq!(missing.kind(), clap::error::ErrorKind::MissingRequiredArgument);
        let given = command().try_get_matches_from(["program", "--postgres", "url"]).unwrap();
        let Settings { postgres, port } = FromArgMatches::from_arg_matches(&given).unwrap();
        assert_eq!((postgres.as_str(), port), ("url", 8080));
        let all_set = |_: &OsStr| Some(OsString::from("x"));
        let looked_at = without_empty(Settings::command(), &all_set);
        assert!(looked_at.get_arguments().filter(|arg| arg.get_id() != "help").all(|arg| arg.get_env().is_some()));
    }
}
