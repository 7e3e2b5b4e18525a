//! The real program: started, spoken to over TCP, stopped and killed. And what it says when it cannot start.
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clock::{Clock, SystemClock};
use http::{Method, StatusCode};
use monolith::commands;
use monolith::folder::{Closing, Folder};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::customers::{books_hold_within, client, ended_within, order, send, shop, stock_up, text};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_monolith");

/// A running program.
pub struct Program {
    pub child: Child,
    pub address: String,
    /// What it printed before it was open.
    pub greeting: Vec<String>,
}

impl Program {
    /// Starts it on a data folder and a free port, and waits until it is open.
    pub async fn start(data: &Path) -> Program {
        Program::start_with(data, &[]).await
    }

    /// The same with further arguments.
    pub async fn start_with(data: &Path, arguments: &[&str]) -> Program {
        Program::start_as(Command::new(PROGRAM), data, arguments, Stdio::inherit()).await
    }

    /// The same, with its log lines in a file.
    pub async fn start_logging(data: &Path, log: &Path) -> Program {
        Program::start_under(data, &[], log, &[]).await
    }

    /// The same with further settings in its environment.
    pub async fn start_under(data: &Path, arguments: &[&str], log: &Path, settings: &[(&str, PathBuf)]) -> Program {
        let mut command = Command::new(PROGRAM);
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        Program::start_as(command, data, arguments, fs::File::create(log).unwrap().into()).await
    }

    /// The same by a command that becomes the program.
    pub async fn start_as(mut command: Command, data: &Path, arguments: &[&str], log: Stdio) -> Program {
        let mut child = command
            .args(["--port", "0", "--data"])
            .arg(data)
            .args(if arguments.contains(&"--log") { &[][..] } else { &["--log", "warn"] })
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut greeting = vec![];
        while greeting.iter().filter(|line: &&String| line.starts_with("curl ")).count() < 3 {
            greeting.push(lines.next_line().await.unwrap().expect("the program greets before it ends"));
        }
        let open = greeting.iter().find_map(|line| line.strip_prefix("Jangteo is open at http://")).unwrap();
        let address = open.split(',').next().unwrap().to_owned();
        Program { child, address, greeting }
    }

    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Asks it to stop, and gives its exit code.
    pub async fn stop(self) -> Option<i32> {
        self.signal("-TERM").await;
        self.ended().await
    }

    async fn signal(&self, signal: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
    }

    async fn ended(mut self) -> Option<i32> {
        tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await.unwrap().unwrap().code()
    }

    /// What it answers to these bytes until it closes.
    async fn told(&self, bytes: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

/// Runs the program where it cannot start, and gives what it says; the exit code is checked.
async fn refusal(arguments: &[&str]) -> String {
    let run = Command::new(PROGRAM).args(arguments).output();
    let output = tokio::time::timeout(Duration::from_secs(20), run).await.expect("it ends by itself").unwrap();
    assert!(!output.status.success(), "{arguments:?} was accepted");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn the_printed_lines_do_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(&folder.path().join("data")).await;
    let mut ends = vec![];
    for line in program.greeting.iter().filter(|line| line.starts_with("curl ")) {
        let output = Command::new("bash").args(["-c", line]).output().await.unwrap();
        let order: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{line}: {output:?}"));
        let reason = order["rejection"]["reason"].as_str().unwrap_or_default();
        ends.push(format!("{} {reason}", order["status"].as_str().unwrap()));
    }
    let expected =
        ["ORDER_STATUS_CONFIRMED ", "ORDER_STATUS_REJECTED card_declined", "ORDER_STATUS_REJECTED country_not_served"];
    assert_eq!(ends, expected);
    assert_eq!(program.stop().await, Some(0));
}

/// The first lets work under way end, which here would take ten seconds.
#[tokio::test]
async fn a_second_ctrl_c_ends_it_at_once_and_a_closed_terminal_is_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let program = Program::start(&data).await;
    let mut half = TcpStream::connect(&program.address).await.unwrap();
    let head = "POST /v1/orders HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: k\r\nContent-Length: 9\r\n\r\n{";
    half.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let started = tokio::time::Instant::now();
    program.signal("-INT").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    program.signal("-INT").await;
    assert_eq!(program.ended().await, Some(3), "work was cut off");
    assert!(started.elapsed() < Duration::from_secs(5), "{started:?}");

    let program = Program::start(&data).await;
    program.signal("-HUP").await;
    assert_eq!(program.ended().await, Some(0));
}

/// A page that has given its name this address acts for nobody.
#[tokio::test]
async fn a_request_for_a_foreign_host_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let program =
        Program::start_with(&folder.path().join("data"), &["--host-names", "shop.example,other.example"]).await;
    let told = async |hosts: &str| {
        let answer = program.told(&format!("GET /v1/products HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")).await;
        answer.lines().next().unwrap().to_owned()
    };
    assert_eq!(told("Host: evil.example\r\n").await, "HTTP/1.1 421 Misdirected Request");
    assert_eq!(told("Host: localhost\r\nHost: localhost\r\n").await, "HTTP/1.1 400 Bad Request");
    assert_eq!(told("").await, "HTTP/1.1 400 Bad Request");
    for ours in ["localhost", "127.0.0.1", "other.example"] {
        assert_eq!(told(&format!("Host: {ours}\r\n")).await, "HTTP/1.1 200 OK");
    }
    program.stop().await;
}

#[tokio::test]
async fn a_flag_or_port_or_folder_that_cannot_be_used_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let program = Program::start(&data).await;
    let (data, port) = (data.to_str().unwrap(), program.address.rsplit(':').next().unwrap());
    let elsewhere = folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("holiday.jpg"), "photo").unwrap();
    let cases = [
        (vec!["--colour"], "unexpected argument '--colour'"),
        (vec!["--port", "seventy"], "invalid value 'seventy'"),
        (vec!["--port", "70000"], "invalid value '70000'"),
        (vec!["--port", "0", "--data", data, "--log", "loud=x=y"], "the log filter \"loud=x=y\" is malformed"),
        (vec!["--port", port, "--data", "unused"], "cannot be listened on"),
        (vec!["--port", "0", "--data", data], "is in use by another process"),
        (
            vec!["--port", "0", "--data", elsewhere.to_str().unwrap()],
            "is not a data folder of this shop (it holds holiday.jpg)",
        ),
        (vec!["--port", "0", "--data", "/proc/nowhere"], "the data folder /proc/nowhere cannot be made"),
    ];
    for (arguments, sentence) in cases {
        let said = refusal(&arguments).await;
        assert!(said.starts_with("error: ") && said.contains(sentence), "{arguments:?} said: {said}");
    }
    assert!(!Path::new("unused").exists(), "a port in use is found before a folder is made");
    program.stop().await;
}

/// Files of settings have lines such as `JANGTEO_PORT=`, and yes is said in many ways.
#[tokio::test]
async fn an_empty_setting_is_none_and_a_yes_is_one_in_any_of_its_forms() {
    let folder = tempfile::tempdir().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    for (yes, json) in
        [("1", true), ("yes", true), ("ON", true), ("true", true), ("0", false), ("no", false), ("", false)]
    {
        let empty = ["PORT", "LOG", "DATA", "PICK_UP_MS", "TRANSIT_MS"].map(|name| format!("JANGTEO_{name}"));
        let mut settings: Vec<_> = empty.iter().map(|name| (name.as_str(), PathBuf::new())).collect();
        settings.push(("JANGTEO_LOG_JSON", yes.into()));
        let program = Program::start_under(&data, &["--log", "info"], &log, &settings).await;
        assert_eq!(program.stop().await, Some(0));
        let lines = fs::read_to_string(&log).unwrap();
        let first = lines.lines().next().unwrap();
        assert_eq!(serde_json::from_str::<Value>(first).is_ok(), json, "{yes:?}: {first}");
    }
    let said = Command::new(PROGRAM).args(["verify", "--data"]).arg(&data).env("JANGTEO_LOG_JSON", "perhaps").output();
    let said = String::from_utf8(said.await.unwrap().stderr).unwrap();
    assert!(said.contains("invalid value 'perhaps'"), "{said}");
}

#[tokio::test]
async fn a_damaged_data_folder_is_refused_by_name_and_never_started_empty() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    Program::start(&data).await.stop().await;
    let damage = |name: &str, bytes: Option<Vec<u8>>| {
        let copy = folder.path().join(format!("copy-{name}-{}", bytes.as_ref().map_or(0, Vec::len)));
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(&data).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        match bytes {
            Some(bytes) => fs::File::create(copy.join(name)).unwrap().write_all(&bytes).unwrap(),
            None => fs::remove_file(copy.join(name)).unwrap(),
        }
        copy
    };
    let order = fs::read(data.join("order.db")).unwrap();
    let torn = order[..order.len() / 2].to_vec();
    let noise = vec![0x5a; order.len()];
    let cases = [
        ("order.db", Some(vec![])),
        ("order.db", Some(torn)),
        ("inventory.db", Some(noise)),
        ("bank.db", None),
        ("jangteo.json", Some(b"{}".to_vec())),
    ];
    for (name, bytes) in cases {
        let copy = damage(name, bytes);
        let said = refusal(&["--port", "0", "--data", copy.to_str().unwrap()]).await;
        assert!(said.contains(name) && said.lines().count() == 1, "{name}: {said}");
    }
}

/// A folder of before there was an auditor: its file is made, and it hears everything from the beginning on.
#[tokio::test]
async fn a_data_folder_of_an_earlier_version_gets_the_files_that_it_did_not_have() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    Program::start(&data).await.stop().await;
    fs::remove_file(data.join("auditor.db")).unwrap();
    let manifest = fs::read_to_string(data.join("jangteo.json")).unwrap();
    let earlier = manifest.replace("    \"auditor\",\n", "");
    assert_ne!(earlier, manifest);
    fs::write(data.join("jangteo.json"), earlier).unwrap();
    rusqlite::Connection::open(data.join("bus.db")).unwrap().execute("DELETE FROM acknowledged", []).unwrap();
    let program = Program::start(&data).await;
    assert_eq!(fs::read_to_string(data.join("jangteo.json")).unwrap(), manifest);
    let heard = async {
        let operator = [("X-Operator", "lee")];
        loop {
            let (_, books) =
                send(&client(), &program.address, Method::GET, "/v1/books", &operator, String::new()).await.unwrap();
            if books["topics"].as_array().unwrap().iter().all(|topic| topic["behind"] == 0) {
                return books;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let books = tokio::time::timeout(Duration::from_secs(20), heard).await.unwrap();
    assert!(books["invariants"].as_array().unwrap().iter().all(|invariant| invariant["holds"] == true), "{books}");
    program.stop().await;
}

async fn ready(address: &str) -> bool {
    let (status, _) = send(&client(), address, Method::GET, "/readyz", &[], String::new()).await.unwrap();
    status == StatusCode::OK
}

async fn ready_within_seconds(address: &str, wanted: bool) {
    let becomes = async {
        while ready(address).await != wanted {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), becomes).await.expect("it shows in /readyz");
}

async fn place(address: &str, key: &str) -> (StatusCode, Value) {
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
    let body = order("pm_card_ok", "KR").to_string();
    send(&client(), address, Method::POST, "/v1/orders", &headers, body).await.unwrap()
}

/// Whatever is lost of the folder of an open shop: nothing is accepted that would be gone with the process.
#[tokio::test]
async fn an_open_shop_whose_files_are_removed_or_replaced_accepts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [data, aside, log] = ["data", "aside", "log"].map(|name| folder.path().join(name));
    let program = Program::start_logging(&data, &log).await;
    let address = &program.address;
    while !data.join("order.seals").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(place(address, "before").await.0, StatusCode::CREATED);
    let losses = [
        ("data/order.db", true),
        ("data/order.db-wal", false),
        ("data/payment.db", false),
        ("data/bus.db", true),
        ("data/order.seals", false),
        ("data/jangteo.lock", true),
        ("data/jangteo.json", false),
        ("data", false),
    ];
    let mut said = 0;
    for (n, (name, replaced)) in losses.into_iter().enumerate() {
        let lost = folder.path().join(name);
        fs::rename(&lost, &aside).unwrap();
        if replaced {
            fs::copy(&aside, &lost).unwrap();
        }
        ready_within_seconds(address, false).await;
        let errors = || {
            let lines = fs::read_to_string(&log).unwrap();
            lines.lines().skip(said).filter(|line| line.contains("ERROR")).map(str::to_owned).collect::<Vec<_>>()
        };
        let told = async {
            while errors().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), told).await.expect("it is in the log");
        for key in ["a", "b", "c"] {
            let (status, problem) = place(address, &format!("{key}-{n}")).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "without {name}: {problem}");
        }
        let [line] = &errors()[..] else { panic!("{name}: {:#?}", errors()) };
        assert!(line.contains(lost.to_str().unwrap()), "{name}: {line}");
        fs::rename(&aside, &lost).unwrap();
        ready_within_seconds(address, true).await;
        said = fs::read_to_string(&log).unwrap().lines().count();
        assert_eq!(place(address, &format!("back-{n}")).await.0, StatusCode::CREATED, "with {name} again");
    }
    assert_eq!(program.stop().await, Some(0));
}

/// Not even the first second is lost: a store looks for its write-ahead log before it answers.
#[tokio::test]
async fn an_order_right_after_the_folder_is_removed_is_not_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let program = Program::start(&data).await;
    // In one step: the shop is making files in it.
    fs::rename(&data, folder.path().join("gone")).unwrap();
    let (status, problem) = place(&program.address, "after").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    assert_eq!(problem["reason"], "outage", "{problem}");
}

pub async fn command(data: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(PROGRAM).args(arguments).arg("--data").arg(data).output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// ES-13, with the real program: one flipped byte, one deleted and one inserted row, and a cut tail are found.
#[tokio::test]
async fn verify_names_what_was_tampered_with() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let program = Program::start(&data).await;
    let sealed = data.join("inventory.seals");
    // 128 events put the goods on the shelves; their seals follow within a second or so.
    while fs::metadata(&sealed).map_or(0, |seals| seals.len()) < 129 * 32 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(program.stop().await, Some(0));
    let (good, said) = command(&data, &["verify"]).await;
    assert!(good && said.contains("inventory: 128 events are as they were sealed; 0 are not sealed yet"), "{said}");

    let columns =
        "id, stream, version, type, schema, data, timestamp, correlation_id, causation_id, actor, traceparent";
    let cases = [
        ("UPDATE events SET data = substr(data, 1, length(data) - 1) || ')' WHERE position = 77".to_owned(), "position 77"),
        ("DELETE FROM events WHERE position = 60".to_owned(), "60"),
        ("DELETE FROM events WHERE position > 100".to_owned(), "position 101"),
        (
            format!(
                "UPDATE events SET position = -position - 1 WHERE position >= 9;
                 UPDATE events SET position = -position WHERE position < 0;
                 INSERT INTO events (position, {columns}) SELECT 9, randomblob(16), stream, 900,
                 type, schema, data, timestamp, correlation_id, causation_id, actor, traceparent FROM events WHERE position = 8;"
            ),
            "position 9",
        ),
    ];
    for (n, (sql, named)) in cases.iter().enumerate() {
        let copy = folder.path().join(format!("copy-{n}"));
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(&data).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        rusqlite::Connection::open(copy.join("inventory.db")).unwrap().execute_batch(sql).unwrap();
        let (good, said) = command(&copy, &["verify"]).await;
        assert!(!good && said.contains("inventory") && said.contains(named), "{sql}: {said}");
    }
}

#[tokio::test]
async fn replay_prints_each_event_and_the_state_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    assert!(!command(&data, &["replay", "stock-TEA-BOSEONG-100"]).await.0, "there is no data folder");
    assert!(!data.exists());
    assert_eq!(Program::start(&data).await.stop().await, Some(0));
    let (good, said) = command(&data, &["replay", "stock-TEA-BOSEONG-100"]).await;
    assert!(good && said.contains("1 StockReceived by operator:opening"), "{said}");
    assert!(said.contains("-> Stock { received: 500, reserved: 0, shipped: 0 }"), "{said}");
    let cases = [
        (vec!["replay", "stock-NOTHING"], "there is no stream stock-NOTHING"),
        (vec!["replay", "stock-TEA-BOSEONG-100", "--to", "2"], "has versions 1 to 1, not 2"),
        (vec!["replay", "diary"], "is no stream"),
    ];
    for (arguments, sentence) in cases {
        let (good, said) = command(&data, &arguments).await;
        assert!(!good && said.contains(sentence), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn rebuild_makes_the_search_anew_without_a_difference() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    assert_eq!(Program::start(&data).await.stop().await, Some(0));
    let (good, said) = command(&data, &["rebuild"]).await;
    assert!(good && said.contains("product search: 64 documents; 0 were not as they are now"), "{said}");
    rusqlite::Connection::open(data.join("product-search.db"))
        .unwrap()
        .execute("UPDATE documents SET version = 9 WHERE key = 7", [])
        .unwrap();
    let (good, said) = command(&data, &["rebuild"]).await;
    assert!(good && said.contains("64 documents; 1 were not"), "{said}");
    fs::write(data.join("product-search.db"), "broken").unwrap();
    let program = Program::start(&data).await;
    let found = async {
        loop {
            let path = "/v1/products?query=boseong";
            let (status, page) =
                send(&client(), &program.address, Method::GET, path, &[], String::new()).await.unwrap();
            if status == StatusCode::OK && page["products"][0]["sku"] == "TEA-BOSEONG-100" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.expect("it is made anew at the start");
    program.stop().await;
}

fn copy_of(data: &Path, copy: &Path) {
    fs::create_dir(copy).unwrap();
    for entry in fs::read_dir(data).unwrap() {
        let entry = entry.unwrap();
        // What is gone by now was a file beside a database.
        let _ = fs::copy(entry.path(), copy.join(entry.file_name()));
    }
}

/// While customers press on: each backup opens, fits its seals, has every order that was answered before it began, and balances.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_an_open_shop_is_whole_and_a_copy_is_refused() {
    const PACE: [&str; 4] = ["--pick-up-ms", "150", "--transit-ms", "100"];
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let data = path("data");
    let program = Program::start_with(&data, &PACE).await;
    stock_up("", &program.address).await;
    let (_address, seen) = tokio::sync::watch::channel(program.address.clone());
    let stop = Arc::new(AtomicBool::new(false));
    #[expect(clippy::disallowed_methods, reason = "clients are no part of the shop")]
    let clients: Vec<_> =
        (0..8).map(|number| tokio::spawn(shop(String::new(), number, seen.clone(), stop.clone()))).collect();
    let mut before = vec![];
    for n in 0..3 {
        let (status, order) = place(&program.address, &format!("before-{n}")).await;
        assert_eq!(status, StatusCode::CREATED, "{order}");
        before.push(text(&order, "order_id").to_owned());
        let (good, said) = command(&data, &["backup", path(&format!("backup-{n}")).to_str().unwrap()]).await;
        assert!(good && said.is_empty(), "{said}");
        copy_of(&data, &path(&format!("copy-{n}")));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let (good, said) = command(&data, &["backup", path("backup-0").to_str().unwrap()]).await;
    assert!(!good && said.contains("backup-0 exists already"), "{said}");
    program.kill().await;
    stop.store(true, Ordering::SeqCst);
    clients.iter().for_each(tokio::task::JoinHandle::abort);

    for n in 0..3 {
        let backup = path(&format!("backup-{n}"));
        let (good, said) = command(&backup, &["verify"]).await;
        assert!(good && said.contains("order: "), "{said}");
        let program = Program::start_with(&backup, &PACE).await;
        ended_within(Duration::from_secs(30), &program.address, before[..=n].iter()).await;
        books_hold_within(Duration::from_secs(30), &program.address).await;
        assert_eq!(program.stop().await, Some(0));

        let copy = path(&format!("copy-{n}"));
        let said = refusal(&["--port", "0", "--data", copy.to_str().unwrap()]).await;
        assert!(said.contains("was copied while the shop was open") && said.contains("`backup`"), "{said}");
    }

    // What was killed goes on where it is; without its write-ahead log it does not; and it can be copied too.
    let (log, aside) = (data.join("order.db-wal"), path("aside"));
    fs::rename(&log, &aside).unwrap();
    let said = refusal(&["--port", "0", "--data", data.to_str().unwrap()]).await;
    assert!(said.contains("order.db-wal is missing") && said.lines().count() == 1, "{said}");
    fs::rename(&aside, &log).unwrap();
    let by_hand = path("by-hand");
    copy_of(&data, &by_hand);
    fs::remove_file(by_hand.join("jangteo.lock")).unwrap();
    let (good, said) = command(&data, &["backup", path("of-the-killed").to_str().unwrap()]).await;
    assert!(good, "{said}");
    for whole in [data, path("of-the-killed"), by_hand] {
        let program = Program::start_with(&whole, &PACE).await;
        ended_within(Duration::from_secs(30), &program.address, before.iter()).await;
        books_hold_within(Duration::from_secs(30), &program.address).await;
        assert_eq!(program.stop().await, Some(0));
        assert_eq!(fs::read(whole.join("jangteo.lock")).unwrap(), b"", "closed, it may be copied");
    }
}

/// A kill after the stores were closed and before the folder is given back leaves a lock file that fits what is there.
#[tokio::test]
async fn a_folder_whose_stores_were_closed_opens_although_its_lock_file_is_not_empty() {
    let folder = tempfile::tempdir().unwrap();
    let (data, lock) = (folder.path().join("data"), folder.path().join("data").join("jangteo.lock"));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    for rebuild in [false, true, false] {
        let taken = Folder::take(&data).unwrap();
        let stores = taken.stores(&clock).unwrap();
        assert!(fs::read_to_string(&lock).unwrap().contains("order.db-wal"));
        if rebuild {
            commands::rebuild(&taken, stores, &mut vec![]).await.unwrap();
        } else {
            let _stores = stores;
            let _closing = Closing(&taken);
        }
        assert!(!data.join("order.db-wal").exists(), "closed");
        let left = fs::read(&lock).unwrap();
        assert!(!left.is_empty());
        drop(taken);
        fs::write(&lock, left).unwrap();
    }
}

/// Where no shop was ever opened there is nothing to copy, and nothing is made.
#[tokio::test]
async fn a_backup_of_no_shop_is_refused_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("empty")).unwrap();
    fs::create_dir(path("foreign")).unwrap();
    fs::write(path("foreign").join("holiday.jpg"), "photo").unwrap();
    let cases = [
        ("empty", "no shop was opened on the data folder"),
        ("foreign", "no shop was opened on the data folder"),
        ("missing", "there is no data folder"),
    ];
    for (data, sentence) in cases {
        let data = path(data);
        let said = refusal(&["--data", data.to_str().unwrap(), "backup", path("to").to_str().unwrap()]).await;
        assert!(said.starts_with("error: ") && said.contains(sentence) && said.lines().count() == 1, "{said}");
        let left: Vec<_> = fs::read_dir(&data).into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "holiday.jpg"), "{left:?}");
    }
    assert!(!path("missing").exists() && !path("to").exists() && !path("to.unfinished").exists());
}

#[tokio::test]
async fn a_backup_goes_where_it_is_told_and_removes_only_what_a_backup_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let data = path("data");
    assert_eq!(Program::start(&data).await.stop().await, Some(0));
    // A name with a slash at its end, beside what a backup left that was killed.
    let left = path("slash.unfinished");
    fs::create_dir(&left).unwrap();
    for name in ["order.db", "order.db-journal", "order.seals", "jangteo.json.new"] {
        fs::write(left.join(name), "half").unwrap();
    }
    let (good, said) = command(&data, &["backup", &format!("{}/", path("slash").display())]).await;
    assert!(good && said.is_empty(), "{said}");
    assert!(path("slash").join("jangteo.json").exists() && !left.exists());
    let (good, said) = command(&path("slash"), &["verify"]).await;
    assert!(good, "{said}");

    // What others keep under that name stays.
    for foreign in ["holiday.jpg", "jangteo.lock"] {
        let unfinished = path("mine.unfinished");
        fs::create_dir(&unfinished).unwrap();
        fs::write(unfinished.join("order.db"), "half").unwrap();
        fs::write(unfinished.join(foreign), "kept").unwrap();
        let (good, said) = command(&data, &["backup", path("mine").to_str().unwrap()]).await;
        assert!(!good && said.contains("mine.unfinished") && said.contains(foreign), "{said}");
        assert!(unfinished.join("order.db").exists() && !path("mine").exists());
        fs::remove_dir_all(unfinished).unwrap();
    }
    let (good, said) = command(&data, &["backup", &format!("{}/missing/..", folder.path().display())]).await;
    assert!(!good && said.contains("does not end with a name"), "{said}");
}

/// A log that ends before its seals do was cut off: nothing is built on it.
#[tokio::test]
async fn a_log_that_lost_sealed_events_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let program = Program::start(&data).await;
    while fs::metadata(data.join("inventory.seals")).map_or(0, |seals| seals.len()) < 129 * 32 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(program.stop().await, Some(0));
    let cut = "DELETE FROM events WHERE position > 100";
    rusqlite::Connection::open(data.join("inventory.db")).unwrap().execute_batch(cut).unwrap();
    let said = refusal(&["--port", "0", "--data", data.to_str().unwrap()]).await;
    assert!(said.contains("the log ends at position 100") && said.contains("inventory.seals"), "{said}");
}
