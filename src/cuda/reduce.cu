// The metrics of rows of logits that lie in device memory. One launch reduces a batch: a row is split over blocks, and the
// last of them to finish merges their states and lands the result in the host's memory.
//
// No headers: scripts/compile-cuda.py makes reduce.ptx of it with NVRTC, and the tests compile it for the host. The
// structs below are mirrored in abi.rs.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

enum : u32 {
    // Element types: PITA_DTYPE_*; the third is bf16.
    F32 = 0,
    F16 = 1,
    // PITA_METRIC_*
    NORMALIZATION = 1,
    ENTROPY = 2,

    THREADS = 256,
    WARP = 32,
    WARPS = THREADS / WARP,
    // Loads of 16 bytes that a thread has in flight.
    VECTORS = 4,
    // Of a row, what a block loads at once.
    TILE_BYTES = VECTORS * 16 * THREADS,
    // The most blocks that share a row: a warp merges their states.
    MAX_SPLITS = WARP,
    // Of a launch.
    MAX_REQUESTS = 256,
};

#define INF __int_as_float(0x7f800000)
#define NAN_BITS 0x7ff8000000000000ll
#define LOG2E 1.44269504088896340736
// Where the maximum is nearer to 0 than this, times the temperature, elements are exponentiated as they are.
#define NEAR 256.0
// What is further below the maximum, times the temperature, counts as this far: 2^-124 is too little to matter.
#define DEEPEST 86.0
// Added to a float below 2^22 it rounds that to a whole number, which then stands in the low bits.
#define MAGIC 12582912.0f
// Beyond them a temperature makes no difference to logits that are less than 1e28 apart.
#define LEAST_TEMPERATURE 1e-30f
#define MOST_TEMPERATURE 1e30f

// As metrics/state.rs has it: sums relative to the maximum, of which one copy is left out.
struct State {
    double max;
    double sum;
    double weighted;
    double sum_temp;
};

// What the host gets of a request.
struct Landing {
    State state;
    long long token_index;
    float temperature;
    u32 metrics;
    // Written last. What it is to be, the host knows.
    u32 done;
    u32 reserved[3];
};

// Rows of logits, and where their results go. A place is a number that no other request in flight has.
struct Matrix {
    const u8 *logits;
    // In bytes.
    u64 row_stride;
    u64 vocab_size;
    // F32, F16 or BF16.
    u32 dtype;
    // By place: MAX_SPLITS states, and how many blocks are done.
    State *partials;
    u32 *tickets;
    // Without slots; by place.
    Landing *landings;
};

// The requests of a launch. The host knows their rows and temperatures, and each lands at a place of its own; or `slots` is
// there, and all is known only when the launch runs, such as at the replay of a CUDA graph: row i is slots[i]'s, and its
// record lands at the next of the slot's landings. What lies in this struct is in the constant bank: no block waits for it.
struct Requests {
    // Of the first request, or of slot 0; the others follow.
    u32 place;
    u32 metrics;

    // In device memory, for each row. Below 0, or too great: none.
    const int *slots;
    // NULL: 1.
    const float *temperatures;
    // NULL, or below 0: behind the last one.
    const long long *token_indices;
    // NULL, or three numbers a row.
    float *out;
    // How many records each slot has had.
    u32 *counts;
    u32 slot_count;
    // Landings that a slot has, one behind the other.
    u32 ring;
    Landing *landings;

    // Without slots.
    u32 done;
    u32 row[MAX_REQUESTS];
    float temperature[MAX_REQUESTS];
};

// What only a GPU has; the tests bring their own.
#ifdef __CUDACC_RTC__
static __device__ float half_to_float(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

// Within 2^-22; 0 below 2^-126.
static __device__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

// --- elements -------------------------------------------------------------------------------------------------------

// Each as the f32 of the same value; -inf is the element that adds nothing.
struct FromF32 {
    typedef u32 Bits;
    static __device__ float widen(u32 bits) { return __uint_as_float(bits); }
    static __device__ u32 nothing() { return 0xff800000u; }
};

struct FromF16 {
    typedef u16 Bits;
    static __device__ float widen(u32 bits) { return half_to_float((u16)bits); }
    static __device__ u32 nothing() { return 0xfc00u; }
};

struct FromBf16 {
    typedef u16 Bits;
    static __device__ float widen(u32 bits) { return __uint_as_float(bits << 16); }
    static __device__ u32 nothing() { return 0xff80u; }
};

// 16 bytes of a row.
template <class Element> struct Vector {
    enum : int { SIZE = sizeof(typename Element::Bits), LEN = 16 / SIZE };
    u32 words[4];

    __device__ void load(const uint4 *from) {
        uint4 all = *from;
        words[0] = all.x, words[1] = all.y, words[2] = all.z, words[3] = all.w;
    }

    // The elements from `first` on that are in the row, at any address. One loop, for it is run at a row's ends only.
    __device__ void gather(const u8 *row, long long first, long long vocab_size) {
        const int bits = 8 * SIZE;
        u64 high = 0, low = 0;
#pragma unroll 1
        for (int i = LEN - 1; i >= 0; --i) {
            long long at = first + i;
            u32 element = Element::nothing();
            if (at >= 0 && at < vocab_size) {
                element = 0;
#pragma unroll
                for (int byte = 0; byte < SIZE; ++byte) {
                    element |= (u32)row[at * SIZE + byte] << (8 * byte);
                }
            }
            high = high << bits | low >> (64 - bits);
            low = low << bits | element;
        }
        words[0] = (u32)low, words[1] = (u32)(low >> 32), words[2] = (u32)high, words[3] = (u32)(high >> 32);
    }

    __device__ float at(int i) const {
        u32 word = words[i * SIZE / 4];
        return Element::widen(SIZE == 4 ? word : (word >> (8 * (i * SIZE % 4))) & 0xffffu);
    }

    // Takes out the elements that are equal to `value`; returns how many.
    __device__ u32 remove(float value) {
        u32 count = 0;
#pragma unroll
        for (int i = 0; i < LEN; ++i) {
            int shift = 8 * (i * SIZE % 4);
            if (at(i) == value) {
                u32 mask = (SIZE == 4 ? 0xffffffffu : 0xffffu) << shift;
                words[i * SIZE / 4] = (words[i * SIZE / 4] & ~mask) | Element::nothing() << shift;
                ++count;
            }
        }
        return count;
    }
};

// --- the reduction of a block -----------------------------------------------------------------------------------------

// How exp(x / temperature) is made, as by the CPU's kernels: x is the element itself where the maximum is near 0, and else the
// distance from the maximum. Either way no subtraction rounds what counts.
struct Scale {
    double temperature;
    // exp(x / temperature) = 2^(x hi + x lo)
    float hi;
    float lo;
};

// Where exponents are counted from: sums are in units of 2^unit.
struct Origin {
    // Subtracted from each element: 0 or the maximum.
    float base;
    // The maximum less that.
    float peak;
    float floor;
    // MAGIC - unit
    float magic;
};

// A block's sums so far, of which each thread has a part. `max` is the block's.
struct Sums {
    float max;
    // How many elements are equal to it. They are in no sum: they would swallow the others of a peaked row.
    u32 ties;
    double sum;
    double weighted;
    double sum_temp;
};

// For the logits, and for the logits / temperature, which is not used at a temperature of 1.
struct Frame {
    Scale natural;
    Scale temp;
    Origin natural_origin;
    Origin temp_origin;
};

static __device__ Scale scale_of(double temperature) {
    Scale scale;
    double exact = LOG2E / temperature;
    scale.temperature = temperature;
    scale.hi = (float)exact;
    scale.lo = (float)(exact - scale.hi);
    return scale;
}

static __device__ Origin origin_of(float max, const Scale &scale) {
    Origin origin;
    origin.base = fabs((double)max) <= NEAR * scale.temperature ? 0.0f : max;
    origin.peak = max - origin.base;
    origin.floor = origin.peak - (float)(DEEPEST * scale.temperature);
    origin.magic = MAGIC - rintf(origin.peak * scale.hi);
    return origin;
}

// The maximum's exponential, in the origin's unit.
static __device__ double top_of(const Origin &origin, const Scale &scale) {
    return exp2(origin.peak * (LOG2E / scale.temperature) - (double)(MAGIC - origin.magic));
}

// exp(x / temperature), in the origin's unit; `x` less the base, and not below the floor.
static __device__ float power(float x, const Origin &origin, const Scale &scale) {
    float shifted = __fmaf_rn(x, scale.hi, origin.magic);
    float steps = shifted - origin.magic;
    float rest = __fmaf_rn(x, scale.lo, __fmaf_rn(x, scale.hi, -steps));
    return __int_as_float(__float_as_int(exp2_approx(rest)) + (__float_as_int(shifted) << 23));
}

struct Shared {
    float max[WARPS];
    u32 ties[WARPS];
    double parts[3][WARPS];
    bool is_last;
};

// The greatest of all threads' values; NaN if one has seen a NaN.
static __device__ float block_max(Shared &shared, float value, bool nan) {
#pragma unroll
    for (u32 distance = WARP / 2; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
    }
    if (threadIdx.x % WARP == 0) {
        shared.max[threadIdx.x / WARP] = value;
    }
    // Also: all have written.
    bool any = __syncthreads_or(nan);
#pragma unroll
    for (u32 warp = 0; warp < WARPS; ++warp) {
        value = fmaxf(value, shared.max[warp]);
    }
    // All have read.
    __syncthreads();
    return any ? __int_as_float(0x7fffffff) : value;
}

// Adds the terms of a thread's elements, all of which are below the maximum.
template <class Element, bool HAS_TEMPERATURE>
static __device__ void add_terms(const Vector<Element> (&vectors)[VECTORS], const Frame &frame, Sums &sums) {
    const Origin &natural = frame.natural_origin, &temp = frame.temp_origin;
    float sum = 0.0f, weighted = 0.0f, sum_temp = 0.0f;
#pragma unroll
    for (u32 v = 0; v < VECTORS; ++v) {
#pragma unroll
        for (int i = 0; i < Vector<Element>::LEN; ++i) {
            float element = vectors[v].at(i);
            float x = fmaxf(element - natural.base, natural.floor);
            float term = power(x, natural, frame.natural);
            sum += term;
            weighted = __fmaf_rn(x - natural.peak, term, weighted);
            if (HAS_TEMPERATURE) {
                sum_temp += power(fmaxf(element - temp.base, temp.floor), temp, frame.temp);
            }
        }
    }
    sums.sum += sum;
    sums.weighted += weighted;
    sums.sum_temp += HAS_TEMPERATURE ? sum_temp : sum;
}

// Makes `max` the maximum: all there is so far lies below it.
static __device__ void raise(Sums &sums, float max, Frame &frame) {
    Origin natural = origin_of(max, frame.natural), temp = origin_of(max, frame.temp);
    if (sums.max != -INF) {
        double below = (double)sums.max - max;
        double top = top_of(frame.natural_origin, frame.natural), top_temp = top_of(frame.temp_origin, frame.temp);
        double factor = exp(below) * top_of(natural, frame.natural) / top;
        double factor_temp = exp(below / frame.temp.temperature) * top_of(temp, frame.temp) / top_temp;
        double sum = sums.sum + sums.ties * top;
        sums.weighted = (sums.weighted + below * sum) * factor;
        sums.sum = sum * factor;
        sums.sum_temp = (sums.sum_temp + sums.ties * top_temp) * factor_temp;
        sums.ties = 0;
    }
    sums.max = max;
    frame.natural_origin = natural;
    frame.temp_origin = temp;
}

// Takes in the elements of a tile.
template <class Element>
static __device__ void add_tile(Shared &shared, Vector<Element> (&vectors)[VECTORS], Frame &frame, Sums &sums) {
    float top = -INF;
    bool nan = false;
#pragma unroll
    for (u32 v = 0; v < VECTORS; ++v) {
#pragma unroll
        for (int i = 0; i < Vector<Element>::LEN; ++i) {
            float x = vectors[v].at(i);
            nan |= x != x;
            top = fmaxf(top, x);
        }
    }
    float max = block_max(shared, top, nan);
    if (max != max || !(sums.max < INF)) {
        // Once there is a NaN nothing else counts, and but for one nothing beside an inf.
        sums.max = max != max ? max : sums.max;
        return;
    }
    if (max > sums.max) {
        raise(sums, max, frame);
    }
    if (max == INF || max == -INF) {
        return;
    }
    if (top == max && max == sums.max) {
#pragma unroll
        for (u32 v = 0; v < VECTORS; ++v) {
            sums.ties += vectors[v].remove(max);
        }
    }
    if (frame.temp.temperature == 1.0) {
        add_terms<Element, false>(vectors, frame, sums);
    } else {
        add_terms<Element, true>(vectors, frame, sums);
    }
}

// Loads the 16 bytes at `vector` of a row whose first `skip` elements are not the row's, or which is not aligned at all.
template <class Element>
static __device__ void load(Vector<Element> &vector, const u8 *row, u64 number, u32 skip, bool is_aligned, u64 vocab_size) {
    long long first = (long long)(number * Vector<Element>::LEN) - skip;
    if (is_aligned && first >= 0 && first + Vector<Element>::LEN <= (long long)vocab_size) {
        vector.load((const uint4 *)(row + first * Vector<Element>::SIZE));
    } else {
        vector.gather(row, first, (long long)vocab_size);
    }
}

// This block's share of a row: every gridDim.x-th tile.
template <class Element>
static __device__ Sums add_row(Shared &shared, const u8 *row, u64 vocab_size, Frame &frame) {
    const u32 size = Vector<Element>::SIZE;
    bool is_aligned = (u64)row % size == 0;
    u32 skip = is_aligned ? (u32)((u64)row % 16 / size) : 0;
    u64 tiles = (vocab_size + skip + TILE_BYTES / size - 1) / (TILE_BYTES / size);
    Sums sums = {-INF, 0, 0.0, 0.0, 0.0};
    for (u64 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        Vector<Element> vectors[VECTORS];
#pragma unroll
        for (u32 v = 0; v < VECTORS; ++v) {
            load(vectors[v], row, (tile * VECTORS + v) * THREADS + threadIdx.x, skip, is_aligned, vocab_size);
        }
        add_tile(shared, vectors, frame, sums);
    }
    return sums;
}

// The state of all threads' sums, in thread 0.
static __device__ State state_of(Shared &shared, const Frame &frame, Sums sums, u64 vocab_size) {
    double parts[3] = {sums.sum, sums.weighted, sums.sum_temp};
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
#pragma unroll 1
    for (u32 distance = WARP / 2; distance > 0; distance /= 2) {
        for (u32 part = 0; part < 3; ++part) {
            parts[part] += __shfl_xor_sync(0xffffffffu, parts[part], distance);
        }
        sums.ties += __shfl_xor_sync(0xffffffffu, sums.ties, distance);
    }
    if (lane == 0) {
        for (u32 part = 0; part < 3; ++part) {
            shared.parts[part][warp] = parts[part];
        }
        shared.ties[warp] = sums.ties;
    }
    __syncthreads();
    State state = {sums.max, 0.0, 0.0, 0.0};
    if (threadIdx.x == 0 && sums.max < INF && sums.max > -INF) {
        u32 ties = 0;
        for (u32 other = 0; other < WARPS; ++other) {
            state.sum += shared.parts[0][other];
            state.weighted += shared.parts[1][other];
            state.sum_temp += shared.parts[2][other];
            ties += shared.ties[other];
        }
        double top = top_of(frame.natural_origin, frame.natural);
        double top_temp = frame.temp.temperature == 1.0 ? top : top_of(frame.temp_origin, frame.temp);
        // Of what is too deep, and of what fills a tile, each 2^-124, nothing shall be left.
        double dust = (vocab_size + TILE_BYTES) * 9.4e-38;
        bool is_dust = state.sum < dust;
        state.sum = (is_dust ? 0.0 : state.sum / top) + (ties - 1);
        state.weighted = is_dust ? 0.0 : state.weighted / top;
        state.sum_temp = (state.sum_temp < dust ? 0.0 : state.sum_temp / top_temp) + (ties - 1);
    }
    return state;
}

// --- the merge of a row's blocks --------------------------------------------------------------------------------------

// As State::merge of metrics/state.rs, of a warp's states at once. In all lanes.
static __device__ State merge(State mine, double temperature) {
    double max = mine.max;
    bool nan = max != max;
    for (u32 distance = WARP / 2; distance > 0; distance /= 2) {
        max = fmax(max, __shfl_xor_sync(0xffffffffu, max, distance));
    }
    if (__any_sync(0xffffffffu, nan)) {
        max += __longlong_as_double(NAN_BITS);
    }
    // The first lane that has it keeps its one copy left out; all others are elements like any other.
    u32 highest = __ballot_sync(0xffffffffu, mine.max == max);
    bool is_first = highest != 0 && threadIdx.x == (u32)__ffs((int)highest) - 1;
    double parts[3] = {0.0, 0.0, 0.0};
    if (is_first) {
        parts[0] = mine.sum, parts[1] = mine.weighted, parts[2] = mine.sum_temp;
    } else if (mine.max > -INF && max < INF) {
        double below = mine.max - max, factor = exp(below);
        parts[0] = (1.0 + mine.sum) * factor;
        parts[1] = (mine.weighted + below * (1.0 + mine.sum)) * factor;
        parts[2] = (1.0 + mine.sum_temp) * exp(below / temperature);
    }
#pragma unroll 1
    for (u32 distance = WARP / 2; distance > 0; distance /= 2) {
        for (u32 part = 0; part < 3; ++part) {
            parts[part] += __shfl_xor_sync(0xffffffffu, parts[part], distance);
        }
    }
    State all = {max, parts[0], parts[1], parts[2]};
    return all;
}

// The state of the whole row, in the first warp of the last block of it that gets here. False in all others.
static __device__ bool merge_row(Shared &shared, const Matrix &matrix, u32 place, double temperature, State &state) {
    if (gridDim.x == 1) {
        return threadIdx.x == 0;
    }
    volatile State *partials = matrix.partials + (u64)place * MAX_SPLITS;
    if (threadIdx.x == 0) {
        partials[blockIdx.x].max = state.max;
        partials[blockIdx.x].sum = state.sum;
        partials[blockIdx.x].weighted = state.weighted;
        partials[blockIdx.x].sum_temp = state.sum_temp;
        __threadfence();
        // The last one sets it back to 0, for the next launch.
        shared.is_last = atomicInc(matrix.tickets + place, gridDim.x - 1) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (!shared.is_last || threadIdx.x >= WARP) {
        return false;
    }
    State mine = {-INF, 0.0, 0.0, 0.0};
    if (threadIdx.x < gridDim.x) {
        mine.max = partials[threadIdx.x].max;
        mine.sum = partials[threadIdx.x].sum;
        mine.weighted = partials[threadIdx.x].weighted;
        mine.sum_temp = partials[threadIdx.x].sum_temp;
    }
    state = merge(mine, temperature);
    return threadIdx.x == 0;
}

// Reduces a row. True in the one thread of all the row's blocks that then has its state.
static __device__ bool reduce_row(const Matrix &matrix, u32 row, u32 place, float temperature, State &state) {
    __shared__ Shared shared;
    Frame frame;
    frame.natural = scale_of(1.0);
    frame.temp = scale_of(fmin(fmax(temperature, LEAST_TEMPERATURE), MOST_TEMPERATURE));
    const u8 *from = matrix.logits + row * matrix.row_stride;
    Sums sums;
    if (matrix.dtype == F32) {
        sums = add_row<FromF32>(shared, from, matrix.vocab_size, frame);
    } else if (matrix.dtype == F16) {
        sums = add_row<FromF16>(shared, from, matrix.vocab_size, frame);
    } else {
        sums = add_row<FromBf16>(shared, from, matrix.vocab_size, frame);
    }
    state = state_of(shared, frame, sums, matrix.vocab_size);
    return merge_row(shared, matrix, place, temperature, state);
}

// --- landing ----------------------------------------------------------------------------------------------------------

static __device__ void land(Landing *where, const State &state, long long token_index, float temperature, u32 metrics, u32 done) {
    volatile Landing *landing = where;
    // The host may be reading what was here: it looks at this before and after.
    landing->done = 0;
    __threadfence_system();
    landing->state.max = state.max;
    landing->state.sum = state.sum;
    landing->state.weighted = state.weighted;
    landing->state.sum_temp = state.sum_temp;
    landing->token_index = token_index;
    landing->temperature = temperature;
    landing->metrics = metrics;
    __threadfence_system();
    landing->done = done;
}

// State::finish of metrics/state.rs.
static __device__ void finish(const State &state, double temperature, u32 metrics, float *out) {
    const double nan = __longlong_as_double(NAN_BITS);
    double log_norm = state.max, log_norm_temp = state.max, entropy = nan;
    if (state.max > -INF && state.max < INF) {
        double log_sum = log1p(state.sum);
        log_norm = state.max + log_sum;
        log_norm_temp = state.max / temperature + log1p(state.sum_temp);
        entropy = log_sum - state.weighted / (1.0 + state.sum);
    }
    out[0] = metrics & NORMALIZATION ? (float)log_norm : 0.0f;
    out[1] = metrics & NORMALIZATION ? (float)log_norm_temp : 0.0f;
    out[2] = metrics & ENTROPY ? (float)entropy : 0.0f;
}

// Grid: splits x requests.
extern "C" __global__ void __launch_bounds__(THREADS, 3) pita_reduce(Matrix matrix, Requests all) {
    u32 i = blockIdx.y, row = i, place = all.place + i;
    float temperature = 1.0f;
    float *out = 0;
    if (!all.slots) {
        row = all.row[i];
        temperature = all.temperature[i];
    } else {
        // Below 0 is beyond all.
        u32 slot = (u32)all.slots[i];
        out = all.out ? all.out + 3 * (u64)i : 0;
        if (slot >= all.slot_count) {
            if (out && blockIdx.x == 0 && threadIdx.x < 3) {
                out[threadIdx.x] = 0.0f;
            }
            return;
        }
        place = all.place + slot;
        temperature = all.temperatures ? all.temperatures[i] : 1.0f;
    }
    bool is_valid = temperature > 0.0f && temperature < INF;
    State state;
    if (!reduce_row(matrix, row, place, is_valid ? temperature : 1.0f, state)) {
        return;
    }
    if (!all.slots) {
        land(matrix.landings + place, state, -1, temperature, all.metrics, all.done);
        return;
    }
    if (out) {
        finish(state, is_valid ? temperature : __longlong_as_double(NAN_BITS), all.metrics, out);
    }
    u32 slot = place - all.place, count = atomicAdd(all.counts + slot, 1);
    long long token_index = all.token_indices ? all.token_indices[i] : -1;
    // Odd, for 0 is one that is being written.
    land(all.landings + (u64)slot * all.ring + count % all.ring, state, token_index, temperature, all.metrics, 2 * count + 1);
}
