// A libcuda.so.1 for tests without a GPU: the driver's functions that the library and its tests use. Streams are threads,
// device memory is the host's, and the kernel is the emulator's.

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "emulator.hpp"
#include "stub.h"

namespace {

enum Code {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    NOT_INITIALIZED = 3,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

struct Context {
    std::uint64_t id;
    std::atomic<int> fault{0};
    int device = 0;
};

struct Launch {
    emulator::Dim grid;
    std::uint32_t threads;
    std::vector<char> matrix, requests;
};

struct Graph {
    std::vector<Launch> launches;
};

// Does its work in order, on a thread of its own.
class Stream {
  public:
    explicit Stream(Context *of) : context(of), worker_([this] { work(); }) {}
    ~Stream() {
        push([this] { ends_ = true; });
        worker_.join();
    }

    void push(std::function<void()> what) {
        const std::lock_guard<std::mutex> lock(mutex_);
        queue_.push_back(std::move(what));
        ++pushed_;
        changed_.notify_all();
    }

    void hold(bool is_held) {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_held_ = is_held;
        changed_.notify_all();
    }

    void synchronize() {
        std::unique_lock<std::mutex> lock(mutex_);
        const auto until = pushed_;
        changed_.wait(lock, [&] { return done_ >= until; });
    }

    void launch(const Launch &launch) {
        push([this, launch] {
            if (const int code = fault; code != SUCCESS) {
                context->fault = code;
            }
            if (context->fault == SUCCESS) {
                emulator::reduce(launch.grid, launch.threads, launch.matrix.data(), launch.requests.data());
            }
        });
    }

    Context *const context;
    // What it captures, if it does; broken by what must not be done meanwhile.
    std::unique_ptr<Graph> capture;
    bool is_broken = false;
    static std::atomic<int> fault;

  private:
    void work() {
        std::unique_lock<std::mutex> lock(mutex_);
        while (!ends_) {
            changed_.wait(lock, [this] { return !queue_.empty() && !is_held_; });
            const auto what = std::move(queue_.front());
            queue_.pop_front();
            lock.unlock();
            what();
            lock.lock();
            ++done_;
            changed_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::function<void()>> queue_;
    std::uint64_t pushed_ = 0;
    std::uint64_t done_ = 0;
    bool is_held_ = false;
    bool ends_ = false;
    std::thread worker_;
};

std::atomic<int> Stream::fault{0};

struct Event {
    std::atomic<std::uint64_t> recorded{0};
    std::atomic<std::uint64_t> reached{0};
    Context *context = nullptr;
};

enum class Kind : std::uint32_t { Host = 1, Device = 2 };

struct Range {
    std::size_t size;
    Kind kind;
    bool is_managed;
    void *mapping;
    std::size_t mapped;
    int device = 0;
};

std::mutex mutex;
std::map<std::uintptr_t, Range> memory;
// Neither looking for a name nor counting it allocates: see the tests of that.
std::map<std::string, unsigned long, std::less<>> calls;
std::map<std::string, int, std::less<>> failures;
std::map<Context *, Stream *> default_streams;
std::atomic<int> captures{0};
std::vector<Stream *> captured;
std::uint64_t contexts = 0;
std::atomic<bool> drops{false};
bool is_initialized = false;

thread_local std::vector<Context *> current;
// 0: global, 1: by thread, 2: relaxed.
thread_local int capture_mode = 0;

int begin(const char *function) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (const char *name : {function, ""}) {
        auto found = calls.find(name);
        if (found == calls.end()) {
            found = calls.emplace(name, 0).first;
        }
        ++found->second;
    }
    for (const char *name : {function, ""}) {
        if (const auto failure = failures.find(name); failure != failures.end()) {
            return failure->second;
        }
    }
    return is_initialized ? SUCCESS : NOT_INITIALIZED;
}

Context *context() { return current.empty() ? nullptr : current.back(); }

Stream *stream_of(void *handle) {
    if (handle != nullptr) {
        return static_cast<Stream *>(handle);
    }
    const std::lock_guard<std::mutex> lock(mutex);
    Stream *&stream = default_streams[context()];
    if (stream == nullptr) {
        stream = new Stream(context());
    }
    return stream;
}

// What may hold up the device must not be called while something is captured, unless the thread says that it knows.
int forbidden_in_captures() {
    if (captures == 0 || capture_mode == 2) {
        return SUCCESS;
    }
    const std::lock_guard<std::mutex> lock(mutex);
    for (Stream *stream : captured) {
        stream->is_broken = true;
    }
    return CAPTURE_UNSUPPORTED;
}

int in_context() {
    if (context() == nullptr) {
        return INVALID_CONTEXT;
    }
    return context()->fault;
}

// Ends where the pages end that may be read.
std::uintptr_t map(std::size_t size, Kind kind, bool is_managed) {
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), pages = (size + page - 1) / page * page;
    char *const mapping =
        static_cast<char *>(mmap(nullptr, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(mapping + pages, page, PROT_NONE);
    // What the driver gives is aligned, and what is there is not 0.
    std::memset(mapping, 0xee, pages);
    const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(mapping) + (pages - (size + 255) / 256 * 256);
    const std::lock_guard<std::mutex> lock(mutex);
    memory[address] = Range{size, kind, is_managed, mapping, pages + page, context()->device};
    return address;
}

void unmap(std::uintptr_t address) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (const auto found = memory.find(address); found != memory.end()) {
        munmap(found->second.mapping, found->second.mapped);
        memory.erase(found);
    }
}

const char *const PTX_ENTRY = ".entry pita_reduce(";

} // namespace

#define BEGIN(name) \
    if (const int failure = begin(name); failure != SUCCESS) { \
        return failure; \
    }
#define CHECK(call) \
    if (const int failure = (call); failure != SUCCESS) { \
        return failure; \
    }

extern "C" {

void stub_hold(void *stream) { stream_of(stream)->hold(true); }
void stub_let_go(void *stream) { stream_of(stream)->hold(false); }

unsigned long stub_calls(const char *function) {
    const std::lock_guard<std::mutex> lock(mutex);
    return calls[function == nullptr ? "" : function];
}

void stub_fail(const char *function, int code) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (code == SUCCESS) {
        failures.erase(function == nullptr ? "" : function);
    } else {
        failures[function == nullptr ? "" : function] = code;
    }
}

void stub_fault(int code) { Stream::fault = code; }

void stub_drop(int is_on) { drops = is_on != 0; }

// --- the driver ---

int cuInit(unsigned) {
    {
        const std::lock_guard<std::mutex> lock(mutex);
        is_initialized = true;
    }
    BEGIN("cuInit")
    return SUCCESS;
}

int cuGetErrorName(int code, const char **name) {
    static const std::map<int, const char *> names = {
        {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"}, {100, "CUDA_ERROR_NO_DEVICE"},
        {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"},
        {700, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}};
    const auto found = names.find(code);
    *name = found == names.end() ? nullptr : found->second;
    return found == names.end() ? INVALID_VALUE : SUCCESS;
}

int cuGetErrorString(int code, const char **text) {
    *text = "as the stub has it";
    return code == SUCCESS ? INVALID_VALUE : SUCCESS;
}

int cuCtxCreate_v2(void **out, unsigned, int device) {
    BEGIN("cuCtxCreate")
    current.push_back(new Context{++contexts});
    current.back()->device = device;
    *out = current.back();
    return SUCCESS;
}

int cuCtxDestroy_v2(void *handle) {
    BEGIN("cuCtxDestroy")
    Context *const gone = static_cast<Context *>(handle);
    Stream *stream = nullptr;
    {
        const std::lock_guard<std::mutex> lock(mutex);
        if (const auto found = default_streams.find(gone); found != default_streams.end()) {
            stream = found->second;
            default_streams.erase(found);
        }
    }
    delete stream;
    while (context() == gone) {
        current.pop_back();
    }
    delete gone;
    return SUCCESS;
}

int cuCtxGetId(void *handle, std::uint64_t *id) {
    BEGIN("cuCtxGetId")
    *id = static_cast<Context *>(handle)->id;
    return SUCCESS;
}

int cuCtxGetCurrent(void **out) {
    BEGIN("cuCtxGetCurrent")
    *out = context();
    return SUCCESS;
}

int cuCtxSetCurrent(void *handle) {
    BEGIN("cuCtxSetCurrent")
    current.clear();
    if (handle != nullptr) {
        current.push_back(static_cast<Context *>(handle));
    }
    return SUCCESS;
}

int cuCtxPushCurrent_v2(void *handle) {
    BEGIN("cuCtxPushCurrent")
    current.push_back(static_cast<Context *>(handle));
    return SUCCESS;
}

int cuCtxPopCurrent_v2(void **out) {
    BEGIN("cuCtxPopCurrent")
    *out = context();
    current.pop_back();
    return SUCCESS;
}

int cuCtxGetDevice(int *device) {
    BEGIN("cuCtxGetDevice")
    *device = context() == nullptr ? 0 : context()->device;
    return in_context();
}

int cuDeviceGetAttribute(int *value, int attribute, int) {
    BEGIN("cuDeviceGetAttribute")
    // Multiprocessors: few, for each block takes the emulator some milliseconds.
    *value = attribute == 16 ? 1 : 0;
    return SUCCESS;
}

int cuDeviceGetName(char *name, int size, int) {
    BEGIN("cuDeviceGetName")
    std::strncpy(name, "the stub", static_cast<std::size_t>(size));
    return SUCCESS;
}

int cuPointerGetAttribute(void *value, int attribute, std::uint64_t pointer) {
    BEGIN("cuPointerGetAttribute")
    const std::lock_guard<std::mutex> lock(mutex);
    auto above = memory.upper_bound(pointer);
    if (above == memory.begin() || pointer >= std::prev(above)->first + std::prev(above)->second.size) {
        return INVALID_VALUE;
    }
    const Range &range = std::prev(above)->second;
    switch (attribute) {
    case 2:
        *static_cast<std::uint32_t *>(value) = static_cast<std::uint32_t>(range.kind);
        return SUCCESS;
    case 8:
        *static_cast<bool *>(value) = range.is_managed;
        return SUCCESS;
    case 9:
        *static_cast<int *>(value) = range.device;
        return SUCCESS;
    default:
        return INVALID_VALUE;
    }
}

int cuModuleLoadData(void **module, const void *image) {
    BEGIN("cuModuleLoadData")
    CHECK(in_context())
    CHECK(forbidden_in_captures())
    // It is PTX, and has the kernel.
    if (std::strstr(static_cast<const char *>(image), PTX_ENTRY) == nullptr) {
        return INVALID_VALUE;
    }
    *module = context();
    return SUCCESS;
}

int cuModuleUnload(void *) {
    BEGIN("cuModuleUnload")
    return SUCCESS;
}

int cuFuncGetAttribute(int *value, int, void *) {
    BEGIN("cuFuncGetAttribute")
    CHECK(forbidden_in_captures())
    *value = 64;
    return SUCCESS;
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    BEGIN("cuModuleGetFunction")
    *function = module;
    return std::strcmp(name, "pita_reduce") == 0 ? SUCCESS : NOT_FOUND;
}

int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned, unsigned,
                   void *handle, void **arguments, void **) {
    BEGIN("cuLaunchKernel")
    CHECK(in_context())
    // A function is its context's.
    if (function != context()) {
        return INVALID_HANDLE;
    }
    if (drops) {
        return SUCCESS;
    }
    const char *const matrix = static_cast<const char *>(arguments[0]);
    const char *const requests = static_cast<const char *>(arguments[1]);
    const Launch launch{{x, y, z},
                        threads,
                        {matrix, matrix + emulator::matrix_size},
                        {requests, requests + emulator::requests_size}};
    Stream *const stream = stream_of(handle);
    if (stream->capture != nullptr) {
        stream->capture->launches.push_back(launch);
    } else {
        stream->launch(launch);
    }
    return SUCCESS;
}

int cuMemAlloc_v2(std::uint64_t *out, std::size_t size) {
    BEGIN("cuMemAlloc")
    CHECK(in_context())
    CHECK(forbidden_in_captures())
    *out = map(size, Kind::Device, false);
    return SUCCESS;
}

int cuMemAllocManaged(std::uint64_t *out, std::size_t size, unsigned) {
    BEGIN("cuMemAllocManaged")
    CHECK(in_context())
    *out = map(size, Kind::Device, true);
    return SUCCESS;
}

int cuMemFree_v2(std::uint64_t address) {
    BEGIN("cuMemFree")
    CHECK(forbidden_in_captures())
    unmap(address);
    return SUCCESS;
}

int cuMemHostRegister_v2(void *pointer, std::size_t size, unsigned) {
    BEGIN("cuMemHostRegister")
    CHECK(in_context())
    CHECK(forbidden_in_captures())
    const std::lock_guard<std::mutex> lock(mutex);
    memory[reinterpret_cast<std::uintptr_t>(pointer)] = Range{size, Kind::Host, false, nullptr, 0, 0};
    return SUCCESS;
}

int cuMemHostUnregister(void *pointer) {
    BEGIN("cuMemHostUnregister")
    const std::lock_guard<std::mutex> lock(mutex);
    memory.erase(reinterpret_cast<std::uintptr_t>(pointer));
    return SUCCESS;
}

int cuMemHostGetDevicePointer_v2(std::uint64_t *out, void *pointer, unsigned) {
    BEGIN("cuMemHostGetDevicePointer")
    *out = reinterpret_cast<std::uint64_t>(pointer);
    return SUCCESS;
}

int cuMemcpyHtoD_v2(std::uint64_t to, const void *from, std::size_t size) {
    BEGIN("cuMemcpyHtoD")
    CHECK(forbidden_in_captures())
    std::memcpy(reinterpret_cast<void *>(to), from, size);
    return SUCCESS;
}

int cuMemcpyDtoH_v2(void *to, std::uint64_t from, std::size_t size) {
    BEGIN("cuMemcpyDtoH")
    std::memcpy(to, reinterpret_cast<const void *>(from), size);
    return SUCCESS;
}

int cuMemcpyHtoDAsync_v2(std::uint64_t to, const void *from, std::size_t size, void *stream) {
    BEGIN("cuMemcpyHtoDAsync")
    stream_of(stream)->push([=] { std::memcpy(reinterpret_cast<void *>(to), from, size); });
    return SUCCESS;
}

int cuMemsetD32Async(std::uint64_t to, unsigned value, std::size_t count, void *stream) {
    BEGIN("cuMemsetD32Async")
    stream_of(stream)->push([=] {
        for (std::size_t i = 0; i < count; ++i) {
            reinterpret_cast<unsigned *>(to)[i] = value;
        }
    });
    return SUCCESS;
}

int cuStreamCreate(void **out, unsigned) {
    BEGIN("cuStreamCreate")
    CHECK(in_context())
    *out = new Stream(context());
    return SUCCESS;
}

int cuStreamDestroy_v2(void *stream) {
    BEGIN("cuStreamDestroy")
    delete static_cast<Stream *>(stream);
    return SUCCESS;
}

int cuStreamSynchronize(void *stream) {
    BEGIN("cuStreamSynchronize")
    if (stream_of(stream)->capture != nullptr) {
        stream_of(stream)->is_broken = true;
        return CAPTURE_UNSUPPORTED;
    }
    stream_of(stream)->synchronize();
    return stream_of(stream)->context->fault;
}

int cuStreamIsCapturing(void *stream, int *status) {
    BEGIN("cuStreamIsCapturing")
    Stream *const of = stream_of(stream);
    *status = of->capture == nullptr ? 0 : of->is_broken ? 2 : 1;
    return SUCCESS;
}

int cuThreadExchangeStreamCaptureMode(int *mode) {
    BEGIN("cuThreadExchangeStreamCaptureMode")
    std::swap(*mode, capture_mode);
    return SUCCESS;
}

int cuStreamBeginCapture_v2(void *stream, int) {
    BEGIN("cuStreamBeginCapture")
    Stream *const of = stream_of(stream);
    of->capture = std::make_unique<Graph>();
    of->is_broken = false;
    const std::lock_guard<std::mutex> lock(mutex);
    captured.push_back(of);
    ++captures;
    return SUCCESS;
}

int cuStreamEndCapture(void *stream, void **graph) {
    BEGIN("cuStreamEndCapture")
    Stream *const of = stream_of(stream);
    *graph = of->capture.release();
    const std::lock_guard<std::mutex> lock(mutex);
    captured.clear();
    --captures;
    return of->is_broken ? CAPTURE_INVALIDATED : SUCCESS;
}

int cuGraphInstantiateWithFlags(void **out, void *graph, unsigned long long) {
    BEGIN("cuGraphInstantiate")
    *out = graph;
    return SUCCESS;
}

int cuGraphLaunch(void *graph, void *stream) {
    BEGIN("cuGraphLaunch")
    for (const Launch &launch : static_cast<Graph *>(graph)->launches) {
        stream_of(stream)->launch(launch);
    }
    return SUCCESS;
}

int cuEventCreate(void **out, unsigned) {
    BEGIN("cuEventCreate")
    *out = new Event;
    return SUCCESS;
}

int cuEventRecord(void *handle, void *stream) {
    BEGIN("cuEventRecord")
    if (drops) {
        return SUCCESS;
    }
    Event *const event = static_cast<Event *>(handle);
    event->context = stream_of(stream)->context;
    const std::uint64_t number = ++event->recorded;
    stream_of(stream)->push([=] { event->reached = number; });
    return SUCCESS;
}

int cuEventElapsedTime(float *milliseconds, void *, void *) {
    BEGIN("cuEventElapsedTime")
    *milliseconds = 1;
    return SUCCESS;
}

int cuEventDestroy_v2(void *handle) {
    BEGIN("cuEventDestroy")
    delete static_cast<Event *>(handle);
    return SUCCESS;
}

int cuEventQuery(void *handle) {
    BEGIN("cuEventQuery")
    CHECK(forbidden_in_captures())
    const Event *const event = static_cast<Event *>(handle);
    if (event->context != nullptr && event->context->fault != SUCCESS) {
        return event->context->fault;
    }
    return event->reached == event->recorded ? SUCCESS : NOT_READY;
}

} // extern "C"
