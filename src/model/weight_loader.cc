#include "model/weight_loader.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_set>

#include "base/error.h"
#include "base/math.h"

namespace dsr {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

std::string found_text(const SourceTensor& t) {
  return str(escaped(t.dtype_name), " ", shape_text(t.shape));
}

[[noreturn]] void fail_mismatch(const std::string& name, const SourceTensor& found,
                                const std::string& expected, const std::string& because) {
  fail_model(escaped(name), " is ", found_text(found), ", expected ", expected, " (",
             because.empty() ? "" : because + "; ", "file ", escaped(found.file), ")");
}

// Tensors that old conversions carry and nobody needs.
bool is_known_leftover(const std::string& name) {
  constexpr std::string_view kInvFreq = ".rotary_emb.inv_freq";
  return name.ends_with(kInvFreq);
}

// A checkpoint may have been published, or stripped, without its MTP layers.
bool has_mtp(const ModelConfig& config, const WeightSource& source) {
  if (config.num_nextn_predict_layers == 0) return false;
  const std::string prefix = "model.layers." + std::to_string(config.num_hidden_layers) + ".";
  const std::vector<std::string> names = source.names();
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return name.starts_with(prefix) && !is_known_leftover(name);
  });
}

// What a source has of a weight.
struct Found {
  const SourceTensor* tensor = nullptr;
  const SourceTensor* scales = nullptr;  // of FP8
};

// Pass one: every tensor is there, has its shape and a usable type; nothing else is there.
class Validator {
 public:
  Validator(const ModelConfig& config, const WeightSource& source)
      : config_(config), source_(source) {}

  // Without a tensor where it is missing, which finish() knows.
  Found check(const WeightSpec& spec) {
    const SourceTensor* t = find(spec.name);
    if (t == nullptr) {
      if (!spec.optional) add_missing(spec.name);
      return {};
    }
    const bool fp8 = t->dtype == DType::kF8E4M3 && spec.role == WeightRole::kLinear;
    const bool usable = t->dtype && (is_float(*t->dtype) || fp8);
    if (t->shape != spec.shape || !usable)
      fail_mismatch(spec.name, *t, str(expected_types(spec), " ", shape_text(spec.shape)), "");
    if (spec.fp8 && !fp8)
      fail_mismatch(spec.name, *t, str("F8_E4M3 ", shape_text(spec.shape)),
                    "by quantization_config, which does not name it in modules_to_not_convert");
    return {t, fp8 ? check_scales(spec, *t) : nullptr};
  }

  void finish() const {
    if (n_missing_ > 0) fail_missing("");
    const std::vector<std::string> names = source_.names();
    if (names.size() == used_.size()) return;
    for (const std::string& name : names)
      if (const SourceTensor* t = source_.find(name);
          !used_.contains(t) && !is_known_leftover(name)) {
        fail_model("checkpoint: tensor ", quoted(name), " ", found_text(*t),
                   " does not belong to the model of config.json (file ", escaped(t->file), ")");
      }
  }

 private:
  static const char* expected_types(const WeightSpec& spec) {
    return spec.role == WeightRole::kLinear ? "BF16, F16, F32 or F8_E4M3" : "BF16, F16 or F32";
  }

  // A config may ask for millions of tensors: no need to name every one to know that it lies.
  void add_missing(const std::string& name) {
    if (++n_missing_ <= kShown) missing_ += (n_missing_ > 1 ? ", " : "") + name;
    if (n_missing_ == kEnough) fail_missing("at least ");
  }

  [[noreturn]] void fail_missing(const char* at_least) const {
    const std::string more =
        n_missing_ > kShown ? str(" and ", at_least, n_missing_ - kShown, " more") : "";
    fail_model("checkpoint: missing ", n_missing_ == 1 ? "tensor " : "tensors ", missing_, more,
               " (computed from config.json)");
  }

  const SourceTensor* find(const std::string& name) {
    const SourceTensor* t = source_.find(name);
    if (t != nullptr) used_.insert(t);
    return t;
  }

  const SourceTensor* check_scales(const WeightSpec& spec, const SourceTensor& weight) {
    const std::string name = spec.name + "_scale_inv";
    const QuantScheme& q = config_.quant;
    if (q.block_rows == 0)
      fail_model(escaped(spec.name), " is ", found_text(weight),
                 " but config.json has no quantization_config");
    const SourceTensor* t = find(name);
    if (t == nullptr) {
      add_missing(name);
      return nullptr;
    }
    const std::vector<int64_t> shape = {ceil_div(spec.shape[0], q.block_rows),
                                        ceil_div(spec.shape[1], q.block_columns)};
    const bool usable = t->dtype == DType::kF32 || t->dtype == DType::kF8E8M0;
    if (t->shape != shape || !usable)
      fail_mismatch(name, *t, str("F32 or F8_E8M0 ", shape_text(shape)),
                    str(spec.shape[0], " x ", spec.shape[1], " in blocks of ", q.block_rows, " x ",
                        q.block_columns));
    return t;
  }

  const ModelConfig& config_;
  const WeightSource& source_;
  std::unordered_set<const SourceTensor*> used_;
  static constexpr int64_t kShown = 3, kEnough = 10000;
  int64_t n_missing_ = 0;
  std::string missing_;  // the first kShown names
};

// Scales are small and wrong ones ruin whole blocks: look at every one.
void check_scale_values(const std::string& name, const SourceTensor& t, int64_t columns) {
  const int64_t n = t.shape[0] * t.shape[1];
  for (int64_t i = 0; i < n; ++i) {
    float scale = 0;
    to_f32(*t.dtype, t.data + i * size_bytes(*t.dtype), &scale, 1);
    // f8_e8m0's smallest value, 2^-127, is a denormal float32 and still a proper scale.
    const float smallest =
        *t.dtype == DType::kF8E8M0 ? 0x1p-127f : std::numeric_limits<float>::min();
    if (std::isfinite(scale) && scale >= smallest) continue;
    fail_model(escaped(name), "[", i / columns, ", ", i % columns, "] is ", scale,
               ", expected a normal positive number (file ", escaped(t.file), ")");
  }
}

// Norm weights and biases; a NaN among correction biases would choose experts at random, and
// nothing else would show it.
void check_vector_values(const std::string& name, const SourceTensor& t, const float* values) {
  for (int64_t i = 0; i < t.shape[0]; ++i)
    if (!std::isfinite(values[i]))
      fail_model(escaped(name), "[", i, "] is ", values[i], ", expected a finite number (file ",
                 escaped(t.file), ")");
}

int64_t bytes_of(const SourceTensor& t) { return Shape(t.shape).elements() * size_bytes(*t.dtype); }

// What a vector takes among the widened ones; asked of its first part.
int64_t vector_buffer_bytes(const WeightSpec& spec) {
  return round_up(std::max(spec.part_total, spec.shape[0]) * size_bytes(DType::kF32), kAlignBytes);
}

int64_t matrix_buffer_bytes(const SourceTensor& t) { return round_up(bytes_of(t), kAlignBytes); }

}  // namespace

LoadedWeights::LoadedWeights(Exec& exec, const ModelConfig& config, const WeightSource& source)
    : on_device_(exec.backend() == Backend::kCuda), dry_run_(exec.dry_run()) {
  const bool with_mtp = has_mtp(config, source);
  Validator validator(config, source);
  int64_t vector_bytes = 0, matrix_bytes = 0;
  ModelWeights scratch;
  std::vector<Found> all;  // in the order of the visit: names are looked for once
  for_each_weight(config, with_mtp, scratch, [&](const WeightSpec& spec) {
    const Found& found = all.emplace_back(validator.check(spec));
    if (spec.role == WeightRole::kVector && spec.part_begin == 0)
      vector_bytes += vector_buffer_bytes(spec);
    if (spec.role == WeightRole::kVector || spec.role == WeightRole::kUnused) return;
    if (found.tensor != nullptr) matrix_bytes += matrix_buffer_bytes(*found.tensor);
    if (found.scales != nullptr) matrix_bytes += matrix_buffer_bytes(*found.scales);
  });
  validator.finish();

  vectors_ = Buffer(exec, MemoryKind::kWeights, vector_bytes);
  if (on_device_) {
    matrices_ = Buffer(exec, MemoryKind::kWeights, matrix_bytes);
    if (!exec.dry_run()) widened_.resize(static_cast<size_t>(vectors_.size_bytes()));
  }
  auto next = all.begin();
  for_each_weight(config, with_mtp, weights_, [&](const WeightSpec& spec) {
    const Found& found = *next++;
    if (spec.role == WeightRole::kUnused) return;
    const SourceTensor& t = *found.tensor;
    source_bytes_ += bytes_of(t);
    if (spec.role == WeightRole::kTable) {
      *spec.tensor = place(t);
    } else if (spec.role == WeightRole::kVector) {
      place_vector(spec, t);
    } else {
      place_matrix(spec, t, found.scales);
    }
  });
  if (config.tie_word_embeddings) weights_.lm_head.segments = {{weights_.embed_tokens, {}}};
  if (!on_device_ || exec.dry_run()) return;
  vectors_.upload(0, widened_.data(), vectors_.size_bytes());
  widened_ = {};
  exec.cuda().upload_all(copies_);
  copies_ = {};
}

Tensor LoadedWeights::place(const SourceTensor& t, const std::string& fp8_name) {
  if (!on_device_) return Tensor::of(t.data, *t.dtype, Shape(t.shape));
  std::byte* to = matrices_.data() == nullptr ? nullptr : matrices_.data() + matrices_used_;
  matrices_used_ += matrix_buffer_bytes(t);
  if (to != nullptr) copies_.push_back({to, t.data, bytes_of(t), fp8_name});
  return Tensor::of(to, *t.dtype, Shape(t.shape));
}

void LoadedWeights::place_vector(const WeightSpec& spec, const SourceTensor& t) {
  if (spec.part_begin == 0) {
    std::byte* data = vectors_.data() == nullptr ? nullptr : vectors_.data() + vectors_used_;
    const int64_t n = std::max(spec.part_total, spec.shape[0]);
    *spec.tensor = Tensor::of(data, DType::kF32, {n});
    vectors_used_ += vector_buffer_bytes(spec);
  }
  if (spec.tensor->data == nullptr) return;
  auto* values = spec.tensor->ptr<float>(spec.part_begin);
  if (on_device_)  // the same place in the host's copy
    values = reinterpret_cast<float*>(widened_.data() +
                                      (reinterpret_cast<std::byte*>(values) - vectors_.data()));
  to_f32(*t.dtype, t.data, values, spec.shape[0]);
  check_vector_values(spec.name, t, values);
}

void LoadedWeights::place_matrix(const WeightSpec& spec, const SourceTensor& t,
                                 const SourceTensor* scales) {
  const bool is_looked_at = scales != nullptr && !t.no_nan && matrices_.data() != nullptr;
  const std::string fp8_name =
      is_looked_at ? str(escaped(spec.name), " (file ", escaped(t.file), ")") : "";
  WeightSegment segment{place(t, fp8_name), {}, t.no_nan};
  if (scales != nullptr && !t.no_nan && !on_device_ && !dry_run_)
    segment.nan_free = nan_free_.emplace_back(std::make_unique<NanFreeRows>(t.shape[0])).get();
  if (scales != nullptr) {
    if (scales->data != nullptr && !dry_run_)
      check_scale_values(spec.name + "_scale_inv", *scales, scales->shape[1]);
    segment.scales = place(*scales);
    source_bytes_ += bytes_of(*scales);
  }
  spec.weight->segments.push_back(segment);
}

}  // namespace dsr
