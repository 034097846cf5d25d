// The KV cache in its three types, for every tiny checkpoint; MHA and GQA pages value by value (MLA
// rows: attention_forms_test.cc).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/rng.h"
#include "ops/gqa.h"
#include "support/golden.h"
#include "support/reference_model.h"
#include "support/tiny_checkpoint.h"

namespace dsr::test {
namespace {

const std::vector<int32_t> kBlocks = {3, 0, 5};

class CacheTypes : public testing::TestWithParam<std::string> {
 protected:
  const TinyCheckpoint checkpoint_{GetParam()};
  const std::vector<int32_t> ids_ = Golden::load(GetParam()).input_ids;  // 160
};
INSTANTIATE_TEST_SUITE_P(Tiny, CacheTypes, testing::ValuesIn(all_goldens()), test_name);

// The rounding of a cached value is uniform in a step of 2^-8 to 2^-7 (bf16) or 2^-4 to 2^-3 (e4m3)
// of it: a relative error of r = 2^-7.5 / sqrt(12) or 2^-3.5 / sqrt(12). In a layer's output it
// shows as r^2 of energy through the values, and as r^2 times the variance of the scores, about 3^2
// in these fixtures, through the probabilities. Averaging over keys lowers both, further layers add
// to both: the median position stays below 10 r^2. Single positions may not, where rounding tips a
// choice of experts.
TEST_P(CacheTypes, QuantisedCacheLogits) {
  const std::vector<float> want = Golden::load(GetParam()).logits;
  const auto V = static_cast<size_t>(checkpoint_.config().vocab_size);
  for (const CacheType type : {CacheType::kBF16, CacheType::kFP8}) {
    const double r = (type == CacheType::kBF16 ? 0x1p-7 : 0x1p-3) / std::sqrt(24.0);
    ReferenceModel m(checkpoint_.config(), checkpoint_, {.cache_type = type});
    const std::vector<float> got = m.logits(ids_);
    std::vector<double> e;
    for (size_t at = 0; at < got.size(); at += V)
      e.push_back(nmse(&got[at], &want[at], std::ssize(want) / std::ssize(ids_)));
    std::sort(e.begin(), e.end());
    EXPECT_LT(e[e.size() / 2], 10 * r * r) << name(type);
    EXPECT_GT(e[e.size() / 2], 1e-3 * r * r) << name(type) << ": is the cache quantised at all?";
    EXPECT_LT(e.back(), 1) << name(type);
  }
}

class GqaCache : public CacheTypes {
 protected:
  void fill(ReferenceModel& m) const { m.logits(ids_, 0, kBlocks); }
};
INSTANTIATE_TEST_SUITE_P(Tiny, GqaCache, testing::ValuesIn(kGqaGoldens), test_name);

std::byte* page_of(const GqaCacheView& cache, int64_t position) {
  return cache.pages.ptr<std::byte>(kBlocks[static_cast<size_t>(position / kPageTokens)]);
}

// The key, then the value, of one head of a cached token.
std::vector<float> cached(const GqaCacheView& cache, int64_t head, int64_t position) {
  const GqaPageFormat& f = cache.format;
  std::vector<float> out(static_cast<size_t>(2 * f.head_dim));
  f.decode_key(page_of(cache, position), head, position % kPageTokens, out.data());
  f.decode_value(page_of(cache, position), head, position % kPageTokens, out.data() + f.head_dim);
  return out;
}

// What the quantiser may do to a value x of a row (half the distance between neighbours):
//   bf16   2^-8 |x|
//   fp8    2^-4 |x| for normal codes, 2^-10 scale for subnormal ones; scale = amax / 448 of the
//          row, and 2^-22 |x| for the divisions and products by it in float32
double row_error(CacheType type, double x, double amax) {
  if (type == CacheType::kBF16) return 0x1p-8 * x;
  return std::max(0x1p-4 * x, 0x1p-10 * amax / 448) + 0x1p-22 * x;
}

// Layer 0 caches the same values in every type: nothing before it reads the cache.
TEST_P(GqaCache, QuantisedRowsAreWithinHalfAStep) {
  ReferenceModel exact(checkpoint_.config(), checkpoint_);
  fill(exact);
  const GqaCacheView want = exact.kv().gqa(0);
  const auto d = static_cast<size_t>(want.format.head_dim);
  for (const CacheType type : {CacheType::kBF16, CacheType::kFP8}) {
    ReferenceModel m(checkpoint_.config(), checkpoint_, {.cache_type = type});
    fill(m);
    const GqaCacheView got = m.kv().gqa(0);
    for (int64_t p = 0; p < std::ssize(ids_); ++p) {
      for (int64_t g = 0; g < want.format.n_kv_heads; ++g) {
        const std::vector<float> x = cached(want, g, p), y = cached(got, g, p);
        for (size_t i = 0; i < x.size(); ++i) {
          double amax = 0;
          for (size_t j = i / d * d; j < i / d * d + d; ++j)
            amax = std::max(amax, std::fabs(double{x[j]}));
          ASSERT_LE(std::fabs(double{y[i]} - double{x[i]}),
                    row_error(type, std::fabs(double{x[i]}), amax))
              << name(type) << " position " << p << " head " << g << " value " << i;
        }
      }
    }
  }
}

std::vector<float> attention(ReferenceModel& m, const GqaCacheView& cache) {
  const ModelConfig& c = m.model().config();
  const std::vector<int32_t> positions = {0, 1, 63, 64, 100, 127, 159};
  const std::vector<int32_t> cu = {0, 7};
  Exec exec(Backend::kReference);
  exec.scratch().reserve(Buffer(exec, MemoryKind::kActivations, 1 << 20));
  const Tensor q = exec.scratch().activation({7, c.num_attention_heads, c.head_dim});
  const Tensor out = exec.scratch().activation(q.shape);
  PhiloxStream stream(2, 0);
  for (int64_t i = 0; i < q.shape.elements(); ++i) q.ptr<float>()[i] = stream.next_normal();
  ops::gqa_attention(exec, {.out = out,
                            .q = q,
                            .rope = m.model().rope(),
                            .cache = cache,
                            .positions = Tensor::of(positions.data(), DType::kI32, {7}),
                            .cu_seqlens_q = Tensor::of(cu.data(), DType::kI32, {2}),
                            .block_table = Tensor::of(kBlocks.data(), DType::kI32, {1, 3}),
                            .softmax_scale = m.model().softmax_scale()});
  return {out.ptr<float>(), out.ptr<float>() + out.shape.elements()};
}

// Attention reads what was stored and nothing else: over a quantised cache it equals, bit for bit,
// attention over a float32 cache of the decoded rows.
TEST_P(GqaCache, AttentionReadsTheDecodedRows) {
  for (const CacheType type : {CacheType::kBF16, CacheType::kFP8}) {
    ReferenceModel m(checkpoint_.config(), checkpoint_, {.cache_type = type});
    fill(m);
    ReferenceModel decoded(checkpoint_.config(), checkpoint_);
    const GqaCacheView from = m.kv().gqa(1), to = decoded.kv().gqa(1);
    const GqaPageFormat& f = from.format;
    for (int64_t p = 0; p < std::ssize(ids_); ++p) {
      std::vector<float> k, v;
      for (int64_t g = 0; g < f.n_kv_heads; ++g) {
        const std::vector<float> row = cached(from, g, p);
        k.insert(k.end(), row.begin(), row.begin() + f.head_dim);
        v.insert(v.end(), row.begin() + f.head_dim, row.end());
      }
      to.format.encode(k.data(), v.data(), page_of(to, p), p % kPageTokens);
    }
    EXPECT_EQ(attention(m, from), attention(decoded, to)) << name(type);
  }
}

}  // namespace
}  // namespace dsr::test
