// A planted NaN and the layer and op that are named for it, on every backend present.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "device/finite_check.h"
#include "support/expect_error.h"
#include "support/golden.h"
#include "support/reference_model.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

class DebugNan : public testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    if (GetParam() == Backend::kCuda && cuda_devices().empty()) GTEST_SKIP() << cuda_absence();
  }

  // What is said of the checkpoint once the number at [row, column] of `tensor` is `value`.
  static std::string error(const std::string& golden, const std::string& tensor, int64_t row,
                           int64_t column, float value = NAN) {
    TinyCheckpoint checkpoint(golden);
    const SourceTensor t = *checkpoint.find(tensor);
    std::string bytes = checkpoint.bytes(tensor);
    const int64_t at = (row * t.shape[1] + column) * size_bytes(*t.dtype);
    from_f32(*t.dtype, &value, &bytes[static_cast<size_t>(at)], 1);
    checkpoint.set(tensor, t.dtype_name, t.shape, bytes);
    ReferenceModel model(checkpoint.config(), checkpoint, {.backend = GetParam()});
    model.exec().watch(std::make_unique<FiniteCheck>());
    const std::vector<int32_t> ids = Golden::load(golden).input_ids;
    return error_of([&] { model.logits(std::span(ids).first(9)); }, ErrorKind::kNonFinite);
  }
  // Ops may be fused: what is fixed is the place, which number, and what it is.
  static void expect_named(const std::string& error, const std::string& place,
                           const std::string& number) {
    EXPECT_EQ(error.find(place + ", op "), 0u) << error;
    EXPECT_NE(error.find(number), std::string::npos) << error;
  }
};

INSTANTIATE_TEST_SUITE_P(Backends, DebugNan,
                         testing::Values(Backend::kReference, Backend::kCpu, Backend::kCuda),
                         [](const auto& p) { return std::string(name(p.param)); });

TEST_P(DebugNan, AWholeModelIsFinite) {
  for (const std::string& golden : all_goldens()) {
    const TinyCheckpoint checkpoint(golden);
    ReferenceModel model(checkpoint.config(), checkpoint, {.backend = GetParam()});
    const std::vector<int32_t> ids = Golden::load(golden).input_ids;
    const std::vector<float> plain = model.logits(std::span(ids).first(9));
    model.exec().watch(std::make_unique<FiniteCheck>());
    EXPECT_EQ(model.logits(std::span(ids).first(9)), plain) << golden;
  }
}

TEST_P(DebugNan, TheEmbedding) {
  const std::vector<int32_t> ids = Golden::load("v3-bf16").input_ids;
  const auto first = std::find(ids.begin(), ids.end(), ids.at(4)) - ids.begin();
  expect_named(error("v3-bf16", "model.embed_tokens.weight", ids.at(4), 2), "model.embed_tokens",
               str(" embedding: out[", first, ", 2] is nan"));
}

// Row 5 of a layer's last attention weight: number 5 of what the attention adds, first in token 0.
TEST_P(DebugNan, AnAttentionLayer) {
  for (const char* golden : {"v3-bf16", "llama-gqa"}) {
    const std::string tensor = "model.layers.1.self_attn.o_proj.weight";
    expect_named(error(golden, tensor, 5, 3), "model.layers.1", "[0, 5] is nan");
    expect_named(error(golden, tensor, 5, 3, -INFINITY), "model.layers.1", "[0, 5] is ");
  }
}

TEST_P(DebugNan, TheHead) {
  expect_named(error("v3-bf16", "lm_head.weight", 7, 0), "lm_head", " linear: out[0, 7] is nan");
}

}  // namespace
}  // namespace dsr::test
