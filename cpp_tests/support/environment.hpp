// The environment variables that pita_redis_open(NULL) reads.

#pragma once

#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace support {

using Variables = std::map<std::string, std::string>;

// While it lives, of the library's variables only the given ones are set. Afterwards all are as they were.
class Environment {
  public:
    explicit Environment(const Variables &variables) {
        for (const char *family : {"REDIS_", "VALKEY_"}) {
            for (const char *name : {"URL", "HOST", "PORT", "DB", "USERNAME", "PASSWORD"}) {
                const std::string variable = std::string(family) + name;
                if (const char *value = std::getenv(variable.c_str())) {
                    before_[variable] = value;
                }
                unsetenv(variable.c_str());
            }
        }
        for (const auto &[variable, value] : variables) {
            if (const char *before = std::getenv(variable.c_str())) {
                before_[variable] = before;
            }
            setenv(variable.c_str(), value.c_str(), 1);
            set_.push_back(variable);
        }
    }
    ~Environment() {
        for (const std::string &variable : set_) {
            unsetenv(variable.c_str());
        }
        for (const auto &[variable, value] : before_) {
            setenv(variable.c_str(), value.c_str(), 1);
        }
    }
    Environment(const Environment &) = delete;
    Environment &operator=(const Environment &) = delete;

  private:
    std::map<std::string, std::string> before_;
    std::vector<std::string> set_;
};

} // namespace support
