#include "app/machine.h"

#include <malloc.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <locale>
#include <sstream>

namespace dsr {

std::string field_of(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key))
      if (const size_t at = line.find_first_not_of(" \t", line.find(':') + 1); at != line.npos)
        return line.substr(at);
  return "";
}

double number_of(const std::string& path, const std::string& key) {
  std::istringstream in(field_of(path, key));
  in.imbue(std::locale::classic());
  double value = 0;
  in >> value;
  return value;
}

double clock_mhz() { return number_of("/proc/cpuinfo", "cpu MHz"); }

double process_seconds() {
  std::ifstream in("/proc/self/stat");
  const std::string text(std::istreambuf_iterator<char>(in), {});
  // The name, in parentheses, may hold anything; the start is the 20th field behind it.
  std::istringstream fields(text.substr(std::min(text.rfind(')') + 1, text.size())));
  fields.imbue(std::locale::classic());
  std::string word;
  for (int i = 0; i < 19; ++i) fields >> word;
  double start_ticks = 0;
  timespec now{};
  if (!(fields >> start_ticks) || ::clock_gettime(CLOCK_BOOTTIME, &now) != 0) return 0;
  const double start = start_ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
  return std::max(
      0.0, static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec) - start);
}

int64_t peak_memory_bytes() {
  return static_cast<int64_t>(number_of("/proc/self/status", "VmHWM")) * 1024;
}

void give_memory_back() {
#ifdef __GLIBC__
  ::mallopt(M_MMAP_THRESHOLD, 1 << 20);  // set once, it no longer grows with what is freed
  ::malloc_trim(0);
#endif
}

void reset_peak_memory() { std::ofstream("/proc/self/clear_refs") << "5"; }

}  // namespace dsr
