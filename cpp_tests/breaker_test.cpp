// While Redis is away, a call costs next to nothing; when it is back, that is noticed.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <future>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "pita_redis.h"
#include "support/blocked_call.hpp"
#include "support/child.hpp"
#include "support/closed_port.hpp"
#include "support/eventually.hpp"
#include "support/processes.hpp"
#include "support/proxy.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;
using std::chrono::microseconds;

namespace {

constexpr milliseconds timeout{400};
// Five times what was asked for, and some for a busy machine.
constexpr milliseconds bound = 5 * timeout;
// A server that is back is found within a second; here so, for a busy machine.
constexpr milliseconds found{2000};
// At once: tens of microseconds, but on a slow machine and under valgrind.
constexpr microseconds at_once{5000};
constexpr std::size_t thread_count = 8;

// The library's thread that looks for Redis.
const std::string searcher = "pita-probe";

bool works() {
    return pita_redis_ping() == PITA_OK;
}

// Those of earlier pools have a last look, within a second.
bool nobody_looks() {
    return eventually([] { return threads_named(searcher) == 0; });
}

microseconds median(std::vector<microseconds> times) {
    const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
    std::nth_element(times.begin(), middle, times.end());
    return *middle;
}

// Calls of all kinds, each of which fails at once because Redis is known to be away.
std::vector<microseconds> failing_calls(std::size_t count) {
    const std::array<pita_status_t (*)(), 4> kinds = {
        [] { return pita_redis_ping(); },
        [] { return append("a", records(1)); },
        [] { return store_at("a", 0, records(1)); },
        [] { return take("a", 1).status; },
    };
    std::vector<microseconds> times;
    for (std::size_t i = 0; i < count; ++i) {
        const auto start = Clock::now();
        const pita_status_t status = kinds[i % kinds.size()]();
        times.push_back(std::chrono::duration_cast<microseconds>(Clock::now() - start));
        EXPECT_FAILS(PITA_ERR_UNAVAILABLE, status, "(away for ", " s)") << "call " << i;
    }
    return times;
}

template <class Body> void on_threads(Body body) {
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < thread_count; ++i) {
        threads.emplace_back(body);
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
}

std::uint64_t connections() {
    pita_stats_t stats = {};
    stats.struct_size = sizeof stats;
    EXPECT_OK(pita_redis_stats(&stats));
    return stats.connections;
}

class Breaker : public testing::Test {
  protected:
    Breaker() { EXPECT_TRUE(nobody_looks()); }
    ~Breaker() override { pita_redis_close(); }

    // Opens a pool that has been used before.
    void open() {
        ASSERT_OK(pita_redis_open(url().c_str()));
        ASSERT_TRUE(eventually(works));
    }

    std::string url() const {
        return "redis://" + server.host_and_port() + "?connect_timeout_ms=350&timeout_ms=400";
    }

    // The first call after the server has gone away finds that out.
    void find_out(pita_status_t expected) {
        pita_status_t status = PITA_OK;
        EXPECT_LT(time_of([&] { status = pita_redis_ping(); }), bound);
        EXPECT_STATUS(expected, status);
    }

    RedisServer server;
};

// --- dead ------------------------------------------------------------------------------------------------------------

TEST_F(Breaker, LetsCallsFailAtOnceWhileTheServerIsDead) {
    open();
    server.kill();
    find_out(PITA_ERR_UNAVAILABLE);
    const microseconds typical = median(failing_calls(1000));
    std::cout << "a call while Redis is away: " << typical.count() << " us\n";
    EXPECT_LT(typical, at_once);
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, append("a", records(1)), server.host_and_port(), "\"a\"");
}

TEST_F(Breaker, LetsCallsOfManyThreadsFailAtOnceWhileTheServerIsDead) {
    open();
    server.kill();
    on_threads([&] {
        find_out(PITA_ERR_UNAVAILABLE);
        EXPECT_LT(median(failing_calls(100)), at_once);
    });
    EXPECT_TRUE(eventually([] { return threads_named(searcher) == 1; })) << "one for all";
    server.restart();
    on_threads([] { EXPECT_TRUE(eventually(works, found)); });
}

TEST_F(Breaker, FindsTheServerBackSoon) {
    open();
    server.kill();
    find_out(PITA_ERR_UNAVAILABLE);
    server.restart();
    EXPECT_TRUE(eventually(works, found));
    EXPECT_OK(append("a", records(1)));
    EXPECT_EQ(take("a").records, records(1));
    EXPECT_TRUE(nobody_looks());
}

// By then it is looked for once a second.
TEST_F(Breaker, FindsTheServerBackSoonAfterALongTime) {
    open();
    server.kill();
    find_out(PITA_ERR_UNAVAILABLE);
    EXPECT_FALSE(eventually(works, milliseconds(1600))) << "nobody is there";
    server.restart();
    EXPECT_TRUE(eventually(works, found));
}

TEST_F(Breaker, TellsForHowLongTheServerHasBeenAway) {
    open();
    server.kill();
    find_out(PITA_ERR_UNAVAILABLE);
    const auto says = [](const std::string &words) {
        EXPECT_STATUS(PITA_ERR_UNAVAILABLE, pita_redis_ping());
        return std::string(pita_last_error()).find(words) != std::string::npos;
    };
    EXPECT_TRUE(eventually([&] { return says("(away for 0.3 s)"); }));
}

TEST_F(Breaker, WorksTimeAndAgain) {
    open();
    for (int i = 0; i < 3; ++i) {
        server.kill();
        find_out(PITA_ERR_UNAVAILABLE);
        failing_calls(4);
        server.restart();
        EXPECT_TRUE(eventually(works, found)) << i;
    }
}

// --- frozen ----------------------------------------------------------------------------------------------------------

TEST_F(Breaker, LetsAFrozenServerCostItsTimeoutOnce) {
    open();
    server.freeze();
    find_out(PITA_ERR_TIMEOUT);
    EXPECT_LT(median(failing_calls(200)), at_once);
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, pita_redis_ping(), server.host_and_port());
    server.thaw();
    EXPECT_TRUE(eventually(works, found));
}

TEST_F(Breaker, LetsAFrozenServerCostEachThreadItsTimeoutOnce) {
    open();
    server.freeze();
    on_threads([&] {
        EXPECT_LT(time_of([&] { EXPECT_NE(pita_redis_ping(), PITA_OK); }), bound);
        EXPECT_LT(time_of([] { failing_calls(200); }), bound);
    });
    server.thaw();
    on_threads([] { EXPECT_TRUE(eventually(works, found)); });
}

// --- short -----------------------------------------------------------------------------------------------------------

class BreakerInDoubt : public testing::Test {
  protected:
    BreakerInDoubt() { EXPECT_TRUE(nobody_looks()); }

    RedisServer server;
    Hiredis redis{server};
    Session session{server.url()};
};

TEST_F(BreakerInDoubt, WaitsForTheServerToSettleAnIndexedStore) {
    BlockedCall<pita_status_t> call(redis, [] { return store_at("a", 0, records(3)); });
    server.kill();
    server.restart();
    EXPECT_EQ(call.result(), PITA_OK);
    Hiredis anew(server);
    EXPECT_EQ(stored(anew, "a"), records(3));
    EXPECT_EQ(anew.keys(), 1);
}

// The server stays away until the store is known to be waiting for it.
TEST_F(BreakerInDoubt, WaitsForTheServerAlsoWhereOthersFailAtOnce) {
    BlockedCall<pita_status_t> call(redis, [] { return store_at("a", 0, records(3)); });
    server.kill();
    EXPECT_TRUE(eventually([] { return threads_named(searcher) == 1; }));
    EXPECT_LT(median(failing_calls(20)), at_once);
    server.restart();
    EXPECT_EQ(call.result(), PITA_OK);
    Hiredis anew(server);
    EXPECT_EQ(stored(anew, "a"), records(3));
}

TEST_F(BreakerInDoubt, DoesNotWaitToTellThatAnAppendIsUncertain) {
    BlockedCall<pita_status_t> call(redis, [] { return append("a", records(3)); });
    server.kill();
    EXPECT_EQ(call.result(), PITA_ERR_UNCERTAIN) << "while the server is away";
    server.restart();
    Hiredis anew(server);
    EXPECT_EQ(anew.keys(), 0);
}

// --- another pool ----------------------------------------------------------------------------------------------------

TEST_F(Breaker, IsForgottenWithThePool) {
    open();
    server.kill();
    find_out(PITA_ERR_UNAVAILABLE);
    ASSERT_OK(pita_redis_close());
    ASSERT_OK(pita_redis_open(url().c_str()));
    find_out(PITA_ERR_UNAVAILABLE);
    EXPECT_EQ(std::string(pita_last_error()).find("away for"), std::string::npos) << "found out anew";
    ASSERT_OK(pita_redis_close());
    server.restart();
    ASSERT_OK(pita_redis_open(url().c_str()));
    EXPECT_OK(pita_redis_ping());
    EXPECT_OK(append("a", records(1)));
}

TEST_F(Breaker, LeavesNoThreadThatLooksWhenThePoolIsClosed) {
    for (int i = 0; i < 5; ++i) {
        ASSERT_OK(pita_redis_open(url().c_str()));
        server.kill();
        find_out(PITA_ERR_UNAVAILABLE);
        EXPECT_TRUE(eventually([] { return threads_named(searcher) > 0; }));
        ASSERT_OK(pita_redis_close());
    }
    EXPECT_TRUE(nobody_looks());
}

// --- what does not open it -------------------------------------------------------------------------------------------

TEST_F(Breaker, StaysClosedWhereTheServerRefuses) {
    Hiredis redis(server);
    ASSERT_OK(pita_redis_open(("redis://user:right@" + server.host_and_port() + "?timeout_ms=60000").c_str()));
    for (int i = 0; i < 3; ++i) {
        EXPECT_FAILS(PITA_ERR_AUTH, pita_redis_ping(), "WRONGPASS");
        EXPECT_STATUS(PITA_ERR_AUTH, append("a", records(1)));
    }
    EXPECT_EQ(threads_named(searcher), 0);
    redis.run({"ACL", "SETUSER", "user", "on", ">right", "~*", "+@all"});
    EXPECT_OK(append("a", records(1))) << "at once";
}

TEST_F(Breaker, StaysClosedWhereAllConnectionsAreInUse) {
    Hiredis redis(server);
    const std::string url = "redis://" + server.host_and_port() + "?pool_size=1&connect_timeout_ms=60000&timeout_ms=";
    ASSERT_OK(pita_redis_open((url + "60000").c_str()));
    ASSERT_OK(pita_redis_ping());
    ASSERT_OK(pita_redis_close());
    ASSERT_OK(pita_redis_open((url + "1000").c_str()));
    ASSERT_OK(pita_redis_ping());
    redis.run({"CLIENT", "PAUSE", "200", "WRITE"});
    std::thread other([] { EXPECT_OK(append("a", records(1))); });
    EXPECT_TRUE(eventually([&] { return redis.info("blocked_clients") == 1; }));
    EXPECT_OK(pita_redis_ping()) << "when the other call is over";
    other.join();
    EXPECT_EQ(threads_named(searcher), 0);
    EXPECT_EQ(connections(), 1U);
}

class BreakerBehindAProxy : public testing::Test {
  protected:
    BreakerBehindAProxy() { EXPECT_TRUE(nobody_looks()); }
    ~BreakerBehindAProxy() override { pita_redis_close(); }

    // A pool with one open connection.
    void open(milliseconds time, const std::string &more) {
        const std::string timeout_ms = std::to_string(time.count());
        const std::string options = "?ttl_s=0&connect_timeout_ms=60000&timeout_ms=" + timeout_ms + more;
        ASSERT_OK(pita_redis_open(("redis://" + proxy.host_and_port() + options).c_str()));
        ASSERT_TRUE(eventually(works));
        ASSERT_TRUE(nobody_looks());
    }

    RedisServer server;
    Hiredis redis{server};
    Proxy proxy{server};
};

// The first holds the only connection, the second waits for it, gets its place when most of its time is over, and
// cannot connect in the rest. True where it came so: on a busy machine the first may time out before.
bool connects_late(Proxy &proxy, milliseconds time) {
    std::string first_words;
    std::string second_words;
    const auto start = Clock::now();
    proxy.meet("$5\r\nfirst", Fate::IsHeldBack);
    std::thread first([&] {
        EXPECT_STATUS(PITA_ERR_UNCERTAIN, append("first", records(1)));
        first_words = pita_last_error();
    });
    EXPECT_TRUE(eventually([&] { return proxy.holds(); }));
    proxy.meet("$4\r\nPING", Fate::IsHeldBack);
    std::thread second([&] {
        EXPECT_NE(append("second", records(1)), PITA_OK);
        second_words = pita_last_error();
    });
    std::this_thread::sleep_until(start + time * 3 / 4);
    proxy.hang_up_on_stalled();
    first.join();
    second.join();
    const bool is_so = first_words.find("hung up") != std::string::npos &&
                       second_words.find("no connection") != std::string::npos;
    return is_so && proxy.has_met();
}

TEST_F(BreakerBehindAProxy, StaysClosedWhereACallHadLittleTimeLeftToConnect) {
    constexpr milliseconds time{600};
    bool came_so = false;
    for (int attempt = 0; attempt < 10 && !came_so && !HasFailure(); ++attempt) {
        ASSERT_OK(pita_redis_close());
        proxy.count_anew();
        open(time, "&pool_size=1");
        came_so = connects_late(proxy, time);
    }
    ASSERT_TRUE(came_so);
    for (int i = 0; i < 40; ++i) {
        EXPECT_OK(append("third", records(1))) << i;
    }
    EXPECT_EQ(threads_named(searcher), 0);
}

// Somewhere between, the connections that are idle were forgotten.
TEST_F(BreakerBehindAProxy, LetsDeadIdleConnectionsCostOneTimeout) {
    constexpr std::size_t idle = 4;
    constexpr milliseconds time{600};
    open(time, "");
    // So many calls at once have made as many connections.
    ASSERT_TRUE(eventually([&] {
        redis.run({"CLIENT", "PAUSE", "3600000", "WRITE"});
        std::vector<std::future<pita_status_t>> calls;
        for (std::size_t i = 0; i < idle; ++i) {
            calls.push_back(std::async(std::launch::async, [] { return append("warm", records(1)); }));
        }
        eventually([&] { return redis.info("blocked_clients") == static_cast<long long>(idle); }, time / 2);
        redis.run({"CLIENT", "UNPAUSE"});
        std::size_t done = 0;
        for (std::future<pita_status_t> &call : calls) {
            done += call.get() == PITA_OK ? 1 : 0;
        }
        return done == idle && proxy.connections() == idle;
    }));
    proxy.stall(Way::Request);
    EXPECT_STATUS(PITA_ERR_TIMEOUT, pita_redis_ping());
    // Until it is known that the server is there, calls fail at once.
    EXPECT_TRUE(eventually([] {
        const pita_status_t status = pita_redis_ping();
        EXPECT_TRUE(status == PITA_OK || status == PITA_ERR_UNAVAILABLE) << shown(status);
        return status == PITA_OK;
    }));
    // Calls that overlap, so that they need all connections.
    proxy.delay(milliseconds(5));
    std::vector<std::future<void>> calls;
    for (std::size_t i = 0; i < idle; ++i) {
        calls.push_back(std::async(std::launch::async, [] {
            for (int round = 0; round < 5; ++round) {
                EXPECT_OK(append("a", records(1))) << round;
            }
        }));
    }
    for (std::future<void> &call : calls) {
        call.get();
    }
    EXPECT_EQ(redis.length("a"), 20);
}

// --- forks -----------------------------------------------------------------------------------------------------------

using ForkBreaker = Breaker;

TEST_F(ForkBreaker, LetsTheChildFindOutForItself) {
    open();
    server.kill();
    find_out(PITA_ERR_UNAVAILABLE);
    Gate knows;
    Child child([&] {
        find_out(PITA_ERR_UNAVAILABLE);
        EXPECT_EQ(std::string(pita_last_error()).find("away for"), std::string::npos) << "found out anew";
        failing_calls(20);
        EXPECT_TRUE(eventually([] { return threads_named(searcher) == 1; }));
        knows.open();
        EXPECT_TRUE(eventually(works));
    });
    EXPECT_TRUE(knows.wait());
    failing_calls(20);
    server.restart();
    EXPECT_TRUE(child.succeeded());
    EXPECT_TRUE(eventually(works));
}

TEST_F(ForkBreaker, LeavesTheChildAPoolThatConnectsAtOnce) {
    open();
    server.kill();
    find_out(PITA_ERR_UNAVAILABLE);
    server.restart();
    Child child([] {
        EXPECT_OK(append("a", records(1)));
        EXPECT_EQ(take("a").records, records(1));
    });
    EXPECT_TRUE(child.succeeded());
}

} // namespace
