#!/usr/bin/env bash
# test-sanitizers.sh SECONDS: the GoogleTests and so many seconds of the soak, with AddressSanitizer (and its search for
# leaks), then with ThreadSanitizer. Says what ran and what was found. Builds in target/sanitizers.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1
dir=$PWD/target/sanitizers
target=$(rustc -vV | sed -n 's/^host: //p')

# Sanitizers, and a standard library built anew, are unstable options, which the stable compiler takes with this.
export RUSTC_BOOTSTRAP=1
# Optimized as one, the library would take minutes to build, and its stacks would tell less.
export CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
export CARGO_PROFILE_RELEASE_DEBUG=line-tables-only

# build SANITIZER CMAKE_OPTION...: the library and the C++ programs, which bring the sanitizer's runtime, GCC's.
build() {
    local sanitizer=$1
    shift
    # A build type that CMake does not know adds no flags of its own. With a sanitizer GCC warns of its own <regex>.
    cmake -S . -B "$dir/$sanitizer/build" -DCMAKE_BUILD_TYPE=Sanitizer \
        -DCMAKE_CXX_FLAGS="-O1 -g1 -fsanitize=$sanitizer -Wno-maybe-uninitialized" "$@" \
        -DPITA_REDIS_BUILD_EXAMPLES=OFF -DPITA_REDIS_BUILD_TESTS=ON \
        -DPITA_REDIS_CARGO_TARGET="$target" -DPITA_REDIS_CARGO_TARGET_DIR="$dir/$sanitizer" >/dev/null
    RUSTFLAGS="-Zsanitizer=$sanitizer" \
        cmake --build "$dir/$sanitizer/build" --parallel 2 --target pita_redis_tests pita_redis_soak
}

failed=0
summary=()

# check SANITIZER WORD COMMAND...: runs it. The summary gets its last line with WORD, and how many reports there are; those
# of forked children count as well, for they go to files.
check() {
    local sanitizer=$1 word=$2 reports=$dir/$1/report log=$dir/$1/log status=0 count
    shift 2
    rm -f "$reports".*
    # A child forked from many threads may start its own.
    ASAN_OPTIONS="log_path=$reports detect_stack_use_after_return=1" TSAN_OPTIONS="log_path=$reports die_after_fork=0" \
        "$@" 2>&1 | tee "$log" || status=$?
    cat "$reports".* 2>/dev/null || true
    count=$(cat "$reports".* 2>/dev/null | grep -cE '(ERROR|WARNING): [A-Za-z]+Sanitizer' || true)
    summary+=("$sanitizer sanitizer: $(grep -F "$word" "$log" | tail -1 || true), $count reports, exit status $status")
    if [ "$status" != 0 ] || [ "$count" != 0 ]; then failed=1; fi
}

# run SANITIZER [TESTS]: without thousands of cuts, which are left to the tests without a sanitizer, as with valgrind; and
# without TESTS.
run() {
    local programs=$dir/$1/build/cpp_tests
    check "$1" ' tests.' "$programs/pita_redis_tests" --gtest_brief=1 \
        --gtest_filter="-*/OpenConnection.*:*/NewConnection.*${2+:$2}"
    check "$1" 'soak: ' "$programs/soak/soak" "$seconds"
}

build address
# GCC 12's runtime does not take the locks of its allocator at a fork: a child of many threads may hang in malloc.
run address 'Fork*:SentinelFork*'

# In a standard library that was built without it, ThreadSanitizer would not see who waits for whom: every contended
# mutex would be a race.
mkdir -p "$dir/thread"
cc -O1 -c cpp_tests/tsan_memory.c -o "$dir/thread/memory.o"
CARGO_UNSTABLE_BUILD_STD="std panic_unwind" build thread -DCMAKE_EXE_LINKER_FLAGS="$dir/thread/memory.o"
# In a child, the threads of its parent are alive to GCC 12's runtime: one that gets the same stack is too much for it.
run thread 'ForkBehind*:ForkInACluster*:SentinelFork*'

printf '%s\n' "${summary[@]}"
exit $failed
