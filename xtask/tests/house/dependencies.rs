//! Who may depend on whom.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::sources::{self, read, root};

/// What of ours each library may use; `ARCHITECTURE.md` says the same in layers.
const LIBS: [(&str, &[&str]); 14] = [
    ("clock", &[]),
    ("decider", &[]),
    ("lab", &[]),
    ("telemetry", &[]),
    ("resilience", &[]),
    ("store", &["clock", "decider", "lab", "telemetry"]),
    ("cache", &["store", "telemetry"]),
    ("host", &["clock", "decider", "resilience", "store", "telemetry"]),
    ("saga", &["clock", "decider", "lab", "resilience", "store", "telemetry", "host"]),
    ("search", &["clock", "decider", "resilience", "store", "telemetry", "host"]),
    ("messaging", &["clock", "decider", "lab", "resilience", "store", "telemetry", "host", "proto"]),
    ("simulation", &["clock", "decider", "resilience", "store", "telemetry", "host", "messaging"]),
    (
        "program",
        &["cache", "clock", "decider", "lab", "resilience", "store", "telemetry", "host", "messaging", "search"],
    ),
    ("proto", &[]),
];
/// Who sees several services.
const ROOTS: [&str; 3] = ["monolith", "load-tests", "xtask"];
/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 8] = ["common", "core", "shared", "types", "util", "utils", "helper", "helpers"];

/// A crate of the workspace, and those of ours that it uses.
#[derive(Default)]
struct Crate {
    folder: String,
    uses: BTreeSet<String>,
    uses_in_tests: BTreeSet<String>,
}

impl Crate {
    fn is_service(&self, name: &str) -> bool {
        self.folder.starts_with("services/") && !ROOTS.contains(&name)
    }
}

type Crates = BTreeMap<String, Crate>;

#[expect(clippy::disallowed_methods, reason = "cargo says in CARGO where it is")]
fn crates() -> Crates {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    crates_in(&serde_json::from_slice(&output.stdout).unwrap(), &root())
}

fn crates_in(metadata: &Value, root: &Path) -> Crates {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeSet<_> = packages.iter().map(|package| text(&package["name"])).collect();
    let one = |package: &Value| {
        let manifest = text(&package["manifest_path"]);
        let folder = Path::new(&manifest).parent().unwrap().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let mut known = Crate { folder, ..Crate::default() };
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = text(&dependency["name"]);
            let uses = if dependency["kind"] == "dev" { &mut known.uses_in_tests } else { &mut known.uses };
            uses.extend(ours.contains(&name).then_some(name));
        }
        (text(&package["name"]), known)
    };
    packages.iter().map(one).collect()
}

/// What breaks the table, in sentences.
fn complaints(crates: &Crates) -> Vec<String> {
    let allowed: BTreeMap<_, _> = LIBS.into_iter().collect();
    let service = |name: &str| crates.get(name).is_some_and(|other| other.is_service(name));
    let mut complaints = Vec::new();
    for (name, known) in crates {
        if EMPTY_NAMES.contains(&name.as_str()) {
            complaints.push(format!("{name} is a name that says nothing of what is inside"));
        }
        let library = known.folder.starts_with("libs/") || name == "proto";
        if library && !allowed.contains_key(name.as_str()) {
            complaints.push(format!("{name} is a library that the table does not know"));
        }
        let all = known
            .uses
            .iter()
            .map(|used| (used, ""))
            .chain(known.uses_in_tests.iter().map(|used| (used, " in its tests")));
        for (used, where_) in all {
            let in_tests = !where_.is_empty();
            let may = match name.as_str() {
                root if ROOTS.contains(&root) => !ROOTS.contains(&used.as_str()),
                // Tests of a library may stand on anything below or beside it that knows no service.
                library if allowed.contains_key(library) && in_tests => {
                    !service(used) && !ROOTS.contains(&used.as_str())
                }
                library if allowed.contains_key(library) => allowed[library].contains(&used.as_str()),
                _ => !service(used) && !ROOTS.contains(&used.as_str()),
            };
            let simulated = used == "simulation" && !in_tests;
            if !may || simulated {
                complaints.push(format!("{name} must not depend on {used}{where_}"));
            }
        }
    }
    complaints
}

#[test]
fn every_crate_depends_only_on_what_the_table_allows() {
    let crates = crates();
    assert!(crates.len() >= 18, "only {} crates were found", crates.len());
    assert_eq!(complaints(&crates), Vec::<String>::new());
    for (name, _) in LIBS {
        assert!(crates.contains_key(name), "the table knows {name}, which does not exist");
    }
}

/// The line with the arrows in `ARCHITECTURE.md`: what stands further left knows nothing of what stands further right.
#[test]
fn the_document_says_the_same_in_layers() {
    let text = read("ARCHITECTURE.md");
    let line = text.lines().find(|line| line.contains("` ← `")).expect("a line of layers");
    let layers: Vec<BTreeSet<&str>> =
        line.split(" ← ").map(|layer| layer.split('`').skip(1).step_by(2).collect()).collect();
    let layer = |name: &str| layers.iter().position(|layer| layer.contains(name));
    for (name, allowed) in LIBS {
        let own = layer(name).unwrap_or_else(|| panic!("the layers lack {name}"));
        for used in allowed {
            assert!(layer(used).unwrap() < own, "{name} may use {used}, says the table; the layers say otherwise");
        }
    }
    let named: usize = layers.iter().map(BTreeSet::len).sum();
    assert_eq!(named, LIBS.len(), "the layers name each library once");
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    for source in sources::all() {
        let named =
            source.name.split('/').map(|part| part.trim_end_matches(".rs")).find(|part| EMPTY_NAMES.contains(part));
        assert_eq!(named, None, "{}", source.name);
        let bare = sources::bare(&source.text);
        let words = sources::words(&bare);
        let module = words.windows(2).find(|pair| pair[0] == "mod" && EMPTY_NAMES.contains(&pair[1]));
        assert_eq!(module, None, "{}", source.name);
    }
}

#[test]
fn what_is_not_allowed_is_noticed() {
    type Change = fn(&mut Crate);
    let told = |name: &str, change: Change| {
        let mut crates = crates();
        change(crates.entry(name.to_owned()).or_default());
        complaints(&crates)
    };
    let uses = |name: &str| format!("must not depend on {name}");
    let cases: [(&str, Change, String); 7] = [
        ("order", |known| _ = known.uses.insert("payment".into()), uses("payment")),
        ("order", |known| _ = known.uses_in_tests.insert("monolith".into()), uses("monolith in its tests")),
        ("store", |known| _ = known.uses.insert("host".into()), uses("host")),
        ("proto", |known| _ = known.uses.insert("clock".into()), uses("clock")),
        ("host", |known| _ = known.uses_in_tests.insert("order".into()), uses("order in its tests")),
        ("monolith", |known| _ = known.uses.insert("simulation".into()), uses("simulation")),
        ("common", |known| known.folder = "libs/common".into(), "says nothing of what is inside".into()),
    ];
    for (name, change, said) in cases {
        let complaints = told(name, change);
        assert!(complaints.iter().any(|complaint| complaint.ends_with(&said)), "{name}: {complaints:?}");
    }
}
