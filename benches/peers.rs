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

/// logsumexp alone in the usual way: one pass for the maximum, one for the sum of exponentials, by AVX2 in f32. The row's
/// length is a multiple of 32. `None` where the CPU cannot.
#[cfg(target_arch = "x86_64")]
pub fn logsumexp() -> Option<fn(&[f32]) -> f64> {
    // SAFETY: the CPU has AVX2 and FMA.
    let logsumexp: fn(&[f32]) -> f64 = |row| unsafe { avx2::logsumexp(row) };
    (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(logsumexp)
}

#[cfg(not(target_arch = "x86_64"))]
pub fn logsumexp() -> Option<fn(&[f32]) -> f64> {
    None
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma")]
    pub fn logsumexp(row: &[f32]) -> f64 {
        let mut max = [_mm256_set1_ps(f32::NEG_INFINITY); 4];
        for chunk in row.chunks_exact(32) {
            for (max, eight) in max.iter_mut().zip(chunk.as_chunks::<8>().0) {
                // SAFETY: eight floats.
                *max = _mm256_max_ps(*max, unsafe { _mm256_loadu_ps(eight.as_ptr()) });
            }
        }
        let max = max.into_iter().flat_map(lanes).fold(f32::NEG_INFINITY, f32::max);
        let mut sums = [_mm256_setzero_ps(); 4];
        for chunk in row.chunks_exact(32) {
            for (sum, eight) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
                // SAFETY: eight floats.
                let x = unsafe { _mm256_loadu_ps(eight.as_ptr()) };
                *sum = _mm256_add_ps(*sum, exp(_mm256_sub_ps(x, _mm256_set1_ps(max))));
            }
        }
        f64::from(max) + sums.into_iter().flat_map(lanes).map(f64::from).sum::<f64>().ln()
    }

    /// exp(d) for d <= 0 by the textbook: a power of two and a polynomial of degree 5.
    #[target_feature(enable = "avx2,fma")]
    fn exp(d: __m256) -> __m256 {
        let constant = |x: f32| _mm256_set1_ps(x);
        let magic = constant(12_582_912.0);
        let d = _mm256_max_ps(d, constant(-87.0));
        let shifted = _mm256_fmadd_ps(d, constant(std::f32::consts::LOG2_E), magic);
        let n = _mm256_sub_ps(shifted, magic);
        let r = _mm256_fmadd_ps(n, constant(-std::f32::consts::LN_2), d);
        let mut p = constant(8.333_333e-3);
        for coefficient in [4.166_666_6e-2, 0.166_666_67, 0.5, 1.0, 1.0] {
            p = _mm256_fmadd_ps(p, r, constant(coefficient));
        }
        let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent))
    }

    fn lanes(vector: __m256) -> [f32; 8] {
        // SAFETY: both are 8 floats.
        unsafe { std::mem::transmute(vector) }
    }
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
