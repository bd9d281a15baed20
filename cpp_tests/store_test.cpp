// pita_store_logits_metrics: one row, appended.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "pita_redis.h"
#include "support/logits.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

class Store : public SessionTest {
  protected:
    static pita_status_t store(const std::string &id, const Logits &row, float temperature = 1.0F,
                               std::uint32_t metrics = PITA_METRIC_ALL) {
        return pita_store_logits_metrics(id.c_str(), row.data(), row.size(), temperature, metrics);
    }
};

TEST_F(Store, PutsTheThreeNumbersOfTheRowIntoAList) {
    const Logits row = random_logits(32000);
    ASSERT_OK(store("a", row, 0.7F));
    const Records found = stored(redis, "a");
    ASSERT_EQ(found.size(), 1U);
    expect_near(found[0], reference(row, 0.7F));
}

TEST_F(Store, WritesTextThatReadsBackAsTheSameDoubles) {
    for (unsigned seed = 0; seed < 100; ++seed) {
        const Logits row = random_logits(10, 5.0F, seed);
        const pita_batch_t batch = batch_over(row, 1);
        pita_metrics_t computed = {};
        ASSERT_OK(pita_compute_logits_metrics(&batch, &computed));
        ASSERT_OK(store("a", row));
        ASSERT_EQ(stored(redis, "a").back(), computed);
    }
}

TEST_F(Store, Appends) {
    for (std::size_t i = 0; i < 20; ++i) {
        ASSERT_OK(store("a", {static_cast<float>(i)}, 0.5F));
    }
    const Records found = stored(redis, "a");
    ASSERT_EQ(found.size(), 20U);
    for (std::size_t i = 0; i < 20; ++i) {
        const auto x = static_cast<double>(i);
        EXPECT_EQ(found[i], (pita_metrics_t{x, 2 * x, 0}));
    }
}

TEST_F(Store, AppendsBehindWhatOthersStored) {
    redis.push("a", {"1.5,2.5,0.5"});
    ASSERT_OK(store("a", {7.0F}));
    EXPECT_EQ(stored(redis, "a"), (Records{{1.5, 2.5, 0.5}, {7, 7, 0}}));
}

TEST_F(Store, WritesA0ForWhatIsNotAskedFor) {
    const Logits row = {1.0F, 2.0F, 3.0F};
    const Reference expected = reference(row, 0.5F);
    ASSERT_OK(store("a", row, 0.5F, PITA_METRIC_NORMALIZATION));
    ASSERT_OK(store("a", row, 0.5F, PITA_METRIC_ENTROPY));
    const Records found = stored(redis, "a");
    ASSERT_EQ(found.size(), 2U);
    expect_near(found[0], {expected.log_norm, expected.log_norm_temp, 0});
    EXPECT_EQ(found[0].entropy, 0);
    expect_near(found[1], {0, 0, expected.entropy});
    EXPECT_EQ(found[1].log_norm, 0);
    EXPECT_EQ(found[1].log_norm_temp, 0);
}

TEST_F(Store, ReadsLogitsAtAnyAddress) {
    const Logits row = random_logits(100);
    std::vector<char> bytes(sizeof(float) * row.size() + 1);
    std::memcpy(&bytes[1], row.data(), sizeof(float) * row.size());
    // A caller in C has just such a pointer, from a packed message.
    const void *unaligned = &bytes[1];
    ASSERT_OK(pita_store_logits_metrics("a", static_cast<const float *>(unaligned), row.size(), 1.0F, PITA_METRIC_ALL));
    expect_near(stored(redis, "a").at(0), reference(row));
}

TEST_F(Store, KeepsARecordForRowsThatHaveNoFiniteOne) {
    constexpr float inf = std::numeric_limits<float>::infinity();
    ASSERT_OK(store("a", {-inf, -inf}));
    ASSERT_OK(store("a", {1.0F, inf}));
    ASSERT_OK(store("a", {1.0F, std::numeric_limits<float>::quiet_NaN()}));
    ASSERT_OK(store("a", {5.0F}));
    const Records expected = {{-infinity, -infinity, not_a_number},
                              {infinity, infinity, not_a_number},
                              {not_a_number, not_a_number, not_a_number},
                              {5, 5, 0}};
    EXPECT_EQ(stored(redis, "a"), expected);
    EXPECT_EQ(take("a").records, expected);
}

// float() of Python, with which PITA reads.
TEST_F(Store, SpellsSpecialNumbersAsPythonDoes) {
    ASSERT_OK(store("a", {-std::numeric_limits<float>::infinity()}));
    ASSERT_OK(store("a", {std::numeric_limits<float>::infinity()}));
    EXPECT_EQ(redis.list("a"), (std::vector<std::string>{"-inf,-inf,nan", "inf,inf,nan"}));
}

// --- ids -------------------------------------------------------------------------------------------------------------

TEST_F(Store, TakesAnyIdOf1To1024BytesAsItIs) {
    const std::string ids[] = {
        "x", std::string(1024, 'x'), "with space", "with\r\nline break", "*", "{tag}:x", "\"'\\%s", "日本語", "\x01",
    };
    for (const std::string &id : ids) {
        EXPECT_OK(store(id, {1.0F})) << id;
        EXPECT_EQ(redis.length(id), 1) << id;
    }
    EXPECT_EQ(redis.keys(), static_cast<long long>(std::size(ids)));
}

// --- bad arguments ---------------------------------------------------------------------------------------------------

class StoreArguments : public Store {
  protected:
    ~StoreArguments() override { EXPECT_EQ(redis.keys(), 0) << "something was stored"; }

    const float row[3] = {1, 2, 3};
};

TEST_F(StoreArguments, WithABadIdAreRefused) {
    const auto store_as = [&](const char *id) { return pita_store_logits_metrics(id, row, 3, 1, PITA_METRIC_ALL); };
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_as(nullptr), "req_id", "NULL");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_as(""), "req_id", "empty");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_as(std::string(1025, 'x').c_str()), "req_id", "1024");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_as("ab\xFF"), "req_id", "UTF-8");
    // Overlong, a surrogate, cut short.
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_as("\xC0\x80"), "req_id", "UTF-8");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_as("\xED\xA0\x80"), "req_id", "UTF-8");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_as("\xE6\x97"), "req_id", "UTF-8");
}

TEST_F(StoreArguments, WithBadLogitsAreRefused) {
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_store_logits_metrics("a", nullptr, 3, 1, PITA_METRIC_ALL), "logits",
                 "NULL");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_store_logits_metrics("a", row, 0, 1, PITA_METRIC_ALL),
                 "vocab_size is 0");
    const std::size_t huge = std::numeric_limits<std::size_t>::max();
    EXPECT_STATUS(PITA_ERR_INVALID_ARGUMENT, pita_store_logits_metrics("a", row, huge, 1, PITA_METRIC_ALL));
    EXPECT_NE(std::string(pita_last_error()).find(std::to_string(huge)), std::string::npos) << pita_last_error();
}

TEST_F(StoreArguments, WithABadTemperatureAreRefused) {
    const auto store_at = [&](float temperature) {
        return pita_store_logits_metrics("a", row, 3, temperature, PITA_METRIC_ALL);
    };
    constexpr float inf = std::numeric_limits<float>::infinity();
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_at(0.0F), "temperature is 0");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_at(-0.0F), "temperature is -0");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_at(-1.5F), "temperature is -1.5");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_at(inf), "temperature is inf");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_at(-inf), "temperature is -inf");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_at(std::nanf("")), "temperature is", "N");
}

TEST_F(StoreArguments, WithBadMetricsAreRefused) {
    const auto store_set = [&](std::uint32_t metrics) { return pita_store_logits_metrics("a", row, 3, 1, metrics); };
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_set(0), "metrics is", "0");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_set(4), "metrics is", "4");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, store_set(PITA_METRIC_ALL | 0x80000000U), "metrics is", "80000003");
}

// --- what Redis refuses ----------------------------------------------------------------------------------------------

TEST_F(Store, UnderAKeyThatHoldsNoListFailsInTheServersWords) {
    redis.run({"SET", "a", "mine"});
    EXPECT_FAILS(PITA_ERR_REDIS, store("a", {1.0F}), "WRONGTYPE", "\"a\"");
    EXPECT_EQ(redis.run({"GET", "a"}).text, "mine");
}

} // namespace
