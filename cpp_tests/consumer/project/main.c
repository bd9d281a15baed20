/* A user's program: the metrics of four logits. Each way to fail has an exit status of its own. */
#include <pita_redis.h>

#include <math.h>
#include <stdio.h>

static int near(double value, double wanted) { return fabs(value - wanted) <= 1e-6; }

int main(void) {
    const float logits[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    const float temperature = 0.5f;
    pita_metrics_t metrics = {0};
    pita_batch_t batch = {0};
    batch.struct_size = sizeof batch;
    batch.logits = logits;
    batch.dtype = PITA_DTYPE_F32;
    batch.device = PITA_DEVICE_CPU;
    batch.rows = 1;
    batch.vocab_size = 4;
    batch.row_stride = 4;
    batch.len = 1;
    batch.temperatures = &temperature;

    if (pita_compute_logits_metrics(&batch, &metrics) != PITA_OK) {
        fprintf(stderr, "%s\n", pita_last_error());
        return 1;
    }
    printf("pita-redis %s: %.17g %.17g %.17g\n", pita_version(), metrics.log_norm, metrics.log_norm_temp,
           metrics.entropy);
    if (!near(metrics.log_norm, 4.440189698561196)) {
        return 2;
    }
    if (!near(metrics.log_norm_temp, 8.145077938960782)) {
        return 3;
    }
    return near(metrics.entropy, 0.9475369639754256) ? 0 : 4;
}
