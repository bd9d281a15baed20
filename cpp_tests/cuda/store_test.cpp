// Stores from device memory: the call waits for nothing, and what it accepted arrives.

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "gpu.hpp"
#include "support/allocations.hpp"
#include "support/behind.hpp"
#include "support/log.hpp"

using namespace cuda;
using namespace support;

namespace {

// The shared server, a pool with write=behind, and logits of some rows on the GPU.
class GpuStore : public BehindTest {
  protected:
    static constexpr std::size_t rows = 3;
    static constexpr std::size_t vocab_size = 200;

    GpuStore() : logits(random_logits(rows * vocab_size)), buffer(logits) {}

    // A batch of one record a row, for the requests "0", "1" ...
    pita_status_t store(std::int64_t index, void *stream) {
        std::vector<std::string> names;
        for (std::size_t i = 0; i < rows; ++i) {
            names.push_back(std::to_string(i));
        }
        std::vector<const char *> ids;
        for (const std::string &name : names) {
            ids.push_back(name.c_str());
        }
        const std::vector<std::int64_t> indices(rows, index);
        const std::vector<float> temperatures(rows, 0.5);
        pita_batch_t batch = batch_over(buffer, PITA_DTYPE_F32, rows, vocab_size, stream);
        batch.req_ids = ids.data();
        batch.token_indices = indices.data();
        batch.temperatures = temperatures.data();
        statuses.assign(rows, 1);
        batch.statuses = statuses.data();
        const pita_status_t status = pita_store_logits_metrics_batch(&batch);
        // What it wants of these it has copied.
        for (std::string &name : names) {
            name.assign(name.size(), '?');
        }
        return status;
    }

    static Records taken(const std::string &id) {
        Taken all = support::take(id);
        EXPECT_STATUS(PITA_OK, all.status);
        return all.records;
    }

    Reference expected(std::size_t row) const {
        const auto from = logits.begin() + static_cast<std::ptrdiff_t>(row * vocab_size);
        return reference({from, from + vocab_size}, 0.5);
    }

    Context context;
    Logits logits;
    Buffer buffer;
    Stream stream;
    std::vector<pita_status_t> statuses;
};

TEST_F(GpuStore, Arrives) {
    for (std::int64_t index = 0; index < 20; ++index) {
        ASSERT_OK(store(index, stream.get()));
        EXPECT_EQ(statuses, std::vector<pita_status_t>(rows, PITA_OK));
    }
    ASSERT_OK(flush());
    for (std::size_t row = 0; row < rows; ++row) {
        const auto records = taken(std::to_string(row));
        ASSERT_EQ(records.size(), 20U);
        for (const pita_metrics_t &record : records) {
            expect_near(record, expected(row));
        }
    }
    EXPECT_EQ(queued(), 0U);
}

TEST_F(GpuStore, ReturnsWhenTheWorkIsOnTheStream) {
    NEEDS_STUB();
    open(hasty_url("timeout_ms=200"));
    ASSERT_OK(store(0, stream.get()));
    ASSERT_OK(flush());
    Hold hold(stream);
    const auto functions = {"cuLaunchKernel",        "cuEventRecord",      "cuStreamIsCapturing",
                            "cuPointerGetAttribute", "cuCtxGetCurrent",    "cuCtxGetId"};
    unsigned long before = calls();
    for (const char *function : functions) {
        before -= calls(function);
    }
    for (std::int64_t index = 1; index < 11; ++index) {
        ASSERT_OK(store(index, stream.get()));
    }
    unsigned long after = calls();
    for (const char *function : functions) {
        after -= calls(function);
    }
    EXPECT_EQ(after, before) << "nothing is synchronized, allocated or freed";
    EXPECT_EQ(queued(), 10 * rows);
    EXPECT_FAILS(PITA_ERR_TIMEOUT, pita_redis_flush(50), "in flight on the GPU");
    std::size_t count = 0;
    EXPECT_FAILS(PITA_ERR_TIMEOUT, pita_take_metrics("0", nullptr, 0, &count), "in flight on the GPU");
    EXPECT_OK(pita_count_metrics("another", &count)) << "which has nothing there";
    hold.let_go();
    ASSERT_OK(flush());
    EXPECT_EQ(taken("0").size(), 11U);
}

TEST_F(GpuStore, AllocatesNothing) {
    NEEDS_STUB();
    // Half of those that may be in flight have been before.
    constexpr int few = 8;
    for (int i = 0; i < 2 * few; ++i) {
        {
            const Hold hold(stream);
            for (int step = 0; step < few; ++step) {
                ASSERT_OK(store(0, stream.get()));
            }
        }
        ASSERT_OK(flush());
    }
    const std::vector<const char *> ids(rows, "a");
    const std::vector<std::int64_t> indices(rows, 0);
    pita_batch_t batch = batch_over(buffer, PITA_DTYPE_F32, rows, vocab_size, stream.get());
    batch.req_ids = ids.data();
    batch.token_indices = indices.data();
    stub<void(int)>("stub_drop")(1);
    const std::size_t before = allocations;
    for (int step = 0; step < few; ++step) {
        (void)pita_store_logits_metrics_batch(&batch);
    }
    EXPECT_EQ(allocations, before);
    EXPECT_EQ(queued(), few * rows);
    stub<void(int)>("stub_drop")(0);
    EXPECT_STATUS(PITA_ERR_CUDA, flush()) << "they were never done";
}

TEST_F(GpuStore, ATakeWaitsForWhatIsInFlight) {
    NEEDS_STUB();
    Hold hold(stream);
    ASSERT_OK(store(0, stream.get()));
    std::thread later([&] {
        std::this_thread::sleep_for(milliseconds(50));
        hold.let_go();
    });
    EXPECT_EQ(taken("0").size(), 1U);
    later.join();
}

// On a stream: appends have no other order than that.
TEST_F(GpuStore, KeepsTheOrderOfTheStream) {
    std::vector<float> values(100);
    for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = static_cast<float>(i);
    }
    const Buffer all(values);
    const char *id = "a";
    for (std::size_t i = 0; i < values.size(); ++i) {
        pita_batch_t batch = batch_over(all, PITA_DTYPE_F32, 1, 1, stream.get());
        batch.logits = all.get(i * sizeof(float));
        batch.req_ids = &id;
        ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    }
    const auto records = taken("a");
    ASSERT_EQ(records.size(), values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
        EXPECT_EQ(records[i].log_norm, values[i]);
    }
}

TEST_F(GpuStore, EightStreamsAtOnce) {
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 8; ++thread) {
        threads.emplace_back([this, thread] {
            context.make_current();
            const Stream mine;
            const std::string name = "t" + std::to_string(thread);
            const char *id = name.c_str();
            for (std::int64_t index = 0; index < 50; ++index) {
                pita_batch_t batch = batch_over(buffer, PITA_DTYPE_F32, rows, vocab_size, mine.get());
                const std::size_t row = static_cast<std::size_t>(thread) % rows;
                const float temperature = 0.5;
                batch.len = 1;
                batch.row_of = &row;
                batch.req_ids = &id;
                batch.token_indices = &index;
                batch.temperatures = &temperature;
                EXPECT_OK(pita_store_logits_metrics_batch(&batch));
            }
            mine.synchronize();
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    ASSERT_OK(flush());
    for (int thread = 0; thread < 8; ++thread) {
        const auto records = taken("t" + std::to_string(thread));
        ASSERT_EQ(records.size(), 50U);
        for (const pita_metrics_t &record : records) {
            expect_near(record, expected(static_cast<std::size_t>(thread) % rows));
        }
    }
}

TEST_F(GpuStore, ManyRequestsAndSkippedOnes) {
    const std::size_t count = 600;
    const Logits wide = random_logits(count * 2);
    const Buffer on_device(wide);
    std::vector<std::string> names;
    for (std::size_t i = 0; i < count; ++i) {
        names.push_back("n" + std::to_string(i));
    }
    std::vector<const char *> ids;
    for (std::size_t i = 0; i < count; ++i) {
        ids.push_back(i % 3 == 1 ? nullptr : names[i].c_str());
    }
    ids[0] = "";
    std::vector<pita_status_t> results(count, 1);
    pita_batch_t batch = batch_over(on_device, PITA_DTYPE_F32, count, 2, stream.get());
    batch.req_ids = ids.data();
    batch.statuses = results.data();
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_store_logits_metrics_batch(&batch), "batch entry 0 (1 of 600 failed)",
                 "req_id is empty");
    ASSERT_OK(flush());
    for (std::size_t i = 1; i < count; ++i) {
        EXPECT_EQ(results[i], PITA_OK);
        const auto records = taken(names[i]);
        ASSERT_EQ(records.size(), i % 3 == 1 ? 0U : 1U) << i;
        if (!records.empty()) {
            expect_near(records[0], reference({wide[2 * i], wide[2 * i + 1]}));
        }
    }
}

TEST_F(GpuStore, WithSyncItIsStoredWhenItReturns) {
    open(server.url());
    ASSERT_OK(store(0, stream.get()));
    EXPECT_EQ(redis.length("0"), 1);
    EXPECT_STATUS(PITA_ERR_GAP, store(7, stream.get()));
    EXPECT_EQ(statuses, std::vector<pita_status_t>(rows, PITA_ERR_GAP));
    expect_near(taken("2")[0], expected(2));
}

TEST_F(GpuStore, WaitsForRoomInTheAirAndThenSaysSo) {
    NEEDS_STUB();
    open(hasty_url("timeout_ms=100"));
    Hold hold(stream);
    std::int64_t index = 0;
    while (store(index, stream.get()) == PITA_OK) {
        ++index;
        ASSERT_LE(index, 1000);
    }
    EXPECT_STATUS(PITA_ERR_QUEUE_FULL, store(index, stream.get()));
    EXPECT_EQ(statuses, std::vector<pita_status_t>(rows, PITA_ERR_QUEUE_FULL));
    EXPECT_GE(index, 8);
    hold.let_go();
    ASSERT_OK(flush());
    ASSERT_OK(store(index, stream.get()));
    EXPECT_EQ(taken("1").size(), static_cast<std::size_t>(index + 1));
}

// What has landed waits for room in the queue, in its order.
TEST_F(GpuStore, WaitsForTheQueue) {
    open(hasty_url("timeout_ms=20000&queue=4"));
    this->hold();
    for (std::int64_t index = 0; index < 10; ++index) {
        ASSERT_OK(store(index, stream.get()));
    }
    EXPECT_STATUS(PITA_ERR_TIMEOUT, pita_redis_flush(100));
    EXPECT_EQ(queued(), 10 * rows);
    release();
    ASSERT_OK(flush());
    for (std::size_t row = 0; row < rows; ++row) {
        EXPECT_EQ(taken(std::to_string(row)).size(), 10U);
    }
}

TEST_F(GpuStore, ACloseWritesWhatIsInFlight) {
    for (std::int64_t index = 0; index < 5; ++index) {
        ASSERT_OK(store(index, stream.get()));
    }
    ASSERT_OK(pita_redis_close());
    EXPECT_EQ(redis.length("2"), 5);
}

TEST_F(GpuStore, ACloseGivesUpWhatDoesNotLand) {
    NEEDS_STUB();
    open(hasty_url("timeout_ms=100"));
    Log log;
    Hold hold(stream);
    ASSERT_OK(store(0, stream.get()));
    EXPECT_FAILS(PITA_ERR_TIMEOUT, pita_redis_close(), "in flight on the GPU");
    hold.let_go();
    EXPECT_TRUE(eventually([&] { return log.has(PITA_LOG_ERROR, "lost (3 records) on the way from the GPU"); }));
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(GpuStore, ALaunchThatIsRefusedIsNotStored) {
    NEEDS_STUB();
    ASSERT_OK(store(0, stream.get()));
    {
        const Failure failure("cuLaunchKernel", 700);
        EXPECT_FAILS(PITA_ERR_CUDA, store(1, stream.get()), "cuLaunchKernel", "ILLEGAL_ADDRESS", "3 of 3 failed");
        EXPECT_EQ(statuses, std::vector<pita_status_t>(rows, PITA_ERR_CUDA));
    }
    ASSERT_OK(store(1, stream.get()));
    EXPECT_EQ(taken("0").size(), 2U);
}

TEST_F(GpuStore, ALaunchThatFailsIsTold) {
    NEEDS_STUB();
    Log log;
    stub<void(int)>("stub_fault")(700);
    {
        Hold hold(stream);
        ASSERT_OK(store(0, stream.get()));
        ASSERT_OK(store(1, stream.get()));
    }
    EXPECT_FAILS(PITA_ERR_CUDA, flush(), "6 records were lost", "ILLEGAL_ADDRESS");
    stub<void(int)>("stub_fault")(0);
    EXPECT_TRUE(log.has(PITA_LOG_ERROR, "lost (3 records) on the way from the GPU"));
    EXPECT_EQ(stats_now().refused, 6U);
    EXPECT_EQ(queued(), 0U);
    EXPECT_OK(flush());
}

TEST_F(GpuStore, IsRefusedInACaptureAndLeavesItWhole) {
    call("cuStreamBeginCapture_v2", stream.get(), 0);
    EXPECT_FAILS(PITA_ERR_UNSUPPORTED, store(0, stream.get()), "captured", "pita_store_slots");
    EXPECT_EQ(statuses, std::vector<pita_status_t>(rows, PITA_ERR_UNSUPPORTED));
    void *graph = nullptr;
    call("cuStreamEndCapture", stream.get(), &graph);
}

TEST_F(GpuStore, WantsAnOpenPool) {
    ASSERT_OK(pita_redis_close());
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, store(0, stream.get()));
    EXPECT_EQ(statuses, std::vector<pita_status_t>(rows, PITA_ERR_NOT_OPEN));
}

// What is late is asked for, beside captures of other threads, which must not break by it.
TEST_F(GpuStore, ALateLaunchBreaksNoCapture) {
    NEEDS_STUB();
    Hold hold(stream);
    ASSERT_OK(store(0, stream.get()));
    const Stream captured;
    call("cuStreamBeginCapture_v2", captured.get(), 0);
    const unsigned long asked = calls("cuEventQuery");
    EXPECT_TRUE(eventually([&] { return calls("cuEventQuery") > asked + 1; }));
    void *graph = nullptr;
    call("cuStreamEndCapture", captured.get(), &graph);
    hold.let_go();
    ASSERT_OK(flush());
    EXPECT_EQ(taken("0").size(), 1U);
}

// Whoever listens to the log on the thread that hands over may call the library; waiting for that thread would be in vain.
TEST_F(GpuStore, ALogCallbackMayCallTheLibrary) {
    NEEDS_STUB();
    struct Seen {
        std::atomic<int> lines{0};
        std::atomic<std::int64_t> longest_ms{0};
    } seen;
    pita_set_log_callback(
        [](int, const char *, void *user) {
            auto &all = *static_cast<Seen *>(user);
            const milliseconds time = time_of([] {
                std::size_t count = 0;
                (void)pita_redis_flush(20000);
                (void)pita_count_metrics("0", &count);
            });
            all.longest_ms = std::max<std::int64_t>(all.longest_ms, time.count());
            ++all.lines;
        },
        &seen);
    {
        Hold hold(stream);
        stub<void(int)>("stub_fault")(700);
        ASSERT_OK(store(0, stream.get()));
        ASSERT_OK(store(1, stream.get()));
    }
    EXPECT_TRUE(eventually([&] { return seen.lines >= 2; }));
    stub<void(int)>("stub_fault")(0);
    pita_set_log_callback(nullptr, nullptr);
    EXPECT_LT(seen.longest_ms, 10000);
}

// A child has nothing in the air, and waits for nothing of its parent's.
TEST_F(GpuStore, AChildLeavesTheParentsFlightsAlone) {
    NEEDS_STUB();
    Hold hold(stream);
    ASSERT_OK(store(0, stream.get()));
    const pid_t child = fork();
    if (child == 0) {
        std::size_t count = 7;
        const bool is_fine = pita_redis_flush(0) == PITA_OK && pita_count_metrics("0", &count) == PITA_OK && count == 0 &&
                             stats_now().queued == 0 && pita_store_metrics("c", 0, std::vector<pita_metrics_t>(1).data(), 1) == PITA_OK &&
                             pita_redis_close() == PITA_OK;
        _exit(is_fine ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    hold.let_go();
    ASSERT_OK(flush());
    EXPECT_EQ(taken("0").size(), 1U);
    EXPECT_EQ(taken("c").size(), 1U);
}

} // namespace
