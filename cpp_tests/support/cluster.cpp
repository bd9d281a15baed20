#include "cluster.hpp"

#include <algorithm>
#include <sstream>
#include <stdexcept>

#include "eventually.hpp"

namespace support {
namespace {

constexpr int all_slots = 16384;

// Quick to miss a server and to replace it. A master that has lost its last slot stays one.
const std::vector<std::string> cluster_options = {
    "--cluster-enabled",                 "yes",  "--cluster-config-file",             "nodes.conf",
    "--cluster-node-timeout",            "1000", "--cluster-require-full-coverage",   "no",
    "--cluster-replica-validity-factor", "0",    "--cluster-allow-replica-migration", "no",
    "--repl-diskless-sync-delay",        "0",    "--repl-ping-replica-period",        "1"};

} // namespace

Cluster::Cluster(std::size_t masters, std::size_t replicas, std::vector<std::string> options, RedisServer::Port kind)
    : options_(cluster_options), kind_(kind) {
    if (kind == RedisServer::Port::tls) {
        options_.insert(options_.end(), {"--tls-cluster", "yes", "--tls-replication", "yes"});
    }
    options_.insert(options_.end(), options.begin(), options.end());
    for (std::size_t i = 0; i < masters; ++i) {
        give_slots(start(), masters);
    }
    while (size() < masters * (1 + replicas)) {
        start();
    }
    await_acquaintance();
    for (std::size_t i = masters; i < size(); ++i) {
        at(i).run({"CLUSTER", "REPLICATE", ids_[i % masters]});
    }
    await_agreement();
}

std::string Cluster::url(const std::string &more) const {
    std::string url = kind_ == RedisServer::Port::tls ? "rediss+cluster://" : "redis+cluster://";
    for (std::size_t i = 0; i < size(); ++i) {
        url += (i == 0 ? "" : ",") + servers_[i]->host_and_port();
    }
    return url + "/?connect_timeout_ms=2000" + more;
}

// --- slots -----------------------------------------------------------------------------------------------------------

int Cluster::slot_of(const std::string &key) {
    return static_cast<int>(any().run({"CLUSTER", "KEYSLOT", key}).integer);
}

std::size_t Cluster::owner_of(int slot) {
    Hiredis client = any();
    Nodes nodes = nodes_of(client);
    for (std::size_t i = 0; i < size(); ++i) {
        if (nodes[ids_[i]].serves(slot)) {
            return i;
        }
    }
    throw std::runtime_error("nobody serves slot " + std::to_string(slot));
}

std::string Cluster::key_at(std::size_t server, const std::string &start) {
    Hiredis client = any();
    const Node node = nodes_of(client)[ids_.at(server)];
    if (node.slots.empty()) {
        throw std::runtime_error("server " + std::to_string(server) + " serves no slots");
    }
    for (int number = 0;; ++number) {
        const std::string key = start + std::to_string(number);
        if (node.serves(static_cast<int>(client.run({"CLUSTER", "KEYSLOT", key}).integer))) {
            return key;
        }
    }
}

long long Cluster::keys() {
    long long keys = 0;
    for (const std::size_t i : living()) {
        Hiredis client = at(i);
        if (client.info_text("role") == "master") {
            keys += client.keys();
        }
    }
    return keys;
}

// --- migration -------------------------------------------------------------------------------------------------------

void Cluster::begin_migration(int slot, std::size_t to) {
    const std::size_t from = owner_of(slot);
    at(to).run({"CLUSTER", "SETSLOT", std::to_string(slot), "IMPORTING", ids_[from]});
    at(from).run({"CLUSTER", "SETSLOT", std::to_string(slot), "MIGRATING", ids_[to]});
}

void Cluster::move_keys(int slot, std::size_t to) {
    Hiredis client = at(owner_of(slot));
    const std::string time = std::to_string(patience.count());
    for (;;) {
        const Reply keys = client.run({"CLUSTER", "GETKEYSINSLOT", std::to_string(slot), "100"});
        if (keys.elements.empty()) {
            return;
        }
        std::vector<std::string> words = {"MIGRATE", "127.0.0.1", std::to_string(server(to).port())};
        words.insert(words.end(), {"", "0", time, "KEYS"});
        for (const Reply &key : keys.elements) {
            words.push_back(key.text);
        }
        client.run(words);
    }
}

void Cluster::end_migration(int slot, std::size_t to) {
    std::vector<std::size_t> told = {to, owner_of(slot)};
    for (const std::size_t i : living()) {
        if (i != told[0] && i != told[1] && at(i).info_text("role") == "master") {
            told.push_back(i);
        }
    }
    for (const std::size_t i : told) {
        at(i).run({"CLUSTER", "SETSLOT", std::to_string(slot), "NODE", ids_[to]});
    }
    // The replicas are not told; they hear of it.
    await_agreement();
}

void Cluster::migrate(int slot, std::size_t to) {
    begin_migration(slot, to);
    move_keys(slot, to);
    end_migration(slot, to);
}

// --- servers ---------------------------------------------------------------------------------------------------------

std::size_t Cluster::add_master() {
    const std::size_t i = start();
    await_acquaintance();
    await_agreement();
    return i;
}

void Cluster::await_failover(std::size_t dead) {
    await("others serve what a dead server served", [&] {
        Hiredis client = any();
        return nodes_of(client)[ids_.at(dead)].slots.empty() && agree();
    });
}

void Cluster::await_agreement() {
    await("the servers of a cluster agree", [this] { return agree(); });
}

// Another server, which no two others take for the same, and which has met all that are there.
std::size_t Cluster::start() {
    const std::size_t i = size();
    servers_.push_back(std::make_unique<RedisServer>(options_, kind_));
    Hiredis client = at(i);
    ids_.push_back(client.run({"CLUSTER", "MYID"}).text);
    client.run({"CLUSTER", "SET-CONFIG-EPOCH", std::to_string(i + 1)});
    for (const std::size_t other : living()) {
        if (other != i) {
            client.run({"CLUSTER", "MEET", "127.0.0.1", std::to_string(servers_[other]->port())});
        }
    }
    return i;
}

// Its share of the slots. One by one: servers before 7.0 know no ranges.
void Cluster::give_slots(std::size_t master, std::size_t masters) {
    std::vector<std::string> words = {"CLUSTER", "ADDSLOTS"};
    for (std::size_t slot = all_slots * master / masters; slot < all_slots * (master + 1) / masters; ++slot) {
        words.push_back(std::to_string(slot));
    }
    at(master).run(words);
}

void Cluster::await_acquaintance() {
    await("the servers of a cluster know each other", [this] {
        const std::vector<std::size_t> all = living();
        return std::all_of(all.begin(), all.end(), [&](std::size_t i) {
            Hiredis client = at(i);
            return takes_part(i, nodes_of(client));
        });
    });
}

// --- what servers say ------------------------------------------------------------------------------------------------

std::vector<std::size_t> Cluster::living() const {
    std::vector<std::size_t> living;
    for (std::size_t i = 0; i < size(); ++i) {
        if (servers_[i]->is_up()) {
            living.push_back(i);
        }
    }
    return living;
}

// Whether all living servers are part of a cluster of which they say the same.
bool Cluster::agree() const {
    Hiredis first = any();
    const Nodes expected = nodes_of(first);
    int served = 0;
    for (const auto &[id, node] : expected) {
        for (const auto &[start, end] : node.slots) {
            served += end - start + 1;
        }
    }
    const std::vector<std::size_t> all = living();
    return served == all_slots && std::all_of(all.begin(), all.end(), [&](std::size_t i) {
        Hiredis client = at(i);
        const Nodes nodes = nodes_of(client);
        const auto same = [](const auto &one, const auto &other) {
            return one.first == other.first && one.second.master == other.second.master &&
                   one.second.slots == other.second.slots;
        };
        return takes_part(i, nodes) && std::equal(nodes.begin(), nodes.end(), expected.begin(), expected.end(), same) &&
               client.run({"CLUSTER", "INFO"}).text.find("cluster_state:ok") != std::string::npos &&
               (client.info_text("role") == "master" || client.info_text("master_link_status") == "up");
    });
}

// Whether a server knows all others, and takes none that lives for dead or unmet.
bool Cluster::takes_part(std::size_t i, const Nodes &nodes) const {
    if (nodes.size() != size() || nodes.count(ids_[i]) == 0 || !nodes.at(ids_[i]).has("myself")) {
        return false;
    }
    const std::vector<std::size_t> all = living();
    return std::all_of(all.begin(), all.end(), [&](std::size_t other) {
        const auto found = nodes.find(ids_[other]);
        return found != nodes.end() && !found->second.has("fail") && !found->second.has("handshake");
    });
}

bool Cluster::Node::serves(int slot) const {
    return std::any_of(slots.begin(), slots.end(),
                       [slot](const auto &range) { return range.first <= slot && slot <= range.second; });
}

// Lines such as "<ID> 127.0.0.1:30004@31004 slave <its master's ID> 0 1426238317239 4 connected", for a master with "-"
// and then its slots: "connected 0-5460 7000", and such as "[93->-<ID>]" where one is on its way.
Cluster::Nodes Cluster::nodes_of(Hiredis &server) {
    Nodes nodes;
    std::istringstream lines(server.run({"CLUSTER", "NODES"}).text);
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string id, word;
        words >> id >> word;
        Node &node = nodes[id];
        words >> node.flags >> node.master >> word >> word >> word >> word;
        while (words >> word) {
            if (word[0] != '[') {
                const std::size_t dash = word.find('-');
                const int start = std::stoi(word);
                node.slots.emplace_back(start, dash == std::string::npos ? start : std::stoi(word.substr(dash + 1)));
            }
        }
    }
    return nodes;
}

} // namespace support
