// Redis Sentinel: the master is found, failovers are followed, and what was OK is there once and in order.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <set>
#include <thread>

#include "support/behind.hpp"
#include "support/log.hpp"
#include "support/sentinels.hpp"

using namespace support;

namespace {

class SentinelTest : public testing::Test {
  protected:
    void open(const std::string &options) { session_ = std::make_unique<Session>(sentinels.url(options)); }
    void close() { session_.reset(); }

    // Stores record after record, each until it is OK, while `meanwhile` happens; returns how many.
    template <class Action> std::int64_t store_while(Action meanwhile) {
        std::atomic<bool> is_over{false};
        std::thread action([&] {
            meanwhile();
            is_over = true;
        });
        std::int64_t index = 0;
        while (!is_over || index < 50) {
            if (store_at("a", index, {record(static_cast<std::size_t>(index))}) == PITA_OK) {
                ++index;
                // Not more than can be looked at.
                std::this_thread::sleep_for(std::chrono::microseconds(500));
            } else {
                std::this_thread::sleep_for(milliseconds(5));
            }
        }
        action.join();
        return index;
    }

    void kill_the_master() {
        std::this_thread::sleep_for(milliseconds(300));
        sentinels.first().kill();
        sentinels.await_failover(sentinels.first().port());
    }

    // All that was OK is there once and in order; of the one that was tried last it may not be known.
    static void expect_all(std::int64_t stored) {
        const Taken taken = take("a", 100000);
        ASSERT_OK(taken.status);
        EXPECT_GE(taken.records.size(), static_cast<std::size_t>(stored));
        EXPECT_LE(taken.records.size(), static_cast<std::size_t>(stored) + 1);
        EXPECT_EQ(taken.records, records(taken.records.size()));
        const std::set<double> different = [&] {
            std::set<double> all;
            for (const pita_metrics_t &one : taken.records) {
                all.insert(one.log_norm);
            }
            return all;
        }();
        const auto found = static_cast<std::int64_t>(different.size());
        std::printf("sentinel: a failover under load: %lld records OK, %lld lost, %zu doubled\n", static_cast<long long>(stored),
                    static_cast<long long>(std::max<std::int64_t>(stored - found, 0)), taken.records.size() - different.size());
    }

    Sentinels sentinels;

  private:
    std::unique_ptr<Session> session_;
};

TEST_F(SentinelTest, FindsTheMaster) {
    open("");
    ASSERT_OK(pita_redis_ping());
    ASSERT_OK(append("a", records(3)));
    EXPECT_EQ(Hiredis(sentinels.master()).length("a"), 3);
    EXPECT_EQ(take("a").records, records(3));
    EXPECT_EQ(Hiredis(sentinels.master()).keys(), 0);
}

TEST_F(SentinelTest, SentinelsMayBeGone) {
    sentinels.sentinel(0).kill();
    sentinels.sentinel(1).freeze();
    open("&timeout_ms=10000");
    ASSERT_OK(append("a", records(1)));
    close();
    sentinels.sentinel(1).thaw();
    sentinels.sentinel(1).kill();
    sentinels.sentinel(2).kill();
    open("&timeout_ms=1000");
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, append("a", records(1)), "sentinel 127.0.0.1", "refused");
}

TEST_F(SentinelTest, AnUnknownServiceIsNamed) {
    const Session session("redis+sentinel://" + sentinels.sentinel(0).host_and_port() + "/other");
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, pita_redis_ping(), "knows no service \"other\"");
}

TEST_F(SentinelTest, AKilledMasterLosesNothingThatReplicasHave) {
    open("&timeout_ms=3000&wait_replicas=1");
    ASSERT_OK(append("before", records(5)));
    const std::int64_t stored = store_while([&] { kill_the_master(); });
    EXPECT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
    EXPECT_EQ(take("before").records, records(5));
    // Without a replica no store is OK; with the old master as one it is.
    EXPECT_STATUS(PITA_ERR_UNCERTAIN, store_at("b", 0, records(1)));
    sentinels.first().restart();
    EXPECT_TRUE(eventually([] { return store_at("b", 0, records(1)) == PITA_OK; }));
    expect_all(stored);
}

TEST_F(SentinelTest, AMasterThatBecomesAReplicaIsLeft) {
    open("&timeout_ms=5000");
    ASSERT_OK(append("before", records(5)));
    const int port = sentinels.master().port();
    const std::int64_t stored = store_while([&] {
        Hiredis(sentinels.sentinel(0)).run({"SENTINEL", "FAILOVER", Sentinels::service});
        sentinels.await_failover(port);
        std::this_thread::sleep_for(milliseconds(300));
    });
    EXPECT_EQ(take("before").records, records(5));
    expect_all(stored);
}

// Its connections stay as they are, and writes are refused with READONLY.
TEST_F(SentinelTest, AServerThatRefusesWritesIsAskedNoMore) {
    open("&timeout_ms=300");
    ASSERT_OK(append("a", records(1)));
    for (std::size_t i = 0; i < 3; ++i) {
        Hiredis(sentinels.sentinel(i)).run({"SENTINEL", "REMOVE", Sentinels::service});
    }
    Hiredis(sentinels.first()).run({"REPLICAOF", "127.0.0.1", "1"});
    EXPECT_STATUS(PITA_ERR_UNAVAILABLE, append("a", records(1)));
    std::size_t count = 0;
    EXPECT_STATUS(PITA_ERR_UNAVAILABLE, pita_take_metrics("a", nullptr, 0, &count));
}

TEST_F(SentinelTest, BehindRidesOverAFailover) {
    open("&write=behind&timeout_ms=20000&wait_replicas=1");
    const std::int64_t stored = store_while([&] { kill_the_master(); });
    sentinels.first().restart();
    ASSERT_OK(flush());
    expect_all(stored);
    EXPECT_EQ(stats_now().uncertain, 0U);
}

TEST(WaitReplicas, AStoreWithoutEnoughReplicasIsUncertain) {
    RedisServer server;
    const Session session("redis://" + server.host_and_port() + "?timeout_ms=300&wait_replicas=1");
    EXPECT_FAILS(PITA_ERR_UNCERTAIN, store_at("a", 0, records(1)), "0 of wait_replicas=1 replicas");
    EXPECT_STATUS(PITA_ERR_UNCERTAIN, append("b", records(1)));
    Hiredis redis(server);
    EXPECT_EQ(redis.length("a"), 1);
    EXPECT_EQ(redis.length("b"), 1) << "an append is sent once";
    EXPECT_EQ(stats_now().uncertain, 2U);
}

TEST(WaitReplicas, AReplicaThatIsThereIsWaitedFor) {
    RedisServer server({"--repl-diskless-sync-delay", "0"});
    RedisServer replica({"--replicaof", "127.0.0.1 " + std::to_string(server.port())});
    ASSERT_TRUE(eventually([&] { return Hiredis(replica).info_text("master_link_status") == "up"; }));
    const Session session(server.url("&wait_replicas=1"));
    for (std::size_t index = 0; index < 100; ++index) {
        ASSERT_OK(store_at("a", static_cast<std::int64_t>(index), {record(index)}));
        ASSERT_EQ(Hiredis(replica).length("a"), static_cast<long long>(index + 1));
    }
}

} // namespace
