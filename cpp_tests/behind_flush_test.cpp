// pita_redis_flush and pita_redis_close with write=behind: they wait, in time, and tell what was not stored.

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <string>
#include <vector>

#include "pita_redis.h"
#include "support/behind.hpp"
#include "support/closed_port.hpp"
#include "support/log.hpp"
#include "support/processes.hpp"
#include "support/proxy.hpp"

using namespace support;

namespace {

constexpr milliseconds timeout{300};
// Five times what was asked for, and some for a busy machine.
constexpr milliseconds bound = 5 * timeout;

const std::string writer = "pita-writer";

class Flush : public BehindTest {};
class CloseBehind : public BehindTest {};

// --- what a flush waits for ------------------------------------------------------------------------------------------

TEST_F(Flush, ReturnsAtOnceWhereNothingIsQueued) {
    EXPECT_OK(pita_redis_flush(0));
    ASSERT_OK(append("a", records(1)));
    ASSERT_OK(flush());
    EXPECT_OK(pita_redis_flush(0));
}

TEST_F(Flush, WaitsForWhatWasQueuedBeforeAndNotForMore) {
    std::atomic<bool> done{false};
    std::future<void> busy = std::async(std::launch::async, [&] {
        while (!done) {
            EXPECT_OK(append("busy", records(1)));
        }
    });
    for (std::size_t i = 0; i < 50; ++i) {
        EXPECT_OK(append("a", records(1, i)));
        EXPECT_OK(flush());
        EXPECT_EQ(redis.length("a"), static_cast<long long>(i + 1));
    }
    done = true;
}

TEST_F(Flush, EndsInTimeAndSaysWhatIsQueuedStill) {
    hold();
    ASSERT_OK(store_at("a", 0, records(7)));
    pita_status_t status = PITA_OK;
    const milliseconds took = time_of([&] { status = pita_redis_flush(static_cast<std::uint32_t>(timeout.count())); });
    EXPECT_FAILS(PITA_ERR_TIMEOUT, status, "7 records are still in the queue");
    EXPECT_GE(took, timeout);
    EXPECT_LT(took, bound);
    release();
    EXPECT_OK(flush());
    EXPECT_EQ(stored(redis, "a"), records(7));
}

// Connections stay up, nothing is answered.
TEST_F(Flush, EndsInTimeWhenTheServerIsFrozenAndEndsWellWhenItThaws) {
    RedisServer own;
    open("redis://" + own.host_and_port() + "?write=behind&connect_timeout_ms=300&timeout_ms=300");
    ASSERT_OK(store_at("a", 0, records(1)));
    ASSERT_OK(flush());
    own.freeze();
    ASSERT_OK(store_at("a", 1, records(4, 1)));
    for (int round = 0; round < 5; ++round) {
        pita_status_t status = PITA_OK;
        EXPECT_LT(time_of([&] { status = pita_redis_flush(static_cast<std::uint32_t>(timeout.count())); }), bound);
        EXPECT_STATUS(PITA_ERR_TIMEOUT, status);
    }
    own.thaw();
    EXPECT_OK(flush());
    Hiredis other(own);
    EXPECT_EQ(stored(other, "a"), records(5));
}

TEST_F(Flush, SaysWhyTheServerCannotBeReached) {
    const ClosedPort nobody;
    open("redis://" + nobody.host_and_port() + "?write=behind&timeout_ms=100");
    ASSERT_OK(append("a", records(1)));
    EXPECT_FAILS(PITA_ERR_TIMEOUT, pita_redis_flush(300), nobody.host_and_port(), "refused");
}

// --- what was lost ---------------------------------------------------------------------------------------------------

TEST_F(Flush, TellsWhatTheServerRefusedOnce) {
    redis.run({"SET", "foreign", "mine"});
    Log log;
    ASSERT_OK(append("foreign", records(2)));
    ASSERT_OK(append("a", records(3)));
    ASSERT_OK(store_at("gap", 5, records(4)));
    EXPECT_FAILS(PITA_ERR_REDIS, flush(), "6 records were lost since the last flush", "\"foreign\"", "WRONGTYPE");
    EXPECT_OK(flush());
    EXPECT_EQ(stored(redis, "a"), records(3));
    EXPECT_EQ(redis.keys(), 2);
    EXPECT_TRUE(log.has(PITA_LOG_ERROR, "\"foreign\""));
    EXPECT_TRUE(log.has(PITA_LOG_ERROR, "\"gap\""));
    const pita_stats_t stats = stats_now();
    EXPECT_EQ(stats.refused, 6U);
    EXPECT_EQ(stats.stored, 3U);
    EXPECT_EQ(stats.queued, 0U);
    // Whoever reads is not told of what others have lost.
    ASSERT_OK(append("foreign", records(1)));
    EXPECT_EQ(take("a").records, records(3));
    EXPECT_STATUS(PITA_ERR_REDIS, flush());
}

TEST_F(Flush, TellsOfAGap) {
    ASSERT_OK(store_at("a", 1, records(1)));
    EXPECT_FAILS(PITA_ERR_GAP, flush(), "1 record was lost", "token_index is 1");
}

TEST_F(Flush, TellsOfAnAppendWhoseAnswerWasLost) {
    Proxy proxy(server);
    open("redis://" + proxy.host_and_port() + "?write=behind&timeout_ms=60000&connect_timeout_ms=60000");
    ASSERT_OK(append("a", records(1)));
    ASSERT_OK(store_at("b", 0, records(1)));
    ASSERT_OK(flush());
    proxy.cut_after(Way::Reply, 0);
    ASSERT_OK(append("a", records(2, 1)));
    EXPECT_FAILS(PITA_ERR_UNCERTAIN, flush(), "2 records were lost", "\"a\"", "may or may not be stored");
    ASSERT_OK(store_at("b", 1, records(1, 1)));
    ASSERT_OK(flush()) << "over a new connection";
    proxy.cut_after(Way::Reply, 0);
    ASSERT_OK(store_at("b", 2, records(2, 2)));
    EXPECT_OK(flush()) << "an indexed one is sent again";
    EXPECT_EQ(stored(redis, "b"), records(4));
    const pita_stats_t stats = stats_now();
    EXPECT_EQ(stats.uncertain, 2U);
    EXPECT_EQ(stats.retried, 2U);
    EXPECT_EQ(stats.stored, 5U);
    EXPECT_EQ(stats.reconnects, 2U);
}

// --- close -----------------------------------------------------------------------------------------------------------

TEST_F(CloseBehind, WritesWhatIsQueued) {
    for (std::size_t i = 0; i < 5000; ++i) {
        ASSERT_OK(append("a", records(1, i)));
    }
    ASSERT_OK(pita_redis_close());
    EXPECT_EQ(stored(redis, "a"), records(5000));
    EXPECT_OK(pita_redis_close()) << "once more";
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, append("a", records(1)));
}

TEST_F(CloseBehind, TellsWhatWasLostBefore) {
    redis.run({"SET", "foreign", "mine"});
    ASSERT_OK(append("foreign", records(2)));
    EXPECT_FAILS(PITA_ERR_REDIS, pita_redis_close(), "2 records were lost", "WRONGTYPE");
    EXPECT_OK(pita_redis_close());
}

TEST_F(CloseBehind, EndsInTimeAndSaysHowManyItGaveUp) {
    RedisServer own;
    open("redis://" + own.host_and_port() + "?write=behind&connect_timeout_ms=30000&timeout_ms=" +
         std::to_string(timeout.count()));
    ASSERT_OK(store_at("a", 0, records(1)));
    ASSERT_OK(flush());
    Log log;
    own.freeze();
    ASSERT_OK(store_at("a", 1, records(4, 1)));
    ASSERT_OK(append("b", records(5)));
    pita_status_t status = PITA_OK;
    EXPECT_LT(time_of([&] { status = pita_redis_close(); }), bound);
    EXPECT_FAILS(PITA_ERR_TIMEOUT, status, "9 records were given up");
    EXPECT_TRUE(log.has(PITA_LOG_ERROR, "9 records were given up"));
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, append("a", records(1)));
    own.thaw();
    EXPECT_TRUE(eventually([] { return threads_named(writer) == 0; }));
}

TEST_F(CloseBehind, EndsInTimeWithoutAServer) {
    RedisServer own;
    open("redis://" + own.host_and_port() + "?write=behind&timeout_ms=" + std::to_string(timeout.count()));
    ASSERT_OK(store_at("a", 0, records(1)));
    ASSERT_OK(flush());
    own.kill();
    ASSERT_OK(store_at("a", 1, records(1)));
    pita_status_t status = PITA_OK;
    EXPECT_LT(time_of([&] { status = pita_redis_close(); }), bound);
    EXPECT_FAILS(PITA_ERR_TIMEOUT, status, "1 record was given up", "refused");
    EXPECT_TRUE(eventually([] { return threads_named(writer) == 0; }));
    EXPECT_OK(pita_redis_close());
}

TEST_F(CloseBehind, LetsAFlushOfAnotherThreadEnd) {
    open(hasty_url("timeout_ms=200"));
    hold();
    ASSERT_OK(append("a", records(1)));
    std::future<pita_status_t> flushing = std::async(std::launch::async, flush);
    EXPECT_EQ(flushing.wait_for(milliseconds(20)), std::future_status::timeout);
    EXPECT_STATUS(PITA_ERR_TIMEOUT, pita_redis_close());
    EXPECT_STATUS(PITA_ERR_TIMEOUT, flushing.get());
}

TEST_F(CloseBehind, TwiceAtOnceIsFine) {
    for (std::size_t i = 0; i < 3000; ++i) {
        ASSERT_OK(append("a", records(1, i)));
    }
    std::future<pita_status_t> other = std::async(std::launch::async, pita_redis_close);
    EXPECT_OK(pita_redis_close());
    EXPECT_OK(other.get());
    EXPECT_EQ(redis.length("a"), 3000);
}

} // namespace
