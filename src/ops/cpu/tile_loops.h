// The inner loops of tiles, written once over V like the others: see loops.h.
//
// V has: Reg, of kLanes / kParts lanes: where two registers hold the 16, each has its own pass over
// the columns, with twice as many sums of it at once; kTileR x kTileT, sums of a tile that fit the
// registers, kTileR dividing kGroupRows; zero, load, store, fma, sum_rows, of R registers by the
// tree of inner_loops.h; Pairs, bf16 of twice as many columns, load_pairs and dot_pairs(sum, w, x):
// the odd products first; with kRoundsPairs, store_pairs and round_pairs, of the floats of two
// registers; hold(v), where v would otherwise be read again for each product; narrow<Part>(p), the
// weights of a part of the lanes, where rows are narrow.
#pragma once

#include "ops/cpu/inner_loops.h"

namespace dsr::cpu::loops {

constexpr int64_t kE4M3Unit = 256;  // V::e4m3 gives 2^-8 of the value

// What a tile multiplies, and how: kColumns of them in one step, a unit, of which a part of the
// lanes takes a piece; `weights` are those of a row's piece of kRowPiece bytes. Where kScales,
// `scaled` makes activations of raw ones and leaves them at `to`.
template <class V>
struct Floats {
  using Value = float;
  using Values = typename V::Reg;
  static constexpr int64_t kColumns = kLanes;
  static constexpr bool kScales = true;
  static constexpr int64_t kRowPiece = TileOrder::kUnitBytes / V::kParts;  // bytes
  static constexpr int kRowParts = V::kParts;
  template <int Part>
  static Values weights(const std::byte* p) {
    return V::load(reinterpret_cast<const float*>(p));
  }
  static Values load(const float* p) { return V::load(p); }
  static Values scaled(const float* x, typename V::Reg factor, float* to) {
    const Values v = V::mul(V::load(x), factor);
    V::store(to, v);
    return v;
  }
  static typename V::Reg add(typename V::Reg sum, Values w, Values x) { return V::fma(w, x, sum); }
};

// With narrow rows, which decode with half of the stores and take half of the first-level cache.
template <class V>
struct NarrowRows : Floats<V> {
  static constexpr int64_t kRowPiece = TileOrder::kUnitBytes / 2;
  static constexpr int kRowParts = 1;
  template <int Part>
  static typename V::Reg weights(const std::byte* p) {
    return V::template narrow<Part>(p);
  }
};

template <class V>
struct Bf16Pairs {
  using Value = uint16_t;
  using Values = typename V::Pairs;
  static constexpr int64_t kColumns = 2 * kLanes;
  static constexpr bool kScales = requires { V::kRoundsPairs; };
  static constexpr int64_t kRowPiece = TileOrder::kUnitBytes / V::kParts;
  static constexpr int kRowParts = V::kParts;
  template <int Part>
  static Values weights(const std::byte* p) {
    return V::load_pairs(reinterpret_cast<const uint16_t*>(p));
  }
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
      const float* lanes = lanes_of(a, r0, t0);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum_[t][r] = V::load(lanes + lane_at(t, r));
    }
  }

  template <class P, class Args>
  void run(const Args& a, int64_t r0, int64_t t0) {
    if constexpr (P::kScales && Part == 0)
      if (r0 == 0 && a.raw.x != nullptr) return run_raw<P>(a, t0);
    const int64_t units = a.columns / P::kColumns;
    add<P>(a, r0, t0, 0, units, [](int64_t, int64_t, const auto* x) { return P::load(x); });
  }

  template <class Args>
  void end(const Args& a, int64_t r0, int64_t t0) const {
    float* lanes = lanes_of(a, r0, t0);
    if (Part + 1 == V::kParts && a.sums != nullptr) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sum_of_token(a, lanes, t, a.sums + (t0 + t) * a.sums_stride + r0);
    } else {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) V::store(lanes + lane_at(t, r), sum_[t][r]);
    }
  }

 private:
  static constexpr int64_t kPartLanes = kLanes / V::kParts;
  // Ordered like what is multiplied: a run of rows with one of tokens after the other.
  template <class Args>
  static float* lanes_of(const Args& a, int64_t r0, int64_t t0) {
    return a.lanes + ((Part * a.tokens + t0) * kGroupRows + r0 * T) * kPartLanes;
  }
  static constexpr int64_t lane_at(int64_t t, int64_t r) { return (t * R + r) * kPartLanes; }
  template <class P>
  static constexpr int64_t kPiece = P::kColumns / V::kParts;  // values

  template <class Args>
  void sum_of_token(const Args& a, const float* lanes, int t, float* out) const {
    if constexpr (V::kParts == 1) {
      V::template sum_rows<R>(sum_[t], out);
    } else {
      const float* first_part = lanes - a.tokens * kGroupRows * kPartLanes;
      typename V::Reg both[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) both[r] = V::add(V::load(first_part + lane_at(t, r)), sum_[t][r]);
      V::template sum_rows<R>(both, out);
    }
  }

  // Scales all parts.
  template <class P, class Args>
  void run_raw(const Args& a, int64_t t0) {
    const RawActivations& raw = a.raw;
    const float* from[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) from[t] = raw.x[t0 + t] + raw.first;
    const int64_t to_other_part = a.tokens * (a.columns / P::kColumns) * kPiece<P>;
    int64_t k = 0;
    for (int64_t b = raw.first / raw.block_columns; k < a.columns; ++b) {
      const int64_t block_end = (b + 1) * raw.block_columns - raw.first;
      const int64_t end = block_end < a.columns ? block_end : a.columns;
      const typename V::Reg factor = V::broadcast(raw.scales[b] * static_cast<float>(kE4M3Unit));
      add<P>(a, 0, t0, k / P::kColumns, end / P::kColumns, [&](int64_t t, int64_t unit, auto* x) {
        const float* raw_x = from[t] + unit * P::kColumns;
        if constexpr (V::kParts == 2) P::scaled(raw_x + kPiece<P>, factor, x + to_other_part);
        return P::scaled(raw_x, factor, x);
      });
      k = end;
    }
  }

  // The products of units [unit, end) with the activations make(token, unit, place).
  template <class P, class Args, class Make>
  void add(const Args& a, int64_t r0, int64_t t0, int64_t unit, int64_t end, const Make& make) {
    const int64_t units = a.columns / P::kColumns;
    constexpr int64_t kPartRows = P::kRowParts > 1 ? Part * kGroupRows : 0;
    const auto* w =
        static_cast<const std::byte*>(a.w) + ((kPartRows + r0) * units + unit * R) * P::kRowPiece;
    auto* x = a.x + ((Part * a.tokens + t0) * units + unit * T) * kPiece<P>;
    // The sums of the next tokens are on their way from the second-level cache meanwhile.
    const float* next = lanes_of(a, r0, t0) + (T * R + unit) * kLanes;
    for (; unit < end; ++unit, w += R * P::kRowPiece, x += T * kPiece<P>, next += kLanes) {
      if constexpr (V::kParts == 1) __builtin_prefetch(next, 1, 3);
      typename P::Values xk[T];
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) xk[t] = make(t, unit, x + t * kPiece<P>);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        typename P::Values wk = P::template weights<Part>(w + r * P::kRowPiece);
        V::hold(wk);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sum_[t][r] = P::add(sum_[t][r], wk, xk[t]);
      }
    }
  }

  static constexpr int R = V::kTileR;
  typename V::Reg sum_[T][R];
};

// All rows of a group with T tokens.
template <class V, class P, int T, int Part, class Args>
void tile_rows(const Args& a, int64_t t0) {
  for (int64_t r0 = 0; r0 < kGroupRows; r0 += V::kTileR) {
    TileBlock<V, T, Part> block;
    block.begin(a, r0, t0);
    block.template run<P>(a, r0, t0);
    block.end(a, r0, t0);
  }
}

// With n tokens, at most T.
template <class V, class P, int T, int Part, class Args>
void tile_tokens(const Args& a, int64_t t0, int64_t n) {
  if constexpr (T > 1)
    if (n < T) return tile_tokens<V, P, T - 1, Part>(a, t0, n);
  tile_rows<V, P, T, Part>(a, t0);
}

template <class V, class P, int Part, class Args>
void tile_part(const Args& a) {
  for (int64_t t0 = 0, n; t0 < a.tokens; t0 += n) {
    n = tokens_at_once(V::kTileT, a.tokens - t0);
    tile_tokens<V, P, V::kTileT, Part>(a, t0, n);
  }
}

template <class V, class P>
void tile(const TileArgsOf<typename P::Value>& a) {
  tile_part<V, P, 0>(a);
  if constexpr (V::kParts == 2) tile_part<V, P, 1>(a);
}

template <class V>
constexpr TileOrder order_of() {
  return {.parts = V::kParts, .rows = V::kTileR, .tokens = V::kTileT};
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
