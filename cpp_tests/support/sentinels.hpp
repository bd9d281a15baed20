// A master, its replica, and three sentinels that watch over them.

#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "eventually.hpp"
#include "hiredis.hpp"
#include "redis_server.hpp"

namespace support {

class Sentinels {
  public:
    static constexpr const char *service = "main";

    // `options` are those of both servers.
    explicit Sentinels(std::vector<std::string> options = {}) {
        options.insert(options.end(), {"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"});
        servers_.push_back(std::make_unique<RedisServer>(options));
        options.insert(options.end(), {"--replicaof", "127.0.0.1 " + std::to_string(servers_[0]->port())});
        servers_.push_back(std::make_unique<RedisServer>(options));
        for (int i = 0; i < 3; ++i) {
            sentinels_.push_back(std::make_unique<RedisServer>(std::vector<std::string>{}, RedisServer::Port::sentinel));
            Hiredis sentinel(*sentinels_.back());
            sentinel.run({"SENTINEL", "MONITOR", service, "127.0.0.1", std::to_string(servers_[0]->port()), "2"});
            sentinel.run({"SENTINEL", "SET", service, "down-after-milliseconds", "500", "failover-timeout", "5000"});
        }
        await("the replica is in step", [&] { return Hiredis(*servers_[1]).info_text("master_link_status") == "up"; });
        await("the sentinels know of all", [&] {
            for (const auto &sentinel : sentinels_) {
                Hiredis client(*sentinel);
                if (client.run({"SENTINEL", "SENTINELS", service}).elements.size() != 2 ||
                    client.run({"SENTINEL", "REPLICAS", service}).elements.size() != 1) {
                    return false;
                }
            }
            return true;
        });
    }

    // "redis+sentinel://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3/main?timeout_ms=..."
    std::string url(const std::string &more = "") const {
        std::string url = "redis+sentinel://";
        for (std::size_t i = 0; i < sentinels_.size(); ++i) {
            url += (i == 0 ? "" : ",") + sentinels_[i]->host_and_port();
        }
        return url + "/" + service + "?connect_timeout_ms=2000" + more;
    }

    // By what the sentinels say.
    RedisServer &master() {
        const int port = master_port();
        return *(servers_[0]->port() == port ? servers_[0] : servers_[1]);
    }
    RedisServer &replica() { return *(&master() == servers_[0].get() ? servers_[1] : servers_[0]); }
    // The master at first.
    RedisServer &first() { return *servers_[0]; }
    RedisServer &sentinel(std::size_t i) { return *sentinels_[i]; }

    // Until another server is the master, and takes writes.
    void await_failover(int from_port) {
        await("another server is the master", [&] {
            if (master_port() == from_port) {
                return false;
            }
            return Hiredis(master()).info_text("role") == "master";
        });
    }

  private:
    int master_port() {
        for (const auto &sentinel : sentinels_) {
            try {
                return std::stoi(Hiredis(*sentinel).run({"SENTINEL", "GET-MASTER-ADDR-BY-NAME", service}).elements.at(1).text);
            } catch (const std::runtime_error &) {
                // It was killed.
            }
        }
        throw std::runtime_error("no sentinel is there");
    }

    std::vector<std::unique_ptr<RedisServer>> servers_, sentinels_;
};

} // namespace support
