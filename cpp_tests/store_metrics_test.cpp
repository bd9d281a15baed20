// pita_store_metrics: records that were computed elsewhere.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "pita_redis.h"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

class StoreMetrics : public SessionTest {};

TEST_F(StoreMetrics, AppendsAllOfThemInOrder) {
    EXPECT_OK(append("a", records(3)));
    EXPECT_OK(append("a", records(4, 3)));
    EXPECT_EQ(stored(redis, "a"), records(7));
}

TEST_F(StoreMetrics, AppendsWithAnyIndexBelow0) {
    EXPECT_OK(store_at("a", -1, records(1)));
    EXPECT_OK(store_at("a", std::numeric_limits<std::int64_t>::min(), records(1, 1)));
    EXPECT_EQ(stored(redis, "a"), records(2));
}

TEST_F(StoreMetrics, PutsThemAtTheirIndex) {
    EXPECT_OK(store_at("a", 0, records(3)));
    EXPECT_OK(store_at("a", 3, records(2, 3)));
    EXPECT_EQ(stored(redis, "a"), records(5));
}

TEST_F(StoreMetrics, ReplacesWhatIsThere) {
    EXPECT_OK(append("a", records(5)));
    EXPECT_OK(store_at("a", 1, records(2, 100)));
    EXPECT_EQ(stored(redis, "a"), (Records{record(0), record(100), record(101), record(3), record(4)}));
}

TEST_F(StoreMetrics, ReplacesAndGoesOnBehindTheEnd) {
    EXPECT_OK(append("a", records(3)));
    EXPECT_OK(store_at("a", 2, records(3, 100)));
    EXPECT_EQ(stored(redis, "a"), (Records{record(0), record(1), record(100), record(101), record(102)}));
}

TEST_F(StoreMetrics, ReplacesNoMoreThanItBringsFromTheBegin) {
    EXPECT_OK(append("a", records(4)));
    EXPECT_OK(store_at("a", 0, records(3, 100)));
    EXPECT_EQ(stored(redis, "a"), (Records{record(100), record(101), record(102), record(3)}));
}

TEST_F(StoreMetrics, ReplacesAWholeList) {
    EXPECT_OK(append("a", records(3)));
    EXPECT_OK(store_at("a", 0, records(3, 100)));
    EXPECT_EQ(stored(redis, "a"), records(3, 100));
    EXPECT_OK(store_at("a", 0, records(5, 200)));
    EXPECT_EQ(stored(redis, "a"), records(5, 200));
}

TEST_F(StoreMetrics, ReplacesTheLastOneOnly) {
    EXPECT_OK(append("a", records(3)));
    EXPECT_OK(store_at("a", 2, records(1, 100)));
    EXPECT_EQ(stored(redis, "a"), (Records{record(0), record(1), record(100)}));
}

// More than Lua lets a script pass on in one call.
TEST_F(StoreMetrics, ReplacesThousandsAtOnce) {
    const Records many = records(5000, 5000);
    EXPECT_OK(append("a", records(5000)));
    EXPECT_OK(store_at("a", 0, many));
    EXPECT_TRUE(stored(redis, "a") == many);
    EXPECT_OK(append("a", records(5000, 10000)));
    EXPECT_TRUE(stored(redis, "a") == records(10000, 5000));
    EXPECT_OK(store_at("a", 1, records(5000, 5001)));
    EXPECT_OK(store_at("a", 7500, records(5000, 12500)));
    EXPECT_TRUE(stored(redis, "a") == records(12500, 5000));
}

TEST_F(StoreMetrics, DoesNoHarmTwice) {
    EXPECT_OK(store_at("a", 0, records(4)));
    EXPECT_OK(store_at("a", 0, records(4)));
    EXPECT_EQ(stored(redis, "a"), records(4));
}

TEST_F(StoreMetrics, RefusesToLeaveAGap) {
    EXPECT_FAILS(PITA_ERR_GAP, store_at("a", 1, records(2)), "token_index is 1", "0");
    EXPECT_FALSE(redis.exists("a"));
    EXPECT_OK(append("a", records(2)));
    EXPECT_FAILS(PITA_ERR_GAP, store_at("a", 3, records(1)), "token_index is 3", "2");
    EXPECT_FAILS(PITA_ERR_GAP, store_at("a", std::numeric_limits<std::int64_t>::max(), records(1)), "token_index is");
    EXPECT_EQ(stored(redis, "a"), records(2));
}

TEST_F(StoreMetrics, WritesEveryDoubleSoThatItReadsBackTheSame) {
    using Limits = std::numeric_limits<double>;
    const Records all = {
        {0.1, 1.0 / 3, 2e-5},
        {Limits::max(), Limits::lowest(), Limits::min()},
        {Limits::denorm_min(), -Limits::denorm_min(), Limits::epsilon()},
        {1e22, 123456789012345678.0, 5e-324},
        {infinity, -infinity, not_a_number},
        {0.0, -0.0, 1.0},
    };
    ASSERT_OK(append("a", all));
    EXPECT_EQ(stored(redis, "a"), all);
    const Taken taken = take("a");
    EXPECT_EQ(taken.records, all);
    EXPECT_TRUE(std::signbit(taken.records.at(5).log_norm_temp));
}

TEST_F(StoreMetrics, TakesAMillionAtOnce) {
    const Records million = records(1000000);
    ASSERT_OK(append("a", million));
    EXPECT_EQ(redis.length("a"), 1000000);
    EXPECT_TRUE(take("a", million.size()).records == million);
    ASSERT_OK(store_at("a", 0, million));
    EXPECT_EQ(redis.length("a"), 1000000);
}

TEST_F(StoreMetrics, RefusesBadArguments) {
    const Records one = records(1);
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_store_metrics(nullptr, -1, one.data(), 1), "req_id", "NULL");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, append("", one), "req_id", "empty");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, append(std::string(1025, 'x'), one), "req_id", "1024");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, append("\xFF", one), "req_id", "UTF-8");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_store_metrics("a", -1, nullptr, 1), "metrics", "NULL");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_store_metrics("a", -1, one.data(), 0), "count is 0");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_store_metrics("a", -1, one.data(), 1000001), "count is 1000001");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_store_metrics("a", 0, one.data(), SIZE_MAX), "count is");
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(StoreMetrics, UnderAKeyThatHoldsNoListFailsInTheServersWords) {
    redis.run({"SET", "a", "mine"});
    EXPECT_FAILS(PITA_ERR_REDIS, append("a", records(2)), "WRONGTYPE", "\"a\"");
    EXPECT_FAILS(PITA_ERR_REDIS, store_at("a", 0, records(2)), "WRONGTYPE", "\"a\"");
    EXPECT_EQ(redis.run({"GET", "a"}).text, "mine");
}

} // namespace
