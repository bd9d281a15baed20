// autostart=1: a server of our own where none listens, and gone with us.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "pita_redis.h"
#include "support/child.hpp"
#include "support/closed_port.hpp"
#include "support/environment.hpp"
#include "support/eventually.hpp"
#include "support/processes.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

// A folder that is gone with the test.
class Folder {
  public:
    Folder() : path_((std::filesystem::temp_directory_path() / "pita-redis-XXXXXX").string()) {
        if (mkdtemp(path_.data()) == nullptr) {
            throw std::runtime_error("no temporary directory " + path_);
        }
    }
    ~Folder() { std::filesystem::remove_all(path_); }
    Folder(const Folder &) = delete;
    Folder &operator=(const Folder &) = delete;

    const std::string &path() const { return path_; }

  private:
    std::string path_;
};

bool is_listening(int port) {
    return !listening_on(port).empty();
}

// The process of the server that answers.
pid_t process_of(Hiredis &redis) {
    return static_cast<pid_t>(redis.info("process_id"));
}

void store_and_take(const std::string &id) {
    ASSERT_OK(append(id, records(2)));
    ASSERT_OK(store_at(id, 2, records(1, 2)));
    ASSERT_EQ(take(id).records, records(3));
}

class Autostart : public testing::Test {
  protected:
    // The servers that a test has had started end with it, not with the process.
    ~Autostart() override {
        pita_redis_close();
        send(SIGTERM);
        if (!eventually([this] { return started().empty(); }, milliseconds(10000))) {
            ADD_FAILURE() << "a server does not end when it is told to";
            send(SIGKILL);
        }
    }

    // `login` is "user:password@".
    std::string url(const std::string &login = "") const { return url_of(port, login); }

    static std::string url_of(int port, const std::string &login = "") {
        return "redis://" + login + "127.0.0.1:" + std::to_string(port) +
               "?autostart=1&timeout_ms=60000&connect_timeout_ms=60000";
    }

    void send(int signal) const {
        for (const pid_t server : started()) {
            kill(server, signal);
        }
    }

    // The children that the test has had started, and that live.
    std::set<pid_t> started() const {
        std::set<pid_t> children = children_of(getpid());
        for (const pid_t child : before_) {
            children.erase(child);
        }
        return children;
    }

    const int port = free_port();

  private:
    const std::set<pid_t> before_ = children_of(getpid());
};

// --- the server ------------------------------------------------------------------------------------------------------

TEST_F(Autostart, StartsAServerThatWorks) {
    ASSERT_FALSE(is_listening(port));
    ASSERT_OK(pita_redis_open(url().c_str()));
    store_and_take("a");
    ASSERT_OK(append("b", records(2)));
    Hiredis redis(port);
    EXPECT_EQ(stored(redis, "b"), records(2));
    EXPECT_EQ(started(), std::set<pid_t>{process_of(redis)});
}

TEST_F(Autostart, ListensOnLoopbackOnly) {
    ASSERT_OK(pita_redis_open(url().c_str()));
    EXPECT_EQ(listening_on(port), std::set<std::string>{"0100007F"});
}

TEST_F(Autostart, ListensOnLoopbackOnlyForALocalhost) {
    const std::string by_name = "redis://localhost:" + std::to_string(port) + "?autostart=1&timeout_ms=60000";
    ASSERT_OK(pita_redis_open(by_name.c_str()));
    store_and_take("a");
    EXPECT_EQ(listening_on(port), std::set<std::string>{"0100007F"});
}

TEST_F(Autostart, SavesNothing) {
    ASSERT_OK(pita_redis_open(url().c_str()));
    Hiredis redis(port);
    EXPECT_EQ(redis.setting("save"), "");
    EXPECT_EQ(redis.setting("appendonly"), "no");
}

TEST_F(Autostart, HasTheDatabaseOfTheUrl) {
    const std::string url = "redis://127.0.0.1:" + std::to_string(port) + "/40?autostart=1&timeout_ms=60000";
    ASSERT_OK(pita_redis_open(url.c_str()));
    store_and_take("a");
}

TEST_F(Autostart, ListensOnAUnixSocketForThisUserAlone) {
    const Folder folder;
    const std::string path = folder.path() + "/a b.sock";
    const std::string url = "redis+unix://" + folder.path() + "/a%20b.sock?autostart=1&timeout_ms=60000";
    ASSERT_OK(pita_redis_open(url.c_str()));
    store_and_take("a");
    struct stat found = {};
    ASSERT_EQ(stat(path.c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 0777U, 0700U);
    EXPECT_EQ(Hiredis(path).setting("port"), "0") << "on nothing else";
}

// --- started by a call of its own ------------------------------------------------------------------------------------

TEST_F(Autostart, StartsAServerUnderAPoolThatIsOpen) {
    const std::string url = "redis://127.0.0.1:" + std::to_string(port) + "/3?write=behind&timeout_ms=60000";
    ASSERT_OK(pita_redis_open(url.c_str()));
    ASSERT_OK(store_at("a", 0, records(1)));
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, pita_redis_ping(), "refused");
    ASSERT_OK(pita_redis_start_server(url.c_str()));
    EXPECT_OK(pita_redis_ping()) << "it has noticed";
    EXPECT_OK(pita_redis_flush(60000)) << "what was queued is not lost";
    EXPECT_EQ(take("a").records, records(1));
    EXPECT_OK(pita_redis_start_server(url.c_str()));
    EXPECT_EQ(started().size(), 1U) << "twice is once";
    EXPECT_OK(pita_redis_stop_servers());
    EXPECT_FALSE(is_listening(port));
}

TEST_F(Autostart, StartsAServerAndOpensNothing) {
    ASSERT_OK(pita_redis_start_server(url().c_str()));
    EXPECT_TRUE(is_listening(port));
    EXPECT_FAILS(PITA_ERR_NOT_OPEN, pita_redis_ping(), "not open");
}

TEST_F(Autostart, StartsNothingWhereAServerAnswers) {
    RedisServer there;
    const std::string url = "redis://127.0.0.1:" + std::to_string(there.port());
    const std::set<pid_t> before = started();
    EXPECT_OK(pita_redis_start_server(url.c_str()));
    EXPECT_EQ(started(), before);
    const Environment environment({{"REDIS_URL", url}});
    EXPECT_OK(pita_redis_start_server(nullptr));
    EXPECT_EQ(started(), before);
}

TEST_F(Autostart, StartsNothingOnAnotherMachine) {
    EXPECT_FAILS(PITA_ERR_CONFIG, pita_redis_start_server("redis://192.0.2.1?connect_timeout_ms=50"), "192.0.2.1",
                 "another machine");
    const std::string tls = "rediss://127.0.0.1:" + std::to_string(port);
    EXPECT_FAILS(PITA_ERR_CONFIG, pita_redis_start_server(tls.c_str()), "TLS");
    EXPECT_FAILS(PITA_ERR_CONFIG, pita_redis_start_server("localhost"), "scheme");
}

// --- stopped before the process ends ---------------------------------------------------------------------------------

TEST_F(Autostart, EndsItsServersWhenToldTo) {
    const int other = free_port();
    ASSERT_OK(pita_redis_open(url().c_str()));
    ASSERT_OK(pita_redis_close());
    ASSERT_OK(pita_redis_open(url_of(other).c_str()));
    ASSERT_EQ(started().size(), 2U);
    EXPECT_OK(pita_redis_stop_servers());
    EXPECT_EQ(started(), std::set<pid_t>{}) << "ended, and waited for";
    EXPECT_FALSE(is_listening(port));
    EXPECT_FALSE(is_listening(other));
    EXPECT_OK(pita_redis_stop_servers()) << "none left";
    ASSERT_OK(pita_redis_close());
    ASSERT_OK(pita_redis_open(url().c_str()));
    store_and_take("a");
}

TEST_F(Autostart, KillsAServerThatDoesNotEndWhenToldTo) {
    ASSERT_OK(pita_redis_open(url().c_str()));
    send(SIGSTOP);
    EXPECT_OK(pita_redis_stop_servers());
    EXPECT_EQ(started(), std::set<pid_t>{});
}

TEST_F(Autostart, DoesNotEndAServerThatWasThere) {
    RedisServer there;
    ASSERT_OK(pita_redis_open(url_of(there.port()).c_str()));
    EXPECT_OK(pita_redis_stop_servers());
    store_and_take("a");
}

// --- passwords -------------------------------------------------------------------------------------------------------

// With all that could mean something in a configuration file or a URL.
const std::string password = "p@ss \"hunter\"'\\x41\n#:/?%";
const std::string password_in_url = "p%40ss%20%22hunter%22%27%5Cx41%0A%23%3A%2F%3F%25";

// What others can read of a process.
void expect_untold(pid_t process) {
    EXPECT_NE(text_of(proc(process) + "/cmdline"), "");
    EXPECT_EQ(text_of(proc(process) + "/cmdline").find("hunter"), std::string::npos);
    EXPECT_EQ(text_of(proc(process) + "/environ").find("hunter"), std::string::npos);
}

TEST_F(Autostart, AsksForThePasswordOfTheUrl) {
    ASSERT_OK(pita_redis_open(url(":" + password_in_url + "@").c_str()));
    store_and_take("a");
    Hiredis redis(port);
    EXPECT_THROW(redis.run({"PING"}), std::runtime_error);
    EXPECT_THROW(redis.run({"AUTH", "guess"}), std::runtime_error);
    redis.run({"AUTH", password});
    expect_untold(process_of(redis));
}

TEST_F(Autostart, AsksForTheUserOfTheUrl) {
    ASSERT_OK(pita_redis_open(url("us%40er:" + password_in_url + "@").c_str()));
    store_and_take("a");
    Hiredis redis(port);
    EXPECT_THROW(redis.run({"PING"}), std::runtime_error) << "nobody else gets in";
    EXPECT_THROW(redis.run({"AUTH", ""}), std::runtime_error);
    EXPECT_THROW(redis.run({"AUTH", "us@er", "guess"}), std::runtime_error);
    redis.run({"AUTH", "us@er", password});
    expect_untold(process_of(redis));
}

TEST_F(Autostart, AsksForThePasswordOfTheDefaultUser) {
    const std::string url = "redis://default:pw@127.0.0.1:" + std::to_string(port) + "/0?autostart=1";
    ASSERT_OK(pita_redis_open(url.c_str()));
    store_and_take("a");
    Hiredis redis(port);
    EXPECT_THROW(redis.run({"PING"}), std::runtime_error);
    EXPECT_THROW(redis.run({"AUTH", "default", "guess"}), std::runtime_error);
    redis.run({"AUTH", "default", "pw"});
    EXPECT_EQ(started(), std::set<pid_t>{process_of(redis)});
}

TEST_F(Autostart, AsksForThePasswordOnAUnixSocketToo) {
    const Folder folder;
    const std::string url = "redis+unix://" + folder.path() + "/s?timeout_ms=60000&autostart=1&pass=" + password_in_url;
    ASSERT_OK(pita_redis_open(url.c_str()));
    store_and_take("a");
    EXPECT_THROW(Hiredis(folder.path() + "/s").run({"PING"}), std::runtime_error);
}

// --- one that is there already ---------------------------------------------------------------------------------------

TEST_F(Autostart, UsesAServerThatIsThere) {
    RedisServer there;
    const std::set<pid_t> before = children_of(getpid());
    ASSERT_OK(pita_redis_open(url_of(there.port()).c_str()));
    ASSERT_OK(append("a", records(2)));
    Hiredis redis(there);
    EXPECT_EQ(stored(redis, "a"), records(2));
    EXPECT_EQ(children_of(getpid()), before);
}

TEST_F(Autostart, DoesNotGetRoundAServerThatRefuses) {
    RedisServer there({"--requirepass", "secret"});
    const std::set<pid_t> before = children_of(getpid());
    EXPECT_FAILS(PITA_ERR_AUTH, pita_redis_open(url_of(there.port()).c_str()), "NOAUTH");
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_redis_ping());
    EXPECT_EQ(children_of(getpid()), before);
}

TEST_F(Autostart, TwiceIsOnce) {
    ASSERT_OK(pita_redis_open(url().c_str()));
    ASSERT_OK(pita_redis_open(url().c_str()));
    EXPECT_EQ(started().size(), 1U);
    ASSERT_OK(append("a", records(1)));
    ASSERT_OK(pita_redis_close());
    ASSERT_OK(pita_redis_open(url().c_str()));
    EXPECT_EQ(started().size(), 1U);
    EXPECT_EQ(take("a").records, records(1)) << "the same server";
}

TEST_F(Autostart, ByManyThreadsIsOnce) {
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
        threads.emplace_back([&] { EXPECT_OK(pita_redis_open(url().c_str())); });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    store_and_take("a");
    // One that came second ends because the port is taken.
    EXPECT_TRUE(eventually([&] { return started().size() == 1; }));
}

TEST_F(Autostart, StartsAnotherServerWhenTheFirstIsGone) {
    ASSERT_OK(pita_redis_open(url().c_str()));
    send(SIGKILL);
    EXPECT_TRUE(eventually([&] { return started().empty(); }));
    EXPECT_STATUS(PITA_ERR_UNAVAILABLE, pita_redis_ping()) << "open starts servers, and nothing else does";
    ASSERT_OK(pita_redis_close());
    ASSERT_OK(pita_redis_open(url().c_str()));
    store_and_take("a");
}

// --- what it has of the process --------------------------------------------------------------------------------------

TEST_F(Autostart, OutlivesTheThreadThatOpened) {
    std::thread([&] { ASSERT_OK(pita_redis_open(url().c_str())); }).join();
    EXPECT_FALSE(eventually([] { return pita_redis_ping() != PITA_OK; }, milliseconds(300)));
    Hiredis redis(port);
    EXPECT_EQ(started(), std::set<pid_t>{process_of(redis)});
}

TEST_F(Autostart, DoesNotHandDownTheSignalMask) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const pita_status_t status = pita_redis_open(url().c_str());
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    ASSERT_OK(status);
    Hiredis redis(port);
    EXPECT_EQ(status_of(proc(process_of(redis)), "SigBlk"), "0000000000000000");
}

TEST_F(Autostart, DoesNotHandDownDescriptors) {
    RedisServer other;
    ASSERT_OK(pita_redis_open(other.url().c_str()));
    ASSERT_OK(pita_redis_ping());
    ASSERT_OK(pita_redis_close());
    ASSERT_OK(pita_redis_open(url().c_str()));
    Hiredis redis(port);
    const std::string descriptors = proc(process_of(redis)) + "/fd";
    for (const char *standard : {"1", "2"}) {
        EXPECT_EQ(std::filesystem::read_symlink(descriptors + "/" + standard), "/dev/null") << "prints nothing";
    }
    EXPECT_EQ(std::filesystem::read_symlink(proc(process_of(redis)) + "/cwd"), "/") << "keeps no folder busy";
}

// --- forks: processes that start servers and end ---------------------------------------------------------------------

using ForkAutostart = Autostart;

TEST_F(ForkAutostart, NamesTheProgramsThatItHasNotFound) {
    const Folder empty;
    Child child([&] {
        setenv("PATH", empty.path().c_str(), 1);
        EXPECT_FAILS(PITA_ERR_UNAVAILABLE, pita_redis_open(url().c_str()), "autostart", "redis-server", "valkey-server",
                     "PATH");
        EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_redis_ping());
    });
    EXPECT_TRUE(child.succeeded());
}

TEST_F(Autostart, OfAServerThatCannotStartSaysSoSoon) {
    // Redis knows no user with a space in its name.
    const std::string url = "redis://us%20er:pw@127.0.0.1:" + std::to_string(free_port()) + "?autostart=1";
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, pita_redis_open(url.c_str()), "autostart", "the server ended");
}

TEST_F(ForkAutostart, EndsWhenItsProcessDoes) {
    Child child([&] {
        ASSERT_OK(pita_redis_open(url().c_str()));
        store_and_take("a");
        EXPECT_TRUE(is_listening(port));
    });
    EXPECT_TRUE(child.succeeded());
    EXPECT_TRUE(eventually([&] { return !is_listening(port); }));
}

TEST_F(ForkAutostart, EndsWhenItsProcessIsKilled) {
    Gate opened;
    Child child([&] {
        ASSERT_OK(pita_redis_open(url().c_str()));
        opened.open();
        pause();
    });
    ASSERT_TRUE(opened.wait());
    EXPECT_TRUE(is_listening(port));
    child.kill();
    EXPECT_TRUE(eventually([&] { return !is_listening(port); }));
}

TEST_F(ForkAutostart, LeavesAParentsServerToTheParent) {
    ASSERT_OK(pita_redis_open(url().c_str()));
    Child child([] {
        EXPECT_OK(pita_redis_stop_servers());
        store_and_take("child");
    });
    EXPECT_TRUE(child.succeeded());
    store_and_take("parent");
}

TEST_F(ForkAutostart, OutlivesAForkedChild) {
    ASSERT_OK(pita_redis_open(url().c_str()));
    ASSERT_OK(append("a", records(1)));
    Child child([&] {
        ASSERT_OK(pita_redis_open(url().c_str()));
        EXPECT_OK(append("a", records(1, 1)));
        EXPECT_TRUE(children_of(getpid()).empty());
        ASSERT_OK(pita_redis_close());
    });
    EXPECT_TRUE(child.succeeded());
    EXPECT_FALSE(eventually([] { return pita_redis_ping() != PITA_OK; }, milliseconds(300)));
    EXPECT_EQ(take("a").records, records(2));
}

// Processes that open the same URL at the same time. Each stores a list, and waits until it sees the others'.
class Crowd {
  public:
    static constexpr std::size_t size = 6;

    explicit Crowd(const std::string &url) {
        for (std::size_t i = 0; i < size; ++i) {
            children_.push_back(std::make_unique<Child>([this, url, i] { live(url, i); }));
        }
        start_.open();
    }

    // The lists there are when all have seen all.
    static constexpr long long lists = 2 * size;

    std::set<pid_t> servers() const {
        std::set<pid_t> all;
        for (const auto &child : children_) {
            all.merge(children_of(child->pid()));
        }
        return all;
    }

    void end() {
        end_.open();
        for (const auto &child : children_) {
            EXPECT_TRUE(child->succeeded());
        }
    }

  private:
    void live(const std::string &url, std::size_t self) {
        ASSERT_TRUE(start_.wait());
        ASSERT_OK(pita_redis_open(url.c_str()));
        ASSERT_OK(append("from " + std::to_string(self), records(1)));
        for (std::size_t other = 0; other < size; ++other) {
            EXPECT_TRUE(eventually([&] { return is_there("from " + std::to_string(other)); })) << "no " << other;
        }
        ASSERT_OK(append("seen by " + std::to_string(self), records(1)));
        // Whose server it is must not end before the others have seen all.
        EXPECT_TRUE(end_.wait());
    }

    static bool is_there(const std::string &id) {
        std::size_t found = 0;
        return pita_count_metrics(id.c_str(), &found) == PITA_OK && found == 1;
    }

    Gate start_;
    Gate end_;
    std::vector<std::unique_ptr<Child>> children_;
};

TEST_F(ForkAutostart, OfManyProcessesAtOnceLeavesOneServer) {
    Crowd crowd(url());
    EXPECT_TRUE(eventually([&] { return is_listening(port); }));
    Hiredis redis(port);
    EXPECT_TRUE(eventually([&] { return redis.keys() == Crowd::lists; }));
    EXPECT_TRUE(eventually([&] { return crowd.servers() == std::set<pid_t>{process_of(redis)}; }));
    crowd.end();
    EXPECT_TRUE(eventually([&] { return !is_listening(port); }));
}

// A unix socket, unlike a port, can be taken away from the server that listens on it.
TEST_F(ForkAutostart, OfManyProcessesAtOnceLeavesOneServerOnAUnixSocket) {
    const Folder folder;
    const std::string path = folder.path() + "/s";
    Crowd crowd("redis+unix://" + path + "?autostart=1&timeout_ms=60000&connect_timeout_ms=60000");
    EXPECT_TRUE(eventually([&] {
        try {
            return Hiredis(path).keys() == Crowd::lists;
        } catch (const std::runtime_error &) {
            return false;
        }
    }));
    EXPECT_TRUE(eventually([&] { return crowd.servers().size() == 1; }));
    {
        Hiredis redis(path);
        EXPECT_EQ(crowd.servers(), std::set<pid_t>{process_of(redis)});
    }
    crowd.end();
}

// A child that is forked off while the server is started inherits what tells that it was, and may live long.
TEST_F(ForkAutostart, ReturnsInTimeWhileOtherThreadsFork) {
    constexpr std::size_t at_most = 100;
    std::atomic<bool> done{false};
    const auto fork_children = [&] {
        std::vector<pid_t> children;
        while (!done && children.size() < at_most) {
            const pid_t child = fork();
            if (child == 0) {
                // Also ends with this thread.
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (;;) {
                    pause();
                }
            }
            if (child > 0) {
                children.push_back(child);
            }
        }
        eventually([&] { return done.load(); });
        for (const pid_t child : children) {
            kill(child, SIGKILL);
            waitpid(child, nullptr, 0);
        }
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) {
        threads.emplace_back(fork_children);
    }
    pita_status_t status = PITA_ERR_PANIC;
    const milliseconds took = time_of([&] { status = pita_redis_open(url().c_str()); });
    const std::string message = pita_last_error();
    done = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_LT(took, milliseconds(12000));
    EXPECT_EQ(status, PITA_OK) << message;
}

} // namespace
