// Random weights instead of a checkpoint: the model loads them and computes.
#include "model/random_source.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "model/declared_source.h"
#include "support/reference_model.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

TEST(RandomSource, AModelRunsOnIt) {
  for (const char* name : {"v3-bf16", "v3-fp8", "v3-mtp"}) {
    SCOPED_TRACE(name);
    const ModelConfig config = TinyCheckpoint(name).config();
    const RandomSource source(config, 7);
    ReferenceModel model(config, source);
    const std::vector<int32_t> ids = {1, 2, 3, 5, 8, 13};
    const std::vector<float> logits = model.logits(ids);
    double squares = 0;
    for (const float v : logits) {
      ASSERT_TRUE(std::isfinite(v));
      squares += static_cast<double>(v) * static_cast<double>(v);
    }
    // The head has variance 1 / fan_in and its input is normed: logits of about unit size.
    const double rms = std::sqrt(squares / static_cast<double>(logits.size()));
    EXPECT_GT(rms, 0.5);
    EXPECT_LT(rms, 2.0);
  }
}

TEST(RandomSource, SeedsAreReproducibleAndDiffer) {
  const ModelConfig config = TinyCheckpoint("v3-fp8").config();
  const RandomSource a(config, 7), again(config, 7), other(config, 8);
  ASSERT_EQ(a.names(), DeclaredSource(config).names());
  size_t different = 0;
  for (const std::string& name : a.names()) {
    const auto bytes = static_cast<size_t>(tensor_bytes(*a.find(name)));
    EXPECT_EQ(std::memcmp(a.find(name)->data, again.find(name)->data, bytes), 0) << name;
    different += std::memcmp(a.find(name)->data, other.find(name)->data, bytes) != 0 ? 1 : 0;
  }
  EXPECT_EQ(different, a.names().size());
  EXPECT_EQ(a.find("no.such.weight"), nullptr);
}

}  // namespace
}  // namespace dsr::test
