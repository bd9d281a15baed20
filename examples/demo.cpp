// The demo: one process plays an inference engine and stores metrics of every token, another takes them out.
//
// Run by `make demo`. Redis is found by REDIS_URL, or REDIS_HOST and REDIS_PORT.

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <random>
#include <string>
#include <vector>

#include <pita_redis.hpp>

namespace {

constexpr std::size_t requests = 8;
constexpr std::size_t tokens = 64;
constexpr std::size_t vocabulary = 32000;
constexpr float temperature = 0.25F;

using Clock = std::chrono::steady_clock;

std::vector<std::string> request_ids() {
    std::vector<std::string> ids;
    for (std::size_t i = 0; i < requests; ++i) {
        ids.push_back("pita-demo-" + std::to_string(getpid()) + "-" + std::to_string(i));
    }
    return ids;
}

// Stands in for a model: the same noise at every step, sharpened and flattened in a rhythm of each request's own.
class Model {
  public:
    Model() : noise_(vocabulary), logits_(requests * vocabulary) {
        std::mt19937 random(20260101);
        std::normal_distribution<float> normal;
        for (float &x : noise_) {
            x = normal(random);
        }
    }

    const std::vector<float> &step(std::size_t token) {
        for (std::size_t request = 0; request < requests; ++request) {
            const double phase = 0.1 * static_cast<double>((request + 1) * token) + static_cast<double>(request);
            const auto sharpness = static_cast<float>(3.0 - 2.5 * std::cos(phase));
            for (std::size_t i = 0; i < vocabulary; ++i) {
                logits_[request * vocabulary + i] = sharpness * noise_[(i + 977 * token) % vocabulary];
            }
        }
        return logits_;
    }

  private:
    std::vector<float> noise_;
    std::vector<float> logits_;
};

// The engine's process: decodes all requests side by side and stores each step as one batch. Returns the mean time that
// a step spends in the library, in microseconds.
double play_engine(const std::vector<std::string> &ids) {
    const pita::Session session;
    Model model;
    pita::Batch batch;
    Clock::duration spent{};
    for (std::size_t token = 0; token < tokens; ++token) {
        const std::vector<float> &logits = model.step(token);
        batch.begin(pita::Logits(logits.data(), requests, vocabulary));
        for (std::size_t row = 0; row < requests; ++row) {
            batch.add({ids[row].c_str(), row, static_cast<std::int64_t>(token), temperature});
        }
        const Clock::time_point start = Clock::now();
        session.store(batch);
        spent += Clock::now() - start;
    }
    return std::chrono::duration<double, std::micro>(spent).count() / static_cast<double>(tokens);
}

// Starts the engine in a process of its own. What it returns can be read from the descriptor `result`.
pid_t start_engine(const std::vector<std::string> &ids, int &result) {
    int ends[2];
    if (pipe(ends) != 0) {
        return -1;
    }
    result = ends[0];
    const pid_t child = fork();
    if (child == 0) {
        int status = 1;
        try {
            const double micros = play_engine(ids);
            status = write(ends[1], &micros, sizeof micros) == sizeof micros ? 0 : 1;
        } catch (const std::exception &error) {
            std::fprintf(stderr, "engine: %s\n", error.what());
        }
        _exit(status);
    }
    close(ends[1]);
    return child;
}

std::string sparkline(const std::vector<pita::Metrics> &records) {
    static const char *const bars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    const double most = std::log(static_cast<double>(vocabulary));
    std::string line;
    for (const pita::Metrics &record : records) {
        line += bars[std::min(7, static_cast<int>(8.0 * record.entropy / most))];
    }
    return line;
}

void print_row(std::size_t request, const std::vector<pita::Metrics> &records) {
    double log_norm = 0.0;
    double entropy = 0.0;
    for (const pita::Metrics &record : records) {
        log_norm += record.log_norm;
        entropy += record.entropy;
    }
    const auto count = static_cast<double>(records.size());
    std::printf("%7zu %7zu %9.3f %13.3f  %s\n", request, records.size(), log_norm / count, entropy / count,
                sparkline(records).c_str());
}

int run() {
    const std::vector<std::string> ids = request_ids();
    int result = -1;
    const pid_t engine = start_engine(ids, result);
    if (engine < 0) {
        std::perror("demo");
        return 1;
    }
    double micros = 0.0;
    const bool finished = read(result, &micros, sizeof micros) == sizeof micros;
    int status = 0;
    waitpid(engine, &status, 0);
    if (!finished) {
        return 1;
    }
    const pita::Session session;
    std::printf("%zu requests x %zu tokens, vocabulary %zu, temperature %.2f\n", requests, tokens, vocabulary,
                static_cast<double>(temperature));
    std::printf("stored by process %d, taken by process %d\n\n", static_cast<int>(engine), static_cast<int>(getpid()));
    std::printf("request  tokens  mean lse  mean entropy  entropy per token, 0 to ln(vocabulary)\n");
    for (std::size_t request = 0; request < requests; ++request) {
        print_row(request, session.take(ids[request]));
    }
    std::printf("\n%.0f us per step of %zu rows, computing and storing\n", micros, requests);
    return 0;
}

} // namespace

int main() {
    try {
        return run();
    } catch (const pita::Error &error) {
        std::fprintf(stderr, "demo: %s: %s\n", error.name(), error.what());
        return 1;
    }
}
