// SPDX-License-Identifier: MIT
// When every CUDA kernel of a program starts and ends, those in graphs and those that start before
// the one before has ended included. CUDA loads it into the program:
//
//   g++ -O1 -shared -fPIC -o libtimeline.so scripts/kernel_timeline.cc -I$CUDA/include -lcupti
//   CUDA_INJECTION64_PATH=$PWD/libtimeline.so TIMELINE_OUT=times TIMELINE_LAST=120 PROGRAM ...
//
// A line per kernel, the last TIMELINE_LAST of them by their ends, times in microseconds: its
// start, from the end of the one before to its own (what it adds to a step), its duration, blocks,
// dynamic shared memory in bytes, name. CUPTI comes with the CUDA Toolkit (libcupti.so must be
// found).
#include <cupti.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

constexpr size_t kBufferBytes = size_t{32} << 20;

struct Kernel {
  uint64_t start, end;  // ns
  std::string name;
  int blocks, shared_bytes;
};
std::vector<Kernel>& kernels() {
  static auto& all = *new std::vector<Kernel>;  // it outlives the handlers of exit()
  return all;
}

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* bytes, size_t* max_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *bytes = *buffer == nullptr ? 0 : kBufferBytes;
  *max_records = 0;  // as many as fit
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid_bytes) {
  CUpti_Activity* record = nullptr;
  while (valid_bytes > 0 &&
         cuptiActivityGetNextRecord(buffer, valid_bytes, &record) == CUPTI_SUCCESS) {
    if (record->kind != CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) continue;
    const auto* k = reinterpret_cast<const CUpti_ActivityKernel9*>(record);
    kernels().push_back({k->start, k->end, k->name == nullptr ? "?" : k->name,
                         k->gridX * k->gridY * k->gridZ, k->dynamicSharedMemory});
  }
  std::free(buffer);
}

double micros(uint64_t ns) { return static_cast<double>(ns) / 1e3; }

void print() {
  cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  std::vector<Kernel>& all = kernels();
  std::sort(all.begin(), all.end(), [](const Kernel& a, const Kernel& b) { return a.end < b.end; });
  const char* path = std::getenv("TIMELINE_OUT");
  std::FILE* out = path == nullptr ? stderr : std::fopen(path, "w");
  if (out == nullptr) return std::perror(path);
  const char* last = std::getenv("TIMELINE_LAST");
  const size_t n = last == nullptr ? all.size() : std::strtoull(last, nullptr, 10);
  const size_t first = all.size() > n ? all.size() - n : 0;
  uint64_t begin = UINT64_MAX;
  for (size_t i = first; i < all.size(); ++i) begin = std::min(begin, all[i].start);
  for (size_t i = first; i < all.size(); ++i) {
    const Kernel& k = all[i];
    const uint64_t before = i == 0 ? k.start : all[i - 1].end;
    std::fprintf(out, "%10.2f %8.2f %8.2f %6d %6d %s\n", micros(k.start - begin),
                 micros(k.end - before), micros(k.end - k.start), k.blocks, k.shared_bytes,
                 k.name.c_str());
  }
  if (path != nullptr) std::fclose(out);
}

}  // namespace

extern "C" int InitializeInjection() {
  cuptiActivityRegisterCallbacks(give_buffer, take_buffer);
  if (cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) != CUPTI_SUCCESS)
    std::fprintf(stderr, "kernel_timeline: CUPTI does not trace kernels here\n");
  std::atexit(print);
  return 1;
}
