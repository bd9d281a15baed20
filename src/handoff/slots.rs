//! Which request each slot is bound to, and the way of its records from the slot's landings into the queue.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::{Queued, give_up, queue};
use crate::cuda;
use crate::cuda::slots::{COUNT, Landed, Next, Rings};
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

/// Whether a slot's landings are empty now.
#[derive(PartialEq)]
enum Drained {
    Yes,
    /// The queue is full.
    No,
}

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
        let stale: u64 =
            cuda::all().iter().filter_map(|device| device.rings_if_any().map(|rings| rings.skip(slot))).sum();
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
        let is_drained = drain(client.as_deref(), slot, &id, &mut losses) == Drained::Yes;
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
        let (mut losses, mut is_drained) = (Losses::new(), true);
        let bound = lock(&self.bound);
        for (slot, bound_to) in bound.iter().enumerate().filter_map(|(slot, id)| Some((slot, id.as_deref()?))) {
            if id.is_none_or(|id| id == bound_to) {
                is_drained &= drain(Some(client), slot, bound_to, &mut losses) == Drained::Yes;
            }
        }
        drop(bound);
        tell(Some(client), losses);
        is_drained
    }

    /// Gives up what has landed.
    pub fn abandon(&self, client: &Client) {
        let bound = lock(&self.bound);
        let slots = (0..bound.len()).filter(|slot| bound[*slot].is_some());
        let left: u64 = slots.map(skip).sum();
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

/// Leaves out what has landed of a slot, on all devices; returns how many records.
fn skip(slot: usize) -> u64 {
    cuda::all().iter().filter_map(|device| device.rings_if_any().map(|rings| rings.skip(slot))).sum()
}

/// Queues all that has landed of a slot, on all devices.
fn drain(client: Option<&Client>, slot: usize, id: &str, losses: &mut Losses) -> Drained {
    for device in cuda::all() {
        let Some(rings) = device.rings_if_any() else { continue };
        if drain_ring(client, rings, slot, id, losses) == Drained::No {
            return Drained::No;
        }
    }
    Drained::Yes
}

fn drain_ring(client: Option<&Client>, rings: &Rings, slot: usize, id: &str, losses: &mut Losses) -> Drained {
    loop {
        match rings.next(slot) {
            Next::Nothing => return Drained::Yes,
            Next::Overrun(count) => {
                let message =
                    format!("slot {slot} ({id:?}): {count} records came before the ones before them were queued");
                losses.push((count.into(), Error::new(Kind::QueueFull, message)));
                rings.pass(slot, count);
            }
            Next::Record(landed) => {
                match client.map_or_else(not_open, |client| store(client, id, &landed)) {
                    Queued::Yes => {}
                    Queued::Full => return Drained::No,
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
