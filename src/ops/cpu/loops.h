// The inner loops, written once over V, 16 lanes of one level of instructions. Only the files
// inner_loops_*.cc include this, each compiled for its level; their V is in an unnamed namespace,
// so that the linker cannot take one level's code for another's. For the same reason nothing here
// calls an inline function of another header, but for tokens_at_once, which is always inlined, and
// what is no template is unnamed.
//
// V has: Reg; kRegs of them; rows_for(T), how many rows of weights to take with T tokens, and
// kTokens, the most of these; what tile_loops.h asks for; load_part (the first n lanes, 0 behind
// them), broadcast, mul, add, div, min and max (b where one is NaN); power_of_two(v), of the
// integers in the lowest bits of v; bf16(p), and e4m3(p) and e4m3_run(p, out): 2^-8 of the value,
// exact, of 16 codes and of the next ones of kE4M3Run registers; kCodes codes are looked at in one
// step by CodeMax; Tile, the V of tile_loops.h, with kSize, what a tile takes at once, and Rows,
// Floats or NarrowRows of it. With kNarrow, for the latter: store_narrow(v, to), of values that are
// bf16, pack_narrow(p, to), of 16 bf16, and pack_narrow_run(p, to, step), of kE4M3Run times 16
// codes. Where there is a faster way for codes that are not subnormal: CodeMin, which looks at 64,
// and e4m3_normal(p); for kBf16Run of them as bf16: e4m3_as_bf16(p, one unit, the next).
#pragma once

#include "ops/cpu/dot_loops.h"
#include "ops/cpu/inner_loops.h"
#include "ops/cpu/tile_loops.h"

namespace dsr::cpu::loops {

// --- many tokens: what tiles are made of --------------------------------------------------------

// out = x * factor, all of it read before the first is written: a load that follows a store to the
// same place of another page waits for it (64 bytes on: three times as long for all of them).
template <class V, int N>
void scale_run(const float* x, typename V::Reg factor, float* out) {
  typename V::Reg v[N];
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) v[i] = V::mul(V::load(x + i * kLanes), factor);
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) V::store(out + i * kLanes, v[i]);
}

template <class V>
void scale(const float* x, const float* scales, int64_t block_columns, int64_t first, int64_t n,
           float* out) {
  constexpr int kRun = V::kRegs < 4 ? 1 : V::kRegs / 4;
  int64_t k = 0;
  for (int64_t b = first / block_columns; k < n; ++b) {
    const int64_t block_end = (b + 1) * block_columns - first, end = block_end < n ? block_end : n;
    const float factor = scales[b] * static_cast<float>(kE4M3Unit);
    const typename V::Reg factors = V::broadcast(factor);
    for (; k + kRun * kLanes <= end; k += kRun * kLanes)
      scale_run<V, kRun>(x + k, factors, out + k);
    for (; k + kLanes <= end; k += kLanes) scale_run<V, 1>(x + k, factors, out + k);
    for (; k < end; ++k) out[k] = x[k] * factor;
  }
}

template <class V>
void store_part(const typename V::Reg& v, int64_t n, float* out) {
  alignas(64) float part[kLanes];
  V::store(part, v);
  for (int64_t i = 0; i < n; ++i) out[i] = part[i];
}

template <class V>
void decode_e4m3(const uint8_t* codes, int64_t n, float* out) {
  int64_t k = 0;
  for (; k + V::kE4M3Run * kLanes <= n; k += V::kE4M3Run * kLanes) {
    typename V::Reg w[V::kE4M3Run];
    V::e4m3_run(codes + k, w);
#pragma GCC unroll 4
    for (int i = 0; i < V::kE4M3Run; ++i) V::store(out + k + i * kLanes, w[i]);
  }
  for (; k < n; k += kLanes) {
    const int64_t left = n - k < kLanes ? n - k : kLanes;
    store_part<V>(load_part<V, E4M3<V>>(codes + k, left), left, out + k);
  }
}

template <class V>
void decode_bf16(const uint16_t* row, int64_t n, float* out) {
  int64_t k = 0;
  for (; k + kLanes <= n; k += kLanes) V::store(out + k, V::bf16(row + k));
  if (k < n) store_part<V>(load_part<V, Bf16<V>>(row + k, n - k), n - k, out + k);
}

// --- weights to the places of a tile ------------------------------------------------------------

// Sixteen columns, as they are or narrow.
template <class V>
void store_unit(const typename V::Reg& v, std::byte* to) {
  if constexpr (requires { V::kNarrow; })
    V::store_narrow(v, to);
  else
    V::store(reinterpret_cast<float*>(to), v);
}

// Calls each(row, the one to ask for meanwhile, place of its first unit).
template <class P, int R, class Each>
void for_each_row(const RowsToPack& a, const Each& each) {
  const int64_t units = (a.columns + P::kColumns - 1) / P::kColumns;
  for (int64_t r = 0; r < a.rows; ++r) {
    const int64_t run = r / R * R;
    auto* to = static_cast<std::byte*>(a.w) + (run * units + (r - run)) * P::kRowPiece;
    each(static_cast<const uint8_t*>(a.first) + r * a.row_bytes,
         static_cast<const uint8_t*>(a.next) + r * a.row_bytes, to);
  }
}

template <class V>
void pack_e4m3(const RowsToPack& a) {
  using Tile = typename V::Tile;
  constexpr int64_t kStep = Tile::kTileR * Tile::Rows::kRowPiece, kRun = V::kE4M3Run * kLanes;
  static_assert(Tile::Rows::kRowParts == 1);
  for_each_row<typename Tile::Rows, Tile::kTileR>(
      a, [&](const uint8_t* codes, const uint8_t* next, std::byte* to) {
        int64_t k = 0;
        for (; k + kRun <= a.columns; k += kRun, to += V::kE4M3Run * kStep) {
          if (k % 64 == 0) __builtin_prefetch(next + k, 0, 2);
          if constexpr (requires { V::kNarrow; }) {
            V::pack_narrow_run(codes + k, to, kStep);
          } else {
            typename V::Reg w[V::kE4M3Run];
            V::e4m3_run(codes + k, w);
#pragma GCC unroll 4
            for (int i = 0; i < V::kE4M3Run; ++i) store_unit<V>(w[i], to + i * kStep);
          }
        }
        for (; k < a.columns; k += kLanes, to += kStep) {
          const int64_t left = a.columns - k < kLanes ? a.columns - k : kLanes;
          store_unit<V>(load_part<V, E4M3<V>>(codes + k, left), to);
        }
      });
}

template <class V>
void pack_bf16(const RowsToPack& a) {
  using Tile = typename V::Tile;
  constexpr int64_t kStep = Tile::kTileR * Tile::Rows::kRowPiece;
  static_assert(Tile::Rows::kRowParts == 1);
  for_each_row<typename Tile::Rows, Tile::kTileR>(
      a, [&](const uint8_t* row, const uint8_t* next, std::byte* to) {
        const auto* values = reinterpret_cast<const uint16_t*>(row);
        int64_t k = 0;
        for (; k + kLanes <= a.columns; k += kLanes, to += kStep) {
          if (k % 32 == 0) __builtin_prefetch(next + 2 * k, 0, 2);
          if constexpr (requires { V::kNarrow; })
            V::pack_narrow(values + k, to);
          else
            store_unit<V>(V::bf16(values + k), to);
        }
        if (k < a.columns) store_unit<V>(load_part<V, Bf16<V>>(values + k, a.columns - k), to);
      });
}

// Units to the places of one row or token.
template <class V>
void pack_units(const void* from, int64_t units, const UnitPlaces& out) {
  constexpr int64_t kPiece = TileOrder::kUnitBytes / V::Tile::kParts;
  const auto* bytes = static_cast<const std::byte*>(from);
  std::byte* to = out.first;
  for (int64_t u = 0; u < units; ++u, to += out.step_bytes)
#pragma GCC unroll 2
    for (int64_t part = 0; part < V::Tile::kParts; ++part, bytes += kPiece)
      __builtin_memcpy(to + part * out.part_bytes, bytes, kPiece);
}

template <class V>
void pack_e4m3_as_bf16(const RowsToPack& a) {
  using Tile = typename V::Tile;
  using P = Bf16Pairs<Tile>;
  constexpr int64_t kStep = Tile::kTileR * P::kRowPiece;
  const int64_t units = (a.columns + P::kColumns - 1) / P::kColumns;
  const int64_t part_bytes = kGroupRows * units * P::kRowPiece;
  for_each_row<P, Tile::kTileR>(a, [&](const uint8_t* codes, const uint8_t* next, std::byte* to) {
    int64_t k = 0;
    if constexpr (requires { V::kBf16Run; }) {
      static_assert(V::kBf16Run == 2 * P::kColumns && Tile::kParts == 1);
      for (; k + V::kBf16Run <= a.columns; k += V::kBf16Run, to += 2 * kStep) {
        __builtin_prefetch(next + k, 0, 2);
        V::e4m3_as_bf16(codes + k, to, to + kStep);
      }
    }
    for (int64_t left; k < a.columns; k += left) {
      constexpr int64_t kAtOnce = 8 * P::kColumns;
      left = a.columns - k < kAtOnce ? a.columns - k : kAtOnce;
      for (int64_t i = 0; i < left; i += 64) __builtin_prefetch(next + k + i, 0, 2);
      alignas(64) float values[kAtOnce] = {};
      decode_e4m3<V>(codes + k, left, values);
      uint32_t bits[kAtOnce];
      __builtin_memcpy(bits, values, sizeof bits);
      alignas(64) uint16_t numbers[kAtOnce];
      for (int64_t i = 0; i < kAtOnce; ++i) numbers[i] = static_cast<uint16_t>(bits[i] >> 16);
      const int64_t here = (left + P::kColumns - 1) / P::kColumns;
      pack_units<V>(numbers, here, {to, kStep, part_bytes});
      to += here * kStep;
    }
  });
}

template <class V>
bool has_e4m3_nan(const uint8_t* codes, int64_t n) {
  typename V::CodeMax max;
  int64_t i = 0;
  for (; i + V::CodeMax::kCodes <= n; i += V::CodeMax::kCodes) max.look_at(codes + i);
  bool found = max.has_nan();
  for (; i < n; ++i) found |= (codes[i] & 0x7f) == 0x7f;
  return found;
}

// --- exponentials -------------------------------------------------------------------------------

// By the definition of inner_loops.h. A NaN stays one.
template <class V>
typename V::Reg exp(typename V::Reg x) {
  constexpr float kLog2E = 0x1.715476p+0f, kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
  constexpr float kRound = 0x1.8p23f;  // adding it rounds to an integer, in the lowest bits
  constexpr float kSeries[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  x = V::min(V::broadcast(88.0f), V::max(V::broadcast(-86.6f), x));
  const typename V::Reg rounded = V::fma(x, V::broadcast(kLog2E), V::broadcast(kRound));
  const typename V::Reg n = V::add(rounded, V::broadcast(-kRound));
  typename V::Reg r = V::fma(n, V::broadcast(-kLn2High), x);  // exact
  r = V::fma(n, V::broadcast(-kLn2Low), r);
  typename V::Reg p = V::broadcast(1.0f / 5040);
  for (const float c : kSeries) p = V::fma(p, r, V::broadcast(c));
  return V::mul(p, V::power_of_two(rounded));
}

// out[i] = f(i, left), of 16 lanes at a time, the last `left` of which may be fewer.
template <class V, class F>
void map(int64_t n, float* out, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) V::store(out + i, f(i, kLanes));
  if (i == n) return;
  alignas(64) float part[kLanes];
  V::store(part, f(i, n - i));
  for (int64_t j = 0; i < n; ++j, ++i) out[i] = part[j];
}

template <class V>
typename V::Reg load_up_to(const float* p, int64_t n) {
  return n == kLanes ? V::load(p) : V::load_part(p, n);
}

template <class V>
void exp_minus(const float* x, float minus, int64_t n, float* out) {
  const typename V::Reg less = V::broadcast(-minus);
  map<V>(n, out,
         [&](int64_t i, int64_t left) { return exp<V>(V::add(load_up_to<V>(x + i, left), less)); });
}

template <class V>
void silu_times(const float* gate, const float* up, int64_t n, float* out) {
  const typename V::Reg one = V::broadcast(1.0f), minus_one = V::broadcast(-1.0f);
  map<V>(n, out, [&](int64_t i, int64_t left) {
    const typename V::Reg g = load_up_to<V>(gate + i, left);
    const typename V::Reg silu = V::div(g, V::add(one, exp<V>(V::mul(g, minus_one))));
    return V::mul(silu, load_up_to<V>(up + i, left));
  });
}

// --- sums of rows -------------------------------------------------------------------------------

// Q queries by C runs of 16 columns.
template <class V, int Q, int C>
void add_weighted_block(const InnerLoops::Weighted& a, int64_t q0, int64_t c0) {
  typename V::Reg sum[Q][C];
#pragma GCC unroll 8
  for (int q = 0; q < Q; ++q)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
      sum[q][c] = V::load(a.sum + (q0 + q) * a.sum_stride + c0 + c * kLanes);
  for (int64_t s = 0; s < a.n; ++s) {
    typename V::Reg row[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) row[c] = V::load(a.rows + s * a.row_stride + c0 + c * kLanes);
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
      const typename V::Reg p = V::broadcast(a.p[(q0 + q) * a.p_stride + s]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[q][c] = V::fma(p, row[c], sum[q][c]);
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < Q; ++q)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
      V::store(a.sum + (q0 + q) * a.sum_stride + c0 + c * kLanes, sum[q][c]);
}

template <class V, int C>
void add_weighted_columns(const InnerLoops::Weighted& a, int64_t c0) {
  constexpr int Q = V::kRegs > 1 ? 4 : 1;
  int64_t q = 0;
  for (; q + Q <= a.queries; q += Q) add_weighted_block<V, Q, C>(a, q, c0);
  for (; q < a.queries; ++q) add_weighted_block<V, 1, C>(a, q, c0);
}

template <class V>
void add_weighted_rows(const InnerLoops::Weighted& a) {
  constexpr int kRuns = V::kRegs >= 32 ? 4 : 1;  // of columns: as many sums as fit the registers
  int64_t c = 0;
  for (; c + kRuns * kLanes <= a.columns; c += kRuns * kLanes) add_weighted_columns<V, kRuns>(a, c);
  for (; c + kLanes <= a.columns; c += kLanes) add_weighted_columns<V, 1>(a, c);
  if (c == a.columns) return;
  const int64_t left = a.columns - c;
  for (int64_t q = 0; q < a.queries; ++q) {
    float* sum = a.sum + q * a.sum_stride + c;
    typename V::Reg total = V::load_part(sum, left);
    for (int64_t s = 0; s < a.n; ++s)
      total = V::fma(V::broadcast(a.p[q * a.p_stride + s]),
                     V::load_part(a.rows + s * a.row_stride + c, left), total);
    alignas(64) float part[kLanes];
    V::store(part, total);
    for (int64_t i = 0; i < left; ++i) sum[i] = part[i];
  }
}

// R rows from row s on: their sums are loaded and stored once.
template <class V, class W, int R>
void add_stored_run(const InnerLoops::StoredRows& a, int64_t s) {
  constexpr int64_t kColumns = W::kRun * kLanes;
  static_assert(kAddColumns % kColumns == 0);
  const auto* row = static_cast<const uint8_t*>(a.rows) + s * a.row_bytes;
  for (int64_t c = 0; c < a.columns; c += kColumns) {
    typename V::Reg w[R][W::kRun];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const uint8_t* place = at<W>(row + r * a.row_bytes, c);
      for (int64_t line = 0; line < kColumns * W::kBytes; line += 64) {
        __builtin_prefetch(place + a.near + line, 0, 3);
        __builtin_prefetch(place + a.far + line, 0, 2);
      }
      W::load_run(place, w[r]);
    }
    for (int64_t t = 0; t < a.tokens; ++t) {
      const float* x = a.x + (c / a.block_columns * a.tokens + t) * a.n + s;
#pragma GCC unroll 4
      for (int i = 0; i < W::kRun; ++i) {
        float* out = a.sum + t * a.sum_stride + c + i * kLanes;
        typename V::Reg sum = V::load(out);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sum = V::fma(V::broadcast(x[r]), w[r][i], sum);
        V::store(out, sum);
      }
    }
  }
}

template <class V, class W>
void add_stored_rows(const InnerLoops::StoredRows& a) {
  constexpr int R = V::kRegs >= 32 ? 4 : 1;
  int64_t s = 0;
  for (; s + R <= a.n; s += R) add_stored_run<V, W, R>(a, s);
  for (; s < a.n; ++s) add_stored_run<V, W, 1>(a, s);
}

template <class V>
constexpr InnerLoops table() {
  using Tile = typename V::Tile;
  using Rows = typename Tile::Rows;
  constexpr TileSize kSize = Tile::kSize;
  static_assert(kDotRows % V::rows_for(1) == 0 && kDotRows % V::rows_for(V::kTokens) == 0);
  static_assert(kTileRows % kGroupRows == 0 && kGroupRows % Tile::kTileR == 0);
  static_assert(kSize.tokens <= kTileTokens && kSize.tokens % Tile::kTileT == 0);
  static_assert(kSize.columns <= kGroupColumns && kSize.columns % (2 * kLanes) == 0);
  static_assert(kSize.tokens * kSize.columns * kSize.panels <= kTileValues);
  return {.dots_e4m3 = dots<V, E4M3<V>>,
          .dots_bf16 = dots<V, Bf16<V>>,
          .dots_f32 = dots<V, F32<V>>,
          .scale = scale<V>,
          .decode_e4m3 = decode_e4m3<V>,
          .decode_bf16 = decode_bf16<V>,
          .pack_e4m3 = pack_e4m3<V>,
          .pack_bf16 = pack_bf16<V>,
          .pack_e4m3_as_bf16 = pack_e4m3_as_bf16<V>,
          .pack_units = pack_units<V>,
          .has_e4m3_nan = has_e4m3_nan<V>,
          .raised = {},
          .tile_size = kSize,
          .tile = {order_of<Tile>(), tile<Tile, Rows>},
          .f32_tile = {order_of<Tile>(), tile<Tile, Floats<Tile>>},
          .fast = {.order = order_of<Tile>(),
                   .tile = tile<Tile, Bf16Pairs<Tile>>,
                   .round_bf16 = round_bf16<V>,
                   .takes_raw = false},
          .exp_minus = exp_minus<V>,
          .silu_times = silu_times<V>,
          .add_weighted_rows = add_weighted_rows<V>,
          .add_e4m3_rows = add_stored_rows<V, E4M3<V>>,
          .add_bf16_rows = add_stored_rows<V, Bf16<V>>};
}

}  // namespace dsr::cpu::loops
