// The GPU's kernel: the same numbers as on the CPU, whatever the rows look like and wherever they lie.

#include "gpu.hpp"
#include "support/status.hpp"

using namespace cuda;
using support::Logits;
using support::Logits16;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan_ = std::numeric_limits<float>::quiet_NaN();

class Compute : public GpuTest {
  protected:
    std::vector<pita_metrics_t> compute(const pita_batch_t &batch) {
        std::vector<pita_metrics_t> out(batch.len, {-1, -1, -1});
        EXPECT_OK(pita_compute_logits_metrics(&batch, out.data()));
        return out;
    }

    // Of a single row.
    pita_metrics_t of(const Logits &row, float temperature = 1) {
        const Buffer buffer(row);
        pita_batch_t batch = batch_over(buffer, PITA_DTYPE_F32, 1, row.size());
        batch.temperatures = &temperature;
        return compute(batch)[0];
    }

    void expect_as_reference(const Logits &row, float temperature) {
        SCOPED_TRACE("row of " + std::to_string(row.size()) + ", temperature " + std::to_string(temperature));
        support::expect_near(of(row, temperature), support::reference(row, temperature));
    }
};

TEST_F(Compute, RowsOfAllSizesAndTemperatures) {
    for (const std::size_t size : {1, 2, 5, 31, 255, 1000, 4096, 4099, 32003}) {
        for (const float temperature : {1.0F, 0.25F, 0.7F, 3.0F, 100.0F}) {
            expect_as_reference(support::random_logits(size, 4, static_cast<unsigned>(size)), temperature);
        }
    }
}

// More than 32 blocks load at once: each goes over several tiles, and maxima rise and fall from one to the next.
TEST_F(Compute, RowsThatTheBlocksGoOverSeveralTimes) {
    Logits row = support::random_logits(300000);
    expect_as_reference(row, 0.5);
    for (std::size_t i = 0; i < row.size(); ++i) {
        row[i] = static_cast<float>(i) * 1e-4F;
    }
    expect_as_reference(row, 1);
    expect_as_reference({row.rbegin(), row.rend()}, 0.25);
}

TEST_F(Compute, TemperaturesAtTheirEnds) {
    const Logits row = support::random_logits(5000);
    for (const float temperature : {1e-45F, 1e-38F, 1e-30F, 1e-6F, 1e6F, 1e30F, 3e38F}) {
        const pita_metrics_t metrics = of(row, temperature);
        const support::Reference expected = support::reference(row, temperature);
        EXPECT_NEAR(metrics.log_norm_temp / static_cast<double>(expected.log_norm_temp), 1, 3e-7) << temperature;
    }
}

TEST_F(Compute, PeakedFlatShiftedAndTiedRows) {
    Logits row(6000, -20);
    row[4321] = 20;
    expect_as_reference(row, 1);
    row[17] = 19.5;
    expect_as_reference(row, 0.25);
    row[17] = row[5999] = 20;
    expect_as_reference(row, 2);
    expect_as_reference(Logits(6000, 0.1F), 0.3F);
    expect_as_reference(Logits(6000, -1e30F), 1);
    Logits shifted = support::random_logits(6000);
    for (float &x : shifted) {
        x += 10000;
    }
    expect_as_reference(shifted, 0.5);
    Logits far(6000, -3e38F);
    far[1] = 3e38F;
    expect_as_reference(far, 1);
}

TEST_F(Compute, MaskedRowsAndOnesWithoutAFiniteMaximum) {
    Logits row = support::random_logits(9000);
    for (std::size_t i = 0; i < row.size(); i += 2) {
        row[i] = -inf;
    }
    for (const float temperature : {1.0F, 0.25F, 50.0F}) {
        expect_as_reference(row, temperature);
    }
    Logits one(9000, -inf);
    one[8999] = 7;
    const pita_metrics_t certain = of(one, 100);
    EXPECT_EQ(certain.log_norm, 7);
    EXPECT_FLOAT_EQ(static_cast<float>(certain.log_norm_temp), 0.07F);
    EXPECT_EQ(certain.entropy, 0);

    const pita_metrics_t none = of(Logits(9000, -inf), 0.5);
    EXPECT_EQ(none.log_norm, -inf);
    EXPECT_EQ(none.log_norm_temp, -inf);
    EXPECT_TRUE(std::isnan(none.entropy));

    row[8000] = inf;
    const pita_metrics_t infinite = of(row, 0.5);
    EXPECT_EQ(infinite.log_norm, inf);
    EXPECT_EQ(infinite.log_norm_temp, inf);
    EXPECT_TRUE(std::isnan(infinite.entropy));

    for (const std::size_t at : {std::size_t{0}, std::size_t{4095}, row.size() - 1}) {
        Logits bad = row;
        bad[at] = nan_;
        const pita_metrics_t metrics = of(bad, 0.5);
        EXPECT_TRUE(std::isnan(metrics.log_norm) && std::isnan(metrics.log_norm_temp) && std::isnan(metrics.entropy));
    }
}

TEST_F(Compute, SixteenBits) {
    const Logits row = support::random_logits(10007);
    const auto check = [&](const Logits16 &narrow, std::uint32_t dtype, auto widen) {
        const Buffer buffer(narrow);
        const float temperature = 0.25;
        pita_batch_t batch = batch_over(buffer, dtype, 1, narrow.size());
        batch.temperatures = &temperature;
        support::expect_near(compute(batch)[0], support::reference(support::map(narrow, widen), temperature));
    };
    check(support::map(row, support::narrow_f16), PITA_DTYPE_F16, support::widen_f16);
    check(support::map(row, support::narrow_bf16), PITA_DTYPE_BF16, support::widen_bf16);
    // Each f16 that there is but for inf and NaN, subnormals too.
    Logits16 all;
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
        if ((bits >> 10 & 31) != 31) {
            all.push_back(static_cast<std::uint16_t>(bits));
        }
    }
    check(all, PITA_DTYPE_F16, support::widen_f16);
}

// At each byte, also where no element could lie.
TEST_F(Compute, AnyAlignmentAndStride) {
    const std::size_t vocab_size = 1030, stride = 1037;
    const Logits logits = support::random_logits(3 * stride);
    for (std::size_t offset = 0; offset <= 17; ++offset) {
        Buffer buffer(logits.size() * sizeof(float) + 32);
        buffer.write(logits, offset);
        pita_batch_t batch = batch_over(buffer, PITA_DTYPE_F32, 3, vocab_size);
        batch.logits = buffer.get(offset);
        batch.row_stride = stride;
        const auto metrics = compute(batch);
        for (std::size_t row = 0; row < 3; ++row) {
            const auto from = logits.begin() + static_cast<std::ptrdiff_t>(row * stride);
            support::expect_near(metrics[row], support::reference({from, from + vocab_size}));
        }
    }
}

TEST_F(Compute, RequestsShareRowsAndAskForWhatTheyWant) {
    const Logits logits = support::random_logits(2 * 500);
    const Buffer buffer(logits);
    pita_batch_t batch = batch_over(buffer, PITA_DTYPE_F32, 2, 500);
    const std::vector<std::size_t> row_of = {1, 0, 1, 7};
    const std::vector<float> temperatures = {0.5, 2, -1, 1};
    const std::vector<std::uint32_t> wanted = {PITA_METRIC_ALL, PITA_METRIC_ENTROPY, PITA_METRIC_NORMALIZATION,
                                               PITA_METRIC_ALL};
    const std::vector<const char *> ids = {"a", "b", "c", "d"};
    std::vector<pita_status_t> statuses(4);
    batch.len = 4;
    batch.row_of = row_of.data();
    batch.temperatures = temperatures.data();
    batch.metrics = wanted.data();
    batch.statuses = statuses.data();
    std::vector<pita_metrics_t> out(4);
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_compute_logits_metrics(&batch, out.data()),
                 "batch entry 2 (2 of 4 failed)", "temperature is -1");
    EXPECT_EQ(statuses, (std::vector<pita_status_t>{PITA_OK, PITA_OK, PITA_ERR_INVALID_ARGUMENT, PITA_ERR_INVALID_ARGUMENT}));
    support::expect_near(out[0], support::reference({logits.begin() + 500, logits.end()}, 0.5));
    const support::Reference first = support::reference({logits.begin(), logits.begin() + 500});
    support::expect_near(out[1], {0, 0, first.entropy});
    EXPECT_TRUE(std::isnan(out[2].log_norm) && std::isnan(out[3].entropy));
}

// More than fit into a launch.
TEST_F(Compute, ManyRequests) {
    const std::size_t rows = 600;
    const Logits logits = support::random_logits(rows * 3);
    const Buffer buffer(logits);
    const auto metrics = compute(batch_over(buffer, PITA_DTYPE_F32, rows, 3));
    for (std::size_t row = 0; row < rows; ++row) {
        const auto from = logits.begin() + static_cast<std::ptrdiff_t>(3 * row);
        support::expect_near(metrics[row], support::reference({from, from + 3}));
    }
}

// What is on the stream before it comes before it.
TEST_F(Compute, ComesAfterWhatIsOnItsStream) {
    const Logits logits = support::random_logits(5000);
    Buffer buffer(Logits(logits.size(), 0));
    const Stream stream;
    call("cuMemcpyHtoDAsync_v2", reinterpret_cast<Pointer>(buffer.get()), static_cast<const void *>(logits.data()),
         logits.size() * sizeof(float), stream.get());
    support::expect_near(compute(batch_over(buffer, PITA_DTYPE_F32, 1, 5000, stream.get()))[0], support::reference(logits));
}

TEST_F(Compute, ADevicePointerIsNoHostPointer) {
    const Buffer buffer(Logits(10, 1));
    pita_batch_t batch = support::batch_over(buffer.get(), PITA_DTYPE_F32, 1, 10);
    pita_metrics_t out = {};
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_compute_logits_metrics(&batch, &out), "logits is 0x", "CUDA device",
                 "PITA_DEVICE_CUDA");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT,
                 pita_store_logits_metrics("a", static_cast<const float *>(buffer.get()), 10, 1, PITA_METRIC_ALL),
                 "logits is 0x", "CUDA device");
}

TEST_F(Compute, AHostPointerIsNoDevicePointer) {
    NEEDS_STUB(); // Some devices read all of the host's memory.
    const Logits logits(10, 1);
    pita_batch_t batch = support::batch_over(logits, 1);
    batch.device = PITA_DEVICE_CUDA;
    pita_metrics_t out = {};
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_compute_logits_metrics(&batch, &out), "logits is 0x", "the host");
}

TEST_F(Compute, ManagedMemoryIsBoth) {
    Pointer pointer = 0;
    call("cuMemAllocManaged", &pointer, std::size_t{4000}, 1U);
    const Logits logits = support::random_logits(1000);
    std::memcpy(reinterpret_cast<void *>(pointer), logits.data(), 4000);
    pita_batch_t batch = support::batch_over(reinterpret_cast<void *>(pointer), PITA_DTYPE_F32, 1, 1000);
    support::expect_near(compute(batch)[0], support::reference(logits));
    batch.device = PITA_DEVICE_CUDA;
    support::expect_near(compute(batch)[0], support::reference(logits));
    call("cuMemFree_v2", pointer);
}

TEST_F(Compute, WantsACurrentContext) {
    const Buffer buffer(Logits(10, 1));
    const pita_batch_t batch = batch_over(buffer, PITA_DTYPE_F32, 1, 10);
    call("cuCtxSetCurrent", static_cast<void *>(nullptr));
    pita_metrics_t out = {};
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_compute_logits_metrics(&batch, &out), "no CUDA context is current");
    context.make_current();
    EXPECT_OK(pita_compute_logits_metrics(&batch, &out));
}

// A context may end, and another one be where it was.
TEST(Contexts, EachHasItsOwn) {
    NEEDS_STUB();
    for (int i = 0; i < 3; ++i) {
        const Context context;
        const Logits logits = support::random_logits(100);
        const Buffer buffer(logits);
        const pita_batch_t batch = batch_over(buffer, PITA_DTYPE_F32, 1, 100);
        pita_metrics_t out = {};
        EXPECT_OK(pita_compute_logits_metrics(&batch, &out));
        support::expect_near(out, support::reference(logits));
    }
}

// What was made is given back, and no second attempt follows at once: it would compile the kernel again.
TEST(Contexts, AFirstCallThatFailsLeavesNothing) {
    NEEDS_STUB();
    for (const char *function : {"cuMemAlloc", "cuMemHostRegister", "cuEventCreate", "cuModuleLoadData", "cuModuleGetFunction"}) {
        const Context context;
        const Buffer buffer(Logits(10, 1));
        const pita_batch_t batch = batch_over(buffer, PITA_DTYPE_F32, 1, 10);
        pita_metrics_t out = {};
        const auto kept = [] {
            return std::vector<unsigned long>{calls("cuMemAlloc") - calls("cuMemFree"),
                                              calls("cuMemHostRegister") - calls("cuMemHostUnregister"),
                                              calls("cuEventCreate") - calls("cuEventDestroy"),
                                              calls("cuModuleLoadData") - calls("cuModuleUnload"),
                                              calls("cuStreamCreate") - calls("cuStreamDestroy")};
        };
        const std::vector<unsigned long> before = kept();
        const Failure failure(function, 2);
        EXPECT_FAILS(PITA_ERR_CUDA, pita_compute_logits_metrics(&batch, &out), function, "CUDA_ERROR_OUT_OF_MEMORY");
        std::vector<unsigned long> after = kept();
        // The call that failed made nothing.
        after[std::string(function) == "cuMemAlloc"          ? 0
              : std::string(function) == "cuMemHostRegister" ? 1
              : std::string(function) == "cuEventCreate"     ? 2
                                                             : 3] -= std::string(function) == "cuModuleGetFunction" ? 0 : 1;
        EXPECT_EQ(after, before) << function;
        const unsigned long attempts = calls(function);
        EXPECT_FAILS(PITA_ERR_CUDA, pita_compute_logits_metrics(&batch, &out), function);
        EXPECT_EQ(calls(function), attempts);
    }
}

TEST(Contexts, ADriverThatIsTooOldIsNotSupported) {
    NEEDS_STUB();
    const Context context;
    const Buffer buffer(Logits(10, 1));
    const pita_batch_t batch = batch_over(buffer, PITA_DTYPE_F32, 1, 10);
    pita_metrics_t out = {};
    const Failure failure("cuModuleLoadData", 222);
    EXPECT_FAILS(PITA_ERR_UNSUPPORTED, pita_compute_logits_metrics(&batch, &out), "cuModuleLoadData");
}

TEST_F(Compute, SaysWhatTheDriverSays) {
    NEEDS_STUB();
    const Buffer buffer(Logits(10, 1));
    const pita_batch_t batch = batch_over(buffer, PITA_DTYPE_F32, 1, 10);
    pita_metrics_t out = {};
    EXPECT_OK(pita_compute_logits_metrics(&batch, &out));
    {
        const Failure failure("cuLaunchKernel", 2);
        EXPECT_FAILS(PITA_ERR_CUDA, pita_compute_logits_metrics(&batch, &out), "cuLaunchKernel", "CUDA_ERROR_OUT_OF_MEMORY");
    }
    EXPECT_OK(pita_compute_logits_metrics(&batch, &out));
}

TEST_F(Compute, MemoryOfAnotherDeviceIsRefused) {
    NEEDS_STUB();
    const Context other(1);
    const Buffer there(Logits(10, 1));
    context.make_current();
    const pita_batch_t batch = batch_over(there, PITA_DTYPE_F32, 1, 10);
    pita_metrics_t out = {};
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_compute_logits_metrics(&batch, &out), "memory of device 1",
                 "the current context is of device 0");
}

TEST_F(Compute, ALaunchThatFailsIsTold) {
    NEEDS_STUB();
    const Buffer buffer(Logits(10, 1));
    const pita_batch_t batch = batch_over(buffer, PITA_DTYPE_F32, 1, 10);
    pita_metrics_t out = {};
    stub<void(int)>("stub_fault")(700);
    EXPECT_FAILS(PITA_ERR_CUDA, pita_compute_logits_metrics(&batch, &out), "CUDA_ERROR_ILLEGAL_ADDRESS");
    stub<void(int)>("stub_fault")(0);
    // All fails in such a context.
    EXPECT_STATUS(PITA_ERR_CUDA, pita_compute_logits_metrics(&batch, &out));
}

TEST_F(Compute, IsRefusedInACaptureAndLeavesItWhole) {
    const Buffer buffer(Logits(10, 1));
    const Stream stream;
    const pita_batch_t batch = batch_over(buffer, PITA_DTYPE_F32, 1, 10, stream.get());
    pita_metrics_t out = {};
    call("cuStreamBeginCapture_v2", stream.get(), 0);
    EXPECT_FAILS(PITA_ERR_UNSUPPORTED, pita_compute_logits_metrics(&batch, &out), "captured", "pita_store_slots");
    void *graph = nullptr;
    call("cuStreamEndCapture", stream.get(), &graph);
}

} // namespace
