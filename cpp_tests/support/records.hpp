// Records: made, compared, shown, read from their text, taken.

#pragma once

#include <cmath>
#include <cstdlib>
#include <limits>
#include <ostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "hiredis.hpp"
#include "pita_redis.h"

// Of the global namespace like the struct itself, where GoogleTest finds them. A NaN equals any other.
inline bool operator==(const pita_metrics_t &a, const pita_metrics_t &b) {
    const auto same = [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); };
    return same(a.log_norm, b.log_norm) && same(a.log_norm_temp, b.log_norm_temp) && same(a.entropy, b.entropy);
}

inline void PrintTo(const pita_metrics_t &record, std::ostream *out) {
    out->precision(std::numeric_limits<double>::max_digits10);
    *out << "{" << record.log_norm << ", " << record.log_norm_temp << ", " << record.entropy << "}";
}

namespace support {

using Records = std::vector<pita_metrics_t>;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

// A record that can be told from others.
inline pita_metrics_t record(std::size_t number) {
    const auto x = static_cast<double>(number);
    return {x, x + 0.25, x + 0.5};
}

inline Records records(std::size_t count, std::size_t first = 0) {
    Records all;
    for (std::size_t i = 0; i < count; ++i) {
        all.push_back(record(first + i));
    }
    return all;
}

// Reads a list's element as PITA does: split on commas, each part a number.
inline pita_metrics_t parse(const std::string &text) {
    std::vector<double> numbers;
    const char *next = text.c_str();
    for (;;) {
        char *end = nullptr;
        numbers.push_back(std::strtod(next, &end));
        if (end == next || (*end != ',' && *end != '\0')) {
            throw std::runtime_error("not a record: " + text);
        }
        if (*end == '\0') {
            break;
        }
        next = end + 1;
    }
    if (numbers.size() != 3) {
        throw std::runtime_error("not three numbers: " + text);
    }
    return {numbers[0], numbers[1], numbers[2]};
}

// What lies in Redis, read without the library.
inline Records stored(Hiredis &redis, const std::string &key) {
    Records all;
    for (const std::string &element : redis.list(key)) {
        all.push_back(parse(element));
    }
    return all;
}

// An outcome of pita_take_metrics.
struct Taken {
    pita_status_t status;
    Records records;
};

inline Taken take(const std::string &id, std::size_t capacity = 4096) {
    Taken taken{PITA_OK, Records(capacity)};
    std::size_t count = 0;
    taken.status = pita_take_metrics(id.c_str(), taken.records.data(), capacity, &count);
    taken.records.resize(taken.status == PITA_OK ? count : 0);
    return taken;
}

inline pita_status_t append(const std::string &id, const Records &records) {
    return pita_store_metrics(id.c_str(), -1, records.data(), records.size());
}

inline pita_status_t store_at(const std::string &id, std::int64_t token_index, const Records &records) {
    return pita_store_metrics(id.c_str(), token_index, records.data(), records.size());
}

} // namespace support
