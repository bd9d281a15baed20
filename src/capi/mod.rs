//! The C ABI: the only `extern "C"`, and the only place where raw pointers become slices.
//!
//! The text that C programmers read is on the items here and in `cbindgen.toml`; cbindgen makes the header of it.

// The header's text says what callers must see to; `# Safety` sections would say it twice.
#![allow(clippy::missing_safety_doc)]

mod args;
mod boundary;
mod device;
mod extensible;

// In the order of the header.
mod batch;

mod pool;

mod store;

mod slots;

mod take;

mod diagnostics;

pub use batch::*;
pub use diagnostics::*;
pub use pool::*;
pub use slots::*;
pub use store::*;
pub use take::*;
