//! A database whose disk is full.
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use http::StatusCode;
use tempfile::TempDir;

use crate::receipts::{self, PRODUCT, on_record, receive};
use crate::servers::Servers;

/// Room for an empty database and some of what is recorded here.
const SIZE: &str = "size=32m";

/// A small disk of the server's own.
struct Disk(TempDir);

impl Disk {
    /// Absent, and said so, where none can be made for the server.
    async fn make(servers: &Servers) -> Option<Disk> {
        let Ok(data) = fs::metadata(servers.text("SHOW data_directory").await) else {
            eprintln!("!!! SKIPPED: the server's files are not on this machine, where a disk could be made for it");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(folder.path()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "no disk can be mounted, and in CI it has to be");
            eprintln!("!!! SKIPPED: only root can mount a disk");
            return None;
        }
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let disk = Disk(folder);
        fs::create_dir(disk.place()).unwrap();
        chown(disk.place(), Some(data.uid()), Some(data.gid())).unwrap();
        Some(disk)
    }

    fn place(&self) -> PathBuf {
        self.0.path().join("database")
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut filler = File::options().create(true).append(true).open(self.filler()).unwrap();
        while filler.write_all(&[7; 4_096]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What cannot be let go of is gone with the machine.
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_nothing_is_half_written_and_with_room_it_goes_on() {
    let Some(servers) = Servers::find().await else { return };
    let Some(disk) = Disk::make(&servers).await else { return };
    // The database leaves the disk before the disk is taken away.
    let (disk, servers) = (disk, servers);
    servers.move_to(&disk.place()).await;
    let (mut inventory, gateway) = receipts::open(&servers, &[]).await;

    disk.fill();
    let (mut answered, mut refused) = (0, vec![]);
    while refused.len() < 3 {
        let key = format!("piece-{}", answered + refused.len());
        match receive(&gateway, &key).await {
            (StatusCode::OK, _) => answered += 1,
            (status, problem) => {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
                // What the server said, with its address, is in the log.
                assert_eq!(problem["detail"], "a part of the shop does not answer; try again");
                refused.push(key);
            }
        }
        assert!(answered < 5_000, "the disk is never full");
    }
    assert_eq!(on_record(&servers).await, answered as i64);
    assert_eq!(inventory.page("/healthz").await.unwrap().0, StatusCode::OK);
    assert_eq!(gateway.get(PRODUCT).await.0, StatusCode::OK, "what is there can be seen");
    inventory.says_once("commits are unavailable").await;
    let log = inventory.log();
    assert!(log.contains("No space left on device") && log.contains(servers.postgres_address()), "{log}");

    disk.make_room();
    for key in &refused {
        let (status, problem) = receive(&gateway, key).await;
        assert_eq!(status, StatusCode::OK, "{problem}");
    }
    assert_eq!(on_record(&servers).await, (answered + refused.len()) as i64);
    inventory.is_ready().await;
    inventory.stop().await;
    gateway.stop().await;
}
