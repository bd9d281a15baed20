// The library's pool, opened and closed with its scope.

#pragma once

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "hiredis.hpp"
#include "pita_redis.h"
#include "redis_server.hpp"
#include "status.hpp"

namespace support {

class Session {
  public:
    // An empty URL opens by the environment.
    explicit Session(const std::string &url) {
        const pita_status_t status = pita_redis_open(url.empty() ? nullptr : url.c_str());
        if (status != PITA_OK) {
            throw std::runtime_error("pita_redis_open: " + shown(status) + " " + pita_last_error());
        }
    }
    ~Session() { pita_redis_close(); }
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;
};

// The open pool's counters.
inline pita_stats_t stats_now() {
    pita_stats_t stats = {};
    stats.struct_size = sizeof stats;
    EXPECT_OK(pita_redis_stats(&stats));
    return stats;
}

// A test on the shared server, which it finds empty.
class SharedServerTest : public testing::Test {
  protected:
    SharedServerTest() : server(shared_server()), redis(server) { redis.run({"FLUSHALL"}); }

    RedisServer &server;
    Hiredis redis;
};

// The same with an open pool.
class SessionTest : public SharedServerTest {
  protected:
    SessionTest() : session(server.url()) {}

    Session session;
};

} // namespace support
