// What a server may have against us for a while: its own words are told, nothing is stored or taken, and when the cause
// is gone, the same pool works again.

#include <gtest/gtest.h>

#include <filesystem>
#include <future>
#include <string>
#include <vector>

#include "pita_redis.h"
#include "support/eventually.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

pita_status_t count(const std::string &id) {
    std::size_t found = 0;
    return pita_count_metrics(id.c_str(), &found);
}

// Expects that stores and takes of "a" are refused, and leave `lying` there.
void expect_refused(Hiredis &redis, pita_status_t status, const std::string &words, const Records &lying = {}) {
    EXPECT_FAILS(status, append("a", records(1)), words, "\"a\"");
    EXPECT_FAILS(status, store_at("a", 0, records(1)), words, "\"a\"");
    EXPECT_FAILS(status, take("a").status, words);
    EXPECT_FAILS(status, pita_discard_metrics("a"), words);
    EXPECT_EQ(stored(redis, "a"), lying);
    EXPECT_EQ(redis.keys(), lying.empty() ? 0 : 1) << "no claim is left";
}

// Expects that everything works, on a list that is not there yet.
void expect_works(const std::string &id) {
    EXPECT_OK(append(id, records(1)));
    EXPECT_OK(store_at(id, 1, records(1, 1)));
    EXPECT_EQ(take(id).records, records(2));
}

// --- rights ----------------------------------------------------------------------------------------------------------

class PassingRefusal : public testing::Test {
  protected:
    std::string url(const std::string &login) const {
        return "redis://" + login + "@" + server.host_and_port() + "?timeout_ms=60000&connect_timeout_ms=60000";
    }

    RedisServer server;
    Hiredis redis{server};
};

TEST_F(PassingRefusal, OfAListOfAnotherType) {
    const Session session(server.url());
    redis.run({"SET", "a", "text"});
    EXPECT_FAILS(PITA_ERR_REDIS, append("a", records(1)), "WRONGTYPE", "\"a\"");
    EXPECT_FAILS(PITA_ERR_REDIS, take("a").status, "WRONGTYPE");
    EXPECT_EQ(redis.run({"GET", "a"}).text, "text");
    redis.run({"DEL", "a"});
    expect_works("a");
}

TEST_F(PassingRefusal, OfAPasswordThatTheServerGetsToKnow) {
    const Session session(url("user:right"));
    redis.run({"ACL", "SETUSER", "user", "on", ">wrong", "~*", "+@all"});
    expect_refused(redis, PITA_ERR_AUTH, "WRONGPASS");
    redis.run({"ACL", "SETUSER", "user", ">right"});
    expect_works("a");
}

TEST_F(PassingRefusal, OfSomebodyWithoutAPassword) {
    const Session session(server.url());
    redis.set("requirepass", "secret");
    EXPECT_FAILS(PITA_ERR_AUTH, append("a", records(1)), "NOAUTH", "\"a\"");
    EXPECT_FAILS(PITA_ERR_AUTH, take("a").status, "NOAUTH");
    redis.set("requirepass", "");
    EXPECT_EQ(redis.keys(), 0);
    expect_works("a");
}

TEST_F(PassingRefusal, OfARightThatIsGivenLater) {
    redis.run({"ACL", "SETUSER", "user", "on", ">right", "~*", "+@read", "+ping"});
    redis.push("a", {"0,0.25,0.5"});
    const Session session(url("user:right"));
    expect_refused(redis, PITA_ERR_AUTH, "NOPERM", records(1));
    redis.run({"ACL", "SETUSER", "user", "+@all"});
    expect_works("b");
    EXPECT_EQ(take("a").records, records(1));
}

// --- replicas --------------------------------------------------------------------------------------------------------

class Replica : public testing::Test {
  protected:
    // In step with its primary.
    Replica() {
        replica.run({"REPLICAOF", "127.0.0.1", std::to_string(primary_server.port())});
        EXPECT_TRUE(eventually([this] { return replica.info_text("master_link_status") == "up"; }));
    }

    RedisServer primary_server{{"--repl-diskless-sync-delay", "0"}};
    RedisServer replica_server;
    Hiredis primary{primary_server};
    Hiredis replica{replica_server};
};

TEST_F(Replica, RefusesStoresAndTakesUntilItIsPromoted) {
    primary.push("a", {"0,0.25,0.5"});
    ASSERT_TRUE(eventually([this] { return replica.exists("a"); }));
    const Session session(replica_server.url());
    EXPECT_OK(pita_redis_ping());
    EXPECT_OK(count("a"));
    expect_refused(replica, PITA_ERR_REDIS, "READONLY", records(1));
    EXPECT_EQ(stored(primary, "a"), records(1));
    replica.run({"REPLICAOF", "NO", "ONE"});
    expect_works("b");
    EXPECT_EQ(take("a").records, records(1));
}

TEST_F(Replica, ThatHasLostItsPrimaryMayServeNobody) {
    const Session session(replica_server.url());
    replica.set("replica-serve-stale-data", "no");
    primary_server.kill();
    ASSERT_TRUE(eventually([this] { return replica.info_text("master_link_status") == "down"; }));
    EXPECT_FAILS(PITA_ERR_REDIS, append("a", records(1)), "MASTERDOWN", "\"a\"");
    EXPECT_FAILS(PITA_ERR_REDIS, take("a").status, "MASTERDOWN");
    replica.run({"REPLICAOF", "NO", "ONE"});
    EXPECT_EQ(replica.keys(), 0);
    expect_works("a");
}

// --- memory ----------------------------------------------------------------------------------------------------------

// A server that had room, and runs out of it.
TEST(FullServer, StoresWholeListsOnlyAndLetsThemBeTaken) {
    const RedisServer server({"--maxmemory-policy", "noeviction"});
    Hiredis redis(server);
    const Session session(server.url());
    ASSERT_OK(pita_redis_ping());
    redis.set("maxmemory", std::to_string(redis.info("used_memory") + (1 << 20)));
    const Records half_a_thousand = records(500);
    std::size_t fitting = 0;
    pita_status_t status = PITA_OK;
    while (fitting < 1000 && (status = store_at(std::to_string(fitting), 0, half_a_thousand)) == PITA_OK) {
        ++fitting;
    }
    EXPECT_FAILS(PITA_ERR_REDIS, status, "OOM", "\"" + std::to_string(fitting) + "\"");
    EXPECT_GT(fitting, 0U);
    EXPECT_EQ(redis.keys(), static_cast<long long>(fitting)) << "nothing is stored of what was refused";
    EXPECT_FAILS(PITA_ERR_REDIS, append("0", records(1)), "OOM", "\"0\"");
    EXPECT_EQ(redis.length("0"), 500);
    // Taking is what makes room.
    for (std::size_t i = 0; i < fitting; ++i) {
        EXPECT_EQ(take(std::to_string(i)).records, half_a_thousand) << i;
    }
    EXPECT_EQ(redis.keys(), 0);
    expect_works("a");
}

// --- disk ------------------------------------------------------------------------------------------------------------

TEST(ServerThatCannotSave, IsRefusingUntilItCan) {
    const RedisServer server({"--save", "3600 1000000", "--stop-writes-on-bgsave-error", "yes"});
    Hiredis redis(server);
    const Session session(server.url());
    redis.push("a", {"0,0.25,0.5"});
    ASSERT_OK(pita_redis_ping());
    const auto save = [&](const std::string &outcome) {
        redis.run({"BGSAVE"});
        return eventually([&] {
            return redis.info("rdb_bgsave_in_progress") == 0 && redis.info_text("rdb_last_bgsave_status") == outcome;
        });
    };
    // Even root cannot put a file in the place of a folder with something in it.
    const std::string dump = server.directory() + "/dump.rdb";
    std::filesystem::create_directories(dump + "/in the way");
    ASSERT_TRUE(save("err"));
    expect_refused(redis, PITA_ERR_REDIS, "MISCONF", records(1));
    std::filesystem::remove_all(dump);
    ASSERT_TRUE(save("ok"));
    expect_works("b");
    EXPECT_EQ(take("a").records, records(1));
}

// --- busy ------------------------------------------------------------------------------------------------------------

// It comes back slowly enough to be asked meanwhile.
TEST(ServerThatLoads, IsUnavailableUntilItHas) {
    RedisServer server({"--key-load-delay", "200000", "--loading-process-events-interval-bytes", "1024",
                        "--rdbcompression", "no"});
    {
        Hiredis redis(server);
        // The server looks up from its work after each kilobyte.
        for (int i = 0; i < 100; ++i) {
            redis.run({"SET", "filling " + std::to_string(i), std::string(2000, 'x')});
        }
        redis.push("a", {"0,0.25,0.5"});
        redis.run({"SAVE"});
    }
    const Session session(server.url());
    ASSERT_OK(pita_redis_ping());
    server.restart();
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, append("a", records(1)), "LOADING", "\"a\"");
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, store_at("a", 0, records(1)), "LOADING", "\"a\"");
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, take("a").status, "LOADING");
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, pita_redis_ping(), "LOADING");
    Hiredis redis(server);
    redis.set("key-load-delay", "0");
    EXPECT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
    expect_works("b");
    EXPECT_EQ(take("a").records, records(1));
    EXPECT_EQ(redis.keys(), 100);
}

TEST(ServerThatRunsAScript, IsBusyUntilThatEnds) {
    const RedisServer server({"--busy-reply-threshold", "1"});
    Hiredis redis(server);
    const Session session(server.url());
    ASSERT_OK(pita_redis_ping());
    std::future<void> script = std::async(std::launch::async, [&] {
        Hiredis other(server);
        EXPECT_THROW(other.run({"EVAL", "while true do end", "0"}), std::runtime_error);
    });
    // PING is refused as well, once the script counts as slow.
    EXPECT_TRUE(eventually([&] {
        try {
            redis.run({"PING"});
            return false;
        } catch (const std::runtime_error &) {
            return true;
        }
    }));
    EXPECT_FAILS(PITA_ERR_REDIS, append("a", records(1)), "BUSY", "\"a\"");
    EXPECT_FAILS(PITA_ERR_REDIS, take("a").status, "BUSY");
    redis.run({"SCRIPT", "KILL"});
    script.get();
    EXPECT_EQ(redis.keys(), 0);
    expect_works("a");
}

// --- connections -----------------------------------------------------------------------------------------------------

class CrowdedServer : public testing::Test {
  protected:
    // Lets nobody in who is not in already.
    void shut() { redis.set("maxclients", std::to_string(redis.info("connected_clients"))); }
    void let_in() { redis.set("maxclients", "100"); }

    RedisServer server;
    Hiredis redis{server};
};

TEST_F(CrowdedServer, IsUnavailableToWhoComesTooLate) {
    const Session session(server.url());
    shut();
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, append("a", records(1)), "max number of clients", "\"a\"");
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, take("a").status, "max number of clients");
    let_in();
    EXPECT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
    EXPECT_EQ(redis.keys(), 0);
    expect_works("a");
}

// The pool has a connection that works: what cannot be had is a second one.
TEST_F(CrowdedServer, StillServesTheConnectionsThatThereAre) {
    const Session session(server.url());
    ASSERT_OK(pita_redis_ping());
    shut();
    redis.run({"CLIENT", "PAUSE", "3600000", "WRITE"});
    std::future<pita_status_t> first = std::async(std::launch::async, [] { return append("a", records(1)); });
    EXPECT_TRUE(eventually([&] { return redis.info("blocked_clients") == 1; }));
    // While the only connection is lent.
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, pita_redis_ping(), "max number of clients");
    redis.run({"CLIENT", "UNPAUSE"});
    EXPECT_EQ(first.get(), PITA_OK);
    EXPECT_OK(append("a", records(1, 1)));
    EXPECT_EQ(stored(redis, "a"), records(2));
}

} // namespace
