// Redis is away, dies, comes back, hangs, or refuses.

#include <gtest/gtest.h>

#include <future>
#include <string>

#include "pita_redis.h"
#include "support/blocked_call.hpp"
#include "support/closed_port.hpp"
#include "support/eventually.hpp"
#include "support/logits.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

// Every call that needs Redis, on request "a". Those that give a count expect that a failure makes it 0.
struct Call {
    const char *name;
    pita_status_t (*call)();
    bool stores;
};

void PrintTo(const Call &call, std::ostream *out) {
    *out << call.name;
}

const Call calls[] = {
    {"Ping", [] { return pita_redis_ping(); }, false},
    {"StoreLogits",
     [] {
         const float logit = 1;
         return pita_store_logits_metrics("a", &logit, 1, 1, PITA_METRIC_ALL);
     },
     true},
    {"Append", [] { return append("a", records(1)); }, true},
    {"StoreIndexed", [] { return store_at("a", 0, records(1)); }, true},
    {"Take", [] { return take("a").status; }, false},
    {"TakeWait",
     [] {
         pita_metrics_t out = {};
         std::size_t count = 7;
         const pita_status_t status = pita_take_metrics_wait("a", 0, 0, &out, 1, &count);
         EXPECT_TRUE(status == PITA_OK || count == 0);
         return status;
     },
     false},
    {"Count",
     [] {
         std::size_t count = 7;
         const pita_status_t status = pita_count_metrics("a", &count);
         EXPECT_TRUE(status == PITA_OK || count == 0);
         return status;
     },
     false},
    {"Discard", [] { return pita_discard_metrics("a"); }, false},
};

class EveryCall : public testing::TestWithParam<Call> {};

#define INSTANTIATE_FOR_EVERY_CALL(suite)                                                                              \
    INSTANTIATE_TEST_SUITE_P(Calls, suite, testing::ValuesIn(calls), [](const auto &test) { return test.param.name; })

// --- away ------------------------------------------------------------------------------------------------------------

using NobodyListens = EveryCall;

TEST_P(NobodyListens, FailsAtOnceAsUnavailable) {
    const ClosedPort nobody;
    const Session session("redis://" + nobody.host_and_port() + "?connect_timeout_ms=20000&timeout_ms=20000");
    pita_status_t status = PITA_OK;
    EXPECT_LT(time_of([&] { status = GetParam().call(); }), milliseconds(10000));
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, status, nobody.host_and_port());
}

TEST_P(NobodyListens, FailsAsUnavailableOnAUnixSocketToo) {
    const Session session("redis+unix:///nowhere/redis.sock");
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, GetParam().call(), "/nowhere/redis.sock");
}

INSTANTIATE_FOR_EVERY_CALL(NobodyListens);

TEST(NobodyListens, FailsEveryRequestOfABatch) {
    const ClosedPort nobody;
    const Session session("redis://" + nobody.host_and_port());
    const float logits[] = {1, 2};
    const char *ids[] = {"a", ""};
    pita_status_t statuses[] = {1, 1};
    pita_batch_t batch = batch_over(logits, PITA_DTYPE_F32, 2, 1);
    batch.req_ids = ids;
    batch.statuses = statuses;
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, pita_store_logits_metrics_batch(&batch), "entry 0");
    EXPECT_EQ(statuses[0], PITA_ERR_UNAVAILABLE);
    EXPECT_EQ(statuses[1], PITA_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(stats_now().stored, 0U);
}

TEST(HostThatDoesNotExist, IsUnavailable) {
    const Session session("redis://nowhere.invalid");
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, pita_redis_ping(), "nowhere.invalid");
}

// --- dies and comes back ---------------------------------------------------------------------------------------------

using ServerThatRestarts = EveryCall;

TEST_P(ServerThatRestarts, IsFoundBackByTheNextCall) {
    RedisServer server;
    const Session session(server.url());
    ASSERT_OK(pita_redis_ping());
    server.restart();
    EXPECT_OK(GetParam().call());
    Hiredis redis(server);
    EXPECT_EQ(redis.length("a"), GetParam().stores ? 1 : 0);
}

INSTANTIATE_FOR_EVERY_CALL(ServerThatRestarts);

using ServerThatHungUp = EveryCall;

TEST_P(ServerThatHungUp, IsFoundBackByTheNextCall) {
    RedisServer &server = shared_server();
    Hiredis redis(server);
    redis.run({"FLUSHALL"});
    const Session session(server.url());
    ASSERT_OK(pita_redis_ping());
    redis.run({"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"});
    EXPECT_OK(GetParam().call());
    EXPECT_EQ(redis.length("a"), GetParam().stores ? 1 : 0);
    EXPECT_EQ(stats_now().connections, 2U);
}

INSTANTIATE_FOR_EVERY_CALL(ServerThatHungUp);

TEST(ServerThatDied, IsUnavailableUntilItIsBack) {
    RedisServer server;
    const Session session(server.url());
    ASSERT_OK(append("a", records(1)));
    server.kill();
    for (const Call &call : calls) {
        EXPECT_STATUS(PITA_ERR_UNAVAILABLE, call.call()) << call.name;
    }
    server.restart();
    EXPECT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
    for (const Call &call : calls) {
        EXPECT_OK(call.call()) << call.name;
    }
}

// --- the connection is lost in the middle of a call ------------------------------------------------------------------

class LostAnswer : public SessionTest {};

TEST_F(LostAnswer, OfAnAppendIsUncertainAndNotSentAgain) {
    BlockedCall<std::string> call(redis, [] {
        EXPECT_STATUS(PITA_ERR_UNCERTAIN, append("a", records(2)));
        return std::string(pita_last_error());
    });
    EXPECT_NE(call.cut_off().find("\"a\""), std::string::npos);
    EXPECT_EQ(redis.length("a"), 0);
    const pita_stats_t stats = stats_now();
    EXPECT_EQ(stats.uncertain, 2U);
    EXPECT_EQ(stats.retried, 0U);
    EXPECT_EQ(stats.stored, 0U);
    EXPECT_OK(append("a", records(1)));
}

TEST_F(LostAnswer, OfAnAppendToAListInUseIsUncertainToo) {
    ASSERT_OK(append("a", records(1)));
    BlockedCall<pita_status_t> call(redis, [] { return append("a", records(1)); });
    EXPECT_EQ(call.cut_off(), PITA_ERR_UNCERTAIN);
    EXPECT_EQ(redis.length("a"), 1);
}

TEST_F(LostAnswer, OfAnIndexedStoreIsAskedForAgain) {
    BlockedCall<pita_status_t> call(redis, [] { return store_at("a", 0, records(3)); });
    EXPECT_EQ(call.cut_off(), PITA_OK);
    EXPECT_EQ(stored(redis, "a"), records(3));
    const pita_stats_t stats = stats_now();
    EXPECT_EQ(stats.retried, 3U);
    EXPECT_EQ(stats.uncertain, 0U);
    EXPECT_EQ(stats.indexed, 3U);
}

TEST_F(LostAnswer, OfATakeIsAskedForAgain) {
    ASSERT_OK(append("a", records(3)));
    BlockedCall<Taken> call(redis, [] { return take("a"); });
    const Taken taken = call.cut_off();
    EXPECT_EQ(taken.status, PITA_OK);
    EXPECT_EQ(taken.records, records(3));
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(LostAnswer, OfADiscardIsAskedForAgain) {
    ASSERT_OK(append("a", records(3)));
    BlockedCall<pita_status_t> call(redis, [] { return pita_discard_metrics("a"); });
    EXPECT_EQ(call.cut_off(), PITA_OK);
    EXPECT_FALSE(redis.exists("a"));
}

TEST_F(LostAnswer, OfABatchIsToldForEachRequest) {
    static pita_status_t statuses[2];
    BlockedCall<pita_status_t> call(redis, [] {
        const float logits[] = {1, 2};
        const char *ids[] = {"appended", "indexed"};
        const std::int64_t token_indices[] = {-1, 0};
        pita_batch_t batch = batch_over(logits, PITA_DTYPE_F32, 2, 1);
        batch.req_ids = ids;
        batch.token_indices = token_indices;
        batch.statuses = statuses;
        return pita_store_logits_metrics_batch(&batch);
    });
    EXPECT_EQ(call.cut_off(), PITA_ERR_UNCERTAIN);
    EXPECT_EQ(statuses[0], PITA_ERR_UNCERTAIN);
    EXPECT_EQ(statuses[1], PITA_OK);
    EXPECT_EQ(redis.length("appended"), 0);
    EXPECT_EQ(redis.length("indexed"), 1);
}

// --- hangs -----------------------------------------------------------------------------------------------------------

class FrozenServer : public EveryCall {
  protected:
    static constexpr milliseconds timeout{300};

    // Five times what was asked for, and some for a busy machine.
    static constexpr milliseconds bound = 5 * timeout;

    // A pool with a connection that was used before, on a server that then freezes.
    FrozenServer() : session(url()) { EXPECT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; })); }

    std::string url(const std::string &more = "") const {
        return "redis://" + server.host_and_port() + "?connect_timeout_ms=250&timeout_ms=300" + more;
    }

    RedisServer server;
    Session session;
};

TEST_P(FrozenServer, CostsACallItsTimeoutAtMost) {
    server.freeze();
    pita_status_t status = PITA_OK;
    EXPECT_LT(time_of([&] { status = GetParam().call(); }), bound);
    EXPECT_STATUS(GetParam().stores ? PITA_ERR_UNCERTAIN : PITA_ERR_TIMEOUT, status);
    server.thaw();
    EXPECT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
}

TEST_P(FrozenServer, CannotBeConnectedTo) {
    ASSERT_OK(pita_redis_close());
    server.freeze();
    const Session fresh("redis://" + server.host_and_port() + "?connect_timeout_ms=300&timeout_ms=60000");
    pita_status_t status = PITA_OK;
    EXPECT_LT(time_of([&] { status = GetParam().call(); }), bound);
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, status, server.host_and_port());
    server.thaw();
    Hiredis redis(server);
    EXPECT_EQ(redis.keys(), 0) << "nothing was stored";
}

INSTANTIATE_FOR_EVERY_CALL(FrozenServer);

class FrozenServerWithRecords : public FrozenServer {
  protected:
    FrozenServerWithRecords() : redis(server) { redis.push("a", {"1,2,3", "4,5,6"}); }

    // Has a take of "a" time out that the server executes afterwards.
    void time_out_a_take() {
        // The server knows the take's script, so that it can execute what it finds when it wakes up.
        ASSERT_TRUE(eventually([] { return take("another").status == PITA_OK; }));
        const long long commands = redis.info("total_commands_processed");
        server.freeze();
        EXPECT_STATUS(PITA_ERR_TIMEOUT, take("a").status);
        server.thaw();
        // Besides what is asked here, it has read what the take had sent.
        long long asked_here = 1;
        ASSERT_TRUE(eventually([&] { return redis.info("total_commands_processed") > commands + asked_here++; }));
    }

    // Takes "a" once the server is quick enough again.
    static Records take_at_last() {
        Taken taken = {};
        EXPECT_TRUE(eventually([&] { return (taken = take("a")).status == PITA_OK; }));
        return taken.records;
    }

    // Counts "a" once the server is quick enough again.
    static std::size_t count_at_last() {
        std::size_t count = 0;
        EXPECT_TRUE(eventually([&] { return pita_count_metrics("a", &count) == PITA_OK; }));
        return count;
    }

    const Records all = {{1, 2, 3}, {4, 5, 6}};
    Hiredis redis;
};

TEST_F(FrozenServerWithRecords, LosesNothingToATakeThatTimedOut) {
    time_out_a_take();
    EXPECT_EQ(take_at_last(), all);
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(FrozenServerWithRecords, LosesNothingToATakeThatTimedOutBeforeThePoolWasOpenedAnew) {
    time_out_a_take();
    ASSERT_OK(pita_redis_close());
    const Session again(url());
    EXPECT_EQ(take_at_last(), all);
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(FrozenServerWithRecords, GetsThemBackFromATakeThatTimedOutToLiveAsLongAsBefore) {
    redis.run({"PEXPIRE", "a", "500000"});
    time_out_a_take();
    EXPECT_EQ(count_at_last(), 2U);
    EXPECT_EQ(stored(redis, "a"), all);
    EXPECT_LE(redis.life_ms("a"), 500000);
    EXPECT_GT(redis.life_ms("a"), 500000 - patience.count());
}

TEST_F(FrozenServerWithRecords, GetsThemBackFromATakeThatTimedOutToLiveForEver) {
    ASSERT_OK(pita_redis_close());
    const Session for_ever(url("&ttl_s=0"));
    time_out_a_take();
    EXPECT_EQ(count_at_last(), 2U);
    EXPECT_EQ(stored(redis, "a"), all);
    EXPECT_EQ(redis.life_ms("a"), -1);
}

TEST_F(FrozenServerWithRecords, BoundsAWaitByBothTimeouts) {
    server.freeze();
    pita_metrics_t out = {};
    std::size_t count = 7;
    pita_status_t status = PITA_OK;
    EXPECT_LT(time_of([&] { status = pita_take_metrics_wait("a", 1, 200, &out, 1, &count); }), bound + bound);
    EXPECT_STATUS(PITA_ERR_TIMEOUT, status);
    EXPECT_EQ(count, 0U);
    server.thaw();
}

TEST_F(FrozenServerWithRecords, BoundsTheWaitForAConnection) {
    pita_redis_close();
    const Session narrow("redis://" + server.host_and_port() +
                         "?pool_size=1&connect_timeout_ms=30000&timeout_ms=300");
    ASSERT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
    server.freeze();
    const auto ping = [] {
        pita_status_t status = PITA_OK;
        EXPECT_LT(time_of([&] { status = pita_redis_ping(); }), bound);
        return status;
    };
    std::future<pita_status_t> first = std::async(std::launch::async, ping);
    std::future<pita_status_t> second = std::async(std::launch::async, ping);
    for (const pita_status_t status : {first.get(), second.get()}) {
        EXPECT_NE(status, PITA_OK);
    }
    server.thaw();
}

// --- refuses ---------------------------------------------------------------------------------------------------------

TEST(ServerWithoutMemory, RefusesStoresInItsOwnWords) {
    // Less than what an empty server has in use.
    const RedisServer server({"--maxmemory", "1", "--maxmemory-policy", "noeviction"});
    Hiredis redis(server);
    const Session session(server.url());
    EXPECT_FAILS(PITA_ERR_REDIS, append("a", records(1)), "OOM", "\"a\"");
    EXPECT_FAILS(PITA_ERR_REDIS, store_at("a", 0, records(1)), "OOM", "\"a\"");
    EXPECT_OK(pita_redis_ping());
    EXPECT_EQ(stats_now().refused, 2U);
    redis.run({"CONFIG", "SET", "maxmemory", "0"});
    EXPECT_OK(append("a", records(1)));
}

TEST(ServerThatMayOnlyBeRead, RefusesStoresInItsOwnWords) {
    const ClosedPort primary;
    const RedisServer server({"--replicaof", "127.0.0.1 " + primary.host_and_port().substr(10)});
    const Session session(server.url());
    EXPECT_OK(pita_redis_ping());
    EXPECT_FAILS(PITA_ERR_REDIS, append("a", records(1)), "READONLY");
    EXPECT_FAILS(PITA_ERR_REDIS, store_at("a", 0, records(1)), "READONLY");
    EXPECT_FAILS(PITA_ERR_REDIS, pita_discard_metrics("a"), "READONLY");
    EXPECT_EQ(stats_now().stored, 0U);
}

// A list that is taken must be removed, which such a server does not let anybody do.
TEST(ServerThatMayOnlyBeRead, RefusesATakeAndKeepsTheList) {
    const RedisServer server;
    Hiredis redis(server);
    redis.push("a", {"1,2,3"});
    redis.run({"CONFIG", "SET", "min-replicas-to-write", "1"});
    const Session session(server.url());
    EXPECT_FAILS(PITA_ERR_REDIS, take("a").status, "NOREPLICAS");
    EXPECT_EQ(redis.length("a"), 1);
}

TEST(ServerWithTooManyClients, IsUnavailable) {
    const RedisServer server;
    Hiredis redis(server);
    redis.run({"CONFIG", "SET", "maxclients", "1"});
    const Session session(server.url());
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, append("a", records(1)), "max number of clients");
    redis.run({"CONFIG", "SET", "maxclients", "100"});
    EXPECT_TRUE(eventually([] { return append("a", records(1)) == PITA_OK; }));
}

} // namespace
