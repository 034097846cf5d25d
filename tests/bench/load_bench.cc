// How fast a file in the page cache gets to a GPU, by the shape of the upload.
//
//   load_bench FILE      CSV on standard output; the file should be some GB, and cached
//
// The pinned rate is the ceiling: one copy from memory that is pinned already.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>

#include "base/mapped_file.h"
#include "base/timer.h"
#include "device/exec.h"

namespace dsr {
namespace {

constexpr int kRepetitions = 3;

// Seconds of the best of several.
double best(const std::function<void()>& work) {
  double out = 1e300;
  for (int i = 0; i < kRepetitions; ++i) {
    const Timer timer;
    work();
    out = std::min(out, timer.seconds());
  }
  return out;
}

void print(const char* what, int threads, int64_t piece_bytes, double bytes, double seconds) {
  std::printf("%s,%d,%lld,%.3f,%.1f\n", what, threads, static_cast<long long>(piece_bytes >> 10),
              seconds, bytes / seconds * 1e-9);
  std::fflush(stdout);
}

int run(const std::string& path) {
  Exec exec(Backend::kCuda);
  const MappedFile file = MappedFile::open(path);
  const int64_t bytes = file.size_bytes();
  Buffer memory(exec, MemoryKind::kWeights, bytes);
  std::printf("what,threads,piece_KiB,seconds,GB/s\n");
  {
    constexpr int64_t kBytes = int64_t{256} << 20;
    constexpr int kCopies = 8;
    const PinnedMemory pinned(kBytes);
    Buffer to(exec, MemoryKind::kWeights, kBytes);
    print("pinned", 1, kBytes, static_cast<double>(kCopies * kBytes), best([&] {
            for (int i = 0; i < kCopies; ++i)
              exec.cuda().upload_pinned(to.data(), pinned.data(), kBytes);
            exec.cuda().synchronize();
          }));
  }
  for (const int threads : {4, 8, 12, 16, 24})
    for (const int64_t mib : {1, 2, 4, 8}) {
      const UploadShape shape{.max_threads = threads, .piece_bytes = mib << 20};
      print("upload", threads, shape.piece_bytes, static_cast<double>(bytes), best([&] {
              exec.cuda().upload_all({{.to = memory.data(), .from = file.data(), .bytes = bytes}},
                                     shape);
            }));
    }
  return 0;
}

}  // namespace
}  // namespace dsr

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "load_bench FILE\n");
    return 2;
  }
  try {
    return dsr::run(argv[1]);
  } catch (const dsr::Error& e) {
    std::fprintf(stderr, "load_bench: %s\n", e.what());
    return 1;
  }
}
