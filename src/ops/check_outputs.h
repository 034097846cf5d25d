// What an op wrote, looked at where the Exec was told to (device/finite_check.h).
#pragma once

#include "device/exec.h"
#include "tensor/kv_format.h"

namespace dsr {

// The keys and values of the tokens at `slots`, as the cache holds them.
void check_written(Exec& exec, const MlaCacheView& cache, const Tensor& slots);
void check_written(Exec& exec, const GqaCacheView& cache, const Tensor& slots);

// Arguments that ops write, by name. An argument that is read has been looked at when it was
// written: looking again is idle, not wrong.
template <typename Args>
void check_outputs(Exec& exec, const char* op, const Args& a) {
  FiniteCheck* check = exec.finite_check();
  if (check == nullptr) return;
  check->begin(exec, op);
  if constexpr (requires { a.residual; }) check->look(exec, "residual", a.residual);
  if constexpr (requires { a.out; }) check->look(exec, "out", a.out);
  if constexpr (requires { a.routed.out; }) check->look(exec, "out", a.routed.out);
  if constexpr (requires { a.expert_weights; })
    check->look(exec, "expert_weights", a.expert_weights);
  if constexpr (requires { check_written(exec, a.cache, a.slots); })
    check_written(exec, a.cache, a.slots);
  // `logits`: sample and log_probs write what they draw and find, and have flags of their own.
  static_assert(
      requires { a.out; } || requires { a.routed.out; } || requires { a.expert_weights; } ||
          requires { a.slots; } || requires { a.logits; },
      "an op that writes something else: name it here");
}

}  // namespace dsr
