// Work on a GPU that is recorded once and replayed.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <map>

#include "device/cuda_context.h"

struct CUgraphExec_st;  // cudaGraphExec_t is a pointer to it

namespace dsr {

// What kernels of a decode step are launched with.
struct DecodeShape {
  int64_t n_seqs, table_width;
  auto operator<=>(const DecodeShape&) const = default;
};

// Work that launches the same kernels with the same arguments whenever it has the same key; what
// the arguments point to may change. The first run of a key does the work (and lets CUDA load its
// kernels), the second records it, later ones replay. Outlived by the context.
class CudaGraphs {
 public:
  CudaGraphs() = default;
  CudaGraphs(const CudaGraphs&) = delete;
  CudaGraphs& operator=(const CudaGraphs&) = delete;
  ~CudaGraphs();

  // `work` launches on the context's stream only and waits for nothing.
  void run(CudaContext& context, const DecodeShape& key, const std::function<void()>& work);

 private:
  std::map<DecodeShape, CUgraphExec_st*> graphs_;  // null: ran once
};

}  // namespace dsr
