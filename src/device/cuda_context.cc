#include "device/cuda_context.h"

#include <algorithm>

#include "device/cuda_check.h"

namespace dsr {
namespace {

constexpr int kOldestArch = 80;
constexpr char kFailedBefore[] = "a kernel before; --debug-nan names its layer and op";

int attribute(cudaDeviceAttr what, int device) {
  int value = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&value, what, device));
  return value;
}

// The instructions of sm_90a exist on 9.0 alone; what is newer runs the PTX of compute_80.
int usable_arch(int device_arch, int wanted) {
  const int newest = device_arch == 90 ? DSR_CUDA_NEWEST_ARCH : kOldestArch;
  return wanted == 0 ? newest : std::min(newest, wanted);
}

}  // namespace

bool built_with_cuda() { return true; }

std::vector<CudaDevice> cuda_devices() {
  std::vector<CudaDevice> out;
  int n = 0;
  if (cudaGetDeviceCount(&n) != cudaSuccess) {
    cudaGetLastError();  // it is asked again, and not an error of the next call
    return out;
  }
  for (int d = 0; d < n; ++d) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, d) != cudaSuccess) continue;
    const int arch = 10 * p.major + p.minor;
    out.push_back({p.name, arch, static_cast<int64_t>(p.totalGlobalMem), usable_arch(arch, 0)});
  }
  return out;
}

CudaDevice cuda_device(int index) {
  const std::vector<CudaDevice> devices = cuda_devices();
  if (devices.empty()) fail(ErrorKind::kDevice, "cuda: ", cuda_absence());
  if (index < 0 || index >= static_cast<int>(devices.size()))
    fail(ErrorKind::kDevice, "cuda:", index, " does not exist, this machine has ",
         devices.size() == 1 ? "cuda:0 only" : str("cuda:0 to cuda:", devices.size() - 1));
  return devices[static_cast<size_t>(index)];
}

std::string cuda_absence() {
  int n = 0;
  const cudaError_t error = cudaGetDeviceCount(&n);
  cudaGetLastError();
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
      return "no NVIDIA driver is installed";
    return "the NVIDIA driver is older than this program's CUDA";
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && n == 0)) return "there is no GPU";
  return cudaGetErrorString(error);
}

PinnedMemory::PinnedMemory(int64_t bytes) {
  void* data = nullptr;
  if (bytes > 0) CUDA_CHECK(cudaMallocHost(&data, static_cast<size_t>(bytes)), bytes, " bytes");
  data_ = static_cast<std::byte*>(data);
}

PinnedMemory::~PinnedMemory() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

CudaContext::CudaContext(const CudaOptions& options, bool dry_run) : device_(options.device) {
  const int device_arch = cuda_device(device_).arch;
  if (device_arch < kOldestArch)
    fail(ErrorKind::kDevice, "cuda:", device_, " is a GPU of compute capability ", device_arch / 10,
         ".", device_arch % 10, ", 8.0 or newer is needed");
  arch_ = usable_arch(device_arch, options.arch);
  dependent_launch_ = options.dependent_launch && arch_ >= 90;
  n_sms_ = attribute(cudaDevAttrMultiProcessorCount, device_);
  shared_bytes_per_block_ = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device_);
  shared_bytes_per_sm_ = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device_);
  l2_bytes_ = attribute(cudaDevAttrL2CacheSize, device_);
  CUDA_CHECK(cudaSetDevice(device_));
  if (!dry_run) CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

CudaContext::~CudaContext() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

int64_t CudaContext::free_bytes() const {
  size_t free = 0, total = 0;
  CUDA_CHECK(cudaSetDevice(device_));
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free);
}

void* CudaContext::allocate(int64_t bytes) {
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  CUDA_CHECK(error, bytes, " bytes");
  return data;
}

void CudaContext::release(void* data) noexcept { cudaFree(data); }

void CudaContext::upload(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_),
             bytes, " bytes");
  synchronize();
}

void CudaContext::download(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_),
             bytes, " bytes");
  synchronize();
}

void CudaContext::fill(void* data, int byte, int64_t bytes) {
  CUDA_CHECK(cudaMemsetAsync(data, byte, static_cast<size_t>(bytes), stream_), bytes, " bytes");
}

void CudaContext::upload_pinned(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_),
             bytes, " bytes");
}

void CudaContext::synchronize() { CUDA_CHECK(cudaStreamSynchronize(stream_), kFailedBefore); }

StreamMark::StreamMark(CudaContext& context) : context_(context) {
  CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
}

StreamMark::~StreamMark() {
  if (cudaEventSynchronize(event_) != cudaSuccess) cudaGetLastError();  // nobody is left to tell
  cudaEventDestroy(event_);
}

void StreamMark::set() { CUDA_CHECK(cudaEventRecord(event_, context_.stream()), kFailedBefore); }
void StreamMark::wait() { CUDA_CHECK(cudaEventSynchronize(event_), kFailedBefore); }

}  // namespace dsr
