// The life of a list that nobody takes.

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "pita_redis.h"
#include "support/eventually.hpp"
#include "support/logits.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

class Life : public SharedServerTest {
  protected:
    // Whether a list's life was set to `seconds` a moment ago.
    testing::AssertionResult was_renewed(const std::string &key, long long seconds) {
        const long long left = redis.life_ms(key);
        if (left <= seconds * 1000 && left > seconds * 1000 - patience.count()) {
            return testing::AssertionSuccess();
        }
        return testing::AssertionFailure() << key << " has " << left << " ms to live";
    }

    static pita_status_t store_logits(const char *id) {
        const float logit = 1;
        return pita_store_logits_metrics(id, &logit, 1, 1, PITA_METRIC_ALL);
    }
};

TEST_F(Life, IsAnHourWhereNothingElseIsSaid) {
    const Session session(server.url());
    ASSERT_OK(append("a", records(1)));
    EXPECT_TRUE(was_renewed("a", 3600));
}

TEST_F(Life, BeginsWithEveryKindOfStore) {
    const Session session(server.url("&ttl_s=500"));
    ASSERT_OK(store_logits("logits"));
    ASSERT_OK(append("append", records(3)));
    ASSERT_OK(store_at("indexed", 0, records(3)));
    const float logit = 1;
    const char *id = "batch";
    pita_batch_t batch = batch_over(&logit, PITA_DTYPE_F32, 1, 1);
    batch.req_ids = &id;
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    for (const char *key : {"logits", "append", "indexed", "batch"}) {
        EXPECT_TRUE(was_renewed(key, 500));
    }
}

TEST_F(Life, BeginsWithTheFirstStoreOfALibraryToAListThatLivesForEver) {
    const Session session(server.url("&ttl_s=500"));
    redis.push("a", {"1,2,3"});
    ASSERT_OK(append("a", records(1)));
    EXPECT_TRUE(was_renewed("a", 500));
}

TEST_F(Life, BeginsAnewAfterATake) {
    const Session session(server.url("&ttl_s=500"));
    for (int i = 0; i < 3; ++i) {
        ASSERT_OK(store_logits("a"));
        EXPECT_TRUE(was_renewed("a", 500));
        ASSERT_OK(take("a").status);
    }
}

TEST_F(Life, IsRenewedByAnIndexedStore) {
    const Session session(server.url("&ttl_s=500"));
    ASSERT_OK(store_at("a", 0, records(2)));
    for (const std::int64_t index : {2, 0}) {
        redis.run({"EXPIRE", "a", "100"});
        EXPECT_TRUE(eventually([&] {
            EXPECT_OK(store_at("a", index, records(1)));
            return was_renewed("a", 500);
        }));
    }
}

// Three records are there: some of them replaced, all, and more than all.
struct Replacement {
    std::int64_t token_index;
    std::size_t count;
};
constexpr Replacement replacements[] = {{0, 1}, {0, 3}, {0, 5}, {1, 1}, {1, 2}, {1, 5}, {2, 1}, {3, 1}};

TEST_F(Life, IsRenewedWhateverAnIndexedStoreReplaces) {
    const Session session(server.url("&ttl_s=500"));
    for (const auto [token_index, count] : replacements) {
        // A key of its own each: the library has renewed none a moment ago.
        const std::string key = std::to_string(count) + " at " + std::to_string(token_index);
        SCOPED_TRACE(key);
        redis.push(key, {"1,2,3", "1,2,3", "1,2,3"});
        ASSERT_OK(store_at(key.c_str(), token_index, records(count)));
        EXPECT_TRUE(was_renewed(key, 500));
    }
}

TEST_F(Life, CanBeForEverWhateverAnIndexedStoreReplaces) {
    const Session session(server.url("&ttl_s=0"));
    ASSERT_OK(append("a", records(3)));
    for (const auto [token_index, count] : replacements) {
        ASSERT_OK(store_at("a", token_index, records(count)));
        EXPECT_EQ(redis.life_ms("a"), -1) << count << " at " << token_index;
    }
}

TEST_F(Life, IsLeftToAListThatHasOneWhereOthersLiveForEver) {
    const Session session(server.url("&ttl_s=0"));
    for (const auto [token_index, count] : replacements) {
        SCOPED_TRACE(testing::Message() << count << " at " << token_index);
        redis.run({"DEL", "a"});
        ASSERT_OK(append("a", records(3)));
        redis.run({"EXPIRE", "a", "100"});
        ASSERT_OK(append("a", records(1)));
        redis.run({"RPOP", "a"});
        ASSERT_OK(store_at("a", token_index, records(count)));
        EXPECT_TRUE(was_renewed("a", 100));
    }
}

TEST_F(Life, IsNotRenewedByAStoreThatIsRefused) {
    const Session session(server.url("&ttl_s=500"));
    ASSERT_OK(store_at("a", 0, records(2)));
    redis.run({"EXPIRE", "a", "100"});
    EXPECT_STATUS(PITA_ERR_GAP, store_at("a", 3, records(1)));
    EXPECT_LE(redis.life_ms("a"), 100000);
}

// A store need not renew what was renewed within the last second.
TEST_F(Life, IsRenewedByAppendsInTheEnd) {
    const Session session(server.url("&ttl_s=500"));
    ASSERT_OK(store_logits("a"));
    redis.run({"EXPIRE", "a", "100"});
    EXPECT_TRUE(eventually([&] {
        EXPECT_OK(store_logits("a"));
        return was_renewed("a", 500);
    }));
}

TEST_F(Life, CanBeForEver) {
    const Session session(server.url("&ttl_s=0"));
    ASSERT_OK(store_logits("a"));
    ASSERT_OK(append("b", records(1)));
    ASSERT_OK(store_at("c", 0, records(1)));
    for (const char *key : {"a", "b", "c"}) {
        EXPECT_EQ(redis.life_ms(key), -1) << key;
    }
}

TEST_F(Life, IsNotThatOfAListBefore) {
    {
        const Session session(server.url("&ttl_s=500"));
        ASSERT_OK(store_logits("a"));
    }
    const Session session(server.url("&ttl_s=700"));
    ASSERT_OK(store_logits("a"));
    EXPECT_TRUE(was_renewed("a", 700));
}

TEST_F(Life, EndsByItself) {
    const Session session(server.url("&ttl_s=1"));
    ASSERT_OK(append("a", records(2)));
    EXPECT_TRUE(eventually([&] { return !redis.exists("a"); }));
    EXPECT_TRUE(take("a").records.empty());
}

// Stores come all the time, so the list lives, however short its life is.
TEST_F(Life, OfAListInUseDoesNotEnd) {
    const Session session(server.url("&ttl_s=1"));
    milliseconds longest_pause{0};
    long long stores = 0;
    const auto start = Clock::now();
    while (Clock::now() - start < milliseconds(2500)) {
        longest_pause = std::max(longest_pause, time_of([] { ASSERT_OK(store_logits("a")); }));
        ++stores;
    }
    if (longest_pause > milliseconds(400)) {
        GTEST_SKIP() << "the machine was too busy";
    }
    EXPECT_EQ(redis.length("a"), stores);
}

} // namespace
