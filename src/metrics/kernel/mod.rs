//! The kernels: one row in, its [`State`] out. Each file holds the same algorithm for one instruction set.

mod scalar;

use super::row::{Bits16, Bits32};
use super::state::State;

/// One instruction set's functions. Each reduces a row to its state for a temperature.
pub struct Kernel {
    pub f32: fn(&[Bits32], f64) -> State,
    pub f16: fn(&[Bits16], f64) -> State,
    pub bf16: fn(&[Bits16], f64) -> State,
}

/// The fastest kernel that this machine runs.
pub fn best() -> &'static Kernel {
    &scalar::KERNEL
}
