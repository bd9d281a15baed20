//! Slots: requests that a launch knows by a number in device memory, so that a CUDA graph can store for whatever requests
//! are bound to its slots when it is replayed. Each slot has a ring of landings, which the host empties.

use std::sync::Mutex;
use std::sync::atomic::{Ordering, fence};

use super::abi::{Landing, Requests};
use super::device::{Device, Logits, look};
use super::driver::{DevicePtr, Driver};
use super::made::Made;
use crate::error::Result;
use crate::metrics::{State, Wanted};
use crate::sync::lock;

/// Slots are numbered below this.
pub const COUNT: usize = 1024;
/// Records of a slot that may wait for the host.
pub const RING: u32 = 64;

/// A launch for slots; the addresses are in device memory, one entry a row.
#[derive(Clone, Copy)]
pub struct SlotStore {
    pub rows: usize,
    /// `i32`; below 0: none.
    pub slots: DevicePtr,
    /// `f32`; 0: 1.0.
    pub temperatures: DevicePtr,
    /// `i64`; 0, or below 0: behind the last one.
    pub token_indices: DevicePtr,
    /// Three `f32` a row; 0: none.
    pub out: DevicePtr,
    /// For all rows.
    pub wanted: Wanted,
}

/// A record of a slot as it landed.
#[derive(Clone, Copy)]
pub struct Landed {
    pub state: State,
    pub token_index: i64,
    pub temperature: f32,
    pub wanted: Wanted,
}

/// What the host finds in a slot's ring.
pub enum Next {
    /// The next record.
    Record(Landed),
    /// So many records were overwritten before the host got there.
    Overrun(u32),
    Nothing,
}

/// The landings of all slots in one context.
pub struct Rings {
    landings: *const Landing,
    landings_on_device: DevicePtr,
    counts: DevicePtr,
    /// By slot: how many records the host has seen.
    seen: Mutex<Box<[u32]>>,
}

// SAFETY: as for a Device.
unsafe impl Send for Rings {}
// SAFETY: as for a Device.
unsafe impl Sync for Rings {}

impl Rings {
    pub(super) fn new(driver: &'static Driver) -> Result<Self> {
        let mut made = Made::new(driver);
        let counts = made.zeroed(COUNT * size_of::<u32>())?;
        let (landings, landings_on_device) = made.pinned(COUNT * RING as usize * size_of::<Landing>())?;
        made.keep();
        let seen = Mutex::new(vec![0; COUNT].into());
        Ok(Rings { landings: landings.cast(), landings_on_device, counts, seen })
    }

    /// Puts a store on the logits' stream, or into the graph that captures it. Waits for nothing.
    pub fn launch(&self, device: &Device, logits: &Logits, store: &SlotStore) -> Result<()> {
        let requests = Requests {
            metrics: bits(store.wanted),
            slots: store.slots,
            temperatures: store.temperatures,
            token_indices: store.token_indices,
            out: store.out,
            counts: self.counts,
            slot_count: COUNT as u32,
            ring: RING,
            landings: self.landings_on_device,
            ..device.requests_for_slots()
        };
        // Of a row's splits a slot's ticket counts as many in each launch, be it for many rows or few.
        device.launch(logits, &requests, store.rows, device.most_splits(logits))
    }

    /// What comes next in a slot's ring. It stays there until it is [passed](Self::pass).
    pub fn next(&self, slot: usize) -> Next {
        let seen = lock(&self.seen)[slot];
        let landing = self.landing(slot, seen);
        // Odd: see the kernel.
        let expected = seen.wrapping_mul(2).wrapping_add(1);
        let done = look(&landing.done);
        if done == expected {
            // SAFETY: a landing that lives. The GPU may be writing it: then what was read is thrown away.
            let copy = unsafe { (&raw const *landing).read_volatile() };
            // What was read was read before the next look.
            fence(Ordering::Acquire);
            if look(&landing.done) == expected {
                let Landing { state, token_index, temperature, metrics, .. } = copy;
                return Next::Record(Landed { state, token_index, temperature, wanted: wanted(metrics) });
            }
        }
        // An even one is being written.
        if done % 2 == 1 && is_ahead(done, seen) { Next::Overrun(self.overrun(slot, seen)) } else { Next::Nothing }
    }

    /// How many records from `seen` on are overwritten.
    fn overrun(&self, slot: usize, seen: u32) -> u32 {
        let done = (0..RING).map(|i| look(&self.landing(slot, i).done));
        let newest = done.filter(|done| done % 2 == 1 && is_ahead(*done, seen)).map(|done| ahead(done, seen)).max();
        newest.map_or(0, |newest| (newest + 1).saturating_sub(RING))
    }

    /// Goes on behind all that has landed; returns how many records that leaves out.
    pub fn skip(&self, slot: usize) -> u64 {
        let mut left_out = 0;
        loop {
            let count = match self.next(slot) {
                Next::Nothing => return left_out,
                Next::Record(_) => 1,
                Next::Overrun(count) => count,
            };
            self.pass(slot, count);
            left_out += u64::from(count);
        }
    }

    /// Goes on behind so many records.
    pub fn pass(&self, slot: usize, count: u32) {
        let mut seen = lock(&self.seen);
        seen[slot] = seen[slot].wrapping_add(count) & NUMBERS;
    }

    fn landing(&self, slot: usize, number: u32) -> &Landing {
        // SAFETY: within the slots' landings, which are never freed.
        unsafe { &*self.landings.add(slot * RING as usize + (number % RING) as usize) }
    }
}

/// The numbers of records wrap at 2^31, for they are twice themselves and 1 in `done`.
const NUMBERS: u32 = u32::MAX / 2;

/// How far a record lies ahead of another.
fn ahead(done: u32, seen: u32) -> u32 {
    (done / 2).wrapping_sub(seen) & NUMBERS
}

/// Not behind it, which would be very far ahead.
fn is_ahead(done: u32, seen: u32) -> bool {
    (1..NUMBERS / 2).contains(&ahead(done, seen))
}

/// What is wanted, as the kernel has it: `PITA_METRIC_*`.
fn bits(wanted: Wanted) -> u32 {
    u32::from(wanted.normalization) | u32::from(wanted.entropy) << 1
}

fn wanted(bits: u32) -> Wanted {
    Wanted { normalization: bits & 1 != 0, entropy: bits & 2 != 0 }
}
