#include "device/cpu_topology.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>

#include "base/error.h"

namespace dsr {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

// Of a v2 group: "max 100000" or "QUOTA PERIOD". 0: unlimited.
double quota_v2(const std::string& group) {
  std::ifstream in(group + "/cpu.max");
  double quota = 0, period = 0;
  return in >> quota >> period && period > 0 ? quota / period : 0;
}

double quota_v1(const std::string& group) {
  std::ifstream quota_in(group + "/cpu.cfs_quota_us"), period_in(group + "/cpu.cfs_period_us");
  double quota = 0, period = 0;
  return quota_in >> quota && period_in >> period && quota > 0 && period > 0 ? quota / period : 0;
}

// The process's path in the v2 hierarchy ("/" in most containers) and in v1's "cpu" one.
struct GroupPaths {
  std::string v2 = "/", v1 = "/";
};
GroupPaths group_paths(const std::string& root) {
  GroupPaths out;
  std::ifstream in(root + "proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (controllers == ",,") out.v2 = line.substr(second + 1);
    if (controllers.find(",cpu,") != controllers.npos) out.v1 = line.substr(second + 1);
  }
  return out;
}

// The least of what a group and its parents grant.
double tightest(const std::string& mount, std::string path, double (*quota)(const std::string&)) {
  double out = 0;
  for (;;) {
    const double here = quota(mount + path);
    if (here > 0) out = out > 0 ? std::min(out, here) : here;
    const size_t slash = path.rfind('/');
    if (slash == path.npos) return out;
    path.resize(slash);
  }
}

}  // namespace

std::vector<int> allowed_cpus() {
  // The kernel refuses a mask smaller than its own: grow until it fits.
  for (int n = 1024; n <= 1 << 20; n *= 2) {
    cpu_set_t* set = CPU_ALLOC(static_cast<size_t>(n));
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(n));
    std::vector<int> out;
    if (sched_getaffinity(0, bytes, set) == 0)
      for (int cpu = 0; cpu < n; ++cpu)
        if (CPU_ISSET_S(static_cast<size_t>(cpu), bytes, set)) out.push_back(cpu);
    CPU_FREE(set);
    if (!out.empty()) return out;
  }
  return {0};
}

std::vector<int> physical_cores(const std::vector<int>& cpus, const std::string& root) {
  std::set<std::string> seen;
  std::vector<int> out;
  for (const int cpu : cpus) {
    // "0,64" or "0-1": the same text on every hyperthread of a core.
    const std::string core =
        first_line(str(root, "sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
    if (core.empty() || seen.insert(core).second) out.push_back(cpu);
  }
  return out;
}

double cpu_quota(const std::string& root) {
  const GroupPaths paths = group_paths(root);
  const double v2 = tightest(root + "sys/fs/cgroup", paths.v2, quota_v2);
  const double v1 = tightest(root + "sys/fs/cgroup/cpu", paths.v1, quota_v1);
  return v1 > 0 && v2 > 0 ? std::min(v1, v2) : std::max(v1, v2);
}

int default_threads() {
  const auto cores = static_cast<int>(physical_cores(allowed_cpus()).size());
  const double quota = cpu_quota();
  if (quota <= 0) return cores;
  return std::clamp(static_cast<int>(std::ceil(quota - 0.01)), 1, cores);
}

}  // namespace dsr
