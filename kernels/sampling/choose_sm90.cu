// The second kernel of sample on sm_90, for long rows: a cluster for each. See choose.cuh.
#include "sampling/choose.cuh"

namespace dsr::cuda {

void cluster_choose(Exec& exec, const SampleParams& p, int64_t n_rows) {
  launch(exec, "sample choose",
         {.grid = dim3(static_cast<unsigned>(n_rows * kChooseBlocks)),
          .threads = kChooseThreads,
          .cluster = kChooseBlocks},
         choose_kernel<kChooseBlocks>, p);
}

}  // namespace dsr::cuda
