// Attention beside its alternatives: absorbed against expanded, and quantised caches against the
// float32 one. Weights, latents and keys are those of the tiny checkpoints' own layers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/rng.h"
#include "ops/mla.h"
#include "support/golden.h"
#include "support/reference_model.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

// Queries at these positions of one sequence: its start, both sides of a page's edge, its end.
const std::vector<int32_t> kPositions = {0, 1, 63, 64, 100, 127, 159};
const std::vector<int32_t> kBlocks = {3, 0, 5};

// Unit roundoff: half the distance between neighbours, relative.
double roundoff(DType t) { return t == DType::kF32 ? 0x1p-24 : 0x1p-8; }

// Everything that attention over one layer of a checkpoint takes.
struct Layer {
  const ModelConfig& c;
  Weight kv_b;
  RopeTable rope;
  MlaCacheView cache;
  float softmax_scale;
  Tensor positions = Tensor::of(kPositions.data(), DType::kI32, {std::ssize(kPositions)});
  std::vector<int32_t> cu = {0, static_cast<int32_t>(kPositions.size())};
  Tensor cu_seqlens_q = Tensor::of(cu.data(), DType::kI32, {2});
  Tensor block_table = Tensor::of(kBlocks.data(), DType::kI32, {1, std::ssize(kBlocks)});

  int64_t width() const { return c.kv_lora_rank + c.qk_rope_head_dim; }
  // The cached row at a position, decoded.
  std::vector<float> row(int64_t position) const {
    std::vector<float> out(static_cast<size_t>(width()));
    const auto* page =
        cache.pages.ptr<std::byte>(kBlocks[static_cast<size_t>(position / kPageTokens)]);
    cache.format.decode(page + (position % kPageTokens) * cache.format.row_bytes(), out.data(),
                        out.data() + c.kv_lora_rank);
    return out;
  }
  // Row i of head h of kv_b_proj.
  std::vector<float> kv_b_row(int64_t h, int64_t i) const {
    std::vector<float> out(static_cast<size_t>(c.kv_lora_rank));
    dequantize_row(kv_b.segments[0], kv_b.quant, h * (c.qk_nope_head_dim + c.v_head_dim) + i, 0,
                   c.kv_lora_rank, out.data());
    return out;
  }
};

Layer layer_of(ReferenceModel& m, size_t l) {
  const Model& model = m.model();
  const size_t n_main = model.weights().layers.size();
  const BlockWeights& w =
      l < n_main ? model.weights().layers[l] : model.weights().mtp[l - n_main].block;
  return {model.config(), w.mla.kv_b_proj, model.rope(), m.kv().mla(static_cast<int64_t>(l)),
          model.softmax_scale()};
}

// Standard normal values of an activation type.
Tensor random(Exec& exec, const Shape& shape, uint64_t seed) {
  const Tensor t = exec.scratch().activation(shape);
  PhiloxStream stream(seed, 0);
  std::vector<float> values(static_cast<size_t>(shape.elements()));
  for (float& v : values) v = stream.next_normal();
  from_f32(t.dtype, values.data(), t.data, shape.elements());
  return t;
}

std::vector<float> row_of(const Tensor& t, int64_t i, int64_t j) {
  std::vector<float> out(static_cast<size_t>(t.shape[2]));
  to_f32(t.dtype, t.at(i, j), out.data(), t.shape[2]);
  return out;
}

double sum_of_products(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i)
    sum += std::fabs(static_cast<double>(a[i]) * static_cast<double>(b[i]));
  return sum;
}
double dot(const std::vector<float>& a, const std::vector<float>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0, std::plus<>(),
                            [](float x, float y) { return double{x} * double{y}; });
}

// The two forms are equal in exact arithmetic, and both take their sums in float64. What the
// absorbed one rounds on the way to the activation type (roundoff u):
//
//   the query       every component by u |q^_i|, so a score by e_s = scale u sum_i |q^_i row_s,i|
//                   and, with e = max e_s, a probability by a factor within exp(+-2e)
//   the latent      by u |latent_c|, so the value by u sum_c |W_ic latent_c|
//   out, in both    by u |out|, and through float32 by 2^-24 |out|
//
//   |absorbed - expanded| <= (exp(2e) - 1) max_s |v_s,i| + u sum_c |W_ic latent_c| + 3 u |out|
//
// to first order in u; a factor 1 + 8u takes the rest. The worst element reaches 0.2 of it.
void expect_forms_agree(const Layer& l, Exec& exec) {
  const ModelConfig& c = l.c;
  const double u = roundoff(exec.activation_dtype());
  const int64_t T = std::ssize(kPositions), H = c.num_attention_heads;
  const Arena::Scope scope(exec.scratch());
  const Tensor q = random(exec, {T, H, c.qk_head_dim()}, 1);
  const Tensor expanded = exec.scratch().activation({T, H, c.v_head_dim});
  ops::mla_expanded_attention(exec, {expanded, q, l.kv_b, l.rope, l.cache, l.positions,
                                     l.cu_seqlens_q, l.block_table, l.softmax_scale});
  const Tensor query = exec.scratch().activation({T, H, l.width()});
  const Tensor latent = exec.scratch().activation({T, H, c.kv_lora_rank});
  const Tensor absorbed = exec.scratch().activation({T, H, c.v_head_dim});
  ops::mla_query(exec, {query, q, l.kv_b, c.v_head_dim, l.rope, l.positions});
  ops::mla_attention(
      exec, {latent, query, l.cache, l.positions, l.cu_seqlens_q, l.block_table, l.softmax_scale});
  ops::mla_value(exec, {absorbed, latent, l.kv_b, c.qk_nope_head_dim});

  std::vector<std::vector<float>> rows;
  for (int64_t s = 0; s <= kPositions.back(); ++s) rows.push_back(l.row(s));
  for (int64_t h = 0; h < H; ++h) {
    for (int64_t t = 0; t < T; ++t) {
      const auto n = static_cast<size_t>(kPositions[static_cast<size_t>(t)]) + 1;
      double e = 0;
      for (size_t s = 0; s < n; ++s)
        e = std::max(e, u * static_cast<double>(l.softmax_scale) *
                            sum_of_products(row_of(query, t, h), rows[s]));
      const std::vector<float> got = row_of(absorbed, t, h), want = row_of(expanded, t, h);
      const std::vector<float> lat = row_of(latent, t, h);
      for (int64_t i = 0; i < c.v_head_dim; ++i) {
        const std::vector<float> w = l.kv_b_row(h, c.qk_nope_head_dim + i);
        double v_max = 0;
        for (size_t s = 0; s < n; ++s) {
          const std::vector<float> latent_s(rows[s].begin(), rows[s].begin() + c.kv_lora_rank);
          v_max = std::max(v_max, std::fabs(dot(w, latent_s)));
        }
        const auto a = static_cast<double>(got[static_cast<size_t>(i)]);
        const auto b = static_cast<double>(want[static_cast<size_t>(i)]);
        const double bound = (1 + 8 * u) * (std::expm1(2 * e) * v_max +
                                            u * sum_of_products(w, lat) + 3 * u * std::fabs(b));
        ASSERT_LE(std::fabs(a - b), bound) << "t " << t << " h " << h << " i " << i;
      }
    }
  }
}

class AttentionForms : public testing::TestWithParam<std::string> {
 protected:
  const TinyCheckpoint checkpoint_{GetParam()};
  const std::vector<int32_t> ids_ = Golden::load(GetParam()).input_ids;  // 160

  // Puts the golden sequence into the model's cache, in kBlocks.
  void fill(ReferenceModel& m) const { m.logits(ids_, 0, kBlocks); }
};

INSTANTIATE_TEST_SUITE_P(Tiny, AttentionForms, testing::ValuesIn(kMlaGoldens), test_name);

TEST_P(AttentionForms, AbsorbedIsExpanded) {
  ReferenceModel m(checkpoint_.config(), checkpoint_);
  fill(m);
  for (const DType activation : {DType::kF32, DType::kBF16}) {
    Exec exec = Exec::reference_with(activation);
    exec.scratch().reserve(Buffer(exec, MemoryKind::kActivations, 1 << 20));
    for (size_t l = 0; l < m.model().weights().layers.size(); ++l) {
      SCOPED_TRACE(str(name(activation), " layer ", l));
      expect_forms_agree(layer_of(m, l), exec);
    }
  }
}

// What the quantiser of a cache may do to one value x of a latent (half the distance between
// neighbours):
//   bf16   2^-8 |x|
//   fp8    2^-4 |x| for normal codes, 2^-10 scale for subnormal ones; scale = amax / 448 of the
//          group, and 2^-22 |x| for the divisions and products by it in float32
// The rotated key is stored as bf16 in both.
double latent_error(CacheType type, double x, double amax) {
  if (type == CacheType::kBF16) return 0x1p-8 * x;
  return std::max(0x1p-4 * x, 0x1p-10 * amax / 448) + 0x1p-22 * x;
}

// Layer 0 caches the same values in every type: nothing before it reads the cache.
TEST_P(AttentionForms, QuantisedRowsAreWithinHalfAStep) {
  ReferenceModel exact(checkpoint_.config(), checkpoint_);
  fill(exact);
  const Layer want = layer_of(exact, 0);
  const auto C = static_cast<size_t>(checkpoint_.config().kv_lora_rank);
  for (const CacheType type : {CacheType::kBF16, CacheType::kFP8}) {
    ReferenceModel m(checkpoint_.config(), checkpoint_, {.cache_type = type});
    fill(m);
    const Layer got = layer_of(m, 0);
    for (int64_t p = 0; p < std::ssize(ids_); ++p) {
      const std::vector<float> x = want.row(p), y = got.row(p);
      for (size_t i = 0; i < x.size(); ++i) {
        const size_t group = i - i % static_cast<size_t>(MlaRowFormat::kGroup);
        const size_t end = std::min(C, group + static_cast<size_t>(MlaRowFormat::kGroup));
        double amax = 0;
        for (size_t j = group; j < end; ++j)
          amax = std::max(amax, std::fabs(static_cast<double>(x[j])));
        const double size = std::fabs(static_cast<double>(x[i]));
        const double bound = i < C ? latent_error(type, size, amax) : 0x1p-8 * size;
        ASSERT_LE(std::fabs(static_cast<double>(y[i]) - static_cast<double>(x[i])), bound)
            << name(type) << " position " << p << " value " << i;
      }
    }
  }
}

// Attention reads what was stored and nothing else: over a quantised cache it equals, bit for bit,
// attention over a float32 cache of the decoded rows.
TEST_P(AttentionForms, AttentionReadsTheDecodedRows) {
  const int64_t T = std::ssize(kPositions), H = checkpoint_.config().num_attention_heads;
  for (const CacheType type : {CacheType::kBF16, CacheType::kFP8}) {
    ReferenceModel m(checkpoint_.config(), checkpoint_, {.cache_type = type});
    fill(m);
    ReferenceModel decoded(checkpoint_.config(), checkpoint_);
    const Layer from = layer_of(m, 1), to = layer_of(decoded, 1);
    for (int64_t p = 0; p < std::ssize(ids_); ++p) {
      const std::vector<float> row = from.row(p);
      auto* page = to.cache.pages.ptr<std::byte>(kBlocks[static_cast<size_t>(p / kPageTokens)]);
      std::memcpy(page + (p % kPageTokens) * to.cache.format.row_bytes(), row.data(),
                  row.size() * sizeof(float));
    }
    Exec exec(Backend::kReference);
    exec.scratch().reserve(Buffer(exec, MemoryKind::kActivations, 1 << 20));
    const Tensor q = random(exec, {T, H, from.width()}, 2);
    std::vector<std::vector<float>> out;
    for (const Layer* l : {&from, &to}) {
      const Tensor o = exec.scratch().activation({T, H, l->c.kv_lora_rank});
      ops::mla_attention(
          exec, {o, q, l->cache, l->positions, l->cu_seqlens_q, l->block_table, l->softmax_scale});
      out.emplace_back(o.ptr<float>(), o.ptr<float>() + o.shape.elements());
    }
    EXPECT_EQ(out[0], out[1]) << name(type);
  }
}

}  // namespace
}  // namespace dsr::test
