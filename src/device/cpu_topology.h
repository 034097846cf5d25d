// The processors this process may use.
#pragma once

#include <string>
#include <vector>

namespace dsr {

// The CPUs of the affinity mask, in ascending order; never empty.
std::vector<int> allowed_cpus();

// One CPU of each physical core among `cpus`: the first hyperthread of every core.
// `root` is "/" but for tests.
std::vector<int> physical_cores(const std::vector<int>& cpus, const std::string& root = "/");

// CPUs' worth of time that the process's control group grants (v2 or v1, the tightest of its
// parents), or 0 where nothing is limited. `root` is "/" but for tests.
double cpu_quota(const std::string& root = "/");

// How many threads to compute with unless told: the physical cores that are allowed, no more than
// the quota pays for, at least one.
int default_threads();

}  // namespace dsr
