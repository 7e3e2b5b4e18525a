//! The documents tell the truth: links lead somewhere, and each pattern of the index has its files and its tests.
use std::collections::BTreeSet;

use crate::sources::{self, Source, read, root};

const READMES: [&str; 2] = ["README.md", "README.ko.md"];
/// Where guarantees are taken away in the simulation, each under a word.
const SABOTAGE: &str = "services/monolith/tests/simulation/sabotage.rs";
/// How a row names one of them.
pub(crate) const WITHOUT: &str = "simulation without ";

/// A row of the index of patterns.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) pattern: String,
    links: Vec<String>,
    /// The tests, and the words of the simulation after [`WITHOUT`].
    pub(crate) proofs: Vec<String>,
}

/// The index: the table whose heading names three columns, the last of which is for the test.
pub(crate) fn index(text: &str) -> Vec<Row> {
    let section =
        text.split("\n## ").find(|section| section.starts_with("Patterns\n") || section.starts_with("패턴\n"));
    let rows = section.expect("a section of patterns").lines().filter(|line| line.starts_with("| ")).skip(1);
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [pattern, files, tests] = cells[..] else { panic!("three columns: {line}") };
        let proofs = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Row { pattern: pattern.to_owned(), links: links(files), proofs }
    };
    rows.map(row).collect()
}

/// Where the relative links of a text lead.
fn links(text: &str) -> Vec<String> {
    let all = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    all.filter(|link| !link.contains("://") && !link.starts_with('#')).map(str::to_owned).collect()
}

/// Why nothing is proven by `proof`, or nothing.
pub(crate) fn doubt(proof: &str, sources: &[Source], words: &BTreeSet<String>) -> Option<String> {
    if let Some(word) = proof.strip_prefix(WITHOUT) {
        return (!words.contains(word)).then(|| format!("{SABOTAGE} takes no `{word}` away"));
    }
    let Some((file, name)) = proof.split_once("::") else { return Some(format!("`{proof}` names no file and test")) };
    let name = name.strip_prefix("tests::").unwrap_or(name);
    let beside = format!("{file}_tests");
    let of_the_file = |source: &&Source| source.stem() == file || source.stem() == beside;
    let mut of_the_file = sources.iter().filter(of_the_file);
    // Adapters have the statements of their contract as tests of their own.
    let holds_a_contract = of_the_file.clone().any(|source| source.text.contains("hold_the_contract!(make)"));
    let states = |source: &Source| source.text.contains(&format!("fn {name}(subject: &Subject)"));
    let found = of_the_file.any(|source| is_test(&source.text, name)) || holds_a_contract && sources.iter().any(states);
    (!found).then(|| format!("there is no test `{name}` in a file `{file}`"))
}

/// Whether a text has a function of this name that is marked as a test.
fn is_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let begins = |line: &str| line.trim_start().trim_start_matches("async ").starts_with(&format!("fn {name}("));
    let Some(at) = lines.iter().position(|line| begins(line)) else { return false };
    let above = lines[..at].iter().rev().map(|line| line.trim_start());
    above.take_while(|line| line.starts_with('#') || line.starts_with("//")).any(|line| {
        let attribute = line.trim_start_matches("#[").split([']', '(']).next().unwrap_or_default();
        attribute == "test" || attribute.ends_with("::test")
    })
}

/// The words under which guarantees are taken away.
fn words(sabotage: &str) -> BTreeSet<String> {
    let list = sabotage.split("\nguarantees! {").nth(1).expect("a list of guarantees").split("\n}").next().unwrap();
    list.lines().filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

#[test]
fn every_pattern_has_its_files_and_a_test_that_exists() {
    let (sources, words) = (sources::all(), words(&read(SABOTAGE)));
    assert!(words.len() >= 20, "{words:?}");
    for readme in READMES {
        let rows = index(&read(readme));
        assert!(rows.len() >= 23, "{readme} lists {} patterns", rows.len());
        for row in rows {
            assert!(!row.links.is_empty(), "{readme}: {} has no file", row.pattern);
            assert!(!row.proofs.is_empty(), "{readme}: {} has no test", row.pattern);
            for proof in &row.proofs {
                assert_eq!(doubt(proof, &sources, &words), None, "{readme}: {}", row.pattern);
            }
        }
    }
}

#[test]
fn both_readmes_list_the_same_patterns_in_the_same_order() {
    let [english, korean] = READMES.map(|readme| index(&read(readme)));
    assert_eq!(english.len(), korean.len());
    for (ours, theirs) in english.iter().zip(&korean) {
        assert_eq!(
            (&ours.links, &ours.proofs),
            (&theirs.links, &theirs.proofs),
            "{} and {}",
            ours.pattern,
            theirs.pattern
        );
    }
}

/// Rows that no table shows: they follow a blank line, and what follows them rules no header off.
fn rows_without_a_table(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let is_row = |line: &&str| line.starts_with('|');
    let begins = (0..lines.len()).filter(|n| is_row(&lines[*n]) && (*n == 0 || lines[*n - 1].trim().is_empty()));
    begins.filter(|n| !lines.get(n + 1).is_some_and(|line| line.starts_with("|--"))).map(|n| lines[n]).collect()
}

#[test]
fn every_row_of_a_table_is_shown() {
    assert_eq!(rows_without_a_table("a\n\n| a | b |\n|---|---|\n| c | d |\n\n| e | f |\n"), ["| e | f |"]);
    for document in READMES.iter().chain(&["ARCHITECTURE.md"]) {
        assert_eq!(rows_without_a_table(&read(document)), Vec::<&str>::new(), "{document}");
    }
}

#[test]
fn links_lead_somewhere() {
    for document in READMES.iter().chain(&["ARCHITECTURE.md"]) {
        let links = links(&read(document));
        assert!(!links.is_empty(), "{document}");
        for link in links {
            let (file, place) = link.split_once('#').unwrap_or((&link, ""));
            assert!(root().join(file).exists(), "{document} links to {file}, which is not there");
            let headings = if place.is_empty() { String::new() } else { read(file) };
            let mut anchors = headings.lines().filter_map(|line| line.strip_prefix("## "));
            let found = place.is_empty() || anchors.any(|heading| heading.to_lowercase().replace(' ', "-") == place);
            assert!(found, "{document} links to {link}, and {file} has no such heading");
        }
    }
}

#[test]
fn what_is_missing_is_noticed() {
    let text = "#[test]\nfn plain() {}\n    /// Why.\n    #[tokio::test(start_paused = true)]\n    async fn waits() {}\nfn helper() {}\n";
    assert!(is_test(text, "plain") && is_test(text, "waits"));
    assert!(!is_test(text, "helper") && !is_test(text, "wait") && !is_test(text, "absent"));

    let sources = [Source { name: "libs/x/src/relay_tests.rs".into(), text: text.into() }];
    let words = words("\nguarantees! {\n    One \"one-word\" [\"I-1\"],\n}\n");
    for good in ["relay::tests::plain", "relay_tests::waits", "simulation without one-word"] {
        assert_eq!(doubt(good, &sources, &words), None, "{good}");
    }
    for bad in ["relay::tests::helper", "consumer::tests::plain", "plain", "simulation without another"] {
        assert!(doubt(bad, &sources, &words).is_some(), "{bad}");
    }

    let rows = index(
        "x\n## Patterns\n\n| a | b | c |\n|---|---|---|\n| P | [x](y/z.rs), [w](v.rs) | `m::t`, `simulation without w` |\n\n## Next\n",
    );
    assert_eq!((rows.len(), rows[0].pattern.as_str()), (1, "P"));
    assert_eq!(rows[0].links, ["y/z.rs", "v.rs"]);
    assert_eq!(rows[0].proofs, ["m::t", "simulation without w"]);
}
