#include "deepseek_run/sampling_params.h"

#include <array>
#include <optional>
#include <string>
#include <variant>

#include "base/error.h"
#include "sampling/sampler_state.h"

namespace dsr {
namespace {

constexpr int64_t kMaxCount = int64_t{1} << 20;
constexpr double kMaxBias = 100;
constexpr size_t kMaxBiases = kMaxLogitBiases;

// A closed range, and one more value that is accepted (the one that turns the parameter off).
struct Range {
  const char* name;
  std::variant<double SamplingParams::*, int64_t SamplingParams::*> member;
  double min, max;
  std::optional<double> also = {};
};

constexpr std::array kRanges = {
    Range{"temperature", &SamplingParams::temperature, 0.01, 100, 0.0},
    Range{"top_k", &SamplingParams::top_k, 0, kMaxCount},
    Range{"top_p", &SamplingParams::top_p, 0.0001, 1},
    Range{"min_p", &SamplingParams::min_p, 0, 1},
    Range{"repetition_penalty", &SamplingParams::repetition_penalty, 0.01, 100},
    Range{"presence_penalty", &SamplingParams::presence_penalty, -100, 100},
    Range{"frequency_penalty", &SamplingParams::frequency_penalty, -100, 100},
    Range{"penalty_window", &SamplingParams::penalty_window, 0, kMaxCount, -1.0},
    Range{"dry_multiplier", &SamplingParams::dry_multiplier, 0, 100},
    Range{"dry_base", &SamplingParams::dry_base, 1, 100},
    Range{"dry_allowed_length", &SamplingParams::dry_allowed_length, 1, 1000},
    Range{"sample_index", &SamplingParams::sample_index, 0, kMaxCount},
    Range{"logprobs", &SamplingParams::logprobs, 0, kMaxTopLogProbs, -1.0},
};

// A bound as text: counts in full, fractions as they are written in the table.
std::string number(double value) {
  const auto whole = static_cast<int64_t>(value);
  return value == static_cast<double>(whole) ? str(whole) : str(value);
}

void check_range(const Range& range, const SamplingParams& params) {
  const auto check = [&](auto member) {
    const auto value = params.*member;
    const auto as_double = static_cast<double>(value);
    if (as_double >= range.min && as_double <= range.max) return;
    if (range.also && as_double == *range.also) return;
    fail_usage(range.name, " is ", value, ", expected ",
               range.also ? number(*range.also) + " or " : "", number(range.min), " to ",
               number(range.max));
  };
  std::visit(check, range.member);
}

}  // namespace

void check_sampling_params(const SamplingParams& params, int64_t vocab_size) {
  for (const Range& range : kRanges) check_range(range, params);
  if (params.logit_bias.size() > kMaxBiases)
    fail_usage("logit_bias has ", params.logit_bias.size(), " entries, expected at most ",
               kMaxBiases);
  for (const auto& [id, bias] : params.logit_bias) {
    if (id < 0 || id >= vocab_size)
      fail_usage("logit_bias of token ", id, ", expected an id from 0 to ", vocab_size - 1);
    if (!(bias >= -kMaxBias && bias <= kMaxBias))
      fail_usage("logit_bias of token ", id, " is ", bias, ", expected ", number(-kMaxBias), " to ",
                 number(kMaxBias));
  }
}

}  // namespace dsr
