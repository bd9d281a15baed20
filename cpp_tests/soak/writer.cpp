#include "writer.hpp"

#include <algorithm>
#include <cstdint>
#include <string>

#include "support/eventually.hpp"

namespace soak {
namespace {

constexpr float temperature = 0.5F;

// Surely not stored, and worth another attempt.
bool is_away(pita_status_t status) {
    return status == PITA_ERR_UNAVAILABLE || status == PITA_ERR_TIMEOUT || status == PITA_ERR_QUEUE_FULL;
}

// After an append whose answer was lost: when another call is answered, the server has dealt with all that lay in its
// sockets before. Otherwise a taker could overtake the append, which would then begin the list anew.
void await_answer() {
    support::eventually([] { return pita_redis_ping() == PITA_OK; });
}

// Until all is stored that this process has queued. None of it may be lost: all is indexed.
void await_stored() {
    const auto limit_ms = static_cast<std::uint32_t>(support::patience.count());
    const pita_status_t status = pita_redis_flush(limit_ms);
    if (status != PITA_OK) {
        ++ledger().counters.unexpected;
        show(std::string("flush: ") + pita_last_error() + "\n");
    }
}

std::vector<pita_metrics_t> records(const Request &request, std::size_t first, std::size_t count) {
    std::vector<pita_metrics_t> all;
    for (std::size_t i = 0; i < count; ++i) {
        all.push_back(request.record(first + i));
    }
    return all;
}

} // namespace

void Writer::begin() {
    Ledger &shared = ledger();
    Request *const slots = shared.requests[place_.number()];
    // What is not in use has nobody left. ThreadSanitizer sees that takers are done only by that number: the one who ends
    // the use may be in the other process, of which it knows nothing.
    const auto is_free = [](const Request &one) { return !one.in_use && one.left == 0; };
    Request *const slot = std::find_if(slots, slots + slot_count, is_free);
    if (slot == slots + slot_count) {
        return;
    }
    // Counted before the look at `finish`: whoever sees `finish` and nothing busy knows that nothing will be.
    ++shared.busy;
    if (shared.finish) {
        --shared.busy;
        return;
    }
    slot->writer = place_;
    slot->serial = serial_++;
    slot->indexed = place_.worker == behind_worker || chance(random_, 50);
    slot->tokens = pick(random_, 1, max_tokens);
    std::fill(std::begin(slot->outcomes), std::end(slot->outcomes), Outcome::Open);
    slot->calls.clear();
    slot->in_use = true;
    open_.push_back({slot, 0});
}

std::vector<Request *> Writer::step() {
    if (chance(random_, 50)) {
        batch();
    } else {
        Open &open = open_[pick(random_, 0, open_.size() - 1)];
        open.request->indexed ? store(open) : append(open);
    }
    std::vector<Request *> complete;
    const auto is_complete = [](const Open &open) { return open.next >= open.request->tokens; };
    for (const Open &open : open_) {
        if (is_complete(open)) {
            complete.push_back(open.request);
        }
    }
    open_.erase(std::remove_if(open_.begin(), open_.end(), is_complete), open_.end());
    if (place_.worker == behind_worker && !complete.empty()) {
        await_stored();
    }
    return complete;
}

// Takes in the status of a call that stores `count` tokens. False where the call is to be repeated.
bool Writer::settle(Entry entry, std::size_t count, Action action, pita_status_t status, bool gives_up) {
    Request &request = *entry.request;
    request.calls.add(action, place_, entry.token, count, status);
    const bool is_lost = status == PITA_ERR_UNCERTAIN;
    if (!gives_up && (is_away(status) || (is_lost && request.indexed))) {
        return false;
    }
    if (status != PITA_OK && (gives_up || !is_lost)) {
        ++ledger().counters.unexpected;
        show("request " + request.id() + ", token " + std::to_string(entry.token) + ": " + pita_last_error() + "\n" +
             request.calls.shown());
    }
    const auto first = request.outcomes + entry.token;
    std::fill(first, first + count, status == PITA_OK ? Outcome::Ok : Outcome::Maybe);
    if (is_lost && entry.token + count == request.tokens) {
        await_answer();
    }
    return true;
}

// At its index, maybe with a token before it, which a second rank would send once more.
void Writer::store(Open &open) {
    const std::size_t first = open.next > 0 && chance(random_, 10) ? open.next - 1 : open.next;
    const std::size_t most = std::min<std::size_t>(5, open.request->tokens - first);
    const std::size_t count = pick(random_, 1 + open.next - first, most);
    const std::string id = open.request->id();
    const std::vector<pita_metrics_t> all = records(*open.request, first, count);
    const auto once = [&](bool gives_up) {
        const auto index = static_cast<std::int64_t>(first);
        const pita_status_t status = pita_store_metrics(id.c_str(), index, all.data(), count);
        return settle({open.request, first}, count, Action::Store, status, gives_up);
    };
    if (!support::eventually([&] { return once(false); })) {
        once(true);
    }
    open.next = first + count;
}

void Writer::number_append(Open &open, std::size_t count) {
    ++appends_;
    std::fill_n(open.request->append_of + open.next, count, appends_);
}

void Writer::append(Open &open) {
    const std::size_t count = pick(random_, 1, std::min<std::size_t>(3, open.request->tokens - open.next));
    const std::string id = open.request->id();
    const std::vector<pita_metrics_t> all = records(*open.request, open.next, count);
    const float logit = open.request->logit(open.next);
    const bool by_logits = count == 1 && chance(random_, 50);
    number_append(open, count);
    const auto once = [&](bool gives_up) {
        const pita_status_t status =
            by_logits ? pita_store_logits_metrics(id.c_str(), &logit, 1, temperature, PITA_METRIC_ALL)
                      : pita_store_metrics(id.c_str(), -1, all.data(), count);
        return settle({open.request, open.next}, count, Action::Append, status, gives_up);
    };
    if (!support::eventually([&] { return once(false); })) {
        once(true);
    }
    open.next += count;
}

// The next token of each open request, of some the one behind it, too.
std::vector<Writer::Entry> Writer::entries() {
    std::vector<Entry> all;
    for (Open &open : open_) {
        const std::size_t count = std::min(open.request->tokens - open.next, pick(random_, 1, 2));
        for (std::size_t i = 0; i < count; ++i) {
            all.push_back({open.request, open.next});
            number_append(open, 1);
            ++open.next;
        }
    }
    return all;
}

std::vector<pita_status_t> Writer::send(const std::vector<Entry> &entries) {
    std::vector<std::string> names;
    std::vector<const char *> ids;
    std::vector<float> logits;
    const std::vector<float> temperatures(entries.size(), temperature);
    std::vector<std::int64_t> indices;
    std::vector<pita_status_t> statuses(entries.size());
    for (const Entry &entry : entries) {
        names.push_back(entry.request->id());
        logits.push_back(entry.request->logit(entry.token));
        indices.push_back(entry.request->indexed ? static_cast<std::int64_t>(entry.token) : -1);
    }
    for (const std::string &name : names) {
        ids.push_back(name.c_str());
    }
    pita_batch_t batch = {};
    batch.struct_size = sizeof batch;
    batch.logits = logits.data();
    batch.dtype = PITA_DTYPE_F32;
    batch.device = PITA_DEVICE_CPU;
    batch.rows = batch.len = entries.size();
    batch.vocab_size = batch.row_stride = 1;
    batch.req_ids = ids.data();
    batch.temperatures = temperatures.data();
    batch.token_indices = indices.data();
    batch.statuses = statuses.data();
    pita_store_logits_metrics_batch(&batch);
    return statuses;
}

void Writer::batch() {
    std::vector<Entry> left = entries();
    const auto once = [&](bool gives_up) {
        const std::vector<pita_status_t> statuses = send(left);
        std::vector<Entry> again;
        for (std::size_t i = 0; i < left.size(); ++i) {
            if (!settle(left[i], 1, Action::Batch, statuses[i], gives_up)) {
                again.push_back(left[i]);
            }
        }
        left = again;
        return left.empty();
    };
    if (!support::eventually([&] { return once(false); })) {
        once(true);
    }
}

} // namespace soak
