//! One read of a row for all its sums: the algorithm that the vector kernels share.
//!
//! A row is read in blocks that fit the first-level cache. Each is summed relative to the greatest element so far. If it
//! turns out to hold a greater one, which soon becomes rare, its sums are dropped and it is read again. Within a block
//! the sums are f32, in runs short enough that their rounding does not add up; between blocks they are f64.
//!
//! The exponential is exp(d) = 2^(k/STEPS) exp(r), with the power of two from a table and exp(r) from a short polynomial.
//! d is the element itself where the maximum is near 0, and else the distance from the maximum. Either way no subtraction
//! rounds what counts: elements of half the maximum and more have an exact distance. The entropy of a peaked row hangs on
//! what is far away, and a row of equal elements on what the rounding of one would be.

use std::marker::PhantomData;
use std::ops::RangeInclusive;

use super::element::Element;
use super::vector::{MAGIC, Vector};
use super::{Plan, scalar};
use crate::metrics::state::State;

/// Elements that are summed before it is known whether a greater one is among them.
const BLOCK: usize = 768;
/// Blocks for which a row counts as rising after its last new maximum.
const RISING: u32 = 2;
/// Vectors that are summed one behind the other. Runs are summed up again, so that rounding errors stay few.
const RUN: usize = 10;
/// Bytes by which memory is fetched ahead. The CPU's own fetching stops at each page.
const AHEAD: usize = 4096;
/// Up to this, elements are exponentiated as they are; where the maximum is further from 0, relative to it. At least twice
/// [`DEEPEST`], so that there all that counts is more than half the maximum.
const NEAR: f64 = 256.0;
/// An element further below the maximum counts as this far: exp(-64) is too little to matter even if all the others are so
/// far below, and what leads to it are normal numbers.
const DEEPEST: f32 = 64.0;
/// An element this far above all others is kept apart: relative to it the others' sums would be too little for an f32, but
/// the entropy hangs on them.
const OUTLIER: f64 = 25.0;
/// Added to a number that may be 0 or next to it, it makes that a normal one, for subnormal ones are slow. It is too little
/// to matter.
const TINY: f32 = 1e-30;

/// Beyond them, an f32 cannot hold 1 / temperature, or what counts below the maximum. No model has such a temperature.
const TEMPERATURES: RangeInclusive<f64> = 1e-30..=1e30;

/// The relative error of an exponential at most, and what of it a logsumexp may keep: absolute, or relative to itself. The
/// rest of what is promised is left for the rounding of sums.
const EXP_ERROR: f64 = 2e-7;
const MAX_ERROR: f64 = 2.5e-7;

/// No vector has more lanes.
const MAX_LANES: usize = 16;

/// log2(e), and ln(2) as the f32 that the exponential works with.
const LOG2_E: f32 = std::f32::consts::LOG2_E;
const LN_2: f32 = std::f32::consts::LN_2;
const LN_2_EXACT: f64 = std::f64::consts::LN_2;
/// What the rounding of `LN_2` makes of exp(d): exp(d * STRETCH).
const STRETCH: f64 = 2.0 - LN_2 as f64 / LN_2_EXACT;

/// How exp(x / temperature) is made: not at all; as that power of exp(x), 2 to 8; by an exponential of its own; or so, and
/// nothing else is made.
const NO_TEMP: u32 = 0;
const ANY_TEMP: u32 = 9;
const ONLY_TEMP: u32 = 10;

/// How exp(x / temperature) is made for a temperature.
fn temp(temperature: f64) -> u32 {
    let inverse = 1.0 / temperature;
    let power = inverse.round();
    // No f32 is 1/3, but one is next to it.
    let tolerance = if (power as u32).is_power_of_two() { 0.0 } else { 1e-7 };
    if temperature == 1.0 {
        NO_TEMP
    } else if (2.0..=8.0).contains(&power) && (inverse / power - 1.0).abs() <= tolerance {
        power as u32
    } else {
        ANY_TEMP
    }
}

/// The functions below, compiled for one instruction set. `kernel!` writes them.
///
/// # Safety
/// The CPU has the instruction set.
pub trait Compiled {
    /// Steps of the exponential's table to a power of two.
    const STEPS: f32;
    unsafe fn sweep<E: Element, const ENTROPY: bool, const TEMP: u32>(row: &[E::Bits], frame: &Frame) -> Sums;
    unsafe fn greatest<E: Element>(row: &[E::Bits]) -> f32;
    unsafe fn find<E: Element>(row: &[E::Bits], element: f32) -> usize;
}

/// Reduces a row to its state, in the way that a plan asks for.
///
/// # Safety
/// As for [`Compiled`].
pub unsafe fn reduce_as_planned<C: Compiled, E: Element>(row: &[E::Bits], plan: Plan) -> State {
    if !TEMPERATURES.contains(&plan.temperature) {
        return scalar::reduce::<E>(row, plan);
    }
    let way = temp(plan.temperature);
    macro_rules! reduce {
        ($($temp:pat => $instance:expr),*) => {
            match way {
                // SAFETY: the caller's promise.
                $($temp => unsafe {
                    if plan.entropy {
                        reduce::<C, E, true, { $instance }>(row, plan.temperature)
                    } else {
                        reduce::<C, E, false, { $instance }>(row, plan.temperature)
                    }
                },)*
            }
        };
    }
    let state = reduce!(NO_TEMP => NO_TEMP, 2 => 2, 3 => 3, 4 => 4, 5 => 5, 6 => 6, 7 => 7, 8 => 8, _ => ANY_TEMP);
    if way == ANY_TEMP || !is_coarse(&state, plan.temperature, way) {
        return state;
    }
    // SAFETY: the caller's promise.
    let exact = unsafe { reduce::<C, E, false, ONLY_TEMP>(row, plan.temperature) };
    State { sum_temp: exact.sum_temp, ..state }
}

/// Whether log_norm_temp may be off by too much, because a power has as many times the error of its base. That takes a
/// log_norm_temp next to 0 and few elements next to the maximum, so it is rare.
fn is_coarse(state: &State, temperature: f64, power: u32) -> bool {
    let log_norm_temp = state.max / temperature + state.sum_temp.ln_1p();
    let error = f64::from(power) * EXP_ERROR * state.sum_temp / (1.0 + state.sum_temp);
    error > MAX_ERROR * log_norm_temp.abs().max(1.0)
}

/// # Safety
/// As for [`Compiled`].
unsafe fn reduce<C: Compiled, E: Element, const ENTROPY: bool, const TEMP: u32>(
    row: &[E::Bits],
    temperature: f64,
) -> State {
    let mut reduction = Reduction::<C, E, ENTROPY, TEMP>::new(temperature);
    // A row that has risen goes on rising: in its next blocks the maximum is looked for before anything is summed.
    let mut rising = RISING;
    for block in row.chunks(BLOCK) {
        // SAFETY: the caller's promise.
        unsafe {
            let known = reduction.frame.max;
            let trial = if rising > 0 { None } else { Some(reduction.sweep(block)) };
            let max = trial.map_or_else(|| C::greatest::<E>(block), |trial| trial.max);
            rising = if max > known { RISING } else { rising.saturating_sub(1) };
            match trial {
                _ if max == f32::INFINITY => return infinite::<E>(row),
                Some(sums) if max <= known => reduction.sums.add(sums),
                _ => reduction.take(block, max),
            }
        }
    }
    reduction.state()
}

/// The state of a row with an element of +inf.
fn infinite<E: Element>(row: &[E::Bits]) -> State {
    // Without an early end, so that the compiler makes vectors of it.
    let has_nan = row.iter().fold(false, |has_nan, &bits| has_nan | E::is_nan(bits));
    State { max: if has_nan { f64::NAN } else { f64::INFINITY }, ..State::EMPTY }
}

/// A row half read.
struct Reduction<C, E, const ENTROPY: bool, const TEMP: u32> {
    temperature: f64,
    /// What was summed relative to other frames.
    before: State,
    frame: Frame,
    sums: Sums,
    instance: PhantomData<(C, E)>,
}

impl<C: Compiled, E: Element, const ENTROPY: bool, const TEMP: u32> Reduction<C, E, ENTROPY, TEMP> {
    fn new(temperature: f64) -> Self {
        let frame = Frame::new(f32::NEG_INFINITY, temperature, C::STEPS);
        Reduction { temperature, before: State::EMPTY, frame, sums: Sums::default(), instance: PhantomData }
    }

    fn state(&self) -> State {
        self.before.merge(self.sums.state::<TEMP>(&self.frame), self.temperature)
    }

    /// # Safety
    /// As for [`Compiled`]; so for all below.
    unsafe fn sweep(&self, row: &[E::Bits]) -> Sums {
        // SAFETY: the caller's promise.
        unsafe { C::sweep::<E, ENTROPY, TEMP>(row, &self.frame) }
    }

    /// Takes in elements, of which `max` is the greatest.
    unsafe fn take(&mut self, row: &[E::Bits], max: f32) {
        // SAFETY: the caller's promise.
        unsafe {
            if max <= self.frame.max || max == f32::NEG_INFINITY {
                let sums = self.sweep(row);
                return self.sums.add(sums);
            }
            let at = C::find::<E>(row, max);
            let parts = [&row[..at], &row[at + 1..]];
            if !self.is_outlier(max, parts) {
                self.before = self.state();
                self.frame = Frame::new(max, self.temperature, C::STEPS);
                self.sums = self.sweep(parts[0]);
                let sums = self.sweep(parts[1]);
                return self.sums.add(sums);
            }
            self.before = State { max: f64::from(max), ..State::EMPTY }.merge(self.before, self.temperature);
            for part in parts {
                let max = C::greatest::<E>(part);
                self.take(part, max);
            }
        }
    }

    /// Whether `max`, the greatest element so far, towers above all else, also above the `others` that come with it.
    unsafe fn is_outlier(&self, max: f32, others: [&[E::Bits]; 2]) -> bool {
        let towers = |other: f64| f64::from(max) - other > OUTLIER;
        // SAFETY: the caller's promise.
        let greatest = |part| unsafe { f64::from(C::greatest::<E>(part)) };
        towers(self.before.max.max(f64::from(self.frame.max))) && others.into_iter().all(|part| towers(greatest(part)))
    }
}

/// What elements are measured against.
#[derive(Clone, Copy)]
pub struct Frame {
    /// The greatest element so far. It is left out of the sums once, see [`State`].
    max: f32,
    /// For exp(x), with elements as they are.
    plain: Origin,
    /// For exp(x / temperature).
    scaled: Origin,
    scale: Scale,
    /// What 1 / temperature differs from the next whole number.
    inverse_temp_rest: f32,
}

/// Where exponents are counted from.
#[derive(Clone, Copy)]
struct Origin {
    /// Subtracted from each element: next to nothing, or the maximum where that is far from 0.
    base: f32,
    /// The maximum less `base`.
    peak: f32,
    /// Below this, an element less `base` counts as this.
    floor: f32,
    /// [`MAGIC`] less the steps of the sums' unit, which is the maximum's exponential to the next step.
    magic: f32,
    /// The maximum's exponential in that unit.
    top: f64,
}

/// How a number is taken apart for exp(x / temperature): x / temperature = steps (step + step_rest) + r.
#[derive(Clone, Copy)]
struct Scale {
    /// 1 / temperature.
    inverse: f32,
    /// Steps of the exponential's table, for x = 1.
    steps: f32,
    /// One step of the table, in so few bits that a multiple of it is exact.
    step: f32,
    /// What `step` lacks, and what the rounding of `inverse` makes of it.
    step_rest: f32,
}

impl Scale {
    fn new(temperature: f64, steps: f32) -> Self {
        let exact = 1.0 / temperature;
        let inverse = exact as f32;
        let exact_step = LN_2_EXACT / f64::from(steps);
        // Ten bits: up to [`NEAR`] and [`DEEPEST`] together there are less than 2^14 steps.
        let step = f32::from_bits((exact_step as f32).to_bits() & !0x3fff);
        Scale {
            inverse,
            steps: (exact * f64::from(LOG2_E * steps)) as f32,
            step,
            step_rest: (exact_step * (f64::from(inverse) / exact) - f64::from(step)) as f32,
        }
    }
}

impl Origin {
    /// For a maximum, a temperature, and how exactly the kernel's exponential grows.
    fn new(max: f32, temperature: f64, steps: f32, stretch: f64) -> Self {
        let is_near = f64::from(max).abs() <= NEAR * temperature;
        let base = if is_near { -TINY } else { max };
        let peak = max - base;
        let exponent = f64::from(peak) / temperature;
        let unit = (exponent * f64::from(steps) / LN_2_EXACT).round_ties_even();
        Origin {
            base,
            peak,
            floor: peak - (f64::from(DEEPEST) * temperature) as f32,
            magic: MAGIC - unit as f32,
            top: (exponent * stretch - unit * LN_2_EXACT / f64::from(steps)).exp(),
        }
    }
}

impl Frame {
    fn new(max: f32, temperature: f64, steps: f32) -> Self {
        // Without a maximum yet there are only elements of -inf, and sums that nobody asks for.
        let at = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let inverse = 1.0 / temperature;
        Frame {
            max,
            plain: Origin::new(at, 1.0, steps, STRETCH),
            scaled: Origin::new(at, temperature, steps, 1.0),
            scale: Scale::new(temperature, steps),
            inverse_temp_rest: (inverse - inverse.round()) as f32,
        }
    }
}

/// Sums relative to a frame.
#[derive(Clone, Copy, Default)]
pub struct Sums {
    /// The greatest element. Where it is above the frame's, the sums are worthless.
    max: f32,
    sum: f64,
    weighted: f64,
    sum_temp: f64,
}

impl Sums {
    fn add(&mut self, other: Sums) {
        self.sum += other.sum;
        self.weighted += other.weighted;
        self.sum_temp += other.sum_temp;
    }

    /// The state of what was summed, together with the frame's maximum.
    fn state<const TEMP: u32>(&self, frame: &Frame) -> State {
        if self.sum.is_nan() {
            return State { max: f64::NAN, ..State::EMPTY };
        }
        if frame.max == f32::NEG_INFINITY {
            return State::EMPTY;
        }
        let sum_temp = match TEMP {
            NO_TEMP => self.sum / frame.plain.top,
            ANY_TEMP | ONLY_TEMP => self.sum_temp / frame.scaled.top,
            power => self.sum_temp / frame.plain.top.powi(power as i32),
        };
        let (sum, weighted) = (self.sum / frame.plain.top, self.weighted / frame.plain.top);
        State { max: f64::from(frame.max), sum, weighted, sum_temp }
    }
}

/// The sums of a run, lane by lane.
#[derive(Clone, Copy)]
struct Part<V: Vector> {
    max: V,
    sum: V,
    weighted: V,
    sum_temp: V,
}

/// Sums up a row relative to a frame.
///
/// # Safety
/// The CPU has V's features, and this is inlined where they are enabled; so for all below.
#[inline(always)]
pub unsafe fn sweep<V: Vector, E: Element, const ENTROPY: bool, const TEMP: u32>(
    row: &[E::Bits],
    frame: &Frame,
) -> Sums {
    // SAFETY: the caller's promise; the loads stay within their chunks.
    unsafe {
        let mut total = Part::<V>::new(frame);
        for run in row.chunks(RUN * V::LANES) {
            let mut part = Part::new(frame);
            let mut chunks = run.chunks_exact(V::LANES);
            for chunk in &mut chunks {
                V::prefetch(chunk.as_ptr().cast::<u8>().wrapping_add(AHEAD));
                part.push::<ENTROPY, TEMP>(E::load(chunk.as_ptr()), frame);
            }
            if !chunks.remainder().is_empty() {
                part.push::<ENTROPY, TEMP>(load_padded::<V, E>(chunks.remainder()), frame);
            }
            total.merge(part);
        }
        Sums {
            max: if total.max.any_above(V::splat(frame.max)) { greatest_lane(total.max) } else { frame.max },
            sum: total.sum.total(),
            weighted: total.weighted.total(),
            sum_temp: total.sum_temp.total(),
        }
    }
}

impl<V: Vector> Part<V> {
    #[inline(always)]
    unsafe fn new(frame: &Frame) -> Self {
        // SAFETY: the caller's promise.
        let (max, zero) = unsafe { (V::splat(frame.max), V::splat(0.0)) };
        Part { max, sum: zero, weighted: zero, sum_temp: zero }
    }

    #[inline(always)]
    unsafe fn merge(&mut self, other: Self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.max = other.max.at_least(self.max);
            self.sum = self.sum.add(other.sum);
            self.weighted = self.weighted.add(other.weighted);
            self.sum_temp = self.sum_temp.add(other.sum_temp);
        }
    }

    #[inline(always)]
    unsafe fn push<const ENTROPY: bool, const TEMP: u32>(&mut self, x: V, frame: &Frame) {
        // SAFETY: the caller's promise.
        unsafe {
            self.max = x.at_least(self.max);
            if TEMP == ANY_TEMP || TEMP == ONLY_TEMP {
                self.sum_temp = self.sum_temp.add(exp_scaled(x, &frame.scaled, &frame.scale));
            }
            if TEMP == ONLY_TEMP {
                return;
            }
            let d = x.sub(V::splat(frame.plain.base)).at_least(V::splat(frame.plain.floor));
            let term = exp(d, frame.plain.magic);
            self.sum = self.sum.add(term);
            let below = d.sub(V::splat(frame.plain.peak));
            if ENTROPY {
                self.weighted = below.mul_add(term, self.weighted);
            }
            if TEMP != NO_TEMP && TEMP != ANY_TEMP {
                let mut term = power::<V, TEMP>(term);
                if !TEMP.is_power_of_two() {
                    // What 1 / temperature is off by comes in to the first order.
                    term = term.mul(below).mul_add(V::splat(frame.inverse_temp_rest), term);
                }
                self.sum_temp = self.sum_temp.add(term);
            }
        }
    }
}

/// exp(d), in the unit that `magic` brings.
#[inline(always)]
unsafe fn exp<V: Vector>(d: V, magic: f32) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let shifted = d.mul_add(V::splat(LOG2_E * V::STEPS), V::splat(magic));
        let steps = shifted.sub(V::splat(magic));
        exp_of_parts(shifted, steps.mul_add(V::splat(-LN_2 / V::STEPS), d))
    }
}

/// exp(x / temperature), in the origin's unit. The quotient is never rounded: that would be an error of its own size.
#[inline(always)]
unsafe fn exp_scaled<V: Vector>(x: V, origin: &Origin, by: &Scale) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let d = x.sub(V::splat(origin.base)).at_least(V::splat(origin.floor));
        let shifted = d.mul_add(V::splat(by.steps), V::splat(origin.magic));
        let steps = shifted.sub(V::splat(origin.magic));
        let r = d.mul_add(V::splat(by.inverse), steps.mul_add(V::splat(-by.step), V::splat(TINY)));
        exp_of_parts(shifted, steps.mul_add(V::splat(-by.step_rest), r))
    }
}

/// 2^(k / STEPS) exp(r), with k from `shifted` = [`MAGIC`] + k.
#[inline(always)]
unsafe fn exp_of_parts<V: Vector>(shifted: V, r: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = V::exp2_steps(shifted);
        scale.mul(r).mul_add(V::exp_factor(r), scale)
    }
}

/// A small power of each lane.
#[inline(always)]
unsafe fn power<V: Vector, const N: u32>(x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let times = |a: V, b: V| a.mul_add(b, V::splat(TINY));
        let square = times(x, x);
        match N {
            2 => square,
            3 => times(square, x),
            4 => times(square, square),
            5 => times(times(square, square), x),
            6 => times(times(square, square), square),
            7 => times(times(times(square, square), square), x),
            _ => {
                let fourth = times(square, square);
                times(fourth, fourth)
            }
        }
    }
}

/// The greatest element of a row; -inf of an empty one. Where there is a NaN it may be too small.
#[inline(always)]
pub unsafe fn greatest<V: Vector, E: Element>(row: &[E::Bits]) -> f32 {
    // SAFETY: the caller's promise; the loads stay within their chunks.
    unsafe {
        let mut max = [V::splat(f32::NEG_INFINITY); 4];
        let mut chunks = row.chunks_exact(max.len() * V::LANES);
        for chunk in &mut chunks {
            for (i, max) in max.iter_mut().enumerate() {
                *max = E::load::<V>(chunk.as_ptr().add(i * V::LANES)).at_least(*max);
            }
        }
        for chunk in chunks.remainder().chunks(V::LANES) {
            max[0] = load_padded::<V, E>(chunk).at_least(max[0]);
        }
        greatest_lane(max[0].at_least(max[1]).at_least(max[2].at_least(max[3])))
    }
}

#[inline(always)]
unsafe fn greatest_lane<V: Vector>(lanes: V) -> f32 {
    const { assert!(V::LANES <= MAX_LANES) };
    let mut values = [f32::NEG_INFINITY; MAX_LANES];
    // SAFETY: the caller's promise; no vector has more lanes.
    unsafe { lanes.store(values.as_mut_ptr()) };
    values.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Where a row's first `element` is: its maximum. A NaN before it is passed by; the sums will have it.
#[inline(always)]
pub unsafe fn find<V: Vector, E: Element>(row: &[E::Bits], element: f32) -> usize {
    let mut start = 0;
    // SAFETY: the caller's promise; the loads stay within the row.
    unsafe {
        // Not "above the next smaller": next to 0 that is subnormal, and a thread may have those count as 0.
        let element = V::splat(element);
        while start + V::LANES <= row.len() && !E::load::<V>(row.as_ptr().add(start)).any_at_least(element) {
            start += V::LANES;
        }
    }
    let found = row[start..].iter().position(|&bits| E::widen(bits) == element);
    start + found.expect("the maximum is an element")
}

/// A vector of up to [`Vector::LANES`] elements, and -inf behind them.
#[inline(always)]
unsafe fn load_padded<V: Vector, E: Element>(row: &[E::Bits]) -> V {
    const { assert!(V::LANES <= MAX_LANES) };
    let mut padded = [E::NEG_INFINITY; MAX_LANES];
    padded[..row.len()].copy_from_slice(row);
    // SAFETY: the caller's promise; no vector has more lanes.
    unsafe { E::load::<V>(padded.as_ptr()) }
}
