// The backends that op tests run on.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <ostream>
#include <string>
#include <vector>

#include "device/exec.h"
#include "support/close.h"
#include "support/tensor_maker.h"

namespace dsr::test {

struct BackendUnderTest {
  Backend backend;
  DType activation;
  CpuLevel level = CpuLevel::kPortable;  // of kCpu
};
inline std::ostream& operator<<(std::ostream& out, const BackendUnderTest& b) {
  out << name(b.backend) << " " << name(b.activation);
  return b.backend == Backend::kCpu ? out << " " << name(b.level) : out;
}

// `reference` on both activation types: on bf16 it is what a GPU is compared with. The cpu at every
// level that this machine has. A build with CUDA has its ops too: without a GPU they are skipped by
// name. Tensors of tests are then pinned host memory, which a GPU reads and writes in place, and
// every kernel is waited for.
inline std::vector<BackendUnderTest> backends_under_test() {
  ::setenv("CUDA_LAUNCH_BLOCKING", "1", 1);  // before the first call of CUDA
  std::vector<BackendUnderTest> out = {{Backend::kReference, DType::kF32},
                                       {Backend::kReference, DType::kBF16}};
  for (const CpuLevel level : kCpuLevels)
    if (level <= best_cpu_level()) out.push_back({Backend::kCpu, DType::kF32, level});
  if (built_with_cuda()) out.push_back({Backend::kCuda, DType::kBF16});
  return out;
}

inline std::string backend_name(const testing::TestParamInfo<BackendUnderTest>& info) {
  std::string out = testing::PrintToString(info.param);
  for (char& c : out)
    if (c == ' ' || c == '-') c = '_';
  return out;
}

// The cpu with three threads, so that work is shared out unevenly.
inline Exec make_exec(const BackendUnderTest& b) {
  if (b.backend == Backend::kReference || (b.backend == Backend::kCuda && cuda_devices().empty()))
    return Exec::reference_with(b.activation);
  return Exec(b.backend, false, {.threads = 3, .level = b.level});
}

// Gives the arena its memory, and poisons what it hands out.
inline void give_scratch(Exec& exec, int64_t bytes) {
  exec.scratch().reserve(Buffer(exec, MemoryKind::kActivations, bytes));
  exec.scratch().set_poison(true);
}

// A test on one backend: class XTest : public OpTest {}; and, with the suite's name,
//   INSTANTIATE_TEST_SUITE_P(Backends, XTest, testing::ValuesIn(backends_under_test()),
//                            backend_name);
class OpTest : public testing::TestWithParam<BackendUnderTest> {
 protected:
  OpTest() { give_scratch(exec, exec.backend() == Backend::kCuda ? 1 << 28 : 1 << 20); }
  void SetUp() override {
    if (on_cuda() && exec.backend() != Backend::kCuda) GTEST_SKIP() << cuda_absence();
  }

  bool on_cuda() const { return GetParam().backend == Backend::kCuda; }

  DType activation() const { return GetParam().activation; }
  Tensor random_activation(const Shape& shape) { return make.normal(activation(), shape); }
  Tensor empty_activation(const Shape& shape) { return make.empty(activation(), shape); }

  // Half an ulp of the stored type; a little more, as values pass through float32 on the way.
  static double rounding(DType dtype) {
    return dtype == DType::kBF16 ? 0x1.02p-8 : dtype == DType::kF16 ? 0x1.02p-11 : 0x1.02p-24;
  }
  // A sum of n products whose running total is of the order of `size`, rounded to `dtype`.
  // reference sums in float64. Elsewhere n float32 additions each err by at most 2^-24 of the
  // total: a random walk of sqrt(n / 3) such steps; six standard deviations are below
  // 4 sqrt(n) 2^-24.
  Tolerance sum_of(int64_t n, DType dtype, double size = 1) const {
    const double walk = 4 * std::sqrt(static_cast<double>(n)) * 0x1p-24;
    const bool exact = GetParam().backend == Backend::kReference;
    return {.rel = rounding(dtype), .abs = size * (exact ? 1e-12 : walk)};
  }

  Exec exec = make_exec(GetParam());
  TensorMaker make{20241226};
};

}  // namespace dsr::test
