// Stores the tokens of a thread's requests, whatever it takes.

#pragma once

#include <vector>

#include "ledger.hpp"

namespace soak {

// The requests that a thread writes at the same time, as an engine decodes several at once.
class Writer {
  public:
    Writer(Place place, Random &random) : place_(place), random_(random) {}

    // Begins a request if there is a free slot, and the soak goes on.
    void begin();
    bool is_writing() const { return !open_.empty(); }
    std::size_t open_count() const { return open_.size(); }

    // One call, repeated as its status wants it. Returns the requests that are complete now.
    std::vector<Request *> step();

  private:
    // A request and the next token to store.
    struct Open {
        Request *request;
        std::size_t next;
    };
    struct Entry {
        Request *request;
        std::size_t token;
    };

    void store(Open &open);
    void append(Open &open);
    void batch();
    std::vector<Entry> entries();
    std::vector<pita_status_t> send(const std::vector<Entry> &entries);
    bool settle(Entry entry, std::size_t count, Action action, pita_status_t status, bool gives_up);
    void number_append(Open &open, std::size_t count);

    Place place_;
    Random &random_;
    std::vector<Open> open_;
    std::uint32_t serial_ = 0;
    std::uint8_t appends_ = 0;
};

} // namespace soak
