// A GPU for tests and benchmarks: the driver's functions that they use.

#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

// What PITA_TEST_DRIVER in the environment may replace.
#ifndef PITA_TEST_STUB
#define PITA_TEST_STUB "libcuda.so.1"
#endif

namespace cuda {

using Pointer = std::uint64_t;

class Driver {
  public:
    static Driver &get() {
        static Driver driver;
        return driver;
    }

    // A function by its name in the library; fails where it is missing.
    template <class Function> Function *find(const char *name) const {
        auto *const function = reinterpret_cast<Function *>(dlsym(handle_, name));
        if (function == nullptr) {
            throw std::runtime_error(std::string("the driver has no ") + name);
        }
        return function;
    }

    template <class... Arguments> void call(const char *name, Arguments... arguments) const {
        const int code = find<int(Arguments...)>(name)(arguments...);
        if (code != 0) {
            throw std::runtime_error(std::string(name) + " fails with " + std::to_string(code));
        }
    }

    // Whether it is the stub, which does more than a driver.
    bool is_stub() const { return dlsym(handle_, "stub_calls") != nullptr; }

  private:
    Driver() {
        const char *const named = std::getenv("PITA_TEST_DRIVER");
        // The library's own dlopen finds it by its soname then.
        handle_ = dlopen(named != nullptr ? named : PITA_TEST_STUB, RTLD_NOW | RTLD_GLOBAL);
        if (handle_ == nullptr) {
            throw std::runtime_error(dlerror());
        }
        call("cuInit", 0U);
    }

    void *handle_ = nullptr;
};

template <class... Arguments> void call(const char *name, Arguments... arguments) {
    Driver::get().call(name, arguments...);
}

// A context, current on this thread while it lives.
class Context {
  public:
    explicit Context(int device = 0) {
        if (Driver::get().is_stub()) {
            call("cuCtxCreate_v2", &handle_, 0U, device);
        } else {
            // As the runtime does: the tests share it.
            call("cuDevicePrimaryCtxRetain", &handle_, 0);
            call("cuCtxSetCurrent", handle_);
        }
    }
    ~Context() {
        if (Driver::get().is_stub()) {
            call("cuCtxDestroy_v2", handle_);
        }
    }
    Context(const Context &) = delete;
    Context &operator=(const Context &) = delete;

    void make_current() const { call("cuCtxSetCurrent", handle_); }

  private:
    void *handle_ = nullptr;
};

class Stream {
  public:
    Stream() { call("cuStreamCreate", &handle_, 1U); }
    ~Stream() { call("cuStreamDestroy_v2", handle_); }
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;

    void *get() const { return handle_; }
    void synchronize() const { call("cuStreamSynchronize", handle_); }

  private:
    void *handle_ = nullptr;
};

// Some bytes in device memory.
class Buffer {
  public:
    explicit Buffer(std::size_t size) : size_(size) { call("cuMemAlloc_v2", &pointer_, size); }
    template <class T> explicit Buffer(const std::vector<T> &values) : Buffer(values.size() * sizeof(T)) { write(values); }
    ~Buffer() { call("cuMemFree_v2", pointer_); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;

    template <class T> void write(const std::vector<T> &values, std::size_t at = 0) {
        call("cuMemcpyHtoD_v2", pointer_ + at, static_cast<const void *>(values.data()), values.size() * sizeof(T));
    }
    template <class T> std::vector<T> read(std::size_t count) const {
        std::vector<T> values(count);
        call("cuMemcpyDtoH_v2", static_cast<void *>(values.data()), pointer_, count * sizeof(T));
        return values;
    }

    const void *get(std::size_t at = 0) const { return reinterpret_cast<const void *>(pointer_ + at); }
    template <class T> T *as() const { return reinterpret_cast<T *>(pointer_); }

  private:
    Pointer pointer_ = 0;
    std::size_t size_;
};

} // namespace cuda
