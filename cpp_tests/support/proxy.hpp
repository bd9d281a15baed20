// A network that can be broken at any byte: a proxy between the library and a server.

#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <ostream>
#include <string>
#include <thread>

#include "eventually.hpp"
#include "redis_server.hpp"

namespace support {

// Which way bytes go: from the library to the server, or back.
enum class Way { Request, Reply };

inline void PrintTo(Way way, std::ostream *out) {
    *out << (way == Way::Request ? "request" : "reply");
}

// How a client learns that its connection is cut: by an end of file or by a reset.
enum class Ending { HangUp, Reset };

// What becomes of a request. Its connection is cut as by Proxy::cut_after, or stalled as by Proxy::stall.
enum class Fate {
    // The server executes it, and its answer is lost.
    LosesAnswer,
    // The server never sees it.
    NeverArrives,
    // It is held back.
    IsHeldBack,
};

// Passes on what is sent between clients and a server, from a free port of 127.0.0.1 and a thread of its own.
//
// Bytes are counted over all connections. Throws std::runtime_error where it cannot start.
class Proxy {
  public:
    explicit Proxy(const RedisServer &server);
    ~Proxy();
    Proxy(const Proxy &) = delete;
    Proxy &operator=(const Proxy &) = delete;

    // "127.0.0.1:40000"
    std::string host_and_port() const { return "127.0.0.1:" + std::to_string(port_); }

    // Counts from 0 again, and cuts nothing any more.
    void count_anew();
    // How many bytes were let through since.
    std::size_t passed(Way way) const;

    // Counts from 0 again. The connection that brings byte number `bytes` is cut behind it: nothing else passes either
    // way, the server executes what it has got and hangs up, and only then is the client told. With 0 the first byte
    // does not pass. Later connections are left alone.
    void cut_after(Way way, std::size_t bytes, Ending ending = Ending::HangUp);
    // Whether that cut is over and done with: both ends are closed.
    bool has_cut() const;

    // From now on every chunk arrives late.
    void delay(milliseconds time);

    // Holds back all that goes that way on the connections that there are now.
    void stall(Way way);
    // Whether something is held back.
    bool holds() const;
    // Hangs up on the clients of stalled connections. What they sent is still held back.
    void hang_up_on_stalled();
    // Lets go what was held back.
    void release();

    // The next request that has `word` in it has this fate. A request is what comes in one piece; a short pipeline does.
    void meet(const std::string &word, Fate fate, bool then_goes_away = false);
    // Whether all requests that were waited for have come.
    bool has_met() const;
    // How many requests with `word` in them have come since this was asked first.
    std::size_t seen(const std::string &word);
    // While it is away, new clients are hung up on.
    void set_away(bool is_away);
    // From now on the server's answers to TIME are wrong by so much.
    void shift_clock(std::chrono::seconds by);

    // Connections that still have a server's end. When a client is gone and this is 0, all that it sent is executed.
    std::size_t connections() const;

  private:
    // What goes one way on one connection.
    struct Lane {
        int from;
        int to;
        // What waits to be passed on. Nothing more is read meanwhile.
        std::string buffer = {};
        Clock::time_point due = {};
        bool is_stalled = false;
        // What comes is thrown away.
        bool discards = false;
        // Nothing more comes.
        bool ended = false;
        bool told_end = false;

        bool can_pass(Clock::time_point now) const { return !buffer.empty() && !is_stalled && due <= now; }
    };

    struct Connection {
        Lane request;
        Lane reply;
        bool is_cut = false;

        Lane &lane(Way way) { return way == Way::Request ? request : reply; }
    };

    struct Cut {
        Way way;
        std::size_t bytes;
        Ending ending;
    };

    // A request that is waited for.
    struct Meeting {
        std::string word;
        Fate fate;
        bool then_goes_away;
    };

    void run();
    void wake();
    int poll_timeout() const;
    void accept_client();
    void serve(Connection &connection, short client_events, short server_events);
    void receive(Connection &connection, Way way);
    void cut(Connection &connection, Ending ending);
    void judge(Connection &connection);
    void shift_time(std::string &answer) const;
    void pass_on(Connection &connection, Way way);
    bool has_ended(const Connection &connection) const;
    void close_connection(const Connection &connection);

    const int server_port_;
    int port_ = 0;
    int listener_ = -1;
    int waker_ = -1;

    // Of all that follows. The thread lets go of it only to wait.
    mutable std::mutex mutex_;
    std::list<Connection> connections_;
    std::array<std::size_t, 2> passed_ = {};
    std::optional<Cut> cut_;
    bool has_cut_ = false;
    milliseconds delay_{0};
    std::list<Meeting> meetings_;
    std::map<std::string, std::size_t> seen_;
    bool is_away_ = false;
    std::chrono::seconds clock_shift_{0};
    bool is_stopping_ = false;

    std::thread thread_;
};

} // namespace support
