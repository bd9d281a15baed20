// Redis Sentinel: the master is found, failovers are followed, and what was OK is there once and in order.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <set>
#include <thread>

#include "support/behind.hpp"
#include "support/certificates.hpp"
#include "support/child.hpp"
#include "support/log.hpp"
#include "support/processes.hpp"
#include "support/sentinels.hpp"

using namespace support;

namespace {

void store_and_take(const std::string &id) {
    ASSERT_OK(append(id, records(2)));
    ASSERT_OK(store_at(id, 2, records(1, 2)));
    ASSERT_EQ(take(id).records, records(3));
}

class SentinelTest : public testing::Test {
  protected:
    // `login` is "user:password@".
    void open(const std::string &options, const std::string &login = "") {
        close();
        session_ = std::make_unique<Session>(sentinels.url(options, login));
    }
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
        sentinels.kill_the_master();
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
        std::printf("sentinel: a failover under load: %lld records OK, %lld lost, %zu doubled\n",
                    static_cast<long long>(stored), static_cast<long long>(std::max<std::int64_t>(stored - found, 0)),
                    taken.records.size() - different.size());
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

// The sentinels cannot make the old master a replica: it goes on taking what it gets, as any does for some seconds.
class SentinelReplaced : public SentinelTest {
  protected:
    void replace_the_master() {
        Hiredis(sentinels.first()).run({"ACL", "SETUSER", "default", "-slaveof", "-replicaof"});
        Hiredis(sentinels.sentinel(0)).run({"SENTINEL", "FAILOVER", Sentinels::service});
        sentinels.await_failover(sentinels.first().port());
    }

    void expect_that_it_is_left(const std::string &options) {
        open(options);
        ASSERT_OK(append("a", records(1)));
        ASSERT_OK(flush());
        replace_the_master();
        EXPECT_TRUE(eventually([&] {
            EXPECT_OK(append("b", records(1)));
            EXPECT_OK(flush());
            return Hiredis(sentinels.master()).length("b") > 0;
        }));
    }
};

TEST_F(SentinelReplaced, AMasterThatLivesOnIsLeft) {
    expect_that_it_is_left("");
}

TEST_F(SentinelReplaced, BehindAMasterThatLivesOnIsLeft) {
    expect_that_it_is_left("&write=behind");
}

TEST_F(SentinelReplaced, WhatIsStoredAfterAPauseGoesToTheNextMasterAtOnce) {
    open("");
    ASSERT_OK(append("a", records(1)));
    replace_the_master();
    std::this_thread::sleep_for(milliseconds(2100));
    ASSERT_OK(append("b", records(2)));
    EXPECT_EQ(Hiredis(sentinels.master()).length("b"), 2);
}

// Its connections stay as they are, and writes are refused with READONLY.
TEST_F(SentinelTest, AServerThatRefusesWritesIsAskedNoMore) {
    open("&timeout_ms=300");
    ASSERT_OK(append("a", records(1)));
    ASSERT_OK(store_at("b", 0, records(1)));
    for (std::size_t i = 0; i < 3; ++i) {
        Hiredis(sentinels.sentinel(i)).run({"SENTINEL", "REMOVE", Sentinels::service});
    }
    Hiredis(sentinels.first()).run({"REPLICAOF", "127.0.0.1", "1"});
    // The script's answer is that of its writes.
    EXPECT_STATUS(PITA_ERR_UNAVAILABLE, store_at("b", 1, records(1)));
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, append("a", records(1)), "away for");
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

// A list that is begun at the first master, and goes on at the next one; its life there in milliseconds.
class SentinelTtl : public SentinelTest {
  protected:
    long long life_at_the_next_master(const std::string &ttl) {
        open("&timeout_ms=5000&ttl_s=" + ttl);
        EXPECT_OK(store_at("a", 0, records(1)));
        EXPECT_TRUE(eventually([&] { return Hiredis(sentinels.replica()).length("a") == 1; }));
        sentinels.kill_the_master();
        EXPECT_TRUE(eventually([] { return store_at("a", 1, records(1, 1)) == PITA_OK; }));
        Hiredis next(sentinels.master());
        EXPECT_EQ(stored(next, "a"), records(2));
        return next.life_ms("a");
    }
};

// The pool has told the first master already how long the list is to live.
TEST_F(SentinelTtl, AListLivesItsTimeAlsoAtTheNextMaster) {
    const long long life = life_at_the_next_master("100");
    EXPECT_GT(life, 0);
    EXPECT_LE(life, 100000);
}

TEST_F(SentinelTtl, AListThatLivesForEverDoesSoAtTheNextMaster) {
    EXPECT_EQ(life_at_the_next_master("0"), -1);
}

// --- TLS -------------------------------------------------------------------------------------------------------------

class SentinelTls : public testing::Test {
  protected:
    std::string url(const Authority &trusted) const {
        return sentinels.url("&timeout_ms=10000&tls_ca=" + trusted.file());
    }

    Authority authority;
    Sentinels sentinels{authority.options(), RedisServer::Port::tls};
};

TEST_F(SentinelTls, SentinelsAndEachMasterAreTrusted) {
    const Session session(url(authority));
    store_and_take("a");
    ASSERT_OK(append("b", records(1)));
    EXPECT_EQ(Hiredis(sentinels.master()).length("b"), 1);
    sentinels.kill_the_master();
    EXPECT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
    store_and_take("c");
    ASSERT_OK(append("d", records(1)));
    EXPECT_EQ(Hiredis(sentinels.master()).length("d"), 1);
}

TEST_F(SentinelTls, SentinelsOfAnotherAuthorityAreNot) {
    const Authority another;
    const Session session(url(another));
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, append("a", records(1)), "sentinel 127.0.0.1:", "TLS", "certificate");
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, pita_redis_ping(), "sentinel 127.0.0.1:", "TLS", "certificate");
    EXPECT_EQ(Hiredis(sentinels.master()).keys(), 0);
}

// --- users and passwords ---------------------------------------------------------------------------------------------

// Both need escapes in a URL.
const std::string server_password = "p@ss,hunter";
const std::string server_login = "user:p%40ss%2Chunter@";
const std::string sentinel_password = "watch&prey";
const std::string sentinel_login = "&sentinel_user=watcher&sentinel_pass=watch%26prey";

// Servers and sentinels have a user each, besides the one without a password that they use among themselves.
class SentinelAuth : public SentinelTest {
  protected:
    SentinelAuth() {
        for (RedisServer *server : {&sentinels.first(), &sentinels.replica()}) {
            Hiredis(*server).run({"ACL", "SETUSER", "user", "on", ">" + server_password, "~*", "+@all"});
        }
        for (std::size_t i = 0; i < 3; ++i) {
            Hiredis(sentinels.sentinel(i)).run({"ACL", "SETUSER", "watcher", "on", ">" + sentinel_password, "+@all"});
        }
    }

    bool the_master_knows_the_user() {
        return Hiredis(sentinels.master()).run({"CLIENT", "LIST"}).text.find(" user=user ") != std::string::npos;
    }

    // Expects that a call fails because of the sentinels, for that reason, and that nothing tells a password.
    static void expect_refused(const std::string &reason) {
        Log log;
        EXPECT_FAILS(PITA_ERR_AUTH, pita_redis_ping(), "sentinel 127.0.0.1:", reason);
        std::string said = pita_last_error();
        for (const auto &[level, line] : log.lines()) {
            said += line;
        }
        for (const char *secret : {"hunter", "prey", "guess"}) {
            EXPECT_EQ(said.find(secret), std::string::npos) << said;
        }
    }
};

TEST_F(SentinelAuth, SentinelsAndEachMasterGetTheirOwnPassword) {
    open("&timeout_ms=5000" + sentinel_login, server_login);
    store_and_take("a");
    EXPECT_TRUE(the_master_knows_the_user());
    sentinels.kill_the_master();
    EXPECT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
    store_and_take("b");
    EXPECT_TRUE(the_master_knows_the_user());
}

TEST_F(SentinelAuth, WhatSentinelsRefuseIsNamed) {
    for (const std::string who : {"watcher", "nobody"}) {
        open("&sentinel_user=" + who + "&sentinel_pass=guess", server_login);
        expect_refused("WRONGPASS");
    }
    for (std::size_t i = 0; i < 3; ++i) {
        Hiredis(sentinels.sentinel(i)).run({"ACL", "SETUSER", "default", "resetpass", ">" + sentinel_password});
    }
    open("", server_login);
    expect_refused("NOAUTH");
    open("&sentinel_pass=watch%26prey", server_login);
    EXPECT_OK(pita_redis_ping());
}

TEST_F(SentinelAuth, WhatTheMasterRefusesIsNamed) {
    open(sentinel_login, "user:guess@");
    EXPECT_FAILS(PITA_ERR_AUTH, pita_redis_ping(), "the master at 127.0.0.1:", "WRONGPASS");
    EXPECT_EQ(std::string(pita_last_error()).find("guess"), std::string::npos) << pita_last_error();
}

// --- forks -----------------------------------------------------------------------------------------------------------

class SentinelFork : public SentinelTest {};

TEST_F(SentinelFork, LeavesParentAndChildEachWithConnectionsOfItsOwn) {
    open("&timeout_ms=10000");
    store_and_take("before");
    const int port = sentinels.master().port();
    ASSERT_EQ(sockets_to(port), 1);
    Child child([&] {
        EXPECT_EQ(sockets_to(port), 0);
        store_and_take("child");
        EXPECT_EQ(sockets_to(port), 1) << "its own";
    });
    store_and_take("parent");
    EXPECT_TRUE(child.succeeded());
    store_and_take("after");
    EXPECT_EQ(stats_now().connections, 1U) << "the child has not touched the parent's connection";
    EXPECT_EQ(Hiredis(sentinels.master()).keys(), 0);
}

TEST_F(SentinelFork, LeavesParentAndChildEachToFollowAFailover) {
    open("&timeout_ms=5000");
    Gate is_used, is_failed_over;
    const auto comes_back = [] { return eventually([] { return pita_redis_ping() == PITA_OK; }); };
    Child child([&] {
        store_and_take("child");
        is_used.open();
        EXPECT_TRUE(is_failed_over.wait());
        EXPECT_TRUE(comes_back());
        EXPECT_OK(append("of the child", records(1)));
    });
    store_and_take("parent");
    EXPECT_TRUE(is_used.wait());
    sentinels.kill_the_master();
    is_failed_over.open();
    EXPECT_TRUE(comes_back());
    EXPECT_OK(append("of the parent", records(1)));
    EXPECT_TRUE(child.succeeded());
    Hiredis master(sentinels.master());
    EXPECT_EQ(stored(master, "of the child"), records(1));
    EXPECT_EQ(stored(master, "of the parent"), records(1));
}

TEST_F(SentinelFork, LeavesTheChildAQueueOfItsOwn) {
    open("&write=behind&timeout_ms=10000");
    ASSERT_OK(append("parent", records(3)));
    Child child([] {
        EXPECT_EQ(stats_now().queued, 0U);
        EXPECT_OK(append("child", records(2)));
        EXPECT_OK(flush());
        EXPECT_EQ(take("child").records, records(2));
        EXPECT_OK(pita_redis_close());
    });
    ASSERT_OK(append("parent", records(2, 3)));
    EXPECT_TRUE(child.succeeded());
    ASSERT_OK(flush());
    EXPECT_EQ(take("parent").records, records(5));
    EXPECT_EQ(Hiredis(sentinels.master()).keys(), 0);
}

// --- wait_replicas ---------------------------------------------------------------------------------------------------

TEST(WaitReplicas, AStoreWithoutEnoughReplicasIsUncertain) {
    RedisServer server;
    const Session session("redis://" + server.host_and_port() + "?timeout_ms=1000&wait_replicas=1");
    EXPECT_FAILS(PITA_ERR_UNCERTAIN, store_at("a", 0, records(1)), "0 of wait_replicas=1 replicas");
    EXPECT_LE(stats_now().retried, 3U) << "never when too little time is left for an answer";
    EXPECT_STATUS(PITA_ERR_UNCERTAIN, append("b", records(1)));
    Hiredis redis(server);
    EXPECT_EQ(redis.length("a"), 1);
    EXPECT_EQ(redis.length("b"), 1) << "an append is sent once";
    EXPECT_EQ(stats_now().uncertain, 2U);
}

// The server said so before it fell silent.
TEST(WaitReplicas, AStoreThatRunsOutOfTimeTellsWhatItLacked) {
    RedisServer server;
    const Session session("redis://" + server.host_and_port() + "?timeout_ms=2000&wait_replicas=1");
    std::atomic<bool> is_over{false};
    std::thread freezes([&] {
        Hiredis redis(server);
        const auto waits_again = [&] { return stats_now().retried > 0 && redis.info("blocked_clients") > 0; };
        EXPECT_TRUE(eventually([&] { return is_over || waits_again(); }));
        server.freeze();
    });
    EXPECT_FAILS(PITA_ERR_UNCERTAIN, store_at("a", 0, records(1)), "0 of wait_replicas=1 replicas");
    is_over = true;
    freezes.join();
    server.thaw();
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
