//! The four servers as local processes: how each is started, when it is ready, and how it is asked to end.
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::packages::{self, NOBODY};
use crate::processes::{Process, await_deserted};
use crate::steps::{Failed, judge, until};

/// How long a server may take to start.
const START: Duration = Duration::from_secs(120);
/// The settings of a Java program that is small and starts soon.
const SMALL_JAVA: [&str; 2] = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// A server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Redis,
    Postgres,
    Kafka,
    Elasticsearch,
}

impl Server {
    /// All of them.
    pub(crate) const ALL: [Server; 4] = [Server::Redis, Server::Postgres, Server::Kafka, Server::Elasticsearch];

    /// Its name in commands and files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Server::Redis => "redis",
            Server::Postgres => "postgres",
            Server::Kafka => "kafka",
            Server::Elasticsearch => "elasticsearch",
        }
    }

    /// The server of a name.
    pub(crate) fn named(name: &str) -> Option<Server> {
        Server::ALL.into_iter().find(|server| server.name() == name)
    }

    /// The signal that it ends well by.
    fn ends_by(self) -> &'static str {
        // Postgres takes TERM for "when all clients have gone".
        if self == Server::Postgres { "INT" } else { "TERM" }
    }
}

/// A folder with the servers' programs and data, and the ports that they listen on.
#[derive(Clone)]
pub(crate) struct Place {
    /// The programs, as they were unpacked.
    pub(crate) programs: PathBuf,
    /// Data, logs and process ids.
    pub(crate) run: PathBuf,
    /// Our settings of the servers.
    pub(crate) settings: PathBuf,
    /// The first of their ports; the others follow. Below 32768, from where on systems hand out ports of their own.
    pub(crate) ports: u16,
}

impl Place {
    pub(crate) fn redis(&self) -> u16 {
        self.ports + 1
    }

    pub(crate) fn postgres(&self) -> u16 {
        self.ports + 2
    }

    pub(crate) fn kafka(&self) -> u16 {
        self.ports + 3
    }

    pub(crate) fn elasticsearch(&self) -> u16 {
        self.ports + 5
    }

    /// The process of a server, running or not.
    pub(crate) fn process(&self, server: Server) -> Process {
        Process::new(&self.run, server.name())
    }

    /// Starts a server that does not run, and waits until it answers.
    ///
    /// # Errors
    /// If it cannot be started, ends, or does not answer in time; with the end of its log.
    pub(crate) fn up(&self, server: Server) -> Result<(), Failed> {
        let process = self.process(server);
        if process.id().is_none() {
            match server {
                Server::Redis => process.start(&mut self.redis_command()?)?,
                Server::Postgres => process.start(&mut self.postgres_command()?)?,
                Server::Kafka => process.start(&mut self.kafka_command()?)?,
                Server::Elasticsearch => self.launch_elasticsearch(&process)?,
            }
        }
        let mut ended = false;
        let answers = until(START, || {
            ended = process.id().is_none();
            ended || self.answers(server)
        });
        if answers && !ended {
            return Ok(());
        }
        let what = if ended { "ended" } else { "does not answer" };
        Err(Failed::new(format!("{} {what}; its log ends with\n{}", server.name(), process.last_lines())))
    }

    /// Stops a server, if it runs.
    ///
    /// # Errors
    /// If it cannot be ended.
    pub(crate) fn down(&self, server: Server) -> Result<(), Failed> {
        self.process(server).stop(server.ends_by())
    }

    /// Whether it answers, wherever it runs.
    pub(crate) fn answers(&self, server: Server) -> bool {
        match server {
            Server::Redis => said(self.redis(), "PING\r\n").starts_with("+PONG"),
            Server::Postgres => {
                self.psql("postgres").args(["-Atqc", "select 1"]).output().is_ok_and(|output| output.status.success())
            }
            // It listens only once it may serve.
            Server::Kafka => TcpStream::connect(("127.0.0.1", self.kafka())).is_ok(),
            Server::Elasticsearch => {
                let path = "/_cluster/health?wait_for_status=yellow&timeout=1s";
                let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
                said(self.elasticsearch(), &request).contains(" 200 OK")
            }
        }
    }

    /// Which version of Elasticsearch answers: it depends on the Java that there is.
    pub(crate) fn elasticsearch_version(&self) -> Option<String> {
        let answer = said(self.elasticsearch(), "GET / HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
        let (_, rest) = answer.split_once("\"number\"")?;
        rest.split('"').nth(1).map(str::to_owned)
    }

    /// The client of Postgres, as its administrator.
    pub(crate) fn psql(&self, database: &str) -> Command {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-h", "127.0.0.1", "-U", "postgres", "-d", database])
            .args(["-p", &self.postgres().to_string()]);
        psql.env("PGPASSWORD", packages::POSTGRES_PASSWORD).env("PGCONNECT_TIMEOUT", "2");
        psql
    }

    fn redis_command(&self) -> Result<Command, Failed> {
        let data = self.folder("redis-data")?;
        let mut redis = server_program(Path::new("redis-server"));
        redis.args(["--bind", "127.0.0.1", "--port", &self.redis().to_string(), "--save", "", "--appendonly", "yes"]);
        redis.args(["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru", "--dir"]).arg(data);
        Ok(redis)
    }

    fn postgres_command(&self) -> Result<Command, Failed> {
        let data = self.copied("postgres")?;
        let settings = self.filled("postgresql.auto.conf", &[("PORT", self.postgres().to_string())])?;
        write(&data.join("postgresql.auto.conf"), &settings)?;
        packages::hand_over(&data)?;
        await_deserted(&data);
        let mut postgres = server_program(&self.programs.join("postgres/bin/postgres"));
        postgres.arg("-D").arg(data);
        Ok(postgres)
    }

    fn kafka_command(&self) -> Result<Command, Failed> {
        let data = self.copied("kafka")?;
        packages::hand_over(&data)?;
        let settings = self.run.join("kafka.properties");
        write(&settings, &self.kafka_settings(&data)?)?;
        let logging = self.run.join("kafka-log4j2.xml");
        write(&logging, &self.filled("kafka-log4j2.xml", &[])?)?;
        let mut kafka = server_program(&packages::java(17, 25)?);
        kafka.args(["-Xms64m", "-Xmx256m"]).args(SMALL_JAVA);
        kafka.arg(format!("-Dlog4j2.configurationFile=file:{}", logging.display()));
        kafka.arg("-cp").arg(self.programs.join("kafka/*")).arg("kafka.Kafka").arg(settings);
        Ok(kafka)
    }

    /// The settings of the broker over its data.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn kafka_settings(&self, data: &Path) -> Result<String, Failed> {
        let (broker, controller) = (self.kafka().to_string(), (self.ports + 4).to_string());
        let values = [("BROKER", broker), ("CONTROLLER", controller), ("DATA", data.display().to_string())];
        self.filled("kafka.properties", &values)
    }

    /// Its launcher ends once the node has started, and says in a file which process that is.
    fn launch_elasticsearch(&self, process: &Process) -> Result<(), Failed> {
        let (home, run) = (self.programs.join("elasticsearch"), self.folder("elasticsearch")?);
        for part in ["config", "data", "logs", "tmp"] {
            self.folder(&format!("elasticsearch/{part}"))?;
        }
        let value = |name, value: &Path| (name, value.display().to_string());
        let ports = [("HTTP", self.elasticsearch().to_string()), ("TRANSPORT", (self.ports + 6).to_string())];
        let [http, transport] = ports;
        let values = [http, transport, value("RUN", &run)];
        for (ours, theirs) in [
            ("elasticsearch.yml", "elasticsearch.yml"),
            ("elasticsearch-jvm.options", "jvm.options"),
            ("elasticsearch-log4j2.properties", "log4j2.properties"),
        ] {
            write(&run.join("config").join(theirs), &self.filled(ours, &values)?)?;
        }
        packages::hand_over(&run)?;
        let id = run.join("elasticsearch.pid");
        // A kill leaves it behind, and the launcher refuses to start over it.
        let _ = fs::remove_file(&id);
        let mut launcher = elasticsearch_launcher(&home, &run)?;
        launcher.args(["-d", "-p"]).arg(&id);
        let log = fs::File::create(&process.log).map_err(|why| broken(&process.log, &why))?;
        let errors = log.try_clone().map_err(|why| broken(&process.log, &why))?;
        launcher.stdin(Stdio::null()).stdout(log).stderr(errors);
        judge("the launcher of elasticsearch", launcher.status())
            .map_err(|failed| Failed::new(format!("{}:\n{}", failed.sentence, process.last_lines())))?;
        let written = fs::read_to_string(&id).map_err(|why| broken(&id, &why))?;
        let id = written.trim().parse().map_err(|_| Failed::new("elasticsearch does not say which process it is"))?;
        process.adopt(id)
    }

    /// A folder below `run` that the servers may write.
    fn folder(&self, name: &str) -> Result<PathBuf, Failed> {
        let folder = self.run.join(name);
        fs::create_dir_all(&folder).map_err(|why| broken(&folder, &why))?;
        packages::hand_over(&folder)?;
        Ok(folder)
    }

    /// A data folder, at first a copy of the one that was made once for all.
    fn copied(&self, name: &str) -> Result<PathBuf, Failed> {
        let data = self.run.join(format!("{name}-data"));
        if !data.exists() {
            let half = self.run.join(format!("{name}-data.new"));
            // What a copy that was interrupted left.
            let _ = fs::remove_dir_all(&half);
            let made = self.programs.join("made").join(name);
            judge("cp", Command::new("cp").arg("-a").args([&made, &half]).status())?;
            fs::rename(&half, &data).map_err(|why| broken(&data, &why))?;
        }
        Ok(data)
    }

    /// One of our settings, with its names filled in.
    fn filled(&self, file: &str, values: &[(&str, String)]) -> Result<String, Failed> {
        let path = self.settings.join(file);
        let text = fs::read_to_string(&path).map_err(|why| broken(&path, &why))?;
        Ok(values.iter().fold(text, |text, (name, value)| text.replace(&format!("@{name}@"), value)))
    }
}

/// The launchers of 8.x and of 9.4 have little in common.
fn elasticsearch_launcher(home: &Path, run: &Path) -> Result<Command, Failed> {
    let newer = home.join("lib/tools/server-launcher");
    let java = if newer.exists() { packages::java(21, 25)? } else { packages::java(17, 23)? };
    let mut launcher = server_program(&java);
    // It looks for its modules where it is started.
    launcher.current_dir(home).process_group(0);
    let config = run.join("config");
    launcher.env("HOME", run.join("tmp")).env("ES_TMPDIR", run.join("tmp"));
    launcher.env("ES_HOME", home).env("ES_PATH_CONF", &config).env("ES_DISTRIBUTION_TYPE", "zip");
    launcher.env("JAVA", &java).env("JAVA_TYPE", "bundled JDK");
    launcher.env("CLI_JAVA_OPTS", format!("-Xms4m -Xmx64m {}", SMALL_JAVA.join(" ")));
    launcher.args(["-Xms4m", "-Xmx64m"]).args(SMALL_JAVA);
    if newer.exists() {
        launcher.arg("-cp").arg(newer.join("*")).arg("org.elasticsearch.server.launcher.ServerLauncher");
        return Ok(launcher);
    }
    let home = home.display();
    launcher.args(["-Dcli.name=server", "-Dcli.libs=lib/tools/server-cli", "-Des.distribution.type=zip"]);
    launcher.arg(format!("-Dcli.script={home}/bin/elasticsearch")).arg("-Des.java.type=bundled JDK");
    launcher.arg(format!("-Des.path.home={home}")).arg(format!("-Des.path.conf={}", config.display()));
    launcher.arg("-cp").arg(format!("{home}/lib/*:{home}/lib/cli-launcher/*"));
    launcher.arg("org.elasticsearch.launcher.CliToolLauncher");
    Ok(launcher)
}

/// A program with nothing of our environment. Postgres and Elasticsearch refuse to be root.
pub(crate) fn server_program(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8");
    if packages::is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// What is answered on a port, as far as it comes soon.
fn said(port: u16, request: &str) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = [0; 1024];
        let bytes = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..bytes]).into_owned())
    };
    ask().unwrap_or_default()
}

fn write(path: &Path, text: &str) -> Result<(), Failed> {
    fs::write(path, text).map_err(|why| broken(path, &why))
}

/// A file that cannot be used.
pub(crate) fn broken(path: &Path, why: &std::io::Error) -> Failed {
    Failed::new(format!("{} cannot be used: {why}", path.display()))
}
