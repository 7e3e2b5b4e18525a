//! The shop as the workspace was built, open on a free port of the loopback address.
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::steps::{Cargo, Failed, judge, within};

/// How long it may take to close: it lets work under way come to its end, 25 s at most.
const CLOSING: Duration = Duration::from_secs(40);
/// Parcels are picked up and arrive soon, so that orders come to their end while somebody looks.
const PACE: [&str; 4] = ["--pick-up-ms", "200", "--transit-ms", "200"];

/// A shop that is open, until it is closed or forgotten.
pub(crate) struct Shop {
    child: Child,
    /// Host and port.
    pub(crate) address: String,
}

impl Shop {
    /// Opens the shop on a data folder; its log lines are appended to a file.
    ///
    /// # Errors
    /// If it does not say where it is open.
    pub(crate) fn open(cargo: &Cargo, data: &Path, log: &Path) -> Result<Shop, Failed> {
        let program = cargo.target()?.join("debug").join("monolith");
        let started = || -> io::Result<(Child, Option<String>)> {
            let log = File::options().create(true).append(true).open(log)?;
            let mut shop = Command::new(&program);
            shop.args(["--port", "0", "--log", "warn"]).args(PACE).arg("--data").arg(data);
            let mut child = shop.stdout(Stdio::piped()).stderr(log).spawn()?;
            let greeting = child.stdout.take();
            Ok((child, greeting.and_then(address)))
        };
        let (child, address) =
            started().map_err(|why| Failed::new(format!("{} cannot be started: {why}", program.display())))?;
        let mut shop = Shop { child, address: String::new() };
        let silent = || Failed::new(format!("the shop did not open; {} says why", log.display()));
        shop.address = address.ok_or_else(silent)?;
        Ok(shop)
    }

    /// What it answers at a path.
    ///
    /// # Errors
    /// If it does not, or with another status than 200.
    pub(crate) fn get(&self, path: &str) -> Result<String, Failed> {
        let ask = || -> io::Result<String> {
            let mut stream = TcpStream::connect(&self.address)?;
            write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().map_err(|why| Failed::new(format!("{path} is not answered: {why}")))?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.0 200 ") => Ok(body.to_owned()),
            _ => Err(Failed::new(format!("{path} is answered with {answer}"))),
        }
    }

    /// Tells it to close, which it must do in good health.
    ///
    /// # Errors
    /// If it lacks something, does not close in time, or ends with another code than 0.
    pub(crate) fn close(mut self) -> Result<(), Failed> {
        self.get("/readyz")?;
        let id = self.child.id().to_string();
        judge("kill -TERM", Command::new("kill").args(["-TERM", &id]).status())?;
        judge("the shop", within(CLOSING, &mut self.child))
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        // Closed already, or of no more use: in either case there is nothing to be done about a refusal.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the shop says that it is open.
fn address(greeting: ChildStdout) -> Option<String> {
    let lines = BufReader::new(greeting).lines().map_while(Result::ok);
    lines.filter_map(|line| opened_at(&line).map(str::to_owned)).next()
}

fn opened_at(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("is open at http://")?;
    rest.split(',').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_the_greeting() {
        let line = "Jangteo is open at http://127.0.0.1:8080, its data is in data";
        assert_eq!(opened_at(line), Some("127.0.0.1:8080"));
        assert_eq!(opened_at("look      curl -s http://127.0.0.1:8080/v1/products"), None);
    }
}
