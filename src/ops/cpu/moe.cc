// Mixture of experts on the cpu: an expert's rows are read once a step, for all tokens that want
// it.
#include "ops/moe.h"

#include <algorithm>

#include "ops/cpu/tiles.h"

namespace dsr::cpu {
namespace {

// The tokens of each expert: those of expert e are [begin[e], begin[e + 1]). Where there are shared
// experts, they are one more, the last, which every token wants with weight 1.
struct Assignment {
  std::vector<int64_t> begin, token;
  std::vector<float> weight;
  std::vector<int64_t> wanted;  // experts with tokens, ascending
};

Assignment assign(const MoeExpertsArgs& a, int64_t E, bool shared) {
  const int64_t T = a.expert_ids.shape[0], K = a.expert_ids.shape[1];
  Assignment out;
  out.begin.assign(static_cast<size_t>(E + 1), 0);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t k = 0; k < K; ++k) {
      const int32_t e = a.expert_ids.ptr<int32_t>(t)[k];
      DSR_CHECK(e >= 0 && e < E, e);
      ++out.begin[static_cast<size_t>(e + 1)];
    }
  for (size_t e = 0; e < static_cast<size_t>(E); ++e) {
    if (out.begin[e + 1] > 0) out.wanted.push_back(static_cast<int64_t>(e));
    out.begin[e + 1] += out.begin[e];
  }
  std::vector<int64_t> next(out.begin.begin(), out.begin.end() - 1);
  out.token.resize(static_cast<size_t>(T * K));
  out.weight.resize(out.token.size());
  for (int64_t t = 0; t < T; ++t)
    for (int64_t k = 0; k < K; ++k) {
      const auto e = static_cast<size_t>(a.expert_ids.ptr<int32_t>(t)[k]);
      const auto at = static_cast<size_t>(next[e]++);
      out.token[at] = t;
      out.weight[at] = a.expert_weights.ptr<float>(t)[k];
    }
  if (!shared) return out;
  out.wanted.push_back(E);
  for (int64_t t = 0; t < T; ++t) out.token.push_back(t);
  out.weight.resize(out.token.size(), 1.0f);
  out.begin.push_back(std::ssize(out.token));
  return out;
}

constexpr int64_t kRead = 8;  // tokens: what it takes to read a row's weights

// The products of one call. Routed experts are [F, D] and [D, F], the shared ones [Fs, D] and
// [D, Fs].
class Experts {
 public:
  struct Buffers {
    Tensor hidden;         // [T * K, F] f32
    Tensor shared_hidden;  // [T, Fs] f32, or empty
  };
  Experts(CpuContext& cpu, const MoeExpertsArgs& a, const MoeWithSharedArgs* shared,
          const Buffers& buffers)
      : cpu_(cpu),
        a_(a),
        shared_(shared),
        E_(std::ssize(a.down.segments)),
        assigned_(assign(a, E_, shared != nullptr)) {
    for (size_t i = 0; i < assigned_.token.size(); ++i) {
      const auto at = static_cast<int64_t>(i), n_routed = buffers.hidden.shape[0];
      x_.push_back(a.x.ptr<float>(assigned_.token[i]));
      h_.push_back(at < n_routed ? buffers.hidden.ptr<float>(at)
                                 : buffers.shared_hidden.ptr<float>(at - n_routed));
    }
    for (const int64_t e : assigned_.wanted) {
      first_unit_.push_back(std::ssize(cost_) - 1);
      const int64_t cost = together(e) * (kRead + tokens(e));
      for (int64_t u = 0; u < units(e); ++u) cost_.push_back(cost_.back() + cost);
    }
    first_unit_.push_back(std::ssize(cost_) - 1);
  }

  // hidden = silu(gate x) * (up x), through the wanted experts
  void gate_up() {
    const int64_t piece = kRead + ceil_div(std::ssize(x_), std::ssize(assigned_.wanted));
    cpu_.parallel(
        cost_.back(), grain(kUnitRows * 2 * a_.x.shape[1]),
        [&](int64_t from, int64_t to) { gate_up_of(first_from(from), first_from(to)); }, piece);
  }

  // out = sum of weight * down hidden: some columns of `out` at a time, through the experts in
  // ascending order.
  void down() {
    int64_t products = 0;
    for (const int64_t e : assigned_.wanted) products += tokens(e) * down_of(e).data.shape[1];
    const int64_t n = std::ssize(assigned_.wanted);
    cpu_.parallel(
        units_of(a_.out.shape[1]), grain(kUnitRows * products),
        [&](int64_t begin, int64_t end) { down_of_columns(begin, end); },
        units_to_take(ceil_div(std::ssize(x_), n)));
  }

 private:
  bool is_shared(int64_t e) const { return e == E_; }
  const WeightSegment& gate_of(int64_t e) const {
    return is_shared(e) ? shared_->shared_gate_up.segments[0]
                        : a_.gate_up.segments[static_cast<size_t>(2 * e)];
  }
  const WeightSegment& up_of(int64_t e) const {
    return is_shared(e) ? shared_->shared_gate_up.segments[1]
                        : a_.gate_up.segments[static_cast<size_t>(2 * e + 1)];
  }
  const WeightSegment& down_of(int64_t e) const {
    return is_shared(e) ? shared_->shared_down.segments[0]
                        : a_.down.segments[static_cast<size_t>(e)];
  }
  int64_t F(int64_t e) const { return down_of(e).data.shape[1]; }
  int64_t first_of(int64_t e) const { return assigned_.begin[static_cast<size_t>(e)]; }
  int64_t tokens(int64_t e) const { return first_of(e + 1) - first_of(e); }
  // Rows of gate and up are shared out in units of so many of kUnitRows.
  int64_t together(int64_t e) const { return units_to_take(tokens(e)); }
  int64_t units(int64_t e) const { return ceil_div(units_of(F(e)), together(e)); }
  // The i-th of those that are wanted; behind the last one the first.
  int64_t wanted(size_t i) const { return assigned_.wanted[i < assigned_.wanted.size() ? i : 0]; }
  // The first unit that begins at `cost` or behind it.
  int64_t first_from(int64_t cost) const {
    return std::lower_bound(cost_.begin(), cost_.end(), cost) - cost_.begin();
  }

  void gate_up_of(int64_t begin, int64_t end) {
    for (size_t i = 0; i < assigned_.wanted.size(); ++i) {
      const int64_t e = wanted(i), first = first_unit_[i];
      const int64_t from = std::max(begin, first), to = std::min(end, first_unit_[i + 1]);
      if (from >= to) continue;
      for_each_run((from - first) * together(e), (to - first) * together(e), F(e),
                   [&](int64_t row, int64_t n) { gate_up_rows(i, row, n); });
    }
  }

  void gate_up_rows(size_t i, int64_t row, int64_t n) {
    const int64_t e = wanted(i);
    const bool goes_on = row + n < F(e);
    gated_tile(cpu_, {.gate = gate_of(e),
                      .up = up_of(e),
                      .quant = is_shared(e) ? shared_->shared_gate_up.quant : a_.gate_up.quant,
                      .first_row = row,
                      .rows = n,
                      .x = x_.data() + first_of(e),
                      .tokens = tokens(e),
                      .out = h_[static_cast<size_t>(first_of(e))] + row,
                      .token_stride = F(e),
                      .next = gate_of(goes_on ? e : wanted(i + 1)).data.at(goes_on ? row + n : 0)});
  }

  void down_of_columns(int64_t begin, int64_t end) {
    const int64_t D = a_.out.shape[1], T = a_.out.shape[0];
    const int64_t first_column = begin * kUnitRows, last_column = std::min(D, end * kUnitRows);
    for (int64_t t = 0; t < T; ++t)
      std::fill(a_.out.ptr<float>(t) + first_column, a_.out.ptr<float>(t) + last_column, 0.0f);
    for (size_t i = 0; i < assigned_.wanted.size(); ++i) {
      const int64_t e = wanted(i);
      for_each_run(begin, end, D, [&](int64_t row, int64_t rows) {
        const bool goes_on = row + rows < last_column;
        const void* next =
            down_of(goes_on ? e : wanted(i + 1)).data.at(goes_on ? row + rows : first_column);
        for_each_token_part(cpu_, tokens(e), [&](int64_t first, int64_t n) {
          add_down({.e = e, .row = row, .rows = rows, .first = first_of(e) + first, .n = n}, next);
        });
      });
    }
    if (a_.addend.rank() == 0) return;
    for (int64_t t = 0; t < T; ++t)
      for (int64_t d = first_column; d < last_column; ++d)
        a_.out.ptr<float>(t)[d] += a_.addend.ptr<float>(t)[d];
  }

  // Rows of an expert's `down` for the assigned tokens [first, first + n).
  struct DownPart {
    int64_t e, row, rows, first, n;
  };
  void add_down(const DownPart& p, const void* next) {
    float product[kTileRows * kTileTokens];
    dots(cpu_, {.segment = down_of(p.e),
                .quant = is_shared(p.e) ? shared_->shared_down.quant : a_.down.quant,
                .first_row = p.row,
                .rows = p.rows,
                .x = h_.data() + p.first,
                .tokens = p.n,
                .out = product,
                .token_stride = kTileRows,
                .next = next});
    for (int64_t i = 0; i < p.n; ++i) {
      const auto at = static_cast<size_t>(p.first + i);
      float* out = a_.out.ptr<float>(assigned_.token[at]) + p.row;
      for (int64_t r = 0; r < p.rows; ++r)
        out[r] += assigned_.weight[at] * product[i * kTileRows + r];
    }
  }

  CpuContext& cpu_;
  const MoeExpertsArgs& a_;
  const MoeWithSharedArgs* shared_;  // or null
  int64_t E_;
  Assignment assigned_;
  std::vector<const float*> x_;
  std::vector<float*> h_;
  // Of the units of all wanted experts: what they cost up to each, counted in rows of a unit and
  // tokens; and where those of each expert begin.
  std::vector<int64_t> cost_ = {0}, first_unit_;
};

}  // namespace

void moe_route(Exec& exec, const MoeRouteArgs& a) {
  const int64_t T = a.logits.shape[0];
  exec.cpu().parallel(T, 8, [&](int64_t begin, int64_t end) {
    if (begin == end) return;
    MoeRouteArgs part = a;
    part.logits = rows(a.logits, begin, end - begin);
    part.expert_ids = rows(a.expert_ids, begin, end - begin);
    part.expert_weights = rows(a.expert_weights, begin, end - begin);
    ref::moe_route(exec, part);
  });
}

void moe_gate(Exec& exec, const MoeGateArgs& a) {
  compose_moe_gate(exec, a, {.add_rms_norm = add_rms_norm, .linear = linear, .route = moe_route});
}

void moe_experts(Exec& exec, const MoeExpertsArgs& a) {
  const int64_t n = a.expert_ids.shape[0] * a.expert_ids.shape[1];
  const Arena::Scope scope(exec.scratch());
  const Tensor hidden = exec.scratch().tensor(DType::kF32, {n, a.down.columns()});
  if (exec.dry_run()) return;
  Experts experts(exec.cpu(), a, nullptr, {.hidden = hidden, .shared_hidden = {}});
  experts.gate_up();
  experts.down();
}

void moe_with_shared(Exec& exec, const MoeWithSharedArgs& a) {
  // gate and up are one segment each, unless a test cuts them otherwise.
  const std::vector<WeightSegment>& s = a.shared_gate_up.segments;
  if (s.size() != 2 || s[0].data.shape[0] != s[1].data.shape[0] ||
      a.shared_down.segments.size() != 1)
    return compose_moe_with_shared(exec, a,
                                   {.swiglu = swiglu, .linear = linear, .experts = moe_experts});
  const int64_t T = a.routed.x.shape[0], n = T * a.routed.expert_ids.shape[1];
  const Arena::Scope scope(exec.scratch());
  const Tensor hidden = exec.scratch().tensor(DType::kF32, {n, a.routed.down.columns()});
  const Tensor shared_hidden = exec.scratch().tensor(DType::kF32, {T, a.shared_down.columns()});
  if (exec.dry_run()) return;
  // Together with the others: two waits of all threads for the slowest less.
  Experts experts(exec.cpu(), a.routed, &a, {.hidden = hidden, .shared_hidden = shared_hidden});
  experts.gate_up();
  experts.down();
}

}  // namespace dsr::cpu
