// The kernel's own source, compiled for the host. The threads of a block are fibers: each runs until it waits for the others.

#include "emulator.hpp"

#include <setjmp.h>
#include <ucontext.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

namespace {

constexpr std::uint32_t WARP_SIZE = 32;
constexpr std::size_t STACK = 64 << 10;

enum class Wait { Ready, AtWarp, AtBlock, Done };

struct Fiber {
    Wait state = Wait::Ready;
    bool is_started = false;
    jmp_buf here;
    ucontext_t start;
    std::unique_ptr<char[]> stack{new char[STACK]};
    // What it shows the others at a barrier. Two, for one may be at the next barrier already.
    double shown[2] = {0, 0};
    std::uint32_t barriers = 0;
};

std::vector<Fiber> fibers;
jmp_buf scheduler;
std::uint32_t now = 0;
void (*body)() = nullptr;

void wait_for(Wait what) {
    fibers[now].state = what;
    if (_setjmp(fibers[now].here) == 0) {
        _longjmp(scheduler, 1);
    }
}

void enter() {
    body();
    fibers[now].state = Wait::Done;
    _longjmp(scheduler, 1);
}

void resume(std::uint32_t thread);

// Shows a value to the threads that wait alike, and returns at which of the two places it lies.
std::uint32_t show(double value, Wait with) {
    Fiber &me = fibers[now];
    const std::uint32_t place = me.barriers++ % 2;
    me.shown[place] = value;
    wait_for(with);
    return place;
}

template <class Fold> double fold_warp(double value, Fold fold) {
    const std::uint32_t me = now, first = me - me % WARP_SIZE, place = show(value, Wait::AtWarp);
    double result = 0;
    for (std::uint32_t lane = 0; lane < WARP_SIZE; ++lane) {
        result = fold(result, lane, fibers[first + lane].shown[place]);
    }
    return result;
}

// --- what the kernel's source uses -----------------------------------------------------------------------------------

#define __CUDA_EMULATED__
#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(...)

struct uint4 {
    std::uint32_t x, y, z, w;
};

struct Index {
    std::uint32_t x = 0, y = 0, z = 0;
};
Index threadIdx, blockIdx;
emulator::Dim gridDim;

void resume(std::uint32_t thread) {
    now = thread;
    threadIdx.x = thread;
    Fiber &fiber = fibers[thread];
    if (_setjmp(scheduler) != 0) {
        return;
    }
    if (fiber.is_started) {
        _longjmp(fiber.here, 1);
    }
    fiber.is_started = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = STACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, enter, 0);
    setcontext(&fiber.start);
}

template <class To, class From> To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "of one size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

float __int_as_float(int bits) { return bits_as<float>(bits); }
int __float_as_int(float value) { return bits_as<int>(value); }
float __uint_as_float(std::uint32_t bits) { return bits_as<float>(bits); }
double __longlong_as_double(long long bits) { return bits_as<double>(bits); }
float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
int __ffs(int bits) { return __builtin_ffs(bits); }
void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
void __threadfence_system() { std::atomic_thread_fence(std::memory_order_seq_cst); }

// All values that the kernel shuffles fit into a double.
template <class T> T __shfl_xor_sync(std::uint32_t, T value, std::uint32_t distance) {
    const std::uint32_t other = now ^ distance, place = show(static_cast<double>(value), Wait::AtWarp);
    return static_cast<T>(fibers[other].shown[place]);
}

bool __any_sync(std::uint32_t, bool value) {
    return fold_warp(value, [](double any, std::uint32_t, double one) { return any != 0 || one != 0; }) != 0;
}

std::uint32_t __ballot_sync(std::uint32_t, bool value) {
    const auto set = [](double all, std::uint32_t lane, double one) { return all + (one != 0 ? std::ldexp(1, int(lane)) : 0); };
    return static_cast<std::uint32_t>(fold_warp(value, set));
}

bool __syncthreads_or(bool value) {
    const std::uint32_t place = show(value, Wait::AtBlock);
    for (const Fiber &fiber : fibers) {
        if (fiber.shown[place] != 0) {
            return true;
        }
    }
    return false;
}

void __syncthreads() { show(0, Wait::AtBlock); }

std::uint32_t atomicAdd(std::uint32_t *where, std::uint32_t value) { return __atomic_fetch_add(where, value, __ATOMIC_SEQ_CST); }

std::uint32_t atomicInc(std::uint32_t *where, std::uint32_t most) {
    const std::uint32_t before = *where;
    *where = before >= most ? 0 : before + 1;
    return before;
}

// As inexact as a GPU may be.
float exp2_approx(float x) {
    const bool is_up = (bits_as<std::uint32_t>(x) * 2654435761U >> 31) != 0;
    return x < -126 ? 0.0f : static_cast<float>(std::exp2(double{x}) * (1 + std::ldexp(is_up ? 1 : -1, -22)));
}

float half_to_float(std::uint16_t bits) {
    const int exponent = bits >> 10 & 0x1f, fraction = bits & 0x3ff;
    const float sign = bits >> 15 != 0 ? -1.0f : 1.0f;
    if (exponent == 0x1f) {
        return fraction != 0 ? NAN : sign * INFINITY;
    }
    return sign * (exponent == 0 ? std::ldexp(float(fraction), -24) : std::ldexp(float(fraction + 1024), exponent - 25));
}

using std::exp;
using std::exp2;
using std::fabs;
using std::fmax;
using std::fmin;
using std::rintf;
using std::log1p;
float fmaxf(float a, float b) { return std::fmax(a, b); }

#include "../../../src/cuda/reduce.cu"

// --- the GPU ---------------------------------------------------------------------------------------------------------

alignas(8) char matrix_bytes[sizeof(Matrix)];
alignas(8) char requests_bytes[sizeof(Requests)];

void run_kernel() {
    pita_reduce(*reinterpret_cast<const Matrix *>(matrix_bytes), *reinterpret_cast<const Requests *>(requests_bytes));
}

// Lets those go on that wait for each other and are all there. False when nobody did.
bool release() {
    bool any = false;
    const auto let_go = [&any](std::size_t first, std::size_t last, Wait what) {
        bool all = true, some = false;
        for (std::size_t i = first; i < last; ++i) {
            some |= fibers[i].state == what;
            all &= fibers[i].state == what || fibers[i].state == Wait::Done;
        }
        for (std::size_t i = first; all && some && i < last; ++i) {
            if (fibers[i].state == what) {
                fibers[i].state = Wait::Ready;
            }
        }
        any |= all && some;
    };
    for (std::size_t first = 0; first < fibers.size(); first += WARP_SIZE) {
        let_go(first, first + WARP_SIZE, Wait::AtWarp);
    }
    let_go(0, fibers.size(), Wait::AtBlock);
    return any;
}

void run_block(std::uint32_t threads) {
    fibers.resize(threads);
    for (Fiber &fiber : fibers) {
        fiber.state = Wait::Ready;
        fiber.is_started = false;
        fiber.barriers = 0;
    }
    do {
        for (std::uint32_t thread = 0; thread < threads; ++thread) {
            if (fibers[thread].state == Wait::Ready) {
                resume(thread);
            }
        }
    } while (release());
    for (const Fiber &fiber : fibers) {
        if (fiber.state != Wait::Done) {
            std::fprintf(stderr, "emulator: threads wait for each other for ever\n");
            std::abort();
        }
    }
}

} // namespace

namespace emulator {

const std::size_t matrix_size = sizeof(Matrix);
const std::size_t requests_size = sizeof(Requests);

void reduce(Dim grid, std::uint32_t threads, const void *matrix, const void *requests) {
    static std::mutex one_at_a_time;
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    std::memcpy(matrix_bytes, matrix, sizeof matrix_bytes);
    std::memcpy(requests_bytes, requests, sizeof requests_bytes);
    body = run_kernel;
    gridDim = grid;
    for (std::uint32_t y = 0; y < grid.y; ++y) {
        for (std::uint32_t x = 0; x < grid.x; ++x) {
            blockIdx.x = x;
            blockIdx.y = y;
            run_block(threads);
        }
    }
}

} // namespace emulator
