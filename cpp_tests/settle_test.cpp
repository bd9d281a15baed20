// What is in doubt is settled once, and for good: claims whose take lost an answer, and stores that are refused when
// they are repeated.

#include <gtest/gtest.h>

#include <future>
#include <ostream>
#include <string>
#include <vector>

#include "pita_redis.h"
#include "support/eventually.hpp"
#include "support/logits.hpp"
#include "support/processes.hpp"
#include "support/proxy.hpp"
#include "support/records.hpp"
#include "support/session.hpp"

using namespace support;

namespace {

// Words that tell requests apart.
const std::string a_claim = "$6\r\nLRANGE\r\n";
const std::string a_deletion = "$6\r\nUNLINK\r\n";
const std::string of_a_claim = ":pita-claim:";

bool works() {
    return pita_redis_ping() == PITA_OK;
}

std::size_t count(const std::string &id) {
    std::size_t found = 7;
    EXPECT_OK(pita_count_metrics(id.c_str(), &found));
    return found;
}

// A setting of the server, for a while.
class Setting {
  public:
    Setting(Hiredis &redis, const std::string &name, const std::string &value)
        : redis_(redis), name_(name), before_(redis.setting(name)) {
        redis_.set(name, value);
    }
    ~Setting() { redis_.set(name_, before_); }
    Setting(const Setting &) = delete;
    Setting &operator=(const Setting &) = delete;

  private:
    Hiredis &redis_;
    const std::string name_;
    const std::string before_;
};

// A server behind a proxy.
class Settle : public SharedServerTest {
  protected:
    ~Settle() override { pita_redis_close(); }

    // A pool whose scripts are known to the server, so that the next call is one round trip.
    void open(int timeout_ms) {
        const std::string timeout = std::to_string(timeout_ms);
        const std::string url = "redis://" + proxy.host_and_port() + "?connect_timeout_ms=60000&timeout_ms=" + timeout;
        ASSERT_OK(pita_redis_open(url.c_str()));
        ASSERT_TRUE(eventually([] { return store_at("another", 0, records(1)) == PITA_OK; }));
        ASSERT_TRUE(eventually([] { return take("another").status == PITA_OK; }));
        redis.run({"DEL", "another"});
        redis.push("a", {"0,0.25,0.5", "1,1.25,1.5", "2,2.25,2.5"});
    }

    // The claim is asked for, and the server is away before the taker is told.
    void take_in_vain() {
        proxy.meet(a_claim, Fate::LosesAnswer, true);
        const pita_status_t status = take("a").status;
        EXPECT_TRUE(status == PITA_ERR_UNAVAILABLE || status == PITA_ERR_TIMEOUT) << shown(status);
    }

    bool is_without_claims() { return redis.run({"KEYS", "*pita-claim*"}).elements.empty(); }

    // Whoever was looking for the server has found it, and has settled what could be settled.
    static bool nobody_looks() {
        return eventually([] { return works() && threads_named("pita-probe") == 0; });
    }

    const Records all = records(3);
    Proxy proxy{server};
};

// --- a take that lost its first answer, and whose claim is not known to be deleted -----------------------------------

struct End {
    const char *name;
    Fate fate;
    bool goes_away;
};

void PrintTo(const End &end, std::ostream *out) {
    *out << end.name;
}

class TakeTwiceInDoubt : public Settle, public testing::WithParamInterface<End> {
  protected:
    // A take whose claim is asked for twice, and deleted without an answer.
    void take_all() {
        proxy.meet(a_claim, Fate::LosesAnswer);
        proxy.meet(a_deletion, GetParam().fate, GetParam().goes_away);
        const Taken taken = take("a");
        EXPECT_OK(taken.status);
        EXPECT_EQ(taken.records, all);
        EXPECT_TRUE(proxy.has_met());
    }

    void come_back() {
        proxy.set_away(false);
        EXPECT_TRUE(eventually(works));
    }

    void expect_nothing_left() {
        EXPECT_TRUE(nobody_looks());
        EXPECT_TRUE(eventually([this] { return is_without_claims(); }, milliseconds(5000)));
        EXPECT_EQ(take("a").records, Records());
        EXPECT_EQ(redis.keys(), 0);
        proxy.release();
        EXPECT_EQ(take("a").records, Records());
        EXPECT_EQ(redis.keys(), 0);
    }
};

TEST_P(TakeTwiceInDoubt, DeliversOnceToTakers) {
    open(300);
    take_all();
    come_back();
    const Taken taken = take("a");
    EXPECT_OK(taken.status);
    EXPECT_EQ(taken.records, Records()) << "they were delivered";
    expect_nothing_left();
}

TEST_P(TakeTwiceInDoubt, DeliversOnceAndLeavesNothingToCount) {
    open(300);
    take_all();
    come_back();
    EXPECT_EQ(count("a"), 0U);
    expect_nothing_left();
}

TEST_P(TakeTwiceInDoubt, DeliversOnceAndLeavesTheNextListAlone) {
    open(300);
    take_all();
    come_back();
    ASSERT_OK(store_at("a", 0, records(2, 10)));
    EXPECT_EQ(stored(redis, "a"), records(2, 10));
    EXPECT_EQ(count("a"), 2U);
    const Taken taken = take("a");
    EXPECT_OK(taken.status);
    EXPECT_EQ(taken.records, records(2, 10));
    expect_nothing_left();
}

TEST_P(TakeTwiceInDoubt, DeliversOnceWhateverIsStoredWithoutUs) {
    open(300);
    take_all();
    redis.push("a", {"9,9.25,9.5"});
    come_back();
    EXPECT_TRUE(nobody_looks());
    EXPECT_EQ(stored(redis, "a"), records(1, 9));
    EXPECT_EQ(take("a").records, records(1, 9));
    expect_nothing_left();
}

INSTANTIATE_TEST_SUITE_P(Ends, TakeTwiceInDoubt,
                         testing::Values(End{"DeletionNeverArrives", Fate::NeverArrives, true},
                                         End{"DeletionLosesItsAnswer", Fate::LosesAnswer, true},
                                         End{"DeletionIsHeldBack", Fate::IsHeldBack, false}),
                         [](const auto &test) { return test.param.name; });

// --- others, while a taker waits for its deletion --------------------------------------------------------------------

class TakeBesideOthers : public Settle {
  protected:
    // Runs `body` while another thread has its records, and waits to hear that they are deleted.
    template <class Body> void meanwhile(Body body) {
        open(60000);
        proxy.meet(a_claim, Fate::LosesAnswer);
        proxy.meet(a_deletion, Fate::IsHeldBack);
        std::future<Taken> first = std::async(std::launch::async, [] { return take("a"); });
        EXPECT_TRUE(eventually([this] { return proxy.holds(); }));
        body();
        EXPECT_EQ(first.wait_for(milliseconds(0)), std::future_status::timeout);
        proxy.release();
        const Taken taken = first.get();
        EXPECT_OK(taken.status);
        EXPECT_EQ(taken.records, all);
        EXPECT_EQ(take("a").records, Records());
        EXPECT_EQ(redis.keys(), 0);
    }
};

TEST_F(TakeBesideOthers, GivesTakersNothing) {
    meanwhile([] {
        const Taken taken = take("a");
        EXPECT_OK(taken.status);
        EXPECT_EQ(taken.records, Records());
    });
}

TEST_F(TakeBesideOthers, LeavesNothingToCount) {
    meanwhile([] { EXPECT_EQ(count("a"), 0U); });
}

TEST_F(TakeBesideOthers, LosesNothingToWhoDiscards) {
    meanwhile([] { EXPECT_OK(pita_discard_metrics("a")); });
}

TEST_F(TakeBesideOthers, LeavesTheNextListAlone) {
    meanwhile([this] {
        EXPECT_OK(store_at("a", 0, records(2, 10)));
        EXPECT_EQ(count("a"), 2U);
        EXPECT_EQ(stored(redis, "a"), records(2, 10));
        EXPECT_EQ(take("a").records, records(2, 10));
        EXPECT_EQ(take("a").records, Records());
    });
}

// --- a claim that cannot be given back for the moment ----------------------------------------------------------------

class RefusedReturn : public Settle {
  protected:
    void lose_a_take() {
        open(200);
        take_in_vain();
        EXPECT_FALSE(redis.exists("a"));
        EXPECT_FALSE(is_without_claims());
    }

    // Stores until one has tried to give the claim back, and been refused.
    void store_in_vain() {
        const std::size_t before = proxy.seen(of_a_claim);
        proxy.set_away(false);
        EXPECT_TRUE(eventually(works));
        EXPECT_TRUE(eventually([&] {
            EXPECT_STATUS(PITA_ERR_REDIS, append("other", records(1)));
            return proxy.seen(of_a_claim) > before;
        }));
        EXPECT_TRUE(nobody_looks());
        EXPECT_FAILS(PITA_ERR_REDIS, append("other", records(1)), "NOREPLICAS");
        EXPECT_FALSE(is_without_claims());
    }
};

TEST_F(RefusedReturn, IsMadeUpForByTheNextTake) {
    lose_a_take();
    {
        const Setting refuses(redis, "min-replicas-to-write", "1");
        store_in_vain();
    }
    const Taken taken = take("a");
    EXPECT_OK(taken.status);
    EXPECT_EQ(taken.records, all);
    EXPECT_EQ(take("a").records, Records());
    EXPECT_EQ(redis.keys(), 0);
}

TEST_F(RefusedReturn, IsMadeUpForByTheNextCount) {
    lose_a_take();
    {
        const Setting refuses(redis, "min-replicas-to-write", "1");
        store_in_vain();
    }
    EXPECT_EQ(count("a"), all.size());
    EXPECT_TRUE(is_without_claims());
    EXPECT_EQ(stored(redis, "a"), all);
}

TEST_F(RefusedReturn, IsMadeUpForByLaterStores) {
    lose_a_take();
    {
        const Setting refuses(redis, "min-replicas-to-write", "1");
        store_in_vain();
    }
    EXPECT_TRUE(eventually([this] {
        EXPECT_OK(append("other", records(1)));
        return is_without_claims();
    }));
    EXPECT_EQ(stored(redis, "a"), all);
}

// The take itself is refused, and tells it; nothing is lost by that either.
TEST_F(RefusedReturn, IsMadeUpForAfterATakeThatIsRefused) {
    lose_a_take();
    {
        const Setting refuses(redis, "min-replicas-to-write", "1");
        store_in_vain();
        EXPECT_FAILS(PITA_ERR_REDIS, take("a").status, "NOREPLICAS");
    }
    EXPECT_EQ(take("a").records, all);
    EXPECT_EQ(redis.keys(), 0);
}

// --- a store whose repetition is refused -----------------------------------------------------------------------------

struct Cause {
    const char *word;
    const char *setting;
};

void PrintTo(const Cause &cause, std::ostream *out) {
    *out << cause.word;
}

class RefusedRepetition : public Settle, public testing::WithParamInterface<Cause> {
  protected:
    // Loses the answer of a store with this word in it, and has the server refuse the next.
    template <class Store> pita_status_t refuse_again(const std::string &word, Store store) {
        proxy.meet(word, Fate::LosesAnswer, true);
        std::future<pita_status_t> storing = std::async(std::launch::async, store);
        EXPECT_TRUE(eventually([this] { return proxy.has_cut(); })) << "by then it is executed";
        const Setting refuses(redis, GetParam().setting, "1");
        proxy.set_away(false);
        return storing.get();
    }
};

TEST_P(RefusedRepetition, OfAnIndexedStoreLeavesItUncertain) {
    open(60000);
    std::string message;
    const auto store = [&] {
        const pita_status_t status = store_at("indexed", 0, records(2));
        message = pita_last_error();
        return status;
    };
    EXPECT_EQ(shown(refuse_again("indexed", store)), shown(PITA_ERR_UNCERTAIN));
    EXPECT_NE(message.find(GetParam().word), std::string::npos) << message;
    EXPECT_NE(message.find("\"indexed\""), std::string::npos) << message;
    EXPECT_EQ(stored(redis, "indexed"), records(2)) << "as it happens";
    EXPECT_OK(store_at("indexed", 0, records(2)));
    EXPECT_EQ(stored(redis, "indexed"), records(2));
}

TEST_P(RefusedRepetition, OfABatchLeavesEachOfItsStoresUncertain) {
    open(60000);
    Logits logits = {10, 11};
    const char *ids[] = {"indexed", "too"};
    const std::int64_t indices[] = {0, 0};
    pita_status_t statuses[] = {1, 1};
    pita_batch_t batch = batch_over(logits, 2);
    batch.req_ids = ids;
    batch.token_indices = indices;
    batch.statuses = statuses;
    const auto store = [&] { return pita_store_logits_metrics_batch(&batch); };
    EXPECT_EQ(shown(refuse_again("indexed", store)), shown(PITA_ERR_UNCERTAIN));
    EXPECT_EQ(shown(statuses[0]), shown(PITA_ERR_UNCERTAIN));
    // A server without memory lets a script that has begun to write go on: then it is known to be stored.
    EXPECT_TRUE(statuses[1] == PITA_ERR_UNCERTAIN || statuses[1] == PITA_OK) << shown(statuses[1]);
    EXPECT_EQ(redis.length("indexed"), 1);
    EXPECT_EQ(redis.length("too"), 1);
}

INSTANTIATE_TEST_SUITE_P(Causes, RefusedRepetition,
                         testing::Values(Cause{"NOREPLICAS", "min-replicas-to-write"}, Cause{"OOM", "maxmemory"}),
                         [](const auto &test) { return test.param.word; });

// --- clocks ----------------------------------------------------------------------------------------------------------

class WrongClock : public Settle, public testing::WithParamInterface<int> {
  protected:
    WrongClock() { proxy.shift_clock(std::chrono::seconds(GetParam())); }
};

TEST_P(WrongClock, StoresAndTakesOnce) {
    open(60000);
    EXPECT_EQ(take("a").records, all);
    EXPECT_OK(append("a", records(1)));
    EXPECT_OK(append("a", records(2, 1)));
    EXPECT_OK(store_at("a", 3, records(2, 3)));
    EXPECT_EQ(stored(redis, "a"), records(5));
    EXPECT_EQ(count("a"), 5U);
    EXPECT_EQ(take("a").records, records(5));
    EXPECT_EQ(take("a").records, Records());
    EXPECT_EQ(redis.keys(), 0);
}

TEST_P(WrongClock, LosesNoTakeWhoseAnswersAreLost) {
    open(200);
    take_in_vain();
    proxy.set_away(false);
    EXPECT_TRUE(eventually(works));
    Records taken;
    EXPECT_TRUE(eventually([&] { return !(taken = take("a").records).empty(); }, milliseconds(5000)));
    EXPECT_EQ(taken, all);
    EXPECT_EQ(take("a").records, Records());
    EXPECT_EQ(redis.keys(), 0);
}

TEST_P(WrongClock, LosesNoTakeThatIsRepeated) {
    open(60000);
    proxy.meet(a_claim, Fate::LosesAnswer);
    EXPECT_EQ(take("a").records, all);
    EXPECT_EQ(take("a").records, Records());
    EXPECT_EQ(redis.keys(), 0);
}

INSTANTIATE_TEST_SUITE_P(Seconds, WrongClock, testing::Values(-10, 10),
                         [](const auto &test) { return test.param < 0 ? "Behind" : "Ahead"; });

} // namespace
