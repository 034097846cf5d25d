// What must not change a single bit of the logits on a GPU: which pages a sequence lies in, a
// decode row's neighbours and its slot, whether a step is launched or replayed, and whether kernels
// begin before the ones before them have ended. (What memory held before: cuda_test.cc.)
#include <gtest/gtest.h>

#include <algorithm>

#include "support/decode_neighbours.h"
#include "support/golden.h"
#include "support/reference_model.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

constexpr int64_t kBlocksEach = 3;

class CudaInvariance : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << cuda_absence();
    ids_ = Golden::load(GetParam()).input_ids;
    ids_.resize(std::min<size_t>(ids_.size(), 150));  // in three pages
  }

  ReferenceModel model(int64_t n_blocks = 8, const CudaOptions& cuda = {},
                       bool poison = false) const {
    return ReferenceModel(checkpoint_.config(), checkpoint_,
                          {.n_blocks = n_blocks,
                           .cache_type = CacheType::kBF16,
                           .poison = poison,
                           .backend = Backend::kCuda,
                           .cuda = cuda});
  }
  static std::vector<int32_t> blocks_of(int64_t sequence) {
    std::vector<int32_t> out;
    for (int64_t b = 0; b < kBlocksEach; ++b)
      out.push_back(static_cast<int32_t>(sequence * kBlocksEach + b));
    return out;
  }
  // Of `count` tokens from `first` on, all sequences having the same ids.
  SequencePart part(int64_t sequence, int64_t first, int64_t count) const {
    return {.ids = std::span(ids_).subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
            .first_position = first,
            .blocks = blocks_of(sequence),
            .next_ids = {}};
  }

  const TinyCheckpoint checkpoint_{GetParam()};
  std::vector<int32_t> ids_;
};

INSTANTIATE_TEST_SUITE_P(Tiny, CudaInvariance, testing::ValuesIn(all_goldens()), test_name);

TEST_P(CudaInvariance, OfPages) {
  ReferenceModel in_order = model(), permuted = model();
  for (const int64_t chunk : {0, 37, 1}) {
    const std::vector<float> want = in_order.logits(ids_, chunk);
    EXPECT_EQ(permuted.logits(ids_, chunk, {7, 2, 4}), want) << chunk;
    EXPECT_EQ(permuted.logits(ids_, chunk, {1, 0, 6}), want) << chunk;
    EXPECT_EQ(in_order.logits(ids_, chunk), want) << "run to run, " << chunk;
  }
}

TEST_P(CudaInvariance, OfDependentLaunch) {
  ReferenceModel dependent = model(), apart = model(8, {.dependent_launch = false});
  EXPECT_FALSE(apart.exec().cuda().dependent_launch());
  for (const int64_t chunk : {0, 37, 1})
    EXPECT_EQ(apart.logits(ids_, chunk), dependent.logits(ids_, chunk)) << chunk;
}

// Sequences at different depths, each decoded alone and in batches of all sorts of sizes and slots.
TEST_P(CudaInvariance, OfADecodeRowsNeighboursAndSlot) {
  constexpr int64_t kSequences = 64;
  ReferenceModel m = model(kSequences * kBlocksEach);
  std::vector<SequencePart> decode;
  std::vector<std::vector<float>> alone;
  for (int64_t s = 0; s < kSequences; ++s) {
    const int64_t depth = 1 + s * (std::ssize(ids_) - 2) / kSequences;
    m.step({part(s, 0, depth)});
    decode.push_back(part(s, depth, 1));
    alone.push_back(m.step({decode.back()}).logits);
  }
  for (const int64_t n : {2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64}) {
    for (const int64_t first : {int64_t{0}, int64_t{29}})
      expect_as_alone(m, decode, alone, n, first);
  }
}

// One graph, replayed at growing depths, beside the same steps launched. In the poisoned one every
// replay begins with scratch that is NaN: filling it is recorded too.
TEST_P(CudaInvariance, OfGraphs) {
  constexpr int64_t kSequences = 5, kSteps = 20, kAgain = 200;
  for (const bool poison : {false, true}) {
    ReferenceModel launched = model(kSequences * kBlocksEach);
    ReferenceModel replayed =
        model(kSequences * kBlocksEach, {.dependent_launch = !poison}, poison);
    const auto depth = [](int64_t s) { return 20 + 25 * s; };  // to 120; steps cross pages
    for (int64_t s = 0; s < kSequences; ++s) {
      const std::vector<SequencePart> prompt = {part(s, 0, depth(s))};
      EXPECT_EQ(replayed.step(prompt).logits, launched.step(prompt).logits);
    }
    std::vector<SequencePart> parts;
    std::vector<float> want;
    for (int64_t step = 0; step < kSteps; ++step) {
      parts.clear();
      for (int64_t s = 0; s < kSequences; ++s) parts.push_back(part(s, depth(s) + step, 1));
      want = launched.step(parts).logits;
      EXPECT_EQ(replayed.replay(parts), want) << "step " << step << ", poison " << poison;
    }
    int64_t different = 0;
    for (int64_t i = 0; i < kAgain; ++i) different += replayed.replay(parts) == want ? 0 : 1;
    EXPECT_EQ(different, 0) << "of " << kAgain << " times the last step, poison " << poison;
  }
}

}  // namespace
}  // namespace dsr::test
