// The inner loops of a few tokens, whose weights come straight from memory, written once over V
// like the others: see loops.h.
#pragma once

#include "ops/cpu/inner_loops.h"

namespace dsr::cpu::loops {

// --- weights as they are stored -----------------------------------------------------------------

template <class V>
struct F32 {
  template <class Other>
  using With = F32<Other>;
  static constexpr int64_t kBytes = 4;
  static typename V::Reg load(const void* p) { return V::load(static_cast<const float*>(p)); }
  static constexpr int kRun = 2;
  static void load_run(const void* p, typename V::Reg (&out)[kRun]) {
    out[0] = load(p);
    out[1] = load(static_cast<const float*>(p) + kLanes);
  }
};
template <class V>
struct Bf16 {
  template <class Other>
  using With = Bf16<Other>;
  static constexpr int64_t kBytes = 2;
  static typename V::Reg load(const void* p) { return V::bf16(static_cast<const uint16_t*>(p)); }
  static constexpr int kRun = 2;
  static void load_run(const void* p, typename V::Reg (&out)[kRun]) {
    out[0] = load(p);
    out[1] = load(static_cast<const uint16_t*>(p) + kLanes);
  }
};
template <class V>
struct E4M3 {
  static constexpr int64_t kBytes = 1;
  static typename V::Reg load(const void* p) { return V::e4m3(static_cast<const uint8_t*>(p)); }
  static constexpr int kRun = V::kE4M3Run;
  static void load_run(const void* p, typename V::Reg (&out)[kRun]) {
    V::e4m3_run(static_cast<const uint8_t*>(p), out);
  }
};

// Codes that are not subnormal: V::CodeMin looks whether one is, at 64 of them in one step.
template <class V>
struct NormalE4M3 {
  static constexpr int64_t kBytes = 1;
  static typename V::Reg load(const void* p) {
    return V::e4m3_normal(static_cast<const uint8_t*>(p));
  }
};
template <class V, class W>
constexpr bool looks_for_subnormal() {
  return W::kBytes == 1 && requires { typename V::CodeMin; };
}

template <class W>
const uint8_t* at(const void* row, int64_t k) {
  return static_cast<const uint8_t*>(row) + k * W::kBytes;
}

// The first n of 16 weights, zeros behind them.
template <class V, class W>
typename V::Reg load_part(const void* p, int64_t n) {
  alignas(64) uint8_t copy[kLanes * W::kBytes] = {};
  for (int64_t i = 0; i < n * W::kBytes; ++i) copy[i] = static_cast<const uint8_t*>(p)[i];
  return W::load(copy);
}

// --- few tokens: weights straight from memory ---------------------------------------------------

// How far ahead of a row's place its bytes are asked for, into the first- and the second-level
// cache: measured as the best with four streams of FP8 and of bf16 (README.md).
constexpr int64_t kNearBytes = 1024, kFarBytes = 2048;
constexpr int64_t kLineBytes = 64;

// One row of each stream.
struct DotStep {
  const uint8_t* row[kDotRows];
  const uint8_t* near[kDotRows];  // what to ask for while the row is read
  const uint8_t* far[kDotRows];
};

namespace {  // no templates: see loops.h

// `ahead` bytes on from a row that has `left` bytes of its stream before it, its own among them.
// Where most of that lies behind the stream's end: as far on in what comes next.
inline const uint8_t* place_ahead(const uint8_t* row, int64_t ahead, int64_t row_bytes,
                                  int64_t left, const void* next) {
  if (ahead + row_bytes / 2 < left) return row + ahead;
  return static_cast<const uint8_t*>(next) + (ahead > left ? ahead - left : 0);
}

inline DotStep dot_step(const DotArgs& a, int64_t step) {
  DotStep s;
  for (int64_t r = 0; r < kDotRows; ++r) {
    const int64_t left = (a.steps - step) * a.row_bytes;
    s.row[r] = static_cast<const uint8_t*>(a.rows[r]) + step * a.row_bytes;
    s.near[r] = place_ahead(s.row[r], kNearBytes, a.row_bytes, left, a.next[r]);
    s.far[r] = place_ahead(s.row[r], kFarBytes, a.row_bytes, left, a.next[r]);
  }
  return s;
}

}  // namespace

// Whether weights are asked for, and begin a line of the cache, `i` columns behind some that do.
// Float32 rows are keys, which mostly lie in the cache: other heads have just read them. To ask for
// their eight lines costs as much there as the products (README.md).
template <class W>
constexpr bool begins_line(int64_t i) {
  return W::kBytes < 4 && i * W::kBytes % kLineBytes == 0;
}
// Of one stream, just before its row is read there: where the lines of all four are asked for at
// once, they wait for places among the requests that are on their way (README.md).
template <class W>
void ask(const DotStep& s, int row, int64_t k) {
  __builtin_prefetch(at<W>(s.near[row], k), 0, 3);
  __builtin_prefetch(at<W>(s.far[row], k), 0, 2);
}

// The sums of R rows and T tokens, from the streams `row` and tokens `token` of a step on.
template <class V, class W, int R, int T>
struct Sums {
  typename V::Reg sum[T][R];
  const DotArgs& a;
  const DotStep& s;
  int row, token;

  Sums(const DotArgs& args, const DotStep& step, int first_row, int first_token)
      : a(args), s(step), row(first_row), token(first_token) {
    for (auto& of_token : sum)
      for (auto& v : of_token) v = V::zero();
  }

  void step(int64_t k, bool asks = false) {
    typename V::Reg w[R];
    for (int r = 0; r < R; ++r) {
      if (asks) ask<W>(s, row + r, k);
      w[r] = W::load(at<W>(s.row[row + r], k));
    }
    for (int t = 0; t < T; ++t) {
      const typename V::Reg x = V::load(a.x[token + t] + k);
      for (int r = 0; r < R; ++r) sum[t][r] = V::fma(w[r], x, sum[t][r]);
    }
  }

  // W::kRun steps at once, of N rows at a time: 32 codes cost fewer instructions than twice 16.
  template <int N>
  void step_run(int64_t k, bool asks) {
#pragma GCC unroll 4
    for (int r0 = 0; r0 < R; r0 += N) {
      typename V::Reg w[N][W::kRun];
#pragma GCC unroll 4
      for (int r = 0; r < N; ++r) {
        if (asks) ask<W>(s, row + r0 + r, k);
        W::load_run(at<W>(s.row[row + r0 + r], k), w[r]);
      }
#pragma GCC unroll 4
      for (int i = 0; i < W::kRun; ++i)
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
          const typename V::Reg x = V::load(a.x[token + t] + k + i * kLanes);
#pragma GCC unroll 4
          for (int r = 0; r < N; ++r) sum[t][r0 + r] = V::fma(w[r][i], x, sum[t][r0 + r]);
        }
    }
  }

  // What is left of a row behind the last 16.
  void last(int64_t k, int64_t n) {
    for (int t = 0; t < T; ++t) {
      const typename V::Reg x = V::load_part(a.x[token + t] + k, n);
      for (int r = 0; r < R; ++r)
        sum[t][r] = V::fma(load_part<V, W>(at<W>(s.row[row + r], k), n), x, sum[t][r]);
    }
  }

  // Of 64 columns: after a look whether a code is subnormal, which few are.
  void step_line(int64_t k) {
    typename V::CodeMin min;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) min.look_at(at<W>(s.row[row + r], k));
    if (__builtin_expect(min.has_subnormal(), 0)) return step_line_of<W>(k);
    step_line_of<NormalE4M3<V>>(k);
  }
  template <class Codes>
  void step_line_of(int64_t k) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int64_t c = k + i * kLanes;
      typename V::Reg x[T];
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) x[t] = V::load(a.x[token + t] + c);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        if (i == 0) ask<W>(s, row + r, k);
        const typename V::Reg w = Codes::load(at<W>(s.row[row + r], c));
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) sum[t][r] = V::fma(w, x[t], sum[t][r]);
      }
    }
  }

  void run() {
    constexpr int kRun = W::kRun * kLanes;
    constexpr bool kTogether = R * T + W::kRun * R + 2 <= V::kRegs;
    int64_t k = 0;
    for (; k + 64 <= a.columns; k += 64) {
      if constexpr (looks_for_subnormal<V, W>()) {
        step_line(k);
      } else if constexpr (kTogether || W::kRun == 4) {
#pragma GCC unroll 4
        for (int64_t i = 0; i < 64; i += kRun)
          step_run<kTogether ? R : 1>(k + i, begins_line<W>(i));
      } else {
#pragma GCC unroll 4
        for (int64_t i = 0; i < 64; i += kLanes) step(k + i, begins_line<W>(i));
      }
    }
    for (; k + kLanes <= a.columns; k += kLanes) step(k);
    if (k < a.columns) last(k, a.columns - k);
  }

  void store(int64_t step) const {
    for (int t = 0; t < T; ++t) {
      float sums[R];
      V::template sum_rows<R>(sum[t], sums);
      for (int r = 0; r < R; ++r)
        a.out[row + r][step * a.row_stride + (token + t) * a.token_stride] = sums[r];
    }
  }
};

// `tokens` tokens from `token` on, at most T.
template <class V, class W, int T>
void dots_of_step(const DotArgs& a, int64_t step, const DotStep& s, int token, int tokens) {
  if constexpr (T > 1)
    if (tokens < T) return dots_of_step<V, W, T - 1>(a, step, s, token, tokens);
  constexpr int R = V::rows_for(T);
  for (int row = 0; row < kDotRows; row += R) {
    Sums<V, W, R, T> sums(a, s, row, token);
    sums.run();
    sums.store(step);
  }
}

// The rows of a step as float32, some of their columns at a time, and the lanes of their sums so
// far: for more tokens than have their sums in registers at once, which would decode the rows again
// and again.
struct DecodedStep {
  static constexpr int64_t kColumns = 512;  // 8 KB
  alignas(64) float w[kDotRows][kColumns];
  alignas(64) float lanes[kDotTokens][kDotRows][kLanes];
};

// Columns [k, k + n), whole registers of codes.
template <class V, class W>
void decode_columns(const DotStep& s, int64_t k, int64_t n, DecodedStep& d) {
  constexpr int kRun = W::kRun * kLanes;
  for (int64_t c = 0; c < n; c += kRun)
#pragma GCC unroll 4
    for (int r = 0; r < kDotRows; ++r) {
      if (begins_line<W>(c)) ask<W>(s, r, k + c);
      typename V::Reg w[W::kRun];
      W::load_run(at<W>(s.row[r], k + c), w);
#pragma GCC unroll 4
      for (int i = 0; i < W::kRun; ++i) V::store(d.w[r] + c + i * kLanes, w[i]);
    }
}

// Adds the products of columns [k, k + n) and T tokens from `token` on, a part of the lanes at a
// time.
template <class V, int T, int Part>
void add_decoded_part(const DotArgs& a, int64_t k, int64_t n, int token, DecodedStep& d) {
  constexpr int64_t lane = Part * (kLanes / V::kParts);
  typename V::Reg sum[T][kDotRows];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 4
    for (int r = 0; r < kDotRows; ++r)
      sum[t][r] = k == 0 ? V::zero() : V::load(d.lanes[token + t][r] + lane);
  for (int64_t i = lane; i < n; i += kLanes) {
    typename V::Reg w[kDotRows];
#pragma GCC unroll 4
    for (int r = 0; r < kDotRows; ++r) w[r] = V::load(d.w[r] + i);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const typename V::Reg x = V::load(a.x[token + t] + k + i);
#pragma GCC unroll 4
      for (int r = 0; r < kDotRows; ++r) sum[t][r] = V::fma(w[r], x, sum[t][r]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 4
    for (int r = 0; r < kDotRows; ++r) V::store(d.lanes[token + t][r] + lane, sum[t][r]);
}
template <class V, int T>
void add_decoded(const DotArgs& a, int64_t k, int64_t n, int token, DecodedStep& d) {
  add_decoded_part<V, T, 0>(a, k, n, token, d);
  if constexpr (V::kParts == 2) add_decoded_part<V, T, 1>(a, k, n, token, d);
}

// At most T.
template <class V, int T>
void add_decoded_tokens(const DotArgs& a, int64_t k, int64_t n, int token, int tokens,
                        DecodedStep& d) {
  if constexpr (T > 1)
    if (tokens < T) return add_decoded_tokens<V, T - 1>(a, k, n, token, tokens, d);
  add_decoded<V, T>(a, k, n, token, d);
}

// A step with all tokens, in so many parts.
template <class V, class W>
void dots_of_decoded(const DotArgs& a, int64_t step, int parts) {
  const auto tokens = static_cast<int>(a.tokens);
  const DotStep s = dot_step(a, step);
  DecodedStep d;
  for (int64_t k = 0; k < a.columns; k += DecodedStep::kColumns) {
    const int64_t left = a.columns - k, n = left < d.kColumns ? left : d.kColumns;
    decode_columns<V, W>(s, k, n, d);
    for (int i = 0; i < parts; ++i) {
      const int first = tokens * i / parts;
      add_decoded_tokens<typename V::Tile, V::kTokens>(a, k, n, first,
                                                       tokens * (i + 1) / parts - first, d);
    }
  }
  for (int t = 0; t < tokens; ++t) {
    typename V::Reg lanes[kDotRows];
    for (int r = 0; r < kDotRows; ++r) lanes[r] = V::load(d.lanes[t][r]);
    float sums[kDotRows];
    V::template sum_rows<kDotRows>(lanes, sums);
    for (int r = 0; r < kDotRows; ++r) a.out[r][step * a.row_stride + t * a.token_stride] = sums[r];
  }
}

// Adds the products of four rows and T tokens, in a part of the lanes.
template <class V, class W, int T, int Part>
[[gnu::always_inline]] inline void add_part(const DotArgs& a, const DotStep& s, int token,
                                            typename V::Reg (&sum)[T][kDotRows]) {
  constexpr int64_t kColumns = 2 * kLanes;
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 4
    for (int r = 0; r < kDotRows; ++r) sum[t][r] = V::zero();
  for (int64_t k = 0; k < a.columns; k += kColumns)
#pragma GCC unroll 2
    for (int64_t i = k + Part * (kLanes / V::kParts); i < k + kColumns; i += kLanes) {
      typename V::Reg x[T];
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) x[t] = V::load(a.x[token + t] + i);
#pragma GCC unroll 4
      for (int r = 0; r < kDotRows; ++r) {
        if (begins_line<W>(i)) ask<W>(s, r, k);
        typename V::Reg w = W::load(at<W>(s.row[r], i));
        V::hold(w);
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) sum[t][r] = V::fma(w, x[t], sum[t][r]);
      }
    }
}

// `tokens` tokens from `token` on, at most T: the two halves of the lanes one after the other, each
// with twice as many sums at once.
template <class V, class W, int T>
void dots_of_halves(const DotArgs& a, int64_t step, const DotStep& s, int token, int tokens) {
  if constexpr (T > 1)
    if (tokens < T) return dots_of_halves<V, W, T - 1>(a, step, s, token, tokens);
  typename V::Reg low[T][kDotRows], high[T][kDotRows];
  add_part<V, W, T, 0>(a, s, token, low);
  add_part<V, W, T, 1>(a, s, token, high);
  for (int t = 0; t < T; ++t) {
    float sums[kDotRows];
#pragma GCC unroll 4
    for (int r = 0; r < kDotRows; ++r) high[t][r] = V::add(low[t][r], high[t][r]);
    V::template sum_rows<kDotRows>(high[t], sums);
    for (int r = 0; r < kDotRows; ++r)
      a.out[r][step * a.row_stride + (token + t) * a.token_stride] = sums[r];
  }
}

// Whether a step's rows are decoded once for all tokens. With few registers sooner, as they have
// fewer sums at once; what bf16 takes to decode again is less than to keep it, unless it is thrice
// (README.md).
template <class V, class W>
bool is_decoded_once(int tokens, int parts) {
  if (V::kRegs >= 32) return W::kBytes == 1 && parts > 1;
  return W::kBytes == 1 ? tokens >= 3 : parts > 2;
}

template <class V, class W>
void dots(const DotArgs& a) {
  const auto tokens = static_cast<int>(a.tokens);
  const int parts = (tokens + V::kTokens - 1) / V::kTokens;  // of about the same size
  if constexpr (V::kRegs >= 32 ? W::kBytes == 1 : V::kRegs > 1 && W::kBytes < 4)
    if (is_decoded_once<V, W>(tokens, parts) && a.columns % 64 == 0) {
      for (int64_t step = 0; step < a.steps; ++step) dots_of_decoded<V, W>(a, step, parts);
      return;
    }
  if constexpr (V::Tile::kParts == 2 && W::kBytes > 1)
    if (tokens > 1 && a.columns % (2 * kLanes) == 0) {
      using Half = typename V::Tile;
      for (int64_t step = 0; step < a.steps; ++step) {
        const DotStep s = dot_step(a, step);
        for (int i = 0; i < parts; ++i) {
          const int first = tokens * i / parts;
          dots_of_halves<Half, typename W::template With<Half>, V::kTokens>(
              a, step, s, first, tokens * (i + 1) / parts - first);
        }
      }
      return;
    }
  for (int64_t step = 0; step < a.steps; ++step) {
    const DotStep s = dot_step(a, step);
    for (int i = 0; i < parts; ++i) {
      const int first = tokens * i / parts;
      dots_of_step<V, W, V::kTokens>(a, step, s, first, tokens * (i + 1) / parts - first);
    }
  }
}

}  // namespace dsr::cpu::loops
