// moe_experts and moe_with_shared on CUDA: which kernels take a call. Definitions and shapes:
// ops/moe.h.
//
//   weights and x readable in 16-byte chunks   T <= 64   stream_* on sm_90, else skinny_gate_up,
//                                                        skinny_down
//                                              T > 64    tiled_experts, some thousand tokens a time
//   anything else                              plain_experts
//
// The stream kernels take the shared experts with the routed ones while all tokens fit in one tile;
// elsewhere moe_with_shared is composed.
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

struct Scratch {
  Tensor table, hidden;
  Tensor sorted, tiles, products;  // of tiled_experts
};

Scratch take_scratch(Arena& arena, const MoeExpertsArgs& a, int64_t n_tokens, bool tiled) {
  const int64_t pairs = n_tokens * a.expert_ids.shape[1], D = a.x.shape[1], F = a.down.columns();
  const auto E = static_cast<int64_t>(a.down.segments.size());
  Scratch s;
  s.table = arena.tensor(DType::kU8, {expert_table_bytes(a)});
  s.hidden = arena.activation({pairs, F});
  if (!tiled) return s;
  s.sorted = arena.tensor(DType::kI32, {pairs});
  s.tiles =
      arena.tensor(DType::kI32, {3 * max_expert_tiles(n_tokens, a.expert_ids.shape[1], E) + 1});
  s.products = arena.tensor(DType::kF32, {pairs, D});
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

// How the weights of all experts lie.
struct ExpertLayouts {
  DenseLayout gate_up, down;
};
// Nothing where only the plain kernels can take the call.
std::optional<ExpertLayouts> fast_layouts(const MoeExpertsArgs& a) {
  if (!x_allows_16(a.x) || static_cast<int64_t>(a.down.segments.size()) > kMaxExperts)
    return std::nullopt;
  const auto gate_up = dense_layout(a.gate_up.segments, a.gate_up.quant, a.x.shape[1]);
  const auto down = dense_layout(a.down.segments, a.down.quant, a.down.columns());
  if (!gate_up || !down) return std::nullopt;
  return ExpertLayouts{*gate_up, *down};
}

}  // namespace

void moe_experts(Exec& exec, const MoeExpertsArgs& a) {
  const int64_t T = a.x.shape[0], D = a.x.shape[1], K = a.expert_ids.shape[1];
  const auto layouts = fast_layouts(a);
  const bool fast = layouts.has_value();
  const bool tiled = fast && T > kMaxDecodeTokens;
  const int64_t at_once =
      tiled ? tokens_at_once(T, K, D) : std::min(T, fast ? kMaxDecodeTokens : kMaxPlainTokens);

  const Arena::Scope scope(exec.scratch());
  const Scratch s = take_scratch(exec.scratch(), a, at_once, tiled);
  if (exec.dry_run()) return;
  const ExpertWeights weights = expert_weights(exec, a, s.table, !fast);
  for (int64_t first = 0; first < T; first += at_once) {
    ExpertsCall c = part(a, first, std::min(at_once, T - first), s);
    c.weights = weights;
    if (!fast) {
      plain_experts(exec, c, a.gate_up.quant, a.down.quant);
      continue;
    }
    c.gate_up = layouts->gate_up;
    c.down = layouts->down;
    if (tiled) {
      tiled_experts(exec, c, plan_in(s));
    } else if (exec.cuda().arch() >= 90) {
      stream_gate_up(exec, c);
      stream_down(exec, c);
    } else {
      skinny_gate_up(exec, c);
      skinny_down(exec, c);
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
std::optional<SharedExperts> shared_experts(const MoeWithSharedArgs& a,
                                            const ExpertLayouts& routed) {
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

}  // namespace

void moe_with_shared(Exec& exec, const MoeWithSharedArgs& a) {
  const MoeExpertsArgs& r = a.routed;
  const int64_t T = r.x.shape[0];
  const bool few = exec.cuda().arch() >= 90 && T <= kExpertTokens;
  const auto layouts = few ? fast_layouts(r) : std::nullopt;
  auto shared = layouts ? shared_experts(a, *layouts) : std::nullopt;
  if (!shared)
    return compose_moe_with_shared(exec, a,
                                   {.swiglu = swiglu, .linear = linear, .experts = moe_experts});
  const Arena::Scope scope(exec.scratch());
  const Tensor hidden = exec.scratch().activation({T, shared->F});
  const Scratch s = take_scratch(exec.scratch(), r, T, /*tiled=*/false);
  if (exec.dry_run()) return;
  ExpertsCall c = part(r, 0, T, s);
  c.weights = expert_weights(exec, r, s.table, /*always=*/false);
  c.gate_up = layouts->gate_up;
  c.down = layouts->down;
  shared->hidden = hidden.ptr<bf16>();
  c.shared = *shared;
  stream_gate_up(exec, c);
  stream_down(exec, c);
}

}  // namespace dsr::cuda
