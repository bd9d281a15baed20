// Logits on a GPU: how long a launch takes there, and a store the calling thread. Prints a table.
//
// Usage: gpu, with REDIS_HOST and REDIS_PORT, on a machine with a GPU.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "driver.hpp"
#include "harness.hpp"

namespace {

using cuda::Buffer;
using cuda::call;
using cuda::Stream;

class Event {
  public:
    Event() { call("cuEventCreate", &handle_, 0U); }
    void record(const Stream &stream) const { call("cuEventRecord", handle_, stream.get()); }
    // In microseconds.
    double since(const Event &start) const {
        float ms = 0;
        call("cuEventElapsedTime", &ms, start.handle_, handle_);
        return 1e3 * static_cast<double>(ms);
    }

  private:
    void *handle_ = nullptr;
};

std::vector<float> random_logits(std::size_t count) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 4);
    std::vector<float> logits(count);
    std::generate(logits.begin(), logits.end(), [&] { return normal(random); });
    return logits;
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

// --- on the GPU ------------------------------------------------------------------------------------------------------

// Microseconds of a launch, one behind the other, over more memory than the caches hold. The slots are bound to nobody.
double launch_time(std::size_t rows, std::size_t vocab_size, std::uint32_t dtype) {
    constexpr std::size_t CACHES = 256 << 20;
    constexpr int REPEATS = 20, ROUNDS = 9;
    const std::size_t size = dtype == PITA_DTYPE_F32 ? 4 : 2, bytes = rows * vocab_size * size;
    const std::size_t copies = std::max<std::size_t>(1, CACHES / bytes);
    std::vector<float> values = random_logits(bytes / sizeof(float));
    if (dtype == PITA_DTYPE_BF16) {
        // The upper half of a float is a bf16.
        for (float &value : values) {
            std::uint32_t bits = 0;
            std::memcpy(&bits, &value, sizeof bits);
            bits = (bits & 0xffff0000U) | bits >> 16;
            std::memcpy(&value, &bits, sizeof bits);
        }
    }
    Buffer buffer(copies * bytes);
    for (std::size_t copy = 0; copy < copies; ++copy) {
        buffer.write(values, copy * bytes);
    }
    std::vector<std::int32_t> numbers(rows);
    for (std::size_t row = 0; row < rows; ++row) {
        numbers[row] = static_cast<std::int32_t>(row);
    }
    const Buffer slots(numbers), temperatures(std::vector<float>(rows, 0.7F));
    const Stream stream;
    const auto launch = [&](std::size_t i) {
        pita_slot_batch_t batch = {};
        batch.struct_size = sizeof batch;
        batch.logits = buffer.get(i % copies * bytes);
        batch.dtype = dtype;
        batch.rows = rows;
        batch.vocab_size = batch.row_stride = vocab_size;
        batch.stream = stream.get();
        batch.slots = slots.as<std::int32_t>();
        batch.temperatures = temperatures.as<float>();
        bench::check(pita_store_slots(&batch));
    };
    const Event start, end;
    std::vector<double> times;
    for (int round = 0; round <= ROUNDS; ++round) {
        start.record(stream);
        for (std::size_t i = 0; i < REPEATS; ++i) {
            launch(i);
        }
        end.record(stream);
        stream.synchronize();
        if (round > 0) {
            times.push_back(end.since(start) / REPEATS);
        }
    }
    return median(times);
}

// --- on the calling thread -------------------------------------------------------------------------------------------

struct Step {
    // Microseconds until the call returns, and until the GPU is done.
    double call;
    double all;
};

Step step_time(std::size_t rows, std::size_t vocab_size) {
    constexpr int STEPS = 300;
    const Buffer buffer(random_logits(rows * vocab_size));
    const Stream stream;
    std::vector<std::string> names;
    std::vector<const char *> ids;
    for (std::size_t row = 0; row < rows; ++row) {
        names.push_back("gpu-----1234-5678-9abc-" + std::to_string(100000000000 + row));
    }
    for (const std::string &name : names) {
        ids.push_back(name.c_str());
    }
    const std::vector<float> temperatures(rows, 0.25F);
    std::vector<double> calls, all;
    for (std::int64_t index = 0; index < STEPS; ++index) {
        const std::vector<std::int64_t> indices(rows, index);
        pita_batch_t batch = {};
        batch.struct_size = sizeof batch;
        batch.logits = buffer.get();
        batch.device = PITA_DEVICE_CUDA;
        batch.rows = batch.len = rows;
        batch.vocab_size = batch.row_stride = vocab_size;
        batch.stream = stream.get();
        batch.req_ids = ids.data();
        batch.temperatures = temperatures.data();
        batch.token_indices = indices.data();
        const auto start = std::chrono::steady_clock::now();
        bench::check(pita_store_logits_metrics_batch(&batch));
        const auto returned = std::chrono::steady_clock::now();
        stream.synchronize();
        const auto done = std::chrono::steady_clock::now();
        calls.push_back(std::chrono::duration<double, std::micro>(returned - start).count());
        all.push_back(std::chrono::duration<double, std::micro>(done - start).count());
    }
    bench::check(pita_redis_flush(30000));
    for (const char *id : ids) {
        bench::check(pita_discard_metrics(id));
    }
    return {median(calls), median(all)};
}

void print_launches() {
    struct Work {
        std::size_t rows, vocab_size;
        std::uint32_t dtype;
        double goal;
    };
    std::printf("| launch | bytes at 3.35 TB/s | goal | reached |\n|---|---|---|---|\n");
    for (const Work &work : {Work{256, 151936, PITA_DTYPE_F32, 60}, Work{256, 151936, PITA_DTYPE_BF16, 32},
                             Work{64, 128256, PITA_DTYPE_F32, 16}, Work{1, 128256, PITA_DTYPE_F32, 6}}) {
        const bool is_f32 = work.dtype == PITA_DTYPE_F32;
        const double bytes = static_cast<double>(work.rows * work.vocab_size * (is_f32 ? 4 : 2));
        const double time = launch_time(work.rows, work.vocab_size, work.dtype);
        std::printf("| %zu x %zu %s | %.1f us | %.0f us | %.1f us |\n", work.rows, work.vocab_size, is_f32 ? "f32" : "bf16",
                    bytes / 3.35e6, work.goal, time);
    }
}

} // namespace

int main() {
    const cuda::Context context;
    char name[100] = "";
    call("cuDeviceGetName", static_cast<char *>(name), static_cast<int>(sizeof name), 0);
    std::printf("On %s:\n\n", static_cast<char *>(name));
    const bench::Pool pool(bench::tcp(), "?write=behind");
    print_launches();
    const Step step = step_time(32, 128256);
    std::printf("\n| a store of 32 x 128256 f32 | goal | reached |\n|---|---|---|\n");
    std::printf("| until the call returns | 15 us | %.1f us |\n| until the GPU is done | | %.1f us |\n", step.call, step.all);
    return 0;
}
