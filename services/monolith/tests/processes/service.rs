//! A process of the shop: started, asked, listened to, stopped.
use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::time::{Instant, sleep};

use crate::customers::{client, send};

/// How long anything may take, on a machine with other work.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// How long a process is listened to, to see whether it repeats itself.
const LISTEN: Duration = Duration::from_secs(6);
/// What every password here has in it: no line may.
pub const SECRET: &str = "s3cret";

/// A program that was built beside this test.
pub fn program(name: &str) -> PathBuf {
    let beside = std::env::current_exe().unwrap().parent().and_then(|deps| Some(deps.parent()?.join(name))).unwrap();
    assert!(
        beside.exists(),
        "{} is not there: `cargo build --workspace --all-features` builds it, in the profile of this test",
        beside.display()
    );
    beside
}

pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// How a program ended that was given arguments, and what it wrote to standard output and to standard error, where no password is.
pub async fn command(name: &str, arguments: &[&str], settings: &[(&str, String)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(program(name));
    command.args(arguments).env_clear().envs(settings.iter().map(|(name, value)| (name, value)));
    let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let [out, err] = [ended.stdout, ended.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(!out.contains(SECRET) && !err.contains(SECRET), "{out} {err}");
    (ended.status.code(), out, err)
}

/// A running process. Dropping it kills it.
pub struct Service {
    child: Child,
    pub address: String,
    log: NamedTempFile,
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    /// Starts it on a free port, with nothing in its environment but its settings.
    pub fn start(name: &str, settings: &[(&str, String)]) -> Service {
        Service::start_at(name, format!("127.0.0.1:{}", free_port()), settings)
    }

    /// The same on this address.
    pub fn start_at(name: &str, address: String, settings: &[(&str, String)]) -> Service {
        let log = NamedTempFile::new().unwrap();
        let mut command = Command::new(program(name));
        command.env_clear().env("JANGTEO_LISTEN", &address).envs(settings.iter().map(|(name, value)| (name, value)));
        let written = File::options().append(true).open(log.path()).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(written).spawn().unwrap();
        Service { child, address, log }
    }

    /// What `/healthz` or `/readyz` says.
    pub async fn page(&self, path: &str) -> Option<(StatusCode, String)> {
        let asked = client().get(format!("http://{}{path}", self.address).parse().unwrap());
        let answer = tokio::time::timeout(Duration::from_secs(5), asked).await.ok()?.ok()?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await.ok()?.to_bytes();
        Some((status, String::from_utf8(bytes.to_vec()).unwrap()))
    }

    /// What an operator is answered.
    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        send(&client(), &self.address, Method::GET, path, &[("X-Operator", "lee")], String::new()).await.unwrap()
    }

    async fn until(&mut self, what: &str, fits: impl Fn(StatusCode, &str) -> bool) {
        let started = Instant::now();
        loop {
            let page = self.page("/readyz").await;
            if page.as_ref().is_some_and(|(status, text)| fits(*status, text)) {
                break;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "{what}: {page:?}, ended: {ended:?}, its log is\n{}",
                self.log()
            );
            sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(self.page("/healthz").await.unwrap().0, StatusCode::OK);
    }

    /// Waits until it is ready.
    pub async fn is_ready(&mut self) {
        self.until("it is not ready", |status, _| status == StatusCode::OK).await;
    }

    /// Waits until it says of a part that it is missing, and why.
    pub async fn misses(&mut self, part: &str, why: &str) {
        let told = |line: &str| line.starts_with(&format!("{part}: ")) && line.contains(why);
        let what = format!("{part} is not missed because of {why:?}");
        self.until(&what, |status, text| status == StatusCode::SERVICE_UNAVAILABLE && text.lines().any(told)).await;
    }

    /// Waits until it says of a part that it is degraded, and why.
    pub async fn is_degraded(&mut self, part: &str, why: &str) {
        let told = |line: &str| line.starts_with(&format!("degraded: {part}: ")) && line.contains(why);
        let what = format!("{part} is not degraded because of {why:?}");
        self.until(&what, |_, text| text.lines().any(told)).await;
    }

    /// Its warnings hold this sentence once, and no part of it says the same again and again.
    pub async fn says_once(&self, sentence: &str) {
        sleep(LISTEN).await;
        let lines = self.warnings();
        let count = lines.iter().filter(|line| line.contains(sentence)).count();
        assert_eq!(count, 1, "{sentence:?} in {lines:#?}");
        // The store's parts, the relay, the consumer, its lag, the projection: each may say what it means for itself.
        assert!(lines.len() <= 8, "it talks too much: {lines:#?}");
    }

    /// Waits until everything was said; all warnings so far.
    pub async fn falls_silent(&self) -> Vec<String> {
        sleep(LISTEN).await;
        let lines = self.warnings();
        sleep(LISTEN).await;
        assert_eq!(self.warnings(), lines, "it repeats itself");
        lines
    }

    /// Waits for a line, whatever its level is.
    pub async fn says(&self, sentence: &str) {
        self.says_of("", sentence).await;
    }

    /// Waits for a line about something.
    pub async fn says_of(&self, what: &str, sentence: &str) {
        let started = Instant::now();
        while !self.log().lines().any(|line| line.contains(sentence) && line.contains(what)) {
            assert!(started.elapsed() < PATIENCE, "{sentence:?} is not said of {what:?} in\n{}", self.log());
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    /// Lines of warnings and errors.
    pub fn warnings(&self) -> Vec<String> {
        let log = self.log();
        log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).map(str::to_owned).collect()
    }

    /// Asks it to stop, and sees to it that it ends in good order, without having told a secret.
    pub async fn stop(mut self) {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(asked.success());
        assert_eq!(self.ended().await, Some(0), "{}", self.log());
        assert!(!self.log().contains(SECRET), "{}", self.log());
    }

    /// Its exit code, once it has ended by itself.
    pub async fn ended(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < PATIENCE, "it does not end; its log is\n{}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Sends one request, with a body in JSON unless it is null; what is answered.
pub async fn ask_json(method: Method, url: &str, body: &Value) -> (StatusCode, Value) {
    let request = http::Request::builder().method(method).uri(url).header("Content-Type", "application/json");
    // Elasticsearch refuses bodies where it expects none.
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let request = request.body(Full::new(text.into())).unwrap();
    let answer = client().request(request).await.unwrap();
    let status = answer.status();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}
