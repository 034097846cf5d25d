#include "deepseek_run/devices.h"

#include "app/format.h"
#include "app/machine.h"
#include "base/error.h"
#include "device/cpu_context.h"
#include "device/cpu_topology.h"
#include "engine/memory_plan.h"

namespace dsr {

std::string devices_text() {
  const std::string model = field_of("/proc/cpuinfo", "model name");
  const int threads = default_threads();
  std::string cpu = str(model.empty() ? "" : escaped(model) + ", ", threads,
                        threads == 1 ? " thread, " : " threads, ", name(best_cpu_level()));
  if (const int64_t bytes = available_host_bytes(); bytes > 0)
    cpu += str(", ", fixed(static_cast<double>(bytes) / (1 << 30), 1), " GiB of memory free");
  return table({{}, {}}, {{"cpu", cpu}, {"reference", "every operation by its plain definition"}});
}

}  // namespace dsr
