/* Plain C: store the metrics of three tokens, take them out again. Redis is found by REDIS_HOST, REDIS_PORT, REDIS_DB. */

#include <stdio.h>

#include <pita_redis.h>

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, pita_last_error());
    pita_redis_close();
    return 1;
}

int main(void) {
    const float logits[3][4] = {{1.0f, 2.0f, 3.0f, 4.0f}, {0.0f, 0.0f, 0.0f, 0.0f}, {9.0f, 0.0f, 0.0f, 0.0f}};
    pita_metrics_t records[16];
    size_t count = 0;

    if (pita_redis_open(NULL) != PITA_OK) {
        return failed("open");
    }
    for (size_t token = 0; token < 3; ++token) {
        if (pita_store_logits_metrics("example-c", logits[token], 4, 0.5f, PITA_METRIC_ALL) != PITA_OK) {
            return failed("store");
        }
    }
    if (pita_take_metrics("example-c", records, 16, &count) != PITA_OK) {
        return failed("take");
    }
    for (size_t i = 0; i < count; ++i) {
        printf("token %zu: log_norm %.6f, log_norm_temp %.6f, entropy %.6f\n", i, records[i].log_norm,
               records[i].log_norm_temp, records[i].entropy);
    }
    pita_redis_close();
    return 0;
}
