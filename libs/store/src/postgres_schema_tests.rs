use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::postgres::Postgres;
use crate::postgres::server::Database;

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
        ("28000", false, Refusal::Forbidden("what the server says".to_owned())),
        ("3D000", false, Refusal::Missing),
        ("53300", true, Refusal::Busy),
        ("57P03", true, Refusal::Away("what the server says".to_owned())),
        ("42501", false, Refusal::Refused("what the server says".to_owned())),
    ];
    for (code, passes, reason) in cases {
        let error = told(code).await;
        assert_eq!((error.passes(), &error.reason), (passes, &reason), "{code}");
    }
}
