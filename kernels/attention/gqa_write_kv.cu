// gqa_write_kv on CUDA. Definition and shapes: ops/gqa.h.
//
// Mapping   one block per token and KV head: a warp for the key, a warp for the value.
// Needs     heads of at most kMaxHead.
// Traffic   T * G * 2 * head_dim elements read, and as many stored.
#include "attention/rope.cuh"
#include "attention/write_kv.cuh"
#include "common/launch.h"
#include "common/ptx.cuh"
#include "ops/gqa.h"

namespace dsr::cuda {
namespace {

constexpr int kMaxHead = 1024;

struct WriteParams {
  const bf16* k;  // [T, G, d]
  int64_t k_token_stride, k_head_stride;
  const bf16* v;  // [T, G, d]
  int64_t v_token_stride, v_head_stride;
  RopeRows rope;
  const int32_t* positions;
  const int64_t* slots;
  std::byte* pages;
  int64_t page_bytes;
  CacheType type;
  int G, d;
};

__global__ __launch_bounds__(64) void gqa_write_kv_kernel(const WriteParams p) {
  extern __shared__ float rows[];  // the key, the value; cosines and sines, half as many of each
  const int t = blockIdx.x, head = blockIdx.y;
  const int half = threadIdx.x / 32, lane = threadIdx.x % 32;  // 0: the key, 1: the value
  const int64_t slot = p.slots[t];
  float* cos = rows + 2 * p.d;
  float* sin = cos + p.rope.half;
  if (half == 0) {
    const int64_t at = static_cast<int64_t>(p.positions[t]) * p.rope.half;
    for (int i = lane; i < p.rope.half; i += 32)
      cos[i] = p.rope.cos[at + i], sin[i] = p.rope.sin[at + i];
  }
  wait_for_previous_kernel();
  float* x = rows + half * p.d;
  const bf16* from = half == 0 ? p.k + t * p.k_token_stride + head * p.k_head_stride
                               : p.v + t * p.v_token_stride + head * p.v_head_stride;
#pragma unroll 4
  for (int i = lane; i < p.d; i += 32) x[i] = to_float(from[i]);
  __syncwarp();
  if (half == 0) rope_half_split(x, {cos, sin, p.rope.half}, /*position=*/0, lane, 32);
  __syncwarp();
  std::byte* to = p.pages + slot / kPageTokens * p.page_bytes + half * (p.page_bytes / 2);
  const int64_t row = head * kPageTokens + slot % kPageTokens;
  if (p.type != CacheType::kFP8) {
    store_values(x, p.d, p.type, to + row * p.d * (p.type == CacheType::kF32 ? 4 : 2), lane);
    return;
  }
  std::byte* scales = to + p.G * kPageTokens * p.d;
  store_quantized(x, p.d, to + row * p.d, reinterpret_cast<float*>(scales) + row, lane);
}

}  // namespace

void gqa_write_kv(Exec& exec, const GqaWriteKvArgs& a) {
  const GqaPageFormat& f = a.cache.format;
  if (f.head_dim > kMaxHead)
    fail(ErrorKind::kDevice, "gqa_write_kv: heads of ", f.head_dim, " on CUDA, at most ", kMaxHead);
  launch(exec, "gqa_write_kv",
         {.grid = dim3(static_cast<unsigned>(a.k.shape[0]), static_cast<unsigned>(f.n_kv_heads)),
          .threads = 64,
          .shared_bytes = 3 * f.head_dim * static_cast<int64_t>(sizeof(float))},
         gqa_write_kv_kernel,
         WriteParams{.k = a.k.ptr<bf16>(),
                     .k_token_stride = a.k.strides[0],
                     .k_head_stride = a.k.strides[1],
                     .v = a.v.ptr<bf16>(),
                     .v_token_stride = a.v.strides[0],
                     .v_head_stride = a.v.strides[1],
                     .rope = {a.rope.cos.ptr<float>(), a.rope.sin.ptr<float>(),
                              narrow(a.rope.cos.shape[1])},
                     .positions = a.positions.ptr<int32_t>(),
                     .slots = a.slots.ptr<int64_t>(),
                     .pages = a.cache.pages.ptr<std::byte>(),
                     .page_bytes = f.page_bytes(),
                     .type = f.type,
                     .G = narrow(f.n_kv_heads),
                     .d = narrow(f.head_dim)});
}

}  // namespace dsr::cuda
