// moe_experts and moe_with_shared of one token: kernels/moe/stream_one.cuh on sm_90, and what
// stands in for it where memory is too small. Every case is held to the formula, to the same
// token's row in batches, whose kernels are others, and to itself, again and again. Weights lie in
// the device's own memory, so that they come as fast as in a model. (An arrival that overtakes the
// loads of its stage did not show here, planted, in 23,400 runs: that is what
// scripts/check_arrivals.py is for.)
#include <cstring>
#include <set>

#include "base/math.h"
#include "ops/moe_fixture.h"

namespace dsr::test {
namespace {

constexpr int64_t kTokens = 8;     // of the batch
constexpr int64_t kDifferent = 3;  // experts that stand for all of them

struct OneToken {
  int64_t D, F, E, K;
  int64_t shared_F = 0;  // 0: no shared experts
  DType scales = DType::kF32;
  QuantScheme quant = {128, 128};
};

// Where experts lie: at equal distances, as a loader places them, in either direction; or not.
enum class Placing { kAscending, kDescending, kShuffled, kShuffledScales };
constexpr Placing kPlacings[] = {Placing::kAscending, Placing::kDescending, Placing::kShuffled,
                                 Placing::kShuffledScales};

int64_t place_of(Placing placing, int64_t i, int64_t n) {
  if (placing == Placing::kAscending) return i;
  if (placing == Placing::kDescending) return n - 1 - i;
  const int64_t half = (n + 1) / 2;
  return i < half ? 2 * i : 2 * (i - half) + 1;
}

class MoeOneTokenTest : public MoeTest {
 protected:
  // Everything n_runs times.
  void check_all(DType dtype, int n_runs, const std::vector<OneToken>& cases) {
    n_runs_ = n_runs;
    for (const OneToken& c : cases) {
      SCOPED_TRACE(str("D=", c.D, " F=", c.F, " K=", c.K, " shared F=", c.shared_F));
      check(dtype, c);
    }
  }

 private:
  void check(DType dtype, const OneToken& c) {
    gate_up = weight(dtype, c, std::vector<int64_t>(2 * kDifferent, c.F), c.D);
    down = weight(dtype, c, std::vector<int64_t>(kDifferent, c.D), c.F);
    let_stand_for(c.E);
    choose({kTokens, c.D, c.F, c.E, c.K, dtype});
    x = padded_activation({kTokens, c.D});
    if (c.shared_F > 0) {
      shared_gate_up_ = placed(weight(dtype, c, {c.shared_F, c.shared_F}, c.D), 2,
                               Placing::kAscending, {0}, shared_memory_);
      shared_down_ =
          placed(weight(dtype, c, {c.D}, c.shared_F), 1, Placing::kAscending, {0}, shared_memory_);
    }
    place_experts(Placing::kAscending, 0, kTokens);
    const Tensor batch = make.empty(DType::kF32, {kTokens, c.D});
    const Tensor batch_with_shared = make.empty(DType::kF32, {kTokens, c.D});
    run(0, batch, false);
    if (c.shared_F > 0) run(0, batch_with_shared, true);
    const auto expect_rows = [&](Placing placing, int64_t first, int64_t n) {
      SCOPED_TRACE(str("placing ", static_cast<int>(placing)));
      place_experts(placing, first, n);
      expect_always(first, rows(batch, first, n), false);
      if (c.shared_F > 0) expect_always(first, rows(batch_with_shared, first, n), true);
    };
    expect_rows(Placing::kAscending, 0, 2);
    expect_rows(Placing::kAscending, 5, 1);
    for (const Placing placing : kPlacings)
      if (placing != Placing::kShuffledScales || dtype == DType::kF8E4M3)
        expect_rows(placing, 0, 1);
    // What lies there now is what token 0 wants.
    check_composition(c);
    check_formula({1, c.D, c.F, c.E, c.K, dtype});
  }

  // The same bits as `want` in every run of tokens from `first`.
  void expect_always(int64_t first, const Tensor& want, bool with_shared) {
    const Tensor out = make.empty(DType::kF32, want.shape);
    testing::AssertionResult same = testing::AssertionSuccess();
    int i = 0;
    for (; i < n_runs_ && same; ++i) {
      run(first, out, with_shared);
      same = same_bits(out, want);
    }
    EXPECT_TRUE(same) << "run " << i << " of " << want.shape[0] << " tokens from " << first
                      << (with_shared ? ", with the shared experts" : "");
  }
  void check_composition(const OneToken& c) {
    if (c.shared_F == 0) return;
    const Tensor hidden = empty_activation({1, c.shared_F}), shared = empty_activation({1, c.D});
    ops::swiglu(exec, {.out = hidden, .x = rows(x, 0, 1), .gate_up = shared_gate_up_});
    ops::linear(exec, {.out = shared, .x = hidden, .w = shared_down_, .bias = {}});
    const Tensor want = make.empty(DType::kF32, {1, c.D});
    MoeExpertsArgs a = some(0, want);
    a.addend = shared;
    ops::moe_experts(exec, a);
    expect_always(0, want, true);
  }
  // Token 0's, in both types of the result.
  void check_formula(const Experts& c) {
    const Tensor wide = make.empty(DType::kF32, {1, c.D}), out = empty_activation({1, c.D});
    run(0, wide, false);
    run(0, out, false);
    x = rows(x, 0, 1);
    ids = rows(ids, 0, 1);
    weights = rows(weights, 0, 1);
    const Result want = formula();
    expect_close(wide, want, c);
    expect_close(out, want, c);
  }

  // Tokens from `first`, by the placed weights; what is not written is NaN.
  void run(int64_t first, const Tensor& out, bool with_shared) {
    std::memset(out.data, 0xff, static_cast<size_t>(out.size_bytes()));
    const MoeExpertsArgs a = some(first, out);
    if (with_shared)
      ops::moe_with_shared(
          exec, {.routed = a, .shared_gate_up = shared_gate_up_, .shared_down = shared_down_});
    else
      ops::moe_experts(exec, a);
  }
  MoeExpertsArgs some(int64_t first, const Tensor& out) const {
    const int64_t n = out.shape[0];
    return {.out = out,
            .x = rows(x, first, n),
            .expert_ids = rows(ids, first, n),
            .expert_weights = rows(weights, first, n),
            .gate_up = placed_gate_up_,
            .down = placed_down_,
            .addend = {}};
  }

  // As make.weight() gives it, but that its rows are a few, each turned by some distance: real
  // widths of normal deviates take seconds.
  Weight weight(DType dtype, const OneToken& c, const std::vector<int64_t>& segment_rows,
                int64_t columns) {
    constexpr int64_t kFew = 16;
    const float sigma = 1 / std::sqrt(static_cast<float>(columns));
    Weight out;
    if (dtype == DType::kF8E4M3) out.quant = c.quant;
    for (const int64_t n : segment_rows) {
      const int64_t n_scales = ceil_div(n, c.quant.block_rows);
      WeightSegment s = make.weight(dtype, {std::max(kFew, n_scales)}, columns, sigma,
                                    {1, c.quant.block_columns}, c.scales)
                            .segments[0];
      const Tensor few = s.data;
      s.data = make.empty(dtype, {n, columns});
      if (dtype == DType::kF8E4M3) s.scales = rows(s.scales, 0, n_scales);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t row = make.below(kFew), by = make.below(columns), rest = columns - by;
        std::memcpy(s.data.at(i), few.at(row, by), static_cast<size_t>(rest * size_bytes(dtype)));
        std::memcpy(s.data.at(i, rest), few.at(row), static_cast<size_t>(by * size_bytes(dtype)));
      }
      out.segments.push_back(s);
    }
    return out;
  }

  // Columns of a wider tensor that is NaN beside them.
  Tensor padded_activation(const Shape& shape) {
    constexpr int64_t kPad = 8;  // 16 bytes of bf16: rows stay where the fast kernels take them
    const Tensor inner = columns(empty_activation({shape[0], shape[1] + 2 * kPad}), kPad, shape[1]);
    for (int64_t t = 0; t < shape[0]; ++t) {
      const Tensor row = random_activation({1, shape[1]});
      std::memcpy(inner.at(t), row.data, static_cast<size_t>(row.size_bytes()));
    }
    return inner;
  }

  // What tokens [first, first + n) want of the experts.
  void place_experts(Placing placing, int64_t first, int64_t n) {
    const auto* chosen = ids.ptr<int32_t>(first);
    const std::set<int64_t> wanted(chosen, chosen + n * ids.shape[1]);
    memory_.clear();
    placed_gate_up_ = placed(gate_up, 2, placing, wanted, memory_);
    placed_down_ = placed(down, 1, placing, wanted, memory_);
  }
  // A copy in the device's memory, NaN wherever there is no wanted expert's: n_parts segments are
  // an expert, the same part of all of them lies together.
  Weight placed(const Weight& from, int64_t n_parts, Placing placing,
                const std::set<int64_t>& wanted, std::vector<Buffer>& memory) {
    const auto n = static_cast<int64_t>(from.segments.size()) / n_parts;
    const bool only_scales = placing == Placing::kShuffledScales;
    Weight out = from;
    const auto place = [&](int64_t part, Tensor WeightSegment::*which, Placing where,
                           int64_t slot_bytes) {
      std::vector<std::byte> image(static_cast<size_t>(n * slot_bytes), std::byte{0xff});
      Buffer& to = memory.emplace_back(exec, MemoryKind::kWeights, n * slot_bytes);
      for (int64_t e = 0; e < n; ++e) {
        Tensor& t = out.segments[static_cast<size_t>(e * n_parts + part)].*which;
        const int64_t at = place_of(where, e, n) * slot_bytes;
        if (wanted.contains(e))
          std::memcpy(image.data() + at, t.data, static_cast<size_t>(t.size_bytes()));
        t.data = to.data() + at;
      }
      to.upload(0, image.data(), n * slot_bytes);
    };
    for (int64_t part = 0; part < n_parts; ++part) {
      const WeightSegment s = from.segments[static_cast<size_t>(part)];
      place(part, &WeightSegment::data, only_scales ? Placing::kAscending : placing,
            round_up(s.data.size_bytes() + 16, 16));
      // One scale further: ue8m0 ones begin at any byte of a word.
      if (s.data.dtype == DType::kF8E4M3)
        place(part, &WeightSegment::scales, only_scales ? Placing::kShuffled : placing,
              s.scales.size_bytes() + size_bytes(s.scales.dtype));
    }
    return out;
  }

  Weight placed_gate_up_, placed_down_, shared_gate_up_, shared_down_;
  std::vector<Buffer> memory_, shared_memory_;
  int n_runs_ = 1;
};

// Short ones: half a block of 128 bytes of K and more, every form of scales, more experts than a
// fetching warp has lanes, rows that only plain kernels take.
TEST_P(MoeOneTokenTest, SmallFp8) {
  check_all(DType::kF8E4M3, 1,
            {{64, 64, 5, 1, 1088},  // few blocks: more units than are kept at once
             {192, 64, 4, 3, 128},
             {128, 192, 5, 2, 64, DType::kF8E8M0},
             {384, 320, 4, 1, 448, DType::kF32, {8, 256}},
             {64, 64, 40, 32},
             {64, 64, 40, 33, 64},
             {100, 72, 5, 3, 40}});
}
TEST_P(MoeOneTokenTest, SmallBf16) {
  check_all(DType::kBF16, 1,
            {{32, 32, 5, 1},
             {96, 64, 5, 1, 1088},
             {96, 160, 4, 3, 32},
             {224, 64, 20, 12, 128},
             {50, 37, 5, 3, 21}});
}

// For kernels that share out rows over 132 SMs and keep 128 blocks of 128 bytes at a time.
TEST_P(MoeOneTokenTest, Fp8AtRealWidths) {
  if (!on_cuda()) GTEST_SKIP() << "real widths are for kernels";
  check_all(DType::kF8E4M3, 10,
            {{2048, 1408, 11, 8, 2816},  // V2-Lite's; gate/up: 128 blocks
             {2176, 704, 9, 8, 1408},    // down: 2 tiles of 16 rows, or 1
             {2176, 192, 16, 12, 320},
             {4288, 64, 7, 6},         // 3, or 2
             {7168, 192, 10, 8, 128},  // V3's width
             {8384, 192, 10, 8, 64},   // gate/up: one unit at a time
             {512, 1344, 12, 10, 1408, DType::kF8E8M0},
             {1088, 448, 9, 7, 192, DType::kF32, {8, 256}},
             {128, 2048, 10, 8, 2048},  // V3's experts
             {128, 2048, 14, 12, 2048}});
}
TEST_P(MoeOneTokenTest, Bf16AtRealWidths) {
  if (!on_cuda()) GTEST_SKIP() << "real widths are for kernels";
  check_all(DType::kBF16, 10,
            {{2048, 1408, 8, 6, 2816},
             {544, 1376, 10, 8, 2784},
             {2144, 96, 14, 12, 160},
             {5120, 160, 9, 8, 64}});
}

INSTANTIATE_TEST_SUITE_P(Backends, MoeOneTokenTest, testing::ValuesIn(backends_under_test()),
                         backend_name);

}  // namespace
}  // namespace dsr::test
