// What must not change a single bit of the logits on a GPU, at the widths of released models: the
// tiny ones (cuda_invariance_test.cc) are too narrow for the fastest kernels. A layer or two with
// random weights, the vocabulary and the largest model's experts cut short.
//
// A kernel that does not wait for the one before it reads what an earlier step left. So that this
// is wrong, every step here has other tokens at other positions than the ones before.
#include <gtest/gtest.h>

#include <optional>

#include "base/rng.h"
#include "model/card.h"
#include "model/random_source.h"
#include "support/decode_neighbours.h"
#include "support/reference_model.h"

namespace dsr::test {
namespace {

constexpr int64_t kVocab = 1024, kSequences = 64, kBlocksEach = 12;
constexpr int64_t kContext = kBlocksEach * kPageTokens;

struct Wide {
  const char *name, *card, *weights;
  int64_t layers, first_k_dense_replace;
  int64_t n_routed_experts;  // 0: as in the card
  CacheType cache = CacheType::kBF16;
};
std::ostream& operator<<(std::ostream& out, const Wide& w) { return out << w.name; }

constexpr Wide kWide[] = {
    {"v2_lite_fp8", "deepseek-v2-lite", "fp8", 2, 1, 0},
    {"v2_lite_bf16", "deepseek-v2-lite", "bf16", 2, 1, 0},
    {"v3_fp8", "deepseek-v3", "fp8", 1, 0, 32},
    {"llm_7b_bf16", "deepseek-llm-7b", "bf16", 2, 0, 0},
    {"qwen_7b_bf16", "r1-distill-qwen-7b", "bf16", 1, 0, 0},
    {"v2_lite_fp8_cache", "deepseek-v2-lite", "fp8", 2, 1, 0, CacheType::kFP8},
    {"llm_7b_fp8_cache", "deepseek-llm-7b", "bf16", 2, 0, 0, CacheType::kFP8},
    {"qwen_7b_fp8_cache", "r1-distill-qwen-7b", "bf16", 1, 0, 0, CacheType::kFP8}};

class CudaWidths : public testing::TestWithParam<Wide> {
 protected:
  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << cuda_absence();
    const Wide& w = GetParam();
    config_ = card_model(DSR_SOURCE_DIR "/models/" + std::string(w.card) + ".json", w.weights,
                         w.layers, {});
    config_.vocab_size = kVocab;
    if (w.n_routed_experts > 0) config_.n_routed_experts = w.n_routed_experts;
    if (config_.n_routed_experts > 0) config_.first_k_dense_replace = w.first_k_dense_replace;
    source_.emplace(config_, 1);
    PhiloxStream random(3, 3);
    for (int64_t i = 0; i < 4 * kContext; ++i)
      ids_.push_back(static_cast<int32_t>(random.next_u32() % kVocab));
  }

  ReferenceModel model(const CudaOptions& cuda = {}) const {
    return ReferenceModel(config_, *source_,
                          {.max_tokens = kContext,
                           .n_blocks = kSequences * kBlocksEach,
                           .cache_type = GetParam().cache,
                           .backend = Backend::kCuda,
                           .cuda = cuda});
  }

  // Tokens [first, first + count) of a sequence. `text` says which ids it has.
  SequencePart part(int64_t sequence, int64_t first, int64_t count, int64_t text = 0) const {
    std::vector<int32_t> blocks;
    for (int64_t b = 0; b < kBlocksEach; ++b)
      blocks.push_back(static_cast<int32_t>(b * kSequences + sequence));
    const int64_t at = (sequence * 31 + text * 7 + first) % (3 * kContext);
    return {.ids = std::span(ids_).subspan(static_cast<size_t>(at), static_cast<size_t>(count)),
            .first_position = first,
            .blocks = std::move(blocks),
            .next_ids = {}};
  }
  // From 1 to ten pages, in no order.
  static int64_t depth(int64_t sequence) { return 1 + sequence * 397 % 640; }
  void prefill(ReferenceModel& m) const {
    for (int64_t s = 0; s < kSequences; ++s) m.step({part(s, 0, depth(s))});
  }

  ModelConfig config_;
  std::optional<RandomSource> source_;
  std::vector<int32_t> ids_;
};

INSTANTIATE_TEST_SUITE_P(Models, CudaWidths, testing::ValuesIn(kWide),
                         [](const auto& i) { return std::string(i.param.name); });

TEST_P(CudaWidths, OfPagesAndRunToRun) {
  constexpr int64_t kTokens = 300;
  const std::span<const int32_t> ids = std::span(ids_).first(kTokens);
  ReferenceModel in_order = model(), permuted = model();
  for (const int64_t chunk : {int64_t{0}, int64_t{50}}) {
    const std::vector<float> want = in_order.logits(ids, chunk);
    EXPECT_EQ(permuted.logits(ids, chunk, {700, 2, 64, 3, 9}), want) << chunk;
    EXPECT_EQ(in_order.logits(ids, chunk), want) << chunk;
  }
  const std::vector<int32_t> blocks = {700, 2, 64, 3, 9};
  for (int64_t i = 0; i < 20; ++i) {  // decode rows, on the same pages
    const SequencePart there = {.ids = ids.subspan(static_cast<size_t>(200 + i), 1),
                                .first_position = kTokens + i,
                                .blocks = blocks,
                                .next_ids = {}};
    SequencePart here = there;
    here.blocks = {0, 1, 2, 3, 4};
    EXPECT_EQ(permuted.step({there}).logits, in_order.step({here}).logits) << i;
  }
}

TEST_P(CudaWidths, OfADecodeRowsNeighboursAndSlot) {
  ReferenceModel m = model();
  prefill(m);
  std::vector<SequencePart> decode;
  std::vector<std::vector<float>> alone;
  for (int64_t s = 0; s < kSequences; ++s) {
    decode.push_back(part(s, depth(s), 1));
    alone.push_back(m.step({decode.back()}).logits);
  }
  for (int64_t n = 2; n <= kSequences; ++n)
    expect_as_alone(m, decode, alone, n, n * 7 % kSequences);
}

// Graphs whose kernels begin early, beside launches of which each waits for the one before. The
// first time a number of sequences is launched, then recorded, then replayed.
TEST_P(CudaWidths, OfGraphsAndDependentLaunch) {
  constexpr int64_t kRounds = 6;
  ReferenceModel early = model(), apart = model({.dependent_launch = false});
  prefill(early);
  prefill(apart);
  int64_t step = 0;
  for (int64_t round = 0; round < kRounds; ++round) {
    for (const int64_t n : {64, 40, 16, 9, 8, 2, 1}) {
      std::vector<SequencePart> parts;
      for (int64_t s = 0; s < n; ++s) parts.push_back(part(s, depth(s) + step, 1));
      EXPECT_EQ(early.replay(parts), apart.step(parts).logits) << n << " sequences, step " << step;
      ++step;
    }
  }
}

// With no decode row among them too: kernels that have nothing to do then must wait all the same.
TEST_P(CudaWidths, OfDependentLaunchInPrompts) {
  constexpr int64_t kRounds = 4;
  ReferenceModel early = model(), apart = model({.dependent_launch = false});
  const auto expect_same = [&](const std::vector<SequencePart>& parts, const char* what) {
    EXPECT_EQ(early.step(parts).logits, apart.step(parts).logits) << what;
  };
  for (int64_t round = 0; round < kRounds; ++round) {
    const auto at = [&](int64_t sequence, int64_t first, int64_t count) {
      return part(sequence, first, count, round);
    };
    // Few enough that the kernels behind the slow linear find room beside it.
    expect_same({at(8, 0, 3), at(9, 0, 4)}, "prompts of a few tokens");
    expect_same({at(0, 0, 21), at(1, 0, 20), at(2, 0, 23)}, "short prompts");
    expect_same({at(3, 0, 150), at(4, 0, 70), at(5, 0, 300)}, "prompts");
    expect_same({at(3, 150, 60), at(4, 70, 90)}, "the second parts of prompts");
    expect_same({at(0, 21, 1), at(1, 20, 1), at(6, 0, 40)}, "two decode rows and a short prompt");
    expect_same({at(2, 23, 1), at(5, 300, 1), at(7, 0, 200)}, "two decode rows and a prompt");
  }
}

}  // namespace
}  // namespace dsr::test
