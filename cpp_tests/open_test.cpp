// The pool's life: opening, pinging, flushing, closing.

#include <gtest/gtest.h>

#include <csignal>
#include <cstdint>
#include <string>
#include <vector>

#include "pita_redis.h"
#include "support/closed_port.hpp"
#include "support/eventually.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

class Open : public SharedServerTest {
  protected:
    ~Open() override { pita_redis_close(); }
};

TEST_F(Open, ConnectsToNothingYet) {
    const ClosedPort nobody;
    EXPECT_OK(pita_redis_open(("redis://" + nobody.host_and_port()).c_str()));
    EXPECT_STATUS(PITA_ERR_UNAVAILABLE, pita_redis_ping());
}

TEST_F(Open, LetsTheServerBePinged) {
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    EXPECT_OK(pita_redis_ping());
}

TEST_F(Open, TwiceWithTheSameSettingsIsOnePool) {
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    EXPECT_OK(pita_redis_ping());
    EXPECT_OK(pita_redis_close());
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_redis_ping());
}

TEST_F(Open, SeesTheSameSettingsInDifferentWords) {
    const std::string address = "redis://" + server.host_and_port();
    ASSERT_OK(pita_redis_open(address.c_str()));
    EXPECT_OK(pita_redis_open((address + "/0").c_str()));
    EXPECT_OK(pita_redis_open((address + "/?ttl_s=3600&write=sync&pool_size=8").c_str()));
}

TEST_F(Open, WithOtherSettingsIsRefusedAndLeavesThePoolAsItIs) {
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    for (const std::string &other : {server.url("", 1), server.url("&ttl_s=7"), server.url("&prefix=other:"),
                                     std::string("redis://localhost:1")}) {
        EXPECT_FAILS(PITA_ERR_CONFIG, pita_redis_open(other.c_str()), "already open", server.host_and_port()) << other;
    }
    EXPECT_OK(append("a", records(1)));
    EXPECT_EQ(stored(redis, "a"), records(1));
}

TEST_F(Open, WithAnotherQueueIsRefusedToo) {
    ASSERT_OK(pita_redis_open(server.url("&queue=100").c_str()));
    EXPECT_OK(pita_redis_open(server.url("&queue=100").c_str()));
    EXPECT_FAILS(PITA_ERR_CONFIG, pita_redis_open(server.url("&queue=200").c_str()), "already open", "queue");
    EXPECT_FAILS(PITA_ERR_CONFIG, pita_redis_open(server.url().c_str()), "already open", "queue");
}

TEST_F(Open, WithABadUrlLeavesThePoolAsItIs) {
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    EXPECT_STATUS(PITA_ERR_CONFIG, pita_redis_open("http://localhost"));
    EXPECT_OK(pita_redis_ping());
}

TEST_F(Open, AgainAfterCloseTakesOtherSettings) {
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    ASSERT_OK(pita_redis_ping());
    EXPECT_OK(pita_redis_close());
    ASSERT_OK(pita_redis_open(server.url("&prefix=second:").c_str()));
    EXPECT_OK(append("a", records(1)));
    EXPECT_EQ(stored(redis, "second:a"), records(1));
}

TEST_F(Open, CanBeDoneManyTimes) {
    for (std::size_t i = 0; i < 50; ++i) {
        ASSERT_OK(pita_redis_open(server.url().c_str()));
        ASSERT_OK(append("a", records(1, i)));
        ASSERT_OK(pita_redis_close());
    }
    EXPECT_EQ(stored(redis, "a"), records(50));
}

TEST_F(Open, CloseHangsUp) {
    const long long before = redis.info("connected_clients");
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    ASSERT_OK(pita_redis_ping());
    EXPECT_EQ(redis.info("connected_clients"), before + 1);
    ASSERT_OK(pita_redis_close());
    EXPECT_TRUE(eventually([&] { return redis.info("connected_clients") == before; }));
}

TEST(Close, IsFineWithoutAnOpenPool) {
    EXPECT_OK(pita_redis_close());
    EXPECT_OK(pita_redis_close());
}

TEST_F(Open, CloseIsFineTwice) {
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    EXPECT_OK(pita_redis_close());
    EXPECT_OK(pita_redis_close());
}

TEST_F(Open, FlushReturnsAtOnceWhereNothingIsQueued) {
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    EXPECT_OK(append("a", records(1)));
    EXPECT_OK(pita_redis_flush(0));
    EXPECT_LT(time_of([] { EXPECT_OK(pita_redis_flush(UINT32_MAX)); }), patience);
}

TEST_F(Open, FlushNeedsNoServer) {
    const ClosedPort nobody;
    ASSERT_OK(pita_redis_open(("redis://" + nobody.host_and_port()).c_str()));
    EXPECT_OK(pita_redis_flush(1000));
}

TEST_F(Open, LeavesTheSignalHandlersAlone) {
    const auto handlers = [] {
        std::vector<void (*)(int)> all;
        for (int signal = 1; signal < NSIG; ++signal) {
            struct sigaction action = {};
            sigaction(signal, nullptr, &action);
            all.push_back(action.sa_handler);
        }
        return all;
    };
    const auto before = handlers();
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    EXPECT_OK(append("a", records(1)));
    EXPECT_OK(take("a").status);
    EXPECT_EQ(handlers(), before);
}

} // namespace
