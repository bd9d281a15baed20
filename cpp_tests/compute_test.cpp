// pita_compute_logits_metrics: the values, and the shapes of a batch. No Redis anywhere.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "pita_redis.h"
#include "support/guarded_page.hpp"
#include "support/logits.hpp"
#include "support/records.hpp"
#include "support/status.hpp"

using namespace support;

namespace {

// The metrics of each request of a batch that has nothing to complain of.
Records compute(const pita_batch_t &batch) {
    Records out(batch.len, pita_metrics_t{-9, -9, -9});
    EXPECT_OK(pita_compute_logits_metrics(&batch, out.data()));
    return out;
}

pita_metrics_t compute(const Logits &row, float temperature = 1.0F) {
    pita_batch_t batch = batch_over(row, 1);
    batch.temperatures = &temperature;
    return compute(batch)[0];
}

// --- values ----------------------------------------------------------------------------------------------------------

TEST(Values, AreThoseOfTheReferenceForAnyVocabulary) {
    for (const std::size_t size : {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 1000, 4097, 32000}) {
        SCOPED_TRACE(size);
        const Logits row = random_logits(size, 4.0F, static_cast<unsigned>(size));
        expect_near(compute(row, 0.7F), reference(row, 0.7F));
    }
}

TEST(Values, AreThoseOfTheReferenceForAnyTemperature) {
    const Logits row = random_logits(1000);
    for (const float temperature : {1e-3F, 0.1F, 0.7F, 1.0F, 1.5F, 2.0F, 100.0F, 1e6F}) {
        SCOPED_TRACE(temperature);
        expect_near(compute(row, temperature), reference(row, temperature));
    }
}

TEST(Values, AreThoseOfTheReferenceForAnySpread) {
    for (const float spread : {0.0F, 1e-6F, 0.01F, 1.0F, 30.0F, 1000.0F, 1e20F}) {
        SCOPED_TRACE(spread);
        const Logits row = random_logits(1000, spread);
        expect_near(compute(row, 0.5F), reference(row, 0.5F));
    }
}

TEST(Values, DoNotDependOnTheOrderOfTheLogits) {
    Logits row = random_logits(5000, 8.0F);
    std::sort(row.begin(), row.end());
    expect_near(compute(row, 0.7F), reference(row, 0.7F));
    std::reverse(row.begin(), row.end());
    expect_near(compute(row, 0.7F), reference(row, 0.7F));
}

TEST(Values, OfOneLogitAreTheLogit) {
    EXPECT_EQ(compute({3.5F}, 0.5F), (pita_metrics_t{3.5, 7, 0}));
    EXPECT_EQ(compute({-3.5F}, 2.0F), (pita_metrics_t{-3.5, -1.75, 0}));
}

TEST(Values, OfEqualLogitsHaveTheEntropyOfTheirNumber) {
    const pita_metrics_t metrics = compute(Logits(32000, 2.0F), 0.5F);
    EXPECT_NEAR(metrics.log_norm, 2 + std::log(32000), 1e-6);
    EXPECT_NEAR(metrics.log_norm_temp, 4 + std::log(32000), 1e-6);
    EXPECT_NEAR(metrics.entropy, std::log(32000), 1e-6);
}

TEST(Values, HaveAnEntropyThatAnOffsetLeavesAlone) {
    const double entropy = compute({0.0F, 1.0F, 2.5F}).entropy;
    for (const float offset : {-1048576.0F, -1024.0F, 1024.0F, 1048576.0F}) {
        const pita_metrics_t moved = compute({offset, offset + 1.0F, offset + 2.5F});
        EXPECT_NEAR(moved.entropy, entropy, 1e-6) << offset;
        expect_near(moved, reference({offset, offset + 1.0F, offset + 2.5F}));
    }
}

// log_norm less the mean logit would be 0 or below: the two agree in all digits.
TEST(Values, HaveAPreciseEntropyForAPeakedRow) {
    for (const float gap : {30.0F, 60.0F, 200.0F, 700.0F}) {
        Logits row(1000, -gap);
        row[137] = 0.0F;
        const double entropy = compute(row).entropy;
        const auto expected = static_cast<double>(reference(row).entropy);
        EXPECT_GT(entropy, 0) << gap;
        EXPECT_NEAR(entropy / expected, 1, 5e-7) << gap;
    }
}

TEST(Values, HaveAPreciseEntropyForAPeakedRowFarFrom0) {
    Logits row(1000, 4096.0F - 50.0F);
    row[999] = 4096.0F;
    const double entropy = compute(row).entropy;
    EXPECT_NEAR(entropy / static_cast<double>(reference(row).entropy), 1, 5e-7);
}

TEST(Values, NeverHaveANegativeEntropy) {
    for (unsigned seed = 0; seed < 200; ++seed) {
        const float spread = std::ldexp(1.0F, static_cast<int>(seed % 20) - 5);
        const double entropy = compute(random_logits(37, spread, seed)).entropy;
        EXPECT_FALSE(std::signbit(entropy)) << entropy << " of seed " << seed;
    }
}

TEST(Values, SurviveTheLargestAndSmallestFloats) {
    const float max = std::numeric_limits<float>::max();
    const float tiny = std::numeric_limits<float>::denorm_min();
    expect_near(compute({max, max, -max}, 1e-3F), reference({max, max, -max}, 1e-3F));
    expect_near(compute({-max, -max}), reference({-max, -max}));
    expect_near(compute({tiny, -tiny, 0.0F}), reference({tiny, -tiny, 0.0F}));
    // x / T goes beyond a float's range, not beyond a double's.
    expect_near(compute({max, 0.0F}, tiny), reference({max, 0.0F}, tiny));
    expect_near(compute({1.0F, 2.0F}, max), reference({1.0F, 2.0F}, max));
}

// --- special values --------------------------------------------------------------------------------------------------

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

const pita_metrics_t of_infinity = {infinity, infinity, not_a_number};
const pita_metrics_t of_minus_infinity = {-infinity, -infinity, not_a_number};
const pita_metrics_t of_nan = {not_a_number, not_a_number, not_a_number};

TEST(SpecialValues, AreSeenAtAnyPlace) {
    for (const std::size_t size : {1, 8, 33, 1000}) {
        for (std::size_t place = 0; place < size; place += size < 100 ? 1 : 37) {
            SCOPED_TRACE(testing::Message() << "at " << place << " of " << size);
            Logits row = random_logits(size);
            row[place] = inf;
            EXPECT_EQ(compute(row, 0.7F), of_infinity);
            row[place] = nan;
            EXPECT_EQ(compute(row, 0.7F), of_nan);
            row[place] = -nan;
            EXPECT_EQ(compute(row, 0.7F), of_nan);
        }
    }
}

TEST(SpecialValues, OfMinusInfinityHaveNoShare) {
    const Logits few = {0.5F, 2.0F, -1.0F};
    Logits row(1000, -inf);
    row[0] = few[0];
    row[500] = few[1];
    row[999] = few[2];
    expect_near(compute(row, 0.7F), reference(few, 0.7F));
}

TEST(SpecialValues, OfMinusInfinityLeaveTheOnlyLogitCertain) {
    Logits row(33, -inf);
    row[20] = 5.0F;
    EXPECT_EQ(compute(row, 0.5F), (pita_metrics_t{5, 10, 0}));
}

TEST(SpecialValues, OfMinusInfinityAloneHaveNoEntropy) {
    for (const std::size_t size : {1, 2, 33, 1000}) {
        EXPECT_EQ(compute(Logits(size, -inf), 0.7F), of_minus_infinity) << size;
    }
}

TEST(SpecialValues, OfInfinityOutdoAllButNan) {
    EXPECT_EQ(compute({inf, inf}), of_infinity);
    EXPECT_EQ(compute({-inf, inf}), of_infinity);
    EXPECT_EQ(compute({inf, nan}), of_nan);
    EXPECT_EQ(compute({nan, inf, -inf}), of_nan);
    EXPECT_EQ(compute({nan, -inf}), of_nan);
}

TEST(SpecialValues, ConcernTheirOwnRowAlone) {
    const Logits logits = {1.0F, 2.0F, inf, nan, -inf, -inf, 3.0F, 4.0F};
    const Records all = compute(batch_over(logits, 4));
    expect_near(all[0], reference({1.0F, 2.0F}));
    EXPECT_EQ(all[1], of_nan);
    EXPECT_EQ(all[2], of_minus_infinity);
    expect_near(all[3], reference({3.0F, 4.0F}));
}

TEST(SpecialValues, AreNoneWhereTheyWereNotAskedFor) {
    const Logits row = {nan, 1.0F};
    pita_batch_t batch = batch_over(row, 1);
    std::uint32_t metrics = PITA_METRIC_ENTROPY;
    batch.metrics = &metrics;
    EXPECT_EQ(compute(batch)[0], (pita_metrics_t{0, 0, not_a_number}));
    metrics = PITA_METRIC_NORMALIZATION;
    EXPECT_EQ(compute(batch)[0], (pita_metrics_t{not_a_number, not_a_number, 0}));
}

// --- element types ---------------------------------------------------------------------------------------------------

struct Narrow {
    const char *name;
    std::uint32_t dtype;
    float (*widen)(std::uint16_t);
    std::uint16_t (*narrow)(float);
};

void PrintTo(const Narrow &type, std::ostream *out) {
    *out << type.name;
}

class NarrowTypes : public testing::TestWithParam<Narrow> {};

// logsumexp of one logit is the logit.
TEST_P(NarrowTypes, AreWidenedExactlyWhateverTheBits) {
    Logits16 all(65536);
    for (std::size_t i = 0; i < all.size(); ++i) {
        all[i] = static_cast<std::uint16_t>(i);
    }
    const Records metrics = compute(batch_over(all.data(), GetParam().dtype, all.size(), 1));
    for (std::size_t i = 0; i < all.size(); ++i) {
        const double value = GetParam().widen(all[i]);
        const double entropy = std::isfinite(value) ? 0 : not_a_number;
        ASSERT_EQ(metrics[i], (pita_metrics_t{value, value, entropy})) << "bits " << std::hex << i;
    }
}

TEST_P(NarrowTypes, GiveTheMetricsOfTheWidenedRow) {
    for (const std::size_t size : {1, 3, 8, 17, 64, 1000, 32000}) {
        SCOPED_TRACE(size);
        const Logits16 row = map(random_logits(size), GetParam().narrow);
        pita_batch_t batch = batch_over(row.data(), GetParam().dtype, 1, size);
        const float temperature = 0.7F;
        batch.temperatures = &temperature;
        expect_near(compute(batch)[0], reference(map(row, GetParam().widen), temperature));
    }
}

TEST_P(NarrowTypes, CountTheStrideInElements) {
    const Logits16 row = map(random_logits(30), GetParam().narrow);
    pita_batch_t batch = batch_over(row.data(), GetParam().dtype, 3, 7);
    batch.row_stride = 10;
    const Records all = compute(batch);
    const Logits wide = map(row, GetParam().widen);
    for (std::size_t i = 0; i < 3; ++i) {
        const auto begin = wide.begin() + static_cast<std::ptrdiff_t>(10 * i);
        expect_near(all[i], reference(Logits(begin, begin + 7)));
    }
}

INSTANTIATE_TEST_SUITE_P(Narrow, NarrowTypes,
                         testing::Values(Narrow{"F16", PITA_DTYPE_F16, widen_f16, narrow_f16},
                                         Narrow{"BF16", PITA_DTYPE_BF16, widen_bf16, narrow_bf16}),
                         [](const auto &test) { return test.param.name; });

// --- where the logits lie --------------------------------------------------------------------------------------------

TEST(Matrix, MayLieAtAnyAddress) {
    const Logits row = random_logits(100);
    const Logits16 half = map(row, narrow_f16);
    std::vector<char> bytes(sizeof(float) * row.size() + 8);
    for (std::size_t offset = 0; offset < 8; ++offset) {
        SCOPED_TRACE(offset);
        std::memcpy(&bytes[offset], row.data(), sizeof(float) * row.size());
        expect_near(compute(batch_over(&bytes[offset], PITA_DTYPE_F32, 1, row.size()))[0], reference(row));
        std::memcpy(&bytes[offset], half.data(), sizeof half[0] * half.size());
        expect_near(compute(batch_over(&bytes[offset], PITA_DTYPE_F16, 1, row.size()))[0],
                    reference(map(half, widen_f16)));
    }
}

TEST(Matrix, HasNothingReadBetweenItsRows) {
    Logits logits(4 * 10, nan);
    for (std::size_t row = 0; row < 4; ++row) {
        std::fill_n(logits.begin() + static_cast<std::ptrdiff_t>(10 * row), 7, static_cast<float>(row));
    }
    pita_batch_t batch = batch_over(logits.data(), PITA_DTYPE_F32, 4, 7);
    batch.row_stride = 10;
    const Records all = compute(batch);
    for (std::size_t row = 0; row < 4; ++row) {
        EXPECT_NEAR(all[row].log_norm, static_cast<double>(row) + std::log(7), 1e-6);
    }
}

TEST(Matrix, HasNothingReadBehindItsLastRow) {
    const GuardedPage page;
    for (const std::size_t size : {1, 3, 8, 31, 100}) {
        for (const std::uint32_t dtype : {PITA_DTYPE_F32, PITA_DTYPE_F16, PITA_DTYPE_BF16}) {
            const std::size_t width = dtype == PITA_DTYPE_F32 ? 4 : 2;
            const std::size_t stride = size + 5;
            // Two rows of zeros.
            pita_batch_t batch = batch_over(page.end() - (stride + size) * width, dtype, 2, size);
            batch.row_stride = stride;
            EXPECT_NEAR(compute(batch)[1].log_norm, std::log(size), 1e-6);
        }
    }
}

// A record is longer than a row of few logits, so that results written too early spoil rows still to come.
TEST(Matrix, MayLieWhereTheResultsGo) {
    for (const std::size_t vocabulary : {1, 3, 6, 7, 50, 4000}) {
        SCOPED_TRACE(vocabulary);
        const std::size_t rows = 64;
        const Logits logits = random_logits(rows * vocabulary);
        const std::size_t room = std::max(rows, logits.size() * sizeof(float) / sizeof(pita_metrics_t) + 1);
        // At its begin, and at its end.
        for (const std::size_t first : {std::size_t{0}, room - rows}) {
            Records memory(room);
            std::memcpy(memory.data(), logits.data(), sizeof(float) * logits.size());
            const pita_batch_t batch = batch_over(memory.data(), PITA_DTYPE_F32, rows, vocabulary);
            ASSERT_OK(pita_compute_logits_metrics(&batch, &memory[first]));
            for (std::size_t i = 0; i < rows; ++i) {
                const float *const begin = &logits[vocabulary * i];
                expect_near(memory[first + i], reference(Logits(begin, begin + vocabulary)));
            }
        }
    }
}

TEST(Matrix, OnTheCpuHasNoUseForAStream) {
    const Logits row = {1.0F, 2.0F};
    pita_batch_t batch = batch_over(row, 1);
    int no_stream = 0;
    batch.stream = &no_stream;
    expect_near(compute(batch)[0], reference(row));
}

// --- the requests ----------------------------------------------------------------------------------------------------

class Requests : public testing::Test {
  protected:
    Requests() : logits(random_logits(3 * 50)), batch(batch_over(logits, 3)) {}

    Logits row(std::size_t i) const {
        const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(50 * i);
        return Logits(begin, begin + 50);
    }

    Logits logits;
    pita_batch_t batch;
};

TEST_F(Requests, HaveTheirOwnRowAndTemperature1WhereNothingElseIsSaid) {
    const Records all = compute(batch);
    for (std::size_t i = 0; i < 3; ++i) {
        expect_near(all[i], reference(row(i)));
        EXPECT_DOUBLE_EQ(all[i].log_norm, all[i].log_norm_temp);
    }
}

TEST_F(Requests, MayBeFewerThanRows) {
    batch.len = 2;
    const Records all = compute(batch);
    expect_near(all[1], reference(row(1)));
}

TEST_F(Requests, MayBeMoreThanRowsAndShareThem) {
    const std::size_t row_of[] = {2, 0, 2, 1, 2};
    const float temperatures[] = {0.5F, 1.0F, 2.0F, 0.7F, 0.1F};
    batch.len = 5;
    batch.row_of = row_of;
    batch.temperatures = temperatures;
    const Records all = compute(batch);
    for (std::size_t i = 0; i < 5; ++i) {
        expect_near(all[i], reference(row(row_of[i]), temperatures[i]));
    }
}

TEST_F(Requests, GetWhatTheyAskFor) {
    const std::uint32_t metrics[] = {PITA_METRIC_ALL, PITA_METRIC_NORMALIZATION, PITA_METRIC_ENTROPY};
    const std::size_t row_of[] = {1, 1, 1};
    batch.metrics = metrics;
    batch.row_of = row_of;
    const Records all = compute(batch);
    EXPECT_EQ(all[1], (pita_metrics_t{all[0].log_norm, all[0].log_norm_temp, 0}));
    EXPECT_EQ(all[2], (pita_metrics_t{0, 0, all[0].entropy}));
    EXPECT_GT(all[0].entropy, 0);
}

TEST_F(Requests, AreSkippedWithoutAnId) {
    const char *ids[] = {"a", nullptr, "c"};
    pita_status_t statuses[] = {1, 1, 1};
    batch.req_ids = ids;
    batch.statuses = statuses;
    const Records all = compute(batch);
    expect_near(all[0], reference(row(0)));
    EXPECT_EQ(all[1], (pita_metrics_t{0, 0, 0}));
    expect_near(all[2], reference(row(2)));
    for (const pita_status_t status : statuses) {
        EXPECT_EQ(status, PITA_OK);
    }
}

TEST_F(Requests, MayHaveBadEntriesWhereTheyAreSkipped) {
    const char *ids[] = {"a", nullptr, "c"};
    const float temperatures[] = {1, not_a_number, 1};
    const std::uint32_t metrics[] = {3, 99, 3};
    const std::size_t row_of[] = {0, 77, 2};
    batch.req_ids = ids;
    batch.temperatures = temperatures;
    batch.metrics = metrics;
    batch.row_of = row_of;
    EXPECT_EQ(compute(batch)[1], (pita_metrics_t{0, 0, 0}));
}

TEST_F(Requests, HaveIdsAndTokenIndicesThatAreNotRead) {
    const std::string too_long(2000, 'x');
    const char *ids[] = {"", "\xFF", too_long.c_str()};
    const std::int64_t token_indices[] = {std::numeric_limits<std::int64_t>::max(), 5, -7};
    batch.req_ids = ids;
    batch.token_indices = token_indices;
    const Records all = compute(batch);
    for (std::size_t i = 0; i < 3; ++i) {
        expect_near(all[i], reference(row(i)));
    }
}

TEST_F(Requests, WithABadEntryAreNanAndLeaveTheOthersAlone) {
    const float temperatures[] = {1.0F, 0.0F, 2.0F};
    pita_status_t statuses[] = {1, 1, 1};
    batch.temperatures = temperatures;
    batch.statuses = statuses;
    Records out(3);
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_compute_logits_metrics(&batch, out.data()), "entry 1", "temperature");
    expect_near(out[0], reference(row(0)));
    EXPECT_EQ(out[1], (pita_metrics_t{not_a_number, not_a_number, not_a_number}));
    expect_near(out[2], reference(row(2), 2.0F));
    EXPECT_EQ(statuses[0], PITA_OK);
    EXPECT_EQ(statuses[1], PITA_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(statuses[2], PITA_OK);
}

TEST_F(Requests, FailAllWithNowhereToPutTheResults) {
    pita_status_t statuses[] = {1, 1, 1};
    batch.statuses = statuses;
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_compute_logits_metrics(&batch, nullptr), "out", "NULL");
    for (const pita_status_t status : statuses) {
        EXPECT_EQ(status, PITA_ERR_INVALID_ARGUMENT);
    }
}

// Large enough for a library that spreads a batch over threads.
TEST(LargeBatch, GivesEachRequestItsOwn) {
    const std::size_t rows = 64;
    const Logits logits = random_logits(rows * 4000);
    const Records all = compute(batch_over(logits, rows));
    for (std::size_t i = 0; i < rows; ++i) {
        const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(4000 * i);
        EXPECT_EQ(all[i], compute(Logits(begin, begin + 4000))) << i;
    }
}

} // namespace
