// What the kernel tells of processes: their threads, children, sockets; and a signal between a parent and its children.

#pragma once

#include <arpa/inet.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <new>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "eventually.hpp"

namespace support {

// The text of a file of /proc; empty where there is none, for processes come and go.
inline std::string text_of(const std::filesystem::path &path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    // Unlike an iterator, this takes a thread that ends between opening and reading for the end of the file.
    text << file.rdbuf();
    return text.str();
}

// The names in a folder of /proc.
inline std::vector<std::string> names_in(const std::filesystem::path &path) {
    std::vector<std::string> names;
    std::error_code gone;
    for (std::filesystem::directory_iterator at(path, gone), end; !gone && at != end; at.increment(gone)) {
        names.push_back(at->path().filename().string());
    }
    return names;
}

inline std::string proc(pid_t process) {
    return "/proc/" + std::to_string(process);
}

// What the kernel says of a process or a thread, such as the digits behind "SigBlk:"; empty where it is gone.
inline std::string status_of(const std::string &proc, const std::string &name) {
    const std::string text = text_of(proc + "/status");
    const std::size_t at = text.find("\n" + name + ":\t");
    const std::size_t start = at + name.size() + 3;
    return at == std::string::npos ? "" : text.substr(start, text.find('\n', start) - start);
}

// The threads of this process that have this name, as folders of /proc.
inline std::vector<std::string> tasks_named(const std::string &name) {
    std::vector<std::string> found;
    for (const std::string &task : names_in("/proc/self/task")) {
        const std::string folder = "/proc/self/task/" + task;
        if (text_of(folder + "/comm") == name + "\n") {
            found.push_back(folder);
        }
    }
    return found;
}

inline std::size_t threads_named(const std::string &name) {
    return tasks_named(name).size();
}

// Whether the one thread of this name comes to wait for something other than time.
inline bool falls_asleep(const std::string &name) {
    return eventually([&] {
        const std::vector<std::string> tasks = tasks_named(name);
        const auto switches = [&] { return status_of(tasks.at(0), "voluntary_ctxt_switches"); };
        const std::string before = tasks.size() == 1 ? switches() : "";
        return before != "" && !eventually([&] { return switches() != before; }, milliseconds(30));
    });
}

// The processes that a process has started and that have not been waited for.
inline std::set<pid_t> children_of(pid_t process) {
    std::set<pid_t> children;
    const std::string tasks = proc(process) + "/task";
    for (const std::string &task : names_in(tasks)) {
        std::istringstream numbers(text_of(tasks + "/" + task + "/children"));
        children.insert(std::istream_iterator<pid_t>(numbers), std::istream_iterator<pid_t>());
    }
    return children;
}

// The addresses on which somebody listens on a TCP port, as hexadecimal digits; that of 127.0.0.1 is "0100007F".
inline std::set<std::string> listening_on(int port) {
    std::set<std::string> addresses;
    for (const char *table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
        std::istringstream lines(text_of(table));
        std::string line;
        std::getline(lines, line);
        while (std::getline(lines, line)) {
            std::istringstream words(line);
            std::string number;
            std::string local;
            std::string remote;
            std::string state;
            words >> number >> local >> remote >> state;
            const std::size_t colon = local.find(':');
            if (state == "0A" && std::stoi(local.substr(colon + 1), nullptr, 16) == port) {
                addresses.insert(local.substr(0, colon));
            }
        }
    }
    return addresses;
}

// How many of this process's descriptors are sockets that are connected to a port of 127.0.0.1.
inline int sockets_to(int port) {
    int count = 0;
    for (const std::string &name : names_in("/proc/self/fd")) {
        sockaddr_in peer = {};
        socklen_t size = sizeof peer;
        if (getpeername(std::atoi(name.c_str()), reinterpret_cast<sockaddr *>(&peer), &size) == 0 &&
            peer.sin_family == AF_INET && ntohs(peer.sin_port) == port) {
            ++count;
        }
    }
    return count;
}

// Shut at first. Whoever opens it, parent or child, lets the others through.
class Gate {
  public:
    Gate() {
        void *memory =
            mmap(nullptr, sizeof(std::atomic<bool>), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            throw std::runtime_error("no shared memory");
        }
        is_open_ = new (memory) std::atomic<bool>(false);
    }
    ~Gate() { munmap(is_open_, sizeof *is_open_); }
    Gate(const Gate &) = delete;
    Gate &operator=(const Gate &) = delete;

    void open() { *is_open_ = true; }
    // False where nobody opens it.
    bool wait() const {
        return eventually([this] { return is_open_->load(); });
    }

  private:
    std::atomic<bool> *is_open_;
};

} // namespace support
