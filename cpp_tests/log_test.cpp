// pita_set_log_callback: lines to a function of the caller's.

#include <gtest/gtest.h>

#include <atomic>
#include <string>

#include "pita_redis.h"
#include "support/behind.hpp"
#include "support/child.hpp"
#include "support/closed_port.hpp"
#include "support/log.hpp"
#include "support/processes.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

class LogCallback : public SharedServerTest {
  protected:
    ~LogCallback() override {
        pita_set_log_callback(nullptr, nullptr);
        pita_redis_close();
    }
};

TEST_F(LogCallback, HearsOfAnOpenedPool) {
    Log log;
    const Session session(server.url());
    EXPECT_TRUE(log.has(PITA_LOG_INFO, server.host_and_port()));
}

TEST_F(LogCallback, HearsAWarningOfABrokenConnection) {
    RedisServer own;
    Log log;
    const Session session("redis://" + own.host_and_port() + "?connect_timeout_ms=30000&timeout_ms=200");
    ASSERT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
    own.freeze();
    EXPECT_STATUS(PITA_ERR_TIMEOUT, pita_redis_ping());
    EXPECT_TRUE(log.has(PITA_LOG_WARNING, own.host_and_port()));
}

TEST_F(LogCallback, HearsNothingAfterItIsUnset) {
    Log log;
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    const std::size_t before = log.lines().size();
    EXPECT_GT(before, 0U);
    pita_set_log_callback(nullptr, nullptr);
    ASSERT_OK(pita_redis_close());
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    ASSERT_OK(pita_redis_ping());
    EXPECT_EQ(log.lines().size(), before);
}

TEST_F(LogCallback, CanBeReplaced) {
    Log first;
    Log second;
    const Session session(server.url());
    EXPECT_TRUE(first.lines().empty());
    EXPECT_FALSE(second.lines().empty());
}

TEST_F(LogCallback, GetsLevelsOfTheHeader) {
    Log log;
    {
        const Session session(server.url());
        ASSERT_OK(append("a", records(1)));
    }
    const ClosedPort nobody;
    const Session session("redis://" + nobody.host_and_port());
    EXPECT_STATUS(PITA_ERR_UNAVAILABLE, pita_redis_ping());
    for (const auto &[level, line] : log.lines()) {
        EXPECT_TRUE(level == PITA_LOG_ERROR || level == PITA_LOG_WARNING || level == PITA_LOG_INFO ||
                    level == PITA_LOG_DEBUG)
            << level;
        EXPECT_NE(line, "");
        EXPECT_EQ(line.find('\n'), std::string::npos) << line;
    }
}

// In a child process, where a deadlock is seen as such.
TEST_F(LogCallback, MayCallTheLibraryItself) {
    const RedisServer &of_parent = server;
    Child child([&] {
        static std::atomic<int> calls{0};
        pita_set_log_callback(
            [](int, const char *, void *user) {
                ++calls;
                const auto &open_server = *static_cast<const RedisServer *>(user);
                pita_stats_t stats = {};
                stats.struct_size = sizeof stats;
                (void)pita_redis_stats(&stats);
                (void)pita_redis_ping();
                (void)append("from the callback", records(1));
                (void)take("from the callback");
                (void)pita_redis_open(open_server.url().c_str());
            },
            const_cast<RedisServer *>(&of_parent));
        EXPECT_OK(pita_redis_open(of_parent.url().c_str()));
        EXPECT_OK(pita_redis_ping());
        EXPECT_OK(append("a", records(1)));
        EXPECT_OK(pita_redis_close());
        EXPECT_GT(calls, 0);
    });
    EXPECT_TRUE(child.succeeded());
}

// The same from the thread that writes behind, which cannot wait for itself.
TEST_F(LogCallback, MayCallTheLibraryOnTheThreadThatWrites) {
    redis.run({"SET", "foreign", "mine"});
    const std::string url = server.url("&write=behind&queue=4");
    Child child([&] {
        static std::atomic<int> lines{0};
        pita_set_log_callback(
            [](int level, const char *, void *) {
                if (level != PITA_LOG_ERROR || lines++ > 0) {
                    return;
                }
                (void)stats_now();
                EXPECT_OK(pita_redis_ping());
                // The record that this line is about is still in the queue.
                EXPECT_STATUS(PITA_ERR_TIMEOUT, pita_redis_flush(long_enough_ms));
                EXPECT_STATUS(PITA_ERR_TIMEOUT, take("foreign").status);
                EXPECT_OK(take("another").status);
                EXPECT_OK(append("from the callback", records(3)));
                EXPECT_STATUS(PITA_ERR_QUEUE_FULL, append("from the callback", records(2)));
            },
            nullptr);
        EXPECT_OK(pita_redis_open(url.c_str()));
        EXPECT_OK(append("foreign", records(1)));
        EXPECT_STATUS(PITA_ERR_REDIS, pita_redis_flush(long_enough_ms));
        EXPECT_EQ(lines, 1);
        EXPECT_EQ(take("from the callback").records, records(3));
        EXPECT_OK(pita_redis_close());
    });
    EXPECT_TRUE(child.succeeded());
}

TEST_F(LogCallback, MayCloseThePoolOnTheThreadThatWrites) {
    redis.run({"SET", "foreign", "mine"});
    const std::string url = server.url("&write=behind");
    Child child([&] {
        static std::atomic<bool> is_closed{false};
        pita_set_log_callback(
            [](int level, const char *, void *) {
                if (level == PITA_LOG_ERROR) {
                    EXPECT_OK(pita_redis_close());
                    is_closed = true;
                }
            },
            nullptr);
        EXPECT_OK(pita_redis_open(url.c_str()));
        EXPECT_OK(append("foreign", records(1)));
        EXPECT_TRUE(eventually([] { return is_closed && threads_named("pita-writer") == 0; }));
        EXPECT_STATUS(PITA_ERR_NOT_OPEN, append("a", records(1)));
    });
    EXPECT_TRUE(child.succeeded());
}

TEST_F(LogCallback, HearsOfAFaultThatComesAgainAndAgainNowAndThen) {
    redis.run({"SET", "foreign", "mine"});
    Log log;
    const Session session(server.url());
    for (int i = 0; i < 300; ++i) {
        EXPECT_STATUS(PITA_ERR_REDIS, append("foreign", records(1)));
    }
    // Ten in ten seconds, and such a border may be crossed.
    EXPECT_GE(log.lines().size(), 10U);
    EXPECT_LE(log.lines().size(), 50U);
}

// A wrong password is one fault, told once a call, and without the password.
TEST_F(LogCallback, HearsOfAWrongPasswordOnceACall) {
    const RedisServer locked({"--requirepass", "right"});
    const Session session("redis://:secret@" + locked.host_and_port() + "?timeout_ms=60000&connect_timeout_ms=60000");
    Log log;
    EXPECT_STATUS(PITA_ERR_AUTH, append("a", records(1)));
    ASSERT_EQ(log.lines().size(), 1U);
    EXPECT_EQ(log.lines()[0].first, PITA_LOG_WARNING);
    EXPECT_EQ(log.lines()[0].second.find("secret"), std::string::npos);
}

TEST_F(LogCallback, MayUnsetItself) {
    Child child([&] {
        static std::atomic<int> calls{0};
        calls = 0;
        pita_set_log_callback(
            [](int, const char *, void *) {
                ++calls;
                pita_set_log_callback(nullptr, nullptr);
            },
            nullptr);
        const Session session(server.url());
        EXPECT_OK(pita_redis_ping());
        EXPECT_EQ(calls, 1);
    });
    EXPECT_TRUE(child.succeeded());
}

// Without a callback nothing is written anywhere.
TEST_F(LogCallback, IsTheOnlyWayOut) {
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const ClosedPort nobody;
    EXPECT_OK(pita_redis_open(("redis://" + nobody.host_and_port()).c_str()));
    const pita_status_t status = pita_redis_ping();
    (void)append("", records(1));
    EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
    EXPECT_STATUS(PITA_ERR_UNAVAILABLE, status);
}

} // namespace
