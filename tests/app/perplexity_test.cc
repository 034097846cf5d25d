#include "deepseek_run/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

class PerplexityTest : public testing::Test {
 protected:
  PerplexityTest() {
    checkpoint_.write(dir_.string());
    for (int i = 0; i < 150; ++i) ids_.push_back(static_cast<TokenId>(1 + i * 37 % 90));
    options_.engine.model_dir = dir_.string();
    options_.on_token = [this](const PredictedToken& t) { tokens_.push_back(t); };
  }

  // log P(ids[position] | ids[first .. position)), from the logits themselves.
  double direct(int64_t first, int64_t position) const {
    const auto engine = Engine::create(options_.engine);
    double out = 0;
    const std::span<const TokenId> part(ids_.data() + first, static_cast<size_t>(position - first));
    engine->logits(part, [&](int64_t at, std::span<const float> row) {
      if (at + 1 != position - first) return;
      double sum = 0;
      for (const float x : row) sum += std::exp(double{x});
      out = row[static_cast<size_t>(ids_[static_cast<size_t>(position)])] - std::log(sum);
    });
    return out;
  }

  TempDir dir_;
  TinyCheckpoint checkpoint_{"v3-bf16"};
  std::vector<TokenId> ids_;
  PerplexityOptions options_;
  std::vector<PredictedToken> tokens_;
};

TEST_F(PerplexityTest, EveryTokenOnceInItsWindow) {
  options_.engine.ctx_size = 40;
  options_.stride = 25;
  const Perplexity p = perplexity(options_, ids_);
  ASSERT_EQ(p.tokens, 149);
  ASSERT_EQ(tokens_.size(), 149u);
  double sum = 0, squares = 0;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    ASSERT_EQ(tokens_[i].position, static_cast<int64_t>(i) + 1);
    EXPECT_EQ(tokens_[i].id, ids_[i + 1]);
    sum += tokens_[i].log_prob;
  }
  const double mean = sum / 149;
  for (const PredictedToken& t : tokens_) squares += (t.log_prob - mean) * (t.log_prob - mean);
  EXPECT_NEAR(p.log_prob, mean, 1e-12);
  EXPECT_NEAR(p.value(), std::exp(-mean), 1e-9);
  EXPECT_NEAR(p.deviation, std::sqrt(squares / 148 / 149), 1e-12);
  // 39 is the last of the first window, 40 the first of the second one, which begins at 25.
  EXPECT_NEAR(tokens_[38].log_prob, direct(0, 39), 1e-9);
  EXPECT_NEAR(tokens_[39].log_prob, direct(25, 40), 1e-9);
  EXPECT_NEAR(tokens_[148].log_prob, direct(125, 149), 1e-9);
}

TEST_F(PerplexityTest, OneWindowWhereTheTextFits) {
  options_.engine.ctx_size = 150;
  const Perplexity whole = perplexity(options_, ids_);
  const std::vector<PredictedToken> want = tokens_;
  tokens_.clear();
  options_.engine.chunk = 7;
  EXPECT_EQ(perplexity(options_, ids_).log_prob, whole.log_prob) << "chunks change no bit";
  EXPECT_NEAR(want[148].log_prob, direct(0, 149), 1e-9);
}

TEST_F(PerplexityTest, OneTokenSaysNothingOfItsError) {
  ids_.resize(2);
  const Perplexity p = perplexity(options_, ids_);
  EXPECT_EQ(p.tokens, 1);
  EXPECT_NEAR(p.log_prob, direct(0, 1), 1e-9);
  const std::string text = perplexity_text(p, 0);
  EXPECT_NE(text.find(" +- unknown | 1 token | "), std::string::npos) << text;
  const std::string json = perplexity_json(p, 0);
  EXPECT_NE(json.find("\"standard_error\":null"), std::string::npos) << json;
  EXPECT_NE(json.find("\"log_prob_standard_error\":null"), std::string::npos) << json;
}

TEST_F(PerplexityTest, Refusals) {
  const auto usage = [&] {
    return error_of([&] { perplexity(options_, ids_); }, ErrorKind::kUsage);
  };
  options_.engine.ctx_size = 40;
  options_.stride = 40;
  EXPECT_EQ(usage(), "stride is 40, expected less than the window of 40 tokens");
  ids_.resize(1);
  EXPECT_EQ(usage(), "perplexity needs at least 2 tokens, the text has 1");
}

TEST(PerplexityReportTest, TextAndJson) {
  const Perplexity p{.tokens = 8, .log_prob = -std::log(16.0), .deviation = 0.25, .complete = true};
  EXPECT_EQ(perplexity_text(p, 16),
            "perplexity 16.0000 +- 4.0000 | 8 tokens | 4.0000 bits per token | 2.0000 bits per "
            "byte\n");
  EXPECT_EQ(perplexity_text(p, 0),
            "perplexity 16.0000 +- 4.0000 | 8 tokens | 4.0000 bits per token\n");
  EXPECT_EQ(predicted_token_json({3, 7, -0.5}, nullptr),
            "{\"position\":3,\"id\":7,\"log_prob\":-0.5}\n");
}

}  // namespace
}  // namespace dsr::test
