// Memory with a forbidden page behind it.

#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <stdexcept>

namespace support {

// A page of zeros that ends where the memory does, so that a read beyond is a crash.
class GuardedPage {
  public:
    GuardedPage() : size_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
        pages_ = mmap(nullptr, 2 * size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages_ == MAP_FAILED || mprotect(end(), size_, PROT_NONE) != 0) {
            throw std::runtime_error("no guarded page");
        }
    }
    ~GuardedPage() { munmap(pages_, 2 * size_); }
    GuardedPage(const GuardedPage &) = delete;
    GuardedPage &operator=(const GuardedPage &) = delete;

    char *end() const { return static_cast<char *>(pages_) + size_; }

  private:
    std::size_t size_;
    void *pages_;
};

} // namespace support
