#pragma once

#include <cstdint>

namespace emulator {

struct Dim {
    std::uint32_t x = 1;
    std::uint32_t y = 1;
    std::uint32_t z = 1;
};

// Runs the library's kernel on this thread, block by block; `matrix` and `requests` are its arguments. One at a time.
void reduce(Dim grid, std::uint32_t threads, const void *matrix, const void *requests);

// Bytes of the arguments.
extern const std::size_t matrix_size;
extern const std::size_t requests_size;

} // namespace emulator
