// `make bench`: storing and taking against hiredis, as one would write it by hand, on the server that REDIS_HOST and
// REDIS_PORT name. By TCP, and by its unix socket where it has one.
//
// The two take turns within a run, so that what disturbs the machine disturbs both: look at the ratios.

#include <hiredis/hiredis.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "pita_redis.h"

namespace {

constexpr std::size_t kBatch = 32;
constexpr std::size_t kVocabulary = 4; // next to no computing

void check(pita_status_t status) {
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

std::string variable(const char *name, const char *otherwise) {
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

// --- the peer --------------------------------------------------------------------------------------------------------

using Reply = std::unique_ptr<redisReply, void (*)(void *)>;

std::string text(const pita_metrics_t &record) {
    std::array<char, 96> buffer{};
    std::snprintf(buffer.data(), buffer.size(), "%.17g,%.17g,%.17g", record.log_norm, record.log_norm_temp,
                  record.entropy);
    return buffer.data();
}

pita_metrics_t parsed(const char *text) {
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

    void append_each(const std::vector<std::string> &keys, const pita_metrics_t &record) {
        for (const std::string &key : keys) {
            redisAppendCommand(context_.get(), "RPUSH %s %s", key.c_str(), text(record).c_str());
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

struct Case {
    std::string name;
    double goal; // ours / peer, of the medians
    int rounds;
    Step ours;
    Step peer;
    Step prepare = [] {}; // before each, not timed
};

// Ours and the peer's in turn, and each as often first.
void measure(const std::string &where, const Case &contest) {
    Times ours;
    Times peer;
    contest.ours(); // connects
    for (int round = 0; round < contest.rounds; ++round) {
        if (round % 2 == 0) {
            ours.add(contest.prepare, contest.ours);
            peer.add(contest.prepare, contest.peer);
        } else {
            peer.add(contest.prepare, contest.peer);
            ours.add(contest.prepare, contest.ours);
        }
    }
    const double ours_us = ours.percentile(50);
    const double peer_us = peer.percentile(50);
    std::printf("| %s, %s | %.1f | %.1f | %.1f | %.1f | %.2f | %.2f |\n", contest.name.c_str(), where.c_str(), ours_us,
                ours.percentile(99), peer_us, peer.percentile(99), contest.goal, ours_us / peer_us);
    std::fflush(stdout);
}

// --- the cases -------------------------------------------------------------------------------------------------------

std::vector<pita_metrics_t> random_records(std::size_t count) {
    std::mt19937_64 random(1);
    std::uniform_real_distribution<double> number(0, 20);
    std::vector<pita_metrics_t> records(count);
    for (pita_metrics_t &record : records) {
        record = {number(random), number(random), number(random)};
    }
    return records;
}

void append_one(const Address &address, const std::string &ttl) {
    const Pool pool(address, "?ttl_s=" + ttl);
    Peer peer(address);
    const pita_metrics_t record = random_records(1)[0];
    measure(address.name, {"append of one record, ttl_s=" + ttl, 1.15, 20000,
                           [&] { check(pita_store_metrics("bench-ours", -1, &record, 1)); },
                           [&] { peer.append("bench-peer", record); }});
    peer.run("DEL bench-ours bench-peer");
}

std::vector<std::string> ids(const std::string &prefix) {
    std::vector<std::string> all;
    for (std::size_t i = 0; i < kBatch; ++i) {
        all.push_back(prefix + std::to_string(i));
    }
    return all;
}

// A record each for 32 requests. The peer always appends: it has no other way in one command.
void store_batch(const Address &address, bool is_indexed, const std::string &ttl) {
    const Pool pool(address, "?ttl_s=" + ttl);
    Peer peer(address);
    const pita_metrics_t record = random_records(1)[0];
    const std::vector<std::string> keys = ids("bench-peer-");
    const std::vector<std::string> names = ids("bench-ours-");
    std::vector<const char *> req_ids;
    std::transform(names.begin(), names.end(), std::back_inserter(req_ids), [](const auto &id) { return id.c_str(); });

    const std::array<float, kBatch * kVocabulary> logits{1.5F};
    std::array<int64_t, kBatch> indices{};
    pita_batch_t batch = {};
    batch.struct_size = sizeof batch;
    batch.logits = logits.data();
    batch.dtype = PITA_DTYPE_F32;
    batch.device = PITA_DEVICE_CPU;
    batch.rows = kBatch;
    batch.vocab_size = kVocabulary;
    batch.row_stride = kVocabulary;
    batch.len = kBatch;
    batch.req_ids = req_ids.data();
    batch.token_indices = is_indexed ? indices.data() : nullptr;

    const std::string how = is_indexed ? "indexed" : "appended";
    measure(address.name, {std::to_string(kBatch) + " requests in a batch, " + how + ", ttl_s=" + ttl, 1.5, 3000,
                           [&] {
                               check(pita_store_logits_metrics_batch(&batch));
                               for (int64_t &index : indices) {
                                   ++index;
                               }
                           },
                           [&] { peer.append_each(keys, record); }});
    peer.run("FLUSHDB");
}

void take(const Address &address, std::size_t count, int rounds) {
    const Pool pool(address, "?timeout_ms=10000");
    Peer peer(address);
    const std::vector<pita_metrics_t> records = random_records(count);
    std::vector<pita_metrics_t> out(count);
    const auto take_ours = [&] {
        std::size_t taken = 0;
        check(pita_take_metrics("bench-take", out.data(), out.size(), &taken));
    };
    measure(address.name, {"take of " + std::to_string(count) + " records", 1, rounds, take_ours,
                           [&] { peer.take("bench-take", out); },
                           [&] { check(pita_store_metrics("bench-take", -1, records.data(), count)); }});
}

void measure_all(const Address &address) {
    for (const char *ttl : {"3600", "0"}) {
        append_one(address, ttl);
    }
    store_batch(address, true, "3600");
    store_batch(address, false, "3600");
    store_batch(address, false, "0");
    take(address, 4096, 300);
    take(address, 32768, 60);
}

void run() {
    const std::string host = variable("REDIS_HOST", "127.0.0.1");
    const std::string port = variable("REDIS_PORT", "6379");
    const Address tcp = {"TCP", "redis://" + host + ":" + port + "/0", host, std::stoi(port)};
    const std::string path = Peer(tcp).setting("unixsocket");

    std::printf("Storing and taking against hiredis, in turn: microseconds\n\n");
    std::printf("| | ours, median | p99 | hiredis, median | p99 | goal: ours / hiredis at most | reached |\n");
    std::printf("|---|---|---|---|---|---|---|\n");
    measure_all(tcp);
    if (!path.empty()) {
        measure_all({"unix socket", "redis+unix://" + path, path, 0});
    }
}

} // namespace

int main() {
    try {
        run();
    } catch (const std::exception &error) {
        std::fprintf(stderr, "delivery: %s\n", error.what());
        return 1;
    }
    return 0;
}
