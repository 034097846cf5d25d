// The GPU of an Exec: what it has, its stream, and the copies to and from it. No CUDA header is
// included here: everything but kernels/ and device/cuda_* is compiled without CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

struct CUevent_st;   // cudaEvent_t is a pointer to it
struct CUstream_st;  // cudaStream_t is a pointer to it

namespace dsr {

struct CudaOptions {
  int device = 0;
  int arch = 0;  // 80: only code that an A100 could run; 0 or more: the best there is
  // Kernels may begin while the one before them ends, where the GPU can; changes no bit.
  bool dependent_launch = true;
};

struct CudaDevice {
  std::string name;
  int arch = 0;  // compute capability, 80 for 8.0
  int64_t memory_bytes = 0;
  int code_arch = 0;  // of the newest code in this program that runs there
};
// The GPUs that this process may use. Empty without a driver, without a GPU, and in a build without
// CUDA; never throws.
std::vector<CudaDevice> cuda_devices();
// One of them. Throws Error(kDevice) where it is not there.
CudaDevice cuda_device(int index);
// Why cuda_devices() is empty, as the end of a sentence: "no NVIDIA driver is installed".
std::string cuda_absence();
// Whether the program was built with CUDA.
bool built_with_cuda();

// Host memory that belongs in device memory.
struct HostRange {
  void* to = nullptr;
  const void* from = nullptr;
  int64_t bytes = 0;
  // Of FP8 codes: what an error calls them where some are NaN. The kernels make 480 of those.
  std::string fp8_name = {};
};

// How ranges are shared out on their way to the device. A thread copies 7 GB/s out of the page
// cache (Xeon 6; mapped or read() alike), the bus takes 25 to 55. Small pieces: pinning memory
// takes time, and what a thread has just written is still in the host's caches when the GPU fetches
// it.
struct UploadShape {
  int max_threads = 16;  // no more than the host has
  int64_t piece_bytes = int64_t{2} << 20;
};

// Host memory that the GPU reads while the host goes on; move-only.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(int64_t bytes);
  PinnedMemory(PinnedMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  PinnedMemory& operator=(PinnedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~PinnedMemory();
  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
};

// One per Exec of the cuda backend. A dry one knows the device and makes nothing on it.
class CudaContext {
 public:
  // Throws Error(kDevice) if there is no such device or it is too old.
  CudaContext(const CudaOptions& options, bool dry_run);
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;
  ~CudaContext();

  int device() const { return device_; }
  // 80 or 90: the newest instructions a kernel may use, and all that a choice of kernel looks at.
  int arch() const { return arch_; }
  // Whether kernels are launched as programmatic dependents.
  bool dependent_launch() const { return dependent_launch_; }
  int n_sms() const { return n_sms_; }
  int64_t shared_bytes_per_block() const { return shared_bytes_per_block_; }  // opt-in
  int64_t shared_bytes_per_sm() const { return shared_bytes_per_sm_; }
  int64_t l2_bytes() const { return l2_bytes_; }
  CUstream_st* stream() const { return stream_; }
  // Device memory that can still be allocated.
  int64_t free_bytes() const;

  // nullptr if the memory cannot be had.
  void* allocate(int64_t bytes);
  void release(void* data) noexcept;
  // In the order of the stream. `from` may be reused when upload returns, `to` be read when
  // download returns.
  void upload(void* to, const void* from, int64_t bytes);
  void download(void* to, const void* from, int64_t bytes);
  void fill(void* data, int byte, int64_t bytes);
  // `from` is pinned and left alone until synchronize(), a download or StreamMark::wait returns.
  void upload_pinned(void* to, const void* from, int64_t bytes);
  // Many ranges, by several threads through a ring of pinned buffers; done when it returns.
  void upload_all(const std::vector<HostRange>& ranges, const UploadShape& shape = {});
  // Waits until everything on the stream is done; throws Error(kDevice) if something failed.
  void synchronize();

 private:
  int device_ = 0;
  int arch_ = 0;
  bool dependent_launch_ = false;
  int n_sms_ = 0;
  int64_t shared_bytes_per_block_ = 0;
  int64_t shared_bytes_per_sm_ = 0;
  int64_t l2_bytes_ = 0;
  CUstream_st* stream_ = nullptr;
};

// A place in the stream that the host can wait for; outlived by the context.
class StreamMark {
 public:
  explicit StreamMark(CudaContext& context);
  StreamMark(const StreamMark&) = delete;
  StreamMark& operator=(const StreamMark&) = delete;
  ~StreamMark();  // waits too

  // Behind everything that is on the stream now.
  void set();
  // Until the stream has come to the last place that was set; throws like synchronize().
  void wait();

 private:
  [[maybe_unused]] CudaContext& context_;  // without CUDA
  [[maybe_unused]] CUevent_st* event_ = nullptr;
};

}  // namespace dsr
