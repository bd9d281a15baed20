// Many threads, one pool.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "pita_redis.h"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

constexpr std::size_t thread_count = 8;

// Runs `body(0)` to `body(count - 1)` at once, and waits for all.
template <class Body> void on_threads(std::size_t count, Body body) {
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < count; ++i) {
        threads.emplace_back(body, i);
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
}

class Threads : public SessionTest {};

TEST_F(Threads, StoreAndTakeEachTheirOwn) {
    on_threads(thread_count, [](std::size_t thread) {
        for (std::size_t round = 0; round < 20; ++round) {
            const std::string id = std::to_string(thread) + "-" + std::to_string(round);
            for (std::size_t i = 0; i < 10; ++i) {
                const auto index = i % 2 == 0 ? -1 : static_cast<std::int64_t>(i);
                ASSERT_OK(store_at(id, index, records(1, i)));
            }
            ASSERT_EQ(take(id).records, records(10));
        }
    });
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(Threads, AppendToOneListWithoutLosingARecord) {
    on_threads(thread_count, [](std::size_t thread) {
        for (std::size_t i = 0; i < 100; ++i) {
            ASSERT_OK(append("a", records(1, 1000 * thread + i)));
        }
    });
    Records found = stored(redis, "a");
    ASSERT_EQ(found.size(), 100 * thread_count);
    // In the order of each thread.
    std::stable_sort(found.begin(), found.end(), [](const pita_metrics_t &a, const pita_metrics_t &b) {
        return static_cast<int>(a.log_norm) / 1000 < static_cast<int>(b.log_norm) / 1000;
    });
    for (std::size_t thread = 0; thread < thread_count; ++thread) {
        const auto begin = found.begin() + static_cast<std::ptrdiff_t>(100 * thread);
        EXPECT_EQ(Records(begin, begin + 100), records(100, 1000 * thread));
    }
}

TEST_F(Threads, TakeAListOnce) {
    for (std::size_t round = 0; round < 50; ++round) {
        ASSERT_OK(append("a", records(20, round)));
        std::vector<Taken> taken(thread_count);
        on_threads(thread_count, [&](std::size_t thread) { taken[thread] = take("a"); });
        std::size_t takers = 0;
        for (const Taken &one : taken) {
            ASSERT_EQ(one.status, PITA_OK);
            if (!one.records.empty()) {
                ++takers;
                EXPECT_EQ(one.records, records(20, round));
            }
        }
        ASSERT_EQ(takers, 1U) << "in round " << round;
    }
    EXPECT_EQ(redis.keys(), 0) << "no claim is left";
}

TEST_F(Threads, TakeEachRecordOnceWhileOthersAppend) {
    constexpr std::size_t each = 200;
    std::atomic<std::size_t> writers{4};
    std::vector<Records> taken(3);
    on_threads(7, [&](std::size_t thread) {
        if (thread < 4) {
            for (std::size_t i = 0; i < each; ++i) {
                EXPECT_OK(append("a", records(1, thread * each + i)));
            }
            --writers;
            return;
        }
        Records &mine = taken[thread - 4];
        for (bool last = false; !last;) {
            last = writers == 0;
            const Taken some = take("a");
            EXPECT_EQ(some.status, PITA_OK);
            mine.insert(mine.end(), some.records.begin(), some.records.end());
        }
    });
    Records all;
    for (const Records &some : taken) {
        all.insert(all.end(), some.begin(), some.end());
    }
    std::sort(all.begin(), all.end(),
              [](const pita_metrics_t &a, const pita_metrics_t &b) { return a.log_norm < b.log_norm; });
    EXPECT_EQ(all, records(4 * each));
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(Threads, SendTheSameTokensAndLeaveEachOnce) {
    on_threads(thread_count, [](std::size_t) {
        for (std::int64_t token = 0; token < 50; ++token) {
            ASSERT_OK(store_at("a", token, records(1, static_cast<std::size_t>(token))));
        }
    });
    EXPECT_EQ(stored(redis, "a"), records(50));
}

TEST_F(Threads, ShareAsManyConnectionsAsThePoolMayHave) {
    ASSERT_OK(pita_redis_close());
    ASSERT_OK(pita_redis_open(server.url("&pool_size=2").c_str()));
    on_threads(thread_count, [](std::size_t thread) {
        for (std::size_t i = 0; i < 50; ++i) {
            ASSERT_OK(append(std::to_string(thread), records(1, i)));
        }
    });
    pita_stats_t stats = {};
    stats.struct_size = sizeof stats;
    ASSERT_OK(pita_redis_stats(&stats));
    EXPECT_EQ(stats.stored, 50 * thread_count);
    EXPECT_GE(stats.connections, 1U);
    EXPECT_LE(stats.connections, 2U);
    EXPECT_EQ(redis.keys(), static_cast<long long>(thread_count));
}

TEST_F(Threads, EndTheirCallsAsTheyWouldHaveWhenThePoolIsClosed) {
    std::atomic<long long> stored_for_sure{0};
    std::atomic<std::size_t> running{4};
    on_threads(5, [&](std::size_t thread) {
        if (thread == 0) {
            while (running > 0) {
                EXPECT_OK(pita_redis_close());
                EXPECT_OK(pita_redis_open(server.url().c_str()));
            }
            return;
        }
        for (std::size_t i = 0; i < 200; ++i) {
            const pita_status_t status = append("a", records(1));
            EXPECT_TRUE(status == PITA_OK || status == PITA_ERR_NOT_OPEN) << shown(status) << pita_last_error();
            stored_for_sure += status == PITA_OK ? 1 : 0;
        }
        --running;
    });
    EXPECT_EQ(redis.length("a"), stored_for_sure);
}

} // namespace
