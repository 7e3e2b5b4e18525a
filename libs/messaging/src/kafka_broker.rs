//! A Kafka broker of a test's own, to be killed and started again.
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::server;

/// How long a start may take: after a kill, the broker waits until its own old session is over.
const START: Duration = Duration::from_secs(90);

/// A broker.
pub(crate) struct Broker {
    home: PathBuf,
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Broker {
    /// Starts a broker with nothing in it, if there is a Kafka to start.
    pub(crate) async fn start() -> Option<Broker> {
        let home = PathBuf::from(server("JANGTEO_TEST_KAFKA_HOME")?);
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let data = folder.path().join("data");
        copy(&home.join("made/kafka"), &data);
        fs::write(folder.path().join("properties"), properties(port, free_port(), &data)).unwrap();
        let mut broker = Broker { home, folder, port, process: None };
        broker.again().await;
        Some(broker)
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it on what it had.
    pub(crate) async fn again(&mut self) {
        let classes = format!("{}/*", self.home.join("kafka").display());
        let flags =
            ["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", &classes, "kafka.Kafka"];
        let mut java = Command::new("java");
        java.args(flags).arg(self.folder.path().join("properties"));
        java.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(java.spawn().unwrap());
        let until = Instant::now() + START;
        while TcpStream::connect(self.address()).is_err() {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
            assert!(ended.is_none() && Instant::now() < until, "the broker does not start: {ended:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody has, below those that outgoing connections are given.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = 22_000 + (std::process::id() % 800) as u16 * 10;
    let ports = std::iter::repeat_with(|| begin + NEXT.fetch_add(1, Ordering::SeqCst));
    ports.take(500).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn properties(port: u16, controller: u16, data: &Path) -> String {
    let data = data.display();
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=4
log.segment.bytes=16777216
log.index.size.max.bytes=1048576
log.cleaner.dedupe.buffer.size=16777216
log.cleaner.threads=1
"
    )
}
