// The processes that put load on the library: threads that store requests of their own and take those of others.

#pragma once

#include <sys/types.h>

#include <string>

#include "ledger.hpp"

namespace soak {

// The way by which a thread is told what to take. A pipe works between threads and between processes alike.
class Mailbox {
  public:
    Mailbox();
    Mailbox(const Mailbox &) = delete;
    Mailbox &operator=(const Mailbox &) = delete;

    void send(const Request &request);
    // Nothing where there is none within `limit_ms`.
    Request *receive(int limit_ms);

  private:
    int read_end_ = -1;
    int write_end_ = -1;
};

using Mailboxes = Mailbox[worker_count * thread_count];

// Forks a worker; the library must not have been used so far. The worker ends when `finish` is set and all is taken.
pid_t fork_worker(std::size_t worker, const std::string &url, unsigned seed, Mailboxes &mailboxes);

} // namespace soak
