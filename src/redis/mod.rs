//! Records into Redis lists and out again: configuration, connections, and the atomic scripts.

mod address;
mod autostart;
mod breaker;
mod chunk;
mod claims;
mod client;
mod config;
mod connection;
mod merge;
mod pipeline;
mod pool;
mod queue;
mod sentinel;
mod socket;
mod stats;
mod store;
mod take;
mod task;
mod tls;
mod ttl;
mod writer;

pub use autostart::stop as stop_servers;
pub use client::{Client, close, current, open, start_server};
pub use config::Config;
pub use stats::{Latency, Snapshot};
pub use store::{Placement, Write};
pub use take::Taken;
