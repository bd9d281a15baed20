// What a URL can say, that it is obeyed, and what is refused.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "pita_redis.h"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

class Url : public SharedServerTest {
  protected:
    // Stores a record under the id "a" through a pool of its own.
    static void store_by(const std::string &url) {
        SCOPED_TRACE(url);
        const Session session(url);
        EXPECT_OK(append("a", records(1)));
    }
};

TEST_F(Url, NamesHostAndPort) {
    store_by("redis://" + server.host_and_port());
    EXPECT_EQ(stored(redis, "a"), records(1));
}

TEST_F(Url, MayNameTheHost) {
    store_by("redis://localhost:" + std::to_string(server.port()));
    EXPECT_EQ(stored(redis, "a"), records(1));
}

TEST_F(Url, NamesTheDatabase) {
    store_by(server.url("", 3));
    Hiredis third(server, 3);
    EXPECT_EQ(stored(third, "a"), records(1));
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(Url, NamesAUnixSocket) {
    for (const std::string scheme : {"redis+unix://", "unix://"}) {
        store_by(scheme + server.socket_path());
    }
    EXPECT_EQ(redis.length("a"), 2);
}

TEST_F(Url, OfAUnixSocketHasTheDatabaseAsAnOption) {
    store_by("redis+unix://" + server.socket_path() + "?db=2&ttl_s=100");
    Hiredis second(server, 2);
    EXPECT_EQ(stored(second, "a"), records(1));
}

TEST_F(Url, NamesAPrefixForEveryId) {
    const Session session(server.url("&prefix=pita%3A%26%C3%A9%3A"));
    const std::string key = "pita:&\xC3\xA9:a";
    EXPECT_OK(append("a", records(2)));
    EXPECT_EQ(stored(redis, key), records(2));

    std::size_t count = 0;
    EXPECT_OK(pita_count_metrics("a", &count));
    EXPECT_EQ(count, 2U);
    EXPECT_EQ(take("a").records, records(2));
    EXPECT_OK(append("a", records(1)));
    EXPECT_OK(pita_discard_metrics("a"));
    EXPECT_FALSE(redis.exists(key));
}

TEST_F(Url, MayAskForWhatIsTheDefaultAnyway) {
    store_by("redis://" + server.host_and_port() +
             "?pool_size=8&connect_timeout_ms=500&timeout_ms=1000&ttl_s=3600&prefix=&write=sync&queue=65536"
             "&autostart=0");
    EXPECT_EQ(redis.length("a"), 1);
}

TEST_F(Url, WithADatabaseThatTheServerLacksFailsInTheServersWords) {
    const Session session(server.url("", 999));
    EXPECT_FAILS(PITA_ERR_REDIS, pita_redis_ping(), "DB index is out of range");
    EXPECT_STATUS(PITA_ERR_REDIS, append("a", records(1)));
}

// --- refused ---------------------------------------------------------------------------------------------------------

struct Refused {
    const char *name;
    std::string url;
    std::vector<std::string> words;
};

void PrintTo(const Refused &refused, std::ostream *out) {
    *out << refused.url.substr(0, 100);
}

class RefusedUrl : public testing::TestWithParam<Refused> {};

TEST_P(RefusedUrl, IsAConfigErrorThatSaysWhat) {
    ASSERT_STATUS(PITA_ERR_CONFIG, pita_redis_open(GetParam().url.c_str()));
    const std::string message = pita_last_error();
    for (const std::string &word : GetParam().words) {
        EXPECT_NE(message.find(word), std::string::npos) << "\"" << message << "\" lacks \"" << word << "\"";
    }
    EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_redis_ping());
}

const Refused refused_urls[] = {
    {"Empty", "", {"URL"}},
    {"NoScheme", "localhost:6379", {"scheme"}},
    {"AnotherScheme", "http://localhost", {"scheme"}},
    {"PortTooHigh", "redis://localhost:65536", {"port"}},
    {"PortNoNumber", "redis://localhost:redis", {"port"}},
    {"DatabaseNoNumber", "redis://localhost/zero", {"database", "\"zero\""}},
    {"DatabaseNegative", "redis://localhost/-1", {"database", "\"-1\""}},
    {"DatabaseTooHigh", "redis://localhost/4294967296", {"database", "\"4294967296\""}},
    {"Fragment", "redis://localhost#part", {"#"}},
    {"SocketWithoutPath", "redis+unix://", {"path"}},
    {"SocketPathTooLong", "unix:///" + std::string(107, 's'), {"path"}},
    {"SocketWithTwoSlashes", "unix://run/redis.sock", {"three slashes"}},

    {"UnknownOption", "redis://localhost?colour=red", {"colour"}},
    {"OptionInCapitals", "redis://localhost?TTL_S=1", {"unknown"}},
    {"OptionTwice", "redis://localhost?ttl_s=1&ttl_s=2", {"ttl_s", "twice"}},
    {"OptionWithoutValue", "redis://localhost?ttl_s", {"ttl_s", "\"\""}},
    {"OptionNotUtf8", "redis://localhost?prefix=%FF", {"prefix", "UTF-8"}},
    {"OptionWithNul", "redis://localhost?prefix=a%00b", {"prefix", "NUL"}},
    {"UnixOptionOverTcp", "redis://localhost?db=1", {"db"}},

    {"PoolSizeZero", "redis://localhost?pool_size=0", {"pool_size", "\"0\""}},
    {"PoolSizeNegative", "redis://localhost?pool_size=-1", {"pool_size", "\"-1\""}},
    {"PoolSizeNoNumber", "redis://localhost?pool_size=many", {"pool_size", "\"many\""}},
    {"TimeoutZero", "redis://localhost?timeout_ms=0", {"timeout_ms", "\"0\""}},
    {"TimeoutWithUnit", "redis://localhost?timeout_ms=1s", {"timeout_ms", "\"1s\""}},
    {"ConnectTimeoutFraction", "redis://localhost?connect_timeout_ms=1.5", {"connect_timeout_ms", "\"1.5\""}},
    {"TtlNegative", "redis://localhost?ttl_s=-1", {"ttl_s", "\"-1\""}},
    {"TtlTooLong", "redis://localhost?ttl_s=99999999999999999999", {"ttl_s", "\"99999999999999999999\""}},
    {"QueueZero", "redis://localhost?queue=0", {"queue", "\"0\""}},
    {"WriteUnknown", "redis://localhost?write=often", {"write", "\"often\""}},
    {"AutostartUnknown", "redis://localhost?autostart=2", {"autostart", "\"2\""}},
    {"PrefixTooLong", "redis://localhost?prefix=" + std::string(1025, 'p'), {"prefix", "1025"}},

    {"PortZero", "redis://localhost:0", {"port", "0", "65535"}},
    {"AutostartElsewhere", "redis://example.org?autostart=1", {"autostart=1", "\"example.org\"", "another machine"}},
    {"AutostartOverTls", "rediss://localhost?autostart=1", {"autostart=1", "TLS"}},
    {"TlsAuthoritiesWithoutTls", "redis://localhost?tls_ca=/etc/ca.pem", {"tls_ca", "rediss"}},
    {"TlsAuthoritiesNowhere", "rediss://localhost?tls_ca=/nowhere", {"tls_ca is \"/nowhere\""}},
    {"ClusterWithADatabase", "redis+cluster://localhost/2", {"database is \"2\"", "cluster"}},
    {"ClusterWithAutostart", "redis+cluster://localhost?autostart=1", {"autostart=1", "cluster"}},
    {"SeveralHosts", "redis://a,b", {"several hosts"}},
    {"SentinelWithoutService", "redis+sentinel://localhost", {"no service", "redis+sentinel://host:port/service"}},
};

INSTANTIATE_TEST_SUITE_P(Refused, RefusedUrl, testing::ValuesIn(refused_urls),
                         [](const auto &test) { return test.param.name; });

TEST(UrlArgument, MayHaveTheLongestPathOfASocket) {
    const Session session("unix:///" + std::string(106, 's'));
    EXPECT_STATUS(PITA_ERR_UNAVAILABLE, pita_redis_ping());
}

TEST(UrlArgument, OfMoreThan8192BytesIsRefused) {
    const std::string start = "redis://localhost?colour=";
    const std::string longest = start + std::string(8192 - start.size(), 'x');
    EXPECT_FAILS(PITA_ERR_CONFIG, pita_redis_open(longest.c_str()), "colour");
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_redis_open((longest + "x").c_str()), "url", "8192");
}

TEST(UrlArgument, ThatIsNotUtf8IsRefused) {
    EXPECT_FAILS(PITA_ERR_INVALID_ARGUMENT, pita_redis_open("redis://localhost?prefix=\xFF"), "url", "UTF-8");
}

} // namespace
