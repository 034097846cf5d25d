// The forward pass on reference and cpu against transformers, position by position.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "base/error.h"
#include "support/golden.h"
#include "support/reference_model.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

constexpr double kMaxNmse = 1e-9;

std::string hex(uint64_t v) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(v));
  return text;
}

// Fails, naming the position, where a row is further from the golden one than float32 explains.
void expect_rows(const std::vector<float>& got, const std::vector<float>& want, int64_t V) {
  ASSERT_EQ(got.size(), want.size());
  double worst = 0;
  for (size_t at = 0; at < got.size(); at += static_cast<size_t>(V)) {
    const double e = nmse(&got[at], &want[at], V);
    EXPECT_LT(e, kMaxNmse) << "at position " << at / static_cast<size_t>(V);
    worst = std::max(worst, e);
    if (!(e < kMaxNmse)) break;
  }
  testing::Test::RecordProperty("worst_nmse", str(worst));
}

class Goldens : public testing::TestWithParam<GoldenOn> {};

INSTANTIATE_TEST_SUITE_P(Tiny, Goldens, testing::ValuesIn(all_goldens_on_hosts()), host_test_name);

TEST(GoldenWeights, AreThoseOfTheScript) {
  for (const std::string& name : all_goldens())
    EXPECT_EQ(hex(TinyCheckpoint(name).digest()), Golden::load(name).weights_digest) << name;
}

TEST_P(Goldens, LogitsOfEveryPosition) {
  const TinyCheckpoint checkpoint(GetParam().name);
  const Golden golden = Golden::load(GetParam().name);
  ReferenceModel model(checkpoint.config(), checkpoint, {.backend = GetParam().backend});
  expect_rows(model.logits(golden.input_ids), golden.logits, checkpoint.config().vocab_size);
}

TEST_P(Goldens, GreedyTokens) {
  const TinyCheckpoint checkpoint(GetParam().name);
  const Golden golden = Golden::load(GetParam().name);
  ReferenceModel model(checkpoint.config(), checkpoint, {.backend = GetParam().backend});
  const std::vector<int32_t> prompt(golden.input_ids.begin(),
                                    golden.input_ids.begin() + golden.prompt_tokens);
  const std::vector<int32_t> want(golden.input_ids.begin() + golden.prompt_tokens,
                                  golden.input_ids.end());
  ASSERT_EQ(want.size(), 64u);
  EXPECT_EQ(model.greedy(prompt, 64), want);
}

TEST(MtpGolden, LogitsOfEveryPosition) {
  const TinyCheckpoint checkpoint("v3-mtp");
  const Golden golden = Golden::load("v3-mtp");
  for (const Backend backend : {Backend::kReference, Backend::kCpu}) {
    ReferenceModel model(checkpoint.config(), checkpoint, {.backend = backend});
    expect_rows(model.mtp_logits(golden.input_ids), golden.mtp_logits,
                checkpoint.config().vocab_size);
  }
}

}  // namespace
}  // namespace dsr::test
