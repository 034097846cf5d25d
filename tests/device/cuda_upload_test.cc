// Weights on their way to a GPU arrive whole, whatever their sizes and however they are shared out.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "base/rng.h"
#include "device/exec.h"
#include "support/expect_error.h"

namespace dsr::test {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr std::byte kUntouched{0xa5};
constexpr int64_t kGap = 3;  // between ranges: nobody writes there, and nothing is aligned

class CudaUpload : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << cuda_absence();
  }

  static std::vector<std::byte> random_bytes(int64_t n) {
    std::vector<std::byte> out(static_cast<size_t>(n));
    PhiloxStream random(4, 2);
    for (size_t i = 0; i + 4 <= out.size(); i += 4) {
      const uint32_t word = random.next_u32();
      std::memcpy(&out[i], &word, 4);
    }
    return out;
  }
};

TEST_F(CudaUpload, EveryByteArrivesAndNoOtherIsTouched) {
  const std::vector<int64_t> sizes = {0, 1, 4097, kMiB, 2 * kMiB, 2 * kMiB + 1, 9 * kMiB + 5, 7};
  int64_t total = kGap;
  for (const int64_t n : sizes) total += n + kGap;
  const std::vector<std::byte> from = random_bytes(total);
  std::vector<std::byte> want(from.size(), kUntouched);
  const UploadShape shapes[] = {{},
                                {.max_threads = 1, .piece_bytes = kMiB},
                                {.max_threads = 3, .piece_bytes = 4096},
                                {.max_threads = 64, .piece_bytes = 16 * kMiB}};
  for (const UploadShape& shape : shapes) {
    Exec exec(Backend::kCuda);
    Buffer to(exec, MemoryKind::kWeights, total);
    to.fill(0, total, static_cast<int>(kUntouched));
    exec.cuda().synchronize();
    std::vector<HostRange> ranges;
    int64_t at = kGap;
    for (const int64_t n : sizes) {
      ranges.push_back({.to = to.data() + at, .from = &from[static_cast<size_t>(at)], .bytes = n});
      std::memcpy(&want[static_cast<size_t>(at)], &from[static_cast<size_t>(at)],
                  static_cast<size_t>(n));
      at += n + kGap;
    }
    exec.cuda().upload_all(ranges, shape);
    std::vector<std::byte> got(from.size());
    exec.download(got.data(), to.data(), total);
    EXPECT_TRUE(got == want) << shape.max_threads << " threads, pieces of " << shape.piece_bytes;
  }
}

TEST_F(CudaUpload, NothingIsNothing) {
  Exec exec(Backend::kCuda);
  exec.cuda().upload_all({});
}

TEST_F(CudaUpload, ANanCodeInAnyPieceIsAnError) {
  Exec exec(Backend::kCuda);
  constexpr int64_t kBytes = 5 * kMiB + 1;
  Buffer to(exec, MemoryKind::kWeights, kBytes);
  for (const int64_t at : {int64_t{0}, 2 * kMiB, kBytes - 1}) {
    std::vector<std::byte> codes(static_cast<size_t>(kBytes), std::byte{0x7e});
    const HostRange named{to.data(), codes.data(), kBytes, "a weight (file x)"};
    exec.cuda().upload_all({named});
    codes[static_cast<size_t>(at)] = std::byte{0xff};
    const std::string error =
        error_of([&] { exec.cuda().upload_all({named}); }, ErrorKind::kNonFinite);
    EXPECT_EQ(error,
              "a weight (file x): some of its FP8 values are NaN: the file is damaged\n"
              "  try: deepseek-run verify");
    const HostRange plain{to.data(), codes.data(), kBytes};  // not FP8: any byte will do
    exec.cuda().upload_all({plain});
  }
}

}  // namespace
}  // namespace dsr::test
