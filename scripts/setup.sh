#!/bin/sh
# setup.sh TASK, a name in the list at the end: installs what that task needs and this machine lacks, from Debian's packages.
set -eu
task=${1-}

has() { command -v "$1" >/dev/null 2>&1; }

# Calls `need PACKAGE TEST...`: where TEST fails, the package is missing.
missing=
need() {
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}

need_build() {
    need cmake has cmake
    need gcc has cc
    need libc6-dev has_header c stdio.h
}

need_demo() {
    need_build
    need make has make
    need g++ has c++
    need redis-server has redis-server
}

need_bench() {
    need_demo
    need pkg-config has pkg-config
    need libhiredis-dev has_header c hiredis/hiredis.h
    need_python
}

need_test() {
    need_bench
    need libgtest-dev has_header c++ gtest/gtest.h
    need valgrind has valgrind
    need binutils has readelf
    need openssl has openssl
}

need_python() {
    need_build
    need make has make
    need redis-server has redis-server
    need python3 has python3
    need python3-venv python3 -c 'import ensurepip'
}

# For NEON: a compiler for aarch64, an emulator, and Rust's standard library for it, where rustup has brought none.
need_kernels() {
    need gcc has cc
    need gcc-aarch64-linux-gnu has aarch64-linux-gnu-gcc
    need libc6-dev-arm64-cross test -d /usr/aarch64-linux-gnu/lib
    need qemu-user has qemu-aarch64
    if ! has_rust_std "$(rustc --print sysroot)" && ! has_rust_std /usr; then
        missing="$missing rustc-web libstd-rust-web-dev:arm64"
    fi
}

has_rust_std() {
    test -d "$1/lib/rustlib/aarch64-unknown-linux-gnu"
}

# ThreadSanitizer wants the standard library built with it, from source. The sanitizers' runtimes come with GCC.
need_sanitizers() {
    if ! [ -d "$(rustc --print sysroot)/lib/rustlib/src/rust/library/std" ]; then
        echo "The source of Rust's standard library is missing: rustup component add rust-src" >&2
        exit 1
    fi
    need_test
}

need_fuzz() {
    need g++ has c++
}

need_peers() {
    need python3 has python3
    need python3-venv python3 -c 'import ensurepip'
}

has_header() {
    echo "#include <$2>" | cc -x "$1" -fsyntax-only -
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Runs a command, and shows what it printed only if it fails.
quietly() {
    log=$(mktemp)
    if as_root env DEBIAN_FRONTEND=noninteractive "$@" >"$log" 2>&1; then
        rm -f "$log"
    else
        cat "$log" >&2
        rm -f "$log"
        exit 1
    fi
}

# Only the program redis-server is wanted. Debian's package starts a service as well, unless this file forbids it.
policy=/usr/sbin/policy-rc.d
forbid_services() {
    [ ! -e $policy ] || return 0
    trap 'as_root rm -f $policy' EXIT
    trap 'exit 1' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
}

install_missing() {
    if ! has apt-get; then
        echo "Please install what these Debian packages have:$missing" >&2
        exit 1
    fi
    if [ "$(id -u)" != 0 ] && ! has sudo; then
        echo "Please run as root: apt-get install$missing" >&2
        exit 1
    fi
    echo "Installing:$missing"
    forbid_services
    case "$missing" in
        *:arm64*) quietly dpkg --add-architecture arm64 ;;
    esac
    quietly apt-get update
    # shellcheck disable=SC2086 # a list of words
    quietly apt-get install --yes --no-install-recommends $missing
    # Nor is the service to start with the next boot.
    case "$missing " in
        *" redis-server "*) quietly update-rc.d redis-server disable ;;
    esac
}

need_cargo() {
    if ! has cargo; then
        echo "cargo is missing. Install Rust from https://rustup.rs; Debian 12's own is too old." >&2
        exit 1
    fi
}

need_lint() {
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        echo "rustfmt or clippy is missing: rustup component add rustfmt clippy" >&2
        exit 1
    fi
    need gcc has cc
    need binutils has readelf
}

need_cargo
case $task in
    build | demo | bench | test | lint | kernels | sanitizers | fuzz | peers | python) "need_$task" ;;
    *)
        echo "usage: $0 build|demo|bench|test|lint|kernels|sanitizers|fuzz|peers|python" >&2
        exit 2
        ;;
esac
[ -z "$missing" ] || install_missing
