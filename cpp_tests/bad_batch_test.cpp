// Batches that are wrong as a whole: the same refusal from computing and from storing, for every request, with nothing
// done.

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "pita_redis.h"
#include "support/guarded_page.hpp"
#include "support/logits.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

constexpr std::size_t huge = std::numeric_limits<std::size_t>::max();

struct BadBatch {
    const char *name;
    void (*spoil)(pita_batch_t &);
    std::vector<std::string> words;
    pita_status_t status = PITA_ERR_INVALID_ARGUMENT;
};

void PrintTo(const BadBatch &bad, std::ostream *out) {
    *out << bad.name;
}

class BadBatchTest : public testing::WithParamInterface<BadBatch>, public SessionTest {
  protected:
    BadBatchTest() : logits{1, 2, 3, 4, 5, 6}, batch(batch_over(logits, 2)), out(2, record(7)) {
        batch.req_ids = ids;
        batch.statuses = statuses;
    }

    void expect_refusal(pita_status_t status) {
        EXPECT_STATUS(GetParam().status, status);
        const std::string message = pita_last_error();
        for (const std::string &word : GetParam().words) {
            EXPECT_NE(message.find(word), std::string::npos) << "\"" << message << "\" lacks \"" << word << "\"";
        }
    }

    Logits logits;
    const char *ids[2] = {"a", "b"};
    pita_status_t statuses[2] = {1, 1};
    pita_batch_t batch;
    Records out;
};

TEST_P(BadBatchTest, IsRefusedByComputing) {
    GetParam().spoil(batch);
    expect_refusal(pita_compute_logits_metrics(&batch, out.data()));
    EXPECT_EQ(out, Records(2, record(7)));
    EXPECT_EQ(statuses[0], GetParam().status);
    EXPECT_EQ(statuses[1], GetParam().status);
}

TEST_P(BadBatchTest, IsRefusedByStoring) {
    GetParam().spoil(batch);
    expect_refusal(pita_store_logits_metrics_batch(&batch));
    EXPECT_EQ(redis.keys(), 0);
    EXPECT_EQ(statuses[0], GetParam().status);
    EXPECT_EQ(statuses[1], GetParam().status);
}

TEST_P(BadBatchTest, MayHaveNoStatuses) {
    GetParam().spoil(batch);
    batch.statuses = nullptr;
    expect_refusal(pita_store_logits_metrics_batch(&batch));
}

const BadBatch bad_batches[] = {
    {"LogitsNull", [](pita_batch_t &b) { b.logits = nullptr; }, {"logits is NULL"}},
    {"DtypeUnknown", [](pita_batch_t &b) { b.dtype = 3; }, {"dtype is 3"}},
    {"DeviceNone", [](pita_batch_t &b) { b.device = 0; }, {"device is 0"}},
    {"DeviceUnknown", [](pita_batch_t &b) { b.device = 10; }, {"device is 10"}},
    {"DeviceCuda", [](pita_batch_t &b) { b.device = PITA_DEVICE_CUDA; }, {"CUDA"}, PITA_ERR_UNSUPPORTED},
    {"RowsZero", [](pita_batch_t &b) { b.rows = 0; }, {"rows is 0"}},
    {"VocabularyZero", [](pita_batch_t &b) { b.vocab_size = 0; }, {"vocab_size is 0"}},
    {"StrideZero", [](pita_batch_t &b) { b.row_stride = 0; }, {"row_stride is 0"}},
    {"StrideShort", [](pita_batch_t &b) { b.row_stride = 2; }, {"row_stride is 2", "3"}},
    {"MoreRequestsThanRows", [](pita_batch_t &b) { b.rows = 1; }, {"len is 2", "row_of", "1 rows"}},
    {"RowsHuge", [](pita_batch_t &b) { b.rows = huge; }, {std::to_string(huge)}},
    {"StrideHuge", [](pita_batch_t &b) { b.row_stride = huge; }, {std::to_string(huge)}},
    {"VocabularyHuge", [](pita_batch_t &b) { b.vocab_size = b.row_stride = huge; }, {std::to_string(huge)}},
};

INSTANTIATE_TEST_SUITE_P(Bad, BadBatchTest, testing::ValuesIn(bad_batches),
                         [](const auto &test) { return test.param.name; });

// --- where there are no statuses to fill in --------------------------------------------------------------------------

class BadBatchArgument : public SessionTest {
  protected:
    BadBatchArgument() : batch(batch_over(logits, 1)) { batch.req_ids = ids; }

    // Both functions that take a batch fail with these words, and store nothing.
    void expect_refused(const pita_batch_t *refused, std::initializer_list<std::string> words) {
        pita_metrics_t out = record(7);
        EXPECT_TRUE(returned(pita_compute_logits_metrics(refused, &out), PITA_ERR_INVALID_ARGUMENT, words));
        EXPECT_EQ(out, record(7));
        EXPECT_TRUE(returned(pita_store_logits_metrics_batch(refused), PITA_ERR_INVALID_ARGUMENT, words));
        EXPECT_EQ(redis.keys(), 0);
    }

    Logits logits = {1, 2, 3};
    const char *ids[1] = {"a"};
    pita_batch_t batch;
};

TEST_F(BadBatchArgument, NullIsRefused) {
    expect_refused(nullptr, {"batch is NULL"});
}

TEST_F(BadBatchArgument, WithoutRequestsIsRefused) {
    batch.len = 0;
    expect_refused(&batch, {"len is 0"});
}

TEST_F(BadBatchArgument, WithTooManyRequestsForMemoryIsRefused) {
    const std::size_t row_of[] = {0};
    pita_status_t statuses[] = {1};
    batch.len = huge;
    batch.row_of = row_of;
    batch.statuses = statuses;
    expect_refused(&batch, {std::to_string(huge)});
}

TEST_F(BadBatchArgument, WithoutIdsIsRefusedByStoring) {
    pita_status_t status = 1;
    batch.req_ids = nullptr;
    batch.statuses = &status;
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_store_logits_metrics_batch(&batch), "req_ids is NULL");
    EXPECT_EQ(status, PITA_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(redis.keys(), 0);
}

// --- struct_size -----------------------------------------------------------------------------------------------------

TEST_F(BadBatchArgument, WithASizeTooSmallIsRefused) {
    for (const std::size_t size : {std::size_t{0}, sizeof batch - 1}) {
        batch.struct_size = size;
        expect_refused(&batch, {"struct_size is " + std::to_string(size)});
    }
}

TEST_F(BadBatchArgument, WithASizeFarTooLargeIsRefusedAndNotReadBeyondItsEnd) {
    const GuardedPage page;
    auto *const last = new (page.end() - sizeof batch) pita_batch_t(batch);
    for (const std::size_t size : {std::size_t{1} << 20, std::size_t{1} << 40, huge / 2, huge - 7, huge}) {
        last->struct_size = size;
        expect_refused(last, {"struct_size is " + std::to_string(size)});
    }
}

TEST_F(BadBatchArgument, WithASizeFarTooLargeIsRefusedAmongZeros) {
    static struct {
        pita_batch_t batch;
        char zeros[1 << 20];
    } all;
    for (const std::size_t size : {std::size_t{1} << 20, sizeof all, huge}) {
        all.batch = batch;
        all.batch.struct_size = size;
        expect_refused(&all.batch, {"struct_size is " + std::to_string(size)});
        all.batch = {};
        all.batch.struct_size = size;
        expect_refused(&all.batch, {"struct_size is " + std::to_string(size)});
    }
}

// A caller of a later version, whose struct has grown.
struct LaterBatch {
    pita_batch_t known;
    std::uint64_t unknown[2];
};

TEST_F(BadBatchArgument, OfALaterVersionIsFineWhereTheNewMembersAre0) {
    LaterBatch later = {batch, {0, 0}};
    later.known.struct_size = sizeof later;
    pita_metrics_t out = {};
    EXPECT_OK(pita_compute_logits_metrics(&later.known, &out));
    EXPECT_OK(pita_store_logits_metrics_batch(&later.known));
    EXPECT_EQ(stored(redis, "a"), Records{out});
}

TEST_F(BadBatchArgument, OfALaterVersionIsRefusedWhereTheNewMembersSaySomething) {
    for (std::size_t byte = sizeof(pita_batch_t); byte < sizeof(LaterBatch); ++byte) {
        LaterBatch later = {batch, {0, 0}};
        later.known.struct_size = sizeof later;
        reinterpret_cast<unsigned char *>(&later)[byte] = 1;
        expect_refused(&later.known, {"struct_size is " + std::to_string(sizeof later)});
    }
}

} // namespace
