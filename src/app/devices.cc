#include "deepseek_run/devices.h"

#include <string>
#include <vector>

#include "app/format.h"
#include "app/machine.h"
#include "base/error.h"
#include "device/cpu_context.h"
#include "device/cpu_topology.h"
#include "device/cuda_context.h"
#include "engine/memory_plan.h"

namespace dsr {

std::string devices_text() {
  const std::string model = field_of("/proc/cpuinfo", "model name");
  const int threads = default_threads();
  std::string cpu = str(model.empty() ? "" : escaped(model) + ", ", threads,
                        threads == 1 ? " thread, " : " threads, ", name(best_cpu_level()));
  if (const int64_t bytes = available_host_bytes(); bytes > 0)
    cpu += str(", ", fixed(static_cast<double>(bytes) / (1 << 30), 1), " GiB of memory free");
  std::vector<std::vector<std::string>> rows;
  for (const CudaDevice& d : cuda_devices())
    rows.push_back(
        {str("cuda:", rows.size()),
         str(escaped(d.name), ", compute capability ", d.arch / 10, ".", d.arch % 10, ", ",
             fixed(static_cast<double>(d.memory_bytes) / (1 << 30), 1), " GiB of memory")});
  rows.push_back({"cpu", cpu});
  rows.push_back({"reference", "every operation by its plain definition"});
  return table({{}, {}}, rows);
}

}  // namespace dsr
