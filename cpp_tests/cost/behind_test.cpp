// What write=behind takes of a process: no memory on the way of a store, and so much a record that waits. A program of its
// own, for it has a malloc of its own.

#include <gtest/gtest.h>

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "pita_redis.h"
#include "support/allocations.hpp"
#include "support/behind.hpp"
#include "support/logits.hpp"

using namespace support;

namespace {

class BehindCost : public BehindTest {
  protected:
    // Of all memory that this process has, how many bytes lie in RAM.
    static long resident() {
        std::ifstream file("/proc/self/statm");
        long size = 0;
        long pages = 0;
        file >> size >> pages;
        return pages * sysconf(_SC_PAGESIZE);
    }
};

TEST_F(BehindCost, AStoreAllocatesNothing) {
    open(server.url("&write=behind&queue=20000"));
    const std::string id(64, 'x');
    const pita_metrics_t record = {1, 2, 3};
    const float logits[] = {1, 2, 3};
    // Starts the thread.
    ASSERT_OK(append(id, records(1)));
    ASSERT_OK(pita_store_logits_metrics(id.c_str(), logits, 3, 1, PITA_METRIC_ALL));
    ASSERT_OK(flush());
    hold();
    const std::size_t before = allocations;
    for (int i = 0; i < 9000; ++i) {
        (void)pita_store_metrics(id.c_str(), -1, &record, 1);
        (void)pita_store_logits_metrics(id.c_str(), logits, 3, 1, PITA_METRIC_ALL);
    }
    EXPECT_EQ(allocations, before);
    EXPECT_GE(queued(), 18000U);
    release();
    ASSERT_OK(flush());
    EXPECT_GT(allocations, 0U) << "they are counted";
}

TEST_F(BehindCost, ARecordThatWaitsTakesNoMoreThan128Bytes) {
    constexpr std::size_t queue = 1 << 19;
    open(server.url("&write=behind&queue=" + std::to_string(queue)));
    ASSERT_OK(append("a", records(1)));
    ASSERT_OK(flush());
    hold();
    const pita_metrics_t record = {1, 2, 3};
    const long before = resident();
    for (std::size_t i = 0; i < queue; ++i) {
        char id[37];
        std::snprintf(id, sizeof id, "%08zu-1234-5678-9abc-%012zu", i % 256, i % 256);
        ASSERT_EQ(pita_store_metrics(id, -1, &record, 1), PITA_OK);
    }
    const long grown = resident() - before;
    EXPECT_LE(grown, static_cast<long>(128 * queue) + (2 << 20)) << grown / static_cast<long>(queue) << " a record";
    std::printf("%zu records wait in %ld bytes: %ld each\n", queue, grown, grown / static_cast<long>(queue));
}

} // namespace
