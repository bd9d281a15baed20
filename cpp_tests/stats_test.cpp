// pita_redis_stats: what the pool has done.

#include <gtest/gtest.h>

#include <cstdlib>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>

#include "pita_redis.h"
#include "support/eventually.hpp"
#include "support/guarded_page.hpp"
#include "support/logits.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

// The struct as it was at first.
constexpr std::size_t first_size = offsetof(pita_stats_t, reconnects);

class Stats : public SessionTest {
  protected:
    static pita_stats_t read() { return stats_now(); }

    static void expect_in_order(const pita_latency_t &latency) {
        EXPECT_GT(latency.p50_ns, 0U);
        EXPECT_LE(latency.p50_ns, latency.p90_ns);
        EXPECT_LE(latency.p90_ns, latency.p99_ns);
        EXPECT_LE(latency.p99_ns, latency.max_ns);
    }
};

TEST_F(Stats, AreAll0InTheBeginning) {
    pita_stats_t expected = {};
    expected.struct_size = sizeof expected;
    const pita_stats_t stats = read();
    expected.kernel = stats.kernel;
    EXPECT_EQ(std::memcmp(&stats, &expected, sizeof stats), 0);
}

TEST_F(Stats, CountRecords) {
    ASSERT_OK(append("a", records(3)));
    ASSERT_OK(append("a", records(2)));
    ASSERT_OK(store_at("b", 0, records(4)));
    ASSERT_OK(store_at("b", 2, records(1)));
    const float logits[] = {1, 2, 3};
    ASSERT_OK(pita_store_logits_metrics("c", logits, 3, 1, PITA_METRIC_ALL));
    EXPECT_EQ(take("a").records.size(), 5U);
    EXPECT_EQ(take("nobody").records.size(), 0U);

    const pita_stats_t stats = read();
    EXPECT_EQ(stats.appended, 6U);
    EXPECT_EQ(stats.indexed, 5U);
    EXPECT_EQ(stats.stored, 11U);
    EXPECT_EQ(stats.taken, 5U);
    EXPECT_EQ(stats.refused, 0U);
    EXPECT_EQ(stats.retried, 0U);
    EXPECT_EQ(stats.uncertain, 0U);
    EXPECT_EQ(stats.queued, 0U);
    EXPECT_EQ(stats.queued_max, 0U);
}

TEST_F(Stats, CountTheRequestsOfABatchOneByOne) {
    redis.run({"SET", "foreign", "mine"});
    const Logits logits = {1, 2, 3, 4, 5};
    const char *ids[] = {"a", "b", "foreign", nullptr, ""};
    const std::int64_t token_indices[] = {-1, 0, -1, -1, -1};
    pita_batch_t batch = batch_over(logits, 5);
    batch.req_ids = ids;
    batch.token_indices = token_indices;
    EXPECT_STATUS(PITA_ERR_REDIS, pita_store_logits_metrics_batch(&batch));
    const pita_stats_t stats = read();
    EXPECT_EQ(stats.appended, 1U);
    EXPECT_EQ(stats.indexed, 1U);
    EXPECT_EQ(stats.refused, 1U) << "neither the skipped one nor the one with a bad id";
}

TEST_F(Stats, CountWhatWasRefused) {
    redis.run({"SET", "foreign", "mine"});
    EXPECT_STATUS(PITA_ERR_REDIS, append("foreign", records(2)));
    EXPECT_STATUS(PITA_ERR_GAP, store_at("a", 5, records(3)));
    const pita_stats_t stats = read();
    EXPECT_EQ(stats.refused, 5U);
    EXPECT_EQ(stats.stored, 0U);
}

TEST_F(Stats, CountNothingThatWasNotTaken) {
    redis.push("a", {"x", "y"});
    EXPECT_STATUS(PITA_ERR_BAD_RECORD, take("a").status);
    EXPECT_STATUS(PITA_ERR_BUFFER_TOO_SMALL, take("a", 1).status);
    EXPECT_EQ(read().taken, 0U);
}

TEST_F(Stats, CountConnectionsAndBytes) {
    for (int i = 0; i < 10; ++i) {
        ASSERT_OK(append("a", records(100)));
    }
    const pita_stats_t stats = read();
    EXPECT_EQ(stats.connections, 1U);
    EXPECT_GT(stats.bytes_sent, 10 * 100 * std::strlen("0.0,0.0,0.0"));
    EXPECT_GT(stats.bytes_received, 10U);
    EXPECT_LT(stats.bytes_received, stats.bytes_sent);
    ASSERT_EQ(take("a").records.size(), 1000U);
    EXPECT_GT(read().bytes_received, stats.bytes_received + 1000 * std::strlen("0.0,0.0,0.0"));
}

TEST_F(Stats, HaveALatencyOfEveryStore) {
    for (int i = 0; i < 20; ++i) {
        ASSERT_OK(append("a", records(1)));
    }
    ASSERT_OK(take("a").status);
    const pita_stats_t stats = read();
    EXPECT_EQ(stats.store_latency.count, 20U);
    EXPECT_GT(stats.round_trip_latency.count, 20U);
    expect_in_order(stats.store_latency);
    expect_in_order(stats.round_trip_latency);
    EXPECT_LT(stats.store_latency.max_ns, std::chrono::nanoseconds(patience).count());
}

TEST_F(Stats, BeginAnewWithANewPool) {
    ASSERT_OK(append("a", records(1)));
    EXPECT_EQ(read().stored, 1U);
    ASSERT_OK(pita_redis_close());
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    EXPECT_EQ(read().stored, 0U);
    EXPECT_EQ(read().connections, 0U);
}

TEST_F(Stats, DoNotBeginAnewWhenThePoolIsOpenedTwice) {
    ASSERT_OK(append("a", records(1)));
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    EXPECT_EQ(read().stored, 1U);
}

// --- struct_size -----------------------------------------------------------------------------------------------------

TEST_F(Stats, RefuseNull) {
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_redis_stats(nullptr), "NULL");
}

TEST_F(Stats, RefuseAStructThatIsTooSmall) {
    for (const std::size_t size : {std::size_t{0}, std::size_t{8}, first_size - 1}) {
        pita_stats_t stats = {};
        stats.struct_size = size;
        stats.stored = 77;
        EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_redis_stats(&stats), "struct_size is " + std::to_string(size));
        EXPECT_EQ(stats.stored, 77U);
    }
}

TEST_F(Stats, FillNoMoreThanAnEarlierStructHolds) {
    const GuardedPage page;
    auto *const earlier = reinterpret_cast<pita_stats_t *>(page.end() - first_size);
    earlier->struct_size = first_size;
    ASSERT_OK(append("a", records(1)));
    ASSERT_OK(pita_redis_stats(earlier));
    EXPECT_EQ(earlier->stored, 1U);
    EXPECT_NE(earlier->kernel, nullptr);
}

TEST_F(Stats, RefuseAStructThatIsFarTooLargeAndReadNothingBeyondItsEnd) {
    const GuardedPage page;
    auto *const last = new (page.end() - sizeof(pita_stats_t)) pita_stats_t{};
    for (const std::size_t size : {std::size_t{1} << 20, std::size_t{1} << 40, SIZE_MAX / 2, SIZE_MAX}) {
        last->struct_size = size;
        EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_redis_stats(last), "struct_size is " + std::to_string(size));
    }
}

TEST_F(Stats, RefuseAStructThatIsFarTooLargeAmongZeros) {
    static struct {
        pita_stats_t stats;
        char zeros[1 << 20];
    } all;
    for (const std::size_t size : {std::size_t{1} << 20, sizeof all, SIZE_MAX}) {
        all.stats.struct_size = size;
        EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_redis_stats(&all.stats), "struct_size is " + std::to_string(size));
    }
}

// A caller of a later version, whose struct has grown.
struct LaterStats {
    pita_stats_t known;
    std::uint64_t unknown[2];
};

TEST_F(Stats, FillWhatTheyKnowOfALaterStruct) {
    ASSERT_OK(append("a", records(1)));
    LaterStats later = {};
    later.known.struct_size = sizeof later;
    EXPECT_OK(pita_redis_stats(&later.known));
    EXPECT_EQ(later.known.struct_size, sizeof later);
    EXPECT_EQ(later.known.stored, 1U);
    EXPECT_EQ(later.unknown[0], 0U);
    EXPECT_EQ(later.unknown[1], 0U);
}

TEST_F(Stats, NameTheKernel) {
    const std::string kernel = read().kernel;
    const char *asked_for = std::getenv("PITA_KERNEL");
    if (asked_for != nullptr && *asked_for != '\0') {
        EXPECT_EQ(kernel, asked_for);
    }
    EXPECT_TRUE(kernel == "avx512" || kernel == "avx2" || kernel == "neon" || kernel == "scalar") << kernel;
}

TEST_F(Stats, RefuseALaterStructWhoseNewMembersSaySomething) {
    LaterStats later = {};
    later.known.struct_size = sizeof later;
    later.unknown[1] = 1;
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_redis_stats(&later.known),
                 "struct_size is " + std::to_string(sizeof later));
    EXPECT_EQ(later.unknown[1], 1U);
}

} // namespace
