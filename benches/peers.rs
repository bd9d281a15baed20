//! What a caller would otherwise use.

use std::process::Command;

/// The sum of a row: about the least that can be done with it.
pub fn sum(row: &[f32]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { sum_avx2(row) };
    }
    sum_lanes(row)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(row: &[f32]) -> f64 {
    sum_lanes(row)
}

/// 64 lanes, which the compiler turns into vectors.
#[inline(always)]
fn sum_lanes(row: &[f32]) -> f64 {
    let mut lanes = [0f32; 64];
    for chunk in row.chunks_exact(64) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    lanes.iter().map(|&x| f64::from(x)).sum()
}

/// The sums of two halves side by side.
pub fn sum_on_two_threads(row: &[f32]) -> f64 {
    let (left, right) = row.split_at(row.len() / 2);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| sum(right));
        sum(left) + other.join().expect("a sum does not panic")
    })
}

/// logsumexp alone in the usual way: one pass for the maximum, one for the sum of exponentials, in f32.
pub fn logsumexp(row: &[f32]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the CPU has AVX2 and FMA.
        return unsafe { logsumexp_avx2(row) };
    }
    logsumexp_lanes(row)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn logsumexp_avx2(row: &[f32]) -> f64 {
    logsumexp_lanes(row)
}

#[inline(always)]
fn logsumexp_lanes(row: &[f32]) -> f64 {
    let mut most = [f32::NEG_INFINITY; 32];
    for chunk in row.chunks_exact(32) {
        for (most, &x) in most.iter_mut().zip(chunk) {
            *most = if x > *most { x } else { *most };
        }
    }
    let max = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0f32; 32];
    for chunk in row.chunks_exact(32) {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += exp(x - max);
        }
    }
    f64::from(max) + sums.iter().map(|&x| f64::from(x)).sum::<f64>().ln()
}

/// exp(d) for d <= 0 by the textbook: a power of two and a polynomial of degree 5.
#[inline(always)]
fn exp(d: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let d = if d > -87.0 { d } else { -87.0 };
    let shifted = d.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(1.428_606_8e-6, n.mul_add(-0.693_145_75, d));
    let p = r.mul_add(8.333_333e-3, 4.166_666_6e-2).mul_add(r, 0.166_666_67).mul_add(r, 0.5).mul_add(r, 1.0);
    p.mul_add(r, 1.0) * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// Times of numpy and torch in microseconds, by what was done; empty where no Python has numpy.
pub fn python(vocabulary: usize) -> Vec<(String, f64)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    for python in [&format!("{root}target/peers/bin/python"), "python3"] {
        let output = Command::new(python).args([&format!("{root}benches/peers.py"), &vocabulary.to_string()]).output();
        let Some(output) = output.ok().filter(|output| output.status.success()) else { continue };
        let parse = |line: &str| line.split_once('\t').and_then(|(name, us)| Some((name.into(), us.parse().ok()?)));
        return String::from_utf8_lossy(&output.stdout).lines().filter_map(parse).collect();
    }
    Vec::new()
}
