// `make bench`: what write=behind costs its callers, and how fast the writer is, on the server that REDIS_HOST and
// REDIS_PORT name.

#include <unistd.h>

#include <array>
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

#include "harness.hpp"

using namespace bench;

namespace {

constexpr std::size_t kBatch = 32;

void row(const std::string &what, const std::string &goal, const std::string &reached) {
    std::printf("| %s | %s | %s |\n", what.c_str(), goal.c_str(), reached.c_str());
    std::fflush(stdout);
}

std::string shown(const char *format, double number) {
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), format, number);
    return text.data();
}

std::string median_and_p99(Times &times) {
    return shown("%.2f us", times.percentile(50)) + ", p99 " + shown("%.2f us", times.percentile(99));
}

void flush() {
    check(pita_redis_flush(60000));
}

// Single records, as many as the queue has room for, then a flush, which is not timed.
void single(Peer &redis) {
    const std::vector<pita_metrics_t> records = random_records(kBatch);
    const std::vector<std::string> names = ids("single", kBatch);
    Times times;
    std::int64_t index = 0;
    for (int round = 0; round < 10; ++round) {
        for (int token = 0; token < 1500; ++token, ++index) {
            for (std::size_t i = 0; i < kBatch; ++i) {
                times.add([] {}, [&] { check(pita_store_metrics(names[i].c_str(), index, &records[i], 1)); });
            }
        }
        flush();
    }
    row("one record, `pita_store_metrics`", "1 us, p99 10 us", median_and_p99(times));
    redis.run("FLUSHDB");
}

// The same by a thread that does something else for 10 ms before each: what it needs has left the caches.
void single_now_and_then(Peer &redis) {
    const std::vector<float> elsewhere(4 << 20, 1);
    const pita_metrics_t record = random_records(1)[0];
    const std::string id = ids("rarely", 1)[0];
    Times ours;
    Times nothing;
    std::int64_t index = 0;
    const auto work = [&] {
        const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(10);
        volatile float sum = 0;
        while (std::chrono::steady_clock::now() < end) {
            for (std::size_t i = 0; i < elsewhere.size(); i += 1024) {
                sum = sum + elsewhere[i];
            }
        }
    };
    for (int round = 0; round < 200; ++round) {
        ours.add(work, [&] { check(pita_store_metrics(id.c_str(), index++, &record, 1)); });
        nothing.add(work, [] { (void)getppid(); });
    }
    row("the same after 10 ms of other work; beside it getppid()", "",
        median_and_p99(ours) + "; " + median_and_p99(nothing));
    flush();
    redis.run("FLUSHDB");
}

// Batches of 32 that take next to nothing to compute, the computing alone, and the peer's pipeline of 32, in turn.
void batches(Peer &redis) {
    constexpr std::size_t vocabulary = 4;
    const std::vector<float> logits(kBatch * vocabulary, 1.5F);
    Batch batch(ids("batch", kBatch), logits.data(), vocabulary, 1);
    const std::vector<std::string> keys = ids("peer", kBatch);
    const std::vector<pita_metrics_t> records = random_records(kBatch);
    std::vector<pita_metrics_t> out(kBatch);
    Times store;
    Times compute;
    Times peer;
    for (int round = 0; round < 5000; ++round) {
        store.add([] {}, [&] { batch.store(); });
        compute.add([] {}, [&] { batch.compute(out); });
        peer.add([] {}, [&] { redis.append_each(keys, records); });
    }
    flush();
    const double beyond = store.percentile(50) - compute.percentile(50);
    row("a batch of 32, beyond computing", "10 us", shown("%.2f us", beyond));
    row("32 RPUSH in a pipeline, hiredis, without computing either", "20 times as long",
        shown("%.0f times", peer.percentile(50) / beyond) + shown(", %.1f us", peer.percentile(50)));
    redis.run("FLUSHDB");
}

// Records a second from the first store until the flush is done; the best of three, as redis-benchmark gets.
double throughput(Peer &redis, std::size_t requests, bool is_indexed) {
    constexpr std::size_t total = 1000000;
    const std::vector<std::string> names = ids("writer", requests);
    const pita_metrics_t record = random_records(1)[0];
    double best = 0;
    for (int round = 0; round < 3; ++round) {
        Times once;
        once.add([] {}, [&] {
            for (std::size_t i = 0; i < total; ++i) {
                const std::int64_t index = is_indexed ? static_cast<std::int64_t>(i / requests) : -1;
                check(pita_store_metrics(names[i % requests].c_str(), index, &record, 1));
            }
            flush();
        });
        best = std::max(best, 1e6 * static_cast<double>(total) / once.percentile(50));
        redis.run("FLUSHDB");
    }
    return best;
}

double redis_benchmark(const Address &address) {
    const std::string command = "redis-benchmark -h " + address.host_or_path + " -p " + std::to_string(address.port) +
                                " -t rpush -P 64 -n 1000000 --csv";
    double best = 0;
    for (int round = 0; round < 3; ++round) {
        FILE *output = popen(command.c_str(), "r");
        std::array<char, 512> line{};
        while (output != nullptr && std::fgets(line.data(), line.size(), output) != nullptr) {
            double rate = 0;
            if (std::sscanf(line.data(), "\"RPUSH\",\"%lf\"", &rate) == 1) {
                best = std::max(best, rate);
            }
        }
        if (output == nullptr || pclose(output) != 0 || best == 0) {
            throw std::runtime_error("redis-benchmark does not run");
        }
    }
    return best;
}

void throughputs(const Address &address, Peer &redis) {
    const double peer = redis_benchmark(address);
    redis.run("FLUSHDB");
    row("`redis-benchmark -t rpush -P 64`, one list, 50 connections", "", shown("%.0f records/s", peer));
    for (const std::size_t requests : {1, 32, 256}) {
        for (const bool is_indexed : {true, false}) {
            const double ours = throughput(redis, requests, is_indexed);
            row("the writer, " + std::to_string(requests) + (requests == 1 ? " request, " : " requests in turn, ") +
                    (is_indexed ? "indexed" : "appended"),
                "500000 records/s, or 0.8 of redis-benchmark",
                shown("%.0f records/s", ours) + shown(", %.2f", ours / peer));
        }
    }
}

long resident() {
    std::ifstream file("/proc/self/statm");
    long size = 0;
    long pages = 0;
    file >> size >> pages;
    return pages * sysconf(_SC_PAGESIZE);
}

// How much memory grows while the server takes nothing and the queue fills.
void memory(Peer &redis) {
    constexpr std::size_t total = 1 << 19;
    const std::vector<std::string> names = ids("memory", 256);
    const pita_metrics_t record = random_records(1)[0];
    redis.run("CLIENT PAUSE 600000 WRITE");
    const long before = resident();
    for (std::size_t i = 0; i < total; ++i) {
        check(pita_store_metrics(names[i % names.size()].c_str(), -1, &record, 1));
    }
    const long grown = resident() - before;
    redis.run("CLIENT UNPAUSE");
    row("memory of a queued record with an id of 36 bytes", "128 bytes",
        shown("%.0f bytes", static_cast<double>(grown) / static_cast<double>(total)));
    flush();
    redis.run("FLUSHDB");
}

void run() {
    const Address address = tcp();
    Peer redis(address);
    std::printf("| write=behind | goal | reached |\n|---|---|---|\n");
    {
        const Pool pool(address, "?write=behind");
        single(redis);
        single_now_and_then(redis);
        batches(redis);
        throughputs(address, redis);
    }
    const Pool pool(address, "?write=behind&timeout_ms=60000&queue=" + std::to_string(1 << 19));
    // Starts the thread.
    check(pita_store_logits_metrics("first", std::array<float, 1>{1}.data(), 1, 1, PITA_METRIC_ALL));
    flush();
    memory(redis);
}

} // namespace

int main() {
    try {
        run();
    } catch (const std::exception &error) {
        std::fprintf(stderr, "behind: %s\n", error.what());
        return 1;
    }
    return 0;
}
