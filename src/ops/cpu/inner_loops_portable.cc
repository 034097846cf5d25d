// The inner loops without vector instructions. std::fma is the C library's: exact, and slow on a
// machine that has no such instruction.
#include <bit>
#include <cmath>

#include "ops/cpu/loops.h"
#include "tensor/dtype.h"

namespace dsr::cpu {
namespace {

struct Portable {
  using Tile = Portable;
  using Rows = loops::Floats<Portable>;
  static constexpr int kRegs = 1, kParts = 1, kTileR = 1, kTileT = 1, kTokens = 1;
  static constexpr TileSize kSize = {.tokens = kTileTokens, .columns = 704, .panels = 3};
  static constexpr int rows_for(int) { return 1; }
  struct Reg {
    float lane[kLanes];
  };

  template <typename F>
  static Reg each(const F& f) {
    Reg out;
    for (int64_t i = 0; i < kLanes; ++i) out.lane[i] = f(i);
    return out;
  }
  static Reg zero() { return broadcast(0); }
  static Reg broadcast(float v) {
    return each([&](int64_t) { return v; });
  }
  static Reg load(const float* p) {
    return each([&](int64_t i) { return p[i]; });
  }
  static Reg load_part(const float* p, int64_t n) {
    return each([&](int64_t i) { return i < n ? p[i] : 0.0f; });
  }
  static void store(float* p, const Reg& v) {
    for (int64_t i = 0; i < kLanes; ++i) p[i] = v.lane[i];
  }
  static Reg fma(const Reg& a, const Reg& b, const Reg& c) {
    return each([&](int64_t i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
  }
  static Reg mul(const Reg& a, const Reg& b) {
    return each([&](int64_t i) { return a.lane[i] * b.lane[i]; });
  }
  static Reg add(const Reg& a, const Reg& b) {
    return each([&](int64_t i) { return a.lane[i] + b.lane[i]; });
  }
  static Reg div(const Reg& a, const Reg& b) {
    return each([&](int64_t i) { return a.lane[i] / b.lane[i]; });
  }
  static Reg min(const Reg& a, const Reg& b) {
    return each([&](int64_t i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static Reg max(const Reg& a, const Reg& b) {
    return each([&](int64_t i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static Reg power_of_two(const Reg& v) {
    return each([&](int64_t i) {
      return std::bit_cast<float>((std::bit_cast<uint32_t>(v.lane[i]) + 127) << 23);
    });
  }
  static float sum(const Reg& v) {
    float l[kLanes];
    store(l, v);
    for (int64_t n = kLanes / 2; n > 0; n /= 2)
      for (int64_t i = 0; i < n; ++i) l[i] += l[i + n];
    return l[0];
  }
  template <class Values>
  static void hold(Values&) {}
  template <int R>
  static void sum_rows(const Reg (&v)[R], float* out) {
    for (int r = 0; r < R; ++r) out[r] = sum(v[r]);
  }
  static Reg bf16(const uint16_t* p) {
    return each([&](int64_t i) { return bf16_to_f32(p[i]); });
  }
  static Reg e4m3(const uint8_t* p) {
    return each([&](int64_t i) { return e4m3_to_f32(p[i]) * 0x1p-8f; });
  }
  static constexpr int kE4M3Run = 2;
  static void e4m3_run(const uint8_t* p, Reg (&out)[kE4M3Run]) {
    out[0] = e4m3(p);
    out[1] = e4m3(p + kLanes);
  }
  struct Pairs {
    const uint16_t* p;
  };
  static Pairs load_pairs(const uint16_t* p) { return {p}; }
  static Reg dot_pairs(const Reg& sum, const Pairs& w, const Pairs& x) {
    const auto part = [](const Pairs& v, int64_t odd) {
      return each([&](int64_t i) { return bf16_to_f32(v.p[2 * i + odd]); });
    };
    return fma(part(w, 0), part(x, 0), fma(part(w, 1), part(x, 1), sum));
  }
  struct CodeMax {
    static constexpr int64_t kCodes = 1;
    bool nan = false;
    void look_at(const uint8_t* p) { nan |= (*p & 0x7f) == 0x7f; }
    bool has_nan() const { return nan; }
  };
};

}  // namespace

const InnerLoops& inner_loops_portable() {
  static constexpr InnerLoops kTable = loops::table<Portable>();
  return kTable;
}

}  // namespace dsr::cpu
