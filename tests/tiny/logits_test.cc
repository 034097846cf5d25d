// models/tiny against float32 PyTorch: tests/data/tiny/logits.safetensors, written by
// scripts/make_tiny_goldens.py.
#include <gtest/gtest.h>

#include <cstring>

#include "io/checkpoint.h"
#include "support/golden.h"
#include "support/reference_model.h"

namespace dsr::test {
namespace {

constexpr double kMaxNmse = 1e-9;

class TrainedTiny : public testing::TestWithParam<Backend> {
 protected:
  TrainedTiny()
      : checkpoint_(Checkpoint::open(DSR_SOURCE_DIR "/models/tiny", {})),
        config_(parse_config(checkpoint_.config(), {})),
        goldens_(SafetensorsFile::open(DSR_SOURCE_DIR "/tests/data/tiny/logits.safetensors")),
        model_(config_, checkpoint_, {.max_tokens = 640, .n_blocks = 10, .backend = GetParam()}) {}

  const StoredTensor& stored(const std::string& name) const {
    for (const StoredTensor& t : goldens_.tensors())
      if (t.name == name) return t;
    throw std::runtime_error("no golden " + name);
  }
  std::vector<int32_t> ids(const std::string& name) const {
    const StoredTensor& t = stored(name);
    std::vector<int64_t> wide(static_cast<size_t>(t.size_bytes) / 8);
    std::memcpy(wide.data(), t.tensor.data, static_cast<size_t>(t.size_bytes));
    return {wide.begin(), wide.end()};
  }
  std::vector<float> floats(const std::string& name) const {
    const StoredTensor& t = stored(name);
    std::vector<float> out(static_cast<size_t>(t.size_bytes) / 4);
    std::memcpy(out.data(), t.tensor.data, static_cast<size_t>(t.size_bytes));
    return out;
  }

  // Rows `positions` of `got` [T, V] are the rows of `want`.
  void expect_rows(const std::vector<float>& got, const std::vector<float>& want,
                   const std::vector<int32_t>& positions) const {
    const auto V = static_cast<size_t>(config_.vocab_size);
    ASSERT_GE(positions.size() * V, want.size());
    ASSERT_FALSE(want.empty());
    for (size_t i = 0; i < want.size() / V; ++i) {
      const auto at = static_cast<size_t>(positions[i]) * V;
      ASSERT_LE(at + V, got.size());
      EXPECT_LT(nmse(&got[at], &want[i * V], config_.vocab_size), kMaxNmse)
          << "at position " << positions[i];
    }
  }

  Checkpoint checkpoint_;
  ModelConfig config_;
  SafetensorsFile goldens_;
  ReferenceModel model_;
};

INSTANTIATE_TEST_SUITE_P(Backends, TrainedTiny, testing::Values(Backend::kReference, Backend::kCpu),
                         [](const auto& backend) { return std::string(name(backend.param)); });

TEST_P(TrainedTiny, LogitsOfMainModelAndMtpLayerAreThoseOfPyTorch) {
  for (const std::string name : {"chat", "story", "unicode"}) {
    SCOPED_TRACE(name);
    const std::vector<int32_t> input = ids(name + ".input_ids");
    const std::vector<int32_t> positions = ids(name + ".positions");
    expect_rows(model_.logits(input), floats(name + ".logits"), positions);
    expect_rows(model_.mtp_logits(input), floats(name + ".mtp_logits"), positions);
  }
}

TEST_P(TrainedTiny, BeyondTheOriginalContext) {
  const std::vector<int32_t> input = ids("long.input_ids");
  ASSERT_GT(static_cast<int64_t>(input.size()),
            config_.rope_scaling.original_max_position_embeddings);
  const std::vector<int32_t> positions = ids("long.positions");
  expect_rows(model_.logits(input, 128), floats("long.logits"), positions);
  expect_rows(model_.mtp_logits(input, 128), floats("long.mtp_logits"), positions);
}

TEST_P(TrainedTiny, GreedyTokens) {
  const std::vector<int32_t> want = ids("greedy.ids");
  EXPECT_EQ(model_.greedy(ids("greedy.prompt_ids"), static_cast<int64_t>(want.size())), want);
}

}  // namespace
}  // namespace dsr::test
