// mla_expanded_attention on CUDA. Definition and shapes: ops/mla.h.
//
// For a part of the context at a time, so that what it needs is bounded:
//   gather     cached rows of every type, page by page, to bf16: latents and rotated keys
//   linear     kv_b_proj: keys and values of all heads
//   attention  expanded_attention.cuh
//
// Needs     heads of 128 + 64 and 128 (V2, V3) and 160 KB of shared memory, as mla_expands says.
// Products  2 * 512 * 256 * H for a row of the context, 2 * 320 * H for a query and row; absorbed
//           it is 2 * 1088 * H for a query and row, and 2 * 512 * 256 * H for a query.
#include <algorithm>

#include "attention/expanded_attention.cuh"
#include "attention/mla_rows.cuh"
#include "base/math.h"
#include "common/rows.cuh"
#include "ops/linear.h"
#include "ops/mla.h"

namespace dsr::cuda {
namespace {

// Of keys and values in a part.
constexpr int64_t kPartBytes = int64_t{128} << 20;
constexpr int64_t kMaxPartRows = 8192;
// With fewer tokens in a sequence the absorbed form has its rows read sooner than expanded: by
// products they meet at 170, by what the kernels reach at about 50.
constexpr int64_t kExpandedTokens = 64;

constexpr int kGatherThreads = 256, kGatherBlocks = 4;  // of a page

struct GatherParams {
  bf16* latent;  // [n_rows, C]
  bf16* k_pe;    // [n_rows, rope]
  const std::byte* pages;
  int64_t page_bytes;
  PagedBatch batch;
  int S, first_page;
};

// Grid: pages of the part, kGatherBlocks each. Rows past a sequence's end are zeros.
__global__ __launch_bounds__(kGatherThreads) void gather_kernel(
    const __grid_constant__ GatherParams p, const MlaRows rows) {
  constexpr int kPage = static_cast<int>(kPageTokens);
  const PromptItem i = find_item<false>(p.batch, p.S, p.first_page + static_cast<int>(blockIdx.x));
  const std::byte* page = nullptr;
  if (i.sequence >= 0)
    page = p.pages +
           p.batch.block_table[i.sequence * p.batch.block_table_stride + i.item] * p.page_bytes;
  const int n = i.sequence >= 0 ? min(kPage, i.n - i.item * kPage) : 0;
  wait_for_previous_kernel();
  const int width = rows.C + rows.rope;
  bf16* latent = p.latent + int64_t{blockIdx.x} * kPage * rows.C;
  bf16* k_pe = p.k_pe + int64_t{blockIdx.x} * kPage * rows.rope;
  const int chunks = width / 8;
  for (int c = static_cast<int>(blockIdx.y) * kGatherThreads + static_cast<int>(threadIdx.x);
       c < kPage * chunks; c += kGatherBlocks * kGatherThreads) {
    const int r = c / chunks, column = c % chunks * 8;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (r < n) {
      const MlaRows::Row row = rows.row(page, 0, r);
      if (rows.type == CacheType::kBF16) {
        v = *reinterpret_cast<const uint4*>(row.data + column * 2);
      } else {
        float f[8];
#pragma unroll
        for (int k = 0; k < 8; ++k) f[k] = row.key(column + k);
        v = make_uint4(pack_bf16(f[0], f[1]), pack_bf16(f[2], f[3]), pack_bf16(f[4], f[5]),
                       pack_bf16(f[6], f[7]));
      }
    }
    bf16* to =
        column < rows.C ? latent + r * rows.C + column : k_pe + r * rows.rope + (column - rows.C);
    *reinterpret_cast<uint4*>(to) = v;
  }
}

// Tokens of the context that go through at a time. A function of shapes.
int64_t rows_at_once(int64_t n_rows, int64_t H) {
  const int64_t row_bytes = H * (kExpandedNope + kExpandedValue) * 2;
  const int64_t fit = std::clamp<int64_t>(kPartBytes / row_bytes / kPageTokens * kPageTokens,
                                          kPageTokens, kMaxPartRows);
  return std::min(n_rows, fit);
}

}  // namespace

bool mla_expands(Exec& exec, const MlaPromptShape& s) {
  return s.qk_nope_head_dim == kExpandedNope && s.qk_rope_head_dim == kExpandedRope &&
         s.v_head_dim == kExpandedValue && s.kv_lora_rank % 8 == 0 &&
         exec.cuda().shared_bytes_per_block() >= int64_t{sizeof(ExpandedRing)} &&
         s.n_pairs >= s.n_seen * kExpandedTokens;
}

void mla_expanded_attention(Exec& exec, const MlaExpandedArgs& a) {
  const MlaRowFormat& f = a.cache.format;
  const int64_t T = a.q.shape[0], H = a.q.shape[1], S = a.block_table.shape[0];
  const int64_t C = f.kv_lora_rank, rope = f.qk_rope_head_dim;
  if (a.q.shape[2] != kExpandedKey || rope != kExpandedRope || a.out.shape[2] != kExpandedValue ||
      C % 8 != 0 || !rows_allow_16(a.q) || !rows_allow_16(a.out))
    fail(ErrorKind::kDevice, "mla_expanded_attention: q ", a.q.text(), ", out ", a.out.text(),
         ", cached rows of ", C, " + ", rope, "; CUDA takes heads of ", kExpandedNope, " + ",
         kExpandedRope, " and ", kExpandedValue, ", in chunks of 16 bytes");
  const int64_t most_rows = S * a.block_table.shape[1] * kPageTokens;
  const int64_t n_rows = a.n_rows > 0 ? a.n_rows : most_rows;
  const int64_t at_once = rows_at_once(n_rows, H);

  Arena& arena = exec.scratch();
  const Arena::Scope scope(arena);
  const Tensor latent = arena.activation({at_once, C}), k_pe = arena.activation({at_once, rope});
  const Tensor kv = arena.activation({at_once, H * (kExpandedNope + kExpandedValue)});
  const bool parts = n_rows > at_once;
  const Tensor state = arena.tensor(DType::kF32, {parts ? T : 0, H, kExpandedValue});
  const Tensor stats = arena.tensor(DType::kF32, {parts ? T : 0, H, 2});
  const PagedBatch batch = paged_batch(a);
  for (int64_t first = 0; first < n_rows; first += at_once) {
    const int64_t n = std::min(at_once, n_rows - first);
    launch(exec, "mla_expanded_attention: gather",
           {.grid = dim3(static_cast<unsigned>(ceil_div(n, kPageTokens)), kGatherBlocks),
            .threads = kGatherThreads},
           gather_kernel,
           GatherParams{.latent = latent.ptr<bf16>(),
                        .k_pe = k_pe.ptr<bf16>(),
                        .pages = a.cache.pages.ptr<std::byte>(),
                        .page_bytes = f.page_bytes(),
                        .batch = batch,
                        .S = narrow(S),
                        .first_page = narrow(first / kPageTokens)},
           MlaRows{f.type, narrow(C), narrow(rope), narrow(f.row_bytes())});
    linear(exec, {.out = rows(kv, 0, n), .x = rows(latent, 0, n), .w = a.kv_b_proj, .bias = {}});
    launch(exec, "mla_expanded_attention",
           {.grid = dim3(static_cast<unsigned>(H),
                         static_cast<unsigned>(ceil_div(T, int64_t{kQueryTile}) + S)),
            .threads = kExpandedThreads,
            .shared_bytes = sizeof(ExpandedRing)},
           expanded_attention_kernel,
           ExpandedParams{.out = head_rows(a.out),
                          .q = head_rows(a.q),
                          .cos = a.rope.cos.ptr<float>(),
                          .sin = a.rope.sin.ptr<float>(),
                          .kv = kv.ptr<bf16>(),
                          .k_pe = k_pe.ptr<bf16>(),
                          .state = state.ptr<float>(),
                          .stats = stats.ptr<float2>(),
                          .batch = batch,
                          .S = narrow(S),
                          .H = narrow(H),
                          .first_row = narrow(first),
                          .n_rows = narrow(n),
                          .scale_log2 = scale_log2(a)});
  }
}

}  // namespace dsr::cuda
