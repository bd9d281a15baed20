#include "redis_server.hpp"

#include <hiredis/hiredis.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "eventually.hpp"

namespace support {
namespace {

std::string make_directory() {
    std::string path = (std::filesystem::temp_directory_path() / "pita-redis-XXXXXX").string();
    if (mkdtemp(path.data()) == nullptr) {
        throw std::runtime_error("no temporary directory " + path);
    }
    return path;
}

// Below the ports that the kernel gives to outgoing connections, so that nobody takes it between kill and restart; and
// so is the one 10000 above, where a server of a cluster talks to the others.
int random_port() {
    std::random_device random;
    return std::uniform_int_distribution<int>(12000, 22000)(random);
}

std::string contents(const std::string &path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
}

bool answers(const std::string &socket_path) {
    redisContext *context = redisConnectUnix(socket_path.c_str());
    bool ready = false;
    if (context != nullptr && context->err == 0) {
        if (auto *reply = static_cast<redisReply *>(redisCommand(context, "PING"))) {
            // A server that wants a password first is up, too, and so is one that still loads what it had saved.
            const std::string text(reply->str, reply->len);
            ready = reply->type != REDIS_REPLY_ERROR || text.rfind("NOAUTH", 0) == 0 || text.rfind("LOADING", 0) == 0;
            freeReplyObject(reply);
        }
    }
    redisFree(context);
    return ready;
}

} // namespace

RedisServer::RedisServer(std::vector<std::string> options, Port kind)
    : options_(std::move(options)), kind_(kind), directory_(make_directory()), owner_(getpid()) {
    for (int attempt = 0; attempt < 20; ++attempt) {
        port_ = random_port();
        if (start()) {
            return;
        }
    }
    const std::string log = contents(directory_ + "/redis.log");
    std::filesystem::remove_all(directory_);
    throw std::runtime_error("redis-server does not start: " + log);
}

RedisServer::~RedisServer() {
    // A child that ends by exit() destroys what it has inherited.
    if (getpid() != owner_) {
        return;
    }
    kill();
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
}

std::string RedisServer::url(const std::string &more, int db) const {
    const std::string address = "redis://" + host_and_port() + "/" + std::to_string(db);
    return address + "?timeout_ms=60000&connect_timeout_ms=60000" + more;
}

void RedisServer::kill() {
    if (pid_ > 0) {
        ::kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
        pid_ = -1;
        is_frozen_ = false;
    }
}

void RedisServer::restart() {
    kill();
    if (!eventually([&] { return start(); })) {
        throw std::runtime_error("redis-server does not start again: " + contents(directory_ + "/redis.log"));
    }
}

void RedisServer::freeze() {
    ::kill(pid_, SIGSTOP);
    // Returns when it has stopped.
    waitpid(pid_, nullptr, WUNTRACED);
    is_frozen_ = true;
}

void RedisServer::thaw() {
    ::kill(pid_, SIGCONT);
    is_frozen_ = false;
}

// False where the server ends before it is ready: most likely its port is taken.
bool RedisServer::start() {
    const bool is_tls = kind_ == Port::tls || kind_ == Port::tls_sentinel;
    std::vector<std::string> words = {"redis-server", is_tls ? "--tls-port" : "--port", std::to_string(port_)};
    if (is_tls) {
        words.insert(words.end(), {"--port", "0"});
    }
    if (kind_ == Port::sentinel || kind_ == Port::tls_sentinel) {
        // It writes what it learns into a file.
        const std::string file = directory_ + "/sentinel.conf";
        std::ofstream(file, std::ios::app).flush();
        words.insert(words.begin() + 1, {file, "--sentinel"});
    }
    words.insert(words.end(), {"--bind", "127.0.0.1", "--unixsocket", socket_path(), "--dir", directory_, "--logfile",
                               directory_ + "/redis.log", "--save", "", "--appendonly", "no"});
    words.insert(words.end(), options_.begin(), options_.end());
    std::vector<char *> argv;
    for (std::string &word : words) {
        argv.push_back(word.data());
    }
    argv.push_back(nullptr);

    std::filesystem::remove(socket_path());
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        // The parent may have died before that took effect.
        if (getppid() == parent) {
            execvp(argv[0], argv.data());
        }
        _exit(127);
    }
    if (pid_ < 0) {
        throw std::system_error(errno, std::generic_category(), "fork");
    }
    bool ended = false;
    const bool ready = eventually([&] {
        ended = waitpid(pid_, nullptr, WNOHANG) == pid_;
        // The socket lies in a directory of our own, so it is our server that answers.
        return ended || answers(socket_path());
    });
    if (ended) {
        pid_ = -1;
        return false;
    }
    if (!ready) {
        kill();
    }
    return ready;
}

RedisServer &shared_server() {
    static RedisServer server;
    return server;
}

} // namespace support
