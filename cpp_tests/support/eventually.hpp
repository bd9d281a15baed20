// Time: waiting for something to come true, and how long something took.

#pragma once

#include <chrono>
#include <thread>

namespace support {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Longer than anything takes that comes at all, on a slow machine and under valgrind.
constexpr milliseconds patience = std::chrono::seconds(60);

// Whether `condition` comes true within `limit`; returns as soon as it does.
template <class Condition> bool eventually(Condition condition, milliseconds limit = patience) {
    const auto deadline = Clock::now() + limit;
    while (!condition()) {
        if (Clock::now() >= deadline) {
            return false;
        }
        std::this_thread::sleep_for(milliseconds(1));
    }
    return true;
}

// How long `action` takes.
template <class Action> milliseconds time_of(Action action) {
    const auto start = Clock::now();
    action();
    return std::chrono::duration_cast<milliseconds>(Clock::now() - start);
}

} // namespace support
