// What op_bench measures with: weights and activations cut from pools, and rows of CSV.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "device/peaks.h"
#include "tensor/quant.h"

namespace dsr::test {

// Device memory full of random weights of one type. Tensors are cut from it one after the other.
class Pool {
 public:
  Pool(Exec& exec, DType dtype, int64_t bytes);
  void rewind() { used_ = 0; }
  Tensor cut(const Shape& shape);

 private:
  DType dtype_;
  Buffer buffer_;
  int64_t used_ = 0;
};

struct Row {
  std::string op, model, shape;
  DType dtype;
  int64_t T;
  double bytes, flop;  // of one launch
};

class Bench {
 public:
  // Measures the ceilings, and prints the first line.
  Bench(Exec& exec, std::string filter);

  Exec& exec() { return exec_; }
  bool wanted(const Row& row) const;

  // What was cut may be cut again.
  void rewind();
  Weight weight(DType dtype, const std::vector<int64_t>& rows, int64_t K);
  Tensor activation(const Shape& shape) { return activations_.cut(shape); }
  // How many different weights of `bytes` go round: several times the L2, within the pools.
  int64_t copies(DType dtype, int64_t bytes) const;

  // Measures and prints a row. launch(i): the i-th of the launches that go round.
  void run(const Row& row, int64_t n_different, const std::function<void(int64_t)>& launch);

 private:
  Exec& exec_;
  std::string filter_;
  Peaks peaks_;
  Pool fp8_, bf16_, scales_, activations_;
};

// The rows, by what is measured.
void bench_linears(Bench& bench);  // and swiglu
void bench_experts(Bench& bench);  // and their router
void bench_mla(Bench& bench);      // projections, decode rows, prompts
void bench_sampling(Bench& bench);

}  // namespace dsr::test
