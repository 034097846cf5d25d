// Weights on their way to the device: several threads copy pieces of the source into pinned buffers
// of their own, from which the GPU fetches them.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <future>
#include <thread>

#include "device/cuda_check.h"
#include "device/cuda_context.h"
#include "tensor/dtype.h"

namespace dsr {
namespace {

constexpr int kBuffersPerThread = 2;  // one is filled while the other is fetched

// A stream and the buffers that it empties, kBuffersPerThread pieces of pinned memory.
class Lane {
 public:
  Lane(std::byte* pinned, int64_t piece_bytes) {
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    for (Slot& s : slots_) {
      s.data = pinned;
      pinned += piece_bytes;
      CUDA_CHECK(cudaEventCreateWithFlags(&s.fetched, cudaEventDisableTiming));
    }
  }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;
  ~Lane() {
    for (Slot& s : slots_)
      if (s.fetched != nullptr) cudaEventDestroy(s.fetched);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  void copy(const HostRange& piece) {
    Slot& s = slots_[next_++ % kBuffersPerThread];
    CUDA_CHECK(cudaEventSynchronize(s.fetched));  // at once where nothing was recorded
    std::memcpy(s.data, piece.from, static_cast<size_t>(piece.bytes));
    if (!piece.fp8_name.empty() && count_e4m3_nan(s.data, piece.bytes) > 0)
      fail(ErrorKind::kNonFinite, piece.fp8_name,
           ": some of its FP8 values are NaN: the file is damaged\n  try: deepseek-run verify");
    CUDA_CHECK(cudaMemcpyAsync(piece.to, s.data, static_cast<size_t>(piece.bytes),
                               cudaMemcpyHostToDevice, stream_),
               piece.bytes, " bytes");
    CUDA_CHECK(cudaEventRecord(s.fetched, stream_));
  }
  void finish() { CUDA_CHECK(cudaStreamSynchronize(stream_)); }

 private:
  struct Slot {
    std::byte* data = nullptr;
    cudaEvent_t fetched = nullptr;
  };
  cudaStream_t stream_ = nullptr;
  Slot slots_[kBuffersPerThread];
  size_t next_ = 0;
};

}  // namespace

void CudaContext::upload_all(const std::vector<HostRange>& ranges, const UploadShape& shape) {
  std::vector<HostRange> pieces;
  for (const HostRange& r : ranges) {
    for (int64_t first = 0; first < r.bytes; first += shape.piece_bytes)
      pieces.push_back({static_cast<std::byte*>(r.to) + first,
                        static_cast<const std::byte*>(r.from) + first,
                        std::min(shape.piece_bytes, r.bytes - first), r.fp8_name});
  }
  const auto processors = static_cast<int>(std::max(std::thread::hardware_concurrency(), 1u));
  const auto n_threads =
      std::min<int64_t>(std::min(shape.max_threads, processors), std::ssize(pieces));
  const int64_t lane_bytes = kBuffersPerThread * shape.piece_bytes;
  const PinnedMemory pinned(n_threads * lane_bytes);  // at once: pinning takes turns anyway
  std::atomic<size_t> next = 0;
  const auto work = [&](int64_t thread) {
    CUDA_CHECK(cudaSetDevice(device_));
    Lane lane(pinned.data() + thread * lane_bytes, shape.piece_bytes);
    for (size_t i = next++; i < pieces.size(); i = next++) lane.copy(pieces[i]);
    lane.finish();
  };
  std::vector<std::future<void>> threads;
  for (int64_t t = 0; t < n_threads; ++t)
    threads.push_back(std::async(std::launch::async, work, t));
  std::exception_ptr error;
  for (std::future<void>& t : threads) {
    try {
      t.get();
    } catch (...) {
      error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace dsr
