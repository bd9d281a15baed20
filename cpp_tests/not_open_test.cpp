// Without an open pool: which functions need one, and which don't.

#include <gtest/gtest.h>


#include "pita_redis.h"
#include "support/logits.hpp"
#include "support/records.hpp"
#include "support/status.hpp"

using namespace support;

namespace {

const float logits[] = {1, 2, 3};

struct Call {
    const char *name;
    pita_status_t (*call)();
};

class WithoutAPool : public testing::TestWithParam<Call> {};

TEST_P(WithoutAPool, ACallThatNeedsOneSaysSo) {
    EXPECT_FAILS(PITA_ERR_NOT_OPEN, GetParam().call(), "pita_redis_open");
}

const Call calls[] = {
    {"Ping", [] { return pita_redis_ping(); }},
    {"Flush", [] { return pita_redis_flush(0); }},
    {"Stats",
     [] {
         pita_stats_t stats = {};
         stats.struct_size = sizeof stats;
         return pita_redis_stats(&stats);
     }},
    {"Store", [] { return pita_store_logits_metrics("a", logits, 3, 1, PITA_METRIC_ALL); }},
    {"StoreMetrics", [] { return append("a", records(1)); }},
    {"Take", [] { return take("a").status; }},
    {"Discard", [] { return pita_discard_metrics("a"); }},
};

INSTANTIATE_TEST_SUITE_P(Calls, WithoutAPool, testing::ValuesIn(calls),
                         [](const auto &test) { return test.param.name; });

TEST(NoPool, ABatchFailsEveryRequest) {
    const char *ids[] = {"a", nullptr, "c"};
    pita_status_t statuses[] = {1, 1, 1};
    pita_batch_t batch = batch_over(logits, PITA_DTYPE_F32, 3, 1);
    batch.req_ids = ids;
    batch.statuses = statuses;
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_store_logits_metrics_batch(&batch));
    for (const pita_status_t status : statuses) {
        EXPECT_EQ(status, PITA_ERR_NOT_OPEN);
    }
}

TEST(NoPool, CountsAre0) {
    std::size_t count = 7;
    pita_metrics_t out[1] = {};
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_count_metrics("a", &count));
    EXPECT_EQ(count, 0U);
    count = 7;
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_take_metrics("a", out, 1, &count));
    EXPECT_EQ(count, 0U);
    count = 7;
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_take_metrics_wait("a", 1, 60000, out, 1, &count));
    EXPECT_EQ(count, 0U);
}

TEST(NoPool, TheRestWorks) {
    const pita_batch_t batch = batch_over(logits, PITA_DTYPE_F32, 1, 3);
    pita_metrics_t out = {};
    EXPECT_OK(pita_compute_logits_metrics(&batch, &out));
    EXPECT_GT(out.log_norm, 3);
    EXPECT_OK(pita_redis_close());
    EXPECT_NE(pita_last_error(), nullptr);
    EXPECT_STREQ(pita_status_name(PITA_ERR_NOT_OPEN), "PITA_ERR_NOT_OPEN");
    EXPECT_STRNE(pita_version(), "");
    pita_set_log_callback(nullptr, nullptr);
}

} // namespace
