#include "engine/device_choice.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "base/error.h"
#include "device/cuda_context.h"

namespace dsr {

std::string DeviceChoice::gpu_name() const {
  if (backend != Backend::kCuda) return "";
  return dsr::cuda_device(cuda_device).name;
}

int64_t DeviceChoice::gpu_arch(int64_t asked) const {
  const int64_t newest = dsr::cuda_device(cuda_device).code_arch;
  return asked == 0 ? newest : std::min(asked, newest);
}

DeviceChoice choose_device(const std::string& device) {
  if (device == "cpu") return {};
  if (device == "reference") return {.backend = Backend::kReference};
  if (device == "cuda") return {.backend = Backend::kCuda};
  if (device == "auto") {
    if (!cuda_devices().empty()) return {.backend = Backend::kCuda};
    return {.note = built_with_cuda() ? cuda_absence() + ": using the cpu" : ""};
  }
  constexpr std::string_view kCuda = "cuda:";
  int index = 0;
  const char* end = device.data() + device.size();
  if (device.starts_with(kCuda)) {
    const auto [rest, error] = std::from_chars(device.data() + kCuda.size(), end, index);
    if (error == std::errc() && rest == end && index >= 0)
      return {.backend = Backend::kCuda, .cuda_device = index};
  }
  fail_usage("device ", quoted(device), ", expected auto, cuda, cuda:N, cpu or reference");
}

CpuOptions cpu_options(const EngineOptions& o) {
  CpuOptions out;
  out.threads = static_cast<int>(o.threads);
  if (o.cpu_level != "auto") {
    const auto level = std::find_if(kCpuLevels.begin(), kCpuLevels.end(),
                                    [&](CpuLevel l) { return o.cpu_level == name(l); });
    if (level == kCpuLevels.end())
      fail_usage("cpu level ", quoted(o.cpu_level),
                 ", expected auto, portable, avx2, avx512 or avx512vbmi");
    out.level = *level;
  }
  if (o.cpu_math != "exact" && o.cpu_math != "fast")
    fail_usage("cpu math ", quoted(o.cpu_math), ", expected exact or fast");
  out.math = o.cpu_math == "fast" ? CpuMath::kFast : CpuMath::kExact;
  return out;
}

CacheType cache_type_of(const std::string& type, Backend backend) {
  if (type == "auto") return backend == Backend::kCuda ? CacheType::kBF16 : CacheType::kF32;
  if (type == "f32") return CacheType::kF32;
  if (type == "bf16") return CacheType::kBF16;
  if (type == "fp8") return CacheType::kFP8;
  fail_usage("cache type ", quoted(type), ", expected auto, f32, bf16 or fp8");
}

int64_t chunk_of(int64_t asked, Backend backend) {
  if (asked != 0) return asked;
  return backend == Backend::kCuda ? 2048 : 512;
}

}  // namespace dsr
