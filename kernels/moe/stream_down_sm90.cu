// The second half of moe_experts and moe_with_shared for one token on sm_90:
//   out = sum_k w[k] down_e hidden[k] + shared, e = ids[k]
//
// Mapping   a block has tiles of 16 rows of out: first the shared experts' units of all of them,
//           then those of the chosen experts, tile after tile (stream_one.cuh). The sum over the
//           experts, in ascending order, is made at the end, without atomics. What the router
//           chose is older than the kernel before, which started this one: so nothing but the
//           activations is waited for.
// Traffic   the down weights of the chosen experts and of the shared ones, once.
#include <algorithm>

#include "moe/stream_one.cuh"

namespace dsr::cuda {
namespace {

constexpr int kDownStages = 8;
struct DownRing {
  Ring<kDownStages> ring;
  KeptBarriers kept;
};

// Sums of a tile: of all chosen experts, then of the shared ones.
__host__ __device__ constexpr int tile_floats(int K) { return (K + 1) * 16; }
template <typename W>
__host__ __device__ int64_t staged_shared_bytes(const ExpertsCall& c) {
  return c.shared.F > 0 ? StagedRows<W>::bytes(1, c.shared.down.n_steps) : 0;
}

#if __CUDA_ARCH__ >= 900
template <typename W>
class DownOne {
 public:
  // 16 rows of tile `tile`: of the k-th chosen expert, or of the shared ones where k is -1.
  struct Unit {
    int k, tile;
  };
  __device__ DownOne(const ExpertsCall& c, const Shares& tiles, float* sums, std::byte* x,
                     std::byte* x_shared)
      : c_(c),
        sums_(pinned(shared_address(sums))),
        x_(x),
        x_shared_(x_shared),
        first_tile_(tiles.first(static_cast<int>(blockIdx.x))),
        n_tiles_(tiles.n(static_cast<int>(blockIdx.x))),
        expert_(chosen_expert(c)) {}
  __device__ __forceinline__ void choose() const {}
  __device__ __forceinline__ int n_units() const {
    return n_tiles_ * (c_.K + (c_.shared.F > 0 ? 1 : 0));
  }
  __device__ __forceinline__ Unit first() const { return {c_.shared.F > 0 ? -1 : 0, first_tile_}; }
  __device__ __forceinline__ void next(Unit& unit) const {
    if (unit.k < 0) {
      if (++unit.tile == first_tile_ + n_tiles_) unit = {0, first_tile_};
    } else if (++unit.k == c_.K) {
      unit = {0, unit.tile + 1};
    }
  }
  __device__ __forceinline__ Unit unit(int i) const {
    const int n_shared = n_shared_units();
    if (i < n_shared) return {-1, first_tile_ + i};
    Unit out = {i - n_shared, first_tile_};
    for (; out.k >= c_.K; ++out.tile) out.k -= c_.K;
    return out;
  }
  __device__ __forceinline__ int blocks_before(int i) const {
    const int shared = min(i, n_shared_units());
    return shared * staged_blocks(c_.shared.down.n_steps) +
           (i - shared) * staged_blocks(c_.down.n_steps);
  }
  __device__ __forceinline__ const DenseLayout& layout(const Unit& unit) const {
    return unit.k < 0 ? c_.shared.down : c_.down;
  }
  __device__ __forceinline__ int n_steps(const Unit& unit) const {
    return unit.k < 0 ? c_.shared.down.n_steps : c_.down.n_steps;
  }
  __device__ __forceinline__ RowPair rows(const Unit& unit, int lane) const {
    const int row = unit.tile * 16;
    if (unit.k < 0)
      return row_pair(c_.shared.down, c_.shared.down_rows, c_.shared.down_rows, row, row + 8,
                      c_.D - 1, lane);
    return down_rows(c_, __shfl_sync(0xffffffffu, expert_, unit.k), unit.tile, lane);
  }
  __device__ __forceinline__ const std::byte* scales(const Unit& unit, int half) const {
    const int expert = __shfl_sync(0xffffffffu, expert_, max(unit.k, 0));
    return scale_row(layout(unit),
                     unit.k < 0 ? c_.shared.down_rows : segment_of(c_.weights.down, expert),
                     unit.tile * 16 + half * 8, c_.D - 1);
  }
  class Walk {
   public:
    __device__ __forceinline__ explicit Walk(const DownOne& job)
        : first_(staged_row<W>(job.x_, job.c_.K, 0, staged_blocks(job.c_.down.n_steps))),
          n_steps_(job.c_.down.n_steps),
          K_(job.c_.K),
          k_(pinned(-job.n_shared_units())) {
      n_steps = k_ < 0 ? job.c_.shared.down.n_steps : n_steps_;
      x = k_ < 0 ? staged_row<W>(job.x_shared_, 1, 0, staged_blocks(n_steps)) : first_;
    }
    __device__ __forceinline__ void next() {
      if (++k_ == K_) k_ = 0;
      if (k_ < 0) return;
      const int n_blocks = staged_blocks(n_steps_);
      x = {first_.row + k_ * StagedRows<W>::pitch(n_blocks), first_.units + k_ * n_blocks * 4};
      n_steps = n_steps_;
    }
    StagedRow x;
    int n_steps;

   private:
    const StagedRow first_;  // of the first chosen expert
    const int n_steps_, K_;
    int k_;  // which of them; below 0: how many units of the shared ones are left
  };
  __device__ __forceinline__ Walk walk() const { return Walk(*this); }
  __device__ __forceinline__ bool is_sliced(const Unit& unit) const { return unit.k < 0; }
  __device__ __forceinline__ void finish(const Unit& unit, int row, float total, bool there) const {
    if (there)
      store_shared_4(sums(unit.tile) + ((unit.k < 0 ? c_.K : unit.k) * 16 + row) * 4, total);
  }
  // By all multiplying warps, when all units are finished. weights: address of [K].
  __device__ __forceinline__ void store_all(uint32_t weights, bool rehearsal) const {
    constexpr int kAtOnce = 8;
    consumers_barrier();
    for (int i = static_cast<int>(threadIdx.x); i < n_tiles_ * 16; i += kConsumers) {
      const int tile = first_tile_ + i / 16, row = i % 16;
      if (tile * 16 + row >= c_.D) continue;
      const uint32_t of_row = sums(tile) + row * 4;
      float sum = 0;
#pragma unroll 1
      for (int first = 0; first < c_.K; first += kAtOnce) {
        float products[kAtOnce], of_pairs[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {  // all on their way together
          const int k = min(first + j, c_.K - 1);
          products[j] = __uint_as_float(load_shared_4(of_row + k * 64));
          of_pairs[j] = __uint_as_float(load_shared_4(weights + k * 4));
        }
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j)
          sum = first + j < c_.K ? fmaf(of_pairs[j], products[j], sum) : sum;
      }
      // What linear() would have stored of the shared experts.
      if (c_.shared.F > 0)
        sum += to_float(from_float<bf16>(__uint_as_float(load_shared_4(of_row + c_.K * 64))));
      if (!rehearsal) store_result(c_, 0, tile * 16 + row, sum);
    }
  }

 private:
  __device__ __forceinline__ int n_shared_units() const { return c_.shared.F > 0 ? n_tiles_ : 0; }
  // Address in shared memory.
  __device__ __forceinline__ uint32_t sums(int tile) const {
    return sums_ + (tile - first_tile_) * tile_floats(c_.K) * 4;
  }

  const ExpertsCall& c_;
  const uint32_t sums_;
  std::byte* const x_;
  std::byte* const x_shared_;
  const int first_tile_, n_tiles_;
  const int expert_;
};

// Stages the rows of all experts, by all multiplying warps. What runs once in a launch comes from
// the L2 line by line: so these are two short loops, a copy as it is and then what becomes of it,
// each thread its own chunks.
template <typename W>
__device__ __forceinline__ void stage_hidden(const ExpertsCall& c, std::byte* x_shared,
                                             std::byte* x) {
  // A thread has two chunks of 16 bytes of a block, half of a block apart.
  constexpr unsigned kLanes = StagedRows<W>::kChunks / 2, kStepChunks = W::kStepColumns / 8;
  const unsigned n_blocks = staged_blocks(c.down.n_steps);
  const unsigned n_shared = c.shared.F > 0 ? staged_blocks(c.shared.down.n_steps) : 0;
  const unsigned n = (n_shared + c.K * n_blocks) * kLanes;
  const unsigned pitch = StagedRows<W>::pitch(static_cast<int>(n_blocks));
  const unsigned x_at = static_cast<unsigned>(x - x_shared);
  const unsigned reciprocal = 0xffffffffu / n_blocks + 1;
  // A block: of which row of the chosen experts, if it is none of the shared ones', and where.
  struct Place {
    bool shared;
    unsigned row, block, at;  // at: bytes behind x_shared, of the thread's first chunk
  };
  const auto place = [&](unsigned i) {
    Place p;
    const unsigned block = i / kLanes, chosen = block - n_shared;
    p.shared = block < n_shared;
    p.row = n_blocks == 1 ? chosen : __umulhi(chosen, reciprocal);
    p.block = p.shared ? block : chosen - p.row * n_blocks;
    p.at = (p.shared ? 0 : x_at + p.row * pitch) + p.block * StagedRows<W>::kBlockBytes +
           i % kLanes * 16;
    return p;
  };
#pragma unroll 1
  for (unsigned i = threadIdx.x; i < n; i += kConsumers) {
    const Place p = place(i);
    const unsigned chunk = p.block * StagedRows<W>::kChunks + i % kLanes;
    const unsigned n_chunks = (p.shared ? c.shared.down.n_steps : c.down.n_steps) * kStepChunks;
    const bf16* const from = (p.shared ? c.shared.hidden : c.hidden + p.row * c.F) + chunk * 8;
#pragma unroll
    for (unsigned k = 0; k < 2; ++k)
      copy_async_16(x_shared + p.at + k * kLanes * 16, from + k * kLanes * 8,
                    chunk + k * kLanes < n_chunks);
  }
  commit_copies();
  wait_for_copies<0>();
  if constexpr (W::kScaled) {
    float* const shared_units = StagedRows<W>::units(x_shared, 1, static_cast<int>(n_shared));
    float* const units = StagedRows<W>::units(x, c.K, static_cast<int>(n_blocks));
#pragma unroll 1
    for (unsigned i = threadIdx.x; i / 32 * 32 < n; i += kConsumers) {
      const Place p = place(min(i, n - 1));
      auto* const first = reinterpret_cast<uint4*>(x_shared + p.at);
      uint4* const second = first + kLanes;
      uint4 v[2] = {};
      if (i < n) v[0] = *first, v[1] = *second;
      auto* const pairs = reinterpret_cast<uint32_t*>(v);
      uint32_t largest[2] = {};
#pragma unroll
      for (int j = 0; j < 8; ++j) largest[j % 2] = HalfUnit::larger(largest[j % 2], pairs[j]);
      const HalfUnit unit = HalfUnit::of<kLanes>(__vmaxu2(largest[0], largest[1]));
#pragma unroll
      for (int j = 0; j < 8; ++j) pairs[j] = unit.quotients(pairs[j]);
      if (i >= n) break;
      *first = v[0];
      *second = v[1];
      if (i % kLanes == 0)
        (p.shared ? shared_units : units)[i / kLanes - (p.shared ? 0 : n_shared)] = unit.value();
    }
  }
}
#endif

template <typename W>
__global__ __launch_bounds__(kStreamThreads,
                             2) void down_kernel(const __grid_constant__ ExpertsCall c,
                                                 const __grid_constant__ KeptPlan plan,
                                                 const __grid_constant__ Shares tiles) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];
  auto* const ring_memory = reinterpret_cast<DownRing*>(shared);
  const RingView ring = ring_memory->ring.view();
  auto* const kept = reinterpret_cast<float*>(ring_memory + 1);
  std::byte* const x_shared = behind_kept(kept, plan);
  std::byte* const x = x_shared + staged_shared_bytes<W>(c);
  auto* const weights = reinterpret_cast<float*>(x + StagedRows<W>::bytes(c.K, c.down.n_steps));
  float* const sums = weights + c.K;
  init_kept_barriers(&ring_memory->kept);
  init_ring(ring, /*scaled=*/false, /*ue8m0=*/false);
  using Job = DownOne<W>;
  Job job(c, tiles, sums, x, x_shared);
  KeptProducts<W, Job> products(job, kept, plan, &ring_memory->kept);
  if (threadIdx.x >= kConsumers) {
    keep_registers<kFetchRegisters>();
    StreamProducer<W, Job, /*kScales=*/false> producer(job, ring);
    producer.go_to(job.first());
#pragma unroll 1
    for (int part = 0; part < 2; ++part) {  // the scales when the ring is full
      producer.run(job.n_units(), part == 0 ? kDownStages : 1 << 30);
      if (part == 0) products.fetch_first_scales();
    }
    if constexpr (W::kScaled) start_next_kernel();
    return;
  }
  take_registers<kMultiplyRegisters>();
  MultiplyOneToken<W, Job> multiply(job, ring, products);
  const auto k = static_cast<int>(threadIdx.x);
  const uint32_t weights_at = pinned(shared_address(weights));
  if (k < c.K) weights[k] = __ldcg(c.chosen + k);
#pragma unroll 1
  for (int pass = W::kScaled ? 0 : 1; pass < 2; ++pass) {  // as in stream_gate_up_sm90.cu
    const bool rehearsal = pass == 0;
    if (!rehearsal) {
      // The next kernels start when all FP8 weights have been called for: else theirs come first,
      // and what code this kernel goes through for the first time waits beside them. With bf16,
      // whose weights take twice as long, it was slower.
      if constexpr (W::kScaled)
        wait_and_hold_next_kernel();
      else
        wait_for_previous_kernel();
      stage_hidden<W>(c, x_shared, x);
    }
    consumers_barrier();
    multiply.run(rehearsal);
    job.store_all(weights_at, rehearsal);
  }
#endif
}

struct DownShape {
  int64_t blocks;
  int most_tiles;  // of a block
  KeptPlan kept;
};
DownShape shape_of(const ExpertsCall& c, int n_sms) {
  const int64_t n = (c.D + 15) / 16, blocks = stream_blocks(n, n_sms, 1);
  const int64_t most_tiles = (n + blocks - 1) / blocks;
  const int routed = staged_blocks(c.down.n_steps);
  const int shared = c.shared.F > 0 ? staged_blocks(c.shared.down.n_steps) : 0;
  return {blocks, narrow(most_tiles),
          plan_kept(most_tiles * (c.K + 1), most_tiles * (shared + int64_t{c.K} * routed),
                    std::max(routed, shared))};
}
template <typename W>
int64_t shared_bytes(const ExpertsCall& c, const KeptPlan& plan, int most_tiles) {
  return int64_t{sizeof(DownRing)} + kept_bytes(plan) + staged_shared_bytes<W>(c) +
         StagedRows<W>::bytes(c.K, c.down.n_steps) +
         (c.K + int64_t{most_tiles} * tile_floats(c.K)) * 4;
}

template <typename W>
void run(Exec& exec, const ExpertsCall& c) {
  const DownShape s = shape_of(c, exec.cuda().n_sms());
  launch(exec, "moe_experts",
         {.grid = dim3(static_cast<unsigned>(s.blocks)),
          .threads = kStreamThreads,
          .shared_bytes = shared_bytes<W>(c, s.kept, s.most_tiles)},
         down_kernel<W>, c, s.kept, Shares::of((c.D + 15) / 16, s.blocks));
}

template <typename W>
bool fits(const ExpertsCall& c, int n_sms) {
  const DownShape s = shape_of(c, n_sms);
  return c.K <= kMostChosen && shared_bytes<W>(c, s.kept, s.most_tiles) <= kSmBytes;
}

}  // namespace

bool stream_down_fits(const ExpertsCall& c, int n_sms) {
  return c.down.fp8 ? fits<Fp8Weight>(c, n_sms) : fits<Bf16Weight>(c, n_sms);
}

void stream_down(Exec& exec, const ExpertsCall& c) {
  c.down.fp8 ? run<Fp8Weight>(exec, c) : run<Bf16Weight>(exec, c);
}

}  // namespace dsr::cuda
