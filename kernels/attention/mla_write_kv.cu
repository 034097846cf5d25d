// mla_write_kv on CUDA. Definition and shapes: ops/mla.h.
//
// Mapping   one block per token, the row in shared memory as float32.
// Needs     rows of at most kMaxWidth.
// Traffic   T rows of 2 (kv_lora_rank + rope) bytes read, and as many stored.
#include "attention/rope.cuh"
#include "attention/write_kv.cuh"
#include "common/launch.h"
#include "common/ptx.cuh"
#include "common/rows.cuh"
#include "ops/mla.h"

namespace dsr::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxWidth = 4096;

struct WriteParams {
  const bf16* kv_a;  // [T, C + 2 * rope.half]
  int64_t kv_a_stride;
  const float* weight;  // [C]
  RopeRows rope;
  const int32_t* positions;
  const int64_t* slots;
  std::byte* pages;
  int64_t page_bytes;
  CacheType type;
  int C, row_bytes;
  float eps;
};

__global__ __launch_bounds__(kThreads) void mla_write_kv_kernel(const WriteParams p) {
  __shared__ float row[kMaxWidth];  // latent, then key
  __shared__ float partial_sums[kWarps];
  const int t = blockIdx.x;
  // The batch is written before the step's first kernel (paged.cuh).
  const int position = p.positions[t];
  const int64_t slot = p.slots[t];
  wait_for_previous_kernel();
  const int width = p.C + 2 * p.rope.half;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float squares = 0;
  for (int i = threadIdx.x; i < width; i += kThreads) {
    const float v = to_float(p.kv_a[t * p.kv_a_stride + i]);
    row[i] = v;
    if (i < p.C) squares += v * v;
  }
  const float mean = block_sum(squares, partial_sums) / static_cast<float>(p.C);  // and a barrier
  const float scale = 1.0f / sqrtf(mean + p.eps);
  for (int i = threadIdx.x; i < p.C; i += kThreads) row[i] = row[i] * scale * p.weight[i];
  rope_interleaved(row + p.C, p.rope, position, threadIdx.x, kThreads);
  __syncthreads();

  std::byte* to = p.pages + slot / kPageTokens * p.page_bytes + slot % kPageTokens * p.row_bytes;
  if (p.type != CacheType::kFP8) {
    // All warps together: as one warp with four times the lanes.
    for (int i = threadIdx.x; i < width; i += kThreads) {
      if (p.type == CacheType::kF32)
        reinterpret_cast<float*>(to)[i] = row[i];
      else
        reinterpret_cast<bf16*>(to)[i] = from_float<bf16>(row[i]);
    }
    return;
  }
  constexpr int kGroup = static_cast<int>(MlaRowFormat::kGroup);
  const int n_groups = (p.C + kGroup - 1) / kGroup;
  auto* scales = reinterpret_cast<float*>(to + (p.C + 3) / 4 * 4);
  for (int g = warp; g < n_groups; g += kWarps)
    store_quantized(row + g * kGroup, min(kGroup, p.C - g * kGroup), to + g * kGroup, scales + g,
                    lane);
  if (warp == kWarps - 1)
    store_values(row + p.C, 2 * p.rope.half, CacheType::kBF16,
                 reinterpret_cast<std::byte*>(scales + n_groups), lane);
}

}  // namespace

void mla_write_kv(Exec& exec, const MlaWriteKvArgs& a) {
  const MlaRowFormat& f = a.cache.format;
  if (f.kv_lora_rank + f.qk_rope_head_dim > kMaxWidth)
    fail(ErrorKind::kDevice, "mla_write_kv: rows of ", f.kv_lora_rank + f.qk_rope_head_dim,
         " on CUDA, at most ", kMaxWidth);
  launch(exec, "mla_write_kv",
         {.grid = dim3(static_cast<unsigned>(a.kv_a.shape[0])), .threads = kThreads},
         mla_write_kv_kernel,
         WriteParams{.kv_a = a.kv_a.ptr<bf16>(),
                     .kv_a_stride = a.kv_a.strides[0],
                     .weight = a.weight.ptr<float>(),
                     .rope = {a.rope.cos.ptr<float>(), a.rope.sin.ptr<float>(),
                              narrow(a.rope.cos.shape[1])},
                     .positions = a.positions.ptr<int32_t>(),
                     .slots = a.slots.ptr<int64_t>(),
                     .pages = a.cache.pages.ptr<std::byte>(),
                     .page_bytes = f.page_bytes(),
                     .type = f.type,
                     .C = narrow(f.kv_lora_rank),
                     .row_bytes = narrow(f.row_bytes()),
                     .eps = a.eps});
}

}  // namespace dsr::cuda
