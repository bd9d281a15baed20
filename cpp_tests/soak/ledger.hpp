// What the processes of a soak share: the requests that are under way, what was done to each, and the sums.

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>

#include "pita_redis.h"

namespace soak {

constexpr std::size_t worker_count = 3;
constexpr std::size_t thread_count = 5;
// It opens its pool with write=behind. Its requests are indexed, and handed to takers when all of them is stored.
constexpr std::size_t behind_worker = 2;
// Requests that a thread may have between their first token and their take.
constexpr std::size_t slot_count = 64;
constexpr std::size_t max_tokens = 24;
// Room for a taken list: more than any should have, so that doubled records are seen.
constexpr std::size_t room = 64;

using Random = std::mt19937;

inline std::size_t pick(Random &random, std::size_t least, std::size_t most) {
    return std::uniform_int_distribution<std::size_t>(least, most)(random);
}
inline bool chance(Random &random, unsigned percent) {
    return pick(random, 0, 99) < percent;
}

// A thread of a worker process.
struct Place {
    std::size_t worker = 0;
    std::size_t thread = 0;

    std::size_t number() const { return worker * thread_count + thread; }
};

enum class Action : std::uint8_t { Store, Append, Batch, Take };

// What came of a call. Equal ones in a row are one, with a count.
struct Call {
    Action action;
    Place place;
    std::size_t token;
    std::size_t tokens;
    pita_status_t status;
    unsigned times;
    long long last_ms;
};

// The calls on a request, for whoever has to find out what went wrong. Threads of both processes write it.
class CallLog {
  public:
    void clear() { count_ = 0; }
    void add(Action action, Place place, std::size_t token, std::size_t tokens, pita_status_t status);
    // One line each.
    std::string shown();

  private:
    void lock();

    std::atomic_flag locked_ = ATOMIC_FLAG_INIT;
    std::size_t count_ = 0;
    Call calls_[48];
};

enum class Outcome : std::uint8_t {
    Open,  // not stored so far
    Ok,    // stored
    Maybe, // the answer was lost
};

// What one taker got.
struct Share {
    std::size_t count;
    pita_metrics_t records[room];
};

// A request and all that is known of it. It is its writer's until it is handed to its takers; the last one frees it.
struct Request {
    std::atomic<bool> in_use;
    Place writer;
    std::uint32_t serial;
    bool indexed;
    std::size_t tokens;
    Outcome outcomes[max_tokens];
    // Tokens of one append have the same number: they are stored all or none.
    std::uint8_t append_of[max_tokens];
    CallLog calls;

    int takers;
    std::atomic<int> arrived;
    std::atomic<int> left;
    Share shares[2];

    std::string id() const;
    // A record that tells its request and token. It is what one logit at temperature 1/2 gives as well.
    pita_metrics_t record(std::size_t token) const;
    float logit(std::size_t token) const;
};

// A list that was taken: who did it, and when.
struct Taking {
    Place writer;
    std::uint32_t serial;
    Place taker;
    std::size_t records;
    long long at_ms;
};

// The last takings of all processes, for a key that is found when its request is long forgotten.
class Takings {
  public:
    void add(const Request &request, Place taker, std::size_t records);
    // Of the request whose id is in `key`; empty where it is not known.
    std::string shown(const std::string &key) const;

  private:
    std::atomic<std::size_t> count_;
    Taking last_[1 << 19];
};

struct Counters {
    std::atomic<unsigned long long> ok;
    std::atomic<unsigned long long> uncertain;
    // Each of these is a failure.
    std::atomic<unsigned long long> lost;
    std::atomic<unsigned long long> doubled;
    std::atomic<unsigned long long> out_of_order;
    std::atomic<unsigned long long> torn;
    std::atomic<unsigned long long> unexpected;
};

// Lies in memory that all processes share.
struct Ledger {
    // No more requests are to be begun; those that wait are to be taken.
    std::atomic<bool> finish;
    // Requests in use.
    std::atomic<std::size_t> busy;
    std::atomic<unsigned> details_shown;
    Counters counters;
    Takings takings;
    Request requests[worker_count * thread_count][slot_count];
};

// Of this process and those that it forks afterwards. All zero.
Ledger &ledger();

// The id of a request, which is its key as well.
std::string id_of(Place writer, std::uint32_t serial);

// Milliseconds since the ledger was made.
long long now_ms();

// Prints what a failure is about, unless many were printed already.
void show(const std::string &text);

} // namespace soak
