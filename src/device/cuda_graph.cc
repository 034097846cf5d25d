#include "device/cuda_graph.h"

#include "device/cuda_check.h"

namespace dsr {
namespace {

cudaGraphExec_t record(cudaStream_t stream, const std::function<void()>& work) {
  CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);  // the stream can be used again
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t out = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&out, graph, 0);
  cudaGraphDestroy(graph);
  CUDA_CHECK(error, "a decode step as a graph");
  return out;
}

}  // namespace

CudaGraphs::~CudaGraphs() {
  for (const auto& [key, graph] : graphs_)
    if (graph != nullptr) cudaGraphExecDestroy(graph);
}

void CudaGraphs::run(CudaContext& context, const DecodeShape& key,
                     const std::function<void()>& work) {
  const auto [entry, is_new] = graphs_.try_emplace(key, nullptr);
  if (is_new) return work();
  if (entry->second == nullptr) entry->second = record(context.stream(), work);
  CUDA_CHECK(cudaGraphLaunch(entry->second, context.stream()), "a decode step of ", key.n_seqs,
             " sequences");
}

}  // namespace dsr
