// What the ranks of one model say to each other.
#pragma once

#include "device/exec.h"
#include "tensor/tensor.h"

namespace dsr {

// Collective calls: every rank makes the same calls in the same order. Results do not depend on
// timing: sums are taken in rank order. A call throws Error(kDevice) on every rank once any rank
// has aborted.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // t = sum over ranks of t, in place; f32, contiguous, the same shape everywhere.
  virtual void all_reduce_sum(Exec& exec, const Tensor& t) = 0;
  // out [size, ...] = every rank's `in` [...], by rank.
  virtual void all_gather(Exec& exec, const Tensor& out, const Tensor& in) = 0;
  // out[r] = what rank r has in its in[rank()]; both [size, ...].
  virtual void all_to_all(Exec& exec, const Tensor& out, const Tensor& in) = 0;
  // Wakes every rank that waits, and makes all later calls throw. From any thread.
  virtual void abort() = 0;
};

// A single rank: nothing to say.
class SelfCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce_sum(Exec&, const Tensor&) override {}
  void all_gather(Exec& exec, const Tensor& out, const Tensor& in) override;
  void all_to_all(Exec& exec, const Tensor& out, const Tensor& in) override;
  void abort() override {}
};

// What a layer needs to know of where it runs.
struct Rank {
  Exec& exec;
  Communicator& comm;
};

}  // namespace dsr
