//! The auditor: keeps the books of the whole shop from what its services publish.
//!
//! | file | holds |
//! |---|---|
//! | [`invariant`] | PURE: what always holds, and what is said where it does not |
//! | [`fact`] | PURE: what services publish, as the auditor reads it |
//! | [`page`] | PURE: what is known of one order |
//! | [`shelf`] | PURE: what is known of one product's stock |
//! | [`ledgers`] | PURE: what bank and carrier have in books of their own |
//! | [`books`] | PURE: all pages and shelves |

pub mod books;
pub mod fact;
pub mod invariant;
pub mod ledgers;
pub mod page;
pub mod shelf;
