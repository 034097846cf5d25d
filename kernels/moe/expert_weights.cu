// The table of expert weights: it travels as arguments of a kernel, so that no copy from the host
// is in the way of a graph.
#include "moe/expert_weights.h"

#include <algorithm>

#include "common/ptx.cuh"

namespace dsr::cuda {
namespace {

constexpr int kEntriesPerLaunch = 128;  // 3 KB of arguments

struct TablePart {
  ExpertEntry entries[kEntriesPerLaunch];
  ExpertEntry* out;
  int n;
};

__global__ __launch_bounds__(kEntriesPerLaunch) void table_kernel(
    const __grid_constant__ TablePart p) {
  wait_for_previous_kernel();
  const int i = static_cast<int>(threadIdx.x);
  if (i < p.n) p.out[i] = p.entries[i];
}

ExpertEntry entry(const WeightSegment& s) {
  const bool fp8 = s.data.dtype == DType::kF8E4M3;
  return {.data = static_cast<const std::byte*>(s.data.data),
          .scales = fp8 ? static_cast<const std::byte*>(s.scales.data) : nullptr,
          .dtype = s.data.dtype,
          .scale_dtype = s.scales.dtype};
}

int64_t distance(const std::byte* from, const std::byte* to) {
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from));
}

// Every stride-th segment from the first.
ExpertSegments in_steps(std::span<const WeightSegment> s, size_t first, size_t stride) {
  ExpertSegments out{.first = entry(s[first]), .data_step = 0, .scale_step = 0, .table = nullptr};
  if (first + stride >= s.size()) return out;
  const ExpertEntry next = entry(s[first + stride]);
  out.data_step = distance(out.first.data, next.data);
  out.scale_step = distance(out.first.scales, next.scales);
  return out;
}
bool holds(const ExpertSegments& e, std::span<const WeightSegment> s, size_t first, size_t stride) {
  for (size_t i = first, n = 0; i < s.size(); i += stride, ++n) {
    const ExpertEntry got = entry(s[i]);
    const auto k = static_cast<int64_t>(n);
    if (distance(e.first.data, got.data) != k * e.data_step ||
        distance(e.first.scales, got.scales) != k * e.scale_step || got.dtype != e.first.dtype)
      return false;
  }
  return true;
}

}  // namespace

int64_t expert_table_bytes(const MoeExpertsArgs& a) {
  return static_cast<int64_t>((a.gate_up.segments.size() + a.down.segments.size()) *
                              sizeof(ExpertEntry));
}

ExpertWeights expert_weights(Exec& exec, const MoeExpertsArgs& a, const Tensor& table,
                             bool always) {
  const std::span<const WeightSegment> gate_up(a.gate_up.segments), down(a.down.segments);
  ExpertWeights out{
      .gate = in_steps(gate_up, 0, 2), .up = in_steps(gate_up, 1, 2), .down = in_steps(down, 0, 1)};
  if (!always && holds(out.gate, gate_up, 0, 2) && holds(out.up, gate_up, 1, 2) &&
      holds(out.down, down, 0, 1))
    return out;
  const size_t E = down.size();
  std::vector<ExpertEntry> entries;  // gate of all experts, up of all, down of all
  for (size_t i = 0; i < 2 * E; i += 2) entries.push_back(entry(gate_up[i]));
  for (size_t i = 1; i < 2 * E; i += 2) entries.push_back(entry(gate_up[i]));
  for (const WeightSegment& s : down) entries.push_back(entry(s));
  auto* const to = table.ptr<ExpertEntry>();
  for (size_t at = 0; at < entries.size(); at += kEntriesPerLaunch) {
    TablePart part{};
    part.out = to + at;
    part.n = static_cast<int>(std::min<size_t>(kEntriesPerLaunch, entries.size() - at));
    std::copy_n(entries.begin() + static_cast<int64_t>(at), part.n, part.entries);
    launch(exec, "moe_experts", {.grid = dim3(1), .threads = kEntriesPerLaunch}, table_kernel,
           part);
  }
  out.gate.table = to;
  out.up.table = to + E;
  out.down.table = to + 2 * E;
  return out;
}

}  // namespace dsr::cuda
