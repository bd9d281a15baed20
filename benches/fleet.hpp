// The servers that `make bench-scale` loads, a cluster or a single one, and what they say of themselves.

#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "support/cluster.hpp"
#include "support/eventually.hpp"
#include "support/hiredis.hpp"
#include "support/redis_server.hpp"

namespace bench {

// Of all servers together, since they were started.
struct Usage {
    double cpu_s = 0;
    double script_calls = 0;
    double commands = 0; // those within scripts as well
    double memory = 0;   // bytes, now

    Usage operator-(const Usage &before) const {
        return {cpu_s - before.cpu_s, script_calls - before.script_calls, commands - before.commands,
                memory - before.memory};
    }
};

class Fleet {
  public:
    // Without masters it is a plain server.
    explicit Fleet(std::size_t masters, std::size_t replicas = 0) {
        if (masters == 0) {
            single_ = std::make_unique<support::RedisServer>();
            name_ = "plain";
        } else {
            cluster_ = std::make_unique<support::Cluster>(masters, replicas);
            name_ = "cluster of " + std::to_string(masters) + (replicas == 0 ? "" : " with replicas");
        }
    }

    // With replicas.
    std::size_t size() const { return single_ ? 1 : cluster_->size(); }
    const std::string &name() const { return name_; }
    // `more` is "&option=value...".
    std::string url(const std::string &more) const {
        return single_ ? single_->url(more) : cluster_->url("&timeout_ms=60000" + more);
    }

    Usage usage() {
        Usage all;
        for (std::size_t i = 0; i < size(); ++i) {
            const std::string info = "\n" + support::Hiredis(server(i)).run({"INFO", "everything"}).text;
            all.cpu_s += number(info, "\nused_cpu_user:") + number(info, "\nused_cpu_sys:");
            all.script_calls += number(info, "\ncmdstat_evalsha:calls=");
            all.commands += number(info, "\ntotal_commands_processed:");
            all.memory += number(info, "\nused_memory:");
        }
        return all;
    }

    long long keys() { return single_ ? support::Hiredis(*single_).keys() : cluster_->keys(); }

    // Seconds of CPU that all take in a second without any load: the servers of a cluster talk to each other.
    double idle_cpu() {
        const double before = usage().cpu_s;
        const auto start = support::Clock::now();
        std::this_thread::sleep_for(std::chrono::seconds(1));
        const std::chrono::duration<double> took = support::Clock::now() - start;
        return (usage().cpu_s - before) / took.count();
    }

  private:
    support::RedisServer &server(std::size_t i) { return single_ ? *single_ : cluster_->server(i); }

    // 0 where INFO has no such field, such as for a command that was never called.
    static double number(const std::string &info, const std::string &field) {
        const std::size_t at = info.find(field);
        return at == std::string::npos ? 0 : std::stod(info.substr(at + field.size(), 32));
    }

    std::string name_;
    std::unique_ptr<support::RedisServer> single_;
    std::unique_ptr<support::Cluster> cluster_;
};

} // namespace bench
