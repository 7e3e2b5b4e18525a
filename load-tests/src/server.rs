//! The server under test: started on a folder of its own, stopped by its process id, or somebody else's by its address.
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::connection::Connection;

/// How long a start, and a stop, may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How closely the first answer is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(1);
const LOG_LINES: usize = 20;

/// A folder below `target/bench/` for data and logs; gone when dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes the folder of this run.
    ///
    /// # Errors
    /// If it cannot be made, or this program does not lie in `target/<profile>/`.
    pub fn make(name: &str) -> Result<Folder> {
        let program = std::env::current_exe()?;
        let target = program.ancestors().nth(2).context("this program lies outside of a target folder")?;
        let folder = target.join("bench").join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        Ok(Folder(folder))
    }

    /// A path in it.
    #[must_use]
    pub fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// How many bytes the files of a folder in it have.
    #[must_use]
    pub fn bytes(&self, name: &str) -> u64 {
        let files = fs::read_dir(self.at(name)).into_iter().flatten().flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind lies below `target/` and hurts nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program `monolith` beside this one.
///
/// # Errors
/// If there is none.
pub fn program() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("monolith");
    ensure!(program.exists(), "there is no {}: build it in the same profile", program.display());
    Ok(program)
}

/// A server that this process started. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Server {
    /// Starts a server over the data folder `data`, and tells how long it took from there to the first answer to a
    /// customer. `arguments` go on as they are. What it prints goes to a file beside the data folder. The environment is handed
    /// on: with `JANGTEO_LOG=warn` it is measured without most of its log lines.
    ///
    /// # Errors
    /// If it ends or does not answer within a minute.
    pub async fn start(program: &Path, data: &Path, arguments: &[&str]) -> Result<(Server, Duration)> {
        let address = free_address()?;
        let log = data.with_extension("log");
        let out = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(program);
        command.arg("--data").arg(data).arg("--port").arg(address.port().to_string()).args(arguments);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("{} cannot be started", program.display()))?;
        let mut server = Server { child, address, log };
        while first_answer(address).await.is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("the server ended with {status}; its last lines:\n{}", server.last_lines());
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "the server does not answer; its last lines:\n{}",
                server.last_lines()
            );
            sleep(LOOK_EVERY).await;
        }
        Ok((server, started.elapsed()))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop and waits for its end.
    ///
    /// # Errors
    /// If it does not end within a minute, or not with success.
    pub async fn stop(mut self) -> Result<()> {
        let pid = self.pid().to_string();
        ensure!(Command::new("kill").arg("-TERM").arg(&pid).status()?.success(), "process {pid} cannot be stopped");
        let asked = Instant::now();
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if asked.elapsed() > PATIENCE => {
                    bail!("the server does not stop; its last lines:\n{}", self.last_lines())
                }
                None => sleep(Duration::from_millis(10)).await,
            }
        };
        ensure!(status.success(), "the server stopped with {status}; its last lines:\n{}", self.last_lines());
        Ok(())
    }

    fn last_lines(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn first_answer(address: SocketAddr) -> Result<Bytes> {
    Connection::open(address).await?.get("/v1/products").await
}

fn free_address() -> Result<SocketAddr> {
    // Another process may take it before the server does; then the server says so.
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Reads `http://HOST:PORT`, with an address as host.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn read_url(url: &str) -> Result<SocketAddr> {
    let rest = url.strip_prefix("http://").ok_or_else(|| anyhow!("a URL begins with http://, not {url:?}"))?;
    let host = rest.strip_suffix('/').unwrap_or(rest).replace("localhost:", "127.0.0.1:");
    host.parse().map_err(|_| anyhow!("a URL is http://ADDRESS:PORT without a path, not {url:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_an_address_and_nothing_else() {
        for url in ["http://127.0.0.1:8080", "http://127.0.0.1:8080/", "http://localhost:8080"] {
            assert_eq!(read_url(url).unwrap().to_string(), "127.0.0.1:8080");
        }
        for url in [
            "",
            "127.0.0.1:8080",
            "https://127.0.0.1:8080",
            "http://127.0.0.1",
            "http://127.0.0.1:8080/v1",
            "http://shop:80",
        ] {
            assert!(read_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_folder_is_gone_when_dropped() {
        let folder = Folder::make("test").unwrap();
        fs::create_dir(folder.at("data")).unwrap();
        fs::write(folder.at("data/a"), "12345").unwrap();
        assert_eq!((folder.bytes("data"), folder.bytes("nothing")), (5, 0));
        let path = folder.at("");
        drop(folder);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_server_that_ends_at_once_is_reported_with_what_it_said() {
        let folder = Folder::make("ends").unwrap();
        let data = folder.at("data");
        let why = Server::start(Path::new("/bin/ls"), &data, &[]).await.unwrap_err().to_string();
        assert!(why.contains("the server ended") && why.contains("--data"), "{why}");
    }
}
