//! What an operator does about the search index of a service: makes it anew, while its replicas run.
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use host::Process;
use search::projection::Projection;
use search::rebuild::{Rebuilt, renew};

use crate::process;
use crate::servers::{Search, Servers};

/// What a program does instead of serving.
#[derive(Subcommand, Clone, Copy, Debug)]
pub enum Command {
    /// Make the search index anew from the log beside the old one, say how that differed, and put the new one in its place. Searches
    /// and the running replicas go on
    Rebuild,
}

/// Makes the index of a service anew on its servers, and prints how many documents it has and how many were otherwise.
pub fn run(servers: &Servers, search: &Search, projection: &dyn Projection) -> ExitCode {
    process::on_a_runtime(async {
        let (process, name) = (Process::on_this_machine(), projection.name());
        let index = search.index(&process, servers, name)?;
        let Some(shared) = index.shared() else {
            bail!(
                "without JANGTEO_ELASTICSEARCH each replica makes an index of its own at its start: there is none to rebuild"
            );
        };
        let store = servers.database().await?;
        let renewed = renew(&store, projection, shared, process.ids.next()).await;
        let Rebuilt { documents, differences } = renewed.context("the index was not made anew")?;
        writeln!(std::io::stdout(), "{name} search: {documents} documents; {differences} were not as they are now")?;
        Ok(ExitCode::SUCCESS)
    })
}
