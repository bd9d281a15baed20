// Ports where nobody listens.

#pragma once

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>

namespace support {

// Where surely nobody listens: bound, so that nobody else can, but never listened on.
class ClosedPort {
  public:
    ClosedPort() : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address = {};
        socklen_t size = sizeof address;
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        auto *generic = reinterpret_cast<sockaddr *>(&address);
        if (bind(socket_, generic, size) != 0 || getsockname(socket_, generic, &size) != 0) {
            close(socket_);
            throw std::runtime_error("no free port");
        }
        port_ = ntohs(address.sin_port);
    }
    ~ClosedPort() { close(socket_); }
    ClosedPort(const ClosedPort &) = delete;
    ClosedPort &operator=(const ClosedPort &) = delete;

    std::string host_and_port() const { return "127.0.0.1:" + std::to_string(port_); }

  private:
    int socket_;
    int port_ = 0;
};

// A port of 127.0.0.1 that is free to listen on, below those that the kernel gives to outgoing connections.
inline int free_port() {
    std::random_device random;
    std::uniform_int_distribution<int> ports(12000, 32000);
    for (int attempt = 0; attempt < 100; ++attempt) {
        const int port = ports(random);
        sockaddr_in address = {};
        address.sin_family = AF_INET;
        address.sin_port = htons(static_cast<std::uint16_t>(port));
        const int trial = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const bool is_free = bind(trial, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0;
        close(trial);
        if (is_free) {
            return port;
        }
    }
    throw std::runtime_error("no free port");
}

} // namespace support
