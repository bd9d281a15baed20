//! The formulas written out in double precision, and how far from them a kernel may be. For tests: not fast.

use super::Metrics;

/// The metrics in two passes, as the formulas say: log p = x - max - log1p(the sum without one copy of the maximum),
/// entropy = - sum of p log p. No term is negative, so nothing cancels.
pub fn metrics(row: &[f32], temperature: f32) -> Metrics {
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

/// How far a kernel may be off: the logsumexps absolute or relative, the entropy relative however small it is.
pub struct Tolerance {
    pub log_norm: f64,
    pub entropy: f64,
}

/// That of the kernel of this name.
pub fn tolerance(kernel: &str) -> Tolerance {
    match kernel {
        "scalar" => Tolerance { log_norm: 1e-11, entropy: 1e-11 },
        _ => Tolerance { log_norm: 3e-7, entropy: 5e-7 },
    }
}

/// Whether the metrics of the kernel of this name are as expected; where those are not finite, the same.
pub fn is_close(kernel: &str, found: Metrics, expected: Metrics) -> bool {
    let tolerance = tolerance(kernel);
    let close = |found: f64, expected: f64, by: f64| {
        if expected.is_finite() {
            (found - expected).abs() <= by
        } else {
            found == expected || (found.is_nan() && expected.is_nan())
        }
    };
    let log_norm = |expected: f64| tolerance.log_norm * expected.abs().max(1.0);
    close(found.log_norm, expected.log_norm, log_norm(expected.log_norm))
        && close(found.log_norm_temp, expected.log_norm_temp, log_norm(expected.log_norm_temp))
        // Next to the smallest doubles there are not enough digits left.
        && close(found.entropy, expected.entropy, tolerance.entropy * expected.entropy + 1e-290)
}
