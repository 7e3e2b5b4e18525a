//! A real PgBouncer between the store and its server.
use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::contract::{HandClock, Subject, handled, hold_the_contract};
use crate::postgres::Postgres;
use crate::postgres::server::{Database, skip};
use crate::postgres_schema::{Address, Refusal};
use crate::{Expected, Store, TimerChange};

/// Whom it runs as where the test is root: it refuses to be.
const NOBODY: u32 = 65_534;
/// Longest start.
const START: Duration = Duration::from_secs(20);

/// A pooler in front of a database; ends when it is dropped.
struct Pooler {
    process: Child,
    /// Of the database, this way.
    url: String,
    _folder: TempDir,
}

impl Pooler {
    /// One with its own settings, but for where it listens, whom it knows, and `settings`. Absent, and said so, where there is no
    /// such program.
    #[expect(clippy::disallowed_methods, reason = "the path is where programs are looked for")]
    fn start(database: &Database, settings: &str) -> Option<Pooler> {
        let path = std::env::var("PATH").unwrap_or_default();
        // Where Debian puts it, which is in nobody's path but root's.
        let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
        let Some(program) = folders.map(|folder| folder.join("pgbouncer")).find(|program| program.is_file()) else {
            skip("there is no program pgbouncer");
            return None;
        };
        let server: PgConnectOptions = database.url.parse().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (before, _) = database.url.rsplit_once('@').unwrap();
        let (user, password) = before.rsplit_once('/').unwrap().1.split_once(':').unwrap_or(("postgres", ""));
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::write(file("users.txt"), format!("\"{user}\" \"{password}\"\n")).unwrap();
        let configuration = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_file = {}\n{settings}\n",
            server.get_host(),
            server.get_port(),
            file("users.txt").display()
        );
        fs::write(file("pgbouncer.ini"), configuration).unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new(program);
        command.arg(file("pgbouncer.ini")).stdout(Stdio::null()).stderr(Stdio::null());
        if fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0) {
            command.uid(NOBODY).gid(NOBODY);
        }
        let process = command.spawn().expect("pgbouncer can be started");
        let url = format!("{before}@127.0.0.1:{port}/{}", database.name);
        let pooler = Pooler { process, url, _folder: folder };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < START, "pgbouncer does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(pooler)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A client of the pooler that is no store.
async fn client(url: &str) -> PgConnection {
    let options = url.parse::<PgConnectOptions>().unwrap().extra_float_digits(None);
    PgConnection::connect_with(&options).await.unwrap()
}

/// Has the pooler keep so many servers in readiness.
async fn warm(url: &str, servers: usize) {
    let mut clients = vec![];
    for _ in 0..servers {
        let mut client = client(url).await;
        sqlx::raw_sql("BEGIN").execute(&mut client).await.unwrap();
        clients.push(client);
    }
    for mut client in clients {
        sqlx::raw_sql("COMMIT").execute(&mut client).await.unwrap();
    }
}

/// Clients that take servers of a pool and return them, each at its own pace, until they are dropped.
async fn others(url: &str, clients: u64) -> JoinSet<()> {
    let mut others = JoinSet::new();
    for n in 0..clients {
        let mut client = client(url).await;
        others.spawn(async move {
            for turn in 0.. {
                sqlx::raw_sql("SELECT 1").execute(&mut client).await.unwrap();
                if turn % (n + 2) == 0 {
                    tokio::time::sleep(Duration::from_micros(300 * n)).await;
                }
            }
        });
    }
    others
}

/// Fails unless a store is refused, untouched, through a pooler with so many servers and other clients, each of so many times.
async fn refused(settings: &str, servers: usize, clients: u64, times: usize) {
    let Some(database) = Database::make().await else { return };
    let settings = format!("{settings}\ndefault_pool_size = {servers}");
    let Some(pooler) = Pooler::start(&database, &settings) else { return };
    if servers > 1 {
        warm(&pooler.url, servers).await;
    }
    let _others = others(&pooler.url, clients).await;
    for time in 0..times {
        let Err(error) = Postgres::open(&pooler.url, None).await else { panic!("{settings}: opened, time {time}") };
        assert_eq!((error.passes(), &error.reason), (false, &Refusal::Pooled), "{settings}: {error}");
        let cure = "set pool_mode=session there, or give the address of the server itself";
        assert!(error.to_string().ends_with(cure), "{error}");
    }
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    let count: i64 = sqlx::query_scalar(tables).fetch_one(&mut database.connect().await).await.unwrap();
    assert_eq!(count, 0, "{settings}");
}

#[tokio::test]
async fn a_pooler_by_the_statement_is_refused() {
    refused("pool_mode = statement", 1, 0, 3).await;
}

#[tokio::test]
async fn a_pooler_by_the_transaction_is_refused_whichever_server_it_gives_next() {
    for servers in [1, 2, 3, 5] {
        for round_robin in [0, 1] {
            let settings = format!("pool_mode = transaction\nserver_round_robin = {round_robin}");
            refused(&settings, servers, 0, 2).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_by_the_transaction_is_refused_while_others_use_it() {
    for (servers, clients) in [(2, 1), (2, 4), (6, 4)] {
        for round_robin in [0, 1] {
            let settings = format!("pool_mode = transaction\nserver_round_robin = {round_robin}");
            refused(&settings, servers, clients, 20).await;
        }
    }
}

/// A store through a pooler by the session.
async fn make() -> Option<Subject> {
    let database = Database::make().await?;
    let pooler = Pooler::start(&database, "pool_mode = session")?;
    let clock = HandClock::new();
    let store = Postgres::open(&pooler.url, Some(clock.clone())).await.unwrap();
    Some(Subject::new(Arc::new(store), clock, (pooler, database)))
}
hold_the_contract!(make);

/// The servers that one process returned are the next one's.
#[tokio::test]
async fn processes_share_a_database_through_a_pooler_by_the_session() {
    let Some(database) = Database::make().await else { return };
    let Some(pooler) = Pooler::start(&database, "pool_mode = session") else { return };
    let clock = HandClock::new();
    let open = async || Postgres::open(&pooler.url, Some(clock.clone())).await.unwrap();
    let kept: Arc<dyn Store> = Arc::new(open().await);
    let subject = Subject::new(kept.clone(), clock.clone(), ());
    for n in 0..3 {
        let other = open().await;
        let mut growth = kept.growth();
        let timer = TimerChange::Set { key: format!("timer-{n}"), due: clock::Timestamp(0) };
        let id = format!("a-{n}");
        let mut commit = subject.step(&id, "s", Expected::Exact(2 * n), 2);
        commit.timers.push(timer);
        assert_eq!(other.commit(commit.clone()).await, Ok(vec![2 * n + 2]));
        assert_eq!(kept.commit(commit).await, Err(handled(&id)));
        while subject.log(0).await.len() < 2 * n as usize + 2 {
            growth.changed().await.unwrap();
        }
        assert_eq!(other.claim_due(Duration::from_secs(60), 9).await.unwrap(), [format!("timer-{n}")]);
    }
    let mut db = Address::parse(&pooler.url).unwrap().connect().await.unwrap();
    let settings = "SELECT current_setting('synchronous_commit') || ' ' || current_setting('plan_cache_mode')";
    let settings: String = sqlx::query_scalar(settings).fetch_one(&mut db).await.unwrap();
    assert_eq!(settings, "on force_generic_plan");
}

/// A start-up parameter that the pooler does not know is no outage.
#[tokio::test]
async fn options_in_the_address_are_no_matter_of_waiting() {
    let Some(database) = Database::make().await else { return };
    let Some(pooler) = Pooler::start(&database, "pool_mode = session") else { return };
    let url = format!("{}?options=-c%20work_mem%3D8MB", pooler.url);
    let Err(error) = Postgres::open(&url, None).await.map(drop) else { panic!("it was opened") };
    assert!(!error.passes() && error.to_string().contains("options"), "{error}");
}
