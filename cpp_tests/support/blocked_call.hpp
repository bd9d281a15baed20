// A call that the server has received and not answered, so that its connection can be cut at that very moment.

#pragma once

#include <gtest/gtest.h>

#include <future>
#include <stdexcept>
#include <string>
#include <utility>

#include "eventually.hpp"
#include "hiredis.hpp"

namespace support {

// Runs a call on a thread, against a server that holds back all commands which may write, until it is cut off.
template <class Result> class BlockedCall {
  public:
    template <class Call> BlockedCall(Hiredis &redis, Call call) : redis_(redis) {
        redis_.run({"CLIENT", "PAUSE", "3600000", "WRITE"});
        result_ = std::async(std::launch::async, call);
        if (!eventually([&] { return redis_.info("blocked_clients") == 1; })) {
            redis_.run({"CLIENT", "UNPAUSE"});
            throw std::runtime_error("the call does not reach the server");
        }
    }
    ~BlockedCall() {
        if (is_held_) {
            redis_.run({"CLIENT", "UNPAUSE"});
        }
    }
    BlockedCall(const BlockedCall &) = delete;
    BlockedCall &operator=(const BlockedCall &) = delete;

    // Cuts the connection, so that the command is never executed, and lets the server go on.
    Result cut_off() {
        redis_.run({"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"});
        redis_.run({"CLIENT", "UNPAUSE"});
        return result();
    }

    // Waits for its end, where the server was killed. That also ends the connection which could let it go on.
    Result result() {
        is_held_ = false;
        return result_.get();
    }

  private:
    Hiredis &redis_;
    std::future<Result> result_;
    bool is_held_ = true;
};

} // namespace support
