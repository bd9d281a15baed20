// Redis Cluster: each key is stored at, and taken from, the server that has its slot.

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support/behind.hpp"
#include "support/certificates.hpp"
#include "support/child.hpp"
#include "support/cluster.hpp"
#include "support/log.hpp"
#include "support/logits.hpp"

using namespace support;

namespace {

// One for the tests that leave it as it was.
Cluster &shared_cluster() {
    static Cluster cluster(3);
    return cluster;
}

const std::string patient = "&timeout_ms=60000";

std::string id_of(std::size_t number) {
    return "request-" + std::to_string(number);
}

class ClusterTest : public testing::Test {
  protected:
    ClusterTest() : cluster(shared_cluster()) {
        for (std::size_t i = 0; i < cluster.size(); ++i) {
            Hiredis(cluster.server(i)).run({"FLUSHALL"});
        }
    }

    Cluster &cluster;
};

TEST_F(ClusterTest, StoresAndTakesOnAllServers) {
    const Session session(cluster.url(patient));
    ASSERT_OK(pita_redis_ping());
    constexpr std::size_t requests = 100;
    for (std::size_t i = 0; i < requests; ++i) {
        ASSERT_OK(append(id_of(i), records(2, i)));
        ASSERT_OK(store_at(id_of(i), 2, records(1, i + 2)));
    }
    EXPECT_EQ(cluster.keys(), static_cast<long long>(requests));
    for (std::size_t i = 0; i < cluster.size(); ++i) {
        EXPECT_GT(Hiredis(cluster.server(i)).keys(), 0);
    }
    for (std::size_t i = 0; i < requests; ++i) {
        std::size_t count = 0;
        ASSERT_OK(pita_count_metrics(id_of(i).c_str(), &count));
        EXPECT_EQ(count, 3U);
        EXPECT_EQ(take(id_of(i)).records, records(3, i));
    }
    ASSERT_OK(append("a", records(1)));
    ASSERT_OK(pita_discard_metrics("a"));
    EXPECT_EQ(cluster.keys(), 0);
    EXPECT_EQ(stats_now().retried, 0U);
}

TEST_F(ClusterTest, ABatchGoesToAllServers) {
    const Session session(cluster.url(patient));
    constexpr std::size_t rows = 64;
    const Logits logits = random_logits(rows * 16);
    std::vector<std::string> ids;
    std::vector<const char *> pointers;
    for (std::size_t i = 0; i < rows; ++i) {
        ids.push_back(id_of(i));
    }
    std::transform(ids.begin(), ids.end(), std::back_inserter(pointers), [](const auto &id) { return id.c_str(); });
    const std::vector<std::int64_t> first(rows, 0);
    const std::vector<std::int64_t> second(rows, 1);
    Records expected(rows);
    pita_batch_t batch = batch_over(logits, rows);
    ASSERT_OK(pita_compute_logits_metrics(&batch, expected.data()));
    batch.req_ids = pointers.data();
    for (const std::int64_t *indices : {first.data(), second.data(), static_cast<const std::int64_t *>(nullptr)}) {
        batch.token_indices = indices;
        ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    }
    for (std::size_t i = 0; i < rows; ++i) {
        EXPECT_EQ(take(ids[i]).records, Records(3, expected[i]));
    }
}

TEST_F(ClusterTest, AnEntryThatIsRefusedStopsNoOther) {
    const Session session(cluster.url(patient));
    const std::string wrong = cluster.key_at(1);
    Hiredis(cluster.server(1)).run({"SET", wrong, "no list"});
    const std::string good = cluster.key_at(2);
    const std::string past = cluster.key_at(0);
    const char *ids[] = {wrong.c_str(), past.c_str(), good.c_str()};
    const std::int64_t indices[] = {0, 7, 0};
    pita_status_t statuses[3] = {};
    const Logits logits = random_logits(3);
    pita_batch_t batch = batch_over(logits, 3);
    batch.req_ids = ids;
    batch.token_indices = indices;
    batch.statuses = statuses;
    EXPECT_FAILS(PITA_ERR_REDIS, pita_store_logits_metrics_batch(&batch), "WRONGTYPE");
    EXPECT_EQ(std::vector<pita_status_t>(statuses, statuses + 3),
              (std::vector<pita_status_t>{PITA_ERR_REDIS, PITA_ERR_GAP, PITA_OK}));
}

// Entries of one request are at one server, and must not overtake each other.
TEST_F(ClusterTest, ARequestThatIsInABatchSeveralTimesKeepsItsOrder) {
    const Session session(cluster.url(patient));
    const Logits logits = {1, 2, 3, 4, 5, 6, 7, 8};
    const char *ids[] = {"a", "b", "a", "c", "a", "b", "a", "a"};
    Records expected(8);
    pita_batch_t batch = batch_over(logits, 8);
    ASSERT_OK(pita_compute_logits_metrics(&batch, expected.data()));
    batch.req_ids = ids;
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    EXPECT_EQ(take("a").records, (Records{expected[0], expected[2], expected[4], expected[6], expected[7]}));
    EXPECT_EQ(take("b").records, (Records{expected[1], expected[5]}));
}

TEST_F(ClusterTest, AnyIdCanBeTaken) {
    const Session session(cluster.url(patient + "&prefix=p:"));
    for (const char *id : {"plain", "a}b", "{}", "x{y", "{tag}:1", "}{", "a{b}c}d"}) {
        ASSERT_OK(append(id, records(2)));
        EXPECT_EQ(take(id).records, records(2)) << id;
    }
    EXPECT_EQ(cluster.keys(), 0);
}

TEST_F(ClusterTest, OneServerThatIsThereIsEnoughToFindTheOthers) {
    const Session session("redis+cluster://127.0.0.1:1," + cluster.server(1).host_and_port() + "?timeout_ms=60000");
    for (std::size_t i = 0; i < cluster.size(); ++i) {
        ASSERT_OK(append(cluster.key_at(i), records(1)));
    }
    EXPECT_EQ(cluster.keys(), 3);
}

TEST_F(ClusterTest, WithoutAServerCallsFailAtOnce) {
    const Session session("redis+cluster://127.0.0.1:1,127.0.0.1:2?timeout_ms=60000");
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, append("a", records(1)), "redis+cluster://127.0.0.1:1,127.0.0.1:2",
                 "server 127.0.0.1:1", "refused");
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, append("a", records(1)), "away for");
    std::size_t count = 0;
    EXPECT_STATUS(PITA_ERR_UNAVAILABLE, pita_take_metrics("a", nullptr, 0, &count));
    EXPECT_STATUS(PITA_ERR_UNAVAILABLE, pita_redis_ping());
}

TEST_F(ClusterTest, AServerOfNoClusterIsRefused) {
    const Session session("redis+cluster://" + shared_server().host_and_port());
    EXPECT_FAILS(PITA_ERR_REDIS, append("a", records(1)), "cluster support disabled", "redis://");
}

// Nobody hears of that but by the log.
TEST_F(ClusterTest, BehindWhatKeepsRecordsFromBeingWrittenIsLogged) {
    Log log;
    const std::pair<std::string, std::string> cases[] = {
        {"127.0.0.1:1", "refused"},
        {shared_server().host_and_port(), "cluster support disabled"},
    };
    for (const auto &[server, reason] : cases) {
        const Session session("redis+cluster://" + server + "?write=behind&timeout_ms=100");
        EXPECT_OK(append("a", records(1)));
        // After earlier ones, in another test, some lines are left out.
        EXPECT_TRUE(eventually([&, &reason = reason] { return log.has(PITA_LOG_WARNING, reason); })) << reason;
    }
}

TEST_F(ClusterTest, BehindWithoutAServerATakeFailsAtOnce) {
    const Session session("redis+cluster://127.0.0.1:1?write=behind&timeout_ms=3000");
    EXPECT_OK(append("a", records(1)));
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, take("a").status, "refused");
}

TEST_F(ClusterTest, AUrlOfOneServerIsRefusedByAnother) {
    const std::string elsewhere = cluster.key_at(1);
    const Session session("redis://" + cluster.server(0).host_and_port());
    EXPECT_FAILS(PITA_ERR_REDIS, append(elsewhere, records(1)), "MOVED", "redis+cluster://");
    EXPECT_FAILS(PITA_ERR_REDIS, store_at(elsewhere, 0, records(1)), "MOVED", "redis+cluster://");
}

TEST_F(ClusterTest, BehindKeepsTheOrderOfEachRequest) {
    const Session session(cluster.url(patient + "&write=behind"));
    constexpr std::size_t requests = 60;
    constexpr std::size_t tokens = 100;
    for (std::size_t token = 0; token < tokens; ++token) {
        for (std::size_t i = 0; i < requests; ++i) {
            // Some by their index, some appended.
            const auto index = i % 2 == 0 ? static_cast<std::int64_t>(token) : -1;
            ASSERT_OK(store_at(id_of(i), index, records(1, i + token)));
        }
    }
    for (std::size_t i = 0; i < requests; ++i) {
        EXPECT_EQ(take(id_of(i)).records, records(tokens, i));
    }
    ASSERT_OK(flush());
    const pita_stats_t stats = stats_now();
    EXPECT_EQ(stats.stored, requests * tokens);
    EXPECT_EQ(stats.queued, 0U);
    EXPECT_GT(stats.queued_max, 0U);
    EXPECT_EQ(cluster.keys(), 0);
}

TEST_F(ClusterTest, BehindWritesWhatIsQueuedBeforeItIsClosed) {
    {
        const Session session(cluster.url(patient + "&write=behind"));
        for (std::size_t i = 0; i < 1000; ++i) {
            ASSERT_OK(append(id_of(i), records(1)));
        }
        ASSERT_OK(pita_redis_close());
    }
    EXPECT_EQ(cluster.keys(), 1000);
}

TEST_F(ClusterTest, ThreadsShareThePool) {
    const Session session(cluster.url(patient + "&pool_size=2"));
    std::vector<std::thread> threads;
    for (std::size_t thread = 0; thread < 8; ++thread) {
        threads.emplace_back([thread] {
            const std::string own = std::to_string(thread) + "-";
            for (std::size_t round = 0; round < 30; ++round) {
                const Logits logits = random_logits(12);
                std::vector<std::string> ids;
                std::vector<const char *> pointers;
                for (std::size_t i = 0; i < 12; ++i) {
                    ids.push_back(own + id_of(i));
                }
                for (const std::string &id : ids) {
                    pointers.push_back(id.c_str());
                }
                pita_batch_t batch = batch_over(logits, 12);
                batch.req_ids = pointers.data();
                ASSERT_OK(pita_store_logits_metrics_batch(&batch));
            }
            for (std::size_t i = 0; i < 12; ++i) {
                EXPECT_EQ(take(own + id_of(i)).records.size(), 30U);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_LE(stats_now().connections, 2U * 3U);
}

// Of a name by which memcheck knows tests that fork.
class ForkInACluster : public ClusterTest {};

TEST_F(ForkInACluster, AChildHasConnectionsOfItsOwn) {
    for (const std::string write : {"sync", "behind"}) {
        const Session session(cluster.url(patient + "&write=" + write));
        const auto store_and_take = [&](const std::string &own) {
            for (std::size_t i = 0; i < 20; ++i) {
                ASSERT_OK(append(own + id_of(i), records(2)));
                ASSERT_EQ(take(own + id_of(i)).records, records(2));
            }
        };
        store_and_take("before-");
        Child child([&] {
            store_and_take("child-");
            ASSERT_OK(pita_redis_close());
        });
        store_and_take("parent-");
        EXPECT_TRUE(child.succeeded());
        store_and_take("after-");
    }
    EXPECT_EQ(cluster.keys(), 0);
}

TEST_F(ClusterTest, LogsInToEachServer) {
    for (std::size_t i = 0; i < cluster.size(); ++i) {
        Hiredis(cluster.server(i)).run({"ACL", "SETUSER", "engine", "on", ">secret", "~*", "+@all"});
    }
    const auto url_with = [&](const std::string &login) {
        return std::string(cluster.url(patient)).insert(std::string("redis+cluster://").size(), login + "@");
    };
    {
        const Session session(url_with("engine:secret"));
        for (std::size_t i = 0; i < cluster.size(); ++i) {
            ASSERT_OK(append(cluster.key_at(i), records(1)));
        }
    }
    const Session session(url_with("engine:wrong"));
    EXPECT_FAILS(PITA_ERR_AUTH, append("a", records(1)), "WRONGPASS");
    EXPECT_EQ(std::string(pita_last_error()).find("wrong@"), std::string::npos);
}

TEST(ClusterTls, EncryptsTheWayToEachServer) {
    const Authority authority;
    const Certificate certificate = authority.sign("IP:127.0.0.1");
    Cluster cluster(3, 0,
                    {"--tls-cert-file", certificate.certificate, "--tls-key-file", certificate.key, "--tls-ca-cert-file",
                     authority.file(), "--tls-auth-clients", "no"},
                    RedisServer::Port::tls);
    {
        const Session session(cluster.url(patient + "&tls_ca=" + authority.file()));
        for (std::size_t i = 0; i < cluster.size(); ++i) {
            ASSERT_OK(append(cluster.key_at(i), records(2)));
            EXPECT_EQ(take(cluster.key_at(i)).records, records(2));
        }
    }
    const Authority other;
    const Session session(cluster.url(patient + "&tls_ca=" + other.file()));
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, pita_redis_ping(), "TLS");
}

} // namespace
