//! Batches of logits in the memory of a CUDA device.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::{Batch, Request};
use crate::cuda::{Device, Flight, Logits};
use crate::error::{Error, Kind, Result};
use crate::handoff::{self, Cargo, Handoff, Journey};
use crate::metrics::Metrics;
use crate::redis::{Client, Write};

/// A compute waits for flights as long as it takes; the ones before it end some time.
const LONG: Duration = Duration::from_secs(3600);

/// Stores a batch: with `write=behind` it is launched and no more, otherwise waited for and stored.
pub fn store(mut batch: Batch<'_>, logits: &Logits, client: &Arc<Client>) -> Result<()> {
    let device = match Device::for_batch(logits) {
        Ok(device) => device,
        Err(error) => return Err(batch.fail(error)),
    };
    let (handoff, deadline) = (handoff::current(), client.deadline());
    let mut next = 0;
    while let Some((flight, cargo)) = fill(&mut batch, &mut next, &device, &handoff, deadline) {
        let journey = Journey::new(client, &device, flight, cargo);
        let (mut journey, result) = match client.writes_behind() {
            false => (journey, None),
            true => match handoff.take_off(journey, |flight| flight.launch(&device, logits)) {
                Ok(()) => continue,
                Err(failure) => (failure.1, Some(failure.0)),
            },
        };
        let result = result.map_or_else(|| reduce(&mut journey.flight, &device, logits), Err);
        let records = result.map(|records| store_now(client, &journey.cargo, &records));
        for (i, index) in journey.cargo.indices().enumerate() {
            let result = records.as_ref().map_or_else(|error| Err(error.clone()), |results| results[i].clone());
            batch.settle(index, result);
        }
        handoff.ground(&device, journey.flight, journey.cargo);
    }
    batch.finish()
}

fn store_now(client: &Client, cargo: &Cargo, records: &[Metrics]) -> Vec<Result<()>> {
    let write = |(i, record)| {
        let (id, placement) = cargo.get(i);
        Write { id, placement, records: std::slice::from_ref(record) }
    };
    client.store(&records.iter().enumerate().map(write).collect::<Vec<_>>())
}

/// The metrics of each good request that is not skipped, with its index. Waits for the stream.
pub fn compute(batch: &mut Batch<'_>, logits: &Logits) -> Result<Vec<(usize, Metrics)>> {
    let device = Device::for_batch(logits)?;
    let (handoff, mut next, mut computed) = (handoff::current(), 0, Vec::with_capacity(batch.len()));
    while let Some((mut flight, cargo)) = fill(batch, &mut next, &device, &handoff, Instant::now() + LONG) {
        let reduced = reduce(&mut flight, &device, logits);
        if let Ok(records) = &reduced {
            computed.extend(cargo.indices().zip(records.iter().copied()));
        }
        handoff.ground(&device, flight, cargo);
        reduced?;
    }
    Ok(computed)
}

/// Launches a flight and waits for it.
fn reduce(flight: &mut Flight, device: &Device, logits: &Logits) -> Result<Vec<Metrics>> {
    flight.launch(device, logits)?;
    flight.wait(device)?;
    Ok((0..flight.len()).map(|i| flight.metrics(device, i)).collect())
}

/// The next flight of a batch's requests from `next` on, as many as fit; `None` where there are no more. All that were looked
/// at are settled.
fn fill(
    batch: &mut Batch<'_>,
    next: &mut usize,
    device: &Device,
    handoff: &Handoff,
    deadline: Instant,
) -> Option<(Flight, Cargo)> {
    while *next < batch.len() && batch.is_skipped(*next) {
        batch.settle(*next, Ok(()));
        *next += 1;
    }
    if *next == batch.len() {
        return None;
    }
    let Some(mut flight) = device.lend(deadline) else {
        let full = || Error::new(Kind::QueueFull, "not stored: too many launches are in flight on the GPU already");
        for i in *next..batch.len() {
            let result = if batch.is_skipped(i) { Ok(()) } else { Err(full()) };
            batch.settle(i, result);
        }
        return None;
    };
    let mut cargo = handoff.cargo();
    while *next < batch.len() && !flight.is_full() {
        let i = *next;
        *next += 1;
        let result = match batch.is_skipped(i) {
            true => Ok(()),
            false => add(batch, i, &mut flight, &mut cargo),
        };
        batch.settle(i, result);
    }
    if cargo.len() > 0 {
        return Some((flight, cargo));
    }
    handoff.ground(device, flight, cargo);
    fill(batch, next, device, handoff, deadline)
}

fn add(batch: &Batch<'_>, i: usize, flight: &mut Flight, cargo: &mut Cargo) -> Result<()> {
    // A compute has no ids.
    let id = if batch.has_ids() { batch.id(i)? } else { "" };
    let Request { row, temperature, wanted } = batch.request(i)?;
    let Ok(row) = u32::try_from(row) else {
        return Err(Error::invalid(format!("its row is {row}: too many for a GPU")));
    };
    flight.add(row, temperature, wanted);
    cargo.add(id, batch.placement(i), i);
    Ok(())
}
