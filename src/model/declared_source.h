// The tensors of a checkpoint that is not there: names, types and shapes, as its config.json and
// its format imply them, and no data.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "io/weight_source.h"
#include "model/config.h"

namespace dsr {

// How the vendor stores a checkpoint.
enum class WeightFormat {
  kBF16,  // everything; the correction bias of the router in float32
  kFP8,   // as the FP8 releases: every matrix in F8_E4M3 with float32 scales, but for head, router
          // and eh_proj; embeddings and norms stay bf16
};
const char* name(WeightFormat format);  // "bf16", "fp8"

// The format that a config asks for: fp8 where it has a quantization_config.
WeightFormat released_format(const ModelConfig& config);
// The config of the same model in another format: with FP8 and no block of its own, 128 x 128.
ModelConfig with_format(ModelConfig config, WeightFormat format);

class DeclaredSource : public WeightSource {
 public:
  // MTP layers included, with their copies of the vocabulary where the format is fp8: the bf16
  // checkpoints with such layers come without.
  explicit DeclaredSource(const ModelConfig& config);
  // The shapes of another source.
  explicit DeclaredSource(const WeightSource& source);
  DeclaredSource(const DeclaredSource&) = delete;
  DeclaredSource& operator=(const DeclaredSource&) = delete;

  const SourceTensor* find(const std::string& name) const override;
  std::vector<std::string> names() const override { return names_; }  // in the order of the layers

 private:
  void add(const std::string& name, SourceTensor tensor);
  void add(const std::string& name, DType type, std::vector<int64_t> shape);

  std::vector<std::string> names_;
  std::unordered_map<std::string, SourceTensor> tensors_;
};

// Bytes of a tensor's data; 0 for a type that we do not know.
int64_t tensor_bytes(const SourceTensor& tensor);

}  // namespace dsr
