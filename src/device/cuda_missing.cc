// The GPU of a build without CUDA: there is none.
#include "base/error.h"
#include "device/cuda_context.h"
#include "device/cuda_graph.h"

namespace dsr {
namespace {

[[noreturn]] void fail_missing() { fail(ErrorKind::kDevice, "cuda: ", cuda_absence()); }

}  // namespace

bool built_with_cuda() { return false; }
std::vector<CudaDevice> cuda_devices() { return {}; }
CudaDevice cuda_device(int) { fail_missing(); }
std::string cuda_absence() { return "this program was built without CUDA"; }

PinnedMemory::PinnedMemory(int64_t) { fail_missing(); }
PinnedMemory::~PinnedMemory() = default;

CudaContext::CudaContext(const CudaOptions&, bool) { fail_missing(); }
CudaContext::~CudaContext() = default;
int64_t CudaContext::free_bytes() const { fail_missing(); }
void* CudaContext::allocate(int64_t) { fail_missing(); }
void CudaContext::release(void*) noexcept {}
void CudaContext::upload(void*, const void*, int64_t) { fail_missing(); }
void CudaContext::download(void*, const void*, int64_t) { fail_missing(); }
void CudaContext::fill(void*, int, int64_t) { fail_missing(); }
void CudaContext::upload_pinned(void*, const void*, int64_t) { fail_missing(); }
void CudaContext::upload_all(const std::vector<HostRange>&, const UploadShape&) { fail_missing(); }
void CudaContext::synchronize() { fail_missing(); }

StreamMark::StreamMark(CudaContext& context) : context_(context) { fail_missing(); }
StreamMark::~StreamMark() = default;
void StreamMark::set() { fail_missing(); }
void StreamMark::wait() { fail_missing(); }

CudaGraphs::~CudaGraphs() = default;
void CudaGraphs::run(CudaContext&, const DecodeShape&, const std::function<void()>&) {
  fail_missing();
}

}  // namespace dsr
