//! From the GPU to the queue: flights that were launched by stores with `write=behind`, and the slots' landings. A thread
//! looks at them, and queues the records of what has landed. It waits for nobody: where the queue is full, they wait.

mod cargo;
mod slots;

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use cargo::Cargo;
use slots::Slots;

use crate::cuda::{Device, Flight};
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level, Limit};
use crate::panics;
use crate::process::{PerProcess, with_signals_blocked};
use crate::redis::{self, Client, Write};
use crate::sync::{lock, wait_until};

/// While something is under way the thread looks so often; for so long after that it does so by itself, so that no step of a
/// decoding engine has to wake it.
const DOZE: Duration = Duration::from_micros(500);
const LINGER: Duration = Duration::from_millis(100);

/// What is between the GPU and the queue in this process.
pub struct Handoff {
    /// Held while something is launched, so that journeys begin in the order of their launches. The driver may block there, for
    /// which nobody else should wait.
    launching: Mutex<()>,
    state: Mutex<State>,
    /// The thread waits here.
    work: Condvar,
    /// All others wait here for records to be queued.
    progress: Condvar,
    slots: Slots,
}

#[derive(Default)]
struct State {
    /// In the order of their launches.
    air: VecDeque<Journey>,
    /// The one that the thread has taken out to queue its records, or to ask the driver what became of it.
    outside: Option<u64>,
    /// The number of the last journey.
    last: u64,
    spare: Vec<Cargo>,
    is_started: bool,
    /// It has to be woken.
    sleeps: bool,
}

/// A flight, and what is to be done with its results.
pub struct Journey {
    pub client: Arc<Client>,
    pub device: Arc<Device>,
    pub flight: Flight,
    pub cargo: Cargo,
    /// In the order of the launches.
    number: u64,
    /// How many records are queued already.
    queued: usize,
}

thread_local! {
    /// Whether this is the thread that looks.
    static IS_THREAD: Cell<bool> = const { Cell::new(false) };
}

static CURRENT: PerProcess<Handoff> = PerProcess::new();

/// This process's. A forked child has its own: what the parent has in the air is the parent's.
pub fn current() -> Arc<Handoff> {
    CURRENT.get_or_make(Handoff::new)
}

/// How many records of a client's are between the GPU and its queue.
pub fn in_flight(client: &Arc<Client>) -> u64 {
    CURRENT.get().map_or(0, |handoff| {
        let state = lock(&handoff.state);
        state
            .air
            .iter()
            .filter(|journey| Arc::ptr_eq(&journey.client, client))
            .map(|j| (j.cargo.len() - j.queued) as u64)
            .sum()
    })
}

/// Waits until all records that a client has accepted from the GPU so far are in its queue; of one request, if `id` is given.
/// [`Kind::Timeout`] where they are not by `deadline`.
pub fn settle(client: &Arc<Client>, id: Option<&str>, deadline: Instant) -> Result<()> {
    CURRENT.get().map_or(Ok(()), |handoff| handoff.settle(client, id, deadline))
}

/// What slots still hold goes with the pool: it is lost.
pub fn abandon_slots(client: &Arc<Client>) {
    if let Some(handoff) = CURRENT.get() {
        handoff.slots.abandon(client);
    }
}

impl Handoff {
    fn new() -> Self {
        Handoff {
            launching: Mutex::default(),
            state: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            slots: Slots::new(),
        }
    }

    /// An empty cargo for a flight.
    pub fn cargo(&self) -> Cargo {
        lock(&self.state).spare.pop().unwrap_or_default()
    }

    /// Launches a journey's flight by `launch`, and takes care that its records are queued when they have landed.
    pub fn take_off(
        self: &Arc<Self>,
        mut journey: Journey,
        launch: impl FnOnce(&mut Flight) -> Result<()>,
    ) -> Result<(), Box<(Error, Journey)>> {
        if let Err(error) = self.start() {
            return Err(Box::new((error, journey)));
        }
        let launching = lock(&self.launching);
        if let Err(error) = launch(&mut journey.flight) {
            return Err(Box::new((error, journey)));
        }
        let mut state = lock(&self.state);
        state.last += 1;
        journey.number = state.last;
        state.air.push_back(journey);
        drop(launching);
        self.wake(state);
        Ok(())
    }

    /// Takes back what is of no more use.
    pub fn ground(&self, device: &Device, flight: Flight, mut cargo: Cargo) {
        cargo.clear();
        lock(&self.state).spare.push(cargo);
        device.give_back(flight);
    }

    /// Gives a slot to a request.
    pub fn bind(self: &Arc<Self>, slot: usize, id: &str) -> Result<()> {
        self.start()?;
        self.slots.bind(slot, id)?;
        self.wake(lock(&self.state));
        Ok(())
    }

    /// Takes a slot from its request, when what has landed of it is queued; waits for room until `deadline`.
    pub fn unbind(&self, slot: usize, deadline: Instant) -> Result<()> {
        while !self.slots.unbind(slot) {
            if Instant::now() >= deadline {
                return Err(Error::new(
                    Kind::QueueFull,
                    format!("slot {slot} is still bound: the queue has no room for its records"),
                ));
            }
            thread::sleep(DOZE);
        }
        Ok(())
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        if std::mem::take(&mut state.sleeps) {
            drop(state);
            self.work.notify_one();
        }
    }

    /// Starts the thread, if it does not run yet.
    pub fn start(self: &Arc<Self>) -> Result<()> {
        let mut state = lock(&self.state);
        if !state.is_started {
            let me = self.clone();
            let run = move || while panics::contain(|| me.run()).is_err() {};
            with_signals_blocked(|| thread::Builder::new().name("pita-cuda".into()).spawn(run)).map_err(|error| {
                Error::new(Kind::Unavailable, format!("no thread can be started for the GPU's records: {error}"))
            })?;
            state.is_started = true;
        }
        Ok(())
    }

    fn settle(&self, client: &Arc<Client>, id: Option<&str>, deadline: Instant) -> Result<()> {
        let in_flight = |why| Err(Error::new(Kind::Timeout, format!("records are still in flight on the GPU: {why}")));
        // The thread itself, in a log callback, would wait in vain.
        let deadline = if IS_THREAD.get() { Instant::now() } else { deadline };
        while !self.slots.look(client, id) {
            if Instant::now() >= deadline {
                return in_flight("the queue is full");
            }
            thread::sleep(DOZE);
        }
        let mut state = lock(&self.state);
        let last = state.last;
        let concerns = |journey: &Journey| {
            let is_its = || id.is_none_or(|id| journey.cargo.ids().any(|other| other == id));
            journey.number <= last && Arc::ptr_eq(&journey.client, client) && is_its()
        };
        while state.outside.is_some_and(|number| number <= last) || state.air.iter().any(concerns) {
            match wait_until(&self.progress, state, deadline) {
                Some(guard) => state = guard,
                None => return in_flight("its stream has not got there, or the queue is full"),
            }
        }
        Ok(())
    }

    // --- the thread ---

    fn run(&self) {
        IS_THREAD.set(true);
        // It may have ended in a panic before.
        lock(&self.state).outside = None;
        let mut busy = Instant::now();
        loop {
            if let Ok(client) = redis::current() {
                self.slots.look(&client, None);
            }
            if self.look() {
                busy = Instant::now();
            }
            let mut state = lock(&self.state);
            if !state.air.is_empty() || self.slots.are_bound() || busy.elapsed() < LINGER {
                drop(self.work.wait_timeout(state, DOZE).unwrap_or_else(PoisonError::into_inner));
            } else {
                state.sleeps = true;
                drop(self.work.wait(state).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// Queues what has landed. Whether there is more to come.
    fn look(&self) -> bool {
        // What is behind a flight on its stream comes behind it, even if it has landed a moment later.
        let mut waiting = Vec::new();
        let mut i = 0;
        loop {
            let mut state = lock(&self.state);
            let Some(journey) = state.air.get(i) else { return !state.air.is_empty() };
            let (stream, flight) = (journey.flight.stream(), &journey.flight);
            if waiting.contains(&stream) || !(flight.is_here(&journey.device) || flight.is_overdue()) {
                waiting.push(stream);
                i += 1;
                continue;
            }
            let Some(mut journey) = state.air.remove(i) else { return false };
            state.outside = Some(journey.number);
            // The driver may block, and whoever listens to the log may call the library.
            drop(state);
            let is_over = panics::contain(|| journey.land()).unwrap_or_else(|panic| journey.is_lost(panic));
            let mut state = lock(&self.state);
            state.outside = None;
            if is_over {
                drop(state);
                self.ground(&journey.device, journey.flight, journey.cargo);
            } else {
                state.air.insert(i, journey);
                drop(state);
                waiting.push(stream);
                i += 1;
            }
            self.progress.notify_all();
        }
    }
}

impl Journey {
    pub fn new(client: &Arc<Client>, device: &Arc<Device>, flight: Flight, cargo: Cargo) -> Self {
        Journey { client: client.clone(), device: device.clone(), flight, cargo, number: 0, queued: 0 }
    }

    /// Queues its records if they are there. True when nothing more is to be done.
    fn land(&mut self) -> bool {
        let landed = if self.flight.is_here(&self.device) { Ok(true) } else { self.flight.ask(&self.device) };
        match landed {
            Ok(true) => self.unload(),
            Ok(false) => false,
            Err(error) => self.is_lost(error),
        }
    }

    /// Queues the records for which there is room. True when all are.
    fn unload(&mut self) -> bool {
        while self.queued < self.cargo.len() {
            let (id, placement) = self.cargo.get(self.queued);
            let records = [self.flight.metrics(&self.device, self.queued)];
            match queue(&self.client, Write { id, placement, records: &records }) {
                Queued::Yes => self.queued += 1,
                Queued::Full => return false,
                Queued::Never(error) => return self.is_lost(error),
            }
        }
        true
    }

    /// What is not queued yet will never be.
    fn is_lost(&mut self, error: Error) -> bool {
        give_up(Some(&self.client), (self.cargo.len() - self.queued) as u64, error);
        true
    }
}

/// What came of a record.
enum Queued {
    Yes,
    /// There is no room now.
    Full,
    Never(Error),
}

fn queue(client: &Client, write: Write<'_>) -> Queued {
    match client.queue_now(&[write]).pop() {
        Some(Ok(())) => Queued::Yes,
        Some(Err(error)) if error.kind == Kind::QueueFull => Queued::Full,
        Some(Err(error)) => Queued::Never(error),
        None => Queued::Never(Error::new(Kind::Unsupported, "the pool is open with write=sync")),
    }
}

/// Counts, logs, and tells the next flush of records that were accepted from the GPU, but will not be stored.
fn give_up(client: Option<&Client>, records: u64, error: Error) {
    static OVERRUN: Limit = Limit::new();
    static UNFIT: Limit = Limit::new();
    static LOST: Limit = Limit::new();
    let limit = match error.kind {
        Kind::QueueFull => &OVERRUN,
        Kind::InvalidArgument => &UNFIT,
        _ => &LOST,
    };
    log::emit_limited(limit, Level::Error, || format!("lost ({records} records) on the way from the GPU: {error}"));
    if let Some(client) = client {
        client.give_up(records, error);
    }
}
