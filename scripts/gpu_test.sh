#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every test that needs a GPU, on this machine's:  scripts/gpu_test.sh [BUILD_DIR [LOG_DIR]]
#
# BUILD_DIR holds a build with tests (default: build/release). Each part has its own time limit and
# log; the last lines say which failed. Exit status 1 if any did. compute-sanitizer is used where
# it is.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
build=${1:-$root/build/release}
logs=${2:-$build/gpu_logs}
mkdir -p "$logs"
failed=()

# part NAME SECONDS COMMAND...
part() {
  local name=$1 seconds=$2 begin=$SECONDS
  shift 2
  if timeout -k 5 "$seconds" "$@" >"$logs/$name.log" 2>&1; then
    echo "ok      $name ($((SECONDS - begin)) s)"
  else
    failed+=("$name")
    echo "FAILED  $name ($((SECONDS - begin)) s, $logs/$name.log)"
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

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
ops=$(find "$build" -name ops_test -type f | head -1)
model=$(find "$build" -name model_cuda_test -type f | head -1)
engine=$(find "$build" -name engine_cuda_test -type f | head -1)
part ops 240 bash -c 'isolated "$@"' - "$ops" '*cuda*'
part model 240 bash -c 'isolated "$@"' - "$model" '*'
part engine 120 bash -c 'isolated "$@"' - "$engine" '*'
part tiny 180 python3 "$root/scripts/measure_tiny.py" "$build/deepseek-run" \
  --only sums --only skills --limit 8 --jobs 4 --arg=--device --arg=cuda
if command -v compute-sanitizer >/dev/null; then
  small='*Attention*cuda*:*WriteKv*cuda*:*Rows*cuda*:*Linear*cuda*:*Moe*cuda*:*Swiglu*cuda*'
  small+=':*Projection*cuda*:*Norm*cuda*:*LogProbs*cuda*:*Penalties*cuda*'
  races='*Attention*Matches*cuda*:*Moe*Neigh*cuda*:*Linear*Matches*cuda*:*Rms*Matches*cuda*'
  races+=':*Write*Float32*cuda*:*Cuts*cuda*:*LogProbs*cuda*'
  part memcheck 240 compute-sanitizer --tool memcheck --error-exitcode 9 "$ops" \
    --gtest_brief=1 "--gtest_filter=$small"
  part racecheck 240 compute-sanitizer --tool racecheck --error-exitcode 9 "$ops" \
    --gtest_brief=1 "--gtest_filter=$races"
fi
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
echo "all passed"
