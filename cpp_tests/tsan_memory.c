// What rustc's code with ThreadSanitizer calls and the runtime of older compilers lacks. That runtime sees the plain calls.

#include <string.h>

void *__tsan_memcpy(void *to, const void *from, size_t size) {
    return memcpy(to, from, size);
}

void *__tsan_memmove(void *to, const void *from, size_t size) {
    return memmove(to, from, size);
}

void *__tsan_memset(void *to, int value, size_t size) {
    return memset(to, value, size);
}
