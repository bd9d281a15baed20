//! Metrics of LLM logits into Redis and out again, for native inference backends, behind a C ABI.
//!
//! Data flows one way: C caller -> `capi` -> [`metrics`] -> [`record`] -> [`redis`], and back. The C ABI is described
//! in `include/pita_redis.h`, which is generated from `capi`.

// First: the header lists the statuses before all else.
pub mod error;

pub mod capi;
mod cuda;
mod handoff;
mod log;
pub mod metrics;
mod panics;
mod process;
pub mod record;
pub mod redis;
mod sync;
