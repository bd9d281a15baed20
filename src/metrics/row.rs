//! The logits of one token, in any of the element types and at any alignment.

/// The bytes of an f32, which may lie anywhere.
pub type Bits32 = [u8; 4];
/// The bytes of an f16 or bf16, which may lie anywhere.
pub type Bits16 = [u8; 2];

/// One row of logits. The elements are byte arrays because a caller's row need not be aligned.
#[derive(Clone, Copy, Debug)]
pub enum Row<'a> {
    /// IEEE 754 binary32.
    F32(&'a [Bits32]),
    /// IEEE 754 binary16.
    F16(&'a [Bits16]),
    /// bfloat16: the upper half of a binary32.
    Bf16(&'a [Bits16]),
}

impl Row<'_> {
    /// Elements in the row.
    pub fn len(&self) -> usize {
        match self {
            Row::F32(row) => row.len(),
            Row::F16(row) | Row::Bf16(row) => row.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements, each as the f32 of the same value.
    pub fn widened(&self) -> Vec<f32> {
        match self {
            Row::F32(row) => row.iter().map(|&bits| f32::from_ne_bytes(bits)).collect(),
            Row::F16(row) => row.iter().map(|&bits| f16_to_f32(u16::from_ne_bytes(bits))).collect(),
            Row::Bf16(row) => row.iter().map(|&bits| bf16_to_f32(u16::from_ne_bytes(bits))).collect(),
        }
    }
}

/// An f16 as the f32 of the same value.
pub fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half >> 15) << 31;
    let exponent = u32::from(half >> 10) & 0x1f;
    let fraction = u32::from(half) & 0x3ff;
    match exponent {
        // Zero and subnormals: fraction x 2^-24, which an f32 holds exactly.
        0 => f32::from_bits((fraction as f32 * 2f32.powi(-24)).to_bits() | sign),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 127 - 15) << 23 | fraction << 13),
    }
}

/// A bf16 as the f32 of the same value.
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
