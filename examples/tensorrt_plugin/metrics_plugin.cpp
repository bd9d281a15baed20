#include "metrics_plugin.hpp"

#include <pita_redis.h>

#include <new>
#include <string>

using namespace nvinfer1;

namespace pita_example {

namespace {

enum Input { LOGITS, SLOTS, TEMPERATURES, TOKEN_INDICES, INPUTS };

constexpr char const *NAME = "PitaMetrics";
constexpr char const *VERSION = "1";

ILoggerFinder *logger_finder = nullptr;

void log_failure(char const *what) noexcept {
    ILogger *const logger = logger_finder != nullptr ? logger_finder->findLogger() : nullptr;
    if (logger != nullptr) {
        logger->log(ILogger::Severity::kERROR, (std::string(NAME) + ": " + what + ": " + pita_last_error()).c_str());
    }
}

// One of PITA_DTYPE_*, or -1.
int dtype_of(DataType type) noexcept {
    switch (type) {
    case DataType::kFLOAT:
        return PITA_DTYPE_F32;
    case DataType::kHALF:
        return PITA_DTYPE_F16;
    case DataType::kBF16:
        return PITA_DTYPE_BF16;
    default:
        return -1;
    }
}

PluginFieldCollection const *no_fields() noexcept {
    static PluginFieldCollection const none{0, nullptr};
    return &none;
}

} // namespace

// --- what it is ------------------------------------------------------------------------------------------------------

IPluginCapability *MetricsPlugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
    switch (type) {
    case PluginCapabilityType::kCORE:
        return static_cast<IPluginV3OneCore *>(this);
    case PluginCapabilityType::kBUILD:
        return static_cast<IPluginV3OneBuild *>(this);
    case PluginCapabilityType::kRUNTIME:
        return static_cast<IPluginV3OneRuntime *>(this);
    }
    return nullptr;
}

IPluginV3 *MetricsPlugin::clone() noexcept { return new (std::nothrow) MetricsPlugin(phase_); }

char const *MetricsPlugin::getPluginName() const noexcept { return NAME; }
char const *MetricsPlugin::getPluginVersion() const noexcept { return VERSION; }
char const *MetricsPlugin::getPluginNamespace() const noexcept { return ""; }

// --- building an engine ----------------------------------------------------------------------------------------------

int32_t MetricsPlugin::configurePlugin(DynamicPluginTensorDesc const *, int32_t, DynamicPluginTensorDesc const *,
                                       int32_t) noexcept {
    return 0;
}

int32_t MetricsPlugin::getNbOutputs() const noexcept { return 1; }

int32_t MetricsPlugin::getOutputDataTypes(DataType *out, int32_t out_count, DataType const *, int32_t in_count) const noexcept {
    if (in_count != INPUTS || out_count != 1) {
        return -1;
    }
    out[0] = DataType::kFLOAT;
    return 0;
}

int32_t MetricsPlugin::getOutputShapes(DimsExprs const *in, int32_t in_count, DimsExprs const *, int32_t, DimsExprs *out,
                                       int32_t out_count, IExprBuilder &builder) noexcept {
    if (in_count != INPUTS || out_count != 1 || in[LOGITS].nbDims != 2) {
        return -1;
    }
    out[0].nbDims = 2;
    out[0].d[0] = in[LOGITS].d[0];
    out[0].d[1] = builder.constant(3);
    return 0;
}

bool MetricsPlugin::supportsFormatCombination(int32_t position, DynamicPluginTensorDesc const *tensors, int32_t in_count,
                                              int32_t out_count) noexcept {
    if (in_count != INPUTS || out_count != 1) {
        return false;
    }
    PluginTensorDesc const &tensor = tensors[position].desc;
    if (tensor.format != TensorFormat::kLINEAR) {
        return false;
    }
    switch (position) {
    case LOGITS:
        return dtype_of(tensor.type) >= 0;
    case SLOTS:
        return tensor.type == DataType::kINT32;
    case TOKEN_INDICES:
        return tensor.type == DataType::kINT64;
    default: // The temperatures, and the output.
        return tensor.type == DataType::kFLOAT;
    }
}

// --- running it ------------------------------------------------------------------------------------------------------

int32_t MetricsPlugin::onShapeChange(PluginTensorDesc const *, int32_t, PluginTensorDesc const *, int32_t) noexcept {
    return 0;
}

int32_t MetricsPlugin::enqueue(PluginTensorDesc const *in, PluginTensorDesc const *, void const *const *inputs,
                               void *const *outputs, void *, cudaStream_t stream) noexcept {
    // A builder that measures has no requests.
    if (phase_ == TensorRTPhase::kBUILD) {
        return 0;
    }
    Dims const &shape = in[LOGITS].dims;
    pita_slot_batch_t batch = {};
    batch.struct_size = sizeof batch;
    batch.logits = inputs[LOGITS];
    batch.dtype = static_cast<uint32_t>(dtype_of(in[LOGITS].type));
    batch.rows = static_cast<size_t>(shape.d[0]);
    batch.vocab_size = static_cast<size_t>(shape.d[1]);
    batch.row_stride = batch.vocab_size;
    batch.stream = stream;
    batch.slots = static_cast<int32_t const *>(inputs[SLOTS]);
    batch.temperatures = static_cast<float const *>(inputs[TEMPERATURES]);
    batch.token_indices = static_cast<int64_t const *>(inputs[TOKEN_INDICES]);
    batch.out = static_cast<float *>(outputs[0]);
    // A step without requests has nothing to store.
    if (batch.rows > 0 && pita_store_slots(&batch) != PITA_OK) {
        log_failure("a step has no metrics");
        return -1;
    }
    return 0;
}

IPluginV3 *MetricsPlugin::attachToContext(IPluginResourceContext *) noexcept { return clone(); }

PluginFieldCollection const *MetricsPlugin::getFieldsToSerialize() noexcept { return no_fields(); }

// --- how TensorRT finds it -------------------------------------------------------------------------------------------

IPluginV3 *MetricsPluginCreator::createPlugin(char const *, PluginFieldCollection const *, TensorRTPhase phase) noexcept {
    return new (std::nothrow) MetricsPlugin(phase);
}

PluginFieldCollection const *MetricsPluginCreator::getFieldNames() noexcept { return no_fields(); }
char const *MetricsPluginCreator::getPluginName() const noexcept { return NAME; }
char const *MetricsPluginCreator::getPluginVersion() const noexcept { return VERSION; }
char const *MetricsPluginCreator::getPluginNamespace() const noexcept { return ""; }

} // namespace pita_example

extern "C" {

// IPluginRegistry::loadLibrary calls both.
__attribute__((visibility("default"))) IPluginCreatorInterface *const *getCreators(int32_t &count) {
    static pita_example::MetricsPluginCreator creator;
    static IPluginCreatorInterface *const creators[] = {&creator};
    count = 1;
    return creators;
}

__attribute__((visibility("default"))) void setLoggerFinder(ILoggerFinder *finder) { pita_example::logger_finder = finder; }

} // extern "C"
