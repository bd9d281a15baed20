//! Logits in the memory of a CUDA device, reduced there. The driver is loaded when it is first needed.

mod abi;
mod device;
mod driver;
mod flight;
mod made;
pub mod slots;

pub use device::{Device, Logits, all};
pub use driver::Memory;
pub use flight::Flight;

use std::ffi::c_void;

/// What kind of memory a pointer leads to, as far as a driver that somebody has loaded in this process knows.
pub fn memory(pointer: *const c_void) -> Memory {
    driver::loaded().map_or(Memory::Unknown, |driver| driver.memory(pointer))
}
