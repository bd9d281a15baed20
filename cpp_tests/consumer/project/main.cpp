// The same through the C++ layer.
#include <pita_redis.hpp>

#include <cstdio>

int main() {
    const float logits[] = {1.0F, 2.0F, 3.0F, 4.0F};
    pita::Batch batch(pita::Logits(logits, 1, 4));
    batch.add({"consumer"});
    const double entropy = pita::compute(batch).at(0).entropy;
    std::printf("pita-redis %s: %.17g\n", pita_version(), entropy);
    return entropy > 0.947536 && entropy < 0.947537 ? 0 : 1;
}
