/*
 * pita_redis.hpp - a thin C++17 layer over pita_redis.h: a session that closes itself, exceptions, views, vectors.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the functions do, and which statuses they can fail with, is said in pita_redis.h. Every failure is a pita::Error
 * that carries the status. Ids are NUL-terminated UTF-8.
 */
#ifndef PITA_REDIS_HPP
#define PITA_REDIS_HPP

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "pita_redis.h"

namespace pita {

/* The record of one token. */
using Metrics = pita_metrics_t;

/* A failed call: what() is pita_last_error(), status() one of PITA_ERR_*. */
class Error : public std::runtime_error {
  public:
    explicit Error(pita_status_t status) : std::runtime_error(pita_last_error()), status_(status) {}

    pita_status_t status() const noexcept { return status_; }
    const char *name() const noexcept { return pita_status_name(status_); }

  private:
    pita_status_t status_;
};

/* Throws if a call failed. */
inline void check(pita_status_t status) {
    if (status != PITA_OK) {
        throw Error(status);
    }
}

/* A view of contiguous elements that somebody else owns; std::span where that exists. */
template <class T> class Span {
  public:
    constexpr Span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    /* Any container with data() and size(): std::vector, std::array, std::span ... A temporary one lives long enough for
       the call that it is an argument of. */
    template <class Container, class = decltype(std::declval<Container &>().data())>
    constexpr Span(Container &&container) noexcept : data_(container.data()), size_(container.size()) {}

    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }

  private:
    T *data_;
    std::size_t size_;
};

/* A view of logits: rows x vocab_size elements, row_stride elements from one row's begin to the next one's. */
struct Logits {
    const void *data;
    std::size_t rows;
    std::size_t vocab_size;
    std::size_t row_stride;
    std::uint32_t dtype = PITA_DTYPE_F32;
    std::uint32_t device = PITA_DEVICE_CPU;
    void *stream = nullptr;

    /* Rows of float, one behind the other. */
    Logits(const float *logits, std::size_t row_count, std::size_t vocabulary)
        : Logits(logits, row_count, vocabulary, vocabulary, PITA_DTYPE_F32) {}

    /* Rows of any PITA_DTYPE_*, with a stride in elements. */
    Logits(const void *logits, std::size_t row_count, std::size_t vocabulary, std::size_t stride,
           std::uint32_t element_type)
        : data(logits), rows(row_count), vocab_size(vocabulary), row_stride(stride), dtype(element_type) {}
};

/*
 * Requests of one decode step. It keeps its memory from step to step: begin() empties it and sets the next logits.
 *
 * Ids are kept as pointers: they must live until the batch was stored.
 */
class Batch {
  public:
    /* What to do with one row. */
    struct Request {
        const char *id;
        std::size_t row = 0;
        std::int64_t token_index = -1; /* below 0: append */
        float temperature = 1.0F;
        std::uint32_t metrics = PITA_METRIC_ALL;
    };

    Batch() noexcept : logits_(static_cast<const float *>(nullptr), 0, 0) {}
    explicit Batch(const Logits &logits) noexcept : logits_(logits) {}

    void add(const Request &request) {
        ids_.push_back(request.id);
        rows_.push_back(request.row);
        token_indices_.push_back(request.token_index);
        temperatures_.push_back(request.temperature);
        metrics_.push_back(request.metrics);
        statuses_.push_back(PITA_OK);
    }

    /* Empties the batch, for the next step's logits. */
    void begin(const Logits &logits) noexcept {
        logits_ = logits;
        ids_.clear();
        rows_.clear();
        token_indices_.clear();
        temperatures_.clear();
        metrics_.clear();
        statuses_.clear();
    }

    std::size_t size() const noexcept { return ids_.size(); }

    /* One status a request, of the last store or compute. */
    const std::vector<pita_status_t> &statuses() const noexcept { return statuses_; }

    /* The C struct. It points into this batch. */
    pita_batch_t raw() noexcept {
        pita_batch_t raw{};
        raw.struct_size = sizeof raw;
        raw.logits = logits_.data;
        raw.dtype = logits_.dtype;
        raw.device = logits_.device;
        raw.rows = logits_.rows;
        raw.vocab_size = logits_.vocab_size;
        raw.row_stride = logits_.row_stride;
        raw.stream = logits_.stream;
        raw.len = ids_.size();
        raw.req_ids = ids_.data();
        raw.row_of = rows_.data();
        raw.temperatures = temperatures_.data();
        raw.token_indices = token_indices_.data();
        raw.metrics = metrics_.data();
        raw.statuses = statuses_.data();
        return raw;
    }

  private:
    Logits logits_;
    std::vector<const char *> ids_;
    std::vector<std::size_t> rows_;
    std::vector<std::int64_t> token_indices_;
    std::vector<float> temperatures_;
    std::vector<std::uint32_t> metrics_;
    std::vector<pita_status_t> statuses_;
};

/* The metrics of each request of a batch, stored nowhere. Needs no session. */
inline std::vector<Metrics> compute(Batch &batch) {
    std::vector<Metrics> out(batch.size());
    const pita_batch_t raw = batch.raw();
    check(pita_compute_logits_metrics(&raw, out.data()));
    return out;
}

/*
 * Opens the process's pool, and closes it at the end. There is one pool in a process: make one session, at the top, and
 * share it among threads.
 */
class Session {
  public:
    /* From the environment: REDIS_HOST, REDIS_PORT, REDIS_DB ... */
    Session() { check(pita_redis_open(nullptr)); }
    explicit Session(const std::string &url) { check(pita_redis_open(url.c_str())); }
    /* With write=behind it writes what is queued, and tells nobody what could not be stored: see close(). */
    ~Session() {
        if (!is_closed_) {
            pita_redis_close();
        }
    }
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

    /* Closes the pool before the session's end. With write=behind, throws if records were not stored. */
    void close() {
        is_closed_ = true;
        check(pita_redis_close());
    }

    void ping() const { check(pita_redis_ping()); }
    void flush(std::chrono::milliseconds timeout) const { check(pita_redis_flush(millis(timeout))); }

    pita_stats_t stats() const {
        pita_stats_t stats{};
        stats.struct_size = sizeof stats;
        check(pita_redis_stats(&stats));
        return stats;
    }

    /* Computes and appends the record of one row. */
    void store(const std::string &id, Span<const float> logits, float temperature = 1.0F,
               std::uint32_t metrics = PITA_METRIC_ALL) const {
        check(pita_store_logits_metrics(id.c_str(), logits.data(), logits.size(), temperature, metrics));
    }

    /* Computes and stores a record for each request. On failure, batch.statuses() has each one's status. */
    void store(Batch &batch) const {
        const pita_batch_t raw = batch.raw();
        check(pita_store_logits_metrics_batch(&raw));
    }

    /* Stores metrics that were computed elsewhere. */
    void store_metrics(const std::string &id, Span<const Metrics> metrics, std::int64_t token_index = -1) const {
        check(pita_store_metrics(id.c_str(), token_index, metrics.data(), metrics.size()));
    }

    /* Takes all records of a request. */
    std::vector<Metrics> take(const std::string &id) const {
        return take_growing(guess, [&](std::vector<Metrics> &out, std::size_t &count) {
            return pita_take_metrics(id.c_str(), out.data(), out.size(), &count);
        });
    }

    /* Takes all records of a request once there are at least `expected`. */
    std::vector<Metrics> take_wait(const std::string &id, std::size_t expected,
                                   std::chrono::milliseconds timeout) const {
        return take_growing(std::max(expected, guess), [&](std::vector<Metrics> &out, std::size_t &count) {
            return pita_take_metrics_wait(id.c_str(), expected, millis(timeout), out.data(), out.size(), &count);
        });
    }

    std::size_t count(const std::string &id) const {
        std::size_t count = 0;
        check(pita_count_metrics(id.c_str(), &count));
        return count;
    }

    void discard(const std::string &id) const { check(pita_discard_metrics(id.c_str())); }

  private:
    /* Records that a take makes room for at first. */
    static constexpr std::size_t guess = 1024;

    bool is_closed_ = false;

    /* Takes with ever more room, until all records fit. */
    template <class Take> static std::vector<Metrics> take_growing(std::size_t room, Take take) {
        std::vector<Metrics> out(room);
        std::size_t count = 0;
        pita_status_t status = take(out, count);
        while (status == PITA_ERR_BUFFER_TOO_SMALL) {
            out.resize(count);
            status = take(out, count);
        }
        check(status);
        out.resize(count);
        return out;
    }

    static std::uint32_t millis(std::chrono::milliseconds timeout) {
        const auto most = std::chrono::milliseconds(UINT32_MAX);
        return static_cast<std::uint32_t>(std::clamp(timeout, std::chrono::milliseconds(0), most).count());
    }
};

} // namespace pita

#endif // PITA_REDIS_HPP
