// Processes that store as engines do, and one that takes all of it and looks at each record.

#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "fleet.hpp"
#include "harness.hpp"
#include "support/eventually.hpp"

namespace bench {

constexpr std::size_t kEngines = 8; // at most

struct Load {
    std::size_t engines;
    std::size_t batch; // requests that get a token in each step, of each engine
    std::size_t steps;
    // Each step is stored before the next begins, as where an engine's steps take longer. Otherwise the engine does
    // nothing but store, and what is queued of a request goes in one piece.
    bool is_paced = true;
    bool is_tagged = false;        // each engine's keys are in one slot
    bool waits = false;            // for a replica
    bool is_log_norm_only = false; // the other numbers are 0

    std::size_t records() const { return engines * batch * steps; }
};

// What a process has done, in memory that it shares with its parent.
struct Work {
    double began_s = 0;
    double ended_s = 0;
    double calls_s = 0; // in calls that store
    double cpu_s = 0;   // of all its threads
    double bytes_sent = 0;
    double bytes_received = 0;
    double trips = 0;
};

struct Board {
    std::atomic<std::size_t> ready{0};
    std::atomic<bool> is_go{false};
    std::array<Work, kEngines> work;
};

class SharedBoard {
  public:
    SharedBoard() {
        void *memory = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            throw std::runtime_error("no shared memory");
        }
        board_ = new (memory) Board;
    }
    ~SharedBoard() { munmap(board_, sizeof(Board)); }
    SharedBoard(const SharedBoard &) = delete;
    SharedBoard &operator=(const SharedBoard &) = delete;

    Board *operator->() const { return board_; }

  private:
    Board *board_;
};

// --- processes -------------------------------------------------------------------------------------------------------

template <class Body> pid_t start(Body body) {
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child != 0) {
        return child;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int status = 0;
    try {
        body();
    } catch (const std::exception &error) {
        std::fprintf(stderr, "scale: %s\n", error.what());
        status = 1;
    }
    std::fflush(nullptr);
    // Runs no destructors: the servers are the parent's.
    _exit(status);
}

inline void await_end(const std::vector<pid_t> &children) {
    bool is_well = true;
    for (const pid_t child : children) {
        int status = 0;
        if (!support::eventually([&] { return waitpid(child, &status, WNOHANG) != 0; })) {
            kill(child, SIGKILL);
            waitpid(child, &status, 0);
        }
        is_well = is_well && status == 0;
    }
    if (!is_well) {
        throw std::runtime_error("a process failed or hung");
    }
}

inline double now_s() {
    return std::chrono::duration<double>(support::Clock::now().time_since_epoch()).count();
}

inline double cpu_s() {
    rusage used{};
    getrusage(RUSAGE_SELF, &used);
    const auto seconds = [](const timeval &time) {
        return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
    };
    return seconds(used.ru_utime) + seconds(used.ru_stime);
}

inline pita_stats_t stats() {
    pita_stats_t stats{};
    stats.struct_size = sizeof stats;
    check(pita_redis_stats(&stats));
    return stats;
}

// --- what they store -------------------------------------------------------------------------------------------------

inline std::string engine_name(std::size_t engine) {
    return "engine-" + std::to_string(engine);
}

inline std::string prefix_of(const Load &load, std::size_t engine) {
    return load.is_tagged ? "{" + engine_name(engine) + "}:" : "";
}

// Different ones for neighbours in time and batch, of which none is 0.
class Records {
  public:
    explicit Records(const Load &load) : all_(random_records(4093)) {
        for (pita_metrics_t &record : all_) {
            if (load.is_log_norm_only) {
                record.log_norm_temp = record.entropy = 0;
            }
        }
    }
    const pita_metrics_t &at(std::size_t request, std::size_t step) const {
        return all_[(request * 31 + step) % all_.size()];
    }

  private:
    std::vector<pita_metrics_t> all_;
};

// --- engines ---------------------------------------------------------------------------------------------------------

// One step; returns how long the calls took.
inline double store_step(const std::vector<std::string> &names, const Records &records, std::size_t step) {
    const double start = now_s();
    for (std::size_t i = 0; i < names.size(); ++i) {
        check(pita_store_metrics(names[i].c_str(), static_cast<std::int64_t>(step), &records.at(i, step), 1));
    }
    return now_s() - start;
}

// Starts the threads and makes the connections, to all servers.
inline void warm_up(std::size_t engine) {
    const std::vector<std::string> names = ids("warm-" + std::to_string(engine), 64);
    const pita_metrics_t record{1, 1, 1};
    for (const std::string &name : names) {
        check(pita_store_metrics(name.c_str(), 0, &record, 1));
    }
    check(pita_redis_flush(60000));
    for (const std::string &name : names) {
        check(pita_discard_metrics(name.c_str()));
    }
}

inline void run_engine(const Fleet &fleet, const Load &load, std::size_t engine, const SharedBoard &board) {
    const std::string prefix = load.is_tagged ? "&prefix=" + prefix_of(load, engine) : "";
    const std::string options = "&write=behind" + prefix + (load.waits ? "&wait_replicas=1" : "");
    const Pool pool({"", fleet.url(options), "", 0}, "");
    const Records records(load);
    const std::vector<std::string> names = ids(engine_name(engine), load.batch);
    warm_up(engine);
    ++board->ready;
    if (!support::eventually([&] { return board->is_go.load(); })) {
        throw std::runtime_error("the others do not get ready");
    }
    const pita_stats_t before = stats();
    Work work;
    const double cpu = cpu_s();
    work.began_s = now_s();
    for (std::size_t step = 0; step < load.steps; ++step) {
        work.calls_s += store_step(names, records, step);
        if (load.is_paced) {
            check(pita_redis_flush(60000));
        }
    }
    check(pita_redis_flush(60000));
    work.ended_s = now_s();
    work.cpu_s = cpu_s() - cpu;
    const pita_stats_t after = stats();
    work.bytes_sent = static_cast<double>(after.bytes_sent - before.bytes_sent);
    work.bytes_received = static_cast<double>(after.bytes_received - before.bytes_received);
    work.trips = static_cast<double>(after.round_trip_latency.count - before.round_trip_latency.count);
    board->work.at(engine) = work;
}

// --- the reader ------------------------------------------------------------------------------------------------------

inline void take_one(const std::string &id, std::size_t request, const Load &load, const Records &records,
                     std::vector<pita_metrics_t> &out) {
    std::size_t count = 0;
    check(pita_take_metrics_wait(id.c_str(), load.steps, 10000, out.data(), out.size(), &count));
    if (count != load.steps) {
        throw std::runtime_error(id + " has " + std::to_string(count) + " records, not " + std::to_string(load.steps));
    }
    for (std::size_t step = 0; step < count; ++step) {
        const pita_metrics_t &wanted = records.at(request, step);
        if (out[step].log_norm != wanted.log_norm || out[step].log_norm_temp != wanted.log_norm_temp ||
            out[step].entropy != wanted.entropy) {
            throw std::runtime_error(id + ": record " + std::to_string(step) + " is another one's");
        }
    }
}

// By the whole key: one pool has one prefix, and the engines have theirs.
inline void run_reader(const Fleet &fleet, const Load &load, const SharedBoard &board) {
    const Pool pool({"", fleet.url(""), "", 0}, "");
    const Records records(load);
    std::vector<pita_metrics_t> out(load.steps + 1);
    Work work;
    const double cpu = cpu_s();
    work.began_s = now_s();
    for (std::size_t engine = 0; engine < load.engines; ++engine) {
        const std::vector<std::string> names = ids(engine_name(engine), load.batch);
        for (std::size_t i = 0; i < names.size(); ++i) {
            take_one(prefix_of(load, engine) + names[i], i, load, records, out);
        }
    }
    work.ended_s = now_s();
    work.cpu_s = cpu_s() - cpu;
    board->work.at(0) = work;
}

} // namespace bench
