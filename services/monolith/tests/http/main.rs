//! The shop as its users see it, over HTTP and in real time, however it is put together: unless JANGTEO_TEST_SHOP says where one
//! is open, the program of this workspace is opened for the tests. Parcels have to be picked up and arrive within a second or so.
//!
//! Every test has customers, products and keys of its own, so that all may run at once, and again, on one shop.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(unreachable_pub, reason = "one test binary: its modules use each other")]

mod books;
mod customers;
mod operators;
mod orders;
mod products;
mod shop;
