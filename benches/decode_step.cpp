// decode_step VOCABULARY BATCH: how long a decode step takes to get its metrics to Redis, in several ways, on the server that
// REDIS_HOST and REDIS_PORT name. Prints a line for each way: its name, the batch, the vocabulary, median and p99 in
// microseconds, with tabs between.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "harness.hpp"

using namespace bench;

namespace {

constexpr float kTemperature = 0.25F; // PITA's usual
constexpr double kSeconds = 1.5;      // for each way, about
constexpr auto kPause = std::chrono::milliseconds(5); // between steps, as long as a GPU might compute

// Steps of one way for some time, within its own session of the library.
template <class Step> Times steps(Step step) {
    Times times;
    step(); // connects, starts threads, touches memory
    double spent = 0;
    while (times.us.size() < 10 || spent < kSeconds * 1e6) {
        times.add([] { std::this_thread::sleep_for(kPause); }, step);
        spent += times.us.back() + std::chrono::duration<double, std::micro>(kPause).count();
    }
    return times;
}

void print(const char *way, std::size_t batch, std::size_t vocabulary, Times times) {
    std::printf("%s\t%zu\t%zu\t%.1f\t%.1f\n", way, batch, vocabulary, times.percentile(50), times.percentile(99));
    std::fflush(stdout);
}

void measure(const Address &address, const std::vector<float> &logits, std::size_t batch, std::size_t vocabulary) {
    Peer redis(address);
    {
        const Pool pool(address, "?write=behind");
        Batch step(ids("behind", batch), logits.data(), vocabulary, kTemperature);
        print("behind", batch, vocabulary, steps([&] { step.store(); }));
        check(pita_redis_flush(60000));
    }
    {
        const Pool pool(address, "");
        Batch step(ids("sync", batch), logits.data(), vocabulary, kTemperature);
        print("sync", batch, vocabulary, steps([&] { step.store(); }));
    }
    // The same kernel, and a loop written by hand.
    const Batch step(ids("hiredis", batch), logits.data(), vocabulary, kTemperature);
    std::vector<pita_metrics_t> records(batch);
    print("hiredis", batch, vocabulary, steps([&] {
              step.compute(records);
              redis.append_each(step.names(), records);
          }));
    print("compute", batch, vocabulary, steps([&] { step.compute(records); }));
    redis.run("FLUSHDB");
}

void run(std::size_t vocabulary, std::size_t batch) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 3);
    std::vector<float> logits(batch * vocabulary);
    for (float &logit : logits) {
        logit = normal(random);
    }
    measure(tcp(), logits, batch, vocabulary);
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: decode_step VOCABULARY BATCH\n");
        return 2;
    }
    try {
        run(std::strtoul(argv[1], nullptr, 10), std::strtoul(argv[2], nullptr, 10));
    } catch (const std::exception &error) {
        std::fprintf(stderr, "decode_step: %s\n", error.what());
        return 1;
    }
    return 0;
}
