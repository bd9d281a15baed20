//! What a CUDA context needs to reduce logits, made once for it: the kernel, and memory for what is in flight.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use once_cell::race::OnceBox;

use super::abi::{Landing, MAX_REQUESTS, MAX_SPLITS, Matrix, PARTIALS, Requests, THREADS, TILE_BYTES};
use super::driver::{self, DevicePtr, Driver, Handle, Memory};
use super::flight::Flight;
use super::made::Made;
use super::slots::{self, Rings, SlotStore};
use crate::error::{Error, Result};
use crate::process::PerProcess;
use crate::sync::{lock, wait_until};

/// The kernel, for the driver to make code of; `scripts/compile-cuda.py` makes it of `reduce.cu`.
const KERNEL: &str = concat!(include_str!("reduce.ptx"), "\0");

/// Launches that may be in flight in a context.
pub const FLIGHTS: usize = 16;
/// Places of those, and behind them those of the slots.
const PLACES: usize = FLIGHTS * MAX_REQUESTS;

/// A context, with all that was made in it. It is left alone when the context ends, which frees it.
pub struct Device {
    pub driver: &'static Driver,
    context: Handle,
    id: u64,
    /// Of the GPU.
    number: i32,
    function: Handle,
    /// The host's too.
    reads_all_memory: bool,
    /// Blocks that a launch should have at least, so that all multiprocessors have enough to do.
    enough_blocks: usize,
    /// By place; see [`Matrix`].
    partials: DevicePtr,
    tickets: DevicePtr,
    /// By place of a flight: for the host, and for the GPU.
    landings: *const Landing,
    landings_on_device: DevicePtr,
    rings: OnceBox<Rings>,
    spare: Mutex<Vec<Flight>>,
    /// A flight came back.
    returned: Condvar,
}

// SAFETY: handles and addresses that the driver takes from any thread; what the host reads of the landings is written by
// the GPU before their `done`, which is read first.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// Logits in device memory, checked.
#[derive(Clone, Copy)]
pub struct Logits {
    pub pointer: DevicePtr,
    /// 0: f32; 1: f16; 2: bf16.
    pub dtype: u32,
    pub vocab_size: usize,
    /// In elements.
    pub row_stride: usize,
    /// On which they are made.
    pub stream: Handle,
}

impl Logits {
    fn element_size(&self) -> usize {
        if self.dtype == 0 { 4 } else { 2 }
    }
}

/// Those of this process: a forked child can use none of its parent's.
static DEVICES: PerProcess<Mutex<List>> = PerProcess::new();

#[derive(Default)]
struct List {
    devices: Vec<Arc<Device>>,
    /// The context in which it failed last to make one, when, and why.
    failed: Option<((Handle, u64), Instant, Error)>,
}

// SAFETY: handles that the driver takes from any thread.
unsafe impl Send for List {}

/// After a failure another attempt is made so much later: it costs a second of compiling.
const REST: Duration = Duration::from_secs(5);

/// Those of all contexts that were used.
pub fn all() -> Vec<Arc<Device>> {
    DEVICES.get().map_or_else(Vec::new, |list| lock(&list).devices.clone())
}

impl Device {
    /// That of the context which is current on this thread, made when it is used for the first time: that takes as long as
    /// the driver needs to compile the kernel.
    pub fn current() -> Result<Arc<Self>> {
        let driver = driver::load()?;
        let context = driver.context()?;
        let devices = DEVICES.get_or_make(Mutex::default);
        let mut list = lock(&devices);
        if let Some(device) = list.devices.iter().find(|device| (device.context, device.id) == context) {
            return Ok(device.clone());
        }
        if let Some((failed, when, error)) = &list.failed
            && *failed == context
            && when.elapsed() < REST
        {
            return Err(error.clone());
        }
        match driver.beside_captures(|| Self::new(driver, context)) {
            Ok(device) => {
                let device = Arc::new(device);
                // A context at the same address has ended, and all that was made in it.
                list.devices.retain(|other| other.context != context.0);
                list.devices.push(device.clone());
                Ok(device)
            }
            Err(error) => {
                list.failed = Some((context, Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// That of the current context, for logits that it can read, on a stream that is not being captured.
    pub fn for_batch(logits: &Logits) -> Result<Arc<Self>> {
        let device = Self::current()?;
        device.check_memory("logits", logits.pointer)?;
        if device.driver.is_capturing(logits.stream)? {
            let message =
                "stream is being captured in a CUDA graph, which cannot hold request ids: pita_store_slots is for that";
            return Err(driver::unsupported(message.into()));
        }
        Ok(device)
    }

    /// The same for a store of slots, which may be captured.
    pub fn for_slots(logits: &Logits, store: &SlotStore) -> Result<Arc<Self>> {
        let device = Self::current()?;
        let arrays = [
            ("logits", logits.pointer),
            ("slots", store.slots),
            ("temperatures", store.temperatures),
            ("token_indices", store.token_indices),
            ("out", store.out),
        ];
        let mut given = arrays.iter().filter(|(_, pointer)| *pointer != 0);
        given.try_for_each(|(name, pointer)| device.check_memory(name, *pointer))?;
        Ok(device)
    }

    fn check_memory(&self, name: &str, pointer: DevicePtr) -> Result<()> {
        match self.driver.memory(pointer as *const c_void) {
            Memory::Both => Ok(()),
            Memory::Unknown if self.reads_all_memory => Ok(()),
            Memory::Unknown => {
                Err(Error::invalid(format!("{name} is {pointer:#x}: memory of the host, which no CUDA device reads")))
            }
            Memory::Device => match self.driver.device_of(pointer) {
                Some(device) if device != self.number => {
                    let context =
                        format!("the current context is of device {}: make one of that device current", self.number);
                    Err(Error::invalid(format!("{name} is {pointer:#x}: memory of device {device}, but {context}")))
                }
                _ => Ok(()),
            },
        }
    }

    fn new(driver: &'static Driver, (context, id): (Handle, u64)) -> Result<Self> {
        const PAGEABLE_MEMORY_ACCESS: i32 = 88;
        const MULTIPROCESSORS: i32 = 16;
        let (mut number, mut multiprocessors, mut reads_all) = (0, 0, 0);
        // SAFETY: there is room for what comes back.
        unsafe {
            driver.check((driver.device)(&mut number), "cuCtxGetDevice")?;
            for (out, which) in [(&mut multiprocessors, MULTIPROCESSORS), (&mut reads_all, PAGEABLE_MEMORY_ACCESS)] {
                driver.check((driver.device_attribute)(out, which, number), "cuDeviceGetAttribute")?;
            }
        }
        // What is most likely to fail comes first.
        let (mut made, places) = (Made::new(driver), PLACES + slots::COUNT);
        let partials = made.zeroed(places * PARTIALS)?;
        let tickets = made.zeroed(places * size_of::<u32>())?;
        let (landings, landings_on_device) = made.pinned(PLACES * size_of::<Landing>())?;
        let events = (0..FLIGHTS).map(|_| made.event()).collect::<Result<Vec<_>>>()?;
        let function = made.function(KERNEL, c"pita_reduce")?;
        made.keep();
        Ok(Device {
            driver,
            context,
            id,
            number,
            function,
            reads_all_memory: reads_all != 0,
            enough_blocks: 16 * multiprocessors.max(1) as usize,
            partials,
            tickets,
            landings: landings.cast(),
            landings_on_device,
            rings: OnceBox::new(),
            spare: Mutex::new(events.into_iter().enumerate().map(|(i, event)| Flight::new(i, event)).collect()),
            returned: Condvar::new(),
        })
    }

    /// The slots' landings in this context, made now if they are not there yet.
    pub fn rings(&self) -> Result<&Rings> {
        self.rings.get_or_try_init(|| self.driver.beside_captures(|| Rings::new(self.driver)).map(Box::new))
    }

    /// The slots' landings, if some slot was ever stored to here.
    pub fn rings_if_any(&self) -> Option<&Rings> {
        self.rings.get()
    }

    /// A flight to fill and launch; `None` where all were in the air until `deadline`.
    pub fn lend(&self, deadline: Instant) -> Option<Flight> {
        let mut spare = lock(&self.spare);
        loop {
            if let Some(flight) = spare.pop() {
                return Some(flight);
            }
            spare = wait_until(&self.returned, spare, deadline)?;
        }
    }

    /// Takes back a flight that has landed, or was never launched. One that is lost is not used again.
    pub fn give_back(&self, mut flight: Flight) {
        if flight.is_lost() {
            return;
        }
        flight.clear();
        lock(&self.spare).push(flight);
        self.returned.notify_one();
    }

    /// What the GPU writes for a place of a flight.
    pub(super) fn landing(&self, place: usize) -> &Landing {
        // SAFETY: the places are those of `lend`ed flights, and the memory is never freed. What is not `done` is not read.
        unsafe { &*self.landings.add(place) }
    }

    /// Has the GPU reduce the requests, `count` rows or fewer, when the stream gets there.
    pub(super) fn launch(&self, logits: &Logits, requests: &Requests, count: usize, splits: u32) -> Result<()> {
        let size = logits.element_size();
        let matrix = Matrix {
            logits: logits.pointer,
            row_stride: (logits.row_stride * size) as u64,
            vocab_size: logits.vocab_size as u64,
            dtype: logits.dtype,
            partials: self.partials,
            tickets: self.tickets,
            landings: self.landings_on_device,
        };
        let mut arguments = [(&raw const matrix).cast_mut().cast(), (&raw const *requests).cast_mut().cast::<c_void>()];
        // SAFETY: the kernel takes these two structs, which the driver copies; both describe memory that is there until the
        // context ends, but for the caller's, whose promise that is.
        let code = unsafe {
            (self.driver.launch)(
                self.function,
                splits,
                count as u32,
                1,
                THREADS,
                1,
                1,
                0,
                logits.stream,
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.driver.check(code, "cuLaunchKernel")
    }

    /// Over how many blocks each row is split, so that all of the GPU has enough to do.
    pub(super) fn splits(&self, logits: &Logits, rows: usize) -> u32 {
        evened(logits, self.enough_blocks.div_ceil(rows))
    }

    /// The same, however many rows there are.
    pub(super) fn most_splits(&self, logits: &Logits) -> u32 {
        evened(logits, MAX_SPLITS)
    }

    pub(super) fn requests_for_slots(&self) -> Requests {
        Requests { place: PLACES as u32, ..empty_requests() }
    }

    /// Calls `body` with the context current, which it may not be on this thread.
    pub(super) fn within<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        // SAFETY: a context; where it has ended the driver says so.
        self.driver.check(unsafe { (self.driver.push_context)(self.context) }, "cuCtxPushCurrent")?;
        let result = body();
        let mut popped = ptr::null_mut();
        // SAFETY: room for a handle.
        unsafe { (self.driver.pop_context)(&mut popped) };
        result
    }
}

pub(super) fn empty_requests() -> Requests {
    Requests {
        place: 0,
        metrics: 0,
        slots: 0,
        temperatures: 0,
        token_indices: 0,
        out: 0,
        counts: 0,
        slot_count: 0,
        ring: 0,
        landings: 0,
        done: 0,
        row: [0; MAX_REQUESTS],
        temperature: [0.0; MAX_REQUESTS],
    }
}

/// So many blocks or fewer, each with as many tiles of a row as the others, but for the last one.
fn evened(logits: &Logits, splits: usize) -> u32 {
    // A row may begin at any address.
    let tiles = (logits.vocab_size * logits.element_size() + 15).div_ceil(TILE_BYTES);
    let splits = splits.min(tiles).min(MAX_SPLITS);
    tiles.div_ceil(tiles.div_ceil(splits)) as u32
}

/// A word that the GPU writes while the host looks at it.
pub(super) fn look(word: &u32) -> u32 {
    // SAFETY: a u32 that lives, and has an atomic's size and alignment.
    unsafe { AtomicU32::from_ptr((&raw const *word).cast_mut()) }.load(Ordering::Acquire)
}
