// Expectations on statuses that show, when they fail, the status's name and the library's words.

#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "pita_redis.h"

namespace support {

inline std::string shown(pita_status_t status) {
    return std::string(pita_status_name(status)) + " (" + std::to_string(status) + ")";
}

// Whether a call returned `expected`, and where it failed, whether pita_last_error() has all the `words`.
inline testing::AssertionResult returned(pita_status_t actual, pita_status_t expected,
                                         std::initializer_list<std::string> words = {}) {
    const std::string message = actual == PITA_OK ? "" : pita_last_error();
    if (actual != expected) {
        return testing::AssertionFailure() << "returned " << shown(actual) << " \"" << message << "\", not "
                                           << shown(expected);
    }
    for (const std::string &word : words) {
        if (message.find(word) == std::string::npos) {
            return testing::AssertionFailure() << "the message \"" << message << "\" lacks \"" << word << "\"";
        }
    }
    return testing::AssertionSuccess();
}

} // namespace support

#define EXPECT_OK(call) EXPECT_TRUE(support::returned((call), PITA_OK)) << #call
#define ASSERT_OK(call) ASSERT_TRUE(support::returned((call), PITA_OK)) << #call
#define EXPECT_STATUS(status, call) EXPECT_TRUE(support::returned((call), (status))) << #call
#define ASSERT_STATUS(status, call) ASSERT_TRUE(support::returned((call), (status))) << #call
// EXPECT_FAILS(status, call, "word of the message", ...)
#define EXPECT_FAILS(status, call, ...) EXPECT_TRUE(support::returned((call), (status), {__VA_ARGS__})) << #call
