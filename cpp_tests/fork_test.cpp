// A forked child uses the pool with connections of its own.

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "pita_redis.h"
#include "support/child.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

class Fork : public SessionTest {
  protected:
    static void store_and_take(const std::string &id) {
        for (std::size_t round = 0; round < 50; ++round) {
            ASSERT_OK(append(id, records(2)));
            ASSERT_OK(store_at(id, 2, records(1, 2)));
            ASSERT_EQ(take(id).records, records(3));
        }
    }

    static std::uint64_t connections() {
        pita_stats_t stats = {};
        stats.struct_size = sizeof stats;
        EXPECT_OK(pita_redis_stats(&stats));
        return stats.connections;
    }
};

TEST_F(Fork, LeavesParentAndChildEachWithAPoolThatWorks) {
    store_and_take("before");
    Child child([] { store_and_take("child"); });
    store_and_take("parent");
    EXPECT_TRUE(child.succeeded());
    store_and_take("after");
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(Fork, LeavesTheParentItsConnections) {
    ASSERT_OK(pita_redis_ping());
    const std::uint64_t before = connections();
    Child child([] {
        ASSERT_OK(pita_redis_ping());
        ASSERT_OK(pita_redis_close());
    });
    ASSERT_TRUE(child.succeeded());
    ASSERT_OK(pita_redis_ping());
    EXPECT_EQ(connections(), before);
}

TEST_F(Fork, BeforeTheFirstCallIsFine) {
    Child child([] { store_and_take("child"); });
    store_and_take("parent");
    EXPECT_TRUE(child.succeeded());
}

TEST_F(Fork, LeavesAChildThatCanTakeWhatTheParentStores) {
    ASSERT_OK(pita_redis_ping());
    Child child([] {
        Records out(3);
        std::size_t count = 0;
        EXPECT_OK(pita_take_metrics_wait("a", 3, static_cast<std::uint32_t>(patience.count()), out.data(), 3, &count));
        EXPECT_EQ(out, records(3));
    });
    for (std::size_t i = 0; i < 3; ++i) {
        ASSERT_OK(append("a", records(1, i)));
    }
    EXPECT_TRUE(child.succeeded());
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(Fork, WorksForAChildsChild) {
    ASSERT_OK(pita_redis_ping());
    Child child([] {
        store_and_take("child");
        Child grandchild([] { store_and_take("grandchild"); });
        store_and_take("child");
        EXPECT_TRUE(grandchild.succeeded());
    });
    store_and_take("parent");
    EXPECT_TRUE(child.succeeded());
}

TEST_F(Fork, LetsTheChildOpenAPoolOfItsOwn) {
    ASSERT_OK(pita_redis_ping());
    const std::string other = server.url("&prefix=child:");
    Child child([&] {
        ASSERT_OK(pita_redis_close());
        ASSERT_OK(pita_redis_open(other.c_str()));
        ASSERT_OK(append("a", records(1)));
    });
    EXPECT_TRUE(child.succeeded());
    EXPECT_EQ(redis.length("child:a"), 1);
    EXPECT_OK(pita_redis_ping());
}

// Whatever locks those threads hold at that moment stay locked in the child.
TEST_F(Fork, WhileOtherThreadsStoreDoesNotHangTheChild) {
    std::atomic<bool> done{false};
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < 3; ++i) {
        threads.emplace_back([&, i] {
            while (!done) {
                EXPECT_OK(append("thread " + std::to_string(i), records(1)));
            }
        });
    }
    for (int i = 0; i < 100; ++i) {
        Child child([] {
            ASSERT_OK(append("child", records(1)));
            ASSERT_OK(pita_redis_close());
        });
        const testing::AssertionResult result = child.succeeded();
        EXPECT_TRUE(result) << "fork " << i;
        if (!result) {
            break;
        }
    }
    done = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(redis.length("child"), 100);
}

} // namespace
