#include "worker.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

#include "support/eventually.hpp"
#include "verdict.hpp"
#include "writer.hpp"

namespace soak {
namespace {

constexpr std::size_t requests_at_once = 4;
// Of a thread's slots, those whose requests may wait until the end.
constexpr std::size_t most_kept = 20;

// A thread's work: writes its requests, has others take them, and takes what others ask it to.
class Hand {
  public:
    Hand(Place place, std::seed_seq &seed, Mailboxes &mailboxes)
        : place_(place), random_(seed), writer_(place, random_), mailboxes_(mailboxes) {}

    void run() {
        while (!ledger().finish || ledger().busy > 0) {
            while (writer_.open_count() < requests_at_once && begins_one()) {
            }
            if (writer_.is_writing()) {
                for (Request *request : writer_.step()) {
                    dispose(*request);
                }
            }
            if (ledger().finish) {
                hand_out_kept();
            }
            take_what_is_asked();
        }
    }

  private:
    bool begins_one() {
        const std::size_t before = writer_.open_count();
        writer_.begin();
        return writer_.open_count() > before;
    }

    void dispose(Request &request) {
        if (kept_.size() < most_kept && chance(random_, 10)) {
            kept_.push_back(&request);
        } else {
            hand_out(request);
        }
    }

    void hand_out_kept() {
        for (Request *request : kept_) {
            hand_out(*request);
        }
        kept_.clear();
    }

    // To one taker or two, of this process or the other.
    void hand_out(Request &request) {
        request.takers = chance(random_, 40) ? 2 : 1;
        request.arrived = 0;
        request.left = request.takers;
        for (Share &share : request.shares) {
            share.count = 0;
        }
        const int takers = request.takers;
        for (int taker = 0; taker < takers; ++taker) {
            mailboxes_[pick(random_, 0, worker_count * thread_count - 1)].send(request);
        }
    }

    void take_what_is_asked() {
        Mailbox &mine = mailboxes_[place_.number()];
        // Without requests to write there is time to wait for mail.
        const int limit_ms = writer_.is_writing() ? 0 : 1;
        while (Request *request = mine.receive(limit_ms)) {
            take(*request);
        }
    }

    void take(Request &request) {
        // For ThreadSanitizer, too: see Writer::begin.
        if (request.left == 0) {
            throw std::logic_error("nobody is left to take " + request.id());
        }
        const int taker = request.arrived++;
        // Those who take the same do it at the same time, unless one has other work to do first.
        support::eventually([&] { return request.arrived == request.takers; }, support::milliseconds(20));
        Share &share = request.shares[taker];
        const std::string id = request.id();
        const auto settled = [&](bool gives_up) {
            const pita_status_t status = pita_take_metrics(id.c_str(), share.records, room, &share.count);
            request.calls.add(Action::Take, place_, 0, share.count, status);
            if (status == PITA_OK) {
                ledger().takings.add(request, place_, share.count);
                return true;
            }
            if (!gives_up && (status == PITA_ERR_UNAVAILABLE || status == PITA_ERR_TIMEOUT)) {
                return false;
            }
            share.count = 0;
            ++ledger().counters.unexpected;
            show("taking " + id + ": " + pita_last_error() + "\n" + request.calls.shown());
            return true;
        };
        if (!support::eventually([&] { return settled(false); })) {
            settled(true);
        }
        if (--request.left == 0) {
            judge(request);
            request.in_use = false;
            --ledger().busy;
        }
    }

    Place place_;
    Random random_;
    Writer writer_;
    Mailboxes &mailboxes_;
    std::vector<Request *> kept_;
};

void run_threads(std::size_t worker, unsigned seed, Mailboxes &mailboxes) {
    std::vector<std::thread> threads;
    for (std::size_t thread = 0; thread < thread_count; ++thread) {
        threads.emplace_back([=, &mailboxes] {
            const Place place{worker, thread};
            std::seed_seq own_seed{seed, static_cast<unsigned>(place.number())};
            Hand(place, own_seed, mailboxes).run();
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
}

int run_worker(std::size_t worker, const std::string &url, unsigned seed, Mailboxes &mailboxes) {
    try {
        if (pita_redis_open(url.c_str()) != PITA_OK) {
            show(std::string("pita_redis_open: ") + pita_last_error() + "\n");
            return 1;
        }
        run_threads(worker, seed, mailboxes);
        return pita_redis_close() == PITA_OK ? 0 : 1;
    } catch (const std::exception &error) {
        show(std::string("worker: ") + error.what() + "\n");
        return 1;
    }
}

} // namespace

Mailbox::Mailbox() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
        throw std::system_error(errno, std::generic_category(), "pipe2");
    }
    read_end_ = ends[0];
    write_end_ = ends[1];
}

void Mailbox::send(const Request &request) {
    // A pipe has room for many times the requests that there are. The address is the same in all forks.
    const Request *const pointer = &request;
    if (write(write_end_, &pointer, sizeof pointer) != sizeof pointer) {
        throw std::system_error(errno, std::generic_category(), "mailbox");
    }
}

Request *Mailbox::receive(int limit_ms) {
    pollfd mail = {read_end_, POLLIN, 0};
    Request *request = nullptr;
    if (poll(&mail, 1, limit_ms) > 0 && read(read_end_, &request, sizeof request) == sizeof request) {
        return request;
    }
    return nullptr;
}

pid_t fork_worker(std::size_t worker, const std::string &url, unsigned seed, Mailboxes &mailboxes) {
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid < 0) {
        throw std::system_error(errno, std::generic_category(), "fork");
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        // Runs no destructors: what was inherited is the parent's. It may have died before prctl took effect.
        _exit(getppid() == parent ? run_worker(worker, url, seed, mailboxes) : 1);
    }
    return pid;
}

} // namespace soak
