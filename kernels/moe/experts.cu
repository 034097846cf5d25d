// moe_experts and moe_with_shared on CUDA: which kernels take a call. Definitions and shapes:
// ops/moe.h.
//
//   weights and x readable in 16-byte chunks   T = 1     stream_gate_up, stream_down on sm_90
//                                              T <= 64   stream_many on sm_90; where memory is too
//                                                        small for these, and on sm_80, also of one
//                                                        token: skinny_gate_up, skinny_down
//                                              T > 64    tiled_experts, some thousand tokens a time
//   anything else                              plain_experts
//
// The stream kernels for one token take the shared experts with the routed ones, and where they fit
// those for up to 8 (stream_few); elsewhere moe_with_shared is composed.
// So the bits of a decode row do not depend on T while T <= 64.
#include <algorithm>
#include <optional>

#include "gemm/linear_kernels.h"
#include "moe/expert_kernels.h"

namespace dsr::cuda {
namespace {

// Of float32 products of pairs, at a time: a prompt of a large model goes through in parts.
constexpr int64_t kProductBytes = int64_t{256} << 20;
constexpr int64_t kMaxPlainTokens = 65535;  // a grid's second dimension

// The tokens of a call that go through at a time. A function of shapes.
int64_t tokens_at_once(int64_t T, int64_t K, int64_t D) {
  const int64_t fit = kProductBytes / (K * D * 4) / 64 * 64;
  return std::clamp<int64_t>(T, 1, std::max<int64_t>(fit, kMaxDecodeTokens));
}

// Which kernels take the tokens.
enum class Way { kPlain, kSkinny, kStream, kTiled };

struct Scratch {
  Tensor table, hidden;
  Tensor products;       // of stream_many and tiled_experts
  Tensor sorted, tiles;  // of tiled_experts
};

Scratch take_scratch(Arena& arena, const MoeExpertsArgs& a, int64_t n_tokens, Way way) {
  const int64_t pairs = n_tokens * a.expert_ids.shape[1], D = a.x.shape[1], F = a.down.columns();
  const auto E = static_cast<int64_t>(a.down.segments.size());
  Scratch s;
  s.table = arena.tensor(DType::kU8, {expert_table_bytes(a)});
  s.hidden = arena.activation({pairs, F});
  if (way == Way::kTiled || (way == Way::kStream && n_tokens > 1))
    s.products = arena.tensor(DType::kF32, {pairs, D});
  if (way != Way::kTiled) return s;
  s.sorted = arena.tensor(DType::kI32, {pairs});
  s.tiles =
      arena.tensor(DType::kI32, {3 * max_expert_tiles(n_tokens, a.expert_ids.shape[1], E) + 1});
  return s;
}

ExpertPlan plan_in(const Scratch& s) {
  const int64_t n = s.tiles.shape[0] / 3;
  int* tiles = s.tiles.ptr<int>();
  return {.sorted = s.sorted.ptr<int>(),
          .tile_expert = tiles + 1,
          .tile_first = tiles + 1 + n,
          .tile_pairs = tiles + 1 + 2 * n,
          .n_tiles = tiles,
          .products = s.products.ptr<float>()};
}

// Tokens [first, first + n) of the call.
ExpertsCall part(const MoeExpertsArgs& a, int64_t first, int64_t n, const Scratch& s) {
  const bool has_addend = a.addend.rank() > 0;
  return {.gate_up = {},
          .down = {},
          .weights = {},
          .x = a.x.ptr<std::byte>(first),
          .x_stride_bytes = a.x.strides[0] * 2,
          .ids = a.expert_ids.ptr<int>(first),
          .chosen = a.expert_weights.ptr<float>(first),
          .ids_stride = a.expert_ids.strides[0],
          .chosen_stride = a.expert_weights.strides[0],
          .hidden = s.hidden.ptr<bf16>(),
          .products = s.products.rank() > 0 ? s.products.ptr<float>() : nullptr,
          .shared = {},
          .addend = has_addend ? a.addend.ptr<bf16>(first) : nullptr,
          .addend_stride = has_addend ? a.addend.strides[0] : 0,
          .out = a.out.at(first),
          .out_stride = a.out.strides[0],
          .T = narrow(n),
          .D = narrow(a.x.shape[1]),
          .F = narrow(a.down.columns()),
          .E = narrow(static_cast<int64_t>(a.down.segments.size())),
          .K = narrow(a.expert_ids.shape[1]),
          .out_f32 = a.out.dtype == DType::kF32,
          .touch_x = n * a.x.shape[1] * 2 <= kTouchBytes};
}

// What the fast kernels go by: layouts and sizes of a call; nothing where only the plain ones can
// take it.
std::optional<ExpertsCall> fast_shape(const MoeExpertsArgs& a) {
  if (!x_allows_16(a.x) || static_cast<int64_t>(a.down.segments.size()) > kMaxExperts)
    return std::nullopt;
  const auto gate_up = dense_layout(a.gate_up.segments, a.gate_up.quant, a.x.shape[1]);
  const auto down = dense_layout(a.down.segments, a.down.quant, a.down.columns());
  if (!gate_up || !down) return std::nullopt;
  ExpertsCall c = {};
  c.gate_up = *gate_up;
  c.down = *down;
  c.D = narrow(a.x.shape[1]);
  c.F = narrow(a.down.columns());
  c.E = narrow(static_cast<int64_t>(a.down.segments.size()));
  c.K = narrow(a.expert_ids.shape[1]);
  return c;
}
Way way_of(Exec& exec, const std::optional<ExpertsCall>& fast, int64_t T) {
  if (!fast) return Way::kPlain;
  if (T > kMaxDecodeTokens) return Way::kTiled;
  const bool stream = exec.cuda().arch() >= 90 && stream_takes(*fast, exec.cuda().n_sms());
  return stream ? Way::kStream : Way::kSkinny;
}

}  // namespace

void moe_experts(Exec& exec, const MoeExpertsArgs& a) {
  const int64_t T = a.x.shape[0], D = a.x.shape[1], K = a.expert_ids.shape[1];
  const auto fast = fast_shape(a);
  const Way way = way_of(exec, fast, T);
  const int64_t at_once = way == Way::kTiled   ? tokens_at_once(T, K, D)
                          : way == Way::kPlain ? std::min(T, kMaxPlainTokens)
                                               : T;

  const Arena::Scope scope(exec.scratch());
  const Scratch s = take_scratch(exec.scratch(), a, at_once, way);
  if (exec.dry_run()) return;
  const ExpertWeights weights = expert_weights(exec, a, s.table, way == Way::kPlain);
  for (int64_t first = 0; first < T; first += at_once) {
    ExpertsCall c = part(a, first, std::min(at_once, T - first), s);
    c.weights = weights;
    if (fast) {
      c.gate_up = fast->gate_up;
      c.down = fast->down;
    }
    switch (way) {
      case Way::kPlain:
        plain_experts(exec, c, a.gate_up.quant, a.down.quant);
        break;
      case Way::kTiled:
        tiled_experts(exec, c, plan_in(s));
        break;
      case Way::kSkinny:
        skinny_gate_up(exec, c);
        skinny_down(exec, c);
        break;
      case Way::kStream:
        if (T > 1) {
          stream_many(exec, c);
        } else {
          stream_gate_up(exec, c);
          stream_down(exec, c);
        }
        break;
    }
  }
}

namespace {

bool same_layout(const DenseLayout& a, const DenseLayout& b) {
  return a.fp8 == b.fp8 && a.ue8m0 == b.ue8m0 && a.n_steps == b.n_steps &&
         a.scale_step_shift == b.scale_step_shift && a.block_rows_shift == b.block_rows_shift;
}

// How the stream kernels see the shared experts, without their scratch; nothing where they cannot
// read them together with the routed ones.
std::optional<SharedExperts> shared_experts(const MoeWithSharedArgs& a, const ExpertsCall& routed) {
  const int64_t F = a.shared_down.columns();
  const auto gate_up = paired_weight(a.shared_gate_up, a.routed.x.shape[1]);
  int n_taken = 0;
  const auto down = dense_weight(a.shared_down.segments, a.shared_down.quant, F, n_taken);
  if (!gate_up || !down || down->n_segments != 1 || !same_layout(gate_up->layout, routed.gate_up) ||
      down->layout.fp8 != routed.down.fp8 || down->layout.ue8m0 != routed.down.ue8m0)
    return std::nullopt;
  return SharedExperts{.down = down->layout,
                       .gate = gate_up->segments[0],
                       .up = gate_up->segments[1],
                       .down_rows = down->segments[0],
                       .hidden = nullptr,
                       .F = narrow(F)};
}

// 2..8 tokens on sm_90, where stream_few takes them. Whether it does.
bool with_shared_by_few(Exec& exec, const MoeWithSharedArgs& a) {
  const MoeExpertsArgs& r = a.routed;
  const int64_t T = r.x.shape[0], F = a.shared_down.columns();
  if (T < 2 || T > 8 || exec.cuda().arch() < 90) return false;
  const auto fast = fast_shape(r);
  const auto gate_up = paired_weight(a.shared_gate_up, r.x.shape[1]);
  int n_taken = 0;
  const auto down = dense_weight(a.shared_down.segments, a.shared_down.quant, F, n_taken);
  if (!fast || !gate_up || !down || n_taken != static_cast<int>(a.shared_down.segments.size()))
    return false;
  const Arena::Scope scope(exec.scratch());
  const Tensor addend = exec.scratch().activation(r.x.shape);
  const Tensor hidden = exec.scratch().activation({T, F});
  const SharedProducts shared = {.gate_up = dense_product(hidden, r.x, *gate_up),
                                 .down = dense_product(addend, hidden, *down)};
  ExpertsCall shape = *fast;
  shape.T = narrow(T);
  if (!stream_few_takes(shape, shared, exec.cuda().n_sms())) return false;
  MoeExpertsArgs experts = r;
  experts.addend = addend;
  const Scratch s = take_scratch(exec.scratch(), r, T, Way::kStream);
  if (exec.dry_run()) return true;
  ExpertsCall c = part(experts, 0, T, s);
  c.weights = expert_weights(exec, r, s.table, /*always=*/false);
  c.gate_up = fast->gate_up;
  c.down = fast->down;
  stream_few(exec, c, shared);
  return true;
}

}  // namespace

void moe_with_shared(Exec& exec, const MoeWithSharedArgs& a) {
  if (with_shared_by_few(exec, a)) return;
  const MoeExpertsArgs& r = a.routed;
  auto fast = r.x.shape[0] == 1 && exec.cuda().arch() >= 90 ? fast_shape(r) : std::nullopt;
  const auto shared = fast ? shared_experts(a, *fast) : std::nullopt;
  if (shared) fast->shared = *shared;
  if (!shared || !stream_takes(*fast, exec.cuda().n_sms()))
    return compose_moe_with_shared(exec, a,
                                   {.swiglu = swiglu, .linear = linear, .experts = moe_experts});
  const Arena::Scope scope(exec.scratch());
  const Tensor hidden = exec.scratch().activation({1, shared->F});
  const Scratch s = take_scratch(exec.scratch(), r, 1, Way::kStream);
  if (exec.dry_run()) return;
  ExpertsCall c = part(r, 0, 1, s);
  c.weights = expert_weights(exec, r, s.table, /*always=*/false);
  c.gate_up = fast->gate_up;
  c.down = fast->down;
  c.shared = *shared;
  c.shared.hidden = hidden.ptr<bf16>();
  stream_gate_up(exec, c);
  stream_down(exec, c);
}

}  // namespace dsr::cuda
