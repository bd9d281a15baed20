//! The portable kernel: double precision throughout, one element at a time.

use super::element::{Bf16, Element, F16, F32};
use super::{Kernel, Plan};
use crate::metrics::state::State;

pub const KERNEL: Kernel = Kernel { c_name: c"scalar", f32: reduce::<F32>, f16: reduce::<F16>, bf16: reduce::<Bf16> };

/// Reduces a row to its state, by the definition.
pub fn reduce<E: Element>(row: &[E::Bits], plan: Plan) -> State {
    let mut state = State::EMPTY;
    for &bits in row {
        state.push(f64::from(E::widen(bits)), plan.temperature);
    }
    state
}
