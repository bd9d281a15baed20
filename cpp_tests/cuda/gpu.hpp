// What the tests of CUDA buffers share. The driver is the one that PITA_TEST_DRIVER names, or else the stub.

#pragma once

#include <gtest/gtest.h>

#include <utility>

#include "driver.hpp"
#include "stub/stub.h"
#include "support/logits.hpp"

namespace cuda {

// A test with a context.
class GpuTest : public testing::Test {
  protected:
    Context context;
};

// The stub's functions; a test that uses them is skipped elsewhere.
template <class Function> Function *stub(const char *name) { return Driver::get().find<Function>(name); }

// While it lives the stream does nothing.
class Hold {
  public:
    explicit Hold(const Stream &stream) : stream_(stream.get()) { stub<void(void *)>("stub_hold")(stream_); }
    ~Hold() { let_go(); }
    void let_go() { stub<void(void *)>("stub_let_go")(std::exchange(stream_, stream_)); }

  private:
    void *stream_;
};

inline unsigned long calls(const char *function = nullptr) {
    return stub<unsigned long(const char *)>("stub_calls")(function);
}

// While it lives a function of the driver fails.
class Failure {
  public:
    Failure(const char *function, int code) : function_(function) { set(code); }
    ~Failure() { set(0); }

  private:
    void set(int code) const { stub<void(const char *, int)>("stub_fail")(function_, code); }
    const char *function_;
};

#define NEEDS_STUB()                                                        \
    if (!cuda::Driver::get().is_stub()) {                                   \
        GTEST_SKIP() << "this is a driver, of which one cannot ask such";   \
    }

// A batch over logits in device memory, one request a row.
inline pita_batch_t batch_over(const Buffer &logits, std::uint32_t dtype, std::size_t rows, std::size_t vocab_size,
                               void *stream = nullptr) {
    pita_batch_t batch = support::batch_over(logits.get(), dtype, rows, vocab_size);
    batch.device = PITA_DEVICE_CUDA;
    batch.stream = stream;
    return batch;
}

} // namespace cuda
