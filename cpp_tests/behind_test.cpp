// write=behind: stores are queued, and a thread writes them.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "pita_redis.h"
#include "support/behind.hpp"
#include "support/child.hpp"
#include "support/log.hpp"
#include "support/logits.hpp"
#include "support/processes.hpp"

using namespace support;

namespace {

// The library's thread that writes.
const std::string writer = "pita-writer";

class Behind : public BehindTest {};

// --- storing ---------------------------------------------------------------------------------------------------------

TEST_F(Behind, AStoreReturnsBeforeTheServerAnswers) {
    hold();
    ASSERT_OK(append("a", records(2)));
    ASSERT_OK(store_at("b", 0, records(3)));
    EXPECT_EQ(queued(), 5U);
    EXPECT_EQ(redis.keys(), 0);
    release();
    ASSERT_OK(flush());
    EXPECT_EQ(queued(), 0U);
    EXPECT_EQ(stored(redis, "a"), records(2));
    EXPECT_EQ(stored(redis, "b"), records(3));
}

TEST_F(Behind, ARecordArrivesWithoutAFlush) {
    ASSERT_OK(append("a", records(1)));
    EXPECT_TRUE(eventually([&] { return redis.length("a") == 1; }));
    // When the thread has long gone to sleep, too.
    EXPECT_TRUE(falls_asleep(writer));
    ASSERT_OK(append("a", records(1, 1)));
    EXPECT_TRUE(eventually([&] { return redis.length("a") == 2; }));
}

TEST_F(Behind, AllFunctionsThatStoreQueueAndCopyWhatTheyAreGiven) {
    hold();
    Logits logits = {1, 2, 3, 4};
    std::string id = "batch";
    const char *ids[] = {id.c_str(), nullptr, "indexed", ""};
    std::int64_t token_indices[] = {-1, -1, 0, -1};
    std::array<pita_status_t, 4> statuses{};
    pita_batch_t batch = batch_over(logits, 4);
    batch.req_ids = ids;
    batch.token_indices = token_indices;
    batch.statuses = statuses.data();
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_store_logits_metrics_batch(&batch), "entry 3", "req_id is empty");
    EXPECT_EQ(statuses, (std::array<pita_status_t, 4>{PITA_OK, PITA_OK, PITA_OK, PITA_ERR_INVALID_ARGUMENT}));
    Records some = records(1, 7);
    ASSERT_OK(append("metrics", some));
    ASSERT_OK(pita_store_logits_metrics("single", logits.data(), 1, 1, PITA_METRIC_ALL));
    // Whatever the caller does with its memory now.
    logits.assign(logits.size(), 99);
    id = "other";
    some = records(1, 99);
    release();
    ASSERT_OK(flush());
    EXPECT_EQ(stored(redis, "batch"), (Records{{1, 1, 0}}));
    EXPECT_EQ(stored(redis, "indexed"), (Records{{3, 3, 0}}));
    EXPECT_EQ(stored(redis, "metrics"), records(1, 7));
    EXPECT_EQ(stored(redis, "single"), (Records{{1, 1, 0}}));
    EXPECT_EQ(redis.keys(), 4);
}

TEST_F(Behind, TheOrderOfARequestIsKept) {
    for (const bool is_held : {true, false}) {
        SCOPED_TRACE(is_held);
        redis.run({"FLUSHALL"});
        if (is_held) {
            hold();
        }
        for (std::size_t i = 0; i < 200; ++i) {
            ASSERT_OK(append("appended", records(1, i)));
            ASSERT_OK(store_at("indexed", static_cast<std::int64_t>(i), records(1, i)));
            ASSERT_OK(i % 2 == 0 ? append("mixed", records(1, i))
                                 : store_at("mixed", static_cast<std::int64_t>(i), records(1, i)));
        }
        if (is_held) {
            release();
        }
        ASSERT_OK(flush());
        for (const char *id : {"appended", "indexed", "mixed"}) {
            EXPECT_EQ(stored(redis, id), records(200)) << id;
        }
    }
}

TEST_F(Behind, ATokenThatIsSentTwiceIsStoredOnce) {
    hold();
    for (std::size_t i = 0; i < 100; ++i) {
        for (const std::size_t wrong : {1000, 0}) {
            ASSERT_OK(store_at("a", static_cast<std::int64_t>(i), records(1, i + wrong)));
        }
    }
    release();
    ASSERT_OK(flush());
    EXPECT_EQ(stored(redis, "a"), records(100)) << "the last one counts";
    EXPECT_EQ(stats_now().indexed, 200U);
}

TEST_F(Behind, AStoreOfManyRecordsAndLongIdsAreFine) {
    open(server.url("&write=behind&prefix=p:"));
    const std::string id(1024, 'i');
    ASSERT_OK(append("many", records(20000)));
    for (std::size_t i = 0; i < 300; ++i) {
        ASSERT_OK(append(id, records(1, i)));
    }
    ASSERT_OK(flush());
    EXPECT_EQ(stored(redis, "p:many"), records(20000));
    EXPECT_EQ(stored(redis, "p:" + id), records(300));
}

TEST_F(Behind, AListLivesAsLongAsElsewhere) {
    open(server.url("&write=behind&ttl_s=500"));
    ASSERT_OK(append("a", records(1)));
    ASSERT_OK(store_at("b", 0, records(1)));
    ASSERT_OK(flush());
    for (const char *id : {"a", "b"}) {
        EXPECT_GT(redis.life_ms(id), 400000) << id;
        EXPECT_LE(redis.life_ms(id), 500000) << id;
    }
}

TEST_F(Behind, BadArgumentsAreRefusedAtOnceAndQueueNothing) {
    hold();
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, append("", records(1)), "req_id");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, append("a", {}), "count is 0");
    const float logit = 1;
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_store_logits_metrics("a", &logit, 1, 0, PITA_METRIC_ALL),
                 "temperature");
    EXPECT_EQ(queued(), 0U);
}

TEST_F(Behind, IsASettingLikeOthers) {
    EXPECT_FAILS(PITA_ERR_CONFIG, pita_redis_open(server.url().c_str()), "another write");
    EXPECT_OK(pita_redis_open(server.url("&write=behind").c_str()));
}

// --- a full queue ----------------------------------------------------------------------------------------------------

class FullQueue : public BehindTest {
  protected:
    static constexpr milliseconds timeout{300};

    FullQueue() {
        open(hasty_url("queue=8&timeout_ms=" + std::to_string(timeout.count())));
        hold();
        for (std::int64_t i = 0; i < 8; ++i) {
            EXPECT_OK(store_at("a", i, records(1, static_cast<std::size_t>(i))));
        }
    }

    void expect_all_arrive(std::size_t count) {
        release();
        ASSERT_OK(flush());
        EXPECT_EQ(stored(redis, "a"), records(count));
    }
};

TEST_F(FullQueue, HasACallWaitAndThenRefusesIt) {
    pita_status_t status = PITA_OK;
    const milliseconds took = time_of([&] { status = store_at("a", 8, records(1, 8)); });
    EXPECT_FAILS(PITA_ERR_QUEUE_FULL, status, "\"a\"", "not stored", "no room for 1 more", "8 of 8");
    EXPECT_GE(took, timeout);
    EXPECT_LT(took, 10 * timeout);
    EXPECT_EQ(queued(), 8U);
    expect_all_arrive(8);
    ASSERT_OK(store_at("a", 8, records(1, 8)));
    expect_all_arrive(9);
}

TEST_F(FullQueue, CostsItsCallersTheTimeOnce) {
    Log log;
    EXPECT_STATUS(PITA_ERR_QUEUE_FULL, append("b", records(1)));
    const milliseconds took = time_of([] {
        for (int i = 0; i < 100; ++i) {
            EXPECT_STATUS(PITA_ERR_QUEUE_FULL, append("b", records(1)));
        }
    });
    EXPECT_LT(took, timeout) << "a hundred calls more";
    EXPECT_TRUE(log.has(PITA_LOG_WARNING, "8 of 8"));
    expect_all_arrive(8);
    EXPECT_FALSE(redis.exists("b"));
    ASSERT_OK(append("b", records(1)));
}

TEST_F(Behind, AFullQueueTakesACallThatWaitsWhenThereIsRoom) {
    open(server.url("&write=behind&queue=2"));
    hold();
    ASSERT_OK(append("b", records(2)));
    std::future<pita_status_t> waiting = std::async(std::launch::async, [] { return append("b", records(1, 2)); });
    EXPECT_EQ(waiting.wait_for(milliseconds(20)), std::future_status::timeout);
    release();
    EXPECT_OK(waiting.get());
    ASSERT_OK(flush());
    EXPECT_EQ(stored(redis, "b"), records(3));
}

TEST_F(Behind, AFullQueueRefusesOfABatchWhatHasNoRoom) {
    open(hasty_url("queue=3&timeout_ms=100"));
    hold();
    const Logits logits = {1, 2, 3, 4, 5};
    const char *ids[] = {"a", "b", nullptr, "c", "d"};
    const std::int64_t indices[] = {0, 0, 0, 0, 0};
    std::array<pita_status_t, 5> statuses{};
    pita_batch_t batch = batch_over(logits, 5);
    batch.req_ids = ids;
    batch.token_indices = indices;
    batch.statuses = statuses.data();
    EXPECT_FAILS(PITA_ERR_QUEUE_FULL, pita_store_logits_metrics_batch(&batch), "entry 4", "1 of 5 failed", "\"d\"");
    EXPECT_EQ(statuses,
              (std::array<pita_status_t, 5>{PITA_OK, PITA_OK, PITA_OK, PITA_OK, PITA_ERR_QUEUE_FULL}));
    release();
    ASSERT_OK(flush());
    EXPECT_EQ(redis.keys(), 3) << "a, b, c";
}

TEST_F(FullQueue, CanNeverTakeMoreRecordsThanItHolds) {
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, append("b", records(9)), "count is 9", "at most 8");
    expect_all_arrive(8);
    ASSERT_OK(append("b", records(8)));
}

TEST_F(Behind, AFullQueueLetsACloseThroughAndRefusesWhoWaits) {
    open(server.url("&write=behind&queue=1"));
    hold();
    ASSERT_OK(append("b", records(1)));
    std::future<pita_status_t> waiting = std::async(std::launch::async, [] { return append("b", records(1)); });
    EXPECT_EQ(waiting.wait_for(milliseconds(20)), std::future_status::timeout);
    std::future<pita_status_t> closing = std::async(std::launch::async, pita_redis_close);
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, waiting.get());
    release();
    EXPECT_OK(closing.get());
    EXPECT_EQ(redis.length("b"), 1);
}

// --- what is queued is seen in the same process ----------------------------------------------------------------------

TEST_F(Behind, ATakeGetsWhatIsQueued) {
    for (std::size_t round = 0; round < 100; ++round) {
        ASSERT_OK(append("a", records(2)));
        ASSERT_OK(store_at("a", 2, records(1, 2)));
        ASSERT_EQ(take("a").records, records(3)) << round;
    }
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(Behind, ATakeThatWaitsGetsWhatIsQueued) {
    ASSERT_OK(append("a", records(3)));
    Records out(3);
    std::size_t count = 0;
    ASSERT_OK(pita_take_metrics_wait("a", 3, 0, out.data(), out.size(), &count));
    EXPECT_EQ(out, records(3));
}

TEST_F(Behind, ACountCountsWhatIsQueued) {
    std::size_t count = 0;
    ASSERT_OK(append("a", records(3)));
    ASSERT_OK(pita_count_metrics("a", &count));
    EXPECT_EQ(count, 3U);
}

TEST_F(Behind, ADiscardDeletesWhatIsQueued) {
    ASSERT_OK(append("a", records(3)));
    ASSERT_OK(pita_discard_metrics("a"));
    ASSERT_OK(flush());
    EXPECT_FALSE(redis.exists("a"));
}

TEST_F(Behind, WhatIsQueuedOfOthersHoldsNobodyUp) {
    ASSERT_OK(append("there", records(2)));
    ASSERT_OK(flush());
    hold();
    ASSERT_OK(append("queued", records(1)));
    std::size_t count = 0;
    EXPECT_OK(pita_count_metrics("there", &count)) << "reads are answered";
    EXPECT_EQ(count, 2U);
    EXPECT_EQ(queued(), 1U);
}

TEST_F(Behind, ATakeOfWhatCannotBeWrittenInTimeTakesNothing) {
    open(hasty_url("timeout_ms=200"));
    ASSERT_OK(store_at("a", 0, records(1)));
    ASSERT_OK(flush());
    hold();
    ASSERT_OK(store_at("a", 1, records(1, 1)));
    EXPECT_FAILS(PITA_ERR_TIMEOUT, take("a").status, "\"a\"", "1 record is still in the queue");
    release();
    EXPECT_TRUE(eventually([] { return take("a").records == records(2); }));
}

// --- the thread ------------------------------------------------------------------------------------------------------

TEST_F(Behind, TheThreadLivesFromTheFirstStoreToTheClose) {
    ASSERT_OK(pita_redis_ping());
    EXPECT_EQ(take("a").records.size(), 0U);
    EXPECT_EQ(threads_named(writer), 0);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([i] { EXPECT_OK(append(std::to_string(i), records(1))); });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_TRUE(eventually([] { return threads_named(writer) == 1; })) << threads_named(writer);
    ASSERT_OK(pita_redis_close());
    EXPECT_EQ(threads_named(writer), 0);
    EXPECT_EQ(redis.keys(), 4);
    ASSERT_OK(pita_redis_open(server.url("&write=behind").c_str()));
    ASSERT_OK(append("again", records(1)));
    ASSERT_OK(flush());
    EXPECT_EQ(threads_named(writer), 1);
}

TEST_F(Behind, TheThreadLetsNoSignalIn) {
    ASSERT_OK(append("a", records(1)));
    ASSERT_OK(flush());
    // Of 1 to 32 all but SIGKILL and SIGSTOP, which cannot be blocked, and one of the C library's own.
    // Valgrind unblocks some for moments.
    EXPECT_TRUE(eventually([&] { return status_of(tasks_named(writer).at(0), "SigBlk").substr(8) == "7ffbfeff"; }));
}

// --- across processes ------------------------------------------------------------------------------------------------

// An engine of 100 requests of 400 tokens each, and a sampler in another process that waits for all of them.
TEST_F(Behind, AWriterAndAReaderInAnotherProcess) {
    constexpr std::size_t requests = 100;
    constexpr std::size_t tokens = 400;
    const auto id = [](std::size_t request) { return "request-" + std::to_string(request); };
    const std::string url = server.url("&write=behind");
    ASSERT_OK(pita_redis_close());
    Child engine([&] {
        ASSERT_OK(pita_redis_open(url.c_str()));
        for (std::size_t token = 0; token < tokens; ++token) {
            for (std::size_t request = 0; request < requests; ++request) {
                ASSERT_OK(store_at(id(request), static_cast<std::int64_t>(token), records(1, request * tokens + token)));
            }
        }
        ASSERT_OK(pita_redis_close());
    });
    const Session reader(server.url());
    std::size_t whole = 0;
    for (std::size_t request = 0; request < requests; ++request) {
        Records out(tokens + 1);
        std::size_t count = 0;
        ASSERT_OK(pita_take_metrics_wait(id(request).c_str(), tokens, long_enough_ms, out.data(), out.size(), &count));
        out.resize(count);
        whole += out == records(tokens, request * tokens) ? 1 : 0;
    }
    EXPECT_EQ(whole, requests);
    EXPECT_TRUE(engine.succeeded());
    EXPECT_EQ(redis.keys(), 0);
    std::printf("write=behind to another process: %zu of %zu requests x %zu tokens whole and in order\n", whole,
                requests, tokens);
}

} // namespace
