//! Which request each slot is bound to, and the way of its records from the slot's landings into the queue.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use super::{Queued, give_up, queue};
use crate::cuda::slots::{COUNT, Landed, Next, Rings};
use crate::cuda::{self, Device};
use crate::error::{Error, Kind, Result};
use crate::metrics;
use crate::redis::{self, Client, Placement, Write};
use crate::sync::lock;

/// The slots of this process.
pub struct Slots {
    /// By slot: the request's id.
    bound: Mutex<Vec<Option<Box<str>>>>,
    count: AtomicUsize,
}

/// Records that were lost, and why.
type Losses = Vec<(u64, Error)>;

impl Slots {
    pub fn new() -> Self {
        Slots { bound: Mutex::new(Vec::new()), count: AtomicUsize::new(0) }
    }

    pub fn are_bound(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// Gives a slot to a request.
    pub fn bind(&self, slot: usize, id: &str) -> Result<()> {
        let mut bound = lock(&self.bound);
        bound.resize(COUNT, None);
        if let Some(other) = &bound[slot] {
            return Err(Error::invalid(format!("slot is {slot}, which is bound to {other:?}: unbind it first")));
        }
        let stale = skip(&cuda::all(), slot);
        bound[slot] = Some(id.into());
        self.count.fetch_add(1, Relaxed);
        drop(bound);
        if stale > 0 {
            let why = Error::invalid(format!("slot {slot} was bound to no request when they came"));
            give_up(redis::current().ok().as_deref(), stale, why);
        }
        Ok(())
    }

    /// Takes a slot from its request, when what has landed of it is queued. False where the queue has no room for that.
    pub fn unbind(&self, slot: usize) -> bool {
        let mut losses = Losses::new();
        let mut bound = lock(&self.bound);
        let Some(id) = bound.get_mut(slot).and_then(Option::take) else { return true };
        let client = redis::current().ok();
        let is_drained = drain(client.as_deref(), &cuda::all(), slot, &id, &mut losses);
        if is_drained {
            self.count.fetch_sub(1, Relaxed);
        } else {
            bound[slot] = Some(id);
        }
        drop(bound);
        tell(client.as_deref(), losses);
        is_drained
    }

    /// Queues what has landed; of one request, if `id` is given. False where there was no room for all.
    pub fn look(&self, client: &Client, id: Option<&str>) -> bool {
        if !self.are_bound() {
            return true;
        }
        let (mut losses, mut is_drained, devices) = (Losses::new(), true, cuda::all());
        let bound = lock(&self.bound);
        for (slot, bound_to) in bound.iter().enumerate().filter_map(|(slot, id)| Some((slot, id.as_deref()?))) {
            if id.is_none_or(|id| id == bound_to) {
                is_drained &= drain(Some(client), &devices, slot, bound_to, &mut losses);
            }
        }
        drop(bound);
        tell(Some(client), losses);
        is_drained
    }

    /// Gives up what has landed.
    pub fn abandon(&self, client: &Client) {
        let bound = lock(&self.bound);
        let (devices, slots) = (cuda::all(), (0..bound.len()).filter(|slot| bound[*slot].is_some()));
        let left: u64 = slots.map(|slot| skip(&devices, slot)).sum();
        drop(bound);
        if left > 0 {
            give_up(
                Some(client),
                left,
                Error::new(Kind::NotOpen, "the pool was closed before there was room for them"),
            );
        }
    }
}

/// The slots' landings in all contexts that have some.
fn rings(devices: &[Arc<Device>]) -> impl Iterator<Item = &Rings> {
    devices.iter().filter_map(|device| device.rings_if_any())
}

/// Leaves out what has landed of a slot; returns how many records.
fn skip(devices: &[Arc<Device>], slot: usize) -> u64 {
    rings(devices).map(|rings| rings.skip(slot)).sum()
}

/// Queues all that has landed of a slot. False where there was no room for all.
fn drain(client: Option<&Client>, devices: &[Arc<Device>], slot: usize, id: &str, losses: &mut Losses) -> bool {
    rings(devices).all(|rings| drain_ring(client, rings, slot, id, losses))
}

fn drain_ring(client: Option<&Client>, rings: &Rings, slot: usize, id: &str, losses: &mut Losses) -> bool {
    loop {
        match rings.next(slot) {
            Next::Nothing => return true,
            Next::Overrun(count) => {
                let message =
                    format!("slot {slot} ({id:?}): {count} records came before the ones before them were queued");
                losses.push((count.into(), Error::new(Kind::QueueFull, message)));
                rings.pass(slot, count);
            }
            Next::Record(landed) => {
                match client.map_or_else(not_open, |client| store(client, id, &landed)) {
                    Queued::Yes => {}
                    Queued::Full => return false,
                    Queued::Never(error) => losses.push((1, error.of(format_args!("slot {slot} ({id:?})")))),
                }
                rings.pass(slot, 1);
            }
        }
    }
}

fn not_open() -> Queued {
    Queued::Never(Error::new(Kind::NotOpen, "the pool is not open"))
}

fn store(client: &Client, id: &str, landed: &Landed) -> Queued {
    let temperature = landed.temperature;
    if !(temperature.is_finite() && temperature > 0.0) {
        return Queued::Never(Error::invalid(format!("temperature is {temperature}: must be finite and above 0")));
    }
    let records = [metrics::finish(&landed.state, temperature.into(), landed.wanted)];
    let placement = u64::try_from(landed.token_index).map_or(Placement::Append, Placement::At);
    queue(client, Write { id, placement, records: &records })
}

/// Now that no lock is held: whoever listens to the log may call the library.
fn tell(client: Option<&Client>, losses: Losses) {
    losses.into_iter().for_each(|(records, error)| give_up(client, records, error));
}
