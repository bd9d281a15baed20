// A TensorRT plugin that hands the logits of a step over: PitaMetrics, version 1.
//
//   inputs   logits         [B, V]  float, half or bf16
//            slots          [B]     int32   each row's slot, bound to a request by pita_bind_slot; below 0: none
//            temperatures   [B]     float
//            token_indices  [B]     int64   of each row's token in its list
//   output   metrics        [B, 3]  float   log_norm, log_norm_temp, entropy
//
// By the way the records go to Redis, under the ids that the slots are bound to. The process opens the pool before the first
// step, with write=behind: pita_redis_open. A Redis that is away never fails a step; a pool that is not open does, for the output
// could not be made.

#pragma once

#include <NvInferRuntime.h>

namespace pita_example {

class MetricsPlugin final : public nvinfer1::IPluginV3,
                            public nvinfer1::IPluginV3OneCore,
                            public nvinfer1::IPluginV3OneBuild,
                            public nvinfer1::IPluginV3OneRuntime {
  public:
    explicit MetricsPlugin(nvinfer1::TensorRTPhase phase) noexcept : phase_(phase) {}

    nvinfer1::IPluginCapability *getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3 *clone() noexcept override;

    char const *getPluginName() const noexcept override;
    char const *getPluginVersion() const noexcept override;
    char const *getPluginNamespace() const noexcept override;

    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const *in, int32_t in_count,
                            nvinfer1::DynamicPluginTensorDesc const *out, int32_t out_count) noexcept override;
    int32_t getOutputDataTypes(nvinfer1::DataType *out, int32_t out_count, nvinfer1::DataType const *in,
                               int32_t in_count) const noexcept override;
    int32_t getOutputShapes(nvinfer1::DimsExprs const *in, int32_t in_count, nvinfer1::DimsExprs const *shapes,
                            int32_t shape_count, nvinfer1::DimsExprs *out, int32_t out_count,
                            nvinfer1::IExprBuilder &builder) noexcept override;
    bool supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const *tensors, int32_t in_count,
                                   int32_t out_count) noexcept override;
    int32_t getNbOutputs() const noexcept override;

    int32_t onShapeChange(nvinfer1::PluginTensorDesc const *in, int32_t in_count, nvinfer1::PluginTensorDesc const *out,
                          int32_t out_count) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const *in, nvinfer1::PluginTensorDesc const *out, void const *const *inputs,
                    void *const *outputs, void *workspace, cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3 *attachToContext(nvinfer1::IPluginResourceContext *context) noexcept override;
    nvinfer1::PluginFieldCollection const *getFieldsToSerialize() noexcept override;

  private:
    nvinfer1::TensorRTPhase phase_;
};

class MetricsPluginCreator final : public nvinfer1::IPluginCreatorV3One {
  public:
    nvinfer1::IPluginV3 *createPlugin(char const *name, nvinfer1::PluginFieldCollection const *fields,
                                      nvinfer1::TensorRTPhase phase) noexcept override;
    nvinfer1::PluginFieldCollection const *getFieldNames() noexcept override;
    char const *getPluginName() const noexcept override;
    char const *getPluginVersion() const noexcept override;
    char const *getPluginNamespace() const noexcept override;
};

} // namespace pita_example
