// rediss://: a server that proves who it is, one that cannot, and one that hangs.

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <sstream>
#include <string>
#include <vector>

#include "pita_redis.h"
#include "support/blocked_call.hpp"
#include "support/certificates.hpp"
#include "support/child.hpp"
#include "support/environment.hpp"
#include "support/eventually.hpp"
#include "support/logits.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

const std::string both_names = "DNS:localhost,IP:127.0.0.1";
const std::string patient = "&timeout_ms=60000&connect_timeout_ms=60000";

// A server with a certificate, no unencrypted port, and a unix socket for looking at it.
class TlsServer {
  public:
    explicit TlsServer(const Certificate &certificate, const std::vector<std::string> &more = {})
        : server(options(certificate, more), RedisServer::Port::tls) {}

    // `options` is "option=value&...".
    std::string url(const std::string &host, const std::string &options, const std::string &login = "") const {
        return "rediss://" + login + host + ":" + std::to_string(server.port()) + "?" + options;
    }

    RedisServer server;

  private:
    static std::vector<std::string> options(const Certificate &certificate, const std::vector<std::string> &more) {
        std::vector<std::string> words = {"--tls-cert-file",    certificate.certificate, "--tls-key-file",
                                          certificate.key,      "--tls-auth-clients",    "no"};
        words.insert(words.end(), more.begin(), more.end());
        return words;
    }
};

void store_and_take(const std::string &id) {
    ASSERT_OK(append(id, records(2)));
    ASSERT_OK(store_at(id, 2, records(1, 2)));
    ASSERT_EQ(take(id).records, records(3));
}

std::uint64_t connections() {
    pita_stats_t stats = {};
    stats.struct_size = sizeof stats;
    EXPECT_OK(pita_redis_stats(&stats));
    return stats.connections;
}

// Records whose text is long, so that a few hundred fill a TLS record of 16 KiB.
Records long_records(std::size_t count) {
    Records all;
    for (std::size_t i = 0; i < count; ++i) {
        const double x = static_cast<double>(i) + 1.0 / 3;
        all.push_back({x, x / 3, x / 7});
    }
    return all;
}

// --- works -----------------------------------------------------------------------------------------------------------

class Tls : public testing::Test {
  protected:
    std::string url(const std::string &host = "localhost", const std::string &more = patient) const {
        return tls.url(host, "tls_ca=" + authority.file() + more);
    }

    Authority authority;
    TlsServer tls{authority.sign(both_names)};
    Hiredis redis{tls.server};
};

TEST_F(Tls, StoresAndTakesByEachNameOfTheCertificate) {
    for (const char *host : {"localhost", "127.0.0.1"}) {
        SCOPED_TRACE(host);
        const Session session(url(host));
        store_and_take("a");
        EXPECT_EQ(connections(), 1U) << "the connection is kept";
    }
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(Tls, IsReallyWhatTheServerSees) {
    const Session session(url());
    ASSERT_OK(pita_redis_ping());
    EXPECT_NE(redis.run({"CLIENT", "LIST"}).text.find(":" + std::to_string(tls.server.port())), std::string::npos);
    EXPECT_EQ(redis.setting("port"), "0") << "there is no other way in";
}

TEST_F(Tls, CarriesListsOfSeveralTlsRecords) {
    const Session session(url());
    const Records all = long_records(2000);
    ASSERT_OK(append("a", all));
    ASSERT_OK(store_at("b", 0, all));
    EXPECT_EQ(stored(redis, "b"), all);
    EXPECT_EQ(take("a").records, all);
    EXPECT_EQ(take("b").records, all);
}

TEST_F(Tls, CarriesALargeBatch) {
    constexpr std::size_t count = 2000;
    const Session session(url());
    std::vector<std::string> ids;
    std::vector<const char *> pointers;
    std::vector<std::int64_t> token_indices;
    for (std::size_t i = 0; i < count; ++i) {
        ids.push_back("request " + std::to_string(i));
        token_indices.push_back(i % 2 == 0 ? -1 : 0);
    }
    for (const std::string &id : ids) {
        pointers.push_back(id.c_str());
    }
    std::vector<pita_status_t> statuses(count, 1);
    const Logits logits = random_logits(4 * count);
    pita_batch_t batch = batch_over(logits, count);
    batch.req_ids = pointers.data();
    batch.token_indices = token_indices.data();
    batch.statuses = statuses.data();
    ASSERT_OK(pita_store_logits_metrics_batch(&batch));
    EXPECT_EQ(statuses, std::vector<pita_status_t>(count, PITA_OK));
    EXPECT_EQ(redis.keys(), static_cast<long long>(count));
    for (const std::size_t i : {std::size_t{0}, count / 2, count - 1}) {
        EXPECT_EQ(redis.length(ids[i]), 1) << i;
    }
}

TEST_F(Tls, SurvivesARestart) {
    const Session session(url());
    store_and_take("a");
    tls.server.restart();
    EXPECT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
    store_and_take("a");
}

TEST_F(Tls, SurvivesAConnectionThatIsCutInTheMiddle) {
    const Session session(url());
    BlockedCall<pita_status_t> indexed(redis, [] { return store_at("a", 0, long_records(1000)); });
    EXPECT_EQ(indexed.cut_off(), PITA_OK);
    BlockedCall<pita_status_t> appended(redis, [] { return append("b", long_records(1000)); });
    EXPECT_EQ(appended.cut_off(), PITA_ERR_UNCERTAIN);
    EXPECT_EQ(stored(redis, "a"), long_records(1000));
    EXPECT_EQ(redis.length("b"), 0);
}

// An idle connection that the server has closed, which TLS announces by a message of its own.
TEST_F(Tls, SurvivesAServerThatHungUp) {
    const Session session(url());
    store_and_take("a");
    redis.run({"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"});
    store_and_take("a");
    EXPECT_EQ(connections(), 2U);
}

TEST_F(Tls, TrustsWhatTheSystemTrusts) {
    const Environment system(Variables{{"SSL_CERT_FILE", authority.file()}});
    const Session session(tls.url("localhost", patient.substr(1)));
    store_and_take("a");
}

TEST_F(Tls, IsFineWithVersion12) {
    const TlsServer old(authority.sign(both_names), {"--tls-protocols", "TLSv1.2"});
    const Session session(old.url("localhost", "tls_ca=" + authority.file() + patient));
    store_and_take("a");
}

TEST_F(Tls, KeepsThePasswordToItself) {
    const TlsServer locked(authority.sign(both_names), {"--requirepass", "hunter"});
    const std::string options = "tls_ca=" + authority.file() + patient;
    {
        const Session session(locked.url("localhost", options, ":hunter@"));
        store_and_take("a");
    }
    {
        const Session session(locked.url("localhost", options, ":guess@"));
        EXPECT_FAILS(PITA_ERR_AUTH, pita_redis_ping(), "WRONGPASS");
    }
    const Session session(locked.url("localhost", options));
    EXPECT_FAILS(PITA_ERR_AUTH, append("a", records(1)), "NOAUTH");
}

// --- refused ---------------------------------------------------------------------------------------------------------

// Five times the second that a connection may take, and some for a busy machine.
constexpr milliseconds bound{5000};
const std::string one_second = "&connect_timeout_ms=1000&timeout_ms=60000";

// Expects that no call gets through, that all say why, and that the first does so within its time.
void expect_refused(const std::string &url, std::initializer_list<std::string> words) {
    SCOPED_TRACE(url);
    const Session session(url);
    pita_status_t status = PITA_OK;
    EXPECT_LT(time_of([&] { status = append("a", records(1)); }), bound);
    EXPECT_TRUE(returned(status, PITA_ERR_UNAVAILABLE, words));
    EXPECT_TRUE(returned(pita_redis_ping(), PITA_ERR_UNAVAILABLE, words));
}

class TlsRefusal : public Tls {
  protected:
    // Nothing but the greeting of a connection ever reaches a server that was not trusted.
    void TearDown() override { EXPECT_EQ(redis.keys(), 0); }

    Authority another;
};

TEST_F(TlsRefusal, OfAnAuthorityThatTheFileDoesNotHave) {
    expect_refused(tls.url("localhost", "tls_ca=" + another.file() + one_second),
                   {"rediss://localhost:", "TLS", "certificate"});
}

TEST_F(TlsRefusal, OfAnAuthorityThatTheSystemDoesNotKnow) {
    const Environment system(Variables{{"SSL_CERT_FILE", another.file()}});
    expect_refused(tls.url("localhost", one_second.substr(1)), {"rediss://localhost:", "TLS", "certificate"});
}

TEST_F(TlsRefusal, OfAServerWithAnotherName) {
    const TlsServer elsewhere(authority.sign("DNS:example.org,IP:127.0.0.2"));
    for (const char *host : {"localhost", "127.0.0.1"}) {
        expect_refused(elsewhere.url(host, "tls_ca=" + authority.file() + one_second), {"TLS", "certificate", host});
    }
}

TEST_F(TlsRefusal, OfANameWhereTheCertificateHasOnlyTheAddress) {
    const TlsServer by_address(authority.sign("IP:127.0.0.1"));
    expect_refused(by_address.url("localhost", "tls_ca=" + authority.file() + one_second), {"TLS", "certificate"});
}

TEST_F(TlsRefusal, OfAnExpiredCertificate) {
    const TlsServer expired(authority.sign_expired(both_names));
    expect_refused(expired.url("localhost", "tls_ca=" + authority.file() + one_second), {"TLS", "expired"});
}

TEST_F(TlsRefusal, OfAServerThatWantsACertificateOfTheClient) {
    const TlsServer curious(authority.sign(both_names),
                            {"--tls-auth-clients", "yes", "--tls-ca-cert-file", authority.file()});
    expect_refused(curious.url("localhost", "tls_ca=" + authority.file() + one_second), {"rediss://localhost:"});
}

TEST_F(TlsRefusal, ByAServerThatExpectsTls) {
    expect_refused("redis://" + tls.server.host_and_port() + "?" + one_second.substr(1),
                   {"redis://" + tls.server.host_and_port()});
}

TEST_F(TlsRefusal, OfAServerWithoutTls) {
    const RedisServer plain;
    expect_refused("rediss://" + plain.host_and_port() + "?tls_ca=" + authority.file() + one_second,
                   {"rediss://" + plain.host_and_port(), "TLS"});
}

// --- tls_ca ----------------------------------------------------------------------------------------------------------

class TlsAuthorities : public testing::Test {
  protected:
    ~TlsAuthorities() override { pita_redis_close(); }

    std::string written(const std::string &text) const {
        const std::string file = authority.path("file.pem");
        std::ofstream(file) << text;
        return file;
    }

    static void expect_refused(const std::string &file) {
        EXPECT_FAILS(PITA_ERR_CONFIG, pita_redis_open(("rediss://localhost?tls_ca=" + file).c_str()), "tls_ca",
                     "\"" + file + "\"");
        EXPECT_STATUS(PITA_ERR_NOT_OPEN, pita_redis_ping());
    }

    Authority authority;
};

TEST_F(TlsAuthorities, HaveToBeThere) {
    expect_refused(authority.path("nothing"));
}

TEST_F(TlsAuthorities, AreAFile) {
    std::filesystem::create_directory(authority.path("folder"));
    expect_refused(authority.path("folder"));
}

TEST_F(TlsAuthorities, AreNotEmpty) {
    expect_refused(written(""));
}

TEST_F(TlsAuthorities, ArePem) {
    expect_refused(written("This is not PEM.\n"));
}

TEST_F(TlsAuthorities, AreCertificates) {
    expect_refused(authority.path("ca.key"));
}

TEST_F(TlsAuthorities, AreWhole) {
    expect_refused(written("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
    expect_refused(written("-----BEGIN CERTIFICATE-----\nAAAA\n"));
    expect_refused(written("-----BEGIN CERTIFICATE-----\n\xFF\xFE\n-----END CERTIFICATE-----\n"));
}

TEST_F(TlsAuthorities, MayBeSeveral) {
    const Authority another;
    const TlsServer tls(authority.sign(both_names));
    std::ifstream first(another.file());
    std::ifstream second(authority.file());
    std::ostringstream both;
    both << first.rdbuf() << second.rdbuf();
    const Session session(tls.url("localhost", "tls_ca=" + written(both.str()) + patient));
    store_and_take("a");
}

TEST_F(TlsAuthorities, OfTheSystemHaveToBeThere) {
    std::filesystem::create_directory(authority.path("folder"));
    const Environment system(
        Variables{{"SSL_CERT_FILE", written("")}, {"SSL_CERT_DIR", authority.path("folder")}});
    EXPECT_FAILS(PITA_ERR_CONFIG, pita_redis_open("rediss://localhost"), "the system's", "tls_ca");
}

// --- hangs -----------------------------------------------------------------------------------------------------------

using FrozenTlsServer = Tls;

TEST_F(FrozenTlsServer, CannotBeConnectedTo) {
    const Session session(url("localhost", "&connect_timeout_ms=300&timeout_ms=60000"));
    tls.server.freeze();
    pita_status_t status = PITA_OK;
    EXPECT_LT(time_of([&] { status = append("a", records(1)); }), 5 * milliseconds(300));
    EXPECT_FAILS(PITA_ERR_UNAVAILABLE, status, "rediss://localhost:", "TLS", "timed out");
    tls.server.thaw();
    EXPECT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(FrozenTlsServer, CostsACallItsTimeoutAtMost) {
    const std::string quick = url("localhost", "&connect_timeout_ms=250&timeout_ms=300");
    // The take comes last: the next call would first of all ask for what it may have claimed.
    for (const bool stores : {true, false}) {
        SCOPED_TRACE(stores ? "append" : "take");
        const Session session(quick);
        ASSERT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
        tls.server.freeze();
        pita_status_t status = PITA_OK;
        EXPECT_LT(time_of([&] { status = stores ? append("a", long_records(2000)) : take("a").status; }),
                  5 * milliseconds(300));
        EXPECT_STATUS(stores ? PITA_ERR_UNCERTAIN : PITA_ERR_TIMEOUT, status);
        tls.server.thaw();
        EXPECT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
    }
}

// More than the sockets between us hold: the time runs out while it is being sent.
TEST_F(FrozenTlsServer, CostsACallItsTimeoutAlsoWhileItSends) {
    const Session session(url("localhost", "&connect_timeout_ms=1000&timeout_ms=1000"));
    ASSERT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
    const Records all = long_records(200000);
    tls.server.freeze();
    pita_status_t status = PITA_OK;
    EXPECT_LT(time_of([&] { status = append("a", all); }), bound);
    EXPECT_STATUS(PITA_ERR_TIMEOUT, status) << "a command that was not sent whole is not executed";
    tls.server.thaw();
    EXPECT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
    EXPECT_EQ(redis.length("a"), 0);
}

// --- forks -----------------------------------------------------------------------------------------------------------

using ForkTls = Tls;

TEST_F(ForkTls, LeavesParentAndChildEachWithAPoolThatWorks) {
    const Session session(url());
    store_and_take("before");
    Child child([] { store_and_take("child"); });
    store_and_take("parent");
    EXPECT_TRUE(child.succeeded());
    store_and_take("after");
    EXPECT_EQ(connections(), 1U) << "the child has not touched the parent's connection";
    EXPECT_EQ(redis.keys(), 0);
}

} // namespace
