#include "model/declared_source.h"

#include "base/error.h"
#include "base/math.h"
#include "model/weights.h"

namespace dsr {
namespace {

constexpr QuantScheme kReleasedBlock{128, 128};

// As safetensors files spell the types that we declare.
const char* stored_name(DType type) {
  switch (type) {
    case DType::kBF16:
      return "BF16";
    case DType::kF32:
      return "F32";
    case DType::kF8E4M3:
      return "F8_E4M3";
    default:
      fail_internal("no released checkpoint holds ", name(type));
  }
}

}  // namespace

const char* name(WeightFormat format) { return format == WeightFormat::kBF16 ? "bf16" : "fp8"; }

WeightFormat released_format(const ModelConfig& c) {
  return c.quant.block_rows > 0 ? WeightFormat::kFP8 : WeightFormat::kBF16;
}

ModelConfig with_format(ModelConfig c, WeightFormat format) {
  if (format == WeightFormat::kBF16)
    c.quant = {};
  else if (c.quant.block_rows == 0)
    c.quant = kReleasedBlock;
  return c;
}

DeclaredSource::DeclaredSource(const ModelConfig& c) {
  const QuantScheme& q = c.quant;
  ModelWeights unused;
  for_each_weight(c, /*with_mtp=*/true, unused, [&](const WeightSpec& w) {
    if (w.fp8) {
      add(w.name, DType::kF8E4M3, w.shape);
      add(w.name + "_scale_inv", DType::kF32,
          {ceil_div(w.shape[0], q.block_rows), ceil_div(w.shape[1], q.block_columns)});
      return;
    }
    // Only the MTP layers of the FP8 releases have copies.
    if (w.role == WeightRole::kUnused && (q.block_rows == 0 || c.tie_word_embeddings)) return;
    const bool f32 = w.name.ends_with(".e_score_correction_bias");
    add(w.name, f32 ? DType::kF32 : DType::kBF16, w.shape);
  });
}

DeclaredSource::DeclaredSource(const WeightSource& source) {
  for (const std::string& name : source.names()) {
    SourceTensor t = *source.find(name);
    t.data = nullptr;
    add(name, std::move(t));
  }
}

const SourceTensor* DeclaredSource::find(const std::string& name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

void DeclaredSource::add(const std::string& name, SourceTensor tensor) {
  names_.push_back(name);
  tensors_.emplace(name, std::move(tensor));
}

void DeclaredSource::add(const std::string& name, DType type, std::vector<int64_t> shape) {
  add(name, {.dtype_name = stored_name(type),
             .dtype = type,
             .shape = std::move(shape),
             .data = nullptr,
             .file = "none"});
}

int64_t tensor_bytes(const SourceTensor& t) {
  int64_t elements = 1;
  for (const int64_t d : t.shape) elements *= d;
  return t.dtype ? elements * size_bytes(*t.dtype) : 0;
}

}  // namespace dsr
