#include "model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace dsr {
namespace {

// YaRN's attention factor m(x); 1 without extension.
double yarn_mscale(double factor, double x) {
  return factor <= 1 ? 1.0 : 0.1 * x * std::log(factor) + 1.0;
}

// The (fractional) dimension pair that turns `rotations` times over the original context.
double correction_dim(const ModelConfig& c, double rotations) {
  const auto width = static_cast<double>(c.rope_dim());
  const auto context = static_cast<double>(c.rope_scaling.original_max_position_embeddings);
  return width * std::log(context / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(c.rope_theta));
}

// The ramp between the dimensions that keep their frequency and those divided by the factor.
void scale_yarn(const ModelConfig& c, std::vector<double>& freq) {
  const double low = std::max(std::floor(correction_dim(c, c.rope_scaling.beta_fast)), 0.0);
  double high = std::min(std::ceil(correction_dim(c, c.rope_scaling.beta_slow)),
                         static_cast<double>(c.rope_dim() - 1));
  if (low == high) high += 0.001;  // as the modelling code avoids a division by zero
  for (size_t i = 0; i < freq.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    freq[i] *= ramp / c.rope_scaling.factor + (1 - ramp);
  }
}

void scale_llama3(const RopeScaling& s, std::vector<double>& freq) {
  const auto context = static_cast<double>(s.original_max_position_embeddings);
  for (double& f : freq) {
    const double turns = context * f / (2 * std::numbers::pi);  // over the original context
    // 0 where the wavelength is long (divide), 1 where it is short (keep), a blend between.
    const double keep = std::clamp(
        (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor), 0.0, 1.0);
    f = (1 - keep) * f / s.factor + keep * f;
  }
}

}  // namespace

std::vector<double> rope_inv_freq(const ModelConfig& c) {
  const int64_t r = c.rope_dim();
  std::vector<double> freq;
  for (int64_t i = 0; i < r / 2; ++i)
    freq.push_back(std::pow(c.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(r)));
  switch (c.rope_scaling.type) {
    case RopeScalingType::kNone:
      break;
    case RopeScalingType::kLinear:
      for (double& f : freq) f /= c.rope_scaling.factor;
      break;
    case RopeScalingType::kLlama3:
      scale_llama3(c.rope_scaling, freq);
      break;
    case RopeScalingType::kYarn:
      scale_yarn(c, freq);
      break;
  }
  return freq;
}

double softmax_scale(const ModelConfig& c) {
  if (c.attention == AttentionKind::kGqa) return 1 / std::sqrt(static_cast<double>(c.head_dim));
  const double scale = 1 / std::sqrt(static_cast<double>(c.qk_head_dim()));
  if (c.rope_scaling.type != RopeScalingType::kYarn || c.rope_scaling.mscale_all_dim == 0)
    return scale;
  const double m = yarn_mscale(c.rope_scaling.factor, c.rope_scaling.mscale_all_dim);
  return scale * m * m;
}

RopeTables::RopeTables(Exec& exec, const ModelConfig& c, int64_t n_positions) {
  const std::vector<double> freq = rope_inv_freq(c);
  const auto half = static_cast<int64_t>(freq.size());
  const int64_t bytes = n_positions * half * size_bytes(DType::kF32);
  buffer_ = Buffer(exec, MemoryKind::kWeights, 2 * bytes);
  const bool real = buffer_.data() != nullptr;
  table_.cos = Tensor::of(buffer_.data(), DType::kF32, {n_positions, half});
  table_.sin =
      Tensor::of(real ? buffer_.data() + bytes : nullptr, DType::kF32, {n_positions, half});
  if (!real) return;
  // Not the softmax correction: cos and sin carry m(mscale) / m(mscale_all_dim), which is 1 in
  // every released checkpoint.
  double m = 1;
  if (c.rope_scaling.type == RopeScalingType::kYarn)
    m = yarn_mscale(c.rope_scaling.factor, c.rope_scaling.mscale) /
        yarn_mscale(c.rope_scaling.factor, c.rope_scaling.mscale_all_dim);
  std::vector<float> cos, sin;
  for (int64_t p = 0; p < n_positions; ++p) {
    for (const double f : freq) {
      const double angle = static_cast<double>(p) * f;
      cos.push_back(static_cast<float>(std::cos(angle) * m));
      sin.push_back(static_cast<float>(std::sin(angle) * m));
    }
  }
  buffer_.upload(0, cos.data(), bytes);
  buffer_.upload(bytes, sin.data(), bytes);
}

}  // namespace dsr
