/* Of two files that include the header, the one with main. Included twice, the header counts once. */
#include <pita_redis.h>
#include <pita_redis.h>

#include <stdio.h>
#include <string.h>

const char *version_from_second(void);

int main(void) {
    if (strcmp(pita_version(), version_from_second()) != 0 || strlen(pita_version()) == 0) {
        return 1;
    }
    printf("pita-redis %s\n", pita_version());
    return 0;
}
