//! Logits in, [`Metrics`] out. Knows nothing of Redis or C.

pub mod kernel;
mod row;
mod spread;
mod state;

use crate::error::Result;
use kernel::{Kernel, Plan};
pub use row::{Bits16, Bits32, Row};
pub use spread::compute_all;
pub use state::State;

/// The three numbers of one token, as they are stored and taken. What was not asked for is 0.
///
/// For a row of logits x and a temperature T they are those of PyTorch in double precision on the same input:
/// `logsumexp(x)`, `logsumexp(x / T)` and `Categorical(logits=x).entropy()`. A row that is all -inf gives -inf, -inf,
/// NaN; one with a +inf gives +inf, +inf, NaN; one with a NaN gives NaN three times.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Metrics {
    /// logsumexp of the logits: the log normalization constant, in nats.
    pub log_norm: f64,
    /// logsumexp of the logits divided by the temperature, in nats.
    pub log_norm_temp: f64,
    /// Shannon entropy of softmax of the logits, in nats; at least 0.
    pub entropy: f64,
}

impl Metrics {
    /// What stands in for a result that could not be computed.
    pub fn nan() -> Self {
        Metrics { log_norm: f64::NAN, log_norm_temp: f64::NAN, entropy: f64::NAN }
    }

    /// The numbers in the order in which a record lists them.
    pub fn fields(&self) -> [f64; 3] {
        [self.log_norm, self.log_norm_temp, self.entropy]
    }
}

/// Which of the metrics a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `log_norm` and `log_norm_temp`.
    pub normalization: bool,
    /// `entropy`.
    pub entropy: bool,
}

/// One request: a row, and what to compute of it.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The logits; at least one.
    pub row: Row<'a>,
    /// Finite and above 0.
    pub temperature: f32,
    /// What to compute.
    pub wanted: Wanted,
}

/// Whether the environment variables that concern the computing make sense.
pub fn check_environment() -> Result<()> {
    kernel::asked_for()?;
    spread::thread_cap()?;
    Ok(())
}

/// Computes one request on the calling thread.
pub fn compute(job: &Job<'_>) -> Metrics {
    compute_by(job, kernel::chosen())
}

fn compute_by(job: &Job<'_>, kernel: &Kernel) -> Metrics {
    // The temperature only shows in log_norm_temp: without that, 1 saves the kernel an exponential.
    let temperature = if job.wanted.normalization { f64::from(job.temperature) } else { 1.0 };
    let state = kernel.reduce(job.row, Plan { temperature, entropy: job.wanted.entropy });
    finish(&state, temperature, job.wanted)
}

/// What is wanted of a row that was reduced.
pub fn finish(state: &State, temperature: f64, wanted: Wanted) -> Metrics {
    let all = state.finish(temperature);
    Metrics {
        log_norm: if wanted.normalization { all.log_norm } else { 0.0 },
        log_norm_temp: if wanted.normalization { all.log_norm_temp } else { 0.0 },
        entropy: if wanted.entropy { all.entropy } else { 0.0 },
    }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
