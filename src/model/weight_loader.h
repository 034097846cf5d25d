// From a WeightSource to ModelWeights.
#pragma once

#include <memory>
#include <vector>

#include "device/exec.h"
#include "io/weight_source.h"
#include "model/weights.h"

namespace dsr {

// A loaded model's weights with the memory behind them. Matrices stay where the source has them
// (a mapped checkpoint: no copy); on a GPU they are copied, byte for byte. Vectors are widened to
// f32 in a buffer of our own. The source outlives it.
class LoadedWeights {
 public:
  // Compares the source with the exact set of tensors that `config` asks for: a missing, extra or
  // misshapen tensor, a type that cannot be used, or a scale that is not a normal positive number
  // throws Error(kModel) naming it. Nothing is allocated before all shapes agree. MTP layers are
  // loaded where the source has them. A dry run looks at shapes alone: no data is read before it is
  // known that all of it fits.
  LoadedWeights(Exec& exec, const ModelConfig& config, const WeightSource& source);

  const ModelWeights& weights() const { return weights_; }
  // Bytes of the source's tensors that are used, scales included.
  int64_t source_bytes() const { return source_bytes_; }

 private:
  void place_vector(const WeightSpec& spec, const SourceTensor& t);
  void place_matrix(const WeightSpec& spec, const SourceTensor& t,
                    const SourceTensor* scales);  // nullptr: not FP8

  // A view of `t` where ops read it; on a GPU, the place it will be copied to.
  Tensor place(const SourceTensor& t, const std::string& fp8_name = "");

  ModelWeights weights_;
  bool on_device_ = false;  // a GPU's memory
  bool dry_run_ = false;
  Buffer matrices_;  // where they are copied
  int64_t matrices_used_ = 0;
  std::vector<HostRange> copies_;  // to matrices_, until they are made
  Buffer vectors_;
  std::vector<std::byte> widened_;  // on the host, until they are copied to vectors_
  int64_t vectors_used_ = 0;
  std::vector<std::unique_ptr<NanFreeRows>> nan_free_;
  int64_t source_bytes_ = 0;
};

}  // namespace dsr
