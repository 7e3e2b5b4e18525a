//! Load on the shop, and what it costs.
//!
//! | file | holds |
//! |---|---|
//! | `appends` | commits to PostgreSQL, and single rows beside them (with the feature `infra`) |
//! | `relay` | the relay of a log onto Kafka (with the feature `infra`) |
//! | [`saga`] | the saga engine alone, in this process |
//! | [`checkout`] | a whole checkout over HTTP, the edge alone, the start of an empty shop |
//! | [`facts`] | what is published and found beside the requests |
//! | [`fulfilment`] | from confirmed to shipped, and a shop with nothing to do |
//! | [`hostile`] | what becomes of others while clients hang up, read nothing, follow or wait |
//! | [`processes`] | the shop as processes of its own, on real servers |
//! | [`flat`] | whether a shop with a past is as fast as a new one |
//! | [`drive`] | closed loop and open loop |
//! | [`connection`] | one keep-alive connection |
//! | [`shop`] | what is asked of the shop, and what is a good answer |
//! | [`server`] | starting and stopping the server under test |
//! | [`chance`] | seeded chance and Zipf's law |
//! | [`tally`] | latencies and how requests ended |
//! | [`proc`] | CPU and memory of a process |
//! | [`report`] | figures as Markdown |
//!
//! # Limits
//! Server and load share one machine: a figure is a lower bound for a server of its own, and comparable only with figures
//! of the same machine at rest.

#[cfg(feature = "infra")]
pub mod appends;
pub mod chance;
pub mod checkout;
pub mod connection;
pub mod drive;
pub mod facts;
pub mod flat;
pub mod fulfilment;
pub mod hostile;
pub mod proc;
pub mod processes;
#[cfg(feature = "infra")]
pub mod relay;
pub mod report;
pub mod saga;
pub mod server;
pub mod shop;
pub mod tally;
