// What an op wrote, shown to whoever watches the Exec (device/op_watcher.h).
#pragma once

#include "device/exec.h"
#include "tensor/kv_format.h"

namespace dsr {

// The keys and values of the tokens at `slots`, as the cache holds them.
void show_written(Exec& exec, const MlaCacheView& cache, const Tensor& slots);
void show_written(Exec& exec, const GqaCacheView& cache, const Tensor& slots);

// Arguments that ops write, by name. One that is read was shown when it was written: once more is
// idle, not wrong.
template <typename Args>
void show_outputs(Exec& exec, const char* op, const Args& a) {
  OpWatcher& watcher = *exec.watcher();
  watcher.begin(exec, op);
  if constexpr (requires { a.residual; }) watcher.look(exec, "residual", a.residual);
  if constexpr (requires { a.norm.residual; }) {
    watcher.look(exec, "residual", a.norm.residual);
    watcher.look(exec, "out", a.norm.out);
  }
  if constexpr (requires { a.route.expert_weights; }) {
    watcher.look(exec, "expert_ids", a.route.expert_ids);
    watcher.look(exec, "expert_weights", a.route.expert_weights);
  }
  if constexpr (requires { a.out; }) watcher.look(exec, "out", a.out);
  if constexpr (requires { a.value.out; }) watcher.look(exec, "out", a.value.out);
  if constexpr (requires { a.routed.out; }) watcher.look(exec, "out", a.routed.out);
  if constexpr (requires { a.expert_weights; }) {
    if constexpr (requires { a.logits; }) watcher.look(exec, "logits", a.logits);
    watcher.look(exec, "expert_ids", a.expert_ids);
    watcher.look(exec, "expert_weights", a.expert_weights);
  }
  if constexpr (requires { show_written(exec, a.cache, a.slots); })
    show_written(exec, a.cache, a.slots);
  if constexpr (requires { a.write.slots; }) {
    watcher.look(exec, "out", a.query.out);
    show_written(exec, a.write.cache, a.write.slots);
  }
  // `logits` alone: sample and log_probs write what they draw and find, and have flags of their
  // own.
  static_assert(
      requires { a.out; } || requires { a.routed.out; } || requires { a.norm.out; } ||
          requires { a.expert_weights; } || requires { a.slots; } || requires { a.logits; } ||
          requires { a.write; } || requires { a.value.out; },
      "an op that writes something else: name it here");
}

}  // namespace dsr
