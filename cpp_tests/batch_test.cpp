// pita_store_logits_metrics_batch: many requests in one call.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "pita_redis.h"
#include "support/logits.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

// Three requests "a", "b", "c", whose rows are one logit each: 10, 11, 12.
class Batch : public SessionTest {
  protected:
    Batch() : batch(batch_over(logits, 3)) {
        batch.req_ids = ids;
        batch.statuses = statuses;
    }

    // The records of a row that is one logit, at temperature 1.
    static Records of(std::initializer_list<double> values) {
        Records all;
        for (const double x : values) {
            all.push_back({x, x, 0});
        }
        return all;
    }

    void expect_statuses(pita_status_t a, pita_status_t b, pita_status_t c) {
        EXPECT_EQ(statuses[0], a) << shown(statuses[0]);
        EXPECT_EQ(statuses[1], b) << shown(statuses[1]);
        EXPECT_EQ(statuses[2], c) << shown(statuses[2]);
    }

    Logits logits = {10, 11, 12};
    const char *ids[3] = {"a", "b", "c"};
    pita_status_t statuses[3] = {1, 1, 1};
    pita_batch_t batch;
};

TEST_F(Batch, StoresARecordForEachRequest) {
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    expect_statuses(PITA_OK, PITA_OK, PITA_OK);
    EXPECT_EQ(stored(redis, "a"), of({10}));
    EXPECT_EQ(stored(redis, "b"), of({11}));
    EXPECT_EQ(stored(redis, "c"), of({12}));
    EXPECT_EQ(redis.keys(), 3);
}

TEST_F(Batch, NeedsNoStatuses) {
    batch.statuses = nullptr;
    EXPECT_OK(pita_store_logits_metrics_batch(&batch));
    EXPECT_EQ(redis.keys(), 3);
}

TEST_F(Batch, AppendsAgainAndAgain) {
    for (int i = 0; i < 3; ++i) {
        ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    }
    EXPECT_EQ(stored(redis, "b"), of({11, 11, 11}));
}

// A server that was restarted, or whose scripts were flushed.
TEST_F(Batch, ByAForgottenScriptIsTwoRoundTrips) {
    constexpr std::size_t size = 32;
    const auto round_trips = [] {
        pita_stats_t stats = {};
        stats.struct_size = sizeof stats;
        EXPECT_OK(pita_redis_stats(&stats));
        return stats.round_trip_latency.count;
    };
    const auto calls = [this](const std::string &command) {
        const std::string text = redis.run({"INFO", "commandstats"}).text;
        const std::string field = "cmdstat_" + command + ":calls=";
        const std::size_t at = text.find(field);
        return at == std::string::npos ? 0LL : std::stoll(text.substr(at + field.size()));
    };
    const Logits many(size, 10);
    std::vector<std::string> names;
    std::vector<const char *> pointers;
    for (std::size_t i = 0; i < size; ++i) {
        names.push_back("request " + std::to_string(i));
    }
    for (const std::string &name : names) {
        pointers.push_back(name.c_str());
    }
    const std::vector<std::int64_t> indices(size, 0);
    std::vector<pita_status_t> each(size, 1);
    pita_batch_t indexed = batch_over(many, size);
    indexed.req_ids = pointers.data();
    indexed.token_indices = indices.data();
    indexed.statuses = each.data();
    ASSERT_OK(pita_redis_ping());
    redis.run({"SCRIPT", "FLUSH", "SYNC"});
    const auto trips_before = round_trips();
    const long long eval_before = calls("eval");
    const long long evalsha_before = calls("evalsha");
    ASSERT_OK(pita_store_logits_metrics_batch(&indexed));
    EXPECT_EQ(round_trips(), trips_before + 2);
    EXPECT_EQ(calls("eval"), eval_before + 1);
    EXPECT_EQ(calls("evalsha"), evalsha_before + 1);
    for (std::size_t i = 0; i < size; ++i) {
        EXPECT_EQ(each[i], PITA_OK) << i;
        EXPECT_EQ(stored(redis, names[i]), of({10})) << i;
    }
    EXPECT_EQ(redis.keys(), static_cast<long long>(size));
    ASSERT_OK(pita_store_logits_metrics_batch(&indexed));
    EXPECT_EQ(round_trips(), trips_before + 3) << "it is known again";
}

TEST_F(Batch, IsOneRoundTrip) {
    const auto round_trips = [] {
        pita_stats_t stats = {};
        stats.struct_size = sizeof stats;
        EXPECT_OK(pita_redis_stats(&stats));
        return stats.round_trip_latency.count;
    };
    // The first ones let the server learn the scripts.
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    const auto before = round_trips();
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    EXPECT_EQ(round_trips(), before + 1);
}

TEST_F(Batch, ReadsEveryElementType) {
    const Logits row = random_logits(64);
    const Logits16 f16 = map(row, narrow_f16);
    const Logits16 bf16 = map(row, narrow_bf16);
    const float temperature = 0.7F;
    const auto store = [&](const char *id, const void *data, std::uint32_t dtype) {
        pita_batch_t one = batch_over(data, dtype, 1, row.size());
        one.req_ids = &id;
        one.temperatures = &temperature;
        EXPECT_OK(pita_store_logits_metrics_batch(&one));
    };
    store("f32", row.data(), PITA_DTYPE_F32);
    store("f16", f16.data(), PITA_DTYPE_F16);
    store("bf16", bf16.data(), PITA_DTYPE_BF16);
    expect_near(stored(redis, "f32").at(0), reference(row, temperature));
    expect_near(stored(redis, "f16").at(0), reference(map(f16, widen_f16), temperature));
    expect_near(stored(redis, "bf16").at(0), reference(map(bf16, widen_bf16), temperature));
}

TEST_F(Batch, ObeysStrideRowsTemperaturesAndMetrics) {
    const Logits matrix = random_logits(4 * 20);
    const std::size_t row_of[] = {3, 1, 3};
    const float temperatures[] = {0.5F, 1.0F, 2.0F};
    const std::uint32_t metrics[] = {PITA_METRIC_ALL, PITA_METRIC_NORMALIZATION, PITA_METRIC_ENTROPY};
    batch.logits = matrix.data();
    batch.rows = 4;
    batch.vocab_size = 15;
    batch.row_stride = 20;
    batch.row_of = row_of;
    batch.temperatures = temperatures;
    batch.metrics = metrics;
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));

    const Reference third = reference(Logits(matrix.begin() + 60, matrix.begin() + 75), 0.5F);
    const Reference first = reference(Logits(matrix.begin() + 20, matrix.begin() + 35));
    expect_near(stored(redis, "a").at(0), third);
    expect_near(stored(redis, "b").at(0), {first.log_norm, first.log_norm_temp, 0});
    expect_near(stored(redis, "c").at(0), {0, 0, third.entropy});
}

TEST_F(Batch, LeavesOutRequestsWithoutAnId) {
    ids[1] = nullptr;
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    expect_statuses(PITA_OK, PITA_OK, PITA_OK);
    EXPECT_EQ(stored(redis, "a"), of({10}));
    EXPECT_EQ(stored(redis, "c"), of({12}));
    EXPECT_EQ(redis.keys(), 2);
}

TEST_F(Batch, OfNothingButSkippedRequestsIsFine) {
    ids[0] = ids[1] = ids[2] = nullptr;
    EXPECT_OK(pita_store_logits_metrics_batch(&batch));
    expect_statuses(PITA_OK, PITA_OK, PITA_OK);
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(Batch, CanBeLarge) {
    const std::size_t len = 3000;
    std::vector<std::string> names;
    for (std::size_t i = 0; i < len; ++i) {
        names.push_back("request-" + std::to_string(i));
    }
    const std::vector<const char *> many_ids = map(names, [](const std::string &name) { return name.c_str(); });
    const Logits many = random_logits(len);
    pita_batch_t large = batch_over(many, len);
    large.req_ids = many_ids.data();
    ASSERT_OK(pita_store_logits_metrics_batch(&large));
    EXPECT_EQ(redis.keys(), static_cast<long long>(len));
    for (const std::size_t i : {std::size_t{0}, len / 2, len - 1}) {
        EXPECT_EQ(stored(redis, names[i]), of({many[i]}));
    }
}

// --- token indices ---------------------------------------------------------------------------------------------------

class IndexedBatch : public Batch {
  protected:
    IndexedBatch() { batch.token_indices = token_indices; }

    std::int64_t token_indices[3] = {0, 0, 0};
};

TEST_F(IndexedBatch, AppendsAtTheEndOfTheList) {
    for (std::int64_t token = 0; token < 4; ++token) {
        token_indices[0] = token_indices[1] = token_indices[2] = token;
        ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    }
    EXPECT_EQ(stored(redis, "c"), of({12, 12, 12, 12}));
}

TEST_F(IndexedBatch, LeavesOneRecordOfATokenThatIsSentTwice) {
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    EXPECT_EQ(stored(redis, "a"), of({10}));
}

TEST_F(IndexedBatch, ReplacesTheRecordOfAToken) {
    ASSERT_OK(append("a", records(3)));
    token_indices[0] = 1;
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    EXPECT_EQ(stored(redis, "a"), (Records{record(0), of({10})[0], record(2)}));
}

TEST_F(IndexedBatch, RefusesATokenPastTheEndAndStoresTheOthers) {
    token_indices[1] = 1;
    EXPECT_FAILS(PITA_ERR_GAP, pita_store_logits_metrics_batch(&batch), "token_index is 1", "\"b\"");
    expect_statuses(PITA_OK, PITA_ERR_GAP, PITA_OK);
    EXPECT_FALSE(redis.exists("b"));
    EXPECT_EQ(redis.keys(), 2);
}

TEST_F(IndexedBatch, CannotBringAListBackThatWasTaken) {
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    ASSERT_OK(take("a").status);
    token_indices[0] = token_indices[1] = token_indices[2] = 1;
    EXPECT_FAILS(PITA_ERR_GAP, pita_store_logits_metrics_batch(&batch), "\"a\"");
    expect_statuses(PITA_ERR_GAP, PITA_OK, PITA_OK);
    EXPECT_FALSE(redis.exists("a"));
}

TEST_F(IndexedBatch, AppendsWhereTheIndexIsBelow0) {
    token_indices[0] = -1;
    token_indices[2] = std::numeric_limits<std::int64_t>::min();
    for (int i = 0; i < 3; ++i) {
        ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    }
    EXPECT_EQ(redis.length("a"), 3);
    EXPECT_EQ(redis.length("b"), 1);
    EXPECT_EQ(redis.length("c"), 3);
}

TEST_F(IndexedBatch, TakesTheHighestIndexForAGap) {
    token_indices[0] = std::numeric_limits<std::int64_t>::max();
    EXPECT_FAILS(PITA_ERR_GAP, pita_store_logits_metrics_batch(&batch), std::to_string(token_indices[0]));
    expect_statuses(PITA_ERR_GAP, PITA_OK, PITA_OK);
    EXPECT_FALSE(redis.exists("a"));
}

TEST_F(IndexedBatch, MayHaveSeveralTokensOfARequest) {
    ids[1] = ids[2] = "a";
    token_indices[1] = 1;
    token_indices[2] = 2;
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    EXPECT_EQ(stored(redis, "a"), of({10, 11, 12}));
}

// An indexed entry then needs a second round trip; an append between two of them must not get ahead.
TEST_F(IndexedBatch, KeepsTheOrderOfItsEntriesWhenTheServerForgotTheScripts) {
    ids[0] = ids[1] = ids[2] = "a";
    token_indices[0] = 1;
    token_indices[1] = -1;
    token_indices[2] = 3;
    ASSERT_OK(append("a", records(1)));
    redis.run({"SCRIPT", "FLUSH"});
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    EXPECT_EQ(stored(redis, "a"), (Records{record(0), of({10})[0], of({11})[0], of({12})[0]}));
}

// --- one bad entry does not stop the others --------------------------------------------------------------------------

class BadEntry : public Batch {
  protected:
    // Stores the batch whose second entry is bad.
    void expect_only_b_refused(pita_status_t status, const std::string &word) {
        EXPECT_FAILS(status, pita_store_logits_metrics_batch(&batch), "entry 1", word);
        expect_statuses(PITA_OK, status, PITA_OK);
        EXPECT_EQ(stored(redis, "a"), of({10}));
        EXPECT_EQ(stored(redis, "c"), of({12}));
        EXPECT_EQ(redis.keys(), 2);
        redis.run({"FLUSHALL"});
    }
};

TEST_F(BadEntry, CanBeAnId) {
    const std::string too_long(1025, 'x');
    ids[1] = "";
    expect_only_b_refused(PITA_ERR_INVALID_ARGUMENT, "req_id is empty");
    ids[1] = too_long.c_str();
    expect_only_b_refused(PITA_ERR_INVALID_ARGUMENT, "1024");
    ids[1] = "\xFF";
    expect_only_b_refused(PITA_ERR_INVALID_ARGUMENT, "UTF-8");
}

TEST_F(BadEntry, IsNotALongId) {
    const std::string longest(1024, 'x');
    ids[1] = longest.c_str();
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    EXPECT_EQ(stored(redis, longest), of({11}));
}

TEST_F(BadEntry, CanBeATemperature) {
    static float temperatures[] = {1, 1, 1};
    batch.temperatures = temperatures;
    constexpr float inf = std::numeric_limits<float>::infinity();
    for (const auto &[temperature, word] : {std::pair<float, const char *>{0.0F, "temperature is 0"},
                                            {-1.0F, "temperature is -1"},
                                            {inf, "temperature is inf"},
                                            {-inf, "temperature is -inf"},
                                            {std::nanf(""), "temperature is "}}) {
        temperatures[1] = temperature;
        expect_only_b_refused(PITA_ERR_INVALID_ARGUMENT, word);
    }
}

TEST_F(BadEntry, CanBeASetOfMetrics) {
    std::uint32_t metrics[] = {3, 0, 3};
    batch.metrics = metrics;
    expect_only_b_refused(PITA_ERR_INVALID_ARGUMENT, "metrics is");
    metrics[1] = 8;
    expect_only_b_refused(PITA_ERR_INVALID_ARGUMENT, "metrics is");
}

TEST_F(BadEntry, CanBeARow) {
    std::size_t row_of[] = {0, 3, 2};
    batch.row_of = row_of;
    expect_only_b_refused(PITA_ERR_INVALID_ARGUMENT, "row is 3");
    row_of[1] = std::numeric_limits<std::size_t>::max();
    expect_only_b_refused(PITA_ERR_INVALID_ARGUMENT, "row is " + std::to_string(row_of[1]));
}

TEST_F(BadEntry, CanBeAKeyThatHoldsNoList) {
    redis.run({"SET", "b", "mine"});
    EXPECT_FAILS(PITA_ERR_REDIS, pita_store_logits_metrics_batch(&batch), "entry 1", "WRONGTYPE");
    expect_statuses(PITA_OK, PITA_ERR_REDIS, PITA_OK);
    EXPECT_EQ(redis.run({"GET", "b"}).text, "mine");
    EXPECT_EQ(redis.keys(), 3);

    std::int64_t token_indices[] = {1, 0, 1};
    batch.token_indices = token_indices;
    EXPECT_FAILS(PITA_ERR_REDIS, pita_store_logits_metrics_batch(&batch), "entry 1", "WRONGTYPE");
    expect_statuses(PITA_OK, PITA_ERR_REDIS, PITA_OK);
    EXPECT_EQ(redis.run({"GET", "b"}).text, "mine");
    EXPECT_EQ(redis.length("c"), 2);
}

TEST_F(BadEntry, IsReportedFirstComesFirst) {
    const float temperatures[] = {1, 0, 1};
    const std::int64_t token_indices[] = {5, 0, 5};
    batch.temperatures = temperatures;
    batch.token_indices = token_indices;
    EXPECT_FAILS(PITA_ERR_GAP, pita_store_logits_metrics_batch(&batch), "entry 0");
    expect_statuses(PITA_ERR_GAP, PITA_ERR_INVALID_ARGUMENT, PITA_ERR_GAP);
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(BadEntry, IsReportedWithoutStatusesToo) {
    batch.statuses = nullptr;
    ids[1] = "";
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_store_logits_metrics_batch(&batch), "entry 1");
    EXPECT_EQ(redis.keys(), 2);
}

} // namespace
