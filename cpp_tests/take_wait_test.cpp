// pita_take_metrics_wait: takes once enough records are there.

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <string>
#include <thread>
#include <utility>

#include "pita_redis.h"
#include "support/eventually.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

constexpr auto long_enough = static_cast<std::uint32_t>(patience.count());

class TakeWait : public SessionTest {
  protected:
    // An outcome with the count that goes with failures, too.
    struct Outcome {
        pita_status_t status;
        std::size_t count;
        Records records;
    };

    static Outcome wait_for(std::size_t expected, std::uint32_t timeout_ms, std::size_t capacity = 100) {
        Outcome outcome{PITA_OK, 7, Records(capacity, record(99))};
        outcome.status = pita_take_metrics_wait("a", expected, timeout_ms, outcome.records.data(), capacity,
                                                &outcome.count);
        outcome.records.resize(outcome.status == PITA_OK ? outcome.count : 0);
        return outcome;
    }

    static std::uint64_t round_trips() {
        pita_stats_t stats = {};
        stats.struct_size = sizeof stats;
        EXPECT_OK(pita_redis_stats(&stats));
        return stats.round_trip_latency.count;
    }
};

TEST_F(TakeWait, TakesAtOnceWhatIsThere) {
    ASSERT_OK(append("a", records(3)));
    Outcome outcome = {};
    EXPECT_LT(time_of([&] { outcome = wait_for(3, long_enough); }), patience / 2);
    EXPECT_OK(outcome.status);
    EXPECT_EQ(outcome.records, records(3));
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(TakeWait, TakesAllWhereThereAreMore) {
    ASSERT_OK(append("a", records(5)));
    EXPECT_EQ(wait_for(3, long_enough).records, records(5));
}

TEST_F(TakeWait, For0TakesWhateverThereIs) {
    Outcome outcome = wait_for(0, long_enough);
    EXPECT_OK(outcome.status);
    EXPECT_EQ(outcome.count, 0U);
    ASSERT_OK(append("a", records(2)));
    EXPECT_EQ(wait_for(0, long_enough).records, records(2));
}

TEST_F(TakeWait, WaitsForAWriter) {
    ASSERT_OK(append("a", records(1)));
    const std::uint64_t before = round_trips();
    std::future<Outcome> waiting = std::async(std::launch::async, [] { return wait_for(4, long_enough); });
    // It has looked, and found too few.
    ASSERT_TRUE(eventually([&] { return round_trips() > before; }));
    for (std::size_t i = 1; i < 4; ++i) {
        ASSERT_OK(append("a", records(1, i)));
    }
    const Outcome outcome = waiting.get();
    EXPECT_OK(outcome.status);
    EXPECT_EQ(outcome.records, records(4));
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(TakeWait, GivesTheRecordsToOneOfTwoAndLetsTheOtherWait) {
    for (int round = 0; round < 50; ++round) {
        SCOPED_TRACE(round);
        ASSERT_OK(append("a", records(3)));
        std::atomic<int> ready{0};
        const auto compete = [&] {
            for (++ready; ready < 2;) {
                std::this_thread::yield();
            }
            return wait_for(3, 10);
        };
        std::future<Outcome> other = std::async(std::launch::async, compete);
        Outcome winner = compete();
        Outcome loser = other.get();
        if (winner.records.empty()) {
            std::swap(winner, loser);
        }
        ASSERT_EQ(winner.status, PITA_OK);
        ASSERT_EQ(winner.records, records(3));
        ASSERT_EQ(loser.status, PITA_ERR_TIMEOUT);
        ASSERT_EQ(loser.count, 0U);
        ASSERT_EQ(redis.keys(), 0);
    }
}

TEST_F(TakeWait, GivesUpWhenTimeIsOverAndTakesNothing) {
    ASSERT_OK(append("a", records(2)));
    Outcome outcome = {};
    const milliseconds took = time_of([&] { outcome = wait_for(3, 50); });
    EXPECT_FAILS(PITA_ERR_TIMEOUT, outcome.status, "50 ms", "3 records", "\"a\" has 2");
    EXPECT_EQ(outcome.count, 2U);
    EXPECT_GE(took, milliseconds(50));
    EXPECT_EQ(stored(redis, "a"), records(2));
    EXPECT_EQ(redis.keys(), 1);
}

TEST_F(TakeWait, GivesUpAtOnceWithoutTime) {
    const Outcome outcome = wait_for(1, 0);
    EXPECT_STATUS(PITA_ERR_TIMEOUT, outcome.status);
    EXPECT_EQ(outcome.count, 0U);
}

TEST_F(TakeWait, WithTooLittleRoomSaysHowMuchIsNeeded) {
    ASSERT_OK(append("a", records(5)));
    for (const std::size_t capacity : {0, 2, 4}) {
        const Outcome outcome = wait_for(5, long_enough, capacity);
        EXPECT_STATUS(PITA_ERR_BUFFER_TOO_SMALL, outcome.status);
        EXPECT_EQ(outcome.count, 5U);
    }
    EXPECT_EQ(stored(redis, "a"), records(5));
    EXPECT_EQ(wait_for(5, long_enough, 5).records, records(5));
}

TEST_F(TakeWait, LeavesAListWithAForeignElement) {
    redis.push("a", {"1,2,3", "x"});
    const Outcome outcome = wait_for(2, long_enough);
    EXPECT_STATUS(PITA_ERR_BAD_RECORD, outcome.status);
    EXPECT_EQ(outcome.count, 0U);
    EXPECT_EQ(redis.length("a"), 2);
}

TEST_F(TakeWait, DoesNotWaitForAListWhereThereIsAnotherValue) {
    redis.run({"SET", "a", "mine"});
    Outcome outcome = {};
    EXPECT_LT(time_of([&] { outcome = wait_for(1, long_enough); }), patience / 2);
    EXPECT_FAILS(PITA_ERR_REDIS, outcome.status, "WRONGTYPE");
    EXPECT_EQ(outcome.count, 0U);
}

TEST_F(TakeWait, RefusesBadArgumentsAtOnceAndTakesNothing) {
    ASSERT_OK(append("a", records(1)));
    pita_metrics_t out = {};
    std::size_t count = 7;
    const auto wait_as = [&](const char *id) { return pita_take_metrics_wait(id, 1, long_enough, &out, 1, &count); };
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, wait_as(nullptr), "req_id", "NULL");
    EXPECT_EQ(count, 0U);
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, wait_as(""), "req_id", "empty");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, wait_as(std::string(1025, 'x').c_str()), "req_id", "1024");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, wait_as("\xFF"), "req_id", "UTF-8");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_take_metrics_wait("a", 1, 1, &out, 1, nullptr), "count", "NULL");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_take_metrics_wait("a", 1, 1, nullptr, 1, &count), "out", "NULL");
    EXPECT_EQ(stored(redis, "a"), records(1));
}

} // namespace
