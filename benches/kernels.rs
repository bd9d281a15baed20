//! `make bench`: the kernels against what else there is, in one run. Medians; one thread unless said.
//!
//! Times depend on the machine, so they are told as cycles of a clock measured here, and as ratios.

mod peers;
mod timing;

use pita_redis::metrics::kernel::{self, Kernel, Plan};
use pita_redis::metrics::{Job, Row, Wanted, compute_all};
use timing::{clock_ghz, median_us};

const VOCABULARY: usize = 128_256;
const BATCH: usize = 192;

fn main() {
    let ghz = clock_ghz();
    println!("{}", machine());
    println!("clock {ghz:.2} GHz, measured; 1 x {VOCABULARY} logits, hot in cache, unless said\n");
    let random = random_row(VOCABULARY);
    let cycles = |us: f64| us * 1e3 * ghz / VOCABULARY as f64;

    println!("{:<44} {:>9} {:>15} {:>7}", "", "us", "cycles/element", "GB/s");
    let line = |name: &str, us: f64, bytes_each: usize| {
        let rate = (VOCABULARY * bytes_each) as f64 / us / 1e3;
        println!("{name:<44} {us:>9.1} {:>15.3} {rate:>7.1}", cycles(us));
    };
    line("peer: plain sum of f32, the read limit", median_us(|| peers::sum(&random)), 4);
    if let Some(logsumexp) = peers::logsumexp() {
        line("peer: AVX2, two passes, logsumexp only, f32", median_us(|| logsumexp(&random)), 4);
    }
    let bytes = Bytes::of(&random);
    let [mut quarter, mut any, mut sixteen_bit] = [f64::NAN; 3];
    for kernel in kernel::available() {
        for (what, row, temperature) in [
            ("f32, T = 1", Row::F32(&bytes.f32), 1.0),
            ("f32, T = 1/4", Row::F32(&bytes.f32), 0.25),
            ("f32, T = 1/3", Row::F32(&bytes.f32), f64::from(1f32 / 3.0)),
            ("f32, any T", Row::F32(&bytes.f32), 0.7),
            ("bf16, T = 1/4", Row::Bf16(&bytes.bf16), 0.25),
            ("f16, T = 1/4", Row::F16(&bytes.f16), 0.25),
        ] {
            let us = median_us(|| reduce(kernel, row, temperature));
            line(
                &format!("{}: all three outputs, {what}", kernel.name()),
                us,
                if what.starts_with("f32") { 4 } else { 2 },
            );
            if std::ptr::eq(kernel, kernel::chosen()) {
                match what {
                    "f32, T = 1/4" => quarter = us,
                    "f32, any T" => any = us,
                    "bf16, T = 1/4" | "f16, T = 1/4" => sixteen_bit = us.max(sixteen_bit),
                    _ => {}
                }
            }
        }
    }

    shapes(&random);
    let share = threads();
    let [eager, pita] = python(quarter);

    println!("\n| {} | goal | reached |\n|---|---|---|", kernel::chosen().name());
    println!("| 1 x {VOCABULARY} f32, T = 1/4, hot | 0.95 cycles/element | {:.2} |", cycles(quarter));
    println!("| the same, any T | 1.6 | {:.2} |", cycles(any));
    println!("| bf16, f16 | 1.05 | {:.2} |", cycles(sixteen_bit));
    for (what, goal, us) in [("torch eager, three outputs", 15, eager), ("PITA's way in torch", 40, pita)] {
        let ratio = us.map_or("not installed".into(), |us| format!("{:.1} times", us / quarter));
        println!("| {what}, one thread | {goal} times as long as ours | {ratio} |");
    }
    println!("| {BATCH} rows from memory, two threads | 0.7 of a plain sum's rate | {share:.2} |");
}

fn reduce(kernel: &Kernel, row: Row<'_>, temperature: f64) -> f64 {
    kernel.reduce(row, Plan { temperature, entropy: true }).finish(temperature).entropy
}

/// How much slower than a random row each shape is.
fn shapes(random: &[f32]) {
    println!("\n{:<24} time of other rows, relative to a random one (f32, T = 1/4)", "");
    let sorted = {
        let mut row = random.to_vec();
        row.sort_by(f32::total_cmp);
        row
    };
    let changed = |change: &dyn Fn(usize, f32) -> f32| -> Vec<f32> {
        random.iter().enumerate().map(|(i, &x)| change(i, x)).collect()
    };
    let shapes = [
        ("ascending", sorted.clone()),
        ("descending", sorted.into_iter().rev().collect()),
        ("90 % masked", changed(&|i, x| if i % 10 == 0 { x } else { f32::NEG_INFINITY })),
        ("one peak, 200 above", changed(&|i, x| if i == 77_777 { 200.0 } else { x })),
        ("very wide", changed(&|_, x| 1000.0 * x)),
        ("offset 1e4", changed(&|_, x| x + 1e4)),
        ("flat", changed(&|_, _| 1.5)),
        ("subnormal", changed(&|_, x| 1e-40 * x)),
        ("two equal peaks at 0", changed(&|i, x| if i % 99_999 == 0 { 0.0 } else { x - 20.0 })),
        ("new maxima, every other block", changed(&|i, x| if i % 1536 == 700 { 1e-3 * i as f32 } else { x - 20.0 })),
        ("an infinity at the end", changed(&|i, x| if i == VOCABULARY - 1 { f32::INFINITY } else { x })),
    ];
    for kernel in kernel::available().filter(|kernel| kernel.name() != "scalar") {
        let random = Bytes::of(random);
        let base = median_us(|| reduce(kernel, Row::F32(&random.f32), 0.25));
        for (name, row) in &shapes {
            let row = Bytes::of(row);
            let us = median_us(|| reduce(kernel, Row::F32(&row.f32), 0.25));
            println!("{:<24} {:.2}", format!("{}: {name}", kernel.name()), us / base);
        }
    }
}

/// A batch larger than most caches, on as many threads as the library takes for it: the share of a plain sum's rate.
fn threads() -> f64 {
    let rows: Vec<f32> = random_row(BATCH * VOCABULARY);
    let bytes = Bytes::of(&rows).f32;
    let wanted = Wanted { normalization: true, entropy: true };
    let jobs: Vec<Job<'_>> =
        bytes.chunks(VOCABULARY).map(|row| Job { row: Row::F32(row), temperature: 0.25, wanted }).collect();
    let gb = (rows.len() * 4) as f64 / 1e9;
    let sum = gb / median_us(|| peers::sum_on_two_threads(&rows)) * 1e6;
    let ours = gb / median_us(|| compute_all(&jobs).len() as f64) * 1e6;
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    println!("\n{BATCH} x {VOCABULARY} f32, {:.0} MB, T = 1/4", gb * 1e3);
    println!("  peer: plain sum on two threads {sum:>9.1} GB/s");
    println!("  ours, on up to {cpus} threads      {ours:>9.1} GB/s, {:.2} of the sum's", ours / sum);
    ours / sum
}

/// numpy and torch, where a Python that has them is found; `make bench-peers` makes one. Returns the microseconds of torch
/// eager and of PITA's way.
fn python(ours_us: f64) -> [Option<f64>; 2] {
    println!("\nPython, one thread, the same row; ours is {ours_us:.1} us");
    let times = peers::python(VOCABULARY);
    if times.is_empty() {
        println!("  none found: `make bench-peers` installs numpy and torch into target/peers");
    }
    for (name, us) in &times {
        println!("  peer: {name:<56} {us:>9.1} us, {:>6.1} times ours", us / ours_us);
    }
    ["eager", "PITA"].map(|word| times.iter().find(|(name, _)| name.contains(word)).map(|&(_, us)| us))
}

/// A row in every element type.
struct Bytes {
    f32: Vec<[u8; 4]>,
    bf16: Vec<[u8; 2]>,
    f16: Vec<[u8; 2]>,
}

impl Bytes {
    fn of(row: &[f32]) -> Self {
        let upper = |x: f32| ((x.to_bits() >> 16) as u16).to_ne_bytes();
        Bytes {
            f32: row.iter().map(|x| x.to_ne_bytes()).collect(),
            bf16: row.iter().map(|&x| upper(x)).collect(),
            f16: row.iter().map(|&x| f16_bits(x).to_ne_bytes()).collect(),
        }
    }
}

/// An f16 next to a number of usual size; others become 0.
fn f16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32 - 127 + 15;
    if !(1..=30).contains(&exponent) {
        return 0;
    }
    (bits >> 16 & 0x8000) as u16 | (exponent as u16) << 10 | (bits >> 13 & 0x3ff) as u16
}

/// Normal logits of standard deviation 3, the same in every run.
fn random_row(length: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut unit = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    (0..length).map(|_| (3.0 * (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos()) as f32).collect()
}

fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| cpuinfo.lines().find(|line| line.starts_with(name))?.split(": ").nth(1);
    let family = |name| field(name).unwrap_or("?");
    format!("{} (family {}, model {})", family("model name"), family("cpu family"), family("model\t"))
}
