// pita_redis.hpp: the C++ layer.

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "pita_redis.hpp"
#include "support/environment.hpp"
#include "support/logits.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;
using namespace std::chrono_literals;

namespace {

// What a call that must fail throws.
template <class Call> pita::Error error_of(Call call) {
    try {
        call();
    } catch (const pita::Error &error) {
        return error;
    }
    throw std::logic_error("the call did not fail");
}

// --- the session -----------------------------------------------------------------------------------------------------

class CppSession : public SharedServerTest {};

TEST_F(CppSession, OpensThePoolAndClosesItAtItsEnd) {
    {
        const pita::Session session(server.url());
        session.ping();
    }
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_redis_ping());
}

TEST_F(CppSession, ClosesThePoolWhenAnExceptionPasses) {
    EXPECT_THROW(
        {
            const pita::Session session(server.url());
            session.store("", std::vector<float>{1});
        },
        pita::Error);
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_redis_ping());
}

TEST_F(CppSession, ClosesWhenItIsToldAndThrowsWhatWasNotStored) {
    redis.run({"SET", "foreign", "mine"});
    pita::Session session(server.url("&write=behind"));
    session.store("foreign", std::vector<float>{1});
    EXPECT_EQ(error_of([&] { session.close(); }).status(), PITA_ERR_REDIS);
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_redis_ping());
    {
        pita::Session closed(server.url());
        closed.close();
        ASSERT_OK(pita_redis_open(server.url().c_str()));
    }
    EXPECT_OK(pita_redis_ping()) << "the end of a closed session closes nothing";
    ASSERT_OK(pita_redis_close());
}

TEST_F(CppSession, OpensByTheEnvironment) {
    const Environment environment(Variables{{"REDIS_URL", server.url()}});
    const pita::Session session;
    session.ping();
}

TEST_F(CppSession, ThatCannotBeOpenedThrows) {
    const pita::Error error = error_of([] { const pita::Session session("redis://localhost?colour=red"); });
    EXPECT_EQ(error.status(), PITA_ERR_CONFIG);
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_redis_ping());
}

TEST_F(CppSession, FailsWithTheStatusItsNameAndTheLibrarysWords) {
    const pita::Session session(server.url());
    redis.run({"SET", "a", "mine"});
    const pita::Error error = error_of([&] { session.store_metrics("a", records(1)); });
    EXPECT_EQ(error.status(), PITA_ERR_REDIS);
    EXPECT_STREQ(error.name(), "PITA_ERR_REDIS");
    EXPECT_STREQ(error.what(), pita_last_error());
    EXPECT_NE(std::string(error.what()).find("WRONGTYPE"), std::string::npos) << error.what();
    // The words are its own, not the thread's last.
    error_of([&] { session.count(""); });
    EXPECT_NE(std::string(error.what()).find("WRONGTYPE"), std::string::npos) << error.what();
}

// --- its calls -------------------------------------------------------------------------------------------------------

class CppCalls : public CppSession {
  protected:
    CppCalls() : session(server.url()) {}

    const pita::Session session;
};

TEST_F(CppCalls, StoreCountAndTake) {
    const Logits row = random_logits(100);
    session.store("a", row, 0.7F);
    EXPECT_EQ(session.count("a"), 1U);
    const Records taken = session.take("a");
    ASSERT_EQ(taken.size(), 1U);
    expect_near(taken[0], reference(row, 0.7F));
    EXPECT_EQ(session.count("a"), 0U);
    EXPECT_TRUE(session.take("a").empty());
}

TEST_F(CppCalls, StoreWhatIsAskedFor) {
    session.store("a", std::vector<float>{1, 2}, 1.0F, PITA_METRIC_ENTROPY);
    const Records taken = session.take("a");
    ASSERT_EQ(taken.size(), 1U);
    EXPECT_EQ(taken[0].log_norm, 0);
    EXPECT_GT(taken[0].entropy, 0);
}

TEST_F(CppCalls, TakeAnyContainer) {
    const float array[] = {3.5F};
    const std::array<pita::Metrics, 2> two = {record(0), record(1)};
    session.store("logits", std::vector<float>{3.5F});
    session.store("logits", std::array<float, 1>{3.5F});
    session.store("logits", pita::Span<const float>(array, 1));
    session.store_metrics("metrics", two);
    session.store_metrics("metrics", std::vector<pita::Metrics>(3));
    EXPECT_EQ(session.take("logits"), Records(3, {3.5, 3.5, 0}));
    EXPECT_EQ(session.take("metrics"), (Records{record(0), record(1), {}, {}, {}}));
}

TEST_F(CppCalls, StoreMetricsAtAnIndex) {
    session.store_metrics("a", records(3));
    session.store_metrics("a", records(1, 10), 1);
    EXPECT_EQ(session.take("a"), (Records{record(0), record(10), record(2)}));
    EXPECT_EQ(error_of([&] { session.store_metrics("a", records(1), 1); }).status(), PITA_ERR_GAP);
}

TEST_F(CppCalls, TakeAnyNumberOfRecords) {
    for (const std::size_t count : {1023, 1024, 1025, 3000}) {
        session.store_metrics("a", records(count));
        EXPECT_TRUE(session.take("a") == records(count)) << count;
        session.store_metrics("a", records(count));
        EXPECT_TRUE(session.take_wait("a", 1, 60s) == records(count)) << count;
        session.store_metrics("a", records(count));
        EXPECT_TRUE(session.take_wait("a", count, 60s) == records(count)) << count;
    }
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(CppCalls, TakeNothingWhereTheWaitWasInVain) {
    session.store_metrics("a", records(2));
    for (const auto timeout : {-1ms, 0ms, 10ms}) {
        EXPECT_EQ(error_of([&] { session.take_wait("a", 3, timeout); }).status(), PITA_ERR_TIMEOUT);
    }
    EXPECT_EQ(session.count("a"), 2U);
}

TEST_F(CppCalls, Discard) {
    session.store_metrics("a", records(2));
    session.discard("a");
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(CppCalls, FlushAndReadTheStats) {
    session.store_metrics("a", records(2));
    session.flush(60s);
    const pita_stats_t stats = session.stats();
    EXPECT_EQ(stats.stored, 2U);
    EXPECT_EQ(stats.connections, 1U);
}

// --- the batch -------------------------------------------------------------------------------------------------------

class CppBatch : public CppCalls {};

TEST_F(CppBatch, StoresEachRequest) {
    const Logits logits = random_logits(3 * 20);
    const auto row = [&](std::ptrdiff_t i) { return Logits(logits.begin() + 20 * i, logits.begin() + 20 * (i + 1)); };
    pita::Batch batch(pita::Logits(logits.data(), 3, 20));
    batch.add({"a", 2});
    batch.add({"b", 0, 0, 0.5F});
    batch.add({"c", 2, -1, 1.0F, PITA_METRIC_ENTROPY});
    EXPECT_EQ(batch.size(), 3U);
    session.store(batch);
    EXPECT_EQ(batch.statuses(), std::vector<pita_status_t>(3, PITA_OK));
    expect_near(session.take("a").at(0), reference(row(2)));
    expect_near(session.take("b").at(0), reference(row(0), 0.5F));
    EXPECT_EQ(session.take("c").at(0).log_norm, 0);
}

TEST_F(CppBatch, IsUsedAgainStepByStep) {
    const Logits16 half = map(random_logits(2 * 32), narrow_f16);
    const Logits wide = map(half, widen_f16);
    const auto row = [&](std::ptrdiff_t i) { return Logits(wide.begin() + 32 * i, wide.begin() + 32 * i + 20); };
    const Logits first = random_logits(20, 4.0F, 2);
    pita::Batch batch;

    batch.begin(pita::Logits(first.data(), 1, 20));
    batch.add({"a", 0, 0});
    batch.add({"left", 0, 0});
    session.store(batch);

    batch.begin(pita::Logits(half.data(), 2, 20, 32, PITA_DTYPE_F16));
    EXPECT_EQ(batch.size(), 0U);
    batch.add({"a", 1, 1});
    session.store(batch);
    EXPECT_EQ(batch.statuses(), std::vector<pita_status_t>{PITA_OK});

    const Records a = session.take("a");
    ASSERT_EQ(a.size(), 2U);
    expect_near(a[0], reference(first));
    expect_near(a[1], reference(row(1)));
    EXPECT_EQ(session.count("left"), 1U);
}

TEST_F(CppBatch, HasTheStatusOfEachRequestWhenOneFails) {
    const Logits logits = {1, 2};
    pita::Batch batch(pita::Logits(logits.data(), 2, 1));
    batch.add({"a", 0});
    batch.add({"gap", 1, 5});
    EXPECT_EQ(error_of([&] { session.store(batch); }).status(), PITA_ERR_GAP);
    EXPECT_EQ(batch.statuses(), (std::vector<pita_status_t>{PITA_OK, PITA_ERR_GAP}));
    EXPECT_EQ(session.count("a"), 1U);
}

TEST_F(CppBatch, WithoutRequestsIsAnError) {
    pita::Batch batch;
    EXPECT_EQ(error_of([&] { session.store(batch); }).status(), PITA_ERR_INVALID_ARGUMENT);
}

TEST(CppCompute, NeedsNoSession) {
    const Logits row = random_logits(50);
    pita::Batch batch(pita::Logits(row.data(), 1, row.size()));
    batch.add({"a", 0, -1, 0.7F});
    const Records metrics = pita::compute(batch);
    ASSERT_EQ(metrics.size(), 1U);
    expect_near(metrics[0], reference(row, 0.7F));
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_redis_ping());
}

TEST(CppCompute, ThrowsLikeAllElse) {
    pita::Batch batch;
    batch.add({"a"});
    EXPECT_EQ(error_of([&] { pita::compute(batch); }).status(), PITA_ERR_INVALID_ARGUMENT);
}

} // namespace
