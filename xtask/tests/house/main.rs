//! The rules of the house, as tests: who may depend on whom, which files are pure, and that the documents tell the truth.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod dependencies;
mod documents;
mod mutants;
#[path = "../../src/mutations.rs"]
mod mutations;
mod purity;
mod sources;
