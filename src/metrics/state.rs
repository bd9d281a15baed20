//! The algebra that every kernel shares: running sums relative to the running maximum, merged in any order.

use super::Metrics;

/// The sums over the elements seen so far, relative to their maximum.
///
/// One copy of the maximum itself is left out of every sum: its term is 1, which would swallow the others of a peaked
/// row. What is left is what `log1p` wants. A NaN among the elements makes `max` NaN, and it stays so.
#[derive(Clone, Copy, Debug)]
// A GPU writes some.
#[repr(C)]
pub struct State {
    /// The greatest element; -inf when there is none yet, or none above -inf.
    pub max: f64,
    /// Sum of exp(x - max).
    pub sum: f64,
    /// Sum of (x - max) exp(x - max); at most 0.
    pub weighted: f64,
    /// Sum of exp((x - max) / temperature).
    pub sum_temp: f64,
}

impl State {
    /// No element at all. Elements of -inf leave it so: they add nothing to any sum.
    pub const EMPTY: State = State { max: f64::NEG_INFINITY, sum: 0.0, weighted: 0.0, sum_temp: 0.0 };

    /// Takes in one element.
    #[inline]
    pub fn push(&mut self, x: f64, temperature: f64) {
        if x <= self.max {
            self.add(x, temperature);
        } else {
            // A new maximum, the first element, or a NaN.
            *self = State { max: x, ..State::EMPTY }.merge(*self, temperature);
        }
    }

    /// Takes in an element that is not above the maximum.
    #[inline]
    fn add(&mut self, x: f64, temperature: f64) {
        if x == f64::NEG_INFINITY {
            return;
        }
        let below = x - self.max;
        let term = below.exp();
        self.sum += term;
        self.weighted += below * term;
        self.sum_temp += if temperature == 1.0 { term } else { (below / temperature).exp() };
    }

    /// The state of the elements of both.
    pub fn merge(self, other: State, temperature: f64) -> State {
        let (high, low) = if other.max > self.max { (other, self) } else { (self, other) };
        if low.max == f64::NEG_INFINITY {
            return high;
        }
        // A NaN compares false, so it may be on either side; it comes through the addition.
        let below = low.max - high.max;
        if below.is_nan() {
            return State { max: low.max + high.max, ..State::EMPTY };
        }
        // The lower maximum is now an element like any other: hence the 1s.
        let scale = below.exp();
        State {
            max: high.max,
            sum: high.sum + (1.0 + low.sum) * scale,
            weighted: high.weighted + (low.weighted + below * (1.0 + low.sum)) * scale,
            sum_temp: high.sum_temp + (1.0 + low.sum_temp) * (below / temperature).exp(),
        }
    }

    /// The metrics of the elements seen.
    ///
    /// With S the full sum, entropy = log S - (sum of (x - max) exp(x - max)) / S. Both terms are at least 0, so nothing
    /// cancels, where logsumexp minus the mean logit would.
    pub fn finish(&self, temperature: f64) -> Metrics {
        if !self.max.is_finite() {
            return Metrics { log_norm: self.max, log_norm_temp: self.max, entropy: f64::NAN };
        }
        let log_sum = self.sum.ln_1p();
        Metrics {
            log_norm: self.max + log_sum,
            log_norm_temp: self.max / temperature + self.sum_temp.ln_1p(),
            entropy: log_sum - self.weighted / (1.0 + self.sum),
        }
    }
}
