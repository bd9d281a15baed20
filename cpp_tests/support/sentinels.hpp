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

    // `options` are those of both servers, with TLS also those of the sentinels.
    explicit Sentinels(std::vector<std::string> options = {}, RedisServer::Port kind = RedisServer::Port::plain)
        : kind_(kind) {
        std::vector<std::string> sentinel_options;
        if (is_tls()) {
            options.insert(options.end(), {"--tls-replication", "yes"});
            sentinel_options = options;
        }
        options.insert(options.end(), {"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"});
        servers_.push_back(std::make_unique<RedisServer>(options, kind));
        options.insert(options.end(), {"--replicaof", "127.0.0.1 " + std::to_string(servers_[0]->port())});
        servers_.push_back(std::make_unique<RedisServer>(options, kind));
        for (int i = 0; i < 3; ++i) {
            const auto sentinel_kind = is_tls() ? RedisServer::Port::tls_sentinel : RedisServer::Port::sentinel;
            sentinels_.push_back(std::make_unique<RedisServer>(sentinel_options, sentinel_kind));
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

    // "redis+sentinel://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3/main?timeout_ms=..."; `login` is "user:password@".
    std::string url(const std::string &more = "", const std::string &login = "") const {
        std::string url = (is_tls() ? "rediss+sentinel://" : "redis+sentinel://") + login;
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

    // Kills the first master; returns when the replica has taken over.
    void kill_the_master() {
        first().kill();
        await_failover(first().port());
    }

  private:
    bool is_tls() const { return kind_ == RedisServer::Port::tls; }

    int master_port() {
        for (const auto &sentinel : sentinels_) {
            try {
                const Reply address = Hiredis(*sentinel).run({"SENTINEL", "GET-MASTER-ADDR-BY-NAME", service});
                return std::stoi(address.elements.at(1).text);
            } catch (const std::runtime_error &) {
                // It was killed.
            }
        }
        throw std::runtime_error("no sentinel is there");
    }

    RedisServer::Port kind_;
    std::vector<std::unique_ptr<RedisServer>> servers_, sentinels_;
};

} // namespace support
