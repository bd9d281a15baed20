// Slots: stores that read whose they are when they run, eagerly and as nodes of a CUDA graph.

#include <numeric>
#include <thread>

#include "gpu.hpp"
#include "support/behind.hpp"
#include "support/log.hpp"

using namespace cuda;
using namespace support;

namespace {

class Graph {
  public:
    // Captures what `action` puts onto the stream.
    template <class Action> Graph(const Stream &stream, Action action) {
        call("cuStreamBeginCapture_v2", stream.get(), 0);
        action();
        void *graph = nullptr;
        call("cuStreamEndCapture", stream.get(), &graph);
        call("cuGraphInstantiateWithFlags", &graph_, graph, 0ULL);
    }

    void launch(const Stream &stream) const { call("cuGraphLaunch", graph_, stream.get()); }

  private:
    void *graph_ = nullptr;
};

class SlotStore : public BehindTest {
  protected:
    static constexpr std::size_t rows = 4;
    static constexpr std::size_t vocab_size = 100;

    SlotStore()
        : logits(random_logits(rows * vocab_size)), buffer(logits), slots(rows * sizeof(std::int32_t)),
          temperatures(std::vector<float>(rows, 0.5)), indices(rows * sizeof(std::int64_t)),
          out(std::vector<float>(3 * rows, -1)) {
        batch.struct_size = sizeof batch;
        batch.logits = buffer.get();
        batch.dtype = PITA_DTYPE_F32;
        batch.rows = rows;
        batch.vocab_size = vocab_size;
        batch.row_stride = vocab_size;
        batch.stream = stream.get();
        batch.slots = slots.as<std::int32_t>();
        batch.temperatures = temperatures.as<float>();
        batch.token_indices = indices.as<std::int64_t>();
        batch.out = out.as<float>();
        step({3, 0, 7, -1}, 0);
        // What a test before has left in them.
        for (std::uint32_t slot = 0; slot < PITA_SLOT_COUNT; ++slot) {
            pita_bind_slot(slot, "nobody");
            pita_unbind_slot(slot);
        }
        (void)flush();
    }
    ~SlotStore() override {
        for (std::uint32_t slot = 0; slot < PITA_SLOT_COUNT; ++slot) {
            pita_unbind_slot(slot);
        }
    }

    // What the next launch finds in device memory.
    void step(const std::vector<std::int32_t> &whose, std::int64_t index) {
        stream.synchronize();
        slots.write(whose);
        indices.write(std::vector<std::int64_t>(rows, index));
    }

    Reference expected(std::size_t row, float temperature = 0.5) const {
        const auto from = logits.begin() + static_cast<std::ptrdiff_t>(row * vocab_size);
        return reference({from, from + vocab_size}, temperature);
    }

    // As many appends for "a" in slot 3, which land while the server takes nothing.
    void append_unwritten(int count) {
        batch.token_indices = nullptr;
        ASSERT_OK(pita_bind_slot(3, "a"));
        hold();
        for (int i = 0; i < count; ++i) {
            ASSERT_OK(pita_store_slots(&batch));
        }
        stream.synchronize();
    }

    Records taken(const std::string &id) {
        stream.synchronize();
        Taken all = take(id);
        EXPECT_STATUS(PITA_OK, all.status);
        return all.records;
    }

    Context context;
    Logits logits;
    Buffer buffer, slots, temperatures, indices, out;
    Stream stream;
    pita_slot_batch_t batch = {};
};

TEST_F(SlotStore, StoresForWhoeverIsBound) {
    ASSERT_OK(pita_bind_slot(3, "a"));
    ASSERT_OK(pita_bind_slot(7, "c"));
    ASSERT_OK(pita_store_slots(&batch));
    const Records a = taken("a"), c = taken("c");
    ASSERT_EQ(a.size(), 1U);
    ASSERT_EQ(c.size(), 1U);
    expect_near(a[0], expected(0));
    expect_near(c[0], expected(2));
    const auto metrics = out.read<float>(3 * rows);
    for (const std::size_t row : {0, 1, 2}) {
        EXPECT_NEAR(metrics[3 * row], static_cast<double>(expected(row).log_norm), 1e-5);
        EXPECT_NEAR(metrics[3 * row + 1], static_cast<double>(expected(row).log_norm_temp), 1e-5);
        EXPECT_NEAR(metrics[3 * row + 2], static_cast<double>(expected(row).entropy), 1e-5);
    }
    EXPECT_EQ((std::vector<float>{metrics.begin() + 9, metrics.end()}), (std::vector<float>{0, 0, 0}));
}

TEST_F(SlotStore, ReplaysStoreForWhoeverIsBoundThen) {
    const Graph graph(stream, [&] { ASSERT_OK(pita_store_slots(&batch)); });
    ASSERT_OK(pita_bind_slot(0, "first"));
    for (std::int64_t index = 0; index < 30; ++index) {
        step({-1, 0, -1, 5000}, index);
        graph.launch(stream);
    }
    stream.synchronize();
    ASSERT_OK(pita_unbind_slot(0));
    ASSERT_OK(pita_bind_slot(0, "second"));
    for (std::int64_t index = 0; index < 20; ++index) {
        step({-1, -1, -1, 0}, index);
        graph.launch(stream);
    }
    const Records first = taken("first"), second = taken("second");
    ASSERT_EQ(first.size(), 30U);
    ASSERT_EQ(second.size(), 20U);
    for (const pita_metrics_t &record : first) {
        expect_near(record, expected(1));
    }
    for (const pita_metrics_t &record : second) {
        expect_near(record, expected(3));
    }
}

// Module, memory and all are made beside the capture.
TEST_F(SlotStore, TheFirstCallMayBeCaptured) {
    NEEDS_STUB();
    const Context another;
    const Stream its;
    const Buffer here(logits), whose(std::vector<std::int32_t>{-1, 9, -1, -1});
    batch.logits = here.get();
    batch.slots = whose.as<std::int32_t>();
    batch.temperatures = nullptr;
    batch.token_indices = nullptr;
    batch.out = nullptr;
    batch.stream = its.get();
    const Graph graph(its, [&] { ASSERT_OK(pita_store_slots(&batch)); });
    ASSERT_OK(pita_bind_slot(9, "n"));
    graph.launch(its);
    graph.launch(its);
    its.synchronize();
    const Records records = taken("n");
    ASSERT_EQ(records.size(), 2U) << "appended";
    expect_near(records[1], expected(1, 1));
    ASSERT_OK(pita_unbind_slot(9));
}

TEST_F(SlotStore, ACallWaitsForNothing) {
    NEEDS_STUB();
    ASSERT_OK(pita_store_slots(&batch));
    Hold hold(stream);
    const auto functions = {"cuLaunchKernel", "cuPointerGetAttribute", "cuCtxGetCurrent", "cuCtxGetId"};
    unsigned long before = calls();
    for (const char *function : functions) {
        before -= calls(function);
    }
    for (int i = 0; i < 10; ++i) {
        ASSERT_OK(pita_store_slots(&batch));
    }
    unsigned long after = calls();
    for (const char *function : functions) {
        after -= calls(function);
    }
    EXPECT_EQ(after, before);
}

TEST_F(SlotStore, MetricsAndSixteenBitsAndStrides) {
    const Logits16 narrow = map(logits, narrow_bf16);
    const Buffer here(narrow);
    ASSERT_OK(pita_bind_slot(3, "a"));
    batch.logits = here.get();
    batch.dtype = PITA_DTYPE_BF16;
    batch.metrics = PITA_METRIC_ENTROPY;
    batch.rows = 1;
    batch.vocab_size = 57;
    ASSERT_OK(pita_store_slots(&batch));
    const Records records = taken("a");
    ASSERT_EQ(records.size(), 1U);
    const Reference whole = reference(map(Logits16(narrow.begin(), narrow.begin() + 57), widen_bf16));
    expect_near(records[0], {0, 0, whole.entropy});
    const auto metrics = out.read<float>(3);
    EXPECT_EQ(metrics[0], 0);
    EXPECT_NEAR(metrics[2], static_cast<double>(whole.entropy), 1e-5);
}

TEST_F(SlotStore, AnUnbindQueuesWhatHasLanded) {
    ASSERT_OK(pita_bind_slot(3, "a"));
    for (std::int64_t index = 0; index < 10; ++index) {
        step({3, -1, -1, -1}, index);
        ASSERT_OK(pita_store_slots(&batch));
        stream.synchronize();
        ASSERT_OK(pita_unbind_slot(3));
        ASSERT_OK(pita_bind_slot(3, "a"));
    }
    EXPECT_EQ(taken("a").size(), 10U);
}

TEST_F(SlotStore, ATemperatureThatIsNoneIsALoss) {
    Log log;
    ASSERT_OK(pita_bind_slot(3, "a"));
    ASSERT_OK(pita_bind_slot(0, "b"));
    temperatures.write(std::vector<float>{-1, 0.5, 0.5, 0.5});
    ASSERT_OK(pita_store_slots(&batch));
    EXPECT_EQ(taken("a").size(), 0U);
    EXPECT_EQ(taken("b").size(), 1U);
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, flush(), "1 record was lost", "slot 3", "temperature is -1");
    EXPECT_TRUE(log.has(PITA_LOG_ERROR, "temperature is -1"));
    EXPECT_TRUE(std::isnan(out.read<float>(2)[1]));
}

// A slot's ring holds 64.
TEST_F(SlotStore, WhatIsOverwrittenIsCounted) {
    Log log;
    open(hasty_url("timeout_ms=200&queue=10"));
    append_unwritten(300);
    EXPECT_FAILS(PITA_ERR_QUEUE_FULL, pita_unbind_slot(3), "slot 3 is still bound");
    release();
    EXPECT_TRUE(eventually([] { return pita_unbind_slot(3) == PITA_OK; }));
    const pita_status_t status = flush();
    EXPECT_EQ(status, PITA_ERR_QUEUE_FULL) << pita_last_error();
    const pita_stats_t stats = stats_now();
    EXPECT_GE(stats.refused, 300U - 10 - 64 - 10);
    EXPECT_EQ(stats.stored + stats.refused + stats.uncertain, 300U);
    EXPECT_TRUE(log.has(PITA_LOG_ERROR, "slot 3 (\"a\")"));
}

TEST_F(SlotStore, AFlushWaitsForWhatHasLanded) {
    open(hasty_url("timeout_ms=20000&queue=4"));
    ASSERT_OK(pita_bind_slot(3, "a"));
    this->hold();
    for (std::int64_t index = 0; index < 40; ++index) {
        step({3, -1, -1, -1}, index);
        ASSERT_OK(pita_store_slots(&batch));
    }
    stream.synchronize();
    EXPECT_FAILS(PITA_ERR_TIMEOUT, pita_redis_flush(50), "in flight on the GPU");
    release();
    ASSERT_OK(flush());
    EXPECT_EQ(redis.length("a"), 40);
}

TEST_F(SlotStore, WhatAPoolHadNoRoomForIsNotTheNextOnes) {
    open(hasty_url("timeout_ms=100&queue=4"));
    append_unwritten(40);
    EXPECT_NE(pita_redis_close(), PITA_OK);
    release();
    open(server.url("&write=behind", 1));
    ASSERT_OK(flush());
    std::size_t count = 7;
    ASSERT_OK(pita_count_metrics("a", &count));
    EXPECT_EQ(count, 0U);
}

TEST_F(SlotStore, WhatCameBeforeTheBindIsNobodys) {
    Log log;
    ASSERT_OK(pita_store_slots(&batch));
    stream.synchronize();
    ASSERT_OK(pita_bind_slot(3, "a"));
    step({3, -1, -1, -1}, 0);
    ASSERT_OK(pita_store_slots(&batch));
    EXPECT_EQ(taken("a").size(), 1U);
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, flush(), "slot 3 was bound to no request");
}

TEST_F(SlotStore, BindingIsChecked) {
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_bind_slot(PITA_SLOT_COUNT, "a"), "slot is 1024");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_bind_slot(0, ""), "req_id is empty");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_bind_slot(0, nullptr), "req_id is NULL");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_unbind_slot(PITA_SLOT_COUNT), "slot is 1024");
    ASSERT_OK(pita_bind_slot(PITA_SLOT_COUNT - 1, "a"));
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_bind_slot(PITA_SLOT_COUNT - 1, "b"), "slot is 1023", "\"a\"");
    EXPECT_OK(pita_unbind_slot(PITA_SLOT_COUNT - 1));
    EXPECT_OK(pita_unbind_slot(PITA_SLOT_COUNT - 1));
}

TEST_F(SlotStore, TheBatchIsChecked) {
    const pita_slot_batch_t good = batch;
    const auto expect_bad = [&](const char *word) {
        EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_store_slots(&batch), word);
        batch = good;
    };
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_store_slots(nullptr), "batch is NULL");
    batch.struct_size = 3;
    expect_bad("struct_size is 3");
    batch.logits = nullptr;
    expect_bad("logits is NULL");
    batch.dtype = 9;
    expect_bad("dtype is 9");
    batch.metrics = 8;
    expect_bad("metrics is 0x8");
    batch.rows = 0;
    expect_bad("rows is 0");
    batch.rows = 65536;
    expect_bad("rows is 65536");
    batch.vocab_size = 0;
    expect_bad("vocab_size is 0");
    batch.row_stride = 3;
    expect_bad("row_stride is 3");
    batch.slots = nullptr;
    expect_bad("slots is NULL");
    if (Driver::get().is_stub()) {
        const std::vector<std::int32_t> here(rows);
        batch.slots = here.data();
        expect_bad("slots is 0x");
        const std::vector<float> warm(rows);
        batch.temperatures = warm.data();
        expect_bad("temperatures is 0x");
    }
}

TEST_F(SlotStore, NeedsAQueue) {
    open(server.url());
    EXPECT_FAILS(PITA_ERR_UNSUPPORTED, pita_store_slots(&batch), "write=behind");
    ASSERT_OK(pita_redis_close());
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_store_slots(&batch));
}

TEST_F(SlotStore, ManyRowsOfAllSlots) {
    const std::size_t count = PITA_SLOT_COUNT;
    const Logits wide = random_logits(count * 2);
    std::vector<std::int32_t> numbers(count);
    std::iota(numbers.rbegin(), numbers.rend(), 0);
    const Buffer here(wide), whose(numbers);
    for (std::uint32_t slot = 0; slot < count; ++slot) {
        ASSERT_OK(pita_bind_slot(slot, ("s" + std::to_string(slot)).c_str()));
    }
    batch.logits = here.get();
    batch.rows = count;
    batch.vocab_size = batch.row_stride = 2;
    batch.slots = whose.as<std::int32_t>();
    batch.temperatures = nullptr;
    batch.token_indices = nullptr;
    batch.out = nullptr;
    ASSERT_OK(pita_store_slots(&batch));
    stream.synchronize();
    ASSERT_OK(flush());
    for (std::size_t row = 0; row < count; row += 37) {
        const Records records = stored(redis, "s" + std::to_string(numbers[row]));
        ASSERT_EQ(records.size(), 1U);
        expect_near(records[0], reference({wide[2 * row], wide[2 * row + 1]}));
    }
}

} // namespace
