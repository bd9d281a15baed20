// What the benchmarks of delivery share: where Redis is, the peer, times, and what to store.

#pragma once

#include <hiredis/hiredis.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "pita_redis.h"

namespace bench {

inline void check(pita_status_t status) {
    if (status != PITA_OK) {
        throw std::runtime_error(std::string(pita_status_name(status)) + ": " + pita_last_error());
    }
}

// --- where Redis is --------------------------------------------------------------------------------------------------

struct Address {
    std::string name;
    std::string url; // up to the options
    std::string host_or_path;
    int port; // 0 for a unix socket
};

inline std::string variable(const char *name, const char *otherwise) {
    const char *value = std::getenv(name);
    return value == nullptr ? otherwise : value;
}

// The library's pool, opened and closed with its scope.
class Pool {
  public:
    Pool(const Address &address, const std::string &options) {
        check(pita_redis_open((address.url + options).c_str()));
    }
    ~Pool() { pita_redis_close(); }
    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;
};

// The server that REDIS_HOST and REDIS_PORT name.
inline Address tcp() {
    const std::string host = variable("REDIS_HOST", "127.0.0.1");
    const std::string port = variable("REDIS_PORT", "6379");
    return {"TCP", "redis://" + host + ":" + port + "/0", host, std::stoi(port)};
}

// --- the peer: hiredis, as one would use it by hand ------------------------------------------------------------------

using Reply = std::unique_ptr<redisReply, void (*)(void *)>;

inline std::string text(const pita_metrics_t &record) {
    std::array<char, 96> buffer{};
    std::snprintf(buffer.data(), buffer.size(), "%.17g,%.17g,%.17g", record.log_norm, record.log_norm_temp,
                  record.entropy);
    return buffer.data();
}

inline pita_metrics_t parsed(const char *text) {
    pita_metrics_t record{};
    char *end = nullptr;
    record.log_norm = std::strtod(text, &end);
    record.log_norm_temp = std::strtod(end + 1, &end);
    record.entropy = std::strtod(end + 1, &end);
    return record;
}

class Peer {
  public:
    explicit Peer(const Address &address)
        : context_(address.port == 0 ? redisConnectUnix(address.host_or_path.c_str())
                                     : redisConnect(address.host_or_path.c_str(), address.port),
                   redisFree) {
        if (context_ == nullptr || context_->err != 0) {
            throw std::runtime_error("hiredis cannot connect to " + address.host_or_path);
        }
    }

    template <class... Arguments> Reply run(const char *format, Arguments... arguments) {
        return good(redisCommand(context_.get(), format, arguments...));
    }

    void append(const std::string &key, const pita_metrics_t &record) {
        run("RPUSH %s %s", key.c_str(), text(record).c_str());
    }

    // Each its record, in one pipeline.
    void append_each(const std::vector<std::string> &keys, const std::vector<pita_metrics_t> &records) {
        for (std::size_t i = 0; i < keys.size(); ++i) {
            redisAppendCommand(context_.get(), "RPUSH %s %s", keys[i].c_str(), text(records[i]).c_str());
        }
        for (std::size_t i = 0; i < keys.size(); ++i) {
            void *reply = nullptr;
            redisGetReply(context_.get(), &reply);
            good(reply);
        }
    }

    void take(const std::string &key, std::vector<pita_metrics_t> &out) {
        const Reply list = run("LRANGE %s 0 -1", key.c_str());
        for (std::size_t i = 0; i < list->elements; ++i) {
            out.at(i) = parsed(list->element[i]->str);
        }
        run("DEL %s", key.c_str());
    }

    // The server's setting of this name; empty where it has none.
    std::string setting(const char *name) {
        const Reply reply = run("CONFIG GET %s", name);
        return reply->elements == 2 ? reply->element[1]->str : "";
    }

  private:
    Reply good(void *answer) {
        Reply reply(static_cast<redisReply *>(answer), freeReplyObject);
        if (reply == nullptr || reply->type == REDIS_REPLY_ERROR) {
            throw std::runtime_error(std::string("hiredis: ") + (reply == nullptr ? context_->errstr : reply->str));
        }
        return reply;
    }

    std::unique_ptr<redisContext, void (*)(redisContext *)> context_;
};

// --- measuring -------------------------------------------------------------------------------------------------------

using Step = std::function<void()>;

struct Times {
    std::vector<double> us;

    void add(const Step &prepare, const Step &step) {
        prepare();
        const auto start = std::chrono::steady_clock::now();
        step();
        us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    }

    double percentile(std::size_t percent) {
        const std::size_t rank = std::min(us.size() * percent / 100, us.size() - 1);
        std::nth_element(us.begin(), us.begin() + static_cast<std::ptrdiff_t>(rank), us.end());
        return us[rank];
    }
};

// --- what to store ---------------------------------------------------------------------------------------------------

inline std::vector<pita_metrics_t> random_records(std::size_t count) {
    std::mt19937_64 random(1);
    std::uniform_real_distribution<double> number(0, 20);
    std::vector<pita_metrics_t> records(count);
    for (pita_metrics_t &record : records) {
        record = {number(random), number(random), number(random)};
    }
    return records;
}

// Ids of 36 bytes, as engines make them.
inline std::vector<std::string> ids(const std::string &prefix, std::size_t count) {
    std::vector<std::string> all;
    for (std::size_t i = 0; i < count; ++i) {
        std::array<char, 64> id{};
        std::snprintf(id.data(), id.size(), "%.8s-1234-5678-9abc-%012zu", (prefix + "--------").c_str(), i);
        all.emplace_back(id.data());
    }
    return all;
}

// A decode step: a row of logits for each request, and each request's next token.
class Batch {
  public:
    Batch(std::vector<std::string> names, const float *logits, std::size_t vocabulary, float temperature)
        : names_(std::move(names)), indices_(names_.size()), temperatures_(names_.size(), temperature) {
        for (const std::string &name : names_) {
            req_ids_.push_back(name.c_str());
        }
        raw_.struct_size = sizeof raw_;
        raw_.logits = logits;
        raw_.dtype = PITA_DTYPE_F32;
        raw_.device = PITA_DEVICE_CPU;
        raw_.rows = raw_.len = names_.size();
        raw_.vocab_size = raw_.row_stride = vocabulary;
        raw_.req_ids = req_ids_.data();
        raw_.temperatures = temperatures_.data();
        raw_.token_indices = indices_.data();
    }

    // Stores the next token of each request, at its index.
    void store() {
        check(pita_store_logits_metrics_batch(&raw_));
        for (std::int64_t &index : indices_) {
            ++index;
        }
    }
    // The same behind the last one, whatever its index.
    void append() {
        pita_batch_t batch = raw_;
        batch.token_indices = nullptr;
        check(pita_store_logits_metrics_batch(&batch));
    }
    void compute(std::vector<pita_metrics_t> &out) const { check(pita_compute_logits_metrics(&raw_, out.data())); }

    const std::vector<std::string> &names() const { return names_; }

  private:
    std::vector<std::string> names_;
    std::vector<const char *> req_ids_;
    std::vector<std::int64_t> indices_;
    std::vector<float> temperatures_;
    pita_batch_t raw_ = {};
};

} // namespace bench
