#include "deepseek_run/sampling_params.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/expect_error.h"

namespace dsr {
namespace {

constexpr int64_t kVocab = 100;

std::string error_after(const std::function<void(SamplingParams&)>& change) {
  SamplingParams params;
  change(params);
  return test::error_of([&] { check_sampling_params(params, kVocab); }, ErrorKind::kUsage);
}

TEST(SamplingParams, DefaultsAndEndsOfRangesPass) {
  check_sampling_params({}, kVocab);
  SamplingParams low{.temperature = 0,
                     .top_k = 0,
                     .top_p = 0.0001,
                     .min_p = 0,
                     .repetition_penalty = 0.01,
                     .presence_penalty = -100,
                     .frequency_penalty = -100,
                     .penalty_window = -1,
                     .logit_bias = {{0, -100}},
                     .sample_index = 0};
  check_sampling_params(low, kVocab);
  low.temperature = 0.01;
  low.penalty_window = 0;
  check_sampling_params(low, kVocab);
  const SamplingParams high{.temperature = 100,
                            .top_k = 1 << 20,
                            .top_p = 1,
                            .min_p = 1,
                            .repetition_penalty = 100,
                            .presence_penalty = 100,
                            .frequency_penalty = 100,
                            .penalty_window = 1 << 20,
                            .logit_bias = {{99, 100}},
                            .seed = std::numeric_limits<uint64_t>::max(),
                            .sample_index = 1 << 20};
  check_sampling_params(high, kVocab);
}

TEST(SamplingParams, ErrorsNameTheValueAndTheRange) {
  EXPECT_EQ(error_after([](SamplingParams& p) { p.temperature = -1; }),
            "temperature is -1, expected 0 or 0.01 to 100");
  EXPECT_EQ(error_after([](SamplingParams& p) { p.temperature = 0.005; }),
            "temperature is 0.005, expected 0 or 0.01 to 100");
  EXPECT_EQ(error_after([](SamplingParams& p) { p.top_k = (1 << 20) + 1; }),
            "top_k is 1048577, expected 0 to 1048576");
  EXPECT_EQ(error_after([](SamplingParams& p) { p.top_p = 0; }),
            "top_p is 0, expected 0.0001 to 1");
  EXPECT_EQ(error_after([](SamplingParams& p) { p.min_p = 1.5; }), "min_p is 1.5, expected 0 to 1");
  EXPECT_EQ(error_after([](SamplingParams& p) { p.repetition_penalty = 0; }),
            "repetition_penalty is 0, expected 0.01 to 100");
  EXPECT_EQ(error_after([](SamplingParams& p) { p.presence_penalty = 101; }),
            "presence_penalty is 101, expected -100 to 100");
  EXPECT_EQ(error_after([](SamplingParams& p) { p.frequency_penalty = -101; }),
            "frequency_penalty is -101, expected -100 to 100");
  EXPECT_EQ(error_after([](SamplingParams& p) { p.penalty_window = -2; }),
            "penalty_window is -2, expected -1 or 0 to 1048576");
  EXPECT_EQ(error_after([](SamplingParams& p) { p.sample_index = -1; }),
            "sample_index is -1, expected 0 to 1048576");
  EXPECT_EQ(error_after([](SamplingParams& p) {
              p.logit_bias = {{100, 1}};
            }),
            "logit_bias of token 100, expected an id from 0 to 99");
  EXPECT_EQ(error_after([](SamplingParams& p) {
              p.logit_bias = {{-1, 1}};
            }),
            "logit_bias of token -1, expected an id from 0 to 99");
  EXPECT_EQ(error_after([](SamplingParams& p) {
              p.logit_bias = {{7, 100.5}};
            }),
            "logit_bias of token 7 is 100.5, expected -100 to 100");
  EXPECT_EQ(error_after([](SamplingParams& p) {
              p.logit_bias.assign(1025, {0, 0});
            }),
            "logit_bias has 1025 entries, expected at most 1024");
}

// Every number is refused outside its range, whatever it is: NaN compares with nothing.
TEST(SamplingParams, ExtremeValuesAreRefused) {
  const double kInf = std::numeric_limits<double>::infinity();
  for (auto member : {&SamplingParams::temperature, &SamplingParams::top_p, &SamplingParams::min_p,
                      &SamplingParams::repetition_penalty, &SamplingParams::presence_penalty,
                      &SamplingParams::frequency_penalty})
    for (const double bad : {std::nan(""), -std::nan(""), kInf, -kInf, 1e38, -1e38, 1e308, 100.001})
      EXPECT_NE(error_after([&](SamplingParams& p) { p.*member = bad; }), "") << bad;
  for (auto member :
       {&SamplingParams::top_k, &SamplingParams::penalty_window, &SamplingParams::sample_index})
    for (const int64_t bad : {std::numeric_limits<int64_t>::min(), int64_t{-2},
                              std::numeric_limits<int64_t>::max(), int64_t{1} << 31})
      EXPECT_NE(error_after([&](SamplingParams& p) { p.*member = bad; }), "") << bad;
  for (const double bad : {std::nan(""), kInf, -kInf})
    EXPECT_NE(error_after([&](SamplingParams& p) { p.logit_bias = {{1, bad}}; }), "") << bad;
}

}  // namespace
}  // namespace dsr
