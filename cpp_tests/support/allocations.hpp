// Counts what a program allocates. For one of its sources: it gets a malloc of its own, behind which valgrind sees none.

#pragma once

#include <cstddef>

namespace {

// Allocations of this thread.
thread_local std::size_t allocations = 0;

} // namespace

// The program's own come before the C library's: the shared library's calls end here as well.
extern "C" {
void *__libc_malloc(std::size_t size);
void *__libc_realloc(void *old, std::size_t size);
void *__libc_calloc(std::size_t count, std::size_t size);

void *malloc(std::size_t size) {
    ++allocations;
    return __libc_malloc(size);
}
void *realloc(void *old, std::size_t size) {
    ++allocations;
    return __libc_realloc(old, size);
}
void *calloc(std::size_t count, std::size_t size) {
    ++allocations;
    return __libc_calloc(count, size);
}
}
