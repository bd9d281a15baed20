#include "proxy.hpp"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace support {
namespace {

sockaddr_in loopback(int port) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    return address;
}

// A socket that no server started later inherits: it would hold the connection open.
int tcp_socket() {
    return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

// A small write is to leave at once, however many there are.
void send_at_once(int socket) {
    const int yes = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

bool is_passing_failure() {
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

// An entry for poll(). One without events is left out, or a peer that hung up would be reported without end.
pollfd polled(int socket, bool reads, bool writes) {
    const auto events = static_cast<short>((reads ? POLLIN : 0) | (writes ? POLLOUT : 0));
    return {events != 0 ? socket : -1, events, 0};
}

constexpr auto can_read = static_cast<short>(POLLIN | POLLHUP | POLLERR);

} // namespace

Proxy::Proxy(const RedisServer &server)
    : server_port_(server.port()), listener_(tcp_socket()), waker_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    auto *generic = reinterpret_cast<sockaddr *>(&address);
    if (waker_ < 0 || bind(listener_, generic, size) != 0 || listen(listener_, SOMAXCONN) != 0 ||
        getsockname(listener_, generic, &size) != 0) {
        close(listener_);
        close(waker_);
        throw std::runtime_error("no port for a proxy");
    }
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { run(); });
}

Proxy::~Proxy() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_stopping_ = true;
        wake();
    }
    thread_.join();
    for (const Connection &connection : connections_) {
        close_connection(connection);
    }
    close(listener_);
    close(waker_);
}

void Proxy::count_anew() {
    const std::lock_guard<std::mutex> lock(mutex_);
    passed_ = {};
    cut_.reset();
    has_cut_ = false;
}

std::size_t Proxy::passed(Way way) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return passed_[static_cast<std::size_t>(way)];
}

void Proxy::cut_after(Way way, std::size_t bytes, Ending ending) {
    const std::lock_guard<std::mutex> lock(mutex_);
    passed_ = {};
    cut_ = {way, bytes, ending};
    has_cut_ = false;
}

bool Proxy::has_cut() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return has_cut_;
}

void Proxy::delay(milliseconds time) {
    const std::lock_guard<std::mutex> lock(mutex_);
    delay_ = time;
}

void Proxy::stall(Way way) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Connection &connection : connections_) {
        connection.lane(way).is_stalled = true;
    }
}

bool Proxy::holds() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto holds = [](const Lane &lane) { return lane.is_stalled && !lane.buffer.empty(); };
    return std::any_of(connections_.begin(), connections_.end(), [&](const Connection &connection) {
        return holds(connection.request) || holds(connection.reply);
    });
}

void Proxy::hang_up_on_stalled() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Connection &connection : connections_) {
        if (connection.request.is_stalled || connection.reply.is_stalled) {
            connection.request.ended = true;
            connection.reply.discards = true;
            shutdown(connection.request.from, SHUT_RDWR);
        }
    }
    wake();
}

void Proxy::release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Connection &connection : connections_) {
        connection.request.is_stalled = false;
        connection.reply.is_stalled = false;
    }
    wake();
}

void Proxy::meet(const std::string &word, Fate fate, bool then_goes_away) {
    const std::lock_guard<std::mutex> lock(mutex_);
    meetings_.push_back({word, fate, then_goes_away});
    has_cut_ = false;
}

bool Proxy::has_met() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return meetings_.empty();
}

std::size_t Proxy::seen(const std::string &word) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return seen_[word];
}

void Proxy::set_away(bool is_away) {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_away_ = is_away;
}

void Proxy::shift_clock(std::chrono::seconds by) {
    const std::lock_guard<std::mutex> lock(mutex_);
    clock_shift_ = by;
}

std::size_t Proxy::connections() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return connections_.size();
}

// --- the thread ------------------------------------------------------------------------------------------------------

void Proxy::run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!is_stopping_) {
        const Clock::time_point now = Clock::now();
        std::vector<pollfd> polls = {{waker_, POLLIN, 0}, {listener_, POLLIN, 0}};
        for (const auto &[request, reply, is_cut] : connections_) {
            const auto reads = [](const Lane &lane) { return !lane.ended && lane.buffer.empty(); };
            polls.push_back(polled(request.from, reads(request), reply.can_pass(now)));
            polls.push_back(polled(reply.from, reads(reply), request.can_pass(now)));
        }
        const int timeout = poll_timeout();
        lock.unlock();
        poll(polls.data(), polls.size(), timeout);
        lock.lock();

        eventfd_t ignored = 0;
        eventfd_read(waker_, &ignored);
        std::size_t next = 2;
        for (Connection &connection : connections_) {
            serve(connection, polls[next].revents, polls[next + 1].revents);
            next += 2;
        }
        connections_.remove_if([this](const Connection &connection) {
            if (!has_ended(connection)) {
                return false;
            }
            close_connection(connection);
            has_cut_ |= connection.is_cut;
            return true;
        });
        if (polls[1].revents != 0) {
            accept_client();
        }
    }
}

void Proxy::wake() {
    eventfd_write(waker_, 1);
}

// Until the next delayed chunk is due.
int Proxy::poll_timeout() const {
    const Clock::time_point now = Clock::now();
    int timeout = -1;
    for (const Connection &connection : connections_) {
        for (const Lane *lane : {&connection.request, &connection.reply}) {
            if (!lane->buffer.empty() && !lane->is_stalled && lane->due > now) {
                const auto left = std::chrono::ceil<milliseconds>(lane->due - now).count();
                timeout = timeout < 0 ? static_cast<int>(left) : std::min(timeout, static_cast<int>(left));
            }
        }
    }
    return timeout;
}

void Proxy::accept_client() {
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) {
        return;
    }
    if (is_away_) {
        close(client);
        return;
    }
    const int server = tcp_socket();
    const sockaddr_in address = loopback(server_port_);
    if (connect(server, reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0) {
        close(client);
        close(server);
        return;
    }
    send_at_once(client);
    send_at_once(server);
    connections_.push_back({{client, server}, {server, client}});
}

void Proxy::serve(Connection &connection, short client_events, short server_events) {
    if ((client_events & can_read) != 0) {
        receive(connection, Way::Request);
    }
    if ((server_events & can_read) != 0) {
        receive(connection, Way::Reply);
    }
    pass_on(connection, Way::Request);
    pass_on(connection, Way::Reply);
}

void Proxy::receive(Connection &connection, Way way) {
    Lane &lane = connection.lane(way);
    if (lane.ended || !lane.buffer.empty()) {
        return;
    }
    char chunk[65536];
    const ssize_t got = recv(lane.from, chunk, sizeof chunk, MSG_DONTWAIT);
    if (got < 0 && is_passing_failure()) {
        return;
    }
    // A reset is an end like any other.
    if (got <= 0) {
        lane.ended = true;
        return;
    }
    if (lane.discards) {
        return;
    }
    std::size_t &passed = passed_[static_cast<std::size_t>(way)];
    auto size = static_cast<std::size_t>(got);
    const bool is_watched = cut_.has_value() && cut_->way == way;
    if (is_watched) {
        size = std::min(size, cut_->bytes - passed);
    }
    passed += size;
    lane.buffer.assign(chunk, size);
    lane.due = Clock::now() + delay_;
    if (way == Way::Request) {
        judge(connection);
    } else {
        shift_time(lane.buffer);
    }
    if (is_watched && passed == cut_->bytes) {
        cut(connection, cut_->ending);
    }
}

// Reads no more of the request, and the reply only to learn when the server has hung up.
void Proxy::cut(Connection &connection, Ending ending) {
    cut_.reset();
    connection.is_cut = true;
    connection.request.ended = true;
    connection.reply.discards = true;
    if (ending == Ending::Reset) {
        // Makes a close a reset.
        const linger at_once = {1, 0};
        setsockopt(connection.request.from, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    }
}

// Has a request that was waited for meet its fate.
void Proxy::judge(Connection &connection) {
    std::string &request = connection.request.buffer;
    for (auto &[word, count] : seen_) {
        count += request.find(word) != std::string::npos ? 1 : 0;
    }
    const auto is_met = [&](const Meeting &meeting) { return request.find(meeting.word) != std::string::npos; };
    const auto met = std::find_if(meetings_.begin(), meetings_.end(), is_met);
    if (met == meetings_.end()) {
        return;
    }
    is_away_ |= met->then_goes_away;
    if (met->fate == Fate::IsHeldBack) {
        connection.request.is_stalled = true;
    } else {
        if (met->fate == Fate::NeverArrives) {
            request.clear();
        }
        cut(connection, Ending::HangUp);
    }
    meetings_.erase(met);
}

// The seconds that an answer to TIME begins with.
void Proxy::shift_time(std::string &answer) const {
    const std::string before = "*2\r\n$10\r\n";
    const std::size_t at = answer.find(before);
    if (clock_shift_.count() != 0 && at != std::string::npos) {
        const std::size_t digits = at + before.size();
        const long long seconds = std::stoll(answer.substr(digits, 10)) + clock_shift_.count();
        answer.replace(digits, 10, std::to_string(seconds));
    }
}

// Sends what waits and is due, and behind it, that nothing more comes.
void Proxy::pass_on(Connection &connection, Way way) {
    Lane &lane = connection.lane(way);
    if (lane.can_pass(Clock::now())) {
        const ssize_t sent = send(lane.to, lane.buffer.data(), lane.buffer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) {
            lane.buffer.erase(0, static_cast<std::size_t>(sent));
        } else if (!is_passing_failure()) {
            // Nobody is there to receive it. The other way is read to its end all the same.
            lane.buffer.clear();
            lane.discards = true;
        }
    }
    // The client is told by closing the connection, when the server has hung up.
    if (way == Way::Request && lane.ended && lane.buffer.empty() && !lane.told_end) {
        shutdown(lane.to, SHUT_WR);
        lane.told_end = true;
    }
}

// The server has hung up, and the client has all that it is to get.
bool Proxy::has_ended(const Connection &connection) const {
    return connection.reply.ended && connection.reply.buffer.empty();
}

void Proxy::close_connection(const Connection &connection) {
    close(connection.request.from);
    close(connection.request.to);
}

} // namespace support
