#!/usr/bin/env bash
# fuzz.sh SECONDS: runs every fuzz target for so long, with AddressSanitizer. What it learns stays in target/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1

# The sanitizer is an unstable option of the compiler, which the stable one takes with this.
export RUSTC_BOOTSTRAP=1
export PATH="$PWD/target/tools/bin:$PATH"
cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked --root target/tools cargo-fuzz

for target in fuzz/fuzz_targets/*.rs; do
    target=$(basename "$target" .rs)
    corpus=target/fuzz/corpus/$target
    log=target/fuzz/$target.log
    mkdir -p "$corpus"
    # Rows of up to ten thousand f32: more than a few of the kernels' blocks.
    if ! cargo fuzz run --target-dir target/fuzz "$target" "$corpus" -- \
        -max_total_time="$seconds" -max_len=40000 -print_final_stats=1 >"$log" 2>&1; then
        cat "$log"
        exit 1
    fi
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs in $seconds s, no failure"
done
