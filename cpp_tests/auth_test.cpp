// Users, passwords and rights, and that a password is never shown.

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "pita_redis.h"
#include "support/environment.hpp"
#include "support/eventually.hpp"
#include "support/logits.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

// Needs escapes in a URL, and "hunter" is easy to find in a message.
const std::string password = "p@ss:/?#[hunter]%2";
const std::string password_in_url = "p%40ss%3A%2F%3F%23%5Bhunter%5D%252";

class Auth : public SharedServerTest {
  protected:
    ~Auth() override { pita_redis_close(); }

    std::string url_of(const std::string &user_and_password) const {
        return "redis://" + user_and_password + "@" + server.host_and_port() +
               "?timeout_ms=60000&connect_timeout_ms=60000";
    }

    // A user that lives as long as the test.
    void make_user(const std::vector<std::string> &rules) {
        redis.run({"ACL", "DELUSER", "user"});
        std::vector<std::string> words = {"ACL", "SETUSER", "user", "on", ">" + password};
        words.insert(words.end(), rules.begin(), rules.end());
        redis.run(words);
    }
    void TearDown() override { redis.run({"ACL", "DELUSER", "user"}); }

    // Opens as a user who may do everything but one command.
    void open_without(const std::string &command, const std::string &options = "") {
        make_user({"~*", "+@all", "-" + command});
        ASSERT_OK(pita_redis_open((url_of("user:" + password_in_url) + options).c_str()));
    }
};

TEST_F(Auth, LogsInAsAUser) {
    make_user({"~*", "+@all"});
    ASSERT_OK(pita_redis_open(url_of("user:" + password_in_url).c_str()));
    EXPECT_OK(append("a", records(1)));
    EXPECT_EQ(take("a").records, records(1));
}

// Redis refuses a call of the script as a whole that names a key without rights.
TEST_F(Auth, StoresTheRestOfABatchWhereOneKeyIsForbidden) {
    make_user({"~mine-*", "+@all"});
    ASSERT_OK(pita_redis_open(url_of("user:" + password_in_url).c_str()));
    const Logits logits = random_logits(3);
    const char *ids[] = {"mine-1", "theirs", "mine-2"};
    const std::int64_t first_tokens[] = {0, 0, 0};
    pita_status_t statuses[3] = {};
    pita_batch_t batch = batch_over(logits, 3);
    batch.req_ids = ids;
    batch.statuses = statuses;
    long long stored = 0;
    for (const std::int64_t *token_indices : {first_tokens, static_cast<const std::int64_t *>(nullptr)}) {
        batch.token_indices = token_indices;
        EXPECT_STATUS(PITA_ERR_AUTH, pita_store_logits_metrics_batch(&batch));
        EXPECT_EQ(std::vector<pita_status_t>(statuses, statuses + 3),
                  (std::vector<pita_status_t>{PITA_OK, PITA_ERR_AUTH, PITA_OK}));
        ++stored;
        EXPECT_EQ(redis.length("mine-1"), stored);
        EXPECT_EQ(redis.length("mine-2"), stored);
        EXPECT_FALSE(redis.exists("theirs"));
    }
}

TEST_F(Auth, LogsInOverAUnixSocket) {
    make_user({"~*", "+@all"});
    const std::string url = "redis+unix://" + server.socket_path() + "?user=user&pass=" + password_in_url;
    ASSERT_OK(pita_redis_open(url.c_str()));
    EXPECT_OK(append("a", records(1)));
}

TEST_F(Auth, RefusesAWrongPasswordAndAnUnknownUser) {
    make_user({"~*", "+@all"});
    for (const std::string who : {"user:guess", "user", "nobody:guess"}) {
        ASSERT_OK(pita_redis_open(url_of(who).c_str()));
        EXPECT_FAILS(PITA_ERR_AUTH, pita_redis_ping(), "WRONGPASS") << who;
        pita_redis_close();
    }
}

TEST_F(Auth, RefusesAPasswordWhereTheServerHasNone) {
    ASSERT_OK(pita_redis_open(url_of(":" + password_in_url).c_str()));
    EXPECT_STATUS(PITA_ERR_AUTH, pita_redis_ping());
    EXPECT_EQ(std::string(pita_last_error()).find("hunter"), std::string::npos) << pita_last_error();
}

TEST_F(Auth, IsNeededByEveryCallWhereTheServerHasAPassword) {
    const RedisServer locked({"--requirepass", password});
    ASSERT_OK(pita_redis_open(locked.url().c_str()));
    std::size_t count = 7;
    EXPECT_FAILS(PITA_ERR_AUTH, pita_redis_ping(), "NOAUTH");
    EXPECT_STATUS(PITA_ERR_AUTH, append("a", records(1)));
    EXPECT_STATUS(PITA_ERR_AUTH, store_at("a", 0, records(1)));
    EXPECT_STATUS(PITA_ERR_AUTH, take("a").status);
    EXPECT_STATUS(PITA_ERR_AUTH, pita_count_metrics("a", &count));
    EXPECT_EQ(count, 0U);
    EXPECT_STATUS(PITA_ERR_AUTH, pita_discard_metrics("a"));
    pita_redis_close();

    const std::string url = "redis://:" + password_in_url + "@" + locked.host_and_port();
    ASSERT_OK(pita_redis_open(url.c_str()));
    EXPECT_OK(append("a", records(1)));
}

TEST_F(Auth, RefusesAUserWithoutTheRightToStore) {
    make_user({"~*", "+@all", "-rpush", "-rpushx"});
    ASSERT_OK(pita_redis_open(url_of("user:" + password_in_url).c_str()));
    // A right that only a script runs into is refused in other words than NOPERM.
    EXPECT_FAILS(PITA_ERR_AUTH, append("a", records(1)), "\"a\"");
    EXPECT_FAILS(PITA_ERR_AUTH, store_at("a", 0, records(1)), "\"a\"");
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(Auth, StoresNothingForAUserWithoutTheRightToRenewALife) {
    open_without("pexpire");
    const float logit = 1;
    EXPECT_FAILS(PITA_ERR_AUTH, append("a", records(2)), "\"a\"");
    EXPECT_FAILS(PITA_ERR_AUTH, store_at("a", 0, records(2)), "\"a\"");
    EXPECT_STATUS(PITA_ERR_AUTH, pita_store_logits_metrics("a", &logit, 1, 1, PITA_METRIC_ALL));
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(Auth, StoresForAUserWithoutTheRightToRenewALifeWhereListsLiveForEver) {
    open_without("pexpire", "&ttl_s=0");
    EXPECT_OK(append("a", records(2)));
    EXPECT_OK(store_at("a", 1, records(2, 1)));
    EXPECT_EQ(stored(redis, "a"), records(3));
}

TEST_F(Auth, ClaimsThatMayNotBeDeletedCostStoresNothing) {
    constexpr std::size_t times = 50;
    open_without("unlink");
    for (std::size_t i = 0; i < times; ++i) {
        ASSERT_OK(append("a", records(1)));
        ASSERT_EQ(take("a").records, records(1));
    }
    // By then it is tried again.
    std::this_thread::sleep_for(milliseconds(1100));
    const std::uint64_t before = stats_now().round_trip_latency.count;
    for (std::size_t i = 0; i < times; ++i) {
        ASSERT_OK(append("b", records(1)));
    }
    EXPECT_LE(stats_now().round_trip_latency.count - before, times + 10);
}

// Which commands a store is made of is the library's matter: without any of them it is done as a whole or not at all.
TEST_F(Auth, RefusesAStoreAsAWhole) {
    struct Store {
        std::int64_t token_index;
        Records stored;
        Records after;
    };
    const Records before = records(3);
    const Store stores[] = {
        {-1, records(2, 3), records(5)},
        {0, records(2, 10), {record(10), record(11), record(2)}},
        {0, records(3, 10), records(3, 10)},
        {0, records(5, 10), records(5, 10)},
        {1, records(1, 10), {record(0), record(10), record(2)}},
        {2, records(2, 10), {record(0), record(1), record(10), record(11)}},
        {3, records(1, 3), records(4)},
    };
    for (const std::string command : {"del", "eval", "evalsha", "exists", "linsert", "llen", "lrange", "lset", "ltrim",
                                      "pexpire", "pttl", "rename", "rpush", "rpushx", "unlink"}) {
        SCOPED_TRACE(command);
        open_without(command);
        for (const Store &store : stores) {
            SCOPED_TRACE(testing::Message() << store.stored.size() << " at " << store.token_index);
            redis.run({"DEL", "a"});
            redis.run({"RPUSH", "a", "0,0.25,0.5", "1,1.25,1.5", "2,2.25,2.5"});
            const pita_status_t status = store_at("a", store.token_index, store.stored);
            EXPECT_TRUE(status == PITA_OK || status == PITA_ERR_AUTH) << shown(status) << " " << pita_last_error();
            EXPECT_EQ(stored(redis, "a"), status == PITA_OK ? store.after : before);
            EXPECT_EQ(redis.keys(), 1);
        }
        pita_redis_close();
    }
}

TEST_F(Auth, RefusesADatabaseThatAUserMayNotSelectAndStoresNothingElsewhere) {
    make_user({"~*", "+@all", "-select"});
    const std::string url = "redis://user:" + password_in_url + "@" + server.host_and_port() + "/5?timeout_ms=60000";
    ASSERT_OK(pita_redis_open(url.c_str()));
    EXPECT_FAILS(PITA_ERR_AUTH, append("a", records(1)), "NOPERM");
    EXPECT_STATUS(PITA_ERR_AUTH, store_at("a", 0, records(1)));
    EXPECT_STATUS(PITA_ERR_AUTH, pita_redis_ping());
    EXPECT_EQ(redis.keys(), 0);
    Hiredis fifth(server, 5);
    EXPECT_EQ(fifth.keys(), 0);
}

TEST_F(Auth, TakesNothingForAUserWithoutTheRightToGiveAClaimALife) {
    redis.push("a", {"1,2,3", "4,5,6"});
    open_without("pexpire");
    EXPECT_STATUS(PITA_ERR_AUTH, take("a").status);
    EXPECT_EQ(stored(redis, "a"), (Records{{1, 2, 3}, {4, 5, 6}}));
    EXPECT_EQ(redis.life_ms("a"), -1);
    EXPECT_EQ(redis.keys(), 1) << "no claim is left";
}

TEST_F(Auth, TakesNothingForAUserWithoutTheRightToReadAList) {
    redis.push("a", {"1,2,3", "4,5,6"});
    redis.run({"PEXPIRE", "a", "500000"});
    open_without("lrange");
    EXPECT_STATUS(PITA_ERR_AUTH, take("a").status);
    EXPECT_EQ(stored(redis, "a"), (Records{{1, 2, 3}, {4, 5, 6}}));
    EXPECT_LE(redis.life_ms("a"), 500000);
    EXPECT_GT(redis.life_ms("a"), 500000 - patience.count());
    EXPECT_EQ(redis.keys(), 1) << "no claim is left";
}

TEST_F(Auth, RefusesATakeAsAWhole) {
    for (const std::string command : {"del", "eval", "evalsha", "exists", "llen", "lrange", "persist", "pexpire",
                                      "pttl", "rename", "renamenx", "rpoplpush", "unlink"}) {
        SCOPED_TRACE(command);
        open_without(command);
        for (const long long life_ms : {-1, 500000}) {
            redis.run({"FLUSHALL"});
            redis.push("a", {"1,2,3", "4,5,6"});
            if (life_ms > 0) {
                redis.run({"PEXPIRE", "a", std::to_string(life_ms)});
            }
            const Taken taken = take("a");
            if (taken.status == PITA_OK) {
                EXPECT_EQ(taken.records, (Records{{1, 2, 3}, {4, 5, 6}}));
                EXPECT_FALSE(redis.exists("a"));
                continue;
            }
            EXPECT_STATUS(PITA_ERR_AUTH, taken.status);
            EXPECT_EQ(stored(redis, "a"), (Records{{1, 2, 3}, {4, 5, 6}}));
            EXPECT_EQ(redis.life_ms("a") > 0, life_ms > 0);
            EXPECT_EQ(redis.keys(), 1) << "no claim is left";
        }
        pita_redis_close();
    }
}

TEST_F(Auth, RefusesAUserWithoutTheRightToTakeAndKeepsTheList) {
    make_user({"~*", "+@read", "+ping"});
    redis.push("a", {"1,2,3"});
    ASSERT_OK(pita_redis_open(url_of("user:" + password_in_url).c_str()));
    EXPECT_OK(pita_redis_ping());
    EXPECT_FAILS(PITA_ERR_AUTH, take("a").status, "NOPERM");
    EXPECT_FAILS(PITA_ERR_AUTH, pita_discard_metrics("a"), "NOPERM");
    EXPECT_EQ(redis.length("a"), 1);
}

TEST_F(Auth, RefusesAUserWithoutTheRightToAKey) {
    make_user({"~mine:*", "~{mine:*", "+@all"});
    ASSERT_OK(pita_redis_open(url_of("user:" + password_in_url).c_str()));
    EXPECT_OK(append("mine:a", records(1)));
    EXPECT_FAILS(PITA_ERR_AUTH, append("yours:a", records(1)), "NOPERM");
    EXPECT_EQ(redis.keys(), 1);
}

TEST_F(Auth, NeedsNoRightToPing) {
    make_user({"~*", "+@all", "-ping"});
    ASSERT_OK(pita_redis_open(url_of("user:" + password_in_url).c_str()));
    EXPECT_OK(append("a", records(1)));
    EXPECT_STATUS(PITA_ERR_AUTH, pita_redis_ping());
}

// --- no message and no log line holds a password ---------------------------------------------------------------------

class Secret : public Auth {
  protected:
    Secret() {
        pita_set_log_callback(
            [](int, const char *line, void *user) { static_cast<std::vector<std::string> *>(user)->push_back(line); },
            &lines);
    }
    ~Secret() override { pita_set_log_callback(nullptr, nullptr); }

    void expect_untold() {
        lines.push_back(pita_last_error());
        for (const std::string &line : lines) {
            EXPECT_EQ(line.find("hunter"), std::string::npos) << line;
        }
        lines.clear();
    }

    std::vector<std::string> lines;
};

TEST_F(Secret, StaysSecretInUrlsThatAreRefused) {
    for (const char *url : {
             "redis://user:hunter@localhost:99999",
             "redis://user:hunter@localhost/zero",
             "redis://user:hunter@localhost?colour=red",
             "redis://user:hunter@localhost#part",
             "redis://user:hunter%FF@localhost",
             "redis://user:hun?ter=hunter@localhost",
             "redis://user:1?hunter@localhost",
             "redis://user:1#hunter@localhost",
             "redis://user:1/hunter@localhost",
             "redis://user:12/hun?hunter@localhost",
             "redis://user:12/hunter?x@localhost",
             "redis://user:12?hunter=x@localhost",
             "redis://user:12?timeout_ms=hunter@localhost",
             "redis://user:1?write=hunter@localhost",
             "redis:user:hunter",
             "redis:/user:hunter@localhost",
             "redis://user:hunter@",
             "redis://user:hunter@local host",
             "rediss://user:hunter@localhost?tls_ca=/nowhere",
             "http://user:hunter@localhost",
             "hunter:hunter@localhost",
             "user:hunter@localhost",
             "hunter",
             "unix:///run/redis.sock?pass=hunter&db=x",
             "unix:///run/redis.sock?pass=hunter&pass=hunter",
             "unix:///run/redis.sock?pass=hun&hunter",
             "unix:///run/redis.sock?pass=hun&hunter=x",
             "unix:///run/redis.sock?pass=hunter%00",
             "redis://localhost?pass=hunter",
         }) {
        EXPECT_STATUS(PITA_ERR_CONFIG, pita_redis_open(url)) << url;
        expect_untold();
    }
}

TEST_F(Secret, StaysSecretInUrlsThatAreNoStrings) {
    EXPECT_STATUS(PITA_ERR_INVALID_ARGUMENT, pita_redis_open("redis://user:hunter\xFF@localhost"));
    expect_untold();
    EXPECT_STATUS(PITA_ERR_INVALID_ARGUMENT, pita_redis_open(("hunter" + std::string(8192, 'x')).c_str()));
    expect_untold();
}

TEST_F(Secret, StaysSecretInTheEnvironment) {
    const Environment alone(Variables{{"REDIS_PASSWORD", "hunter\xFF"}});
    EXPECT_FAILS(PITA_ERR_CONFIG, pita_redis_open(nullptr), "REDIS_PASSWORD");
    expect_untold();
    const Environment in_a_url(Variables{{"REDIS_URL", "redis://user:hunter@localhost?colour=red"}});
    EXPECT_FAILS(PITA_ERR_CONFIG, pita_redis_open(nullptr), "REDIS_URL");
    expect_untold();
}

TEST_F(Secret, StaysSecretWhenTheServerRefusesIt) {
    ASSERT_OK(pita_redis_open(url_of("hunter:" + password_in_url).c_str()));
    EXPECT_STATUS(PITA_ERR_AUTH, pita_redis_ping());
    EXPECT_STATUS(PITA_ERR_AUTH, append("a", records(1)));
    expect_untold();
}

TEST_F(Secret, StaysSecretWhenThePoolIsOpenWithOtherSettings) {
    ASSERT_OK(pita_redis_open(url_of("user:" + password_in_url).c_str()));
    EXPECT_STATUS(PITA_ERR_CONFIG, pita_redis_open(url_of("user:hunter2").c_str()));
    expect_untold();
}

TEST_F(Secret, StaysSecretWhenAServerIsNotThere) {
    ASSERT_OK(pita_redis_open(("redis://user:" + password_in_url + "@127.0.0.1:1").c_str()));
    EXPECT_STATUS(PITA_ERR_UNAVAILABLE, pita_redis_ping());
    expect_untold();
}

} // namespace
