// Tests of write=behind: a server that can be made to take nothing for a while.

#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "eventually.hpp"
#include "records.hpp"
#include "session.hpp"

namespace support {

constexpr auto long_enough_ms = static_cast<std::uint32_t>(patience.count());

inline pita_status_t flush() {
    return pita_redis_flush(long_enough_ms);
}

// The shared server, and a pool whose options follow "write=behind".
class BehindTest : public SharedServerTest {
  protected:
    explicit BehindTest(const std::string &options = "") { open(server.url("&write=behind" + options)); }
    ~BehindTest() override {
        if (is_held_) {
            release();
        }
    }

    // Closes the pool and opens another.
    void open(const std::string &url) {
        session_.reset();
        session_ = std::make_unique<Session>(url);
    }

    // One whose calls have little time.
    std::string hasty_url(const std::string &options) const {
        return "redis://" + server.host_and_port() + "?write=behind&connect_timeout_ms=30000&" + options;
    }

    // From now on the server answers no command that may write, until it is released.
    void hold() {
        redis.run({"CLIENT", "PAUSE", "3600000", "WRITE"});
        is_held_ = true;
    }
    void release() {
        redis.run({"CLIENT", "UNPAUSE"});
        is_held_ = false;
    }

    static std::uint64_t queued() { return stats_now().queued; }

  private:
    std::unique_ptr<Session> session_;
    bool is_held_ = false;
};

} // namespace support
