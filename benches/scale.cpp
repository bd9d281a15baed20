// `make bench-scale`: what many engines cost each other and the servers, on clusters of its own and on a plain server.
//
// All share this machine: what a record costs, in time of CPU, tells of other machines; how many go in a second does
// not. Storing and taking take turns, so that what the servers have used is for the one or the other. The engines store
// by `pita_store_metrics`, at the token's index: the batch call would add the kernel's time, and its records go the
// same way.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engines.hpp"
#include "fleet.hpp"

using namespace bench;

namespace {

constexpr int kRounds = 3; // odd, for a median

// Microseconds, bytes and counts are per record.
struct Cost {
    double rate = 0; // records/s of all engines
    double calls_us = 0;
    double engine_us = 0;
    double server_us = 0;
    double per_call = 0; // records
    double per_trip = 0; // records
    double sent = 0;
    double received = 0;
    double commands = 0;
    double memory = 0;
    double take_us = 0;
    double reader_us = 0;
    double take_server_us = 0;
    double commands_per_take = 0;
};

// The CPU of servers that do nothing does not count.
struct Meter {
    Fleet &fleet;
    double idle_cpu;
    Usage before = fleet.usage();
    double start_s = now_s();

    Usage used() const {
        Usage used = fleet.usage() - before;
        used.cpu_s -= idle_cpu * (now_s() - start_s);
        return used;
    }
};

// All that the engines have done, as if by one.
Work in_all(const Load &load, const SharedBoard &board) {
    Work all = board->work[0];
    for (std::size_t i = 1; i < load.engines; ++i) {
        const Work &one = board->work.at(i);
        all.began_s = std::min(all.began_s, one.began_s);
        all.ended_s = std::max(all.ended_s, one.ended_s);
        all.calls_s += one.calls_s;
        all.cpu_s += one.cpu_s;
        all.bytes_sent += one.bytes_sent;
        all.bytes_received += one.bytes_received;
        all.trips += one.trips;
    }
    return all;
}

void store(Fleet &fleet, double idle_cpu, const Load &load, Cost &cost) {
    const SharedBoard board;
    const double memory = fleet.usage().memory;
    std::vector<pid_t> engines;
    for (std::size_t i = 0; i < load.engines; ++i) {
        engines.push_back(start([&, i] { run_engine(fleet, load, i, board); }));
    }
    support::await("the engines are ready", [&] { return board->ready == load.engines; });
    const Meter meter{fleet, idle_cpu};
    board->is_go = true;
    await_end(engines);
    const Usage used = meter.used();
    const Work work = in_all(load, board);
    const double records = static_cast<double>(load.records());
    cost.rate = records / (work.ended_s - work.began_s);
    cost.calls_us = 1e6 * work.calls_s / records;
    cost.engine_us = 1e6 * work.cpu_s / records;
    cost.server_us = 1e6 * used.cpu_s / records;
    cost.per_call = records / used.script_calls;
    cost.per_trip = records / work.trips;
    cost.sent = work.bytes_sent / records;
    cost.received = work.bytes_received / records;
    cost.commands = used.commands / records;
    cost.memory = (fleet.usage().memory - memory) / records;
}

void take(Fleet &fleet, double idle_cpu, const Load &load, Cost &cost) {
    const SharedBoard board;
    const Meter meter{fleet, idle_cpu};
    await_end({start([&] { run_reader(fleet, load, board); })});
    const Usage used = meter.used();
    const Work &work = board->work[0];
    const double records = static_cast<double>(load.records());
    cost.take_us = 1e6 * (work.ended_s - work.began_s) / records;
    cost.reader_us = 1e6 * work.cpu_s / records;
    cost.take_server_us = 1e6 * used.cpu_s / records;
    cost.commands_per_take = used.commands / static_cast<double>(load.engines * load.batch);
    if (const long long left = fleet.keys(); left != 0) {
        throw std::runtime_error(std::to_string(left) + " keys are left when all is taken");
    }
}

double median(const std::vector<Cost> &rounds, double Cost::*field) {
    std::vector<double> values;
    for (const Cost &cost : rounds) {
        values.push_back(cost.*field);
    }
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

// Each field's own median.
Cost measure(Fleet &fleet, double idle_cpu, const Load &load) {
    std::vector<Cost> rounds(kRounds);
    for (Cost &cost : rounds) {
        store(fleet, idle_cpu, load, cost);
        take(fleet, idle_cpu, load, cost);
    }
    Cost medians;
    for (const auto field :
         {&Cost::rate, &Cost::calls_us, &Cost::engine_us, &Cost::server_us, &Cost::per_call, &Cost::per_trip,
          &Cost::sent, &Cost::received, &Cost::commands, &Cost::memory, &Cost::take_us, &Cost::reader_us,
          &Cost::take_server_us, &Cost::commands_per_take}) {
        medians.*field = median(rounds, field);
    }
    return medians;
}

// --- the tables ------------------------------------------------------------------------------------------------------

struct Row {
    std::size_t engines;
    std::size_t batch;
    bool is_tagged = false;
    bool waits = false;

    // So many steps that a round takes a fraction of a second.
    Load load(bool is_paced) const {
        const std::size_t steps = (is_paced ? 1 << 15 : 1 << 16) / (engines * batch);
        return {engines, batch, std::clamp<std::size_t>(steps, 8, is_paced ? 256 : 2048), is_paced, is_tagged, waits};
    }
    std::string how() const {
        return std::string(is_tagged ? ", a slot an engine" : "") + (waits ? ", wait_replicas=1" : "");
    }
};

void show_storing(Fleet &fleet, double idle_cpu, const Row &row) {
    const Cost paced = measure(fleet, idle_cpu, row.load(true));
    const Cost busy = measure(fleet, idle_cpu, row.load(false));
    std::printf("| %s%s | %zu | %zu | %.2f | %.2f | %.2f | %.1f | %.1f | %.0f | %.0f | %.1f | %.0f | %.2f | %.2f "
                "| %.0f |\n",
                fleet.name().c_str(), row.how().c_str(), row.engines, row.batch, paced.server_us, paced.engine_us,
                paced.calls_us, paced.per_call, paced.per_trip, paced.sent, paced.received, paced.commands, paced.rate,
                busy.server_us, busy.engine_us, busy.rate);
    std::fflush(stdout);
}

void show_storing(std::vector<Fleet *> &fleets, const std::vector<double> &idle) {
    std::printf("\nStoring. Microseconds, bytes and commands are per record; \"call\" is the thread that stores.\n"
                "First with each step stored before the next, then as fast as it goes.\n\n"
                "| servers | engines | requests | servers' CPU us | engines' CPU us | call us | records a script call "
                "| records a trip | bytes sent | received | commands | records/s | busy: servers' CPU us "
                "| engines' CPU us | records/s |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (std::size_t i = 0; i < fleets.size(); ++i) {
        std::vector<Row> rows = {{1, 1}, {1, 32}, {1, 256}, {1, 2048}, {2, 256}, {4, 32}, {4, 256}};
        if (fleets[i]->size() > 1) {
            rows.insert(rows.end(), {{1, 256, true}, {1, 2048, true}, {4, 256, true}});
        }
        for (const Row &row : rows) {
            show_storing(*fleets[i], idle[i], row);
        }
    }
    Fleet replicated(3, 1);
    const double idle_cpu = replicated.idle_cpu();
    for (const Row &row : {Row{1, 256}, {1, 256, true}, {1, 256, true, true}}) {
        show_storing(replicated, idle_cpu, row);
    }
}

void show_keeping(std::vector<Fleet *> &fleets, const std::vector<double> &idle) {
    std::printf("\nKeeping and taking, 128 requests of one engine. Microseconds and bytes are per record.\n\n"
                "| servers | tokens | numbers | memory bytes | take us | reader's CPU us | servers' CPU us | "
                "commands a take |\n|---|---|---|---|---|---|---|---|\n");
    for (std::size_t i = 0; i < fleets.size(); ++i) {
        for (const auto &[tokens, is_log_norm_only] : {std::pair{256, false}, {2048, false}, {256, true}}) {
            Load load{1, 128, static_cast<std::size_t>(tokens), false};
            load.is_log_norm_only = is_log_norm_only;
            const Cost cost = measure(*fleets[i], idle[i], load);
            std::printf("| %s | %d | %s | %.1f | %.2f | %.2f | %.2f | %.1f |\n", fleets[i]->name().c_str(), tokens,
                        is_log_norm_only ? "log_norm" : "all", cost.memory, cost.take_us, cost.reader_us,
                        cost.take_server_us, cost.commands_per_take);
            std::fflush(stdout);
        }
    }
}

void run(const std::vector<std::size_t> &masters) {
    std::vector<std::unique_ptr<Fleet>> own;
    std::vector<Fleet *> fleets;
    std::vector<double> idle;
    std::printf("| servers | CPU of all without load |\n|---|---|\n");
    for (const std::size_t count : masters) {
        own.push_back(std::make_unique<Fleet>(count));
        fleets.push_back(own.back().get());
        idle.push_back(fleets.back()->idle_cpu());
        std::printf("| %s | %.1f %% of a core |\n", fleets.back()->name().c_str(), 100 * idle.back());
    }
    show_storing(fleets, idle);
    show_keeping(fleets, idle);
}

} // namespace

// Without arguments: a plain server, and clusters of 1, 3 and 6 masters. Otherwise of so many; 0 is the plain server.
int main(int count, char **arguments) {
    try {
        std::vector<std::size_t> masters;
        for (int i = 1; i < count; ++i) {
            masters.push_back(std::stoul(arguments[i]));
        }
        run(masters.empty() ? std::vector<std::size_t>{0, 1, 3, 6} : masters);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "scale: %s\n", error.what());
        return 1;
    }
    return 0;
}
