//! A launch: the requests that it reduces, and what the GPU lands of them in the host's memory.

use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use super::abi::{MAX_REQUESTS, Requests};
use super::device::{Device, Logits, empty_requests, look};
use super::driver::{Code, Handle, NOT_READY};
use crate::error::{Error, Kind, Result};
use crate::metrics::{self, Metrics, Wanted};

/// Who waits for a flight looks again and again for so long before it naps.
const SPIN: Duration = Duration::from_micros(50);
const NAP: Duration = Duration::from_micros(50);
/// What has not landed then may have failed: the driver is asked so often.
const ASK: Duration = Duration::from_millis(100);
/// `CUDA_ERROR_STREAM_CAPTURE_*`: it may not say.
const CAPTURE_ERRORS_FROM: Code = 900;
const CAPTURE_ERRORS_TO: Code = 908;

/// Some requests, filled in, launched, and read when they have landed. Used again and again.
pub struct Flight {
    requests: Box<Requests>,
    /// What of each is wanted.
    wanted: Vec<Wanted>,
    /// Follows the launch on its stream.
    event: Handle,
    stream: Handle,
    asked: Instant,
    /// Its launch has failed, or never said that it is over: the GPU may yet write what it lands.
    is_lost: bool,
}

// SAFETY: handles that the driver takes from any thread.
unsafe impl Send for Flight {}

impl Flight {
    /// One of the places from `number` times [`MAX_REQUESTS`] on.
    pub(super) fn new(number: usize, event: Handle) -> Self {
        Flight {
            requests: Box::new(Requests { place: (number * MAX_REQUESTS) as u32, ..empty_requests() }),
            wanted: Vec::with_capacity(MAX_REQUESTS),
            event,
            stream: ptr::null_mut(),
            asked: Instant::now(),
            is_lost: false,
        }
    }

    pub fn len(&self) -> usize {
        self.wanted.len()
    }

    pub fn is_full(&self) -> bool {
        self.len() == MAX_REQUESTS
    }

    /// The stream that it was launched on.
    pub fn stream(&self) -> usize {
        self.stream.addr()
    }

    /// Adds a request, for which there is room.
    pub fn add(&mut self, row: u32, temperature: f32, wanted: Wanted) {
        let i = self.len();
        self.requests.row[i] = row;
        // As on the CPU: without log_norm_temp it does not matter, and 1 takes less time.
        self.requests.temperature[i] = if wanted.normalization { temperature } else { 1.0 };
        self.wanted.push(wanted);
    }

    pub(super) fn clear(&mut self) {
        self.wanted.clear();
    }

    /// Puts it on the stream of the logits. Waits for nothing.
    pub fn launch(&mut self, device: &Device, logits: &Logits) -> Result<()> {
        // The memory may hold what an earlier launch has landed there.
        self.requests.done = self.requests.done.wrapping_add(1).max(1);
        device.launch(logits, &self.requests, self.len(), device.splits(logits, self.len()))?;
        self.stream = logits.stream;
        self.asked = Instant::now();
        // SAFETY: an event of this context, and the caller's stream. Where this fails the launch is on its way all the same.
        unsafe { (device.driver.record)(self.event, self.stream) };
        Ok(())
    }

    /// Whether it is time to [ask](Self::ask) the driver: by now it should have landed.
    pub fn is_overdue(&self) -> bool {
        self.asked.elapsed() >= ASK
    }

    /// Asks the driver whether it has landed, when it is overdue. [`Kind::Cuda`] where it never will.
    pub fn ask(&mut self, device: &Device) -> Result<bool> {
        self.asked = Instant::now();
        // A capture by any thread forbids the question otherwise, and breaks by it.
        // SAFETY: an event; where its context has ended the driver says so.
        let query = || device.within(|| Ok(unsafe { (device.driver.query)(self.event) }));
        let result = match device.driver.beside_captures(query) {
            Ok(NOT_READY | CAPTURE_ERRORS_FROM..=CAPTURE_ERRORS_TO) => Ok(false),
            Ok(0) if self.is_here(device) => Ok(true),
            Ok(0) => Err(Error::new(Kind::Cuda, "CUDA: the launch is over, but has left no results")),
            Ok(code) => device.driver.check(code, "the launch, or what was before it on its stream,").map(|()| true),
            Err(error) => Err(error),
        };
        self.is_lost = result.is_err();
        result
    }

    /// Whether it can never be used again.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Whether all results are there.
    pub fn is_here(&self, device: &Device) -> bool {
        let places = self.place(0)..self.place(self.len());
        places.into_iter().all(|place| look(&device.landing(place).done) == self.requests.done)
    }

    fn place(&self, i: usize) -> usize {
        self.requests.place as usize + i
    }

    /// Waits until all results are there.
    pub fn wait(&mut self, device: &Device) -> Result<()> {
        let start = Instant::now();
        while !(self.is_here(device) || self.is_overdue() && self.ask(device)?) {
            if start.elapsed() < SPIN { std::hint::spin_loop() } else { thread::sleep(NAP) }
        }
        Ok(())
    }

    /// The metrics of a request of a flight that has landed.
    pub fn metrics(&self, device: &Device, i: usize) -> Metrics {
        let state = device.landing(self.place(i)).state;
        metrics::finish(&state, self.requests.temperature[i].into(), self.wanted[i])
    }
}
