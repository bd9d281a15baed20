#include "ledger.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <new>
#include <stdexcept>
#include <thread>

#include "support/eventually.hpp"

namespace soak {
namespace {

// The number in a record is exact as a float up to here: 4 bits of the writer, 15 of the serial, 5 of the token.
static_assert(worker_count * thread_count <= 16 && max_tokens <= 32);

Ledger *map_ledger() {
    void *memory = mmap(nullptr, sizeof(Ledger), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        throw std::runtime_error("no shared memory");
    }
    return new (memory) Ledger();
}

const char *name(Action action) {
    switch (action) {
    case Action::Store:
        return "store";
    case Action::Append:
        return "append";
    case Action::Batch:
        return "batch";
    case Action::Take:
        return "take";
    }
    return "?";
}

std::string shown(const Call &call) {
    std::string text = "  " + std::to_string(call.last_ms) + " ms: worker " + std::to_string(call.place.worker) +
                       " thread " + std::to_string(call.place.thread) + " " + name(call.action);
    if (call.action != Action::Take) {
        text += " tokens " + std::to_string(call.token) + " to " + std::to_string(call.token + call.tokens - 1);
    }
    text += std::string(": ") + pita_status_name(call.status);
    return call.times == 1 ? text + "\n" : text + ", " + std::to_string(call.times) + " times\n";
}

} // namespace

void CallLog::lock() {
    while (locked_.test_and_set(std::memory_order_acquire)) {
        std::this_thread::yield();
    }
}

void CallLog::add(Action action, Place place, std::size_t token, std::size_t tokens, pita_status_t status) {
    lock();
    Call *last = count_ == 0 ? nullptr : &calls_[count_ - 1];
    if (last != nullptr && last->action == action && last->place.number() == place.number() && last->token == token &&
        last->tokens == tokens && last->status == status) {
        ++last->times;
        last->last_ms = now_ms();
    } else if (count_ < std::size(calls_)) {
        calls_[count_++] = {action, place, token, tokens, status, 1, now_ms()};
    }
    locked_.clear(std::memory_order_release);
}

std::string CallLog::shown() {
    lock();
    std::string text;
    for (std::size_t i = 0; i < count_; ++i) {
        text += soak::shown(calls_[i]);
    }
    if (count_ == std::size(calls_)) {
        text += "  and maybe more\n";
    }
    locked_.clear(std::memory_order_release);
    return text;
}

std::string id_of(Place writer, std::uint32_t serial) {
    return "soak-" + std::to_string(writer.worker) + "-" + std::to_string(writer.thread) + "-" + std::to_string(serial);
}

std::string Request::id() const {
    return id_of(writer, serial);
}

float Request::logit(std::size_t token) const {
    return static_cast<float>(writer.number() << 20 | (serial & 0x7fffU) << 5 | token);
}

pita_metrics_t Request::record(std::size_t token) const {
    const auto number = static_cast<double>(logit(token));
    return {number, 2 * number, 0};
}

void Takings::add(const Request &request, Place taker, std::size_t records) {
    last_[count_++ % std::size(last_)] = {request.writer, request.serial, taker, records, now_ms()};
}

std::string Takings::shown(const std::string &key) const {
    std::string text;
    for (std::size_t i = 0; i < std::min(count_.load(), std::size(last_)); ++i) {
        const Taking &one = last_[i];
        const std::string id = id_of(one.writer, one.serial);
        // A claim has the id in braces.
        if (key == id || key.find("{" + id + "}") == 0) {
            text += "  " + std::to_string(one.at_ms) + " ms: worker " + std::to_string(one.taker.worker) + " thread " +
                    std::to_string(one.taker.thread) + " took " + std::to_string(one.records) + " records\n";
        }
    }
    return text;
}

Ledger &ledger() {
    static Ledger *const shared = map_ledger();
    return *shared;
}

long long now_ms() {
    static const auto start = support::Clock::now();
    return std::chrono::duration_cast<support::milliseconds>(support::Clock::now() - start).count();
}

void show(const std::string &text) {
    if (ledger().details_shown++ < 20) {
        // In one piece, for other processes print, too.
        std::fwrite(text.data(), 1, text.size(), stderr);
    }
}

} // namespace soak
