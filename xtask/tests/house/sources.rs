//! The repository's own files.
use std::fs;
use std::path::{Path, PathBuf};

/// Where the repository's Rust is.
const FOLDERS: [&str; 5] = ["libs", "services", "load-tests", "proto", "xtask"];

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A file's text, named from the root.
pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|why| panic!("{name}: {why}"))
}

/// A file of Rust.
#[derive(Clone)]
pub(crate) struct Source {
    /// Its name from the root.
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Source {
    /// The last part of its name, without `.rs`.
    pub(crate) fn stem(&self) -> &str {
        Path::new(&self.name).file_stem().and_then(|stem| stem.to_str()).unwrap()
    }

    /// What it says of itself: the lines of `//!` at its top.
    pub(crate) fn says(&self) -> String {
        self.text.lines().take_while(|line| line.starts_with("//!")).map(|line| format!("{line}\n")).collect()
    }
}

/// All files of Rust, by name.
pub(crate) fn all() -> Vec<Source> {
    let mut names = Vec::new();
    FOLDERS.iter().for_each(|folder| below(&root().join(folder), &mut names));
    names.sort();
    let named = |name: &PathBuf| {
        let name = name.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        Source { text: read(&name), name }
    };
    names.iter().map(named).collect()
}

fn below(folder: &Path, names: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            below(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            names.push(path);
        }
    }
}

/// Rust without its comments and strings, so that what is left is what the program does. A raw string ends at the first `"#`.
pub(crate) fn bare(text: &str) -> String {
    let mut bare = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = match rest {
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => past(rest, "*/"),
            _ if rest.starts_with("r#\"") => past(rest, "\"#"),
            _ if rest.starts_with("'\"'") => "'\"'".len(),
            _ if first == '"' => quoted(rest),
            _ => 0,
        };
        if skipped == 0 {
            bare.push(first);
        }
        rest = &rest[skipped.max(first.len_utf8())..];
    }
    bare
}

/// A program without its module of tests, which comes last.
pub(crate) fn untested(bare: &str) -> &str {
    const MARK: &str = "#[cfg(test)]";
    let module = |at: &usize| {
        let rest = bare[at + MARK.len()..].trim_start();
        rest.starts_with("mod ") || rest.starts_with("#[path")
    };
    let end = bare.match_indices(MARK).map(|(at, _)| at).find(module);
    &bare[..end.unwrap_or(bare.len())]
}

/// Where a text goes on after the first `end`.
fn past(text: &str, end: &str) -> usize {
    text.find(end).map_or(text.len(), |at| at + end.len())
}

/// How long the string literal is that `text` begins with.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// The words of a program: names and numbers, and each other character alone.
pub(crate) fn words(bare: &str) -> Vec<&str> {
    let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut words = Vec::new();
    let mut rest = bare.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if part_of_a_word(first) {
            rest.find(|c| !part_of_a_word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        words.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    words
}

#[test]
fn comments_and_strings_are_no_program() {
    let text = r##"a("x \" // y"); // z "
b /* c */ d(r#"e "f" g"#, '"', "h\\") 'i' "##;
    let left: String = bare(text).split_whitespace().collect();
    assert_eq!(left, "a();bd(,,)'i'");
    assert_eq!(words("use std::fs; x_1+2"), ["use", "std", ":", ":", "fs", ";", "x_1", "+", "2"]);
}
