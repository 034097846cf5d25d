#include "app/gpus.h"

#include <array>
#include <charconv>

#include "base/error.h"

namespace dsr {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;
constexpr int64_t kMaxGpus = 1024;

// Data sheets of NVIDIA. SXM boards where a name has two forms. H200, B200 and H20 are sold as 141,
// 192 and 96 GB; what a program sees of the first two is 140 and 178 GiB.
constexpr std::array kGpus = {
    GpuModel{"L4", 24 * kGiB, 300},
    GpuModel{"A10", 24 * kGiB, 600},
    GpuModel{"RTX-3090", 24 * kGiB, 936},
    GpuModel{"RTX-4090", 24 * kGiB, 1008},
    GpuModel{"V100-32", 32 * kGiB, 900},
    GpuModel{"A100-40", 40 * kGiB, 1555},
    GpuModel{"A6000", 48 * kGiB, 768},
    GpuModel{"L40S", 48 * kGiB, 864},
    GpuModel{"A100-80-PCIe", 80 * kGiB, 1935},
    GpuModel{"H100-PCIe", 80 * kGiB, 2000},
    GpuModel{"A100-80", 80 * kGiB, 2039},
    GpuModel{"A800-80", 80 * kGiB, 2039},
    GpuModel{"H100", 80 * kGiB, 3350},
    GpuModel{"H800", 80 * kGiB, 3350},
    GpuModel{"H20", 96 * kGiB, 4000},
    GpuModel{"H200", 140 * kGiB, 4800},
    GpuModel{"B200", 178 * kGiB, 8000},
};

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool same_word(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (lower(a[i]) != lower(b[i])) return false;
  return true;
}

}  // namespace

std::span<const GpuModel> gpu_models() { return kGpus; }

GpuSet parse_gpus(std::string_view text) {
  GpuSet out{nullptr, 1};
  std::string_view word = text;
  int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  const auto digits = static_cast<size_t>(end - text.data());
  if (error == std::errc() && digits < text.size() && lower(text[digits]) == 'x') {
    out.count = count;
    word = text.substr(digits + 1);
  }
  if (out.count < 1 || out.count > kMaxGpus)
    fail_usage("--gpus ", quoted(text), ": the number is ", out.count, ", expected 1 to ",
               kMaxGpus);
  std::string known;
  for (const GpuModel& gpu : kGpus) {
    if (same_word(word, gpu.name)) out.gpu = &gpu;
    known += (known.empty() ? "" : ", ") + std::string(gpu.name);
  }
  if (out.gpu == nullptr)
    fail_usage("--gpus ", quoted(text), ", expected NxNAME, such as 8xA100-80, of: ", known);
  return out;
}

}  // namespace dsr
