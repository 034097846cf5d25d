// The inner loops of tiles, written once over V like the others: see loops.h.
//
// V has: Reg, of kLanes / kParts lanes: where two registers hold the 16, each has its own pass over
// the columns, with twice as many sums of it at once; kTileR x kTileT, sums of a tile that fit the
// registers, kTileR dividing kGroupRows; zero, load, store, fma, sum_rows, of R registers by the
// tree of inner_loops.h; Pairs, bf16 of twice as many columns, load_pairs and dot_pairs(sum, w, x):
// the odd products first; with kRoundsPairs, store_pairs and round_pairs, of the floats of two
// registers; hold(v), where v would otherwise be read again for each product.
#pragma once

#include "ops/cpu/inner_loops.h"

namespace dsr::cpu::loops {

constexpr int64_t kE4M3Unit = 256;  // V::e4m3 gives 2^-8 of the value

// What a tile multiplies, and how: kColumns of them in one step, of which a part of the lanes takes
// its share. Where kScales, `scaled` makes them of raw activations and leaves them at `to`.
template <class V>
struct Floats {
  using Value = float;
  using Values = typename V::Reg;
  static constexpr int64_t kColumns = kLanes;
  static constexpr bool kScales = true;
  static Values load(const float* p) { return V::load(p); }
  static Values scaled(const float* x, typename V::Reg factor, float* to) {
    const Values v = V::mul(V::load(x), factor);
    V::store(to, v);
    return v;
  }
  static typename V::Reg add(typename V::Reg sum, Values w, Values x) { return V::fma(w, x, sum); }
};
template <class V>
struct Bf16Pairs {
  using Value = uint16_t;
  using Values = typename V::Pairs;
  static constexpr int64_t kColumns = 2 * kLanes;
  static constexpr bool kScales = requires { V::kRoundsPairs; };
  static Values load(const uint16_t* p) { return V::load_pairs(p); }
  static Values scaled(const float* x, typename V::Reg factor, uint16_t* to) {
    const Values v =
        V::round_pairs(V::mul(V::load(x), factor), V::mul(V::load(x + kLanes), factor));
    V::store_pairs(to, v);
    return v;
  }
  static typename V::Reg add(typename V::Reg sum, Values w, Values x) {
    return V::dot_pairs(sum, w, x);
  }
};

namespace {  // no template: see loops.h

// Asks for the lines of the next rows in `steps` parts of the same size.
class Asking {
 public:
  Asking(const NextRows& next, int64_t steps)
      : next_(next), row_(static_cast<const uint8_t*>(next.first)) {
    at_once_ = (next.rows * ((next.bytes + kLine - 1) / kLine) + steps - 1) / steps;
  }
  void step() {
    for (int64_t i = 0; i < at_once_ && rows_ < next_.rows; ++i) {
      __builtin_prefetch(row_ + byte_, 0, 3);
      byte_ += kLine;
      if (byte_ < next_.bytes) continue;
      byte_ = 0;
      row_ += next_.row_bytes;
      ++rows_;
    }
  }

 private:
  static constexpr int64_t kLine = 64;
  NextRows next_;
  const uint8_t* row_;
  int64_t at_once_, rows_ = 0, byte_ = 0;
};

}  // namespace

// The sums of R rows and T tokens of a tile, from row r0 and token t0 on. GCC 12 keeps them in
// memory around the products where these loops are not unrolled by force, or where one of them
// chooses what to load: a tenth of the time.
template <class V, int T, int Part>
class TileBlock {
 public:
  template <class Args>
  void begin(const Args& a, int64_t r0, int64_t t0) {
    if (a.begin) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum_[t][r] = V::zero();
    } else {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum_[t][r] = V::load(a.lanes + lanes_at(r0 + r, t0 + t));
    }
  }

  template <class P, class Args>
  void run(const Args& a, int64_t r0, int64_t t0) {
    if constexpr (P::kScales)
      if (r0 == 0 && a.raw.x != nullptr) return run_raw<P>(a, t0);
    const auto* xt = a.x + t0 * a.x_stride + kFirst<P>;
    add<P>(a, r0, t0, 0, a.columns,
           [&](int64_t t, int64_t k) { return P::load(xt + t * a.x_stride + k); });
  }

  template <class Args>
  void end(const Args& a, int64_t r0, int64_t t0) const {
    if (Part + 1 == V::kParts && a.sums != nullptr) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t)
        sum_of_token(a, r0, t0, t, a.sums + (t0 + t) * a.sums_stride + r0);
    } else {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) V::store(a.lanes + lanes_at(r0 + r, t0 + t), sum_[t][r]);
    }
  }

 private:
  static constexpr int64_t kPartLanes = kLanes / V::kParts;
  static int64_t lanes_at(int64_t r, int64_t t) {
    return (t * kGroupRows + r) * kLanes + Part * kPartLanes;
  }
  // The first of its values among those of a step.
  template <class P>
  static constexpr int64_t kFirst = Part*(P::kColumns / V::kParts);

  template <class Args>
  void sum_of_token(const Args& a, int64_t r0, int64_t t0, int t, float* out) const {
    if constexpr (V::kParts == 1) {
      V::template sum_rows<R>(sum_[t], out);
    } else {
      typename V::Reg both[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
        both[r] = V::add(V::load(a.lanes + lanes_at(r0 + r, t0 + t) - kPartLanes), sum_[t][r]);
      V::template sum_rows<R>(both, out);
    }
  }

  template <class P, class Args>
  void run_raw(const Args& a, int64_t t0) {
    const RawActivations& raw = a.raw;
    auto* xt = a.x + t0 * a.x_stride + kFirst<P>;
    const float* from[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) from[t] = raw.x[t0 + t] + raw.first + kFirst<P>;
    int64_t k = 0;
    for (int64_t b = raw.first / raw.block_columns; k < a.columns; ++b) {
      const int64_t block_end = (b + 1) * raw.block_columns - raw.first;
      const int64_t end = block_end < a.columns ? block_end : a.columns;
      const typename V::Reg factor = V::broadcast(raw.scales[b] * static_cast<float>(kE4M3Unit));
      add<P>(a, 0, t0, k, end, [&](int64_t t, int64_t i) {
        return P::scaled(from[t] + i, factor, xt + t * a.x_stride + i);
      });
      k = end;
    }
  }

  // The products of columns [k, end) with the activations x(token, column).
  template <class P, class Args, class X>
  void add(const Args& a, int64_t r0, int64_t t0, int64_t k, int64_t end, const X& x) {
    const auto* wr = a.w + r0 * kGroupColumns + kFirst<P>;
    // The sums of the next tokens are on their way from the second-level cache meanwhile. A pass
    // over a part of the lanes has half of the time for it, which costs more (README.md).
    const float* next = a.lanes + lanes_at(r0, t0 + T) + k;
    for (; k < end; k += P::kColumns, next += kLanes) {
      if constexpr (V::kParts == 1) __builtin_prefetch(next, 1, 3);
      typename P::Values xk[T];
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) xk[t] = x(t, k);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        typename P::Values wk = P::load(wr + r * kGroupColumns + k);
        V::hold(wk);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sum_[t][r] = P::add(sum_[t][r], wk, xk[t]);
      }
    }
  }

  static constexpr int R = V::kTileR;
  typename V::Reg sum_[T][R];
};

template <class V, class P, int T, int Part, class Args>
[[gnu::always_inline]] inline void tile_block(const Args& a, int64_t r0, int64_t t0) {
  TileBlock<V, T, Part> block;
  block.begin(a, r0, t0);
  block.template run<P>(a, r0, t0);
  block.end(a, r0, t0);
}

// Tokens from t0 on, at most T.
template <class V, class P, int T, class Args>
void tile_tokens(const Args& a, int64_t t0) {
  if constexpr (T > 1)
    if (a.tokens - t0 < T) return tile_tokens<V, P, T - 1>(a, t0);
  for (int64_t r0 = 0; r0 < kGroupRows; r0 += V::kTileR) {
    tile_block<V, P, T, 0>(a, r0, t0);
    if constexpr (V::kParts == 2) tile_block<V, P, T, 1>(a, r0, t0);
  }
}

template <class V, class P>
void tile(const TileArgsOf<typename P::Value>& a) {
  Asking asking(a.next, (a.tokens + V::kTileT - 1) / V::kTileT);
  for (int64_t t0 = 0; t0 < a.tokens; t0 += V::kTileT) {
    asking.step();
    tile_tokens<V, P, V::kTileT>(a, t0);
  }
}

template <class V>
void round_bf16(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    const uint32_t nan = (bits & 0x7fffffffu) > 0x7f800000u ? 0x400000u : 0u;  // stays one
    const uint32_t up = nan != 0 ? 0u : 0x7fffu + ((bits >> 16) & 1u);
    out[i] = static_cast<uint16_t>(((bits | nan) + up) >> 16);
  }
}

}  // namespace dsr::cpu::loops
