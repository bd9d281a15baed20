//! Records into Redis lists and out again: configuration, connections, and the atomic scripts.

mod address;
mod autostart;
mod breaker;
mod claims;
mod client;
mod config;
mod connection;
mod pipeline;
mod pool;
mod socket;
mod stats;
mod store;
mod take;
mod tls;
mod ttl;

pub use client::{Client, close, current, open};
pub use config::Config;
pub use stats::{Latency, Snapshot};
pub use store::{Placement, Write};
pub use take::Taken;
