#!/usr/bin/env bash
# Runs the tests of the kernels natively and, for NEON, as an aarch64 program under qemu. Says what ran and what did not.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu

# The kernels whose tests a run says it ran.
ran() {
    sed -n 's/.*kernels of this machine: //p'
}

native=$(cargo test --locked --release --lib metrics:: -- --nocapture | tee /dev/stderr | ran)

# Any Rust compiler with the standard library for aarch64: rustup's, or Debian's.
if [ -d "$(rustc --print target-libdir --target $target)" ]; then
    rustc=rustc
else
    rustc=/usr/bin/rustc
fi
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# What C there is in dependencies. CC alone is this machine's compiler.
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64
# With Debian's shared libc for cross compiling, qemu 7.2 hangs when a thread is started.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"
emulated=$(RUSTC=$rustc cargo test --locked --release --target $target --target-dir target/aarch64 --lib metrics:: \
    -- --nocapture | tee /dev/stderr | ran)

echo
echo "ran on this CPU:           $native"
echo "ran under qemu-aarch64:    $emulated"
for kernel in avx512 avx2 neon; do
    case " $native $emulated " in
        *" $kernel "*) ;;
        *) echo "compiled but not run:      $kernel: this CPU does not have it, and nothing here emulates it" ;;
    esac
done
