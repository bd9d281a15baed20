//! What the algorithm in `sweep` asks of an instruction set. The files beside this one hold nothing but intrinsics.

use crate::metrics::row::{Bits16, Bits32};

/// Added to a float below 2^22 it rounds that to a whole number, which then stands in the low bits.
pub(super) const MAGIC: f32 = 12_582_912.0; // 1.5 x 2^23

/// A vector of f32 lanes.
///
/// # Safety
/// Every method needs a CPU that has the implementation's features, and callers that are compiled for them; the loads
/// need [`Self::LANES`] readable elements, at any alignment.
pub trait Vector: Copy {
    const LANES: usize;
    /// 2^(k / STEPS) comes from a table.
    const STEPS: f32;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load_f32(from: *const Bits32) -> Self;
    unsafe fn load_f16(from: *const Bits16) -> Self;
    unsafe fn load_bf16(from: *const Bits16) -> Self;

    /// Has the memory around an address fetched into the first-level cache, if there is any.
    unsafe fn prefetch(address: *const u8);

    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// The greater of each lane; a NaN in `self` stays.
    unsafe fn at_least(self, floor: Self) -> Self;
    /// Whether any lane is above that of `other`. NaN is not.
    unsafe fn any_above(self, other: Self) -> bool;
    /// Whether any lane is above that of `other`, or the same. NaN is not.
    unsafe fn any_at_least(self, other: Self) -> bool;
    /// The lanes one by one.
    unsafe fn store(self, to: *mut f32);

    /// (exp(r) - 1) / r for |r| <= ln 2 / (2 STEPS).
    unsafe fn exp_factor(r: Self) -> Self;
    /// 2^(k / STEPS), with k from `shifted` = [`MAGIC`] + k and the result a normal number.
    unsafe fn exp2_steps(shifted: Self) -> Self;

    /// The sum of the lanes, in double precision.
    unsafe fn total(self) -> f64;
}

/// The bits of 2^(k/N) for each k below N, less k shifted left by `shift`.
///
/// When k + N n is shifted likewise, n comes to lie in the exponent and k is in the way: adding one of these puts that
/// right and multiplies by 2^(k/N) at once.
pub const fn powers<const N: usize>(shift: u32) -> [i32; N] {
    let mut table = [0; N];
    let mut k = 0;
    while k < N {
        table[k] = (exp2_fraction(k as u32 * (1024 / N as u32)) as f32).to_bits() as i32 - ((k as i32) << shift);
        k += 1;
    }
    table
}

/// 2^(k / 1024) by repeated square roots of 2, for the compiler, which knows no exponential.
const fn exp2_fraction(k: u32) -> f64 {
    let (mut product, mut root, mut bit) = (1.0, 2.0, 1024);
    while bit > 1 {
        root = sqrt(root);
        bit /= 2;
        if k & bit != 0 {
            product *= root;
        }
    }
    product
}

/// The square root by Newton's method, for numbers from 1 to 2.
const fn sqrt(x: f64) -> f64 {
    let (mut root, mut i) = (x, 0);
    while i < 8 {
        root = (root + x / root) / 2.0;
        i += 1;
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_rounded_right() {
        let table = powers::<32>(18);
        for (k, bits) in table.into_iter().enumerate() {
            let power = f32::from_bits((bits + ((k as i32) << 18)) as u32);
            assert_eq!(power, (k as f64 / 32.0).exp2() as f32, "{k}");
        }
    }
}
