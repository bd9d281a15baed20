// A forked child uses the pool with connections of its own.

#include <gtest/gtest.h>
#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "pita_redis.h"
#include "support/behind.hpp"
#include "support/child.hpp"
#include "support/eventually.hpp"
#include "support/processes.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

void store_and_take_once(const std::string &id) {
    ASSERT_OK(append(id, records(2)));
    ASSERT_OK(store_at(id, 2, records(1, 2)));
    ASSERT_EQ(take(id).records, records(3));
}

class Fork : public SessionTest {
  protected:
    static void store_and_take(const std::string &id) {
        for (std::size_t round = 0; round < 50 && !HasFatalFailure(); ++round) {
            store_and_take_once(id);
        }
    }

    static std::uint64_t connections() {
        pita_stats_t stats = {};
        stats.struct_size = sizeof stats;
        EXPECT_OK(pita_redis_stats(&stats));
        return stats.connections;
    }
};

TEST_F(Fork, LeavesParentAndChildEachWithAPoolThatWorks) {
    store_and_take("before");
    Child child([] { store_and_take("child"); });
    store_and_take("parent");
    EXPECT_TRUE(child.succeeded());
    store_and_take("after");
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(Fork, LeavesTheParentItsConnections) {
    ASSERT_OK(pita_redis_ping());
    const std::uint64_t before = connections();
    Child child([] {
        ASSERT_OK(pita_redis_ping());
        ASSERT_OK(pita_redis_close());
    });
    ASSERT_TRUE(child.succeeded());
    ASSERT_OK(pita_redis_ping());
    EXPECT_EQ(connections(), before);
}

TEST_F(Fork, BeforeTheFirstCallIsFine) {
    Child child([] { store_and_take("child"); });
    store_and_take("parent");
    EXPECT_TRUE(child.succeeded());
}

TEST_F(Fork, LeavesAChildThatCanTakeWhatTheParentStores) {
    ASSERT_OK(pita_redis_ping());
    Child child([] {
        Records out(3);
        std::size_t count = 0;
        EXPECT_OK(pita_take_metrics_wait("a", 3, static_cast<std::uint32_t>(patience.count()), out.data(), 3, &count));
        EXPECT_EQ(out, records(3));
    });
    for (std::size_t i = 0; i < 3; ++i) {
        ASSERT_OK(append("a", records(1, i)));
    }
    EXPECT_TRUE(child.succeeded());
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(Fork, WorksForAChildsChild) {
    ASSERT_OK(pita_redis_ping());
    Child child([] {
        store_and_take("child");
        Child grandchild([] { store_and_take("grandchild"); });
        store_and_take("child");
        EXPECT_TRUE(grandchild.succeeded());
    });
    store_and_take("parent");
    EXPECT_TRUE(child.succeeded());
}

TEST_F(Fork, LetsTheChildOpenAPoolOfItsOwn) {
    ASSERT_OK(pita_redis_ping());
    const std::string other = server.url("&prefix=child:");
    Child child([&] {
        ASSERT_OK(pita_redis_close());
        ASSERT_OK(pita_redis_open(other.c_str()));
        ASSERT_OK(append("a", records(1)));
    });
    EXPECT_TRUE(child.succeeded());
    EXPECT_EQ(redis.length("child:a"), 1);
    EXPECT_OK(pita_redis_ping());
}

// Whatever locks those threads hold at that moment stay locked in the child.
TEST_F(Fork, WhileOtherThreadsStoreDoesNotHangTheChild) {
    std::atomic<bool> done{false};
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < 3; ++i) {
        threads.emplace_back([&, i] {
            while (!done) {
                EXPECT_OK(append("thread " + std::to_string(i), records(1)));
            }
        });
    }
    for (int i = 0; i < 100; ++i) {
        Child child([] {
            ASSERT_OK(append("child", records(1)));
            ASSERT_OK(pita_redis_close());
        });
        const testing::AssertionResult result = child.succeeded();
        EXPECT_TRUE(result) << "fork " << i;
        if (!result) {
            break;
        }
    }
    done = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(redis.length("child"), 100);
}

// --- what is inherited -----------------------------------------------------------------------------------------------

TEST_F(Fork, LeavesTheChildNoSocketToTheServer) {
    // Several connections at once.
    std::vector<std::thread> threads;
    redis.run({"CLIENT", "PAUSE", "3600000", "WRITE"});
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([] { EXPECT_OK(append("a", records(1))); });
    }
    EXPECT_TRUE(eventually([&] { return redis.info("blocked_clients") == 4; }));
    redis.run({"CLIENT", "UNPAUSE"});
    for (std::thread &thread : threads) {
        thread.join();
    }
    ASSERT_EQ(sockets_to(server.port()), 4);
    Child child([&] {
        EXPECT_EQ(sockets_to(server.port()), 0);
        EXPECT_OK(pita_redis_ping());
        EXPECT_EQ(sockets_to(server.port()), 1) << "its own";
    });
    EXPECT_TRUE(child.succeeded());
    EXPECT_EQ(sockets_to(server.port()), 4);
    store_and_take("b");
    EXPECT_EQ(connections(), 4U);
}

// Sockets that are in use, or being made, at that moment.
TEST_F(Fork, LeavesTheChildNoSocketToTheServerWhileOtherThreadsCall) {
    std::atomic<bool> done{false};
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < 4; ++i) {
        threads.emplace_back([&, i] {
            while (!done) {
                const pita_status_t status = append("thread " + std::to_string(i), records(1));
                EXPECT_TRUE(status == PITA_OK || status == PITA_ERR_NOT_OPEN) << shown(status);
                // Closes the pool of them all, so that connections are made anew.
                if (i == 0) {
                    EXPECT_OK(pita_redis_close());
                    EXPECT_OK(pita_redis_open(server.url().c_str()));
                }
            }
        });
    }
    for (int i = 0; i < 20; ++i) {
        Child child([&] { EXPECT_EQ(sockets_to(server.port()), 0); });
        EXPECT_TRUE(child.succeeded()) << i;
    }
    done = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
}

// The pool is opened, and in use, when the child is made by a fork that began before the library did anything.
TEST(ForkUnderWay, LeavesTheChildConnectionsOfItsOwn) {
    static const RedisServer &server = shared_server();
    static bool is_first = true;
    pthread_atfork(
        [] {
            if (std::exchange(is_first, false)) {
                EXPECT_OK(pita_redis_open(server.url().c_str()));
                EXPECT_OK(pita_redis_ping());
            }
        },
        nullptr, nullptr);
    Child child([] { store_and_take_once("child"); });
    EXPECT_TRUE(child.succeeded());
    store_and_take_once("parent");
    // A second fork, by now with the library's handlers.
    Child other([] { EXPECT_EQ(sockets_to(server.port()), 0); });
    EXPECT_TRUE(other.succeeded());
    EXPECT_OK(pita_redis_close());
}

// A descriptor that the program has made since, under a number that was the pool's, is not the pool's to close.
TEST_F(Fork, LeavesTheChildsOwnDescriptorsAlone) {
    ASSERT_OK(pita_redis_ping());
    Child child([&] {
        std::vector<int> own;
        for (int i = 0; i < 20; ++i) {
            own.push_back(dup(STDIN_FILENO));
        }
        EXPECT_OK(pita_redis_ping());
        EXPECT_OK(pita_redis_close());
        EXPECT_OK(pita_redis_open(server.url().c_str()));
        EXPECT_OK(pita_redis_ping());
        for (const int descriptor : own) {
            EXPECT_EQ(close(descriptor), 0) << descriptor;
        }
    });
    EXPECT_TRUE(child.succeeded());
}

// --- a storm ---------------------------------------------------------------------------------------------------------

// Half of the children end by exit(), which destroys what they have inherited.
void end_by_exit(int number) {
    if (number % 2 == 0) {
        std::exit(testing::Test::HasFailure() ? 1 : 0);
    }
}

TEST_F(Fork, InAStormOfCallsLosesNothingAndHangsNobody) {
    std::atomic<bool> done{false};
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < 8; ++i) {
        threads.emplace_back([&, i] {
            const std::string id = "thread " + std::to_string(i);
            while (!done && !testing::Test::HasFatalFailure()) {
                store_and_take_once(id);
            }
        });
    }
    constexpr int waves = 25;
    constexpr int children_of_a_wave = 8;
    for (int wave = 0; wave < waves && !HasFailure(); ++wave) {
        std::vector<std::unique_ptr<Child>> children;
        for (int i = 0; i < children_of_a_wave; ++i) {
            children.push_back(std::make_unique<Child>([&, i] {
                store_and_take_once("child " + std::to_string(i));
                end_by_exit(i);
            }));
        }
        for (const auto &child : children) {
            EXPECT_TRUE(child->succeeded()) << "wave " << wave;
        }
    }
    done = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(redis.keys(), 0);
}

// --- within the log callback -----------------------------------------------------------------------------------------

// Calls `act` with the first line that has `word` in it, on whatever thread that comes.
class FirstLine {
  public:
    FirstLine(std::string word, std::function<void()> act) : word_(std::move(word)), act_(std::move(act)) {
        pita_set_log_callback(
            [](int, const char *line, void *user) { static_cast<FirstLine *>(user)->got(line); }, this);
    }
    ~FirstLine() { pita_set_log_callback(nullptr, nullptr); }
    FirstLine(const FirstLine &) = delete;
    FirstLine &operator=(const FirstLine &) = delete;

    bool came() const { return came_; }

  private:
    void got(const std::string &line) {
        if (line.find(word_) != std::string::npos && !started_.exchange(true)) {
            act_();
            came_ = true;
        }
    }

    std::string word_;
    std::function<void()> act_;
    std::atomic<bool> started_{false};
    std::atomic<bool> came_{false};
};

void fork_a_child_that_works() {
    Child child([] { store_and_take_once("child"); });
    EXPECT_TRUE(child.succeeded());
}

class ForkInLog : public SharedServerTest {
  protected:
    ~ForkInLog() override { pita_redis_close(); }
};

TEST_F(ForkInLog, OfOpenIsFine) {
    const FirstLine line("open: ", fork_a_child_that_works);
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    EXPECT_TRUE(line.came());
    store_and_take_once("parent");
}

TEST_F(ForkInLog, OfANewConnectionIsFine) {
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    const FirstLine line("connected to ", fork_a_child_that_works);
    store_and_take_once("parent");
    EXPECT_TRUE(line.came());
    store_and_take_once("parent");
}

TEST_F(ForkInLog, OfARefusedStoreIsFine) {
    redis.run({"SET", "text", "text"});
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    const FirstLine line("WRONGTYPE", fork_a_child_that_works);
    EXPECT_STATUS(PITA_ERR_REDIS, append("text", records(1)));
    EXPECT_TRUE(line.came());
    store_and_take_once("parent");
}

// On the thread that has looked for Redis.
TEST_F(ForkInLog, OfAServerThatIsBackIsFine) {
    RedisServer own;
    ASSERT_OK(pita_redis_open(own.url().c_str()));
    own.kill();
    EXPECT_STATUS(PITA_ERR_UNAVAILABLE, pita_redis_ping());
    const FirstLine line(" is back ", fork_a_child_that_works);
    own.restart();
    EXPECT_TRUE(eventually([&] { return line.came(); }));
    store_and_take_once("parent");
}

// The child comes back from the callback as the parent does, into the same call, and goes on.
TEST_F(ForkInLog, MayBeGoneOnFromByTheChild) {
    ASSERT_OK(pita_redis_open(server.url().c_str()));
    const pid_t parent = getpid();
    pid_t child = -1;
    const FirstLine line("connected to ", [&] { child = fork(); });
    EXPECT_OK(pita_redis_ping());
    store_and_take_once(getpid() == parent ? "parent" : "child");
    if (getpid() != parent) {
        _exit(HasFailure() ? 1 : 0);
    }
    ASSERT_GT(child, 0);
    int status = 0;
    EXPECT_TRUE(eventually([&] { return waitpid(child, &status, WNOHANG) != 0; })) << "the child hangs";
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    store_and_take_once("parent");
}

// --- write-behind ----------------------------------------------------------------------------------------------------

class ForkBehind : public BehindTest {};

TEST_F(ForkBehind, TheChildSendsNothingOfItsParentsQueue) {
    open(server.url("&write=behind&queue=100"));
    hold();
    for (std::size_t i = 0; i < 100; ++i) {
        ASSERT_OK(append("parent", records(1, i)));
    }
    ASSERT_EQ(queued(), 100U);
    Child child([] {
        EXPECT_EQ(queued(), 0U);
        EXPECT_OK(pita_redis_flush(0)) << "nothing is queued here";
        EXPECT_OK(append("child", records(3)));
        EXPECT_EQ(queued(), 3U);
        EXPECT_OK(flush());
        EXPECT_OK(pita_redis_close());
    });
    EXPECT_TRUE(eventually([&] { return redis.info("blocked_clients") == 2; })) << "the parent's writer, and the child's";
    release();
    EXPECT_TRUE(child.succeeded());
    ASSERT_OK(flush());
    EXPECT_EQ(stored(redis, "parent"), records(100));
    EXPECT_EQ(stored(redis, "child"), records(3));
}

TEST_F(ForkBehind, WhileThreadsStoreGivesTheChildAQueueThatWorks) {
    std::atomic<bool> done{false};
    std::vector<std::thread> threads;
    std::array<std::size_t, 3> stored_by{};
    for (std::size_t i = 0; i < stored_by.size(); ++i) {
        threads.emplace_back([&, i] {
            for (; !done; ++stored_by[i]) {
                EXPECT_OK(store_at("thread " + std::to_string(i), static_cast<std::int64_t>(stored_by[i]),
                                   records(1, stored_by[i])));
            }
        });
    }
    for (int round = 0; round < 20; ++round) {
        Child child([&] {
            const std::string id = "child " + std::to_string(round);
            EXPECT_OK(append(id, records(2)));
            EXPECT_EQ(take(id).records, records(2));
            EXPECT_OK(pita_redis_close());
        });
        EXPECT_TRUE(child.succeeded());
    }
    done = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
    ASSERT_OK(flush());
    for (std::size_t i = 0; i < stored_by.size(); ++i) {
        EXPECT_EQ(stored(redis, "thread " + std::to_string(i)), records(stored_by[i]));
    }
    EXPECT_EQ(redis.keys(), static_cast<long long>(stored_by.size()));
}

TEST_F(ForkBehind, AChildThatEndsSaysNothingAndLosesTheParentNothing) {
    ASSERT_OK(append("parent", records(1)));
    Child child([] { EXPECT_OK(append("child", records(1))); });
    EXPECT_TRUE(child.succeeded());
    ASSERT_OK(append("parent", records(1, 1)));
    ASSERT_OK(flush());
    EXPECT_EQ(stored(redis, "parent"), records(2));
}

} // namespace
