// Logits for tests, 16-bit floats, batches over them, and the reference that results are held against.

#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "pita_redis.h"

namespace support {

using Logits = std::vector<float>;
using Logits16 = std::vector<std::uint16_t>;

inline Logits random_logits(std::size_t size, float scale = 4.0F, unsigned seed = 1) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0F, scale);
    Logits logits(size);
    std::generate(logits.begin(), logits.end(), [&] { return normal(random); });
    return logits;
}

// --- 16-bit floats ---------------------------------------------------------------------------------------------------

// The value of an IEEE 754 binary16.
inline float widen_f16(std::uint16_t bits) {
    const int exponent = bits >> 10 & 31;
    const int fraction = bits & 1023;
    float magnitude = 0.0F;
    if (exponent == 31) {
        magnitude = fraction == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
    } else if (exponent == 0) {
        magnitude = std::ldexp(static_cast<float>(fraction), -24);
    } else {
        magnitude = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    }
    return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// The binary16 nearest to a finite value within its range.
inline std::uint16_t narrow_f16(float value) {
    int exponent = 0;
    std::frexp(value, &exponent);
    exponent = std::max(exponent, -13);
    const auto steps = static_cast<unsigned>(std::nearbyint(std::ldexp(std::fabs(value), 11 - exponent)));
    const unsigned magnitude = steps < 1024 ? steps : (static_cast<unsigned>(exponent + 14) << 10) + steps - 1024;
    return static_cast<std::uint16_t>((std::signbit(value) ? 0x8000U : 0U) | magnitude);
}

// The value of a bfloat16.
inline float widen_bf16(std::uint16_t bits) {
    const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
    float value = 0.0F;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}

// A bfloat16 next to a finite value.
inline std::uint16_t narrow_bf16(float value) {
    std::uint32_t wide = 0;
    std::memcpy(&wide, &value, sizeof wide);
    return static_cast<std::uint16_t>((wide + 0x8000U) >> 16);
}

template <class From, class Function> auto map(const std::vector<From> &values, Function function) {
    std::vector<decltype(function(values[0]))> results;
    std::transform(values.begin(), values.end(), std::back_inserter(results), function);
    return results;
}

// --- batches ---------------------------------------------------------------------------------------------------------

// A batch of one request for each row. `logits` must outlive it.
inline pita_batch_t batch_over(const void *logits, std::uint32_t dtype, std::size_t rows, std::size_t vocab_size) {
    pita_batch_t batch = {};
    batch.struct_size = sizeof batch;
    batch.logits = logits;
    batch.dtype = dtype;
    batch.device = PITA_DEVICE_CPU;
    batch.rows = rows;
    batch.vocab_size = vocab_size;
    batch.row_stride = vocab_size;
    batch.len = rows;
    return batch;
}

inline pita_batch_t batch_over(const Logits &logits, std::size_t rows) {
    return batch_over(logits.data(), PITA_DTYPE_F32, rows, logits.size() / rows);
}

// --- the reference ---------------------------------------------------------------------------------------------------

struct Reference {
    long double log_norm;
    long double log_norm_temp;
    long double entropy;
};

// The logarithm of the sum of exp(x / temperature), less the largest x / temperature: exact also when next to 0.
inline long double log_of_rest(const Logits &row, std::size_t largest, long double temperature) {
    long double rest = 0;
    for (std::size_t i = 0; i < row.size(); ++i) {
        if (i != largest) {
            rest += std::exp((static_cast<long double>(row[i]) - row[largest]) / temperature);
        }
    }
    return std::log1p(rest);
}

// By the definitions, in two passes, for a row with a finite maximum.
inline Reference reference(const Logits &row, float temperature = 1.0F) {
    const auto largest = static_cast<std::size_t>(std::max_element(row.begin(), row.end()) - row.begin());
    const long double max = row[largest];
    const long double log_sum = log_of_rest(row, largest, 1);
    long double entropy = 0;
    for (const float x : row) {
        const long double log_p = static_cast<long double>(x) - max - log_sum;
        if (std::isfinite(log_p)) {
            entropy -= std::exp(log_p) * log_p;
        }
    }
    const long double log_sum_temp = log_of_rest(row, largest, temperature);
    return {max + log_sum, max / temperature + log_sum_temp, entropy};
}

// Equal but for what a kernel may be off: the logsumexps absolute or relative, the entropy relative however small it is.
inline void expect_near(const pita_metrics_t &actual, const Reference &expected) {
    const auto tolerance = [](long double value) { return static_cast<double>(3e-7L * std::fmax(1, std::fabs(value))); };
    EXPECT_NEAR(actual.log_norm, static_cast<double>(expected.log_norm), tolerance(expected.log_norm));
    EXPECT_NEAR(actual.log_norm_temp, static_cast<double>(expected.log_norm_temp), tolerance(expected.log_norm_temp));
    EXPECT_NEAR(actual.entropy, static_cast<double>(expected.entropy), static_cast<double>(5e-7L * expected.entropy));
}

} // namespace support
