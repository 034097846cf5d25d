// moe_route on CUDA. Definition and shapes: ops/moe.h.
//
// Mapping   a warp per token (moe/route.cuh).
// Needs     E <= 1024, n_group <= 32, K <= 32.
// Traffic   T * (E + 2 K) * 4 bytes: latency only.
#include "common/ptx.cuh"
#include "common/types.cuh"
#include "moe/route.cuh"

namespace dsr::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * 32;

template <int kPerLane>
__global__ __launch_bounds__(kThreads) void route_kernel(const RouteParams p) {
  extern __shared__ float shared[];  // [kWarps, E]
  const int warp = static_cast<int>(threadIdx.x) / 32;
  wait_for_previous_kernel();
  const int64_t t = int64_t{blockIdx.x} * kWarps + warp;
  if (t >= p.T) return;
  route_token<kPerLane>(p, t, p.logits + t * p.logits_stride, p.bias, shared + warp * p.E);
}

}  // namespace

void moe_route(Exec& exec, const MoeRouteArgs& a) {
  const int64_t T = a.logits.shape[0], E = a.logits.shape[1];
  if (!can_route(a, E))
    fail(ErrorKind::kDevice, "moe_route: ", E, " experts in ", a.n_group, " groups, ",
         a.expert_ids.shape[1], " per token; CUDA takes at most ", kMaxRouted, ", ", kMaxGroups,
         " and ", kMaxChosen);
  launch(exec, "moe_route",
         {.grid = dim3(static_cast<unsigned>((T + kWarps - 1) / kWarps)),
          .threads = kThreads,
          .shared_bytes = kWarps * E * 4},
         E <= 64    ? route_kernel<2>
         : E <= 256 ? route_kernel<8>
                    : route_kernel<kMaxRouted / 32>,
         route_params(a, E));
}

}  // namespace dsr::cuda
