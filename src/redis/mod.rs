//! Records into Redis lists and out again: configuration, connections, and the atomic scripts.

mod address;
mod ask;
mod autostart;
mod breaker;
mod chunk;
mod claims;
mod client;
mod config;
mod connection;
mod detour;
mod lanes;
mod merge;
mod node;
mod pipeline;
mod pool;
mod queue;
mod sentinel;
mod slot;
mod socket;
mod stats;
mod store;
mod take;
mod task;
mod tls;
mod topology;
mod trip;
mod ttl;
mod watch;
mod writer;

pub use autostart::stop as stop_servers;
pub use client::{Client, close, current, open, start_server};
pub use config::Config;
pub use stats::{Latency, Snapshot};
pub use store::{Placement, Write};
pub use take::Taken;
