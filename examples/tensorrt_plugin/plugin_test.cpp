// The plugin in NVIDIA's own registry, and a step through it. The GPU is the tests' stub, unless PITA_TEST_DRIVER names a driver.

#include <NvInferRuntime.h>
#include <gtest/gtest.h>

#include <cstring>

#include "gpu.hpp"
#include "support/behind.hpp"

using namespace nvinfer1;
using namespace support;

namespace {

class PluginTest : public BehindTest {
  protected:
    PluginTest() {
        IPluginRegistry *const registry = getPluginRegistry();
        handle_ = registry->loadLibrary(PITA_PLUGIN);
        creator = static_cast<IPluginCreatorV3One *>(registry->getCreator("PitaMetrics", "1", ""));
    }
    ~PluginTest() override { getPluginRegistry()->deregisterLibrary(handle_); }

    cuda::Context context;
    IPluginCreatorV3One *creator = nullptr;

  private:
    IPluginRegistry::PluginLibraryHandle handle_ = nullptr;
};

PluginTensorDesc tensor(DataType type, std::initializer_list<std::int64_t> shape) {
    PluginTensorDesc description = {};
    description.type = type;
    description.format = TensorFormat::kLINEAR;
    for (const std::int64_t extent : shape) {
        description.dims.d[description.dims.nbDims++] = extent;
    }
    return description;
}

TEST_F(PluginTest, TakesAStepFromTheRegistryToRedis) {
    ASSERT_NE(creator, nullptr);
    EXPECT_STREQ(creator->getPluginName(), "PitaMetrics");
    IPluginV3 *const made = creator->createPlugin("metrics", creator->getFieldNames(), TensorRTPhase::kRUNTIME);
    ASSERT_NE(made, nullptr);
    auto *const attached = static_cast<IPluginV3OneRuntime *>(made->getCapabilityInterface(PluginCapabilityType::kRUNTIME))
                               ->attachToContext(nullptr);
    auto *const runtime =
        static_cast<IPluginV3OneRuntime *>(attached->getCapabilityInterface(PluginCapabilityType::kRUNTIME));

    const std::size_t rows = 2, vocab_size = 100;
    const Logits logits = random_logits(rows * vocab_size);
    const cuda::Buffer on_device(logits), slots(std::vector<std::int32_t>{5, 6}), temperatures(std::vector<float>{0.5, 1}),
        indices(std::vector<std::int64_t>{0, 0}), out(3 * rows * sizeof(float));
    const PluginTensorDesc in[] = {tensor(DataType::kFLOAT, {rows, vocab_size}), tensor(DataType::kINT32, {rows}),
                                   tensor(DataType::kFLOAT, {rows}), tensor(DataType::kINT64, {rows})};
    const PluginTensorDesc result = tensor(DataType::kFLOAT, {rows, 3});
    const void *const inputs[] = {on_device.get(), slots.get(), temperatures.get(), indices.get()};
    void *const outputs[] = {out.as<void>()};
    const cuda::Stream stream;
    ASSERT_OK(pita_bind_slot(5, "a"));
    ASSERT_OK(pita_bind_slot(6, "b"));
    EXPECT_EQ(runtime->onShapeChange(in, 4, &result, 1), 0);
    EXPECT_EQ(runtime->enqueue(in, &result, inputs, outputs, nullptr, static_cast<cudaStream_t>(stream.get())), 0);
    stream.synchronize();
    ASSERT_OK(pita_unbind_slot(5));
    ASSERT_OK(pita_unbind_slot(6));
    const Taken a = take("a"), b = take("b");
    ASSERT_EQ(a.records.size(), 1U);
    ASSERT_EQ(b.records.size(), 1U);
    const auto middle = logits.begin() + static_cast<std::ptrdiff_t>(vocab_size);
    expect_near(a.records[0], reference({logits.begin(), middle}, 0.5));
    expect_near(b.records[0], reference({middle, logits.end()}));
    EXPECT_FLOAT_EQ(out.read<float>(6)[5], static_cast<float>(b.records[0].entropy));

    // Without a pool there is no output.
    ASSERT_OK(pita_redis_close());
    EXPECT_NE(runtime->enqueue(in, &result, inputs, outputs, nullptr, static_cast<cudaStream_t>(stream.get())), 0);
    delete attached;
    delete made;
}

TEST_F(PluginTest, SaysWhatItTakesAndGives) {
    IPluginV3 *const made = creator->createPlugin("metrics", creator->getFieldNames(), TensorRTPhase::kBUILD);
    auto *const build = static_cast<IPluginV3OneBuild *>(made->getCapabilityInterface(PluginCapabilityType::kBUILD));
    const auto supports = [&](std::int32_t position, DataType type) {
        std::vector<DynamicPluginTensorDesc> tensors(5);
        tensors[static_cast<std::size_t>(position)].desc = tensor(type, {1});
        return build->supportsFormatCombination(position, tensors.data(), 4, 1);
    };
    for (const DataType type : {DataType::kFLOAT, DataType::kHALF, DataType::kBF16}) {
        EXPECT_TRUE(supports(0, type));
    }
    EXPECT_FALSE(supports(0, DataType::kINT8));
    EXPECT_TRUE(supports(1, DataType::kINT32));
    EXPECT_FALSE(supports(1, DataType::kINT64));
    EXPECT_TRUE(supports(2, DataType::kFLOAT));
    EXPECT_TRUE(supports(3, DataType::kINT64));
    EXPECT_FALSE(supports(3, DataType::kINT32));
    EXPECT_TRUE(supports(4, DataType::kFLOAT));
    EXPECT_EQ(build->getNbOutputs(), 1);
    const DataType types[] = {DataType::kHALF, DataType::kINT32, DataType::kFLOAT, DataType::kINT64};
    DataType out = DataType::kHALF;
    EXPECT_EQ(build->getOutputDataTypes(&out, 1, types, 4), 0);
    EXPECT_EQ(out, DataType::kFLOAT);
    EXPECT_NE(build->getOutputDataTypes(&out, 1, types, 3), 0);
    delete made;
}

} // namespace
