// A host's name whose look-up does not end costs its time, and no more than that.

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <netdb.h>

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>

#include "pita_redis.h"
#include "support/eventually.hpp"
#include "support/processes.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

// Reserved, so nobody has it.
const char *const slow_name = "slow.pita-redis.invalid";

// Look-ups of the slow name wait here.
class Resolver {
  public:
    void shut() {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_shut_ = true;
    }
    void open() {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_shut_ = false;
        changed_.notify_all();
    }
    void pass() {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return !is_shut_; });
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool is_shut_ = false;
};

Resolver &resolver() {
    static Resolver resolver;
    return resolver;
}

} // namespace

// Stands before the C library's, for the library as well.
extern "C" int getaddrinfo(const char *name, const char *service, const addrinfo *hints, addrinfo **found) {
    using Function = int (*)(const char *, const char *, const addrinfo *, addrinfo **);
    if (name != nullptr && std::strcmp(name, slow_name) == 0) {
        resolver().pass();
        return EAI_NONAME;
    }
    static const auto real = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "getaddrinfo"));
    return real(name, service, hints, found);
}

namespace {

class SlowLookup : public testing::Test {
  protected:
    SlowLookup() { resolver().shut(); }
    ~SlowLookup() override {
        pita_redis_close();
        resolver().open();
        EXPECT_TRUE(eventually([] { return threads() == 0; }));
        EXPECT_TRUE(eventually([] { return threads_named("pita-probe") == 0; }));
    }

    static long threads() { return threads_named("pita-lookup"); }

    static std::string url() {
        return std::string("redis://") + slow_name + ":6379?connect_timeout_ms=20&timeout_ms=60000";
    }
};

TEST_F(SlowLookup, EndsInTime) {
    const Session session(url());
    EXPECT_LT(time_of([] { EXPECT_STATUS(PITA_ERR_UNAVAILABLE, pita_redis_ping()); }), milliseconds(2000));
    EXPECT_NE(std::string(pita_last_error()).find("looking up"), std::string::npos) << pita_last_error();
}

TEST_F(SlowLookup, LeavesFewThreadsOfOnePool) {
    const Session session(url());
    for (int i = 0; i < 50; ++i) {
        EXPECT_STATUS(PITA_ERR_UNAVAILABLE, pita_redis_ping());
    }
    EXPECT_LE(threads(), 8);
}

TEST_F(SlowLookup, LeavesFewThreadsOfManyPools) {
    for (int i = 0; i < 50; ++i) {
        const Session session(url());
        EXPECT_STATUS(PITA_ERR_UNAVAILABLE, pita_redis_ping());
    }
    EXPECT_LE(threads(), 8);
}

} // namespace
