//! Every kernel against the formulas written out.

use proptest::prelude::*;

use super::reference::{self, is_close, tolerance};
use super::row::f16_to_f32;
use super::*;

const ALL: Wanted = Wanted { normalization: true, entropy: true };
const INF: f32 = f32::INFINITY;

fn f32_bits(row: &[f32]) -> Vec<Bits32> {
    row.iter().map(|x| x.to_ne_bytes()).collect()
}

fn job(row: Row<'_>, temperature: f32) -> Job<'_> {
    Job { row, temperature, wanted: ALL }
}

/// Whether every kernel gets the row's metrics right.
fn check(row: &[f32], temperature: f32) -> std::result::Result<(), TestCaseError> {
    let (bits, expected) = (f32_bits(row), reference::metrics(row, temperature));
    for kernel in kernel::available() {
        let found = compute_by(&job(Row::F32(&bits), temperature), kernel);
        prop_assert!(
            is_close(kernel.name(), found, expected),
            "{}: found {found:?}, expected {expected:?}",
            kernel.name()
        );
        prop_assert!(found.entropy.is_nan() || found.entropy >= 0.0, "{}: entropy {}", kernel.name(), found.entropy);
    }
    Ok(())
}

/// A logit of any kind: usual, far out, masked, or not finite.
fn logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -30f32..30.0,
        2 => -1e4f32..1e4,
        1 => any::<f32>(),
        1 => Just(-INF),
    ]
}

fn temperature() -> impl Strategy<Value = f32> {
    prop_oneof![
        2 => Just(1.0),
        2 => (2u8..=8).prop_map(|n| 1.0 / f32::from(n)),
        // Next to such a one.
        1 => (1u8..=8, -2i32..=2).prop_map(|(n, ulps)| f32::from_bits((1.0 / f32::from(n)).to_bits().wrapping_add_signed(ulps))),
        2 => 0.01f32..100.0,
        1 => (-30f32..30.0).prop_map(|exponent| 10f32.powf(exponent)),
    ]
}

/// Lengths up to 10,000: short ones and those next to a power of two more often.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![1..130usize, (1u32..14, 0usize..3).prop_map(|(n, d)| (1 << n) + d - 1), 1..10_000usize]
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Random(f32),
    Offset(f32),
    Flat(f32),
    Peaked(f32),
    Ascending,
    Descending,
    Masked,
    /// One element above many equal ones.
    Step(f32),
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        (0.1f32..1e4).prop_map(Shape::Random),
        prop::sample::select(vec![1e4f32, -1e4, 5e5, -5e5]).prop_map(Shape::Offset),
        prop::sample::select(vec![0f32, 1.0, -3.5, 12.25, 1e4, -5e5]).prop_map(Shape::Flat),
        (1f32..500.0).prop_map(Shape::Peaked),
        Just(Shape::Ascending),
        Just(Shape::Descending),
        Just(Shape::Masked),
        (1f32..100.0).prop_map(Shape::Step),
    ]
}

fn shaped(shape: Shape, length: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed | 1);
    let mut row: Vec<f32> = (0..length).map(|_| random.normal() * 3.0).collect();
    let at = random.next() as usize % length;
    match shape {
        Shape::Random(scale) => row.iter_mut().for_each(|x| *x *= scale),
        Shape::Offset(offset) => row.iter_mut().for_each(|x| *x += offset),
        Shape::Flat(value) => row.fill(value),
        Shape::Peaked(height) => row[at] += height,
        Shape::Ascending => row.sort_by(f32::total_cmp),
        Shape::Descending => row.sort_by(|a, b| f32::total_cmp(b, a)),
        Shape::Masked => row.iter_mut().filter(|_| !random.next().is_multiple_of(10)).for_each(|x| *x = -INF),
        Shape::Step(height) => {
            row.fill(0.0);
            row[at] = height;
        }
    }
    row
}

/// xorshift64: reproducible from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Roughly normal: the sum of twelve uniform numbers.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0
    }
}

proptest! {
    #[test]
    fn rows_of_any_kind(row in prop::collection::vec(logit(), 1..300), temperature in temperature()) {
        check(&row, temperature)?;
    }

    #[test]
    fn finite_rows_at_any_offset(
        row in prop::collection::vec(-20f32..20.0, 1..2000), offset in -5e5f32..5e5, temperature in temperature(),
    ) {
        check(&row.iter().map(|x| x + offset).collect::<Vec<_>>(), temperature)?;
    }

    /// The shapes that are hard on speed or precision.
    #[test]
    fn shaped_rows(shape in shape(), length in length(), seed in any::<u64>(), temperature in temperature()) {
        check(&shaped(shape, length, seed), temperature)?;
    }

    /// A row's state is that of its parts, wherever it is split.
    #[test]
    fn split_rows_merge(row in prop::collection::vec(logit(), 1..300), at in 0usize..300, temperature in temperature()) {
        let (left, right) = row.split_at(at.min(row.len()));
        let expected = reference::metrics(&row, temperature);
        let temperature = f64::from(temperature);
        for kernel in kernel::available() {
            let [left, right] = [left, right]
                .map(|part| kernel.reduce(Row::F32(&f32_bits(part)), Plan { temperature, entropy: true }));
            for merged in [left.merge(right, temperature), right.merge(left, temperature)] {
                let found = merged.finish(temperature);
                prop_assert!(
                    is_close(kernel.name(), found, expected), "{}: found {found:?}, expected {expected:?}", kernel.name()
                );
            }
        }
    }

    #[test]
    fn sixteen_bit_rows_are_widened_rows(bits in prop::collection::vec(any::<u16>(), 1..300), temperature in temperature()) {
        let bytes: Vec<Bits16> = bits.iter().map(|bits| bits.to_ne_bytes()).collect();
        for row in [Row::F16(&bytes), Row::Bf16(&bytes)] {
            let expected = reference::metrics(&row.widened(), temperature);
            for kernel in kernel::available() {
                let found = compute_by(&job(row, temperature), kernel);
                prop_assert!(
                    is_close(kernel.name(), found, expected), "{}: found {found:?}, expected {expected:?}", kernel.name()
                );
            }
        }
    }
}

/// `make test-kernels` reads this.
#[test]
fn says_which_kernels_it_runs() {
    let names: Vec<&str> = kernel::available().map(Kernel::name).collect();
    println!("kernels of this machine: {}", names.join(" "));
    assert_eq!(names.last(), Some(&"scalar"));
}

/// The sizes of real vocabularies, and the largest that is promised, in every shape.
#[test]
fn large_rows() {
    let shapes = [
        Shape::Random(1.0),
        Shape::Random(1e3),
        Shape::Offset(5e5),
        Shape::Flat(-3.5),
        Shape::Peaked(40.0),
        Shape::Peaked(300.0),
        Shape::Ascending,
        Shape::Descending,
        Shape::Masked,
        Shape::Step(20.0),
    ];
    for (i, shape) in shapes.into_iter().enumerate() {
        for length in [32_000, 128_256, 262_144] {
            let row = shaped(shape, length, 7 * i as u64 + 1);
            for temperature in [1.0, 0.25, 0.7] {
                if let Err(error) = check(&row, temperature) {
                    panic!("{shape:?} x {length}, temperature {temperature}: {error}");
                }
            }
        }
    }
}

#[test]
fn special_rows() {
    let nan = Metrics::nan();
    let all = |log_norm| Metrics { log_norm, log_norm_temp: log_norm, entropy: f64::NAN };
    let cases: [(&[f32], Metrics); 9] = [
        (&[2.5], Metrics { log_norm: 2.5, log_norm_temp: 5.0, entropy: 0.0 }),
        (&[-INF, 2.5, -INF], Metrics { log_norm: 2.5, log_norm_temp: 5.0, entropy: 0.0 }),
        (&[-INF, -INF], all(f64::NEG_INFINITY)),
        (&[1.0, INF, 2.0], all(f64::INFINITY)),
        (&[INF, INF, -INF], all(f64::INFINITY)),
        (&[f32::NAN, 1.0], nan),
        (&[1.0, f32::NAN], nan),
        (&[-INF, -INF, f32::NAN], nan),
        (&[INF, f32::NAN], nan),
    ];
    for (row, expected) in cases {
        // Also further inside a row than a vector or a block is long.
        for padding in [0, 3, 40, 2000] {
            let mut row = [&vec![-INF; padding], row, &vec![-INF; padding]].concat();
            for kernel in kernel::available() {
                for _ in 0..2 {
                    let found = compute_by(&job(Row::F32(&f32_bits(&row)), 0.5), kernel);
                    let name = kernel.name();
                    assert!(
                        is_close(kernel.name(), found, expected),
                        "{name}: {row:?}: found {found:?}, expected {expected:?}"
                    );
                    row.reverse();
                }
            }
        }
    }
}

/// Two elements next to each other: nothing averages the errors out, and a power multiplies them.
#[test]
fn small_rows_are_as_precise_at_every_temperature() {
    for temperature in (1..=8u8).map(|n| 1.0 / f32::from(n)).chain([0.123, 3.0]) {
        for i in 0..2000 {
            let d = -0.000_37 * i as f32;
            for row in [&[0.0, d][..], &[d, 0.0, d], &[d - 0.4, -0.4]] {
                if let Err(error) = check(row, temperature) {
                    panic!("{row:?}, temperature {temperature}: {error}");
                }
            }
        }
    }
}

/// One element above very many equal ones: errors add up, and where the logsumexp is next to 0 they may not.
#[test]
fn equal_elements_do_not_add_up_errors() {
    for (max, others, temperature, length) in [
        (-0.222_736, -2.284_271_7, 0.2, 128_256),
        (-0.14, -2.240_000_2, 0.2, 128_256),
        (-0.209_959_33, -1.428_911_7, 0.125, 128_256),
        (-1.030_603_6, -7.699_903_5, 0.7, 128_256),
        (-3.297_848, -22.989_494, 2.0, 128_256),
        (-0.317_372_44, -2.780_104_6, 0.25, 128_256),
        (-0.75, -6.4, 0.499_999_97, 128_256),
        (64.000_68, 39.100_677, 1.0, 2000),
        (300.0, 280.3, 1.0, 128_256),
    ] {
        let mut row = vec![others; length];
        row[length / 3] = max;
        if let Err(error) = check(&row, temperature) {
            panic!("{max} above {others} x {length}, temperature {temperature}: {error}");
        }
    }
}

/// Threads may have subnormal numbers count as 0, as torch.set_flush_denormal does.
#[test]
#[cfg(target_arch = "x86_64")]
fn flushed_subnormals_do_no_harm() {
    let flush = |control: u32| {
        // SAFETY: how this thread's vector arithmetic rounds subnormal numbers, nothing else.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &control, options(nostack, readonly)) }
    };
    for max in [0.0, 1e-40, -1e-40] {
        let mut row = vec![-3.0; 1000];
        row[500] = max;
        let expected = reference::metrics(&row, 0.25);
        for kernel in kernel::available() {
            flush(0x1f80 | 0x8040);
            let found = compute_by(&job(Row::F32(&f32_bits(&row)), 0.25), kernel);
            flush(0x1f80);
            assert!(is_close(kernel.name(), found, expected), "{}: {found:?}, not {expected:?}", kernel.name());
        }
    }
}

#[test]
fn any_temperature_will_do() {
    for temperature in [f32::MIN_POSITIVE, 1e-36, 1e-20, 1e-5, 1e5, 1e20, f32::MAX] {
        for row in [&[0.0, -1.0][..], &[f32::MAX, f32::MAX, f32::MIN], &[1e-20, 3e-20, -INF], &[-700.0, -701.5, 12.0]] {
            if let Err(error) = check(row, temperature) {
                panic!("{row:?}, temperature {temperature:e}: {error}");
            }
        }
    }
}

#[test]
fn a_peaked_row_keeps_its_entropy() {
    // p = 1 - 3e-40 and three of 1e-40: logsumexp minus the mean logit would give 0, or less.
    let far = (-40.0 * std::f64::consts::LN_10) as f32;
    let bits = f32_bits(&[far, far, 0.0, far]);
    let expected = 3.0 * f64::from(far).exp() * (1.0 - f64::from(far));
    for kernel in kernel::available() {
        let found = compute_by(&job(Row::F32(&bits), 1.0), kernel).entropy;
        let error = (found / expected - 1.0).abs();
        assert!(error < tolerance(kernel.name()).entropy, "{}: found {found:e}, expected {expected:e}", kernel.name());
    }
}

#[test]
fn what_is_not_wanted_is_zero() {
    let row = f32_bits(&[1.0, 2.0, 3.0]);
    for kernel in kernel::available() {
        let all = compute_by(&job(Row::F32(&row), 0.25), kernel);
        let only = |normalization, entropy| {
            compute_by(&Job { wanted: Wanted { normalization, entropy }, ..job(Row::F32(&row), 0.25) }, kernel)
        };
        assert_eq!(only(true, false), Metrics { entropy: 0.0, ..all });
        assert_eq!(only(false, true), Metrics { entropy: all.entropy, ..Metrics::default() });
    }
}

#[test]
fn every_f16_widens_to_its_value() {
    for bits in 0..=u16::MAX {
        let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
        let magnitude = match exponent {
            0x1f if fraction == 0.0 => f64::INFINITY,
            0x1f => f64::NAN,
            0 => fraction * 2f64.powi(-24),
            _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
        };
        let expected = if sign == 1 { -magnitude } else { magnitude };
        let found = f64::from(f16_to_f32(bits));
        assert!(found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan()), "{bits:#06x}");
    }
}

/// Rows that end where the readable memory does: a read past the end would be a SIGSEGV.
#[test]
#[cfg(target_os = "linux")]
fn nothing_is_read_past_a_row() {
    let page = GuardedPage::new();
    for length in 1..=2000 {
        for kernel in kernel::available() {
            let plan = Plan { temperature: 0.7, entropy: true };
            for row in [Row::F32(page.last(length)), Row::F16(page.last(length)), Row::Bf16(page.last(length))] {
                let found = kernel.reduce(row, plan).finish(0.7).entropy;
                assert!((found - (length as f64).ln()).abs() < 1e-6, "{} x {length}: {found}", kernel.name());
            }
        }
    }
}

/// Readable memory, all zero, and unreadable memory behind it.
#[cfg(target_os = "linux")]
struct GuardedPage(*const u8);

#[cfg(target_os = "linux")]
impl GuardedPage {
    const SIZE: usize = 1 << 16;

    fn new() -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, of which nobody has a reference; its second half is made unreadable.
        unsafe {
            let page = libc::mmap(std::ptr::null_mut(), 2 * Self::SIZE, libc::PROT_READ, flags, -1, 0);
            assert_ne!(page, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(page.byte_add(Self::SIZE), Self::SIZE, libc::PROT_NONE), 0);
            GuardedPage(page.cast())
        }
    }

    /// The last `length` elements of N bytes.
    fn last<const N: usize>(&self, length: usize) -> &[[u8; N]] {
        // SAFETY: within the readable half, which is there until the process ends.
        unsafe { std::slice::from_raw_parts(self.0.add(Self::SIZE - length * N).cast(), length) }
    }
}
