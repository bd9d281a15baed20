// Time: waiting for something to come true, and how long something took.

#pragma once

#include <chrono>
#include <stdexcept>
#include <string>
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

// Waits until `condition` comes true; while it throws, it is not. Throws std::runtime_error where it never is.
template <class Condition> void await(const std::string &what, Condition condition) {
    const auto holds = [&] {
        try {
            return condition();
        } catch (const std::runtime_error &) {
            return false;
        }
    };
    if (!eventually(holds)) {
        throw std::runtime_error("it does not come true that " + what);
    }
}

// How long `action` takes.
template <class Action> milliseconds time_of(Action action) {
    const auto start = Clock::now();
    action();
    return std::chrono::duration_cast<milliseconds>(Clock::now() - start);
}

} // namespace support
