// pita_last_error, pita_status_name, pita_version.

#include <gtest/gtest.h>

#include <cstdint>
#include <regex>
#include <string>
#include <thread>

#include "pita_redis.h"
#include "support/status.hpp"

namespace {

// Two failures that need no Redis.
void fail_by_id() {
    EXPECT_STATUS(PITA_ERR_INVALID_ARGUMENT, pita_discard_metrics(""));
}
void fail_by_count() {
    EXPECT_STATUS(PITA_ERR_INVALID_ARGUMENT, pita_count_metrics("a", nullptr));
}

template <class Body> void on_a_new_thread(Body body) {
    std::thread(body).join();
}

TEST(LastError, IsEmptyWhereNothingFailedYet) {
    on_a_new_thread([] {
        ASSERT_NE(pita_last_error(), nullptr);
        EXPECT_STREQ(pita_last_error(), "");
    });
}

TEST(LastError, IsThatOfTheLastFailure) {
    fail_by_id();
    const std::string first = pita_last_error();
    EXPECT_NE(first.find("req_id"), std::string::npos);
    fail_by_count();
    const std::string second = pita_last_error();
    EXPECT_NE(second.find("count"), std::string::npos);
    EXPECT_NE(first, second);
}

TEST(LastError, IsLeftAsItIsByACallThatSucceeds) {
    fail_by_id();
    const std::string before = pita_last_error();
    EXPECT_OK(pita_redis_close());
    EXPECT_EQ(pita_last_error(), before);
}

TEST(LastError, StaysValidUntilTheNextFailure) {
    fail_by_id();
    const char *const message = pita_last_error();
    const std::string before = message;
    EXPECT_OK(pita_redis_close());
    EXPECT_EQ(pita_last_error(), message);
    EXPECT_EQ(message, before);
}

TEST(LastError, IsTheThreadsOwn) {
    fail_by_id();
    const std::string before = pita_last_error();
    on_a_new_thread([] {
        EXPECT_STREQ(pita_last_error(), "");
        fail_by_count();
    });
    EXPECT_EQ(pita_last_error(), before);
}

TEST(StatusName, IsThatOfTheConstant) {
#define EXPECT_NAME(status) EXPECT_STREQ(pita_status_name(status), #status)
    EXPECT_NAME(PITA_OK);
    EXPECT_NAME(PITA_ERR_INVALID_ARGUMENT);
    EXPECT_NAME(PITA_ERR_NOT_OPEN);
    EXPECT_NAME(PITA_ERR_CONFIG);
    EXPECT_NAME(PITA_ERR_UNAVAILABLE);
    EXPECT_NAME(PITA_ERR_TIMEOUT);
    EXPECT_NAME(PITA_ERR_AUTH);
    EXPECT_NAME(PITA_ERR_REDIS);
    EXPECT_NAME(PITA_ERR_UNCERTAIN);
    EXPECT_NAME(PITA_ERR_BAD_RECORD);
    EXPECT_NAME(PITA_ERR_BUFFER_TOO_SMALL);
    EXPECT_NAME(PITA_ERR_GAP);
    EXPECT_NAME(PITA_ERR_QUEUE_FULL);
    EXPECT_NAME(PITA_ERR_UNSUPPORTED);
    EXPECT_NAME(PITA_ERR_CUDA);
    EXPECT_NAME(PITA_ERR_PANIC);
#undef EXPECT_NAME
}

TEST(StatusName, IsUnknownForANumberThatIsNoStatus) {
    for (const pita_status_t status : {1, -15, -126, -128, INT32_MIN, INT32_MAX}) {
        EXPECT_STREQ(pita_status_name(status), "PITA_ERR_UNKNOWN") << status;
    }
}

TEST(StatusName, IsAConstant) {
    EXPECT_EQ(pita_status_name(PITA_ERR_GAP), pita_status_name(PITA_ERR_GAP));
}

TEST(Version, IsASemanticVersion) {
    const std::regex pattern(R"((0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?)");
    EXPECT_TRUE(std::regex_match(pita_version(), pattern)) << pita_version();
    EXPECT_EQ(pita_version(), pita_version());
}

} // namespace
