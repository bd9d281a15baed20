#include "verdict.hpp"

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "support/records.hpp"

namespace soak {
namespace {

// What is wrong with one request.
struct Faults {
    unsigned lost = 0;
    unsigned doubled = 0;
    unsigned out_of_order = 0;
    unsigned torn = 0;
    unsigned unexpected = 0;

    bool any() const { return lost + doubled + out_of_order + torn + unexpected > 0; }
};

constexpr std::size_t foreign = max_tokens;

// Which token a record is of, or `foreign`.
std::size_t token_of(const Request &request, const pita_metrics_t &record) {
    for (std::size_t token = 0; token < request.tokens; ++token) {
        if (record == request.record(token)) {
            return token;
        }
    }
    return foreign;
}

std::vector<std::size_t> tokens_of(const Request &request, const Share &share) {
    std::vector<std::size_t> tokens;
    for (std::size_t i = 0; i < share.count; ++i) {
        tokens.push_back(token_of(request, share.records[i]));
    }
    return tokens;
}

bool is_increasing(const std::vector<std::size_t> &tokens) {
    return std::adjacent_find(tokens.begin(), tokens.end(), std::greater<>()) == tokens.end();
}

// How often each token was taken; `foreign` is the last.
std::vector<unsigned> tally(const Request &request, Faults &faults) {
    std::vector<unsigned> found(max_tokens + 1);
    int lists = 0;
    for (const Share &share : request.shares) {
        const std::vector<std::size_t> tokens = tokens_of(request, share);
        for (const std::size_t token : tokens) {
            ++found[token];
        }
        faults.out_of_order += is_increasing(tokens) ? 0 : 1;
        lists += tokens.empty() ? 0 : 1;
    }
    // Of two takers one gets the list, whole.
    faults.torn += lists > 1 ? 1 : 0;
    return found;
}

Faults faults_of(const Request &request) {
    Faults faults;
    const std::vector<unsigned> found = tally(request, faults);
    faults.unexpected = found[foreign];
    for (std::size_t token = 0; token < request.tokens; ++token) {
        faults.lost += request.outcomes[token] == Outcome::Ok && found[token] == 0 ? 1 : 0;
        faults.doubled += found[token] > 1 ? found[token] - 1 : 0;
    }
    // Of an append all records are there, or none.
    for (std::size_t token = 1; token < request.tokens && !request.indexed; ++token) {
        const bool same_append = request.append_of[token] == request.append_of[token - 1];
        faults.torn += same_append && (found[token] == 0) != (found[token - 1] == 0) ? 1 : 0;
    }
    return faults;
}

std::string shown(const Request &request, const Share &share) {
    std::string text;
    for (std::size_t i = 0; i < share.count; ++i) {
        const std::size_t token = token_of(request, share.records[i]);
        const double log_norm = share.records[i].log_norm;
        text += token == foreign ? " foreign:" + std::to_string(log_norm) : " " + std::to_string(token);
    }
    return share.count == 0 ? " nothing" : text;
}

std::string shown(Request &request, const Faults &faults) {
    std::string text = "request " + request.id() + (request.indexed ? ", indexed: " : ", appended: ") +
                       std::to_string(faults.lost) + " lost, " + std::to_string(faults.doubled) + " doubled, " +
                       std::to_string(faults.out_of_order) + " out of order, " + std::to_string(faults.torn) +
                       " torn, " + std::to_string(faults.unexpected) + " foreign\n  expected:";
    for (std::size_t token = 0; token < request.tokens; ++token) {
        const Outcome outcome = request.outcomes[token];
        text += " " + std::to_string(token) + (outcome == Outcome::Ok ? "" : outcome == Outcome::Maybe ? "?" : "-");
    }
    for (int taker = 0; taker < request.takers; ++taker) {
        text += "\n  taker " + std::to_string(taker) + " got:" + shown(request, request.shares[taker]);
    }
    return text + "\n" + request.calls.shown();
}

} // namespace

void judge(Request &request) {
    Counters &counters = ledger().counters;
    for (std::size_t token = 0; token < request.tokens; ++token) {
        counters.ok += request.outcomes[token] == Outcome::Ok ? 1 : 0;
        counters.uncertain += request.outcomes[token] == Outcome::Maybe ? 1 : 0;
    }
    const Faults faults = faults_of(request);
    if (faults.any()) {
        counters.lost += faults.lost;
        counters.doubled += faults.doubled;
        counters.out_of_order += faults.out_of_order;
        counters.torn += faults.torn;
        counters.unexpected += faults.unexpected;
        show(shown(request, faults));
    }
}

} // namespace soak
