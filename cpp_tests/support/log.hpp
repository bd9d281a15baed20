// The library's log lines.

#pragma once

#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "pita_redis.h"

namespace support {

// Gets the lines while it lives.
class Log {
  public:
    Log() { pita_set_log_callback(add, this); }
    ~Log() { pita_set_log_callback(nullptr, nullptr); }
    Log(const Log &) = delete;
    Log &operator=(const Log &) = delete;

    std::vector<std::pair<int, std::string>> lines() {
        const std::lock_guard lock(mutex_);
        return lines_;
    }

    bool has(int level, const std::string &word) {
        for (const auto &[its_level, line] : lines()) {
            if (its_level == level && line.find(word) != std::string::npos) {
                return true;
            }
        }
        return false;
    }

  private:
    static void add(int level, const char *message, void *user) {
        auto &log = *static_cast<Log *>(user);
        const std::lock_guard lock(log.mutex_);
        log.lines_.emplace_back(level, message);
    }

    std::mutex mutex_;
    std::vector<std::pair<int, std::string>> lines_;
};

} // namespace support
