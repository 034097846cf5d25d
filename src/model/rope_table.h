// Rotary position embedding: frequencies, tables, and the softmax scale that goes with them.
#pragma once

#include <vector>

#include "device/exec.h"
#include "model/config.h"
#include "tensor/rope.h"

namespace dsr {

// The rope_dim / 2 frequencies in radians per position, scaling applied. YaRN (arXiv:2309.00071) as
// in DeepSeek-V2's modelling code: a ramp between the dimensions that turn beta_fast and beta_slow
// times over the original context. llama3: as Llama 3.1's.
std::vector<double> rope_inv_freq(const ModelConfig& config);

// qk_head_dim^-0.5 (MLA) or head_dim^-0.5. For MLA under YaRN times m(mscale_all_dim)^2,
// m(x) = 0.1 x ln(factor) + 1: it multiplies the whole score, the part without position included.
double softmax_scale(const ModelConfig& config);

// cos and sin for positions 0..n_positions-1: angles in float64, each value rounded once.
class RopeTables {
 public:
  RopeTables(Exec& exec, const ModelConfig& config, int64_t n_positions);
  const RopeTable& table() const { return table_; }

 private:
  Buffer buffer_;
  RopeTable table_;
};

}  // namespace dsr
