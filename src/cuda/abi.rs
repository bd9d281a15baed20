//! The structs that the host and the kernel share; `reduce.cu` says what they mean.

use super::driver::DevicePtr;
use crate::metrics::State;

/// Of a launch.
pub const MAX_REQUESTS: usize = 256;
/// Blocks that share a row, at most.
pub const MAX_SPLITS: usize = 32;
pub const THREADS: u32 = 256;
/// What a block loads at once.
pub const TILE_BYTES: usize = 4 * 16 * THREADS as usize;

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Matrix {
    pub logits: DevicePtr,
    pub row_stride: u64,
    pub vocab_size: u64,
    pub dtype: u32,
    pub partials: DevicePtr,
    pub tickets: DevicePtr,
    pub landings: DevicePtr,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Requests {
    pub place: u32,
    pub metrics: u32,
    pub slots: DevicePtr,
    pub temperatures: DevicePtr,
    pub token_indices: DevicePtr,
    pub out: DevicePtr,
    pub counts: DevicePtr,
    pub slot_count: u32,
    pub ring: u32,
    pub landings: DevicePtr,
    pub done: u32,
    pub row: [u32; MAX_REQUESTS],
    pub temperature: [f32; MAX_REQUESTS],
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Landing {
    pub state: State,
    pub token_index: i64,
    pub temperature: f32,
    pub metrics: u32,
    pub done: u32,
    pub reserved: [u32; 3],
}

/// Bytes of a place's partial states.
pub const PARTIALS: usize = MAX_SPLITS * size_of::<State>();

// As ptxas counts them.
const _: () = assert!(size_of::<State>() == 32 && size_of::<Landing>() == 64 && size_of::<Matrix>() == 56);
const _: () = assert!(size_of::<Requests>() == 2120);
