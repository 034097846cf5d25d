#include "deepseek_run/sampling_params.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "sampling/sampler_state.h"
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
                     .dry_multiplier = 0,
                     .dry_base = 1,
                     .dry_allowed_length = 1,
                     .logit_bias = {{0, -100}},
                     .sample_index = 0,
                     .logprobs = -1};
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
                            .dry_multiplier = 100,
                            .dry_base = 100,
                            .dry_allowed_length = 1000,
                            .logit_bias = {{99, 100}},
                            .seed = std::numeric_limits<uint64_t>::max(),
                            .sample_index = 1 << 20,
                            .logprobs = 20};
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
  EXPECT_EQ(error_after([](SamplingParams& p) { p.dry_multiplier = -0.5; }),
            "dry_multiplier is -0.5, expected 0 to 100");
  EXPECT_EQ(error_after([](SamplingParams& p) { p.dry_base = 0.9; }),
            "dry_base is 0.9, expected 1 to 100");
  EXPECT_EQ(error_after([](SamplingParams& p) { p.dry_allowed_length = 0; }),
            "dry_allowed_length is 0, expected 1 to 1000");
  EXPECT_EQ(error_after([](SamplingParams& p) { p.logprobs = 21; }),
            "logprobs is 21, expected -1 or 0 to 20");
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

// U5 of hostile input: every number, at the ends of its range and one step beyond, and at whatever
// a double or an int64 can be. Inside the range it passes; outside, the error names it.
template <typename Number>
struct Field {
  const char* name;
  Number SamplingParams::*member;
  Number min, max;
  Number off;  // one more that is accepted; in the range where there is none
};

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr int64_t kMinInt = std::numeric_limits<int64_t>::min();
constexpr int64_t kMaxInt = std::numeric_limits<int64_t>::max();

const std::vector<Field<double>> kReals = {
    {"temperature", &SamplingParams::temperature, 0.01, 100, 0},
    {"top_p", &SamplingParams::top_p, 0.0001, 1, 1},
    {"min_p", &SamplingParams::min_p, 0, 1, 0},
    {"repetition_penalty", &SamplingParams::repetition_penalty, 0.01, 100, 1},
    {"presence_penalty", &SamplingParams::presence_penalty, -100, 100, 0},
    {"frequency_penalty", &SamplingParams::frequency_penalty, -100, 100, 0},
    {"dry_multiplier", &SamplingParams::dry_multiplier, 0, 100, 0},
    {"dry_base", &SamplingParams::dry_base, 1, 100, 1},
};
const std::vector<Field<int64_t>> kCounts = {
    {"top_k", &SamplingParams::top_k, 0, 1 << 20, 0},
    {"penalty_window", &SamplingParams::penalty_window, 0, 1 << 20, -1},
    {"dry_allowed_length", &SamplingParams::dry_allowed_length, 1, 1000, 1},
    {"sample_index", &SamplingParams::sample_index, 0, 1 << 20, 0},
    {"logprobs", &SamplingParams::logprobs, 0, 20, -1},
};

template <typename Number>
void expect_checked(const Field<Number>& field, Number value, bool accepted) {
  SamplingParams params;
  params.*field.member = value;
  if (accepted) {
    EXPECT_NO_THROW(check_sampling_params(params, kVocab)) << field.name << " " << value;
  } else {
    const std::string error =
        test::error_of([&] { check_sampling_params(params, kVocab); }, ErrorKind::kUsage);
    EXPECT_TRUE(error.starts_with(std::string(field.name) + " is ")) << error;
    EXPECT_NE(error.find(", expected "), error.npos) << error;
  }
}

TEST(SamplingParams, ExtremeValuesOfEveryNumber) {
  constexpr double kTiny = std::numeric_limits<double>::denorm_min();
  for (const Field<double>& f : kReals)
    for (const double v : {f.min,
                           f.max,
                           std::nextafter(f.min, -kInf),
                           std::nextafter(f.max, kInf),
                           std::nextafter(f.min, kInf),
                           std::nextafter(f.max, -kInf),
                           kNan,
                           -kNan,
                           kInf,
                           -kInf,
                           0.0,
                           -0.0,
                           -1.0,
                           kTiny,
                           -kTiny,
                           1e38,
                           -1e38,
                           1e308,
                           -1e308,
                           2147483648.0,
                           1e9,
                           1e-9,
                           0.5,
                           2.0})
      expect_checked(f, v, (v >= f.min && v <= f.max) || v == f.off);
  for (const Field<int64_t>& f : kCounts)
    for (const int64_t v :
         {f.min, f.max, f.min - 1, f.max + 1, f.min + 1, f.max - 1, kMinInt, kMaxInt, kMinInt + 1,
          int64_t{-1}, int64_t{-2}, int64_t{0}, int64_t{1} << 31, -(int64_t{1} << 31),
          (int64_t{1} << 32) + 1, int64_t{1'000'000'000}, (int64_t{1} << 53) + 1})
      expect_checked(f, v, (v >= f.min && v <= f.max) || v == f.off);
}

TEST(SamplingParams, ExtremeBiases) {
  for (const double v : {kNan, -kNan, kInf, -kInf, 1e38, -1e38, 100.0001, -100.0001})
    EXPECT_TRUE(error_after([&](SamplingParams& p) {
                  p.logit_bias = {{1, v}};
                }).starts_with("logit_bias of token 1 is "));
  for (const TokenId id : {-1, 100, std::numeric_limits<TokenId>::min(),
                           std::numeric_limits<TokenId>::max(), 1'000'000'000})
    EXPECT_EQ(error_after([&](SamplingParams& p) {
                p.logit_bias = {{id, 1}};
              }),
              "logit_bias of token " + std::to_string(id) + ", expected an id from 0 to 99");
}

// What looks at the token before needs the host to know it.
TEST(SamplingParams, WhatCanBeDrawnAhead) {
  const auto can = [](const std::function<void(SamplingParams&)>& change) {
    SamplingParams p;
    change(p);
    return can_draw_ahead(p);
  };
  EXPECT_TRUE(can([](SamplingParams& p) {
    p.top_k = 5;
    p.min_p = 0.1;
    p.logit_bias = {{1, 2.0}};
    p.seed = 7;
    p.sample_index = 3;
  }));
  EXPECT_TRUE(can([](SamplingParams& p) { p.temperature = 0; }));
  EXPECT_FALSE(can([](SamplingParams& p) { p.repetition_penalty = 1.1; }));
  EXPECT_TRUE(can([](SamplingParams& p) { p.repetition_penalty = 1.1, p.penalty_window = 0; }));
  EXPECT_FALSE(can([](SamplingParams& p) { p.presence_penalty = -1; }));
  EXPECT_FALSE(can([](SamplingParams& p) { p.frequency_penalty = 0.1, p.penalty_window = -1; }));
  EXPECT_FALSE(can([](SamplingParams& p) { p.dry_multiplier = 0.5; }));
  EXPECT_FALSE(can([](SamplingParams& p) { p.logprobs = 0; }));
}

}  // namespace
}  // namespace dsr
