// pita_redis_open(NULL): the environment says where Redis is.

#include <gtest/gtest.h>

#include <string>

#include "pita_redis.h"
#include "support/environment.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

class OpenByEnvironment : public SharedServerTest {
  protected:
    OpenByEnvironment() : port(std::to_string(server.port())) {}
    ~OpenByEnvironment() override { pita_redis_close(); }

    // Stores a record under the id "a" with nothing but these variables set.
    static pita_status_t store_with(const Variables &variables) {
        const Environment environment(variables);
        const Session session("");
        return append("a", records(1));
    }

    // What opening says with nothing but these variables set.
    static pita_status_t open_with(const Variables &variables) {
        const Environment environment(variables);
        return pita_redis_open(nullptr);
    }

    std::string port;
};

TEST_F(OpenByEnvironment, ObeysHostPortAndDatabase) {
    EXPECT_OK(store_with({{"REDIS_HOST", "127.0.0.1"}, {"REDIS_PORT", port}, {"REDIS_DB", "5"}}));
    Hiredis fifth(server, 5);
    EXPECT_EQ(stored(fifth, "a"), records(1));
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(OpenByEnvironment, TakesLocalhostAndDatabase0WhereNotToldOtherwise) {
    EXPECT_OK(store_with({{"REDIS_PORT", port}}));
    EXPECT_EQ(stored(redis, "a"), records(1));
}

TEST_F(OpenByEnvironment, TakesTheDefaultsWhereNothingIsSet) {
    ASSERT_OK(open_with({}));
    EXPECT_OK(pita_redis_open("redis://localhost:6379/0")) << "the same settings";
}

TEST_F(OpenByEnvironment, ObeysAUrlWithItsOptions) {
    EXPECT_OK(store_with({{"REDIS_URL", server.url("&prefix=env:", 4)}}));
    Hiredis fourth(server, 4);
    EXPECT_EQ(stored(fourth, "env:a"), records(1));
}

TEST_F(OpenByEnvironment, PrefersTheUrlToTheRest) {
    EXPECT_OK(store_with({{"REDIS_URL", server.url()}, {"REDIS_HOST", "nowhere.invalid"}, {"REDIS_DB", "7"}}));
    EXPECT_EQ(stored(redis, "a"), records(1));
}

TEST_F(OpenByEnvironment, ObeysTheValkeyNamesToo) {
    EXPECT_OK(store_with({{"VALKEY_HOST", "127.0.0.1"}, {"VALKEY_PORT", port}, {"VALKEY_DB", "6"}}));
    Hiredis sixth(server, 6);
    EXPECT_EQ(stored(sixth, "a"), records(1));
    EXPECT_OK(store_with({{"VALKEY_URL", server.url("", 6)}}));
    EXPECT_EQ(sixth.length("a"), 2);
}

TEST_F(OpenByEnvironment, ForgetsTheValkeyNamesWhereARedisNameIsSet) {
    EXPECT_OK(store_with({{"REDIS_PORT", port}, {"VALKEY_DB", "6"}, {"VALKEY_URL", "redis://nowhere.invalid"}}));
    EXPECT_EQ(stored(redis, "a"), records(1));
}

TEST_F(OpenByEnvironment, TakesAnEmptyVariableForNone) {
    EXPECT_OK(store_with({{"REDIS_URL", ""}, {"REDIS_HOST", ""}, {"REDIS_PORT", port}, {"REDIS_DB", ""}}));
    EXPECT_EQ(redis.length("a"), 1);
    EXPECT_OK(store_with({{"REDIS_URL", ""}, {"REDIS_PASSWORD", ""}, {"VALKEY_PORT", port}}));
    EXPECT_EQ(redis.length("a"), 2);
}

TEST_F(OpenByEnvironment, LogsInWithUserAndPassword) {
    redis.run({"ACL", "SETUSER", "writer", "on", ">pass word", "~*", "+@all"});
    EXPECT_OK(store_with({{"REDIS_PORT", port}, {"REDIS_USERNAME", "writer"}, {"REDIS_PASSWORD", "pass word"}}));
    EXPECT_STATUS(PITA_ERR_AUTH,
                  store_with({{"REDIS_PORT", port}, {"REDIS_USERNAME", "writer"}, {"REDIS_PASSWORD", "guess"}}));
    redis.run({"ACL", "DELUSER", "writer"});
    EXPECT_EQ(redis.length("a"), 1);
}

TEST_F(OpenByEnvironment, IsNotAskedWhereThereIsAUrl) {
    const Environment environment(Variables{{"REDIS_URL", "redis://nowhere.invalid"}, {"REDIS_DB", "x"}});
    const Session session(server.url());
    EXPECT_OK(pita_redis_ping());
}

TEST_F(OpenByEnvironment, NamesTheVariableThatItCannotUnderstand) {
    EXPECT_FAILS(PITA_ERR_CONFIG, open_with({{"REDIS_PORT", "tcp://10.0.0.1:6379"}}), "REDIS_PORT", "tcp://10.0.0.1");
    EXPECT_FAILS(PITA_ERR_CONFIG, open_with({{"REDIS_PORT", "0"}}), "REDIS_PORT", "\"0\"");
    EXPECT_FAILS(PITA_ERR_CONFIG, open_with({{"REDIS_PORT", "65536"}}), "REDIS_PORT", "\"65536\"");
    EXPECT_FAILS(PITA_ERR_CONFIG, open_with({{"REDIS_DB", "first"}}), "REDIS_DB", "\"first\"");
    EXPECT_FAILS(PITA_ERR_CONFIG, open_with({{"VALKEY_PORT", "x"}}), "VALKEY_PORT", "\"x\"");
    EXPECT_FAILS(PITA_ERR_CONFIG, open_with({{"VALKEY_DB", "-1"}}), "VALKEY_DB", "\"-1\"");
    EXPECT_FAILS(PITA_ERR_CONFIG, open_with({{"REDIS_URL", "redis://h?colour=red"}}), "REDIS_URL", "colour");
    EXPECT_FAILS(PITA_ERR_CONFIG, open_with({{"VALKEY_URL", "http://h"}}), "VALKEY_URL", "scheme");
    EXPECT_FAILS(PITA_ERR_CONFIG, open_with({{"REDIS_HOST", "\xFF"}}), "REDIS_HOST", "UTF-8");
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_redis_ping());
}

TEST_F(OpenByEnvironment, RefusesAKernelThatThisMachineDoesNotRun) {
    EXPECT_FAILS(PITA_ERR_CONFIG, open_with({{"PITA_KERNEL", "mmx"}}), "PITA_KERNEL is \"mmx\"", "scalar");
    EXPECT_FAILS(PITA_ERR_CONFIG, open_with({{"PITA_KERNEL", "\xFF"}}), "PITA_KERNEL", "scalar");
    EXPECT_OK(open_with({{"PITA_KERNEL", "scalar"}}));
}

TEST_F(OpenByEnvironment, RefusesANumberOfThreadsThatIsNone) {
    for (const char *number : {"0", "-1", "two"}) {
        EXPECT_FAILS(PITA_ERR_CONFIG, open_with({{"PITA_NUM_THREADS", number}}), "PITA_NUM_THREADS is", number);
    }
    EXPECT_OK(open_with({{"PITA_NUM_THREADS", "1"}}));
}

} // namespace
