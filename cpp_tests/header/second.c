/* The second file: a header that defines something, instead of declaring it, would clash when the two are linked. */
#include <pita_redis.h>
#include <pita_redis.h>

const char *version_from_second(void);

const char *version_from_second(void) { return pita_version(); }
