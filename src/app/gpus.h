// What is known of the GPUs that a plan may name.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace dsr {

// Memory and bandwidth as their vendor states them.
struct GpuModel {
  const char* name;
  int64_t memory_bytes;
  int64_t gb_per_s;  // 1e9 bytes
};
std::span<const GpuModel> gpu_models();  // by memory, then by bandwidth

struct GpuSet {
  const GpuModel* gpu = nullptr;
  int64_t count = 0;
};
// "8xA100-80", or one without "1x". Throws Error(kUsage) that lists the names.
GpuSet parse_gpus(std::string_view text);

}  // namespace dsr
