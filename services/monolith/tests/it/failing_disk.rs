//! The real program on a disk that fails one fsync in twenty.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::customers::{History, books_hold_within, ended_within, shop, stock_up};
use crate::program::{Program, command};

const CLIENTS: usize = 4;
const PACE: [&str; 4] = ["--pick-up-ms", "150", "--transit-ms", "100"];

/// Stands between a program and the disk: while the file that `FAILING` names is there, one fsync in twenty is not done and says EIO.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_uint syncs;

static int synced(const char *name, int file) {
    const char *failing = getenv("FAILING");
    if (failing && access(failing, F_OK) == 0 && atomic_fetch_add(&syncs, 1) % 20 == 19) {
        errno = EIO;
        return -1;
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(file);
}

int fsync(int file) { return synced("fsync", file); }
int fdatasync(int file) { return synced("fdatasync", file); }
"#;

fn shim(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
    std::fs::write(&source, SHIM).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(built.unwrap().success(), "a C compiler is needed anyway, for SQLite");
    library
}

/// What is answered is kept, what fails is refused, and the shop goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fsync_in_twenty_fails_and_nothing_that_was_answered_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let [data, failing, log] = ["data", "failing", "log"].map(|name| folder.path().join(name));
    let settings = [("LD_PRELOAD", shim(folder.path())), ("FAILING", failing.clone())];
    let program = Program::start_under(&data, &PACE, &log, &settings).await;
    stock_up("", &program.address).await;
    std::fs::write(&failing, "").unwrap();
    let (_address, seen) = watch::channel(program.address.clone());
    let stop = Arc::new(AtomicBool::new(false));
    #[expect(clippy::disallowed_methods, reason = "clients are no part of the shop")]
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| tokio::spawn(shop(String::new(), number, seen.clone(), stop.clone()))).collect();
    tokio::time::sleep(Duration::from_secs(5)).await;
    stop.store(true, Ordering::SeqCst);
    let mut history = History::new();
    for done in clients {
        history.extend(done.await.unwrap());
    }
    program.kill().await;
    let lines = std::fs::read_to_string(&log).unwrap();
    assert!(lines.contains("transactions fail"), "no fsync of a store failed: {lines}");

    let program = Program::start_with(&data, &PACE).await;
    assert!(history.len() > 10, "{} orders", history.len());
    ended_within(Duration::from_secs(60), &program.address, history.values().map(|(id, _)| id)).await;
    books_hold_within(Duration::from_secs(20), &program.address).await;
    assert_eq!(program.stop().await, Some(0));
    let (good, said) = command(&data, &["verify"]).await;
    assert!(good, "{said}");
}
