// soak SECONDS [SEED]: kills and freezes a real server at random while processes store and take, and counts what is
// lost and doubled. The server writes each change to its disk before it answers, so that what it acknowledged survives.

#include <signal.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "ledger.hpp"
#include "support/eventually.hpp"
#include "support/hiredis.hpp"
#include "support/redis_server.hpp"
#include "worker.hpp"

using namespace soak;
using support::Clock;
using support::milliseconds;

namespace {

struct Disturbances {
    // When they began.
    std::vector<long long> kills_ms;
    std::vector<long long> freezes_ms;
};

milliseconds random_pause(Random &random, std::size_t least, std::size_t most) {
    return milliseconds(pick(random, least, most));
}

Disturbances disturb(support::RedisServer &server, Random &random, milliseconds duration) {
    Disturbances done;
    const auto end = Clock::now() + duration;
    for (;;) {
        const auto next = Clock::now() + random_pause(random, 100, 1000);
        std::this_thread::sleep_until(std::min(next, end));
        if (Clock::now() >= end) {
            return done;
        }
        if (chance(random, 25)) {
            done.freezes_ms.push_back(now_ms());
            server.freeze();
            std::this_thread::sleep_for(random_pause(random, 1, 300));
            server.thaw();
        } else {
            done.kills_ms.push_back(now_ms());
            server.kill();
            std::this_thread::sleep_for(random_pause(random, 0, 200));
            server.restart();
        }
    }
}

// The first waits for a server that hangs; the second gives up soon, has fewer connections than threads, and lists that
// live for ever; the third writes behind. A list must live longer than the soak.
std::string url_of(std::size_t worker, const support::RedisServer &server) {
    static const char *const options[worker_count] = {
        "timeout_ms=1000&ttl_s=1000000",
        "timeout_ms=100&connect_timeout_ms=100&pool_size=3&ttl_s=0",
        "write=behind&queue=200&timeout_ms=100&connect_timeout_ms=100&ttl_s=1000000",
    };
    return "redis://" + server.host_and_port() + "?" + options[worker];
}

// False where it failed, or hangs and is killed.
bool ended_well(pid_t worker) {
    int status = 0;
    if (!support::eventually([&] { return waitpid(worker, &status, WNOHANG) != 0; }, 3 * support::patience)) {
        show("a worker hangs\n");
        kill(worker, SIGKILL);
        waitpid(worker, nullptr, 0);
        return false;
    }
    if (status != 0) {
        show("a worker failed, with wait status " + std::to_string(status) + "\n");
    }
    return status == 0;
}

std::string shown(support::Hiredis &redis, const std::string &key) {
    std::string text = "left behind: " + key + ", to live " + std::to_string(redis.life_ms(key)) + " ms";
    const std::vector<std::string> list = redis.list(key);
    if (!list.empty()) {
        text += ", " + std::to_string(list.size()) + " records from " + list.front() + " to " + list.back();
    }
    return text + "\n" + ledger().takings.shown(key);
}

// All is taken: every key is one too many.
std::size_t left_behind(const support::RedisServer &server) {
    support::Hiredis redis(server);
    const std::vector<support::Reply> keys = redis.run({"KEYS", "*"}).elements;
    for (const support::Reply &key : keys) {
        show(shown(redis, key.text));
    }
    return keys.size();
}

std::string counted(unsigned long long count, const char *what) {
    return ", " + std::to_string(count) + " " + what;
}

// Nothing where there is none.
std::string if_any(unsigned long long count, const char *what) {
    return count == 0 ? "" : counted(count, what);
}

std::string shown(const std::string &what, const std::vector<long long> &times_ms) {
    std::string text = what + " at ms:";
    for (const long long time : times_ms) {
        text += " " + std::to_string(time);
    }
    return text + "\n";
}

void print_summary(long seconds, unsigned seed, const Disturbances &done, std::size_t left) {
    const Counters &counters = ledger().counters;
    const std::string line = "soak: " + std::to_string(seconds) + " s, seed " + std::to_string(seed) +
                             counted(done.kills_ms.size(), "kills") + counted(done.freezes_ms.size(), "freezes") +
                             counted(counters.ok, "records OK") + counted(counters.uncertain, "uncertain") +
                             counted(counters.lost, "lost") + counted(counters.doubled, "doubled") +
                             counted(left, "left behind") + if_any(counters.out_of_order, "out of order") +
                             if_any(counters.torn, "torn") + if_any(counters.unexpected, "unexpected");
    std::printf("%s\n", line.c_str());
}

bool soaked(long seconds, unsigned seed) {
    ledger();
    now_ms();
    static Mailboxes mailboxes;
    Random random(seed);
    support::RedisServer server({"--appendonly", "yes", "--appendfsync", "always",
                                 // Rewrites the file now and then, under load, so that no restart takes long.
                                 "--auto-aof-rewrite-min-size", "4mb"});
    std::vector<pid_t> workers;
    for (std::size_t worker = 0; worker < worker_count; ++worker) {
        workers.push_back(fork_worker(worker, url_of(worker, server), seed, mailboxes));
    }
    const Disturbances done = disturb(server, random, std::chrono::seconds(seconds));
    ledger().finish = true;
    bool well = true;
    for (const pid_t worker : workers) {
        well = ended_well(worker) && well;
    }
    const std::size_t left = left_behind(server);
    const Counters &counters = ledger().counters;
    well = well && counters.ok > 0 && left == 0 && counters.lost == 0 && counters.doubled == 0 &&
           counters.out_of_order == 0 && counters.torn == 0 && counters.unexpected == 0;
    if (!well) {
        std::fputs((shown("kills", done.kills_ms) + shown("freezes", done.freezes_ms)).c_str(), stderr);
    }
    print_summary(seconds, seed, done, left);
    return well;
}

// A whole number, or -1.
long number(const char *text) {
    char *end = nullptr;
    const long value = std::strtol(text, &end, 10);
    return *text == '\0' || *end != '\0' ? -1 : value;
}

} // namespace

int main(int argc, char **argv) {
    const long seconds = argc < 2 || argc > 3 ? -1 : number(argv[1]);
    const long seed = argc == 3 ? number(argv[2]) : static_cast<long>(std::random_device()() % 1000000);
    if (seconds <= 0 || seed < 0) {
        std::fprintf(stderr, "usage: soak SECONDS [SEED]\n");
        return 2;
    }
    // At the start already, for a soak that does not come to its end.
    std::fprintf(stderr, "seed %ld\n", seed);
    try {
        return soaked(seconds, static_cast<unsigned>(seed)) ? 0 : 1;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "soak: %s\n", error.what());
        return 1;
    }
}
