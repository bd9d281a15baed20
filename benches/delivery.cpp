// `make bench`: storing and taking against hiredis, as one would write it by hand, on the server that REDIS_HOST and
// REDIS_PORT name. By TCP, and by its unix socket where it has one.
//
// The two take turns within a run, so that what disturbs the machine disturbs both: look at the ratios.

#include <array>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "harness.hpp"

using namespace bench;

namespace {

constexpr std::size_t kBatch = 32;
constexpr std::size_t kVocabulary = 4; // next to no computing

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

void append_one(const Address &address, const std::string &ttl) {
    const Pool pool(address, "?ttl_s=" + ttl);
    Peer peer(address);
    const pita_metrics_t record = random_records(1)[0];
    measure(address.name, {"append of one record, ttl_s=" + ttl, 1.15, 20000,
                           [&] { check(pita_store_metrics("bench-ours", -1, &record, 1)); },
                           [&] { peer.append("bench-peer", record); }});
    peer.run("DEL bench-ours bench-peer");
}

// A record each for 32 requests. The peer always appends: it has no other way in one command.
void store_batch(const Address &address, bool is_indexed, const std::string &ttl) {
    const Pool pool(address, "?ttl_s=" + ttl);
    Peer peer(address);
    const std::vector<pita_metrics_t> records = random_records(kBatch);
    const std::vector<std::string> keys = ids("peer", kBatch);
    const std::array<float, kBatch * kVocabulary> logits{1.5F};
    Batch batch(ids("ours", kBatch), logits.data(), kVocabulary, 1);
    const std::string how = is_indexed ? "indexed" : "appended";
    measure(address.name, {std::to_string(kBatch) + " requests in a batch, " + how + ", ttl_s=" + ttl, 1.5, 3000,
                           [&] { is_indexed ? batch.store() : batch.append(); },
                           [&] { peer.append_each(keys, records); }});
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
    const Address address = tcp();
    const std::string path = Peer(address).setting("unixsocket");
    std::printf("| | ours, median | p99 | hiredis, median | p99 | goal: ours / hiredis at most | reached |\n");
    std::printf("|---|---|---|---|---|---|---|\n");
    measure_all(address);
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
