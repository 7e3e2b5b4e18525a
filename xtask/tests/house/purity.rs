//! PURE files ask nobody: what they say follows from what they are given.
use std::collections::BTreeSet;

use crate::sources::{self, Source, bare, read, untested, words};

/// Words that a pure file has no use for.
const IMPURE: [&str; 16] = [
    "async",
    "await",
    "tokio",
    "tonic",
    "rusqlite",
    "sqlx",
    "hyper",
    "rand",
    "Instant",
    "SystemTime",
    "SystemClock",
    "Clock",
    "Ids",
    "thread_local",
    "println",
    "eprintln",
];
/// Parts of std that a pure file has no use for.
const OF_STD: [&str; 5] = ["fs", "net", "thread", "env", "process"];

/// What of a file's program, its tests aside, asks for something that is not given.
fn impurities(text: &str) -> BTreeSet<String> {
    let bare = bare(text);
    let words = words(untested(&bare));
    let mut found: BTreeSet<String> =
        words.iter().filter(|word| IMPURE.contains(word)).map(ToString::to_string).collect();
    for (at, word) in words.iter().enumerate() {
        let (before, next) = (words[..at].iter().rev(), words.get(at + 1..).unwrap_or_default());
        let path: Vec<&str> = before.copied().take(3).collect();
        if OF_STD.contains(word) && path == [":", ":", "std"] {
            found.insert(format!("std::{word}"));
        }
        if *word == "std" && next.starts_with(&[":", ":", "{"]) {
            found.extend(listed(&next[3..]).filter(|part| OF_STD.contains(part)).map(|part| format!("std::{part}")));
        }
        if path == [":", ":", "Uuid"] && (word.starts_with("now") || word.starts_with("new_v")) {
            found.insert(format!("Uuid::{word}"));
        }
    }
    found
}

/// What a list in braces, whose opening one is just past, names first between its commas.
fn listed<'a>(words: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    let mut depth = 1;
    let mut first = true;
    words.iter().copied().map_while(move |word| {
        depth += i32::from(word == "{") - i32::from(word == "}");
        let starts = std::mem::replace(&mut first, word == "," && depth == 1);
        (depth > 0).then_some(if starts { word } else { "" })
    })
}

fn says_pure(source: &Source) -> bool {
    source.says().starts_with("//! PURE.")
}

#[test]
fn files_that_say_pure_are_pure() {
    let sources = sources::all();
    let pure: Vec<_> = sources.iter().filter(|source| says_pure(source)).collect();
    assert!(pure.len() >= 15, "only {} files say that they are PURE", pure.len());
    for source in pure {
        let found = impurities(&source.text);
        assert!(found.is_empty(), "{} says PURE and has {found:?}", source.name);
    }
}

/// A row of a crate's map, or of the folders in ARCHITECTURE.md, that calls files PURE.
#[test]
fn files_that_are_called_pure_say_so() {
    let sources = sources::all();
    let mut called = BTreeSet::new();
    for map in sources.iter().filter(|source| source.stem() == "lib") {
        let folder = map.name.strip_suffix("lib.rs").unwrap();
        for row in map.says().lines().filter(|row| row.contains("| PURE")) {
            let files = row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2);
            called.extend(files.map(|file| format!("{folder}{file}.rs")));
        }
    }
    let mut folder = String::new();
    let map = read("ARCHITECTURE.md").split("```").nth(1).unwrap().replace("\n                    ", " ");
    for line in map.lines() {
        let name = line.split_whitespace().next().unwrap_or_default().trim_end_matches('/');
        folder = if line.starts_with(' ') { folder } else { name.to_owned() };
        let before_pure =
            line.match_indices("(PURE)").map(|(at, _)| line[..at].split_whitespace().next_back().unwrap());
        called.extend(before_pure.map(|file| format!("{folder}/{name}/src/{file}")));
    }
    assert!(called.contains("libs/saga/src/react.rs") && called.contains("services/order/src/order.rs"), "{called:?}");
    for name in called {
        let source = sources.iter().find(|source| source.name == name);
        assert!(
            source.is_some_and(says_pure),
            "{name} is called PURE, and is not there or does not begin with `//! PURE.`"
        );
    }
}

/// Every aggregate's rules stand in a pure file; those of the outside parties, which are simulators, beside their clocks.
#[test]
fn whatever_implements_decider_is_pure_or_an_outside_party() {
    let outside = ["services/payment/src/bank.rs", "services/shipping/src/carrier.rs"];
    let decides = |source: &Source| {
        let bare = bare(&source.text);
        source.name.contains("/src/")
            && !source.stem().ends_with("_tests")
            && untested(&bare).contains("impl Decider for")
    };
    let impure: Vec<_> = sources::all().into_iter().filter(|source| decides(source) && !says_pure(source)).collect();
    let names: Vec<_> = impure.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, outside);
}

#[test]
fn what_is_impure_is_noticed() {
    let pure = r#"
//! PURE. async is a word here.
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use clock::Timestamp;
/// tokio, rand
fn rule(env: &str, fs: u8) -> &'static str { "await std::fs SystemTime" }
#[cfg(test)]
mod tests { use std::fs; use tokio::time::Instant; }
"#;
    assert_eq!(impurities(pure), BTreeSet::new());
    let impure = [
        ("async fn f() {}", "async"),
        ("#[cfg(test)]\nuse a::B;\nasync fn f() {}", "async"),
        ("fn f() { g().await }", "await"),
        ("use tokio::sync::Notify;", "tokio"),
        ("fn f() -> tonic::Status {}", "tonic"),
        ("use rusqlite::Connection;", "rusqlite"),
        ("use rand::Rng;", "rand"),
        ("use std::time::Instant;", "Instant"),
        ("let t = std::time::SystemTime::now();", "SystemTime"),
        ("use std::fs::File;", "std::fs"),
        ("use std::{collections::{BTreeMap, BTreeSet}, net::IpAddr};", "std::net"),
        ("use std::{env};", "std::env"),
        ("let x = std :: thread :: current();", "std::thread"),
        ("let id = uuid::Uuid::now_v7();", "Uuid::now_v7"),
        ("let id = Uuid::new_v4();", "Uuid::new_v4"),
        ("fn f(clock: &dyn Clock) {}", "Clock"),
    ];
    for (text, word) in impure {
        assert_eq!(impurities(text), BTreeSet::from([word.to_owned()]), "{text}");
    }
}
