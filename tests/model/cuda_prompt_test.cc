// Prompts on a GPU go through the expanded form of MLA, where heads are those of released models:
// a layer of V2-Lite with random weights, its vocabulary cut short.
#include <gtest/gtest.h>

#include <optional>

#include "base/rng.h"
#include "model/card.h"
#include "model/random_source.h"
#include "support/golden.h"
#include "support/reference_model.h"

namespace dsr::test {
namespace {

class CudaPrompt : public testing::Test {
 protected:
  static constexpr int64_t kVocab = 512, kTokens = 150;  // in three pages

  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << cuda_absence();
    config_ = card_model(DSR_SOURCE_DIR "/models/deepseek-v2-lite.json", "fp8", 1, {});
    config_.vocab_size = kVocab;
    source_.emplace(config_, 1);
    PhiloxStream random(3, 3);
    for (int64_t i = 0; i < kTokens; ++i)
      ids_.push_back(static_cast<int32_t>(random.next_u32() % kVocab));
  }
  ReferenceModel model(CacheType type) const {
    return ReferenceModel(config_, *source_,
                          {.max_tokens = 256,
                           .n_blocks = 12,
                           .cache_type = type,
                           .poison = true,
                           .backend = Backend::kCuda});
  }
  SequencePart part(int64_t sequence, int64_t first, int64_t count) const {
    const auto b = static_cast<int32_t>(3 * sequence);
    return {.ids = std::span(ids_).subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
            .first_position = first,
            .blocks = {b + 1, b, b + 2},
            .next_ids = {}};
  }
  static std::vector<float> rows(const std::vector<float>& logits, int64_t first, int64_t count) {
    return {logits.begin() + first * kVocab, logits.begin() + (first + count) * kVocab};
  }
  // Each goes through a dozen roundings to bf16, of a variance of at most 2^-18 relative to what is
  // rounded.
  static void expect_alike(const std::vector<float>& got, const std::vector<float>& want) {
    ASSERT_EQ(got.size(), want.size());
    EXPECT_LT(nmse(got.data(), want.data(), std::ssize(got)), 24 * 0x1p-18);
  }

  ModelConfig config_;
  std::optional<RandomSource> source_;
  std::vector<int32_t> ids_;
};

TEST_F(CudaPrompt, ExpandedIsAbsorbed) {
  for (const CacheType type : {CacheType::kBF16, CacheType::kFP8, CacheType::kF32}) {
    ReferenceModel whole = model(type), by_40 = model(type);  // 40 tokens are absorbed
    expect_alike(whole.logits(ids_, 0), by_40.logits(ids_, 40));
    ReferenceModel by_70 = model(type);
    expect_alike(by_70.logits(ids_, 70), whole.logits(ids_, 0));
  }
}

// One of one token among them, behind others: it is no decode row, and nothing is said of its bits.
TEST_F(CudaPrompt, BesideDecodeRowsIsThePromptAlone) {
  ReferenceModel m = model(CacheType::kBF16), alone = model(CacheType::kBF16);
  const std::vector<float> prompt = alone.step({part(2, 0, kTokens)}).logits;
  m.step({part(0, 0, 100)});
  m.step({part(1, 0, 30)});
  const std::vector<float> mixed =
      m.step({part(0, 100, 1), part(1, 30, 1), part(2, 0, kTokens), part(3, 0, 1)}).logits;
  EXPECT_TRUE(rows(mixed, 2, kTokens) == prompt);
  expect_alike(rows(mixed, 0, 1), rows(prompt, 100, 1));  // the same tokens
  expect_alike(rows(mixed, 1, 1), rows(prompt, 30, 1));
  expect_alike(rows(mixed, 2 + kTokens, 1), rows(prompt, 0, 1));
}

}  // namespace
}  // namespace dsr::test
