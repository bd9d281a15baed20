// pita_take_metrics: all records of a request, in order, once.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "pita_redis.h"
#include "support/eventually.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;
using namespace std::string_literals;

namespace {

class Take : public SessionTest {};

TEST_F(Take, GivesTheRecordsInOrderAndRemovesThem) {
    ASSERT_OK(append("a", records(100)));
    const Taken taken = take("a");
    EXPECT_OK(taken.status);
    EXPECT_EQ(taken.records, records(100));
    EXPECT_EQ(redis.keys(), 0) << "no key of any name is left";
}

TEST_F(Take, OfARequestWithoutRecordsIsSuccessWith0) {
    const Taken taken = take("a");
    EXPECT_OK(taken.status);
    EXPECT_TRUE(taken.records.empty());
}

TEST_F(Take, GivesNothingTheSecondTime) {
    ASSERT_OK(append("a", records(3)));
    EXPECT_EQ(take("a").records.size(), 3U);
    EXPECT_TRUE(take("a").records.empty());
    ASSERT_OK(append("a", records(2)));
    EXPECT_EQ(take("a").records, records(2));
}

TEST_F(Take, LeavesOtherRequestsAlone) {
    ASSERT_OK(append("a", records(3)));
    ASSERT_OK(append("ab", records(2)));
    EXPECT_OK(take("a").status);
    EXPECT_EQ(stored(redis, "ab"), records(2));
}

TEST_F(Take, FillsABufferToTheLast) {
    ASSERT_OK(append("a", records(3)));
    EXPECT_EQ(take("a", 3).records, records(3));
}

TEST_F(Take, WritesNothingBehindTheRecords) {
    ASSERT_OK(append("a", records(2)));
    Records out(4, record(99));
    std::size_t count = 0;
    EXPECT_OK(pita_take_metrics("a", out.data(), out.size(), &count));
    EXPECT_EQ(count, 2U);
    EXPECT_EQ(out, (Records{record(0), record(1), record(99), record(99)}));
}

TEST_F(Take, ReadsWhatPythonWrites) {
    redis.push("a", {"10.373491181781864,41.5,1e-07", "inf,-inf,nan", "-0.0,1e+22,5", "1E5,2.,.5"});
    EXPECT_EQ(take("a").records, (Records{{10.373491181781864, 41.5, 1e-07},
                                          {infinity, -infinity, not_a_number},
                                          {0, 1e22, 5},
                                          {1e5, 2, 0.5}}));
}

TEST_F(Take, WorksWithAnyId) {
    for (const std::string &id : {"{x}"s, "}"s, "a{b}c"s, "a}b"s, "{}x"s, "x{y"s, "a}:pita-claim:{"s, "日本 語"s,
                                  std::string(1024, 'x')}) {
        ASSERT_OK(append(id, records(2)));
        EXPECT_EQ(take(id).records, records(2)) << id;
        EXPECT_EQ(redis.keys(), 0) << id;
    }
}

// --- a buffer that is too small --------------------------------------------------------------------------------------

TEST_F(Take, WithTooLittleRoomSaysHowMuchIsNeededAndTakesNothing) {
    ASSERT_OK(append("a", records(5)));
    Records out(4, record(99));
    std::size_t count = 0;
    EXPECT_FAILS(PITA_ERR_BUFFER_TOO_SMALL, pita_take_metrics("a", out.data(), out.size(), &count), "5",
                 "capacity is 4");
    EXPECT_EQ(count, 5U);
    EXPECT_EQ(out, Records(4, record(99)));
    EXPECT_EQ(stored(redis, "a"), records(5));
    EXPECT_EQ(redis.keys(), 1);
}

TEST_F(Take, WithoutABufferSaysHowMuchIsNeeded) {
    std::size_t count = 7;
    EXPECT_OK(pita_take_metrics("a", nullptr, 0, &count));
    EXPECT_EQ(count, 0U);
    ASSERT_OK(append("a", records(5)));
    EXPECT_STATUS(PITA_ERR_BUFFER_TOO_SMALL, pita_take_metrics("a", nullptr, 0, &count));
    EXPECT_EQ(count, 5U);
    EXPECT_EQ(stored(redis, "a"), records(5));
}

TEST_F(Take, WithTooLittleRoomLeavesTheLifeOfTheList) {
    redis.push("a", {"1,2,3", "4,5,6"});
    EXPECT_STATUS(PITA_ERR_BUFFER_TOO_SMALL, take("a", 1).status);
    EXPECT_EQ(redis.life_ms("a"), -1);
}

// --- a list with a foreign element -----------------------------------------------------------------------------------

class ForeignElement : public Take {
  protected:
    // Takes "a", where element `place` is no record, and expects the list untouched.
    void expect_refusal(const std::string &place) {
        const std::vector<std::string> before = redis.list("a");
        Records out(10, record(99));
        std::size_t count = 7;
        EXPECT_FAILS(PITA_ERR_BAD_RECORD, pita_take_metrics("a", out.data(), out.size(), &count), "\"a\"",
                     "element " + place);
        EXPECT_EQ(count, 0U);
        EXPECT_EQ(out, Records(10, record(99)));
        EXPECT_EQ(redis.list("a"), before);
        EXPECT_EQ(redis.keys(), 1) << "no claim is left";
    }
};

TEST_F(ForeignElement, OfAnyKindLeavesTheListUntouched) {
    for (const std::string &element :
         {""s, "1"s, "1,2"s, "1,2,"s, ",,"s, "1,2,3,4"s, "1,2,3,"s, "1,2,three"s, "1;2;3"s, "1,2,3 "s, "0x1,2,3"s,
          "1,2,\xFF"s, "1,2,3\0"s, std::string(100000, '1')}) {
        SCOPED_TRACE(element.substr(0, 20));
        redis.run({"DEL", "a"});
        redis.push("a", {"1,2,3", element, "4,5,6"});
        expect_refusal("1");
    }
}

TEST_F(ForeignElement, IsFoundAtEitherEnd) {
    redis.push("a", {"x", "1,2,3"});
    expect_refusal("0");
    redis.run({"DEL", "a"});
    redis.push("a", {"1,2,3", "4,5,6", "x"});
    expect_refusal("2");
}

TEST_F(ForeignElement, LeavesAListThatLivesForEver) {
    redis.push("a", {"x"});
    expect_refusal("0");
    EXPECT_EQ(redis.life_ms("a"), -1);
}

TEST_F(ForeignElement, LeavesTheLifeOfAListAsItWas) {
    redis.push("a", {"x"});
    redis.run({"PEXPIRE", "a", "500000"});
    expect_refusal("0");
    EXPECT_LE(redis.life_ms("a"), 500000);
    EXPECT_GT(redis.life_ms("a"), 500000 - patience.count());
}

TEST_F(ForeignElement, CanBeRemovedAndTheRestTaken) {
    redis.push("a", {"1,2,3", "x"});
    expect_refusal("1");
    redis.run({"LREM", "a", "0", "x"});
    EXPECT_EQ(take("a").records, (Records{{1, 2, 3}}));
}

TEST_F(ForeignElement, GivesWayToTooLittleRoom) {
    redis.push("a", {"x", "y"});
    EXPECT_STATUS(PITA_ERR_BUFFER_TOO_SMALL, take("a", 1).status);
}

// --- what Redis refuses, and bad arguments ---------------------------------------------------------------------------

TEST_F(Take, OfAKeyThatHoldsNoListFailsInTheServersWords) {
    redis.run({"SET", "a", "mine"});
    std::size_t count = 7;
    pita_metrics_t out = {};
    EXPECT_FAILS(PITA_ERR_REDIS, pita_take_metrics("a", &out, 1, &count), "WRONGTYPE");
    EXPECT_EQ(count, 0U);
    EXPECT_EQ(redis.run({"GET", "a"}).text, "mine");
}

TEST_F(Take, RefusesBadArgumentsAndTakesNothing) {
    ASSERT_OK(append("a", records(1)));
    pita_metrics_t out = {};
    std::size_t count = 7;
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_take_metrics(nullptr, &out, 1, &count), "req_id", "NULL");
    EXPECT_EQ(count, 0U);
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_take_metrics("", &out, 1, &count), "req_id", "empty");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_take_metrics(std::string(1025, 'x').c_str(), &out, 1, &count),
                 "req_id", "1024");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_take_metrics("\xFF", &out, 1, &count), "req_id", "UTF-8");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_take_metrics("a", &out, 1, nullptr), "count", "NULL");
    count = 7;
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_take_metrics("a", nullptr, 1, &count), "out", "NULL");
    EXPECT_EQ(count, 0U);
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_take_metrics("a", &out, SIZE_MAX, &count), "out",
                 std::to_string(SIZE_MAX));
    EXPECT_EQ(stored(redis, "a"), records(1));
}

} // namespace
