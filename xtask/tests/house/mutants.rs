//! The mutations of `cargo xtask mutants` fit the files that they break, and leave out no pattern.
use std::collections::BTreeSet;

use crate::documents::{WITHOUT, doubt, index};
use crate::mutations::{self, Mutation};
use crate::sources::{self, Source, read};

#[test]
fn each_mutation_changes_one_place() {
    let mut names = BTreeSet::new();
    for Mutation { name, file, find, put, .. } in mutations::all() {
        assert!(names.insert(name), "two mutations are called {name}");
        assert_eq!(read(file).matches(find).count(), 1, "{name}: how often its text stands in {file}");
        assert_ne!(find, put, "{name} changes nothing");
    }
}

#[test]
fn each_mutation_is_for_a_test_that_exists_where_it_is_looked_for() {
    let sources = sources::all();
    for Mutation { name, package, tests, caught_by, .. } in mutations::all() {
        let folder = tests.map_or("src".to_owned(), |tests| format!("tests/{tests}"));
        let place = [format!("libs/{package}/{folder}"), format!("services/{package}/{folder}")];
        let there = |source: &Source| place.iter().any(|place| source.name.starts_with(place.as_str()));
        let there: Vec<Source> = sources.iter().filter(|source| there(source)).cloned().collect();
        assert_eq!(doubt(caught_by, &there, &BTreeSet::new()), None, "{name}");
    }
}

#[test]
fn every_test_of_the_index_has_a_mutation_that_it_catches() {
    let caught: BTreeSet<_> = mutations::all().map(|mutation| mutation.caught_by).collect();
    for row in index(&read("README.md")) {
        for proof in row.proofs.iter().filter(|proof| !proof.starts_with(WITHOUT)) {
            assert!(caught.contains(proof.as_str()), "{}: nothing is broken that {proof} has to catch", row.pattern);
        }
    }
}
