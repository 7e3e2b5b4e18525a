use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::postgres::Postgres;
use crate::postgres::server::{Database, skip};

/// Why `url` is not opened. The sentence names no password.
async fn refused(url: &str) -> OpenError {
    let Err(error) = Postgres::open(url, None).await else { panic!("it was opened") };
    let sentence = format!("{error} {error:?}");
    assert!(!sentence.contains("s3cret") && !error.to_string().contains('\n'), "{sentence}");
    error
}

#[tokio::test]
async fn an_empty_database_is_made_once_by_whoever_comes_first() {
    let Some(database) = Database::make().await else { return };
    let opened = join_all((0..4).map(|_| Postgres::open(&database.url, None))).await;
    assert!(
        opened.iter().all(Result::is_ok),
        "{:?}",
        opened.iter().map(|store| store.as_ref().err()).collect::<Vec<_>>()
    );
    drop(opened);
    assert!(Postgres::open(&database.url, None).await.is_ok(), "and opened from then on");
}

#[tokio::test]
async fn what_is_no_store_is_refused_untouched() {
    let Some(database) = Database::make().await else { return };
    database.run("CREATE TABLE theirs (a integer)").await;
    let error = refused(&database.url).await;
    assert_eq!((error.passes(), &error.reason), (false, &Refusal::Foreign("theirs".to_owned())));
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    let count: i64 = sqlx::query_scalar(tables).fetch_one(&mut database.connect().await).await.unwrap();
    assert_eq!(count, 1);

    database.run("DROP TABLE theirs").await;
    drop(Postgres::open(&database.url, None).await.unwrap());
    database.run("UPDATE jangteo_layout SET layout = 9").await;
    let error = refused(&database.url).await;
    assert_eq!((error.passes(), &error.reason), (false, &Refusal::Newer(9, 1)));
}

#[tokio::test]
async fn each_step_is_taken_once() {
    let Some(database) = Database::make().await else { return };
    let mut db = Address::parse(&database.url).unwrap().connect().await.unwrap();
    assert_eq!(migrate(&mut db, &STEPS, "test").await.unwrap(), Ok(()));
    let next =
        [STEPS[0], "ALTER TABLE leases ADD note text; INSERT INTO leases VALUES ('a', gen_random_uuid(), 1, 'b')"];
    for _ in 0..2 {
        assert_eq!(migrate(&mut db, &next, "test").await.unwrap(), Ok(()));
        let notes: i64 = sqlx::query_scalar("SELECT count(note) FROM leases").fetch_one(&mut db).await.unwrap();
        assert_eq!(notes, 1);
    }
    let broken = [next[0], next[1], "CREATE TABLE half (a integer); SELECT 1 / 0"];
    assert!(migrate(&mut db, &broken, "test").await.is_err());
    assert_eq!(migrate(&mut db, &next, "test").await.unwrap(), Ok(()), "half a step is none");
    assert_eq!(migrate(&mut db, &STEPS, "test").await.unwrap(), Err(Refusal::Newer(2, 1)));
}

#[tokio::test]
async fn settings_of_the_database_do_not_count() {
    let Some(database) = Database::make().await else { return };
    for (setting, theirs) in [("synchronous_commit", "off"), ("default_transaction_isolation", "serializable")] {
        database.run(&format!("ALTER DATABASE {} SET {setting} = '{theirs}'", database.name)).await;
    }
    let asked = format!("{}?options=-c%20synchronous_commit%3Doff%20-c%20statement_timeout%3D0", database.url);
    let address = Address::parse(&asked).unwrap();
    let settings = "SELECT current_setting('synchronous_commit'), current_setting('default_transaction_isolation'),
        current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')";
    let ours = ("on".into(), "read committed".into(), "10s".into(), "5s".into());
    let mut db = address.connect().await.unwrap();
    let found: (String, String, String, String) = sqlx::query_as(settings).fetch_one(&mut db).await.unwrap();
    assert_eq!(found, ours);
    let listening: (String, String, String, String) =
        sqlx::query_as(settings).fetch_one(&address.pool_of_one()).await.unwrap();
    assert_eq!(listening, ours);
}

#[tokio::test]
async fn whether_waiting_helps_is_said() {
    let Some(database) = Database::make().await else { return };
    let missing = refused(&format!("{}_missing", database.url)).await;
    assert_eq!((missing.passes(), &missing.reason), (false, &Refusal::Missing));
    let tls = refused(&format!("{}?sslmode=require", database.url)).await;
    assert!(!tls.passes() && matches!(tls.reason, Refusal::Tls(_)), "{tls}");
}

/// Roles of a test, which are dropped with this, and databases that have their names.
struct Roles<'a>(&'a Database, Vec<String>);

impl Roles<'_> {
    /// A name for a role, and makes the role if there is SQL for its rights.
    async fn make(&mut self, rights: Option<&str>) -> String {
        let role = format!("{}_role_{}", self.0.name, self.1.len());
        self.1.push(role.clone());
        if let Some(rights) = rights {
            self.0.run(&format!("CREATE ROLE {role} {rights} PASSWORD '{role}'")).await;
        }
        role
    }

    async fn clear(&self) {
        for role in &self.1 {
            self.0.run(&format!("DROP DATABASE IF EXISTS {role} WITH (FORCE)")).await;
            let there = format!("EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}')");
            self.0
                .run(&format!("DO $$ BEGIN IF {there} THEN DROP OWNED BY {role}; DROP ROLE {role}; END IF; END $$"))
                .await;
        }
    }
}

impl Drop for Roles<'_> {
    fn drop(&mut self) {
        std::thread::scope(|scope| {
            // The test's own runtime is busy with this, or at its end. What is left has a name that is nobody else's.
            let _ = scope
                .spawn(|| {
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(self.clear())
                })
                .join();
        });
    }
}

/// The server's own words for what `roles.sql` makes.
#[tokio::test]
async fn what_is_missing_for_a_service_is_named_with_its_cure() {
    let Some(database) = Database::make().await else { return };
    let name = &database.name;
    let mut roles = Roles(&database, vec![]);
    database.run(&format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC")).await;
    let known = roles.make(Some("LOGIN")).await;
    let idle = roles.make(Some("NOLOGIN")).await;
    let guest = roles.make(Some("LOGIN")).await;
    let absent = roles.make(None).await;
    database.run(&format!("GRANT CONNECT ON DATABASE {name} TO {guest}")).await;
    let place = database.url.rsplit_once('@').unwrap().1.rsplit_once('/').unwrap().0;
    let shut_out = |role: &str| format!("does not let the role {role} in: it is missing or has another password; ");
    let cases = [
        (&absent, &absent, name, shut_out(&absent)),
        (&known, &absent, name, shut_out(&known)),
        (&idle, &idle, name, format!("does not let the role {idle} in (role \"{idle}\" is not permitted to log in); ")),
        (&known, &known, &absent, "does not exist on that server; ".to_owned()),
        (
            &known,
            &known,
            name,
            format!("grants the role {known} too little (permission denied for database \"{name}\"); "),
        ),
        (&guest, &guest, name, format!("grants the role {guest} too little (permission denied for schema public); ")),
    ];
    for (user, password, name, said) in cases {
        let error = refused(&format!("postgres://{user}:{password}@{place}/{name}")).await;
        assert_eq!(error.to_string(), format!("{place}/{name} {said}{CURE}"));
        assert!(!error.passes(), "{error}");
    }
}

/// Carries out `roles.sql` on the test's server, for other roles; whether there is a program to do it.
fn make_roles(database: &Database, names: &[String]) -> bool {
    let sql = include_str!("../../../deploy/postgres/roles.sql");
    let (before, rest) = sql.split_once("VALUES").unwrap();
    let (_, after) = rest.split_once(';').unwrap();
    let names: Vec<_> = names.iter().map(|name| format!("('{name}')")).collect();
    // What it does to a database that is not the test's own.
    let after = after.replace("REVOKE ALL ON DATABASE postgres FROM PUBLIC;", "");
    let sql = format!("{before} VALUES {};{after}", names.join(", "));
    let psql = Command::new("psql").args(["-X", "-q", "-d", &database.url, "-f", "-"]).stdin(Stdio::piped()).spawn();
    let mut psql = match psql {
        Ok(psql) => psql,
        Err(why) if why.kind() == ErrorKind::NotFound => {
            skip("there is no program psql");
            return false;
        }
        Err(why) => panic!("psql cannot be started: {why}"),
    };
    psql.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    assert!(psql.wait().unwrap().success());
    true
}

/// The cure that the sentences name, whichever part is missing.
#[tokio::test]
async fn whoever_lacks_something_is_let_in_once_the_roles_are_made() {
    let Some(database) = Database::make().await else { return };
    let mut roles = Roles(&database, vec![]);
    let place = database.url.rsplit_once('@').unwrap().1.rsplit_once('/').unwrap().0.to_owned();
    // Of the first nothing is there, of the second a role that may not log in; the third does not own its database, and the
    // fourth may not use it.
    let names = [
        roles.make(None).await,
        roles.make(Some("NOLOGIN")).await,
        roles.make(Some("LOGIN")).await,
        roles.make(Some("LOGIN")).await,
    ];
    database.run(&format!("CREATE DATABASE {}", names[2])).await;
    database.run(&format!("CREATE DATABASE {0} OWNER {0}", names[3])).await;
    for name in &names[2..] {
        database.run(&format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC, {name}")).await;
    }
    // The password of a role that it makes is its name.
    for _ in 0..2 {
        if !make_roles(&database, &names) {
            return;
        }
        for name in &names {
            let opened = Postgres::open(&format!("postgres://{name}:{name}@{place}/{name}"), None).await;
            assert_eq!(opened.map(drop).map_err(|why| why.to_string()), Ok(()));
        }
    }
}

#[tokio::test]
async fn what_is_no_address_is_not_repeated() {
    for url in ["", "s3cret", "http://postgres:s3cret@127.0.0.1/shop", "postgres://a:s3cret@127.0.0.1:port/shop"] {
        let error = refused(url).await;
        assert_eq!((error.passes(), &error.reason), (false, &Refusal::Address), "{url}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_may_come() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let away = refused(&format!("postgres://postgres:s3cret@127.0.0.1:{port}/shop")).await;
    assert!(away.passes() && matches!(away.reason, Refusal::Away(_)), "{away}");
    assert!(away.to_string().starts_with(&format!("127.0.0.1:{port}/shop cannot be reached")), "{away}");
}

/// What is made of a server that answers everybody with this error.
async fn told(code: &str) -> OpenError {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://sam:s3cret@{}/shop?sslmode=disable", listener.local_addr().unwrap());
    let fields = format!("SFATAL\0VFATAL\0C{code}\0Mwhat the server says\0\0");
    let telling = async {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut hello = [0; 1_024];
        let _ = client.read(&mut hello).await.unwrap();
        client.write_all(b"E").await.unwrap();
        client.write_all(&(fields.len() as u32 + 4).to_be_bytes()).await.unwrap();
        client.write_all(fields.as_bytes()).await.unwrap();
        let _ = client.read(&mut hello).await;
    };
    futures::join!(refused(&url), telling).0
}

#[tokio::test]
async fn what_a_server_says_is_understood() {
    let cases = [
        ("28P01", false, Refusal::Login { user: "sam".to_owned() }),
        ("28000", false, Refusal::Forbidden { user: "sam".to_owned(), said: "what the server says".to_owned() }),
        ("3D000", false, Refusal::Missing),
        ("53300", true, Refusal::Busy),
        ("57P03", true, Refusal::Away("what the server says".to_owned())),
        ("42501", false, Refusal::Denied { user: "sam".to_owned(), said: "what the server says".to_owned() }),
        ("42601", false, Refusal::Refused("what the server says".to_owned())),
    ];
    for (code, passes, reason) in cases {
        let error = told(code).await;
        assert_eq!((error.passes(), &error.reason), (passes, &reason), "{code}");
    }
}
