// A Redis Cluster: masters, each with some of the slots, and their replicas.

#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hiredis.hpp"
#include "redis_server.hpp"

namespace support {

// Ready when constructed: all servers know of each other and of who serves what, and the replicas are in step.
//
// A server that is killed and started again has its place, but not its keys; before its replica took over, it would
// have the replica lose them, too. Throws std::runtime_error.
class Cluster {
  public:
    // The slots are spread evenly; each master has `replicas` replicas. `options` are those of all servers.
    explicit Cluster(std::size_t masters = 3, std::size_t replicas = 0, std::vector<std::string> options = {},
                     RedisServer::Port kind = RedisServer::Port::plain);

    // "redis+cluster://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3/?connect_timeout_ms=..."
    std::string url(const std::string &more = "") const;

    // The masters come first, then the first replica of each, then the second ones, and at last those that were added.
    RedisServer &server(std::size_t i) { return *servers_.at(i); }
    std::size_t size() const { return servers_.size(); }

    int slot_of(const std::string &key);
    // The server that serves a slot, by what a living one says.
    std::size_t owner_of(int slot);
    RedisServer &master_of(const std::string &key) { return server(owner_of(slot_of(key))); }
    // A key whose slot a server serves, such as "key17".
    std::string key_at(std::size_t server, const std::string &start = "key");

    // Moves a slot from the server that serves it to another one, in three steps or at once.
    void begin_migration(int slot, std::size_t to);
    void move_keys(int slot, std::size_t to);
    void end_migration(int slot, std::size_t to);
    void migrate(int slot, std::size_t to);

    // Another master, without slots; returns its index.
    std::size_t add_master();
    // Until others serve what a dead server served.
    void await_failover(std::size_t dead);
    // Until all living servers are known to each other as living, say the same of slots and replicas, and are in step.
    void await_agreement();

    // How many keys there are at the masters.
    long long keys();

  private:
    // What a server says of one: the flags, such as "master,fail"; whose replica it is; and its ranges of slots.
    struct Node {
        std::string flags, master;
        std::vector<std::pair<int, int>> slots;

        bool has(const std::string &flag) const { return flags.find(flag) != std::string::npos; }
        bool serves(int slot) const;
    };
    // By ID.
    using Nodes = std::map<std::string, Node>;

    static Nodes nodes_of(Hiredis &server);
    std::size_t start();
    void give_slots(std::size_t master, std::size_t masters);
    void await_acquaintance();
    std::vector<std::size_t> living() const;
    bool agree() const;
    bool takes_part(std::size_t i, const Nodes &nodes) const;

    Hiredis at(std::size_t i) const { return Hiredis(*servers_.at(i)); }
    Hiredis any() const { return at(living().at(0)); }

    std::vector<std::string> options_;
    RedisServer::Port kind_;
    std::vector<std::unique_ptr<RedisServer>> servers_;
    std::vector<std::string> ids_;
};

} // namespace support
