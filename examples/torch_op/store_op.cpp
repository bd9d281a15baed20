// Operators for torch that store metrics of logits, for engines with C++ extensions of their own, such as vLLM's:
//
//   pita::store(Tensor logits, str[] req_ids, float[] temperatures, int[] token_indices) -> ()
//       Logits [B, V] on the CPU or on a CUDA device. Cannot be captured in a CUDA graph.
//   pita::store_slots(Tensor logits, Tensor slots, Tensor? temperatures=None, Tensor? token_indices=None) -> Tensor
//       All on one CUDA device; returns the metrics, [B, 3]. Can be captured. pita_bind_slot says whose a slot is.
//
// With write=behind in REDIS_URL neither waits for Redis or for the GPU. Failures are raised: catch them, and go on.

#include <pita_redis.h>

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/library.h>
#include <torch/types.h>

namespace {

void check(pita_status_t status) { TORCH_CHECK(status == PITA_OK, pita_status_name(status), ": ", pita_last_error()); }

// The pool of this process, by the environment; once, for that takes longer than a store.
void open() {
    static const bool is_open = (check(pita_redis_open(nullptr)), true);
    (void)is_open;
}

std::uint32_t dtype_of(const torch::Tensor &logits) {
    switch (logits.scalar_type()) {
    case torch::kFloat32:
        return PITA_DTYPE_F32;
    case torch::kFloat16:
        return PITA_DTYPE_F16;
    case torch::kBFloat16:
        return PITA_DTYPE_BF16;
    default:
        TORCH_CHECK(false, "logits are ", logits.scalar_type(), ", not float, half or bfloat16");
    }
}

// Torch's current one, on which the logits are made.
void *stream_of(const torch::Tensor &logits) {
    if (logits.is_cpu()) {
        return nullptr;
    }
    return c10::impl::VirtualGuardImpl(logits.device().type()).getStream(logits.device()).native_handle();
}

void check_shape(const torch::Tensor &logits) {
    TORCH_CHECK(logits.dim() == 2, "logits have ", logits.dim(), " dimensions, not 2: [B, V]");
    TORCH_CHECK(logits.size(1) <= 1 || logits.stride(1) == 1, "the elements of a row of logits must lie side by side");
}

void store(const torch::Tensor &logits, const std::vector<std::string> &req_ids, const std::vector<double> &temperatures,
           const std::vector<std::int64_t> &token_indices) {
    check_shape(logits);
    const auto rows = static_cast<std::size_t>(logits.size(0));
    TORCH_CHECK(req_ids.size() == rows && temperatures.size() == rows && token_indices.size() == rows,
                "there must be a req_id, a temperature and a token index for each of ", rows, " rows");
    if (rows == 0) {
        return;
    }
    open();
    const c10::DeviceGuard guard(logits.device());
    std::vector<const char *> ids;
    for (const std::string &id : req_ids) {
        ids.push_back(id.c_str());
    }
    const std::vector<float> narrow(temperatures.begin(), temperatures.end());
    pita_batch_t batch = {};
    batch.struct_size = sizeof batch;
    batch.logits = logits.data_ptr();
    batch.dtype = dtype_of(logits);
    batch.device = logits.is_cpu() ? PITA_DEVICE_CPU : PITA_DEVICE_CUDA;
    batch.rows = rows;
    batch.vocab_size = static_cast<std::size_t>(logits.size(1));
    batch.row_stride = rows > 1 ? static_cast<std::size_t>(logits.stride(0)) : batch.vocab_size;
    batch.stream = stream_of(logits);
    batch.len = rows;
    batch.req_ids = ids.data();
    batch.temperatures = narrow.data();
    batch.token_indices = token_indices.data();
    check(pita_store_logits_metrics_batch(&batch));
}

torch::Tensor store_slots(const torch::Tensor &logits, const torch::Tensor &slots,
                          const std::optional<torch::Tensor> &temperatures,
                          const std::optional<torch::Tensor> &token_indices) {
    check_shape(logits);
    const auto rows = logits.size(0);
    const auto array = [&](const torch::Tensor &tensor, torch::ScalarType type, const char *name) {
        TORCH_CHECK(tensor.scalar_type() == type && tensor.is_contiguous() && tensor.numel() == rows &&
                        tensor.device() == logits.device(),
                    name, " must be ", rows, " x ", type, ", side by side, on the device of the logits");
        return tensor.data_ptr();
    };
    torch::Tensor out = torch::empty({rows, 3}, logits.options().dtype(torch::kFloat32));
    if (rows == 0) {
        return out;
    }
    open();
    const c10::DeviceGuard guard(logits.device());
    pita_slot_batch_t batch = {};
    batch.struct_size = sizeof batch;
    batch.logits = logits.data_ptr();
    batch.dtype = dtype_of(logits);
    batch.rows = static_cast<std::size_t>(rows);
    batch.vocab_size = static_cast<std::size_t>(logits.size(1));
    batch.row_stride = rows > 1 ? static_cast<std::size_t>(logits.stride(0)) : batch.vocab_size;
    batch.stream = stream_of(logits);
    batch.slots = static_cast<const std::int32_t *>(array(slots, torch::kInt32, "slots"));
    if (temperatures) {
        batch.temperatures = static_cast<const float *>(array(*temperatures, torch::kFloat32, "temperatures"));
    }
    if (token_indices) {
        batch.token_indices = static_cast<const std::int64_t *>(array(*token_indices, torch::kInt64, "token_indices"));
    }
    batch.out = out.data_ptr<float>();
    check(pita_store_slots(&batch));
    return out;
}

} // namespace

TORCH_LIBRARY(pita, library) {
    library.def("store(Tensor logits, str[] req_ids, float[] temperatures, int[] token_indices) -> ()", &store);
    library.def("store_slots(Tensor logits, Tensor slots, Tensor? temperatures=None, Tensor? token_indices=None) -> Tensor",
                &store_slots);
}
