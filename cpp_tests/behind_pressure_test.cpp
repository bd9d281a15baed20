// write=behind under refusals that pass, delays, and calls that cross each other.

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "pita_redis.h"
#include "support/behind.hpp"
#include "support/log.hpp"
#include "support/processes.hpp"

using namespace support;

namespace {

const std::string writer = "pita-writer";

// --- the server takes nothing for a while, and says so ---------------------------------------------------------------

class NotReady : public BehindTest {
  protected:
    static constexpr std::size_t requests = 20;
    static constexpr std::size_t tokens = 50;

    NotReady() {
        // Known to the server, and their lists renewed.
        store(0, 1);
        EXPECT_OK(flush());
    }

    static std::string id(std::size_t request) { return "request-" + std::to_string(request); }

    // Tokens of all requests: appended ones of the even, indexed ones of the odd.
    static void store(std::size_t first, std::size_t last) {
        for (std::size_t token = first; token < last; ++token) {
            for (std::size_t request = 0; request < requests; ++request) {
                const std::int64_t index = request % 2 == 0 ? -1 : static_cast<std::int64_t>(token);
                ASSERT_OK(store_at(id(request), index, records(1, token)));
            }
        }
    }

    // Whether the writer comes to know why it gets nowhere.
    static bool hears(const std::string &word) {
        return eventually([&] {
            return pita_redis_flush(10) == PITA_ERR_TIMEOUT &&
                   std::string(pita_last_error()).find(word) != std::string::npos;
        });
    }

    void expect_all_stored() {
        ASSERT_OK(flush());
        for (std::size_t request = 0; request < requests; ++request) {
            EXPECT_EQ(stored(redis, id(request)), records(tokens)) << id(request);
        }
        const pita_stats_t stats = stats_now();
        EXPECT_EQ(stats.refused + stats.uncertain, 0U);
        EXPECT_EQ(stats.stored, requests * tokens);
    }
};

TEST_F(NotReady, WithoutMemoryItLosesNothing) {
    Log log;
    redis.run({"CONFIG", "SET", "maxmemory", "1"});
    store(1, tokens);
    EXPECT_TRUE(hears("OOM"));
    EXPECT_TRUE(log.has(PITA_LOG_WARNING, "OOM"));
    redis.run({"CONFIG", "SET", "maxmemory", "0"});
    expect_all_stored();
    EXPECT_TRUE(log.has(PITA_LOG_INFO, "takes records again"));
    EXPECT_FALSE(log.has(PITA_LOG_ERROR, ""));
}

TEST_F(NotReady, AsAReplicaItLosesNothing) {
    redis.run({"REPLICAOF", "127.0.0.1", "1"});
    store(1, tokens);
    EXPECT_TRUE(hears("READONLY"));
    redis.run({"REPLICAOF", "NO", "ONE"});
    expect_all_stored();
}

TEST_F(NotReady, WhileAScriptOfOthersRunsItLosesNothing) {
    redis.run({"CONFIG", "SET", "busy-reply-threshold", "10"});
    std::thread other([this] {
        Hiredis theirs(server);
        EXPECT_THROW(theirs.run({"EVAL", "while true do end", "0"}), std::runtime_error);
    });
    EXPECT_TRUE(eventually([] { return pita_redis_ping() == PITA_ERR_REDIS; }));
    store(1, tokens);
    EXPECT_TRUE(hears("BUSY"));
    redis.run({"SCRIPT", "KILL"});
    other.join();
    expect_all_stored();
}

// --- delays ----------------------------------------------------------------------------------------------------------

class Delayed : public BehindTest {};

// Whatever was known of the list's life when the store was first attempted.
TEST_F(Delayed, AListLivesFromTheStoreThatWasHeldUp) {
    RedisServer own({"--appendonly", "yes", "--appendfsync", "always"});
    open("redis://" + own.host_and_port() + "?write=behind&ttl_s=1000&timeout_ms=60000&connect_timeout_ms=60000");
    ASSERT_OK(append("a", records(1)));
    ASSERT_OK(store_at("b", 0, records(1)));
    ASSERT_OK(flush());
    for (const char *id : {"a", "b"}) {
        Hiredis(own).run({"PEXPIRE", id, "100000"});
    }
    own.kill();
    // No connection is left on which the append could be lost.
    ASSERT_TRUE(eventually([] { return pita_redis_ping() == PITA_ERR_UNAVAILABLE; }));
    // To the library, the lists' lives were renewed a moment ago.
    ASSERT_OK(append("a", records(1, 1)));
    ASSERT_OK(store_at("b", 1, records(1, 1)));
    EXPECT_STATUS(PITA_ERR_TIMEOUT, pita_redis_flush(300));
    own.restart();
    ASSERT_OK(flush());
    Hiredis other(own);
    for (const char *id : {"a", "b"}) {
        EXPECT_EQ(stored(other, id), records(2));
        EXPECT_GT(other.life_ms(id), 900000) << id;
    }
}

TEST_F(Delayed, AWaitForRecordsWaitsForTheQueueAsWell) {
    open(hasty_url("timeout_ms=400"));
    ASSERT_OK(store_at("a", 0, records(1)));
    ASSERT_OK(flush());
    hold();
    ASSERT_OK(store_at("a", 1, records(1, 1)));
    std::future<Records> waiting = std::async(std::launch::async, [] {
        Records out(2);
        std::size_t count = 0;
        EXPECT_OK(pita_take_metrics_wait("a", 2, long_enough_ms, out.data(), out.size(), &count));
        return out;
    });
    // Longer than a call may take, and less than the writer waits for an answer.
    EXPECT_EQ(waiting.wait_for(milliseconds(500)), std::future_status::timeout);
    release();
    EXPECT_EQ(waiting.get(), records(2));
}

// --- calls that cross each other -------------------------------------------------------------------------------------

class Crossing : public BehindTest {};

TEST_F(Crossing, APoolThatIsOpenedDuringACloseWritesBehindTheOther) {
    hold();
    for (std::int64_t i = 0; i < 5; ++i) {
        ASSERT_OK(store_at("a", i, records(1, static_cast<std::size_t>(i))));
    }
    std::future<pita_status_t> closing = std::async(std::launch::async, pita_redis_close);
    ASSERT_TRUE(eventually([] { return append("b", records(1)) == PITA_ERR_NOT_OPEN; }));
    const std::string url = server.url("&write=behind&queue=100");
    std::future<void> opening = std::async(std::launch::async, [&] {
        EXPECT_OK(pita_redis_open(url.c_str()));
        EXPECT_OK(store_at("a", 5, records(1, 5)));
    });
    EXPECT_EQ(opening.wait_for(milliseconds(20)), std::future_status::timeout);
    release();
    opening.get();
    EXPECT_OK(closing.get());
    EXPECT_OK(flush());
    EXPECT_EQ(stored(redis, "a"), records(6));
}

TEST_F(Crossing, ASecondCloseWaitsForTheFirst) {
    hold();
    ASSERT_OK(append("a", records(1)));
    std::future<pita_status_t> first = std::async(std::launch::async, pita_redis_close);
    ASSERT_TRUE(eventually([] { return append("b", records(1)) == PITA_ERR_NOT_OPEN; }));
    std::future<pita_status_t> second = std::async(std::launch::async, pita_redis_close);
    EXPECT_EQ(second.wait_for(milliseconds(20)), std::future_status::timeout);
    release();
    EXPECT_OK(first.get());
    EXPECT_OK(second.get());
    EXPECT_EQ(redis.length("a"), 1);
}

TEST_F(Crossing, ACloseByTheWritersOwnCallbackGivesUpInTime) {
    RedisServer own;
    static std::atomic<bool> is_closed{false};
    static std::atomic<bool> gave_up{false};
    open("redis://" + own.host_and_port() + "?write=behind&timeout_ms=200&connect_timeout_ms=200");
    ASSERT_OK(store_at("a", 0, records(1)));
    ASSERT_OK(flush());
    pita_set_log_callback(
        [](int level, const char *message, void *) {
            const std::string line = message;
            if (level == PITA_LOG_WARNING && !is_closed.exchange(true)) {
                EXPECT_OK(pita_redis_close());
            }
            if (level == PITA_LOG_ERROR && line.find("3 queued records were given up") != std::string::npos) {
                gave_up = true;
            }
        },
        nullptr);
    own.kill();
    ASSERT_OK(store_at("a", 1, records(3, 1)));
    EXPECT_TRUE(eventually([] { return is_closed && gave_up && threads_named(writer) == 0; }))
        << is_closed << gave_up << threads_named(writer);
    pita_set_log_callback(nullptr, nullptr);
}

} // namespace
