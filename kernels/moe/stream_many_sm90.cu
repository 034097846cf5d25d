// moe_experts for 2 to 64 tokens on sm_90, in three kernels:
//   hidden[p] = silu(gate_e x[t]) * (up_e x[t])   for every pair p = (t, k), e = ids[t, k]
//   products[p] = down_e hidden[p]
//   out[t] = sum_k w[t, k] products[t, k] (+ addend[t])
//
// For 2 to 8 tokens the first two take the shared experts as well (stream_few):
//   hidden_s[t] = silu(gate_s x[t]) * (up_s x[t]), addend[t] = down_s hidden_s[t]
//
// Mapping   the first two are the loop of stream_units.cuh: one block per SM has its part of the
//           units of all wanted experts, expert after expert: 8 rows of gate with the same 8 of up,
//           or 16 of down. An expert with more tokens than fit into one tile or two is there
//           several times. The third has a thread per element. Shared experts come first, by the
//           loop of stream.cuh through the same slots: their weights are on their way before it is
//           known what the router chose, and they are multiplied while the lists are made. All
//           tokens' activations of gate and up are staged for them, so the routed ones find theirs.
// Traffic   the weights of every wanted expert, once per 8 tokens, in calls of 9 and more once per
//           16 where these fit beside all slots (V2-Lite; V3's gate and up do not); an expert's
//           activations once per block that has units of it; products twice.
#include <algorithm>

#include "moe/stream_many.cuh"

namespace dsr::cuda {
namespace {

template <typename W, int kTiles, bool kDown>
__global__ __launch_bounds__(kStreamThreads,
                             1) void units_kernel(const __grid_constant__ ExpertsCall c,
                                                  const __grid_constant__ ManyMemory m) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  using Job = std::conditional_t<kDown, DownMany, GateUpMany>;
  ManyBlock<W, kTiles, Job, false> block(c, m, reinterpret_cast<std::byte*>(shared));
  block.init(kDown ? c.down : c.gate_up);
  // What the router chose is older than the first kernel, which starts the second one.
  if constexpr (!kDown) wait_then_start_next_kernel();
  if (threadIdx.x < kConsumers)
    block.multiply(0);
  else
    block.fetch(
        0, [] {},
        [] {
          if constexpr (kDown) wait_for_previous_kernel();
        });
#endif
}

// The same with the shared experts, whose product is p.
template <typename W, bool kDown>
__global__ __launch_bounds__(kStreamThreads, 1) void units_with_shared_kernel(
    const __grid_constant__ ExpertsCall c, const __grid_constant__ ManyMemory m,
    const __grid_constant__ DenseProduct p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  auto* const memory = reinterpret_cast<std::byte*>(shared);
  ManyBlock<W, 1, std::conditional_t<kDown, DownMany, GateUpMany>, true> block(c, m, memory);
  block.init(kDown ? c.down : c.gate_up);
  using Shared = DenseStream<1, !kDown>;
  Shared job(p, reinterpret_cast<float*>(memory + m.sums_at()));
  const UnitRange mine = part_of_block(p.w.n_units);
  const int n_stages = mine.n * stages_per_unit(p.w.layout);
  if (threadIdx.x >= kConsumers) {
    StreamProducer<W, Shared> producer(job, block.slots());
    producer.go_to(mine.first);
    producer.run(mine.n, m.n_slots);
    if constexpr (!kDown) wait_then_start_next_kernel();
    block.fetch(
        n_stages, [&] { producer.run(mine.n, 1 << 30); },
        [] {
          if constexpr (kDown) wait_for_previous_kernel();
        });
    return;
  }
  if constexpr (kDown)
    wait_for_previous_kernel();
  else
    wait_then_start_next_kernel();
  RingPlace place;
  if constexpr (W::kScaled) {
    const SharedStagedX x = {block.stage_tokens(p)};
    consume<W, 1>(job, block.slots(), place, mine.first, mine.n, x);
  } else {
    if constexpr (!kDown) block.stage_tokens(p);
    consume<W, 1>(job, block.slots(), place, mine.first, mine.n,
                  XAhead<W, Shared>(job, mine.first, mine.n));
  }
  block.leave_shared();
  block.multiply(n_stages);
#endif
}

// A thread per element of out.
__global__ __launch_bounds__(256) void combine_kernel(const __grid_constant__ ExpertsCall c) {
  const int column = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const auto token = static_cast<int64_t>(blockIdx.y);
  wait_for_previous_kernel();
  if (column >= c.D) return;
  const float* products = c.products + token * c.K * c.D + column;
  const float* weights = c.chosen + token * c.chosen_stride;
  float sum = 0;
  for (int first = 0; first < c.K; first += 8) {  // eight under way together
    float product[8], weight[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int k = min(first + i, c.K - 1);
      product[i] = products[int64_t{k} * c.D];
      weight[i] = weights[k];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (first + i < c.K) sum = fmaf(weight[i], product[i], sum);
  }
  store_result(c, token, column, sum);
}

template <bool kDown>
LaunchShape units_shape(Exec& exec, const ExpertsCall& c, const ManyMemory& m) {
  const int64_t per_expert = kDown ? (c.D + 15) / 16 : (c.F + 7) / 8;
  const int64_t most = std::min<int64_t>(c.E, int64_t{c.T} * c.K) * per_expert;
  return {.grid = dim3(static_cast<unsigned>(std::min<int64_t>(most, exec.cuda().n_sms()))),
          .threads = kStreamThreads,
          .shared_bytes = m.bytes()};
}
template <typename W, int kTiles, bool kDown>
void run_units(Exec& exec, const ExpertsCall& c) {
  const ManyMemory m = memory_of<W, kTiles>(c, kDown ? c.down : c.gate_up);
  launch(exec, "moe_experts", units_shape<kDown>(exec, c, m), units_kernel<W, kTiles, kDown>, c, m);
}
template <typename W, bool kDown>
void run_with_shared(Exec& exec, const ExpertsCall& c, const DenseProduct& p) {
  const ManyMemory m = memory_with_shared<W, kDown>(c, p.w.layout.n_steps);
  launch(exec, "moe_with_shared", units_shape<kDown>(exec, c, m),
         units_with_shared_kernel<W, kDown>, c, m, p);
}
void combine(Exec& exec, const ExpertsCall& c) {
  const dim3 grid(static_cast<unsigned>((c.D + 255) / 256), static_cast<unsigned>(c.T));
  launch(exec, "moe_experts", {.grid = grid, .threads = 256}, combine_kernel, c);
}

template <typename W, bool kDown>
void run_for_tokens(Exec& exec, const ExpertsCall& c) {
  const ManyMemory two = memory_of<W, 2>(c, kDown ? c.down : c.gate_up);
  if (c.T > 8 && two.n_slots >= kMostSlots)
    run_units<W, 2, kDown>(exec, c);
  else
    run_units<W, 1, kDown>(exec, c);
}
template <bool kDown>
void run_for_type(Exec& exec, const ExpertsCall& c) {
  if ((kDown ? c.down : c.gate_up).fp8)
    run_for_tokens<Fp8Weight, kDown>(exec, c);
  else
    run_for_tokens<Bf16Weight, kDown>(exec, c);
}

// Whether the kernels for many tokens have the memory.
template <typename W>
bool many_fit(const ExpertsCall& c, const DenseLayout& l) {
  return memory_of<W, 1>(c, l).n_slots >= kLeastSlots;
}
bool many_fit(const ExpertsCall& c, const DenseLayout& l) {
  return l.fp8 ? many_fit<Fp8Weight>(c, l) : many_fit<Bf16Weight>(c, l);
}

}  // namespace

bool stream_takes(ExpertsCall c, int n_sms) {
  c.T = kMaxDecodeTokens;  // the answer is the same for any number of tokens
  return many_fit(c, c.gate_up) && many_fit(c, c.down) && stream_gate_up_fits(c) &&
         stream_down_fits(c, n_sms);
}

void stream_many(Exec& exec, const ExpertsCall& c) {
  run_for_type<false>(exec, c);
  run_for_type<true>(exec, c);
  combine(exec, c);
}

bool stream_few_takes(const ExpertsCall& c, const SharedProducts& s, int n_sms) {
  const auto alike = [](const DenseLayout& a, const DenseLayout& b) {
    return a.fp8 == b.fp8 && a.ue8m0 == b.ue8m0;
  };
  const int up = s.gate_up.w.layout.n_steps, down = s.down.w.layout.n_steps;
  const auto fits = [&](auto weight) {
    using W = decltype(weight);
    return memory_with_shared<W, false>(c, up).n_slots >= kLeastFewSlots &&
           memory_with_shared<W, true>(c, down).n_slots >= kLeastFewSlots;
  };
  return c.T >= 2 && c.T <= 8 && stream_takes(c, n_sms) && alike(c.gate_up, c.down) &&
         alike(c.gate_up, s.gate_up.w.layout) && alike(c.gate_up, s.down.w.layout) &&
         (c.gate_up.fp8 ? fits(Fp8Weight{}) : fits(Bf16Weight{}));
}
void stream_few(Exec& exec, const ExpertsCall& c, const SharedProducts& s) {
  if (c.gate_up.fp8) {
    run_with_shared<Fp8Weight, false>(exec, c, s.gate_up);
    run_with_shared<Fp8Weight, true>(exec, c, s.down);
  } else {
    run_with_shared<Bf16Weight, false>(exec, c, s.gate_up);
    run_with_shared<Bf16Weight, true>(exec, c, s.down);
  }
  combine(exec, c);
}

}  // namespace dsr::cuda
