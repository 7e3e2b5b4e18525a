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
//! | [`logs`] | PURE: what the services' own logs have to be, where somebody may read them |
//! | `sagas`, `calls` | PURE: the sagas in these logs; what bank and carrier did against what is on record |

pub mod books;
mod calls;
pub mod fact;
pub mod invariant;
pub mod ledgers;
pub mod logs;
pub mod page;
mod sagas;
pub mod shelf;
