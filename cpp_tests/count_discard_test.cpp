// pita_count_metrics and pita_discard_metrics.

#include <gtest/gtest.h>

#include <string>

#include "pita_redis.h"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

class Count : public SessionTest {};
class Discard : public SessionTest {};

TEST_F(Count, IsTheNumberOfRecords) {
    std::size_t count = 7;
    EXPECT_OK(pita_count_metrics("a", &count));
    EXPECT_EQ(count, 0U);
    ASSERT_OK(append("a", records(3)));
    EXPECT_OK(pita_count_metrics("a", &count));
    EXPECT_EQ(count, 3U);
    EXPECT_EQ(stored(redis, "a"), records(3)) << "counting takes nothing";
    ASSERT_OK(take("a").status);
    EXPECT_OK(pita_count_metrics("a", &count));
    EXPECT_EQ(count, 0U);
}

TEST_F(Count, OfAKeyThatHoldsNoListFailsInTheServersWords) {
    redis.run({"SET", "a", "mine"});
    std::size_t count = 7;
    EXPECT_FAILS(PITA_ERR_REDIS, pita_count_metrics("a", &count), "WRONGTYPE");
    EXPECT_EQ(count, 0U);
}

TEST_F(Count, RefusesBadArguments) {
    std::size_t count = 7;
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_count_metrics(nullptr, &count), "req_id", "NULL");
    EXPECT_EQ(count, 0U);
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_count_metrics("", &count), "req_id", "empty");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_count_metrics(std::string(1025, 'x').c_str(), &count), "req_id",
                 "1024");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_count_metrics("\xFF", &count), "req_id", "UTF-8");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_count_metrics("a", nullptr), "count", "NULL");
}

TEST_F(Discard, RemovesAllRecordsOfARequestAlone) {
    ASSERT_OK(append("a", records(3)));
    ASSERT_OK(append("ab", records(2)));
    EXPECT_OK(pita_discard_metrics("a"));
    EXPECT_FALSE(redis.exists("a"));
    EXPECT_EQ(stored(redis, "ab"), records(2));
}

TEST_F(Discard, OfARequestWithoutRecordsIsSuccess) {
    EXPECT_OK(pita_discard_metrics("a"));
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(Discard, RemovesAListWithForeignElements) {
    redis.push("a", {"x"});
    EXPECT_OK(pita_discard_metrics("a"));
    EXPECT_FALSE(redis.exists("a"));
}

TEST_F(Discard, LeavesTheRequestReadyForNewRecords) {
    ASSERT_OK(append("a", records(3)));
    ASSERT_OK(pita_discard_metrics("a"));
    ASSERT_OK(append("a", records(1, 50)));
    EXPECT_EQ(stored(redis, "a"), records(1, 50));
    EXPECT_GT(redis.life_ms("a"), 0);
}

TEST_F(Discard, LeavesAValueThatIsNoList) {
    redis.run({"SET", "a", "mine"});
    EXPECT_FAILS(PITA_ERR_REDIS, pita_discard_metrics("a"), "WRONGTYPE");
    EXPECT_EQ(redis.run({"GET", "a"}).text, "mine");
}

TEST_F(Discard, RefusesBadArguments) {
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_discard_metrics(nullptr), "req_id", "NULL");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_discard_metrics(""), "req_id", "empty");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_discard_metrics(std::string(1025, 'x').c_str()), "req_id", "1024");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_discard_metrics("\xFF"), "req_id", "UTF-8");
}

} // namespace
