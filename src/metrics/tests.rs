//! Every kernel against the formulas written out.

use proptest::prelude::*;

use super::row::{bf16_to_f32, f16_to_f32};
use super::*;

const ALL: Wanted = Wanted { normalization: true, entropy: true };

/// The metrics in two passes, as the formulas say: log p = x - max - log1p(the sum without one copy of the maximum),
/// entropy = - sum of p log p. No term is negative, so nothing cancels.
fn reference(row: &[f32], temperature: f32) -> Metrics {
    let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
    if row.iter().any(|x| x.is_nan()) {
        return Metrics::nan();
    }
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max.is_infinite() {
        return Metrics { log_norm: max, log_norm_temp: max, entropy: f64::NAN };
    }
    let peak = row.iter().position(|&x| x == max).unwrap();
    let log_sum = |scale: f64| {
        let others = row.iter().enumerate().filter(|&(i, _)| i != peak);
        others.map(|(_, x)| ((x - max) / scale).exp()).sum::<f64>().ln_1p()
    };
    let (temperature, log_sum_1) = (f64::from(temperature), log_sum(1.0));
    let minus_p_log_p = |x: &f64| {
        let log_p = x - max - log_sum_1;
        if log_p == f64::NEG_INFINITY { 0.0 } else { -log_p * log_p.exp() }
    };
    Metrics {
        log_norm: max + log_sum_1,
        log_norm_temp: max / temperature + log_sum(temperature),
        entropy: row.iter().map(minus_p_log_p).sum(),
    }
}

fn f32_bits(row: &[f32]) -> Vec<Bits32> {
    row.iter().map(|x| x.to_ne_bytes()).collect()
}

fn metrics_of(row: &[f32], temperature: f32) -> Metrics {
    compute(&Job { row: Row::F32(&f32_bits(row)), temperature, wanted: ALL })
}

/// Equal to 1e-12: the logsumexps absolute or relative, entropy relative however small; where not finite the same.
fn is_close(found: Metrics, expected: Metrics) -> bool {
    let close = |found: f64, expected: f64, floor: f64| {
        found == expected
            || (found.is_nan() && expected.is_nan())
            || (found - expected).abs() <= 1e-12 * expected.abs().max(floor)
    };
    close(found.log_norm, expected.log_norm, 1.0)
        && close(found.log_norm_temp, expected.log_norm_temp, 1.0)
        && close(found.entropy, expected.entropy, f64::MIN_POSITIVE * 1e12)
}

fn check(row: &[f32], temperature: f32) -> std::result::Result<(), TestCaseError> {
    let (found, expected) = (metrics_of(row, temperature), reference(row, temperature));
    prop_assert!(is_close(found, expected), "found {found:?}, expected {expected:?}");
    prop_assert!(found.entropy.is_nan() || found.entropy >= 0.0);
    Ok(())
}

/// A logit of any kind: usual, far out, masked, or not finite.
fn logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -30f32..30.0,
        2 => -1e4f32..1e4,
        1 => any::<f32>(),
        1 => Just(f32::NEG_INFINITY),
    ]
}

proptest! {
    #[test]
    fn rows_of_any_kind(row in prop::collection::vec(logit(), 1..300), temperature in 0.01f32..10.0) {
        check(&row, temperature)?;
    }

    #[test]
    fn finite_rows_at_any_offset(
        row in prop::collection::vec(-20f32..20.0, 1..2000), offset in -5e5f32..5e5, temperature in 0.05f32..4.0,
    ) {
        check(&row.iter().map(|x| x + offset).collect::<Vec<_>>(), temperature)?;
    }

    /// A row's state is that of its parts, wherever it is split.
    #[test]
    fn split_rows_merge(row in prop::collection::vec(logit(), 1..300), at in 0usize..300, temperature in 0.05f32..4.0) {
        let temperature = f64::from(temperature);
        let (left, right) = row.split_at(at.min(row.len()));
        let [left, right, whole] = [left, right, &row].map(|part| (kernel::best().f32)(&f32_bits(part), temperature));
        let expected = whole.finish(temperature);
        for merged in [left.merge(right, temperature), right.merge(left, temperature)] {
            let found = merged.finish(temperature);
            prop_assert!(is_close(found, expected), "found {found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn sixteen_bit_rows_are_widened_rows(bits in prop::collection::vec(any::<u16>(), 1..300), temperature in 0.1f32..4.0) {
        let bytes: Vec<Bits16> = bits.iter().map(|bits| bits.to_ne_bytes()).collect();
        let f16 = bits.iter().map(|&bits| f16_to_f32(bits));
        let bf16 = bits.iter().map(|&bits| bf16_to_f32(bits));
        for (row, wide) in [(Row::F16(&bytes), f16.collect::<Vec<_>>()), (Row::Bf16(&bytes), bf16.collect())] {
            let found = compute(&Job { row, temperature, wanted: ALL });
            let expected = metrics_of(&wide, temperature);
            prop_assert!(is_close(found, expected), "found {found:?}, expected {expected:?}");
        }
    }
}

#[test]
fn special_rows() {
    const INF: f32 = f32::INFINITY;
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
        let found = metrics_of(row, 0.5);
        assert!(is_close(found, expected), "{row:?}: found {found:?}, expected {expected:?}");
        let mut reversed = row.to_vec();
        reversed.reverse();
        assert!(is_close(metrics_of(&reversed, 0.5), expected), "{reversed:?}");
    }
}

#[test]
fn a_peaked_row_keeps_its_entropy() {
    // p = 1 - 3e-40 and three of 1e-40: logsumexp minus the mean logit would give 0, or less.
    let far = -40.0 * std::f64::consts::LN_10;
    let mut row = [far as f32; 4];
    row[2] = 0.0;
    let d = f64::from(far as f32);
    let expected = 3.0 * d.exp() * (1.0 - d);
    let found = metrics_of(&row, 1.0).entropy;
    assert!((found / expected - 1.0).abs() < 1e-14, "found {found:e}, expected {expected:e}");
}

#[test]
fn what_is_not_wanted_is_zero() {
    let row = f32_bits(&[1.0, 2.0, 3.0]);
    let all = metrics_of(&[1.0, 2.0, 3.0], 0.25);
    let only = |normalization, entropy| {
        compute(&Job { row: Row::F32(&row), temperature: 0.25, wanted: Wanted { normalization, entropy } })
    };
    assert_eq!(only(true, false), Metrics { entropy: 0.0, ..all });
    assert_eq!(only(false, true), Metrics { entropy: all.entropy, ..Metrics::default() });
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
