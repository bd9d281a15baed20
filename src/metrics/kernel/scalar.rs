//! The portable kernel: double precision throughout, one element at a time.

use super::Kernel;
use crate::metrics::row::{bf16_to_f32, f16_to_f32};
use crate::metrics::state::State;

pub const KERNEL: Kernel = Kernel {
    f32: |row, temperature| reduce(row, temperature, f32::from_ne_bytes),
    f16: |row, temperature| reduce(row, temperature, |bits| f16_to_f32(u16::from_ne_bytes(bits))),
    bf16: |row, temperature| reduce(row, temperature, |bits| bf16_to_f32(u16::from_ne_bytes(bits))),
};

fn reduce<Bits: Copy>(row: &[Bits], temperature: f64, widen: impl Fn(Bits) -> f32) -> State {
    let mut state = State::EMPTY;
    for &bits in row {
        state.push(f64::from(widen(bits)), temperature);
    }
    state
}
