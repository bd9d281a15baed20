// Redis Cluster under load: slots that move, masters that die or freeze, servers that come and go. What was OK is there once
// and in order.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "support/behind.hpp"
#include "support/cluster.hpp"
#include "support/log.hpp"
#include "support/logits.hpp"

using namespace support;

namespace {

std::string id_of(std::size_t number) {
    return "request-" + std::to_string(number);
}

// Engines that decode many requests step by step, until told to stop. Each token is stored until it is OK.
class Load {
  public:
    static constexpr std::size_t requests = 48;

    explicit Load(bool indexed = true) : indexed_(indexed), thread_([this] { run(); }) {}
    ~Load() { stop(); }
    Load(const Load &) = delete;
    Load &operator=(const Load &) = delete;

    // Returns how many tokens were stored of each request.
    std::size_t stop() {
        is_over_ = true;
        if (thread_.joinable()) {
            thread_.join();
        }
        return tokens_;
    }
    std::size_t tokens() const { return tokens_; }
    // Until so many more are stored.
    void go_on(std::size_t more) {
        const std::size_t wanted = tokens_ + more;
        EXPECT_TRUE(eventually([&] { return tokens_ >= wanted; }));
    }

  private:
    // A row of one logit: the log-norm is the logit, which tells the token.
    void run() {
        Logits logits(requests);
        std::vector<std::string> ids;
        std::vector<const char *> pointers(requests);
        for (std::size_t i = 0; i < requests; ++i) {
            ids.push_back(id_of(i));
        }
        while (!is_over_ || tokens_ < 20) {
            for (std::size_t i = 0; i < requests; ++i) {
                pointers[i] = ids[i].c_str();
                logits[i] = static_cast<float>(tokens_);
            }
            step(logits, pointers);
            ++tokens_;
        }
    }

    void step(const Logits &logits, std::vector<const char *> &pointers) {
        const std::vector<std::int64_t> indices(requests, static_cast<std::int64_t>(tokens_));
        std::vector<pita_status_t> statuses(requests);
        pita_batch_t batch = batch_over(logits, requests);
        batch.req_ids = pointers.data();
        batch.token_indices = indexed_ ? indices.data() : nullptr;
        batch.statuses = statuses.data();
        const bool is_ok = eventually([&] {
            const pita_status_t status = pita_store_logits_metrics_batch(&batch);
            for (std::size_t i = 0; i < requests; ++i) {
                // An append that may be stored is not sent again. What has no id is skipped.
                if (statuses[i] == PITA_OK || (!indexed_ && statuses[i] == PITA_ERR_UNCERTAIN)) {
                    pointers[i] = nullptr;
                }
            }
            return status == PITA_OK;
        });
        EXPECT_TRUE(is_ok) << pita_last_error();
    }

    bool indexed_;
    std::atomic<bool> is_over_{false};
    std::atomic<std::size_t> tokens_{0};
    std::thread thread_;
};

// Takes all, and tells what is missing or there twice.
void expect_all(const char *what, std::size_t tokens) {
    std::size_t lost = 0;
    std::size_t doubled = 0;
    for (std::size_t i = 0; i < Load::requests; ++i) {
        Records out(2 * tokens + 1);
        std::size_t count = 0;
        ASSERT_OK(pita_take_metrics(id_of(i).c_str(), out.data(), out.size(), &count));
        out.resize(count);
        std::size_t next = 0;
        for (const pita_metrics_t &record : out) {
            const auto token = static_cast<std::size_t>(record.log_norm);
            doubled += token < next ? 1 : 0;
            lost += token > next ? token - next : 0;
            next = std::max(next, token + 1);
        }
        lost += tokens - next;
    }
    EXPECT_EQ(lost, 0U);
    EXPECT_EQ(doubled, 0U);
    std::printf("cluster: %s: %zu records OK, %zu lost, %zu doubled\n", what, tokens * Load::requests, lost, doubled);
}

const std::string patient = "&timeout_ms=20000";

TEST(ClusterMigration, SlotsThatMoveUnderLoadLoseNothing) {
    Cluster cluster(3);
    for (const char *options : {"", "&write=behind"}) {
        for (const bool indexed : {true, false}) {
            const Session session(cluster.url(patient + options));
            Load load(indexed);
            load.go_on(5);
            for (std::size_t i = 0; i < Load::requests; i += 4) {
                const int slot = cluster.slot_of(id_of(i));
                cluster.migrate(slot, (cluster.owner_of(slot) + 1) % 3);
            }
            load.go_on(5);
            const std::size_t tokens = load.stop();
            ASSERT_OK(flush());
            expect_all(indexed ? "slots moved, indexed" : "slots moved, appends", tokens);
            EXPECT_EQ(stats_now().uncertain, 0U);
        }
    }
    EXPECT_EQ(cluster.keys(), 0);
}

// A slot on its way: lists that have moved are found, new ones are made where the slot goes, takes wait.
TEST(ClusterMigration, ASlotOnItsWayIsAskedFor) {
    Cluster cluster(2);
    const Session session(cluster.url("&timeout_ms=300"));
    const std::string tag = cluster.key_at(0);
    const std::string here = "{" + tag + "}here";
    const std::string there = "{" + tag + "}new";
    const int slot = cluster.slot_of(tag);
    ASSERT_OK(append(here, records(2)));
    cluster.begin_migration(slot, 1);
    ASSERT_OK(append(here, records(1, 2)));
    ASSERT_OK(store_at(there, 0, records(1)));
    EXPECT_EQ(Hiredis(cluster.server(0)).length(here), 3);
    EXPECT_EQ(Hiredis(cluster.server(0)).keys(), 1);
    EXPECT_EQ(Hiredis(cluster.server(1)).keys(), 1);
    // The claim is not there yet, and Redis does nothing with two keys then.
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, take(here).status, "TRYAGAIN");
    cluster.move_keys(slot, 1);
    ASSERT_OK(append(here, records(1, 3)));
    std::size_t count = 0;
    ASSERT_OK(pita_count_metrics(here.c_str(), &count));
    EXPECT_EQ(count, 4U);
    EXPECT_EQ(Hiredis(cluster.server(0)).keys(), 0);
    cluster.end_migration(slot, 1);
    EXPECT_EQ(take(here).records, records(4));
    EXPECT_EQ(take(there).records, records(1));
    EXPECT_EQ(cluster.keys(), 0);
}

TEST(ClusterMigration, ATakeWaitsForASlotOnItsWay) {
    Cluster cluster(2);
    const Session session(cluster.url(patient));
    const std::string key = cluster.key_at(0);
    const int slot = cluster.slot_of(key);
    ASSERT_OK(append(key, records(2)));
    cluster.begin_migration(slot, 1);
    std::thread end([&] {
        std::this_thread::sleep_for(milliseconds(100));
        cluster.move_keys(slot, 1);
        cluster.end_migration(slot, 1);
    });
    EXPECT_EQ(take(key).records, records(2));
    end.join();
}

// Several lists of one slot go in one call of the script, of which some may have moved.
TEST(ClusterMigration, ABatchOfOneSlotIsSplitWhileItMoves) {
    Cluster cluster(2);
    const Session session(cluster.url(patient));
    const std::string tag = cluster.key_at(0);
    std::vector<std::string> ids;
    std::vector<const char *> pointers;
    for (std::size_t i = 0; i < 8; ++i) {
        ids.push_back("{" + tag + "}" + std::to_string(i));
    }
    for (const std::string &id : ids) {
        pointers.push_back(id.c_str());
    }
    const Logits logits = random_logits(8);
    const std::vector<std::int64_t> indices(8, 0);
    pita_batch_t batch = batch_over(logits, 4);
    batch.vocab_size = batch.row_stride = 1;
    batch.req_ids = pointers.data();
    batch.token_indices = indices.data();
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    cluster.begin_migration(cluster.slot_of(tag), 1);
    batch.rows = batch.len = 8;
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    EXPECT_EQ(Hiredis(cluster.server(0)).keys(), 4);
    EXPECT_EQ(Hiredis(cluster.server(1)).keys(), 4);
}

TEST(ClusterMigration, AServerThatIsAddedTakesItsSlots) {
    Cluster cluster(2);
    const Session session(cluster.url(patient + "&write=behind"));
    Load load;
    load.go_on(5);
    const std::size_t added = cluster.add_master();
    for (std::size_t i = 0; i < Load::requests; i += 3) {
        cluster.migrate(cluster.slot_of(id_of(i)), added);
    }
    load.go_on(20);
    const std::size_t tokens = load.stop();
    ASSERT_OK(flush());
    EXPECT_GT(Hiredis(cluster.server(added)).keys(), 0);
    expect_all("a server added", tokens);
}

// A take whose answer was lost leaves a claim in doubt, which cannot be given back while its slot is on its way.
TEST(ClusterMigration, AClaimInDoubtHoldsUpNoOtherKey) {
    Cluster cluster(2, 0, {"--cluster-node-timeout", "60000"});
    const Session session(cluster.url("&timeout_ms=500&ttl_s=0"));
    const std::string moving = cluster.key_at(0);
    const std::string other = cluster.key_at(0, "other");
    ASSERT_OK(append(moving, records(2)));
    ASSERT_OK(append(other, records(1)));
    cluster.begin_migration(cluster.slot_of(moving), 1);
    cluster.server(0).freeze();
    EXPECT_STATUS(PITA_ERR_TIMEOUT, take(moving).status);
    cluster.server(0).thaw();
    EXPECT_TRUE(eventually([&] { return append(other, records(1)) == PITA_OK; }));
    // The time has come to give it back.
    std::this_thread::sleep_for(milliseconds(700));
    EXPECT_LT(time_of([&] {
                  for (int round = 0; round < 20; ++round) {
                      EXPECT_OK(append(other, records(1)));
                  }
              }),
              milliseconds(1000));
    cluster.move_keys(cluster.slot_of(moving), 1);
    cluster.end_migration(cluster.slot_of(moving), 1);
    EXPECT_EQ(take(moving).records, records(2));
}

// --- failover --------------------------------------------------------------------------------------------------------

class ClusterFailover : public testing::TestWithParam<const char *> {};

TEST_P(ClusterFailover, AKilledMasterLosesNothingThatItsReplicaHas) {
    Cluster cluster(3, 1);
    const Session session(cluster.url(patient + "&wait_replicas=1&write=" + GetParam()));
    Load load;
    load.go_on(5);
    const int slot = cluster.slot_of(id_of(0));
    cluster.migrate(slot, (cluster.owner_of(slot) + 1) % 3);
    load.go_on(5);
    cluster.server(0).kill();
    cluster.await_failover(0);
    // It comes back as the replica of its replica, without which nothing there would be OK.
    cluster.server(0).restart();
    load.go_on(5);
    const std::size_t tokens = load.stop();
    ASSERT_OK(flush());
    expect_all((std::string("a slot moved, a master killed, write=") + GetParam()).c_str(), tokens);
    EXPECT_EQ(cluster.keys(), 0);
}

INSTANTIATE_TEST_SUITE_P(Write, ClusterFailover, testing::Values("sync", "behind"),
                         [](const auto &test) { return std::string(test.param); });

TEST(ClusterDeath, ADeadMasterTakesDownItsOwnKeysOnly) {
    Cluster cluster(3);
    const Session session(cluster.url(patient));
    const std::string dead = cluster.key_at(0);
    const std::string living[] = {cluster.key_at(1), cluster.key_at(2)};
    ASSERT_OK(append(dead, records(1)));
    cluster.server(0).kill();
    const char *ids[] = {living[0].c_str(), dead.c_str(), living[1].c_str()};
    pita_status_t statuses[3] = {};
    const Logits logits = random_logits(3);
    pita_batch_t batch = batch_over(logits, 3);
    batch.req_ids = ids;
    batch.statuses = statuses;
    const milliseconds took = time_of([&] {
        for (int round = 0; round < 20; ++round) {
            EXPECT_STATUS(PITA_ERR_UNAVAILABLE, pita_store_logits_metrics_batch(&batch));
            EXPECT_EQ(std::vector<pita_status_t>(statuses, statuses + 3),
                      (std::vector<pita_status_t>{PITA_OK, PITA_ERR_UNAVAILABLE, PITA_OK}));
        }
    });
    EXPECT_LT(took, milliseconds(10000)) << "calls do not wait for the dead one";
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, take(dead).status, cluster.server(0).host_and_port());
    EXPECT_STATUS(PITA_ERR_UNAVAILABLE, pita_redis_ping());
    EXPECT_EQ(take(living[0]).records.size(), 20U);
    cluster.server(0).restart();
    EXPECT_TRUE(eventually([&] { return append(dead, records(1)) == PITA_OK; }));
}

// Who reads it learns where the address comes from: it may be one that is of no use here.
TEST(ClusterDeath, AnAddressThatTheClusterAnnouncesIsCalledThat) {
    Cluster cluster(2);
    const std::string told = "redis+cluster://" + cluster.server(1).host_and_port();
    const Session session(told + "?timeout_ms=5000");
    ASSERT_OK(append(cluster.key_at(1), records(1)));
    const std::string dead = cluster.key_at(0);
    cluster.server(0).kill();
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, append(dead, records(1)), "a server that " + told + " announces",
                 cluster.server(0).host_and_port());
}

TEST(ClusterDeath, BehindADeadMasterHoldsUpNobodyElse) {
    Cluster cluster(3);
    const Session session(cluster.url("&timeout_ms=2000&write=behind&queue=1000"));
    const std::string dead = cluster.key_at(0);
    const std::string living = cluster.key_at(1);
    ASSERT_OK(append(dead, records(1)));
    ASSERT_OK(flush());
    ASSERT_EQ(take(dead).records, records(1));
    cluster.server(0).kill();
    for (std::size_t i = 0; i < 500; ++i) {
        ASSERT_OK(store_at(dead, static_cast<std::int64_t>(i), records(1, i)));
        ASSERT_OK(store_at(living, static_cast<std::int64_t>(i), records(1, i)));
    }
    EXPECT_EQ(take(living).records, records(500));
    // One's queue is full, the other's is not.
    ASSERT_OK(append(dead, records(500, 500)));
    EXPECT_STATUS(PITA_ERR_QUEUE_FULL, append(dead, records(1)));
    ASSERT_OK(append(living, records(1000)));
    EXPECT_EQ(take(living).records, records(1000));
    EXPECT_EQ(stats_now().queued, 1000U);
    // A batch of both: the living one's do not wait for room in the dead one's.
    const Logits logits = random_logits(2);
    const char *ids[] = {dead.c_str(), living.c_str()};
    pita_status_t statuses[2] = {};
    pita_batch_t batch = batch_over(logits, 2);
    batch.req_ids = ids;
    batch.statuses = statuses;
    EXPECT_STATUS(PITA_ERR_QUEUE_FULL, pita_store_logits_metrics_batch(&batch));
    EXPECT_EQ(statuses[1], PITA_OK);
    EXPECT_EQ(take(living).records.size(), 1U);
    cluster.server(0).restart();
    ASSERT_OK(flush());
    EXPECT_EQ(take(dead).records, records(1000));
}

// What is queued before anything is known of the cluster goes its ways all the same.
TEST(ClusterDeath, BehindAMasterThatIsDeadFromTheStartHoldsUpNobodyElse) {
    Cluster cluster(3);
    const std::string dead = cluster.key_at(0);
    const std::string living = cluster.key_at(1);
    cluster.server(0).kill();
    const Session session(cluster.url("&timeout_ms=5000&write=behind"));
    for (std::size_t i = 0; i < 100; ++i) {
        ASSERT_OK(store_at(dead, static_cast<std::int64_t>(i), records(1, i)));
        ASSERT_OK(store_at(living, static_cast<std::int64_t>(i), records(1, i)));
    }
    EXPECT_EQ(take(living).records, records(100));
    EXPECT_STATUS(PITA_ERR_UNAVAILABLE, take(dead).status);
    cluster.server(0).restart();
    ASSERT_OK(flush());
    EXPECT_EQ(take(dead).records, records(100));
}

// A batch of many requests on all servers, by their indices.
class Batch {
  public:
    static constexpr std::size_t rows = 60;

    explicit Batch(Cluster &cluster) : logits_(random_logits(rows)), indices_(rows, 0), statuses_(rows) {
        for (std::size_t i = 0; i < rows; ++i) {
            ids_.push_back(cluster.key_at(i % 3, "key" + std::to_string(i) + "-"));
        }
        for (const std::string &id : ids_) {
            pointers_.push_back(id.c_str());
        }
    }

    // Those that are not at `without`, if that is a server.
    pita_status_t store(std::size_t without = 3) {
        std::vector<const char *> pointers = pointers_;
        for (std::size_t i = without; without < 3 && i < rows; i += 3) {
            pointers[i] = nullptr;
        }
        pita_batch_t batch = batch_over(logits_, rows);
        batch.req_ids = pointers.data();
        batch.token_indices = indices_.data();
        batch.statuses = statuses_.data();
        return pita_store_logits_metrics_batch(&batch);
    }

    void expect(std::size_t server, pita_status_t its, pita_status_t of_others) const {
        for (std::size_t i = 0; i < rows; ++i) {
            EXPECT_EQ(statuses_[i], i % 3 == server ? its : of_others);
        }
    }

  private:
    Logits logits_;
    std::vector<std::int64_t> indices_;
    std::vector<pita_status_t> statuses_;
    std::vector<std::string> ids_;
    std::vector<const char *> pointers_;
};

// Nobody else notices that a server is frozen.
const std::vector<std::string> unnoticed = {"--cluster-node-timeout", "60000"};

TEST(ClusterDeath, AFrozenMasterCostsOthersNothing) {
    Cluster cluster(3, 0, unnoticed);
    const Session session(cluster.url("&timeout_ms=1000"));
    Batch batch(cluster);
    ASSERT_OK(batch.store());
    cluster.server(1).freeze();
    EXPECT_STATUS(PITA_ERR_UNCERTAIN, batch.store());
    batch.expect(1, PITA_ERR_UNCERTAIN, PITA_OK);
    // From now on not even its timeout.
    EXPECT_LT(time_of([&] { EXPECT_STATUS(PITA_ERR_UNAVAILABLE, batch.store()); }), milliseconds(900));
    batch.expect(1, PITA_ERR_UNAVAILABLE, PITA_OK);
    cluster.server(1).thaw();
    EXPECT_TRUE(eventually([&] { return batch.store() == PITA_OK; }));
}

// What is known of its clock has to be asked again then, before anything is sent.
TEST(ClusterDeath, AMasterThatIsFrozenWhileNobodyTalksToItCostsOthersNothing) {
    Cluster cluster(3, 0, unnoticed);
    const Session session(cluster.url("&timeout_ms=1000"));
    Batch batch(cluster);
    ASSERT_OK(batch.store());
    std::this_thread::sleep_for(milliseconds(5100));
    for (std::size_t server = 0; server < 3; ++server) {
        cluster.server(server).freeze();
        const pita_status_t status = batch.store();
        EXPECT_TRUE(status == PITA_ERR_TIMEOUT || status == PITA_ERR_UNAVAILABLE) << pita_last_error();
        batch.expect(server, status, PITA_OK);
        cluster.server(server).thaw();
        EXPECT_TRUE(eventually([&] { return batch.store() == PITA_OK; }));
        if (server < 2) {
            std::this_thread::sleep_for(milliseconds(5100));
        }
    }
}

TEST(ClusterDeath, AMasterThatLetsNobodyConnectCostsOthersNothing) {
    Cluster cluster(3, 0, unnoticed);
    const Session session(cluster.url("&timeout_ms=1000"));
    Batch batch(cluster);
    ASSERT_OK(batch.store(1));
    cluster.server(1).freeze();
    const pita_status_t status = batch.store();
    EXPECT_TRUE(status == PITA_ERR_TIMEOUT || status == PITA_ERR_UNAVAILABLE) << pita_last_error();
    batch.expect(1, status, PITA_OK);
    cluster.server(1).thaw();
}

// Two lists at the first server, a record in each.
struct TwoLists {
    explicit TwoLists(Cluster &cluster) : homeless(cluster.key_at(0)), other(cluster.key_at(0, "other")) {
        for (const std::string &id : {homeless, other}) {
            EXPECT_OK(store_at(id, 0, records(1)));
        }
        EXPECT_OK(flush());
    }

    std::string homeless, other;
};

// "DELSLOTS": no server has the list's slot any more; "ADDSLOTS": the first one has it again.
void change_slot(Cluster &cluster, const char *how, const std::string &id) {
    Hiredis(cluster.server(0)).run({"CLUSTER", how, std::to_string(cluster.slot_of(id))});
}

// What can go no way for now is set aside, and what comes behind it.
TEST(ClusterDeath, BehindASlotThatNobodyServesHoldsUpNoOtherKey) {
    Cluster cluster(2);
    const Session session(cluster.url("&timeout_ms=5000&write=behind"));
    const auto [homeless, other] = TwoLists(cluster);
    change_slot(cluster, "DELSLOTS", homeless);
    for (std::size_t i = 1; i < 100; ++i) {
        ASSERT_OK(store_at(homeless, static_cast<std::int64_t>(i), records(1, i)));
        ASSERT_OK(store_at(other, static_cast<std::int64_t>(i), records(1, i)));
    }
    EXPECT_EQ(take(other).records, records(100));
    EXPECT_TRUE(eventually([] { return stats_now().queued == 99; }));
    ASSERT_OK(append(other, records(1)));
    EXPECT_EQ(take(other).records, records(1));
    change_slot(cluster, "ADDSLOTS", homeless);
    ASSERT_OK(flush());
    EXPECT_EQ(take(homeless).records, records(100));
    const pita_stats_t stats = stats_now();
    EXPECT_EQ(stats.stored, 201U);
    EXPECT_EQ(stats.queued, 0U);
}

// Both were set aside; one of them has a server again.
TEST(ClusterDeath, BehindASlotThatIsServedAgainWaitsForNoOther) {
    Cluster cluster(2);
    const Session session(cluster.url("&timeout_ms=10000&write=behind"));
    const auto [homeless, found] = TwoLists(cluster);
    for (const std::string &id : {homeless, found}) {
        change_slot(cluster, "DELSLOTS", id);
        ASSERT_OK(store_at(id, 1, records(1, 1)));
    }
    EXPECT_STATUS(PITA_ERR_TIMEOUT, pita_redis_flush(100));
    ASSERT_OK(store_at(found, 2, records(1, 2)));
    change_slot(cluster, "ADDSLOTS", found);
    EXPECT_EQ(take(found).records, records(3));
    EXPECT_EQ(stats_now().queued, 1U);
    change_slot(cluster, "ADDSLOTS", homeless);
    ASSERT_OK(flush());
    EXPECT_EQ(take(homeless).records, records(2));
}

TEST(ClusterDeath, ACloseWritesWhatIsQueuedBehindASlotThatNobodyServes) {
    Cluster cluster(2, 0, {"--cluster-node-timeout", "60000"});
    const Session session(cluster.url("&timeout_ms=5000&write=behind"));
    const auto [homeless, other] = TwoLists(cluster);
    change_slot(cluster, "DELSLOTS", homeless);
    cluster.server(0).freeze();
    ASSERT_OK(store_at(homeless, 1, records(1, 1)));
    for (std::size_t i = 1; i < 10000; ++i) {
        ASSERT_OK(store_at(other, static_cast<std::int64_t>(i), records(1, i)));
    }
    std::thread close([] { EXPECT_FAILS(PITA_ERR_TIMEOUT, pita_redis_close(), "1 record was given up"); });
    EXPECT_TRUE(eventually([] { return append("late", records(1)) == PITA_ERR_NOT_OPEN; }));
    cluster.server(0).thaw();
    close.join();
    EXPECT_EQ(Hiredis(cluster.server(0)).length(other), 10000);
}

TEST(ClusterMigration, BehindADeadTargetHoldsUpNoOtherKey) {
    Cluster cluster(2);
    const Session session(cluster.url("&timeout_ms=5000&write=behind"));
    const std::string tag = cluster.key_at(0);
    const std::string fresh = "{" + tag + "}new";
    const std::string other = cluster.key_at(0, "other");
    ASSERT_OK(append(other, records(1)));
    ASSERT_OK(flush());
    cluster.begin_migration(cluster.slot_of(tag), 1);
    cluster.server(1).kill();
    for (std::size_t i = 0; i < 100; ++i) {
        ASSERT_OK(store_at(fresh, static_cast<std::int64_t>(i), records(1, i)));
        ASSERT_OK(append(other, records(1, i + 1)));
    }
    EXPECT_EQ(take(other).records, records(101));
    cluster.server(1).restart();
    cluster.end_migration(cluster.slot_of(tag), 1);
    ASSERT_OK(flush());
    EXPECT_EQ(take(fresh).records, records(100));
    EXPECT_EQ(cluster.keys(), 0);
}

TEST(ClusterDeath, AClusterThatIsDownSaysSo) {
    Cluster cluster(3, 0, {"--cluster-require-full-coverage", "yes"});
    Log log;
    const Session session(cluster.url("&timeout_ms=300"));
    const std::string living = cluster.key_at(1);
    ASSERT_OK(append(living, records(1)));
    cluster.server(0).kill();
    EXPECT_TRUE(eventually([&] { return append(living, records(1)) == PITA_ERR_UNAVAILABLE; }));
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, append(living, records(1)), cluster.server(1).host_and_port(), "CLUSTERDOWN");
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, take(living).status, "CLUSTERDOWN");
    // Not each call spends its time on that.
    EXPECT_LT(time_of([&] {
                  for (int round = 0; round < 20; ++round) {
                      EXPECT_STATUS(PITA_ERR_UNAVAILABLE, append(living, records(1)));
                  }
              }),
              milliseconds(3000));
    EXPECT_TRUE(log.has(PITA_LOG_WARNING, "CLUSTERDOWN The cluster is down; it counts as away"));
    cluster.server(0).restart();
    EXPECT_TRUE(eventually([&] { return append(living, records(1)) == PITA_OK; }));
}

TEST(ClusterDeath, BehindAClusterThatIsDownATakeSaysSoAtOnce) {
    Cluster cluster(3, 0, {"--cluster-require-full-coverage", "yes"});
    const Session session(cluster.url("&timeout_ms=300&write=behind"));
    const std::string living = cluster.key_at(1);
    ASSERT_OK(append(living, records(1)));
    ASSERT_OK(flush());
    cluster.server(0).kill();
    EXPECT_TRUE(eventually([&] {
        return Hiredis(cluster.server(1)).run({"CLUSTER", "INFO"}).text.find("cluster_state:fail") != std::string::npos;
    }));
    EXPECT_OK(append(living, records(1, 1)));
    // The thread that writes tries for a while, as calls do.
    std::size_t count = 0;
    EXPECT_TRUE(eventually([&] {
        return pita_take_metrics(living.c_str(), nullptr, 0, &count) == PITA_ERR_UNAVAILABLE;
    }));
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, take(living).status, "CLUSTERDOWN");
    EXPECT_EQ(stats_now().queued, 1U);
    cluster.server(0).restart();
    ASSERT_OK(flush());
    EXPECT_EQ(take(living).records, records(2));
}

} // namespace
