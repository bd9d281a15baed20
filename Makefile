# The menu. Cargo builds in target/, CMake in build/.

PREFIX ?= /usr/local
DESTDIR ?=
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 60
SANITIZER_SECONDS ?= 10
CONFIGURE = cmake -S . -B build -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX:PATH="$(PREFIX)" \
	-DPITA_REDIS_CARGO_TARGET_DIR="$(CURDIR)/target"

MAKEFLAGS += --no-print-directory

# Named, so that pip's build names no other: cargo would compile all dependencies with C in them anew.
export CC

.PHONY: help
help:
	@echo 'make demo      an engine stores metrics of its tokens, a sampler takes and shows them'
	@echo 'make test      all tests: Rust, C++, valgrind, the installed package, Python'
	@echo 'make test-vllm a real vLLM engine on the CPU with the processor for it; installs vLLM into target/vllm (gigabytes)'
	@echo 'make test-kernels  the kernels alone: on this CPU, and NEON under qemu'
	@echo 'make test-sentinel  failovers under load, with three sentinels; make test has them, too'
	@echo 'make test-cluster  clusters whose slots move and whose masters die under load; make test has them, too'
	@echo 'make test-valkey  all GoogleTests with valkey-server, which goes into target/valkey where it is missing'
	@echo 'make test-gpu  the tests of CUDA buffers, on a real GPU; make test has them with a driver of its own'
	@echo 'make test-sanitizers  C++ tests and SANITIZER_SECONDS ($(SANITIZER_SECONDS)) of soak, with AddressSanitizer and ThreadSanitizer'
	@echo 'make fuzz      rows, records and URLs of a fuzzer'"'"'s choice, FUZZ_SECONDS ($(FUZZ_SECONDS)) each'
	@echo 'make soak      kills and freezes of the server under load, SOAK_SECONDS ($(SOAK_SECONDS)): what is lost or doubled'
	@echo 'make bench     kernels, delivery, write-behind, Python and whole decode steps against peers; writes docs/benchmarks.md'
	@echo 'make bench-scale  many engines on clusters and a plain server: what a record costs each; some minutes'
	@echo 'make bench-gpu  CUDA buffers, on a real GPU'
	@echo 'make bench-peers   installs numpy, torch and valkey-py for that, into target/peers (gigabytes)'
	@echo 'make lint      format, clippy, drift of generated files'
	@echo 'make install   library, headers, CMake and pkg-config files, into PREFIX ($(PREFIX)); DESTDIR counts'
	@echo 'make kernel    writes src/cuda/reduce.ptx anew; the compilers go into target/cuda'
	@echo 'make header    writes include/pita_redis.h and tests/symbols.txt anew'
	@echo 'make clean     removes target/ and build/'
	@echo
	@echo 'demo, test and bench install the Debian packages that they miss.'

.PHONY: demo
demo:
	@scripts/setup.sh demo
	@$(CONFIGURE) -DPITA_REDIS_BUILD_EXAMPLES=ON -DPITA_REDIS_BUILD_TESTS=OFF
	@cmake --build build --target pita_redis_demo
	@scripts/with-redis.sh build/examples/pita_redis_demo

.PHONY: test
test:
	@scripts/setup.sh test
	@scripts/kernel.sh check
	cargo test --locked
	$(CONFIGURE) -DPITA_REDIS_BUILD_EXAMPLES=ON -DPITA_REDIS_BUILD_TESTS=ON
	cmake --build build --parallel 2
	ctest --test-dir build --output-on-failure --parallel 2
	@awk -f scripts/summary.awk build/Testing/Temporary/LastTest.log
	@scripts/python-env.sh build/python
	build/python/bin/python -m pytest --quiet

.PHONY: test-vllm
test-vllm:
	@scripts/setup.sh python
	@scripts/vllm-env.sh target/vllm
	target/vllm/bin/python -m pytest --quiet
	@PYTHONPATH=python/tests scripts/with-redis.sh target/vllm/bin/python python/engines/vllm_engine.py
	@PATH="$(CURDIR)/target/vllm/bin:$$PATH" scripts/with-redis.sh target/vllm/bin/python examples/torch_op/example.py

.PHONY: test-kernels
test-kernels:
	@scripts/setup.sh kernels
	@scripts/test-kernels.sh

# The program that the targets below run parts of.
.PHONY: googletests
googletests:
	@scripts/setup.sh test
	@$(CONFIGURE) -DPITA_REDIS_BUILD_EXAMPLES=OFF -DPITA_REDIS_BUILD_TESTS=ON
	@cmake --build build --target pita_redis_tests

.PHONY: test-sentinel
test-sentinel: googletests
	@build/cpp_tests/pita_redis_tests --gtest_brief=1 --gtest_filter='Sentinel*:WaitReplicas.*'

.PHONY: test-cluster
test-cluster: googletests
	@build/cpp_tests/pita_redis_tests --gtest_brief=1 --gtest_filter='*Cluster*'

.PHONY: test-valkey
test-valkey: googletests
	@scripts/valkey.sh target/valkey
	@PATH="$(CURDIR)/target/valkey/bin:$$PATH"; redis-server --version; \
		build/cpp_tests/pita_redis_tests --gtest_brief=1

.PHONY: test-gpu
test-gpu:
	@scripts/setup.sh test
	@$(CONFIGURE) -DPITA_REDIS_BUILD_EXAMPLES=OFF -DPITA_REDIS_BUILD_TESTS=ON
	@cmake --build build --target pita_redis_cuda_tests
	@scripts/test-gpu.sh build/cpp_tests/cuda/pita_redis_cuda_tests

.PHONY: test-sanitizers
test-sanitizers:
	@scripts/setup.sh sanitizers
	@scripts/test-sanitizers.sh "$(SANITIZER_SECONDS)"

.PHONY: fuzz
fuzz:
	@scripts/setup.sh fuzz
	@scripts/fuzz.sh "$(FUZZ_SECONDS)"

.PHONY: soak
soak:
	@scripts/setup.sh test
	@$(CONFIGURE) -DPITA_REDIS_BUILD_EXAMPLES=OFF -DPITA_REDIS_BUILD_TESTS=ON
	@cmake --build build --target pita_redis_soak
	build/cpp_tests/soak/soak "$(SOAK_SECONDS)"

.PHONY: bench
bench:
	@scripts/setup.sh bench
	@$(CONFIGURE) -DPITA_REDIS_BUILD_BENCHES=ON
	@cmake --build build --target pita_redis_benches
	@scripts/python-env.sh build/python
	python3 benches/report.py build/benches

.PHONY: bench-scale
bench-scale:
	@scripts/setup.sh bench
	@$(CONFIGURE) -DPITA_REDIS_BUILD_BENCHES=ON
	@cmake --build build --target pita_redis_bench_scale
	@build/benches/scale

.PHONY: bench-gpu
bench-gpu:
	@scripts/setup.sh bench
	@$(CONFIGURE) -DPITA_REDIS_BUILD_BENCHES=ON
	@cmake --build build --target pita_redis_bench_gpu
	@scripts/with-redis.sh build/benches/gpu
	@if target/peers/bin/python -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then \
		echo; echo 'PITA'"'"'s way in torch on the same GPU: batch, vocabulary, microseconds a step (median, 99th percentile)'; \
		scripts/with-redis.sh target/peers/bin/python benches/pita_step.py 128256 32 cuda; \
	else echo 'without torch on a GPU in target/peers: make bench-peers'; fi

.PHONY: bench-peers
bench-peers:
	@scripts/setup.sh peers
	python3 -m venv target/peers
	target/peers/bin/pip install --quiet numpy torch valkey

.PHONY: lint
lint:
	@scripts/setup.sh lint
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo test --locked --test header --test symbols

.PHONY: install
install:
	@scripts/setup.sh build
	$(CONFIGURE) -DPITA_REDIS_BUILD_EXAMPLES=OFF -DPITA_REDIS_BUILD_TESTS=OFF
	cmake --build build
	@scripts/install.sh build "$(PREFIX)" "$(DESTDIR)"

.PHONY: header
header:
	PITA_BLESS=1 cargo test --locked --test header --test symbols

.PHONY: kernel
kernel:
	@scripts/setup.sh python
	@scripts/kernel.sh write

.PHONY: clean
clean:
	rm -rf build target
