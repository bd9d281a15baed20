// A real redis-server of the test's own.

#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace support {

// A redis-server on a free port of 127.0.0.1 and on a unix socket, which keeps nothing on disk unless options say so.
//
// Ready for commands when constructed, gone when destroyed or when this process dies. A forked child leaves it alone.
// Throws std::runtime_error.
class RedisServer {
  public:
    // How the port is served, and by what. The unix socket is never encrypted.
    enum class Port { plain, tls, sentinel, tls_sentinel };

    // Options are words of redis-server's command line, such as {"--requirepass", "secret"}.
    explicit RedisServer(std::vector<std::string> options = {}, Port kind = Port::plain);
    ~RedisServer();
    RedisServer(const RedisServer &) = delete;
    RedisServer &operator=(const RedisServer &) = delete;

    int port() const { return port_; }
    std::string socket_path() const { return directory_ + "/redis.sock"; }
    // Where it works, and would save.
    const std::string &directory() const { return directory_; }

    // "127.0.0.1:6379"
    std::string host_and_port() const { return "127.0.0.1:" + std::to_string(port_); }

    // A URL whose timeouts are long enough for a slow machine. `more` is "&option=value...".
    std::string url(const std::string &more = "", int db = 0) const;

    // Kills it; it has no chance to say good-bye.
    void kill();
    // Starts it again on the same port and in the same directory: empty, unless options have it keep things on disk.
    void restart();
    // Stops it in its tracks: connections stay up, nothing is answered.
    void freeze();
    void thaw();
    // Whether it is neither killed nor frozen.
    bool is_up() const { return pid_ > 0 && !is_frozen_; }

  private:
    bool start();

    std::vector<std::string> options_;
    Port kind_;
    std::string directory_;
    int port_ = 0;
    pid_t pid_ = -1;
    bool is_frozen_ = false;
    pid_t owner_;
};

// The server that most tests use; started by the first one.
RedisServer &shared_server();

} // namespace support
