// write=behind while the server is frozen, killed and started again: nothing that was accepted is lost, doubled or out of
// order, and the counters add up.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "pita_redis.h"
#include "support/behind.hpp"

using namespace support;

namespace {

constexpr std::size_t producers = 8;
constexpr std::size_t lists_each = 4;

// Threads that store the tokens of requests of their own, as fast as they may, until they are stopped. What was refused
// because the queue was full is stored again.
class Producers {
  public:
    enum class Kind { Indexed, Appended };

    explicit Producers(Kind kind) : kind_(kind) {
        for (std::size_t i = 0; i < producers; ++i) {
            threads_.emplace_back([this, i] { run(i); });
        }
    }
    ~Producers() { stop(); }
    Producers(const Producers &) = delete;
    Producers &operator=(const Producers &) = delete;

    void stop() {
        is_done_ = true;
        for (std::thread &thread : threads_) {
            thread.join();
        }
        threads_.clear();
    }

    static std::string id(std::size_t producer, std::size_t list) {
        return "request-" + std::to_string(producer) + "-" + std::to_string(list);
    }

    // Records accepted for a list.
    std::size_t accepted(std::size_t producer, std::size_t list) const { return accepted_[producer][list]; }
    std::size_t accepted() const {
        std::size_t sum = 0;
        for (const auto &lists : accepted_) {
            for (const std::atomic<std::size_t> &count : lists) {
                sum += count;
            }
        }
        return sum;
    }
    std::size_t refused() const { return refused_; }

  private:
    void run(std::size_t producer) {
        std::mt19937 random(static_cast<unsigned>(producer));
        while (!is_done_) {
            const std::size_t list = random() % lists_each;
            const std::size_t count = 1 + random() % 3;
            std::atomic<std::size_t> &next = accepted_[producer][list];
            const std::int64_t index = kind_ == Kind::Indexed ? static_cast<std::int64_t>(next) : -1;
            const pita_status_t status = store_at(id(producer, list), index, records(count, next));
            if (status == PITA_OK) {
                next += count;
            } else {
                EXPECT_STATUS(PITA_ERR_QUEUE_FULL, status);
                ++refused_;
                std::this_thread::yield();
            }
            if (random() % 8 == 0) {
                std::this_thread::sleep_for(std::chrono::microseconds(random() % 200));
            }
        }
    }

    const Kind kind_;
    std::atomic<bool> is_done_{false};
    std::array<std::array<std::atomic<std::size_t>, lists_each>, producers> accepted_{};
    std::atomic<std::size_t> refused_{0};
    std::vector<std::thread> threads_;
};

class BehindFaults : public testing::Test {
  protected:
    BehindFaults()
        : server({"--appendonly", "yes", "--appendfsync", "always"}),
          session("redis://" + server.host_and_port() +
                  "?write=behind&queue=2000&timeout_ms=200&connect_timeout_ms=200") {
        EXPECT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
    }

    void pause(std::size_t most_ms) { std::this_thread::sleep_for(milliseconds(random() % most_ms)); }

    void expect_all_stored(const Producers &all) {
        Hiredis redis(server);
        for (std::size_t producer = 0; producer < producers; ++producer) {
            for (std::size_t list = 0; list < lists_each; ++list) {
                const std::string id = Producers::id(producer, list);
                EXPECT_TRUE(stored(redis, id) == records(all.accepted(producer, list))) << id;
            }
        }
    }

    static void expect_sum(std::uint64_t accepted) {
        const pita_stats_t stats = stats_now();
        EXPECT_EQ(stats.stored + stats.refused + stats.uncertain + stats.queued, accepted);
    }

    RedisServer server;
    Session session;
    const unsigned seed = std::random_device()();
    std::mt19937 random{seed};
    const testing::ScopedTrace trace{__FILE__, __LINE__, "seed " + std::to_string(seed)};
};

TEST_F(BehindFaults, AServerThatIsKilledAndStartedAgainLosesAndDoublesNothingThatIsIndexed) {
    Producers all(Producers::Kind::Indexed);
    for (int round = 0; round < 8; ++round) {
        pause(100);
        server.kill();
        pause(100);
        server.restart();
    }
    all.stop();
    ASSERT_OK(flush());
    expect_all_stored(all);
    const pita_stats_t stats = stats_now();
    EXPECT_EQ(stats.indexed, all.accepted());
    EXPECT_GT(stats.reconnects, 0U);
    std::printf("killed 8 times: %zu records accepted, %llu retried, %zu calls refused, all stored once and in order\n",
                all.accepted(), static_cast<unsigned long long>(stats.retried), all.refused());
}

TEST_F(BehindFaults, AServerThatFreezesLosesAndDoublesNothingThatIsIndexed) {
    Producers all(Producers::Kind::Indexed);
    for (int round = 0; round < 5; ++round) {
        pause(100);
        server.freeze();
        // Longer and shorter than a call may take.
        pause(500);
        server.thaw();
    }
    // Longer than the writer waits for an answer.
    server.freeze();
    std::this_thread::sleep_for(milliseconds(1500));
    server.thaw();
    all.stop();
    ASSERT_OK(flush());
    expect_all_stored(all);
    EXPECT_EQ(stats_now().indexed, all.accepted());
}

// While Redis is away the queue fills, callers are refused, and memory does not grow.
TEST_F(BehindFaults, AFullQueueIsLeftWhenTheServerIsBack) {
    Producers all(Producers::Kind::Indexed);
    ASSERT_TRUE(eventually([&] { return all.accepted() > 5000; }));
    server.kill();
    ASSERT_TRUE(eventually([&] { return all.refused() > 100; }));
    EXPECT_LE(stats_now().queued, 2000U);
    EXPECT_GT(stats_now().queued_max, 1990U);
    const std::size_t before = all.accepted();
    server.restart();
    EXPECT_TRUE(eventually([&] { return all.accepted() > before + 5000; }));
    all.stop();
    ASSERT_OK(flush());
    expect_all_stored(all);
}

// Of appends those whose answer was lost are counted, and the others stored once and in order.
TEST_F(BehindFaults, OfAppendsOnlyThoseInDoubtAreLost) {
    Producers all(Producers::Kind::Appended);
    for (int round = 0; round < 5; ++round) {
        pause(100);
        server.kill();
        pause(100);
        server.restart();
    }
    all.stop();
    const pita_status_t status = flush();
    EXPECT_TRUE(status == PITA_OK || status == PITA_ERR_UNCERTAIN) << shown(status);
    const pita_stats_t stats = stats_now();
    EXPECT_EQ(stats.stored + stats.uncertain, all.accepted());
    EXPECT_EQ(status == PITA_OK, stats.uncertain == 0);
    Hiredis redis(server);
    std::size_t found = 0;
    for (std::size_t producer = 0; producer < producers; ++producer) {
        for (std::size_t list = 0; list < lists_each; ++list) {
            const Records there = stored(redis, Producers::id(producer, list));
            found += there.size();
            for (std::size_t i = 1; i < there.size(); ++i) {
                ASSERT_LT(there[i - 1].log_norm, there[i].log_norm) << "in order, and none twice";
            }
        }
    }
    EXPECT_GE(found, stats.stored);
    EXPECT_LE(found, stats.stored + stats.uncertain);
}

// At every pause of a random run: stored + refused + uncertain + queued = accepted.
TEST_F(BehindFaults, TheCountersAddUpAtAnyTime) {
    Hiredis redis(server);
    redis.run({"SET", "foreign", "mine"});
    std::size_t accepted = 0;
    std::size_t next = 0;
    bool is_frozen = false;
    for (int round = 0; round < 300; ++round) {
        for (std::size_t calls = random() % 20; calls > 0; --calls) {
            const std::size_t count = 1 + random() % 5;
            pita_status_t status = PITA_OK;
            switch (random() % 4) {
            case 0:
                status = append("a", records(count));
                break;
            case 1:
                status = append("foreign", records(count));
                break;
            case 2:
                status = store_at("gap", 1000000, records(count));
                break;
            default:
                status = store_at("indexed", static_cast<std::int64_t>(next), records(count));
                next += status == PITA_OK ? count : 0;
            }
            ASSERT_TRUE(status == PITA_OK || status == PITA_ERR_QUEUE_FULL) << shown(status);
            accepted += status == PITA_OK ? count : 0;
        }
        expect_sum(accepted);
        if (!is_frozen && random() % 10 == 0) {
            server.freeze();
            is_frozen = true;
        } else if (is_frozen && random() % 4 == 0) {
            server.thaw();
            is_frozen = false;
        } else if (!is_frozen && random() % 40 == 0) {
            server.kill();
            expect_sum(accepted);
            server.restart();
        }
        pause(3);
        expect_sum(accepted);
    }
    if (is_frozen) {
        server.thaw();
    }
    (void)flush();
    const pita_stats_t stats = stats_now();
    EXPECT_EQ(stats.queued, 0U);
    EXPECT_EQ(stats.stored + stats.refused + stats.uncertain, accepted);
    EXPECT_EQ(stats.appended + stats.indexed, stats.stored);
}

} // namespace
