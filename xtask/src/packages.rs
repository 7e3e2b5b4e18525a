//! What the servers are made of: programs of the system, and archives that are fetched once.
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::servers::{Place, broken, server_program};
use crate::steps::{Failed, judge, said};

/// Whom the servers run as, where this program is root.
pub(crate) const NOBODY: u32 = 65_534;
/// The administrator's password; the servers are reached over the loopback address only.
pub(crate) const POSTGRES_PASSWORD: &str = "postgres";
/// A program of the system, and the Debian package that has it.
pub(crate) type Program = (&'static str, &'static str);
pub(crate) const JAVA: Program = ("java", "openjdk-17-jdk-headless");
pub(crate) const MAVEN: Program = ("mvn", "maven");
const REDIS: Program = ("redis-server", "redis-server");
/// What tests start for themselves: a pooler between stores and Postgres, and a Redis that is frozen.
pub(crate) const OF_TESTS: [Program; 2] = [("pgbouncer", "pgbouncer"), REDIS];
/// What the servers need.
const NEEDED: [Program; 5] = [REDIS, JAVA, MAVEN, ("xz", "xz-utils"), ("psql", "postgresql-client")];
/// The names of a cluster of brokers are 16 bytes in base64; this one is nobody else's business.
const CLUSTER: &str = "amFuZ3Rlby1zaG9wLW9uZQ";

/// Whether this program may do everything.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Makes a file or folder the servers' own, with all that is in it.
///
/// # Errors
/// If that is refused.
pub(crate) fn hand_over(path: &Path) -> Result<(), Failed> {
    if !is_root() {
        return Ok(());
    }
    judge("chown", Command::new("chown").args(["-R", &format!("{NOBODY}:{NOBODY}")]).arg(path).status())
}

/// Sees to it that all programs are there: fetches what can be fetched.
///
/// # Errors
/// A sentence that says what to install, or what could not be fetched.
pub(crate) fn install(place: &Place) -> Result<(), Failed> {
    system(&NEEDED)?;
    let (programs, settings) = (&place.programs, &place.settings);
    let mark = programs.join("installed.txt");
    let pom = settings.join("pom.xml");
    let wanted = fs::read_to_string(&pom).map_err(|why| broken(&pom, &why))?;
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    println!("the servers' programs are fetched into {}; this takes a minute", programs.display());
    // Half an installation has no mark.
    let _ = fs::remove_dir_all(programs);
    fs::create_dir_all(programs).map_err(|why| broken(programs, &why))?;
    fetch(programs, &pom)?;
    make_postgres(programs)?;
    make_kafka(place)?;
    judge("chmod", Command::new("chmod").args(["-R", "a+rX"]).arg(programs.join("elasticsearch")).status())?;
    fs::write(&mark, wanted).map_err(|why| broken(&mark, &why))
}

/// Sees to it that these programs of the system are there: installs the lacking ones where that is allowed.
///
/// # Errors
/// A sentence that says what to install.
pub(crate) fn system(needed: &[Program]) -> Result<(), Failed> {
    let lacking: Vec<_> = needed.iter().filter(|(program, _)| !in_path(program)).map(|(_, package)| *package).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let list = lacking.join(" ");
    if !is_root() || !in_path("apt-get") {
        return Err(Failed::new(format!("these packages are needed; install them: {list}")));
    }
    println!("apt-get installs {list}");
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "-y", "-qq", "--no-install-recommends"]);
        // A server that the package brings must not be started on its own port.
        apt.env("RUNLEVEL", "1").args(&lacking).output()
    };
    if install().is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    // The lists of a fresh machine are old, or there are none.
    judge("apt-get update", Command::new("apt-get").args(["update", "-qq"]).status())?;
    let output = install().map_err(|why| Failed::new(format!("apt-get cannot be run: {why}")))?;
    judge("apt-get install", Ok(output.status))
        .map_err(|failed| Failed { sentence: format!("{}\n{}", failed.sentence, said(&output)), ..failed })
}

fn in_path(program: &str) -> bool {
    #[expect(clippy::disallowed_methods, reason = "the path is where programs are looked for")]
    let path = std::env::var("PATH").unwrap_or_default();
    // Where Debian puts servers, which is in nobody's path but root's.
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(program)).any(|program| program.is_file())
}

fn fetch(programs: &Path, pom: &Path) -> Result<(), Failed> {
    let profile: &[&str] = if java(21, 25).is_ok() { &["-Pes9"] } else { &[] };
    maven(pom, programs, profile)?;
    let packed = programs.join("postgres");
    let archive = only_file(&packed)?;
    judge("tar", Command::new("tar").arg("-xJf").arg(archive).arg("-C").arg(&packed).status())
}

/// Has Maven fetch into a folder what a file asks for.
///
/// # Errors
/// If Maven fails.
pub(crate) fn maven(pom: &Path, folder: &Path, more: &[&str]) -> Result<(), Failed> {
    let archives = folder.join("archives");
    let mut maven = Command::new("mvn");
    maven.args(["-B", "-q", "-f"]).arg(pom);
    maven.arg(format!("-Dmaven.repo.local={}", archives.display()));
    maven.arg(format!("-Dinfra.dist={}", folder.display())).arg("initialize").args(more);
    judge("mvn", maven.status())?;
    // What was asked for is beside them; of the servers' one alone has 0.9 GB.
    fs::remove_dir_all(&archives).map_err(|why| broken(&archives, &why))
}

fn only_file(folder: &Path) -> Result<PathBuf, Failed> {
    let entries = fs::read_dir(folder).map_err(|why| broken(folder, &why))?;
    let first = entries.flatten().next();
    first.map(|entry| entry.path()).ok_or_else(|| Failed::new(format!("{} is empty", folder.display())))
}

/// Makes an empty cluster once; every data folder begins as a copy of it.
fn make_postgres(programs: &Path) -> Result<(), Failed> {
    let made = programs.join("made");
    fs::create_dir_all(&made).map_err(|why| broken(&made, &why))?;
    let password = made.join("password");
    fs::write(&password, POSTGRES_PASSWORD).map_err(|why| broken(&password, &why))?;
    hand_over(&made)?;
    let mut initdb = server_program(&programs.join("postgres/bin/initdb"));
    initdb.arg("-D").arg(made.join("postgres")).args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8"]);
    initdb.args(["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-sync"]);
    initdb.arg(format!("--pwfile={}", password.display()));
    quietly("initdb", &mut initdb)
}

fn make_kafka(place: &Place) -> Result<(), Failed> {
    let made = place.programs.join("made");
    let settings = made.join("kafka.properties");
    let text = place.kafka_settings(&made.join("kafka"))?;
    fs::write(&settings, text).map_err(|why| broken(&settings, &why))?;
    hand_over(&made)?;
    let mut format = server_program(&java(17, 25)?);
    format.args(["-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]).arg(place.programs.join("kafka/*"));
    format.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c"]).arg(settings);
    quietly("the formatting of Kafka's storage", &mut format)
}

/// Runs a program, whose words are shown only if it fails.
///
/// # Errors
/// If it fails.
pub(crate) fn quietly(name: &str, command: &mut Command) -> Result<(), Failed> {
    let output = command.output().map_err(|why| Failed::new(format!("{name} cannot be run: {why}")))?;
    judge(name, Ok(output.status))
        .map_err(|failed| Failed { sentence: format!("{}\n{}", failed.sentence, said(&output)), ..failed })
}

/// The newest whole Java between two versions; where several are installed, that in the path is not always one.
///
/// # Errors
/// If there is none.
pub(crate) fn java(least: u32, most: u32) -> Result<PathBuf, Failed> {
    let homes = fs::read_dir("/usr/lib/jvm").into_iter().flatten().flatten().map(|entry| entry.path());
    let fitting = homes.filter_map(|home| {
        let release = fs::read_to_string(home.join("release")).ok()?;
        let version = version_of(&release)?;
        // Elasticsearch 9 looks for a module that only a development kit has.
        let whole = release.contains("jdk.jlink") || home.join("jmods/jdk.jlink.jmod").exists();
        let java = home.join("bin/java");
        (whole && (least..=most).contains(&version) && is_executable(&java)).then_some((version, java))
    });
    let newest = fitting.max_by_key(|(version, _)| *version);
    newest.map(|(_, java)| java).ok_or_else(|| Failed::new(format!("a JDK of version {least} to {most} is needed")))
}

/// The number in `JAVA_VERSION="17.0.15"`.
fn version_of(release: &str) -> Option<u32> {
    let line = release.lines().find_map(|line| line.strip_prefix("JAVA_VERSION=\""))?;
    line.split(['.', '"']).next()?.parse().ok()
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Whether everybody may go through a folder and all above it: the servers do not run as root.
pub(crate) fn is_open_to_all(folder: &Path) -> bool {
    folder.ancestors().filter(|part| part.as_os_str() != OsStr::new("")).all(|part| {
        // What is not there yet is made by this program, and open.
        fs::metadata(part).map_or(true, |metadata| metadata.permissions().mode() & 0o001 != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_java_is_read_from_its_release() {
        assert_eq!(version_of("IMPLEMENTOR=\"Debian\"\nJAVA_VERSION=\"17.0.15\"\n"), Some(17));
        assert_eq!(version_of("JAVA_VERSION=\"21\"\n"), Some(21));
        assert_eq!(version_of("nothing"), None);
    }

    #[test]
    fn a_folder_behind_a_closed_one_is_not_open() {
        let closed = std::env::temp_dir().join(format!("xtask-closed-{}", std::process::id()));
        fs::create_dir_all(closed.join("inner")).unwrap();
        assert!(is_open_to_all(&closed.join("inner/not there yet")));
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!is_open_to_all(&closed.join("inner")));
        fs::remove_dir_all(&closed).unwrap();
    }
}
