#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every test that needs a GPU, on this machine's:  scripts/gpu_test.sh [BUILD_DIR [LOG_DIR]]
#
# BUILD_DIR holds a build (default: build/release) of deepseek-run, device_test, ops_test,
# sample_test, model_cuda_test and engine_cuda_test. In one of the preset cuda80 all kernels are the
# Ampere code, as PTX; --cuda-arch 80 before BUILD_DIR runs the program, in the parts that do, with
# the variants that an A100 could run. Each part has its own time limit and log; the last lines say
# which failed. Exit status 1 if any did. compute-sanitizer is used where it is. PARTS="soak kl" in
# the environment: only these.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
arch=()
if [ "${1:-}" = --cuda-arch ]; then
  arch=(--cuda-arch "$2")
  shift 2
fi
build=${1:-$root/build/release}
logs=${2:-$build/gpu_logs}
mkdir -p "$logs"
failed=()

# part NAME SECONDS COMMAND...
part() {
  local name=$1 seconds=$2 begin=$SECONDS
  shift 2
  if [ -n "${PARTS:-}" ] && [[ " $PARTS " != *" $name "* ]]; then return; fi
  if timeout -k 5 "$seconds" "$@" >"$logs/$name.log" 2>&1; then
    echo "ok      $name ($((SECONDS - begin)) s)"
    if [ "$name" = kl ]; then cat "$logs/$name.log"; fi
  else
    failed+=("$name")
    echo "FAILED  $name ($((SECONDS - begin)) s, $logs/$name.log)"
    if [ "$name" = kl ]; then cat "$logs/$name.log"; fi
    grep -aE '^failed:|rror' "$logs/$name.log" | sort | uniq -c | sort -rn | head -25
  fi
}

# isolated BINARY FILTER: every test of a binary in a process of its own, several at a time: a kernel
# that touches wrong memory takes its whole process with it.
isolated() {
  "$1" --gtest_list_tests "--gtest_filter=$2" |
    awk '/^[^ ]/ { suite = $1 } /^ / { print suite $1 }' |
    xargs -P 8 -I{} sh -c '"$1" --gtest_brief=1 "--gtest_filter=$2" || { echo "failed: $2"; exit 1; }' \
      - "$1" {}
}
export -f isolated

# Without a GPU every test would pass by skipping.
if ! "$build/deepseek-run" --list-devices | grep '^cuda:'; then
  echo "no GPU that $build/deepseek-run can use"
  exit 1
fi
ops=$(find "$build" -name ops_test -type f | head -1)
model=$(find "$build" -name model_cuda_test -type f | head -1)
engine=$(find "$build" -name engine_cuda_test -type f | head -1)
sample=$(find "$build" -name sample_test -type f | head -1)
device=$(find "$build" -name device_test -type f | head -1)
part device 60 "$device" --gtest_brief=1 '--gtest_filter=Cuda*'
part ops 240 bash -c 'isolated "$@"' - "$ops" '*cuda*'
part sample 120 bash -c 'isolated "$@"' - "$sample" '*cuda*'
part model 240 bash -c 'isolated "$@"' - "$model" '*'
part engine 120 bash -c 'isolated "$@"' - "$engine" '*-*Soak*'
part soak 120 "$engine" --gtest_brief=1 '--gtest_filter=*Soak*cuda*'  # alone: it weighs memory
part tiny 180 python3 "$root/scripts/measure_tiny.py" "$build/deepseek-run" \
  --only sums --only skills --limit 8 --jobs 4 --arg=--device --arg=cuda "${arch[@]/#/--arg=}"
if python3 -c 'import torch, transformers, tokenizers' 2>/dev/null; then
  part kl 240 python3 "$root/scripts/measure_kl.py" "$build/deepseek-run" "${arch[@]/#/--arg=}"
else
  echo "skipped kl (no torch, transformers or tokenizers)"
fi
if command -v compute-sanitizer >/dev/null; then
  small='*Attention*cuda*:*WriteKv*cuda*:*Rows*cuda*:*Linear*cuda*:*Moe*cuda*:*Swiglu*cuda*'
  small+=':*Projection*cuda*:*Norm*cuda*'
  races='*Attention*Matches*cuda*:*Moe*Neigh*cuda*:*Linear*Matches*cuda*:*Rms*Matches*cuda*'
  races+=':*Write*Float32*cuda*:*OneToken*Small*cuda*'
  draws='*LogProbs*cuda*:*Penalties*cuda*:*Greedy*cuda*:*Masked*cuda*:*Large*cuda*'
  part memcheck 240 compute-sanitizer --tool memcheck --error-exitcode 9 "$ops" \
    --gtest_brief=1 "--gtest_filter=$small"
  part racecheck 240 compute-sanitizer --tool racecheck --error-exitcode 9 "$ops" \
    --gtest_brief=1 "--gtest_filter=$races"
  for tool in memcheck racecheck; do
    part "${tool}_sample" 120 compute-sanitizer --tool "$tool" --error-exitcode 9 "$sample" \
      --gtest_brief=1 "--gtest_filter=$draws"
  done
fi
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
echo "all passed"
