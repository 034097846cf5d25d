// What the words of EngineOptions mean.
#pragma once

#include <string>

#include "deepseek_run/engine.h"
#include "device/exec.h"
#include "tensor/kv_format.h"

namespace dsr {

// Where `--device` says that a model runs.
struct DeviceChoice {
  Backend backend = Backend::kCpu;
  int cuda_device = 0;
  std::string note = {};  // why auto took the cpu although the program could use a GPU

  // These throw Error(kDevice) where the GPU is not there.
  std::string gpu_name() const;  // empty on the host
  // What `--cuda-arch` comes to, on a GPU.
  int64_t gpu_arch(int64_t asked) const;
};

// These throw Error(kUsage) for a word that is none of theirs.
DeviceChoice choose_device(const std::string& device);
CpuOptions cpu_options(const EngineOptions& options);
CacheType cache_type_of(const std::string& type, Backend backend);

// Most prompt tokens in a step. 0 asks for the device's own: 2,048 on a GPU, whose experts have few
// tokens each in smaller steps, 512 elsewhere.
int64_t chunk_of(int64_t asked, Backend backend);

}  // namespace dsr
