// The connection is cut at every byte, held up, or slow: what is lost and what is doubled is counted, and is nothing.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <future>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "pita_redis.h"
#include "support/eventually.hpp"
#include "support/logits.hpp"
#include "support/proxy.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;
using namespace std::string_literals;

namespace {

// --- the calls -------------------------------------------------------------------------------------------------------

// Records that a call was to store, and what it said of them.
struct Write {
    std::string key;
    std::int64_t index;
    Records records = {};
    pita_status_t status = PITA_ERR_PANIC;
};

struct Outcome {
    pita_status_t status;
    std::vector<Write> writes = {};
    Records taken = {};
};

// What a call does with the list, beside writing to it.
enum class Fate { Kept, Taken, Discarded };

struct Case {
    const char *name;
    Outcome (*call)(const std::string &id);
    Fate fate;
    // What is in Redis before.
    void (*prepare)(Hiredis &redis, const std::string &id);
    // Of the URL.
    const char *options = "";
    // Every how many bytes to cut. The text of a script is alike all over.
    std::size_t step = 1;
};

void PrintTo(const Case &tested, std::ostream *out) {
    *out << tested.name;
}

// Five records.
void push_list(Hiredis &redis, const std::string &id) {
    redis.push(id, {"0,0.25,0.5", "1,1.25,1.5", "2,2.25,2.5", "3,3.25,3.5", "4,4.25,4.5"});
}

void push_list_and_forget_scripts(Hiredis &redis, const std::string &id) {
    push_list(redis, id);
    redis.run({"SCRIPT", "FLUSH", "SYNC"});
}

// A list whose next append need not renew its life.
void push_renewed_list(Hiredis &redis, const std::string &id) {
    ASSERT_OK(append(id, records(1)));
    redis.push(id, {"1,1.25,1.5"});
}

// The same, but somebody took the list.
void push_and_remove_renewed_list(Hiredis &redis, const std::string &id) {
    push_renewed_list(redis, id);
    redis.run({"DEL", id});
}

Outcome stored_at(const std::string &id, std::int64_t index, const Records &records) {
    const pita_status_t status = store_at(id, index, records);
    return {status, {{id, index, records, status}}};
}

Outcome append_one(const std::string &id) {
    return stored_at(id, -1, records(1, 100));
}

Outcome append_several(const std::string &id) {
    return stored_at(id, -1, records(3, 100));
}

Outcome append_logits(const std::string &id) {
    const float logit = 7;
    const pita_status_t status = pita_store_logits_metrics(id.c_str(), &logit, 1, 1, PITA_METRIC_ALL);
    return {status, {{id, -1, {{7, 7, 0}}, status}}};
}

Outcome index_one(const std::string &id) {
    return stored_at(id, 5, records(1, 100));
}

// Replaces two and appends one.
Outcome index_several(const std::string &id) {
    return stored_at(id, 3, records(3, 100));
}

Outcome store_batch(std::vector<Write> writes) {
    std::vector<const char *> ids;
    std::vector<std::int64_t> indices;
    Logits logits;
    std::vector<pita_status_t> statuses(writes.size(), 1);
    for (Write &write : writes) {
        ids.push_back(write.key.c_str());
        indices.push_back(write.index);
        logits.push_back(static_cast<float>(10 + logits.size()));
        // Those of a row with one logit.
        write.records = {{logits.back(), logits.back(), 0}};
    }
    pita_batch_t batch = batch_over(logits, logits.size());
    batch.req_ids = ids.data();
    batch.token_indices = indices.data();
    batch.statuses = statuses.data();
    const pita_status_t status = pita_store_logits_metrics_batch(&batch);
    for (std::size_t i = 0; i < writes.size(); ++i) {
        writes[i].status = statuses[i];
    }
    return {status, writes};
}

Outcome batch_of_both_kinds(const std::string &id) {
    return store_batch({{id, -1}, {id + "-b", 0}, {id + "-c", -1}, {id + "-d", 0}});
}

Outcome batch_of_one_list(const std::string &id) {
    return store_batch({{id, -1}, {id, -1}, {id, 4}});
}

Outcome take_all(const std::string &id) {
    const Taken taken = take(id);
    return {taken.status, {}, taken.records};
}

Outcome wait_for_all(const std::string &id) {
    Records taken(10);
    std::size_t count = 0;
    const pita_status_t status = pita_take_metrics_wait(id.c_str(), 5, 50, taken.data(), taken.size(), &count);
    taken.resize(status == PITA_OK ? count : 0);
    return {status, {}, taken};
}

Outcome discard(const std::string &id) {
    return {pita_discard_metrics(id.c_str())};
}

Outcome count_all(const std::string &id) {
    std::size_t count = 7;
    const pita_status_t status = pita_count_metrics(id.c_str(), &count);
    EXPECT_EQ(count, status == PITA_OK ? 5U : 0U);
    return {status};
}

// --- write-behind: stored when the queue is flushed ---

// What becomes of records that were queued: an append whose answer was lost is uncertain.
Outcome flushed(Outcome queued) {
    EXPECT_OK(queued.status);
    queued.status = pita_redis_flush(static_cast<std::uint32_t>(patience.count()));
    for (Write &write : queued.writes) {
        write.status = write.index < 0 ? queued.status : PITA_OK;
    }
    return queued;
}

Outcome append_behind(const std::string &id) {
    return flushed(append_several(id));
}

Outcome index_behind(const std::string &id) {
    return flushed(index_several(id));
}

Outcome batch_behind(const std::string &id) {
    return flushed(batch_of_both_kinds(id));
}

// Five records, and a connection for the writer.
void push_list_and_connect_writer(Hiredis &redis, const std::string &id) {
    push_list(redis, id);
    ASSERT_OK(append(id + "-", records(1)));
    ASSERT_OK(pita_redis_flush(static_cast<std::uint32_t>(patience.count())));
    redis.run({"DEL", id + "-"});
}

// --- what may be in Redis --------------------------------------------------------------------------------------------

bool is_append(const Write &write) {
    return write.index < 0;
}

Records with(Records list, const Write &write) {
    std::size_t at = is_append(write) ? list.size() : static_cast<std::size_t>(write.index);
    for (const pita_metrics_t &record : write.records) {
        if (at < list.size()) {
            list[at] = record;
        } else {
            list.push_back(record);
        }
        ++at;
    }
    return list;
}

// All lists that may be there, by what the call said of each write.
std::vector<Records> possible(const std::string &key, const Records &before, const std::vector<Write> &writes) {
    std::vector<Records> lists = {before};
    for (const Write &write : writes) {
        if (write.key != key || (write.status != PITA_OK && write.status != PITA_ERR_UNCERTAIN)) {
            continue;
        }
        std::vector<Records> after = map(lists, [&](const Records &list) { return with(list, write); });
        if (write.status == PITA_ERR_UNCERTAIN) {
            after.insert(after.end(), lists.begin(), lists.end());
        }
        lists = std::move(after);
    }
    return lists;
}

// Cuts, and records that were lost or doubled by them.
struct Tally {
    std::size_t cuts = 0;
    std::size_t lost = 0;
    std::size_t doubled = 0;

    // Compares how often each record is there with how often it may be.
    void add(const Records &actual, const std::vector<Records> &allowed) {
        Records all = actual;
        for (const Records &list : allowed) {
            all.insert(all.end(), list.begin(), list.end());
        }
        for (auto record = all.begin(); record != all.end(); ++record) {
            if (std::find(all.begin(), record, *record) != record) {
                continue;
            }
            const auto often = [&](const Records &list) {
                return static_cast<std::size_t>(std::count(list.begin(), list.end(), *record));
            };
            const std::vector<std::size_t> may_be = map(allowed, often);
            const auto [least, most] = std::minmax_element(may_be.begin(), may_be.end());
            const std::size_t is = often(actual);
            lost += *least - std::min(*least, is);
            doubled += is - std::min(*most, is);
        }
    }
};

// What went wrong, and at which offsets.
class Complaints {
  public:
    void add(const std::string &text, std::size_t offset) { offsets_[text].insert(offset); }

    void fail() const {
        for (const auto &[text, offsets] : offsets_) {
            ADD_FAILURE() << text << "\n  at offsets" << ranges(offsets);
        }
    }

  private:
    // " 0-16 20-20"
    static std::string ranges(const std::set<std::size_t> &offsets) {
        std::string text;
        for (const std::size_t first : offsets) {
            if (offsets.count(first - 1) == 0) {
                std::size_t last = first;
                while (offsets.count(last + 1) != 0) {
                    ++last;
                }
                text += " " + std::to_string(first) + "-" + std::to_string(last);
            }
        }
        return text;
    }

    std::map<std::string, std::set<std::size_t>> offsets_;
};

// --- the network -----------------------------------------------------------------------------------------------------

// A server behind a proxy. Its URL asks for a greeting of three commands.
class Network {
  public:
    static constexpr int db = 3;

    explicit Network(RedisServer &server) : redis(server, db), proxy(server) {
        redis.run({"FLUSHALL"});
        redis.run({"ACL", "SETUSER", "engine", "on", ">secret", "~*", "+@all"});
    }

    std::string url(const std::string &options) const {
        return "redis://engine:secret@" + proxy.host_and_port() + "/" + std::to_string(db) + "?" + options;
    }

    // Whether the server comes to have executed all that was sent on connections but the `open` ones still in use.
    bool comes_to_rest(std::size_t open = 0) {
        return eventually([&] { return proxy.connections() == open; });
    }

    Hiredis redis;
    Proxy proxy;
};

Records taken_at_last(const std::string &id) {
    Taken taken = {};
    EXPECT_TRUE(eventually([&] { return (taken = take(id)).status == PITA_OK; }));
    return taken.records;
}

// --- cuts ------------------------------------------------------------------------------------------------------------

class Cut : public testing::TestWithParam<Case> {
  protected:
    // Whether the call finds a connection or has to make the one that is cut.
    explicit Cut(bool is_connected, Ending ending = Ending::HangUp)
        : network_(shared_server()), redis_(network_.redis), proxy_(network_.proxy), is_connected_(is_connected),
          ending_(ending) {}
    ~Cut() override { pita_redis_close(); }

    // Cuts the call at every byte of its request and of its reply, and reports.
    void cut_everywhere() {
        // The first call of all makes its script known to the server, and is longer.
        ASSERT_NO_FATAL_FAILURE(run_uncut());
        for (const Way way : {Way::Request, Way::Reply}) {
            ASSERT_NO_FATAL_FAILURE(run_uncut());
            // The answer to a greeting has the time in it: microseconds of one digit to six.
            const std::size_t varying = way == Way::Reply && !is_connected_ ? 5 : 0;
            ASSERT_GT(proxy_.passed(way), varying);
            const std::size_t length = proxy_.passed(way) - varying;
            for (std::size_t offset = 0; offset < length; offset += GetParam().step) {
                ASSERT_NO_FATAL_FAILURE(cut(way, offset));
            }
            ASSERT_NO_FATAL_FAILURE(cut(way, length));
        }
        report();
    }

  private:
    // The call as it goes when nothing is cut. The proxy counts it.
    void run_uncut() {
        ASSERT_NO_FATAL_FAILURE(prepare());
        proxy_.count_anew();
        const Outcome outcome = GetParam().call(id_);
        ASSERT_EQ(outcome.status, PITA_OK) << pita_last_error();
        redis_.run({"FLUSHDB"});
    }

    void cut(Way way, std::size_t offset) {
        ASSERT_NO_FATAL_FAILURE(prepare());
        const Records before = stored(redis_, id_);
        where_ = way == Way::Request ? "request cut" : "reply cut";
        offset_ = offset;
        ++tally_.cuts;
        proxy_.cut_after(way, offset, ending_);
        const Outcome outcome = GetParam().call(id_);
        if (outcome.status != PITA_OK) {
            where_ += ": "s + pita_status_name(outcome.status) + " \"" + without_id(pita_last_error()) + "\"";
        }
        ASSERT_TRUE(eventually([&] { return proxy_.has_cut(); })) << where_ << " at " << offset << " did not come";
        check_statuses(outcome);
        const Records left = check_records(before, outcome);
        check_that_all_works(left);
        redis_.run({"FLUSHDB"});
    }

    // A list of a name not used before, of which the library knows nothing, and a connection or none.
    void prepare() {
        id_ = std::to_string(++last_id_);
        if (!is_connected_) {
            pita_redis_close();
        }
        ASSERT_OK(pita_redis_open(
            network_.url("timeout_ms=60000&connect_timeout_ms=60000"s + GetParam().options).c_str()));
        if (is_connected_) {
            ASSERT_OK(pita_redis_ping());
        }
        GetParam().prepare(redis_, id_);
    }

    void check_statuses(const Outcome &outcome) {
        for (const Write &write : outcome.writes) {
            const bool is_known = write.status == PITA_OK ||
                                  (is_append(write) && (write.status == PITA_ERR_UNCERTAIN ||
                                                        write.status == PITA_ERR_UNAVAILABLE ||
                                                        write.status == PITA_ERR_TIMEOUT));
            expect(is_known, "a store at " + std::to_string(write.index) + " is " + pita_status_name(write.status));
        }
        if (outcome.writes.empty()) {
            expect(outcome.status == PITA_OK, "the call fails");
        }
    }

    // Counts what the call gave, what lies in Redis, and what lies there in claims. Returns what the list should be.
    Records check_records(const Records &before, const Outcome &outcome) {
        const bool is_removed = GetParam().fate != Fate::Kept && outcome.status == PITA_OK;
        std::map<std::string, Records> lists = {{id_, is_removed ? Records() : before}};
        for (const Write &write : outcome.writes) {
            lists.insert({write.key, {}});
        }
        for (const auto &[key, list] : lists) {
            const std::vector<Records> allowed = possible(key, list, outcome.writes);
            const Records actual = stored(redis_, key);
            expect(std::find(allowed.begin(), allowed.end(), actual) != allowed.end(),
                   "the list is " + testing::PrintToString(actual));
            if (GetParam().fate == Fate::Kept) {
                tally_.add(actual, allowed);
            }
        }
        if (GetParam().fate == Fate::Taken) {
            check_taken(before, outcome);
        }
        return stored(redis_, id_);
    }

    // A record is with the taker or in Redis, be it in a claim.
    void check_taken(const Records &before, const Outcome &outcome) {
        Records all = outcome.taken;
        for (const Reply &key : redis_.run({"KEYS", "*"}).elements) {
            const Records list = stored(redis_, key.text);
            all.insert(all.end(), list.begin(), list.end());
            expect(outcome.status != PITA_OK, "a key is left");
        }
        tally_.add(all, {before});
        expect(outcome.status != PITA_OK || outcome.taken == before,
               "taken were " + testing::PrintToString(outcome.taken));
    }

    // The next calls find a connection, and no claim is left behind them.
    void check_that_all_works(Records list) {
        std::size_t count = 0;
        expect(pita_count_metrics(id_.c_str(), &count) == PITA_OK && count == list.size(), "the next count is wrong");
        expect(append(id_, records(1, 200)) == PITA_OK, "the next append fails");
        list.push_back(record(200));
        const Taken taken = take(id_);
        expect(taken.status == PITA_OK && taken.records == list, "the next take is wrong");
        expect(redis_.run({"KEYS", "*pita-claim*"}).elements.empty(), "a claim is left");
    }

    void expect(bool is_so, const std::string &otherwise) {
        if (!is_so) {
            complaints_.add(where_ + ": " + otherwise, offset_);
        }
    }

    // So that complaints at many offsets are one.
    std::string without_id(std::string text) const {
        for (std::size_t at = text.find(id_); at != std::string::npos; at = text.find(id_)) {
            text.replace(at, id_.size(), "ID");
        }
        return text;
    }

    void report() {
        complaints_.fail();
        EXPECT_EQ(tally_.lost, 0U);
        EXPECT_EQ(tally_.doubled, 0U);
        RecordProperty("cuts", std::to_string(tally_.cuts));
        RecordProperty("lost", std::to_string(tally_.lost));
        RecordProperty("doubled", std::to_string(tally_.doubled));
        std::printf("cut %s%s%s: %zu cuts, %zu lost, %zu doubled\n", GetParam().name,
                    is_connected_ ? "" : " and the greeting", ending_ == Ending::Reset ? " by a reset" : "",
                    tally_.cuts, tally_.lost, tally_.doubled);
    }

    Network network_;
    Hiredis &redis_;
    Proxy &proxy_;
    const bool is_connected_;
    const Ending ending_;
    // Ids have one length, and so have all requests.
    int last_id_ = 10000;
    std::string id_;
    std::string where_;
    std::size_t offset_ = 0;
    Tally tally_;
    Complaints complaints_;
};

std::string name_of(const testing::TestParamInfo<Case> &test) {
    return test.param.name;
}

const Case an_append{"Append", append_one, Fate::Kept, push_list};
const Case an_append_for_ever{"AppendForEver", append_one, Fate::Kept, push_list, "&ttl_s=0"};
const Case an_indexed_store{"IndexedSeveral", index_several, Fate::Kept, push_list};
const Case a_batch{"Batch", batch_of_both_kinds, Fate::Kept, push_list};
const Case a_take{"Take", take_all, Fate::Taken, push_list};
const Case a_discard{"Discard", discard, Fate::Discarded, push_list};
const Case a_count{"Count", count_all, Fate::Kept, push_list};

class OpenConnection : public Cut {
  protected:
    OpenConnection() : Cut(true) {}
};

TEST_P(OpenConnection, CutAtAnyByteLosesAndDoublesNothing) {
    cut_everywhere();
}

INSTANTIATE_TEST_SUITE_P(
    Calls, OpenConnection,
    testing::Values(an_append, an_append_for_ever, an_indexed_store, a_batch, a_take, a_discard, a_count,
                    Case{"AppendLogits", append_logits, Fate::Kept, push_list},
                    Case{"AppendLogitsForEver", append_logits, Fate::Kept, push_list, "&ttl_s=0"},
                    Case{"AppendSeveral", append_several, Fate::Kept, push_list},
                    Case{"AppendToARenewedList", append_one, Fate::Kept, push_renewed_list},
                    Case{"AppendToAListThatWasTaken", append_one, Fate::Kept, push_and_remove_renewed_list},
                    Case{"AppendByAForgottenScript", append_one, Fate::Kept, push_list_and_forget_scripts, "", 5},
                    Case{"IndexedOne", index_one, Fate::Kept, push_list},
                    Case{"IndexedOneForEver", index_one, Fate::Kept, push_list, "&ttl_s=0"},
                    Case{"IndexedByAForgottenScript", index_several, Fate::Kept, push_list_and_forget_scripts, "", 5},
                    Case{"BatchForEver", batch_of_both_kinds, Fate::Kept, push_list, "&ttl_s=0"},
                    Case{"BatchOfOneList", batch_of_one_list, Fate::Kept, push_list, "", 13},
                    Case{"BatchOfOneListForEver", batch_of_one_list, Fate::Kept, push_list, "&ttl_s=0", 5},
                    Case{"AppendBehind", append_behind, Fate::Kept, push_list_and_connect_writer, "&write=behind"},
                    Case{"IndexedBehind", index_behind, Fate::Kept, push_list_and_connect_writer, "&write=behind"},
                    Case{"BatchBehind", batch_behind, Fate::Kept, push_list_and_connect_writer, "&write=behind"},
                    Case{"TakeWait", wait_for_all, Fate::Taken, push_list},
                    Case{"TakeByAForgottenScript", take_all, Fate::Taken, push_list_and_forget_scripts, "", 5}),
    name_of);

class ResetConnection : public Cut {
  protected:
    ResetConnection() : Cut(true, Ending::Reset) {}
};

TEST_P(ResetConnection, CutAtAnyByteLosesAndDoublesNothing) {
    cut_everywhere();
}

INSTANTIATE_TEST_SUITE_P(Calls, ResetConnection, testing::Values(an_append, an_indexed_store, a_batch, a_take),
                         name_of);

class NewConnection : public Cut {
  protected:
    NewConnection() : Cut(false) {}
};

TEST_P(NewConnection, CutAtAnyByteLosesAndDoublesNothing) {
    cut_everywhere();
}

INSTANTIATE_TEST_SUITE_P(Calls, NewConnection,
                         testing::Values(an_append, an_append_for_ever, an_indexed_store, a_batch, a_take, a_discard,
                                         a_count),
                         name_of);

// --- held up ---------------------------------------------------------------------------------------------------------

class HeldUp : public testing::TestWithParam<Way> {
  protected:
    HeldUp() : network(shared_server()), redis(network.redis), proxy(network.proxy), session(url("")) {
        push_list(redis, "a");
        make_ready();
    }

    std::string url(const std::string &more) const {
        return network.url("connect_timeout_ms=60000&timeout_ms=150" + more);
    }

    // A connection, and the scripts known to the server, so that one round trip does it.
    static void make_ready() {
        EXPECT_TRUE(eventually([] { return store_at("another", 0, records(1)) == PITA_OK; }));
        EXPECT_EQ(taken_at_last("another"), records(1));
    }

    // Has a call time out, lets go what was held, and waits until the server has executed it.
    template <class Call> void time_out(pita_status_t expected, Call call) {
        proxy.stall(GetParam());
        EXPECT_STATUS(expected, call());
        proxy.release();
        ASSERT_TRUE(network.comes_to_rest());
    }

    // An append by the script does nothing when it arrives after its caller was told of the timeout.
    void expect_taken_once_unless_late(const Records &expected) {
        if (GetParam() == Way::Request && redis.length("a") == 5) {
            expect_taken_once(records(5));
        } else {
            expect_taken_once(expected);
        }
    }

    void expect_taken_once(const Records &expected) {
        const Records taken = taken_at_last("a");
        Tally tally;
        tally.add(taken, {expected});
        EXPECT_EQ(tally.lost, 0U);
        EXPECT_EQ(tally.doubled, 0U);
        EXPECT_EQ(taken, expected);
        EXPECT_EQ(redis.keys(), 0);
        std::printf("hold up: %zu lost, %zu doubled\n", tally.lost, tally.doubled);
    }

    Network network;
    Hiredis &redis;
    Proxy &proxy;
    Session session;
};

TEST_P(HeldUp, AnAppendIsUncertainAndStoredOnceAtMost) {
    time_out(PITA_ERR_UNCERTAIN, [] { return append("a", records(2, 5)); });
    expect_taken_once_unless_late(records(7));
}

TEST_P(HeldUp, AnAppendOfLogitsIsUncertainAndStoredOnceAtMost) {
    time_out(PITA_ERR_UNCERTAIN, [] { return append_logits("a").status; });
    Records expected = records(5);
    expected.push_back({7, 7, 0});
    expect_taken_once_unless_late(expected);
}

TEST_P(HeldUp, AnAppendForEverIsUncertainAndStoredOnce) {
    ASSERT_OK(pita_redis_close());
    const Session for_ever(url("&ttl_s=0"));
    make_ready();
    time_out(PITA_ERR_UNCERTAIN, [] { return append("a", records(2, 5)); });
    expect_taken_once(records(7));
}

TEST_P(HeldUp, AnIndexedStoreIsUncertainAndStoredOnce) {
    time_out(PITA_ERR_UNCERTAIN, [] { return store_at("a", 3, records(4, 3)); });
    ASSERT_TRUE(eventually([] { return store_at("a", 3, records(4, 3)) == PITA_OK; })) << "it may be done again";
    expect_taken_once(records(7));
}

TEST_P(HeldUp, ATakeTimesOutAndTheNextGetsAll) {
    time_out(PITA_ERR_TIMEOUT, [] { return take("a").status; });
    expect_taken_once(records(5));
}

TEST_P(HeldUp, ATakeTimesOutAndTheNextGetsAllBeforeWhatCameSince) {
    time_out(PITA_ERR_TIMEOUT, [] { return take("a").status; });
    redis.push("a", {"5,5.25,5.5"});
    expect_taken_once(records(6));
}

INSTANTIATE_TEST_SUITE_P(Ways, HeldUp, testing::Values(Way::Request, Way::Reply), [](const auto &test) {
    return test.param == Way::Request ? "OnTheWayThere" : "OnTheWayBack";
});

// --- late ------------------------------------------------------------------------------------------------------------

// The taker has given up on its request, and has taken the list over another connection, when the request arrives. It
// finds the list of the same id that was begun since.
class LateTake : public testing::Test {
  protected:
    LateTake() : network(shared_server()), redis(network.redis), proxy(network.proxy) { push_list(redis, "a"); }

    void arrive_late_and_expect_nothing_lost() {
        redis.push("a", {"9,9.25,9.5"});
        proxy.release();
        ASSERT_TRUE(network.comes_to_rest(1));
        EXPECT_EQ(taken_at_last("a"), records(1, 9));
        EXPECT_EQ(redis.keys(), 0);
    }

    Network network;
    Hiredis &redis;
    Proxy &proxy;
};

TEST_F(LateTake, ThatTimedOutLosesNothing) {
    const Session session(network.url("connect_timeout_ms=60000&timeout_ms=150"));
    EXPECT_TRUE(taken_at_last("another").empty());
    proxy.stall(Way::Request);
    EXPECT_STATUS(PITA_ERR_TIMEOUT, take("a").status);
    EXPECT_EQ(taken_at_last("a"), records(5));
    arrive_late_and_expect_nothing_lost();
}

TEST_F(LateTake, ThatWasHungUpOnLosesNothing) {
    const Session session(network.url("connect_timeout_ms=60000&timeout_ms=60000"));
    EXPECT_TRUE(taken_at_last("another").empty());
    proxy.stall(Way::Request);
    std::future<Taken> taken = std::async(std::launch::async, [] { return take("a"); });
    ASSERT_TRUE(eventually([&] { return proxy.holds(); }));
    proxy.hang_up_on_stalled();
    EXPECT_EQ(taken.get().records, records(5));
    arrive_late_and_expect_nothing_lost();
}

// --- more than a network holds ---------------------------------------------------------------------------------------

// An append that does not fit into all the buffers on its way, so that the library knows that it was not sent whole.
class LongAppend : public testing::Test {
  protected:
    LongAppend() : network(shared_server()), redis(network.redis), proxy(network.proxy) {}

    static pita_status_t store() { return append("a", all()); }

    // 20 MB as a command.
    static const Records &all() {
        static const Records all = records(600000);
        return all;
    }

    Network network;
    Hiredis &redis;
    Proxy &proxy;
};

TEST_F(LongAppend, ThatTimesOutIsSurelyNotStored) {
    const Session session(network.url("ttl_s=0&connect_timeout_ms=60000&timeout_ms=500"));
    ASSERT_TRUE(eventually([] { return pita_redis_ping() == PITA_OK; }));
    proxy.stall(Way::Request);
    EXPECT_STATUS(PITA_ERR_TIMEOUT, store());
    proxy.release();
    ASSERT_TRUE(network.comes_to_rest());
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(LongAppend, ThatIsCutIsStoredOnce) {
    const Session session(network.url("ttl_s=0&connect_timeout_ms=60000&timeout_ms=60000"));
    ASSERT_OK(pita_redis_ping());
    proxy.cut_after(Way::Request, 1000000);
    EXPECT_OK(store());
    EXPECT_TRUE(proxy.has_cut());
    EXPECT_EQ(redis.length("a"), static_cast<long long>(all().size()));
}

// --- slow ------------------------------------------------------------------------------------------------------------

TEST(SlowNetwork, MakesCallsSlowAndNothingElse) {
    Network network(shared_server());
    network.proxy.delay(milliseconds(3));
    const Session session(network.url("timeout_ms=60000&connect_timeout_ms=60000"));
    for (int round = 0; round < 10; ++round) {
        push_list(network.redis, "a");
        EXPECT_OK(count_all("a").status);
        EXPECT_OK(append("a", records(1, 5)));
        EXPECT_OK(store_at("a", 5, records(3, 5)));
        EXPECT_OK(batch_of_both_kinds("b").status);
        const Taken taken = take("a");
        EXPECT_OK(taken.status);
        EXPECT_EQ(taken.records, records(8));
        for (const char *id : {"b", "b-b", "b-c", "b-d"}) {
            EXPECT_OK(pita_discard_metrics(id));
        }
        EXPECT_EQ(network.redis.keys(), 0);
    }
}

} // namespace
