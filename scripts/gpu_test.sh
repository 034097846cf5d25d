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
    grep -aE '^\[  FAILED  \]|Failure|rror' "$logs/$name.log" | sort | uniq -c | sort -rn | head -25
  fi
}

# sharded BINARY ARGUMENTS...: the tests of one binary shared out over several processes, whose work
# on the host (the definitions they compare with) takes longest.
sharded() {
  local shards=8 pids=() status=0
  for ((i = 0; i < shards; ++i)); do
    GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$i "$@" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || status=1; done
  return "$status"
}
export -f sharded

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
ops=$(find "$build" -name ops_test -type f | head -1)
model=$(find "$build" -name model_cuda_test -type f | head -1)
engine=$(find "$build" -name engine_cuda_test -type f | head -1)
part ops 240 bash -c 'sharded "$@"' - "$ops" --gtest_brief=1 '--gtest_filter=*cuda*'
part model 240 bash -c 'sharded "$@"' - "$model" --gtest_brief=1
part engine 120 bash -c 'sharded "$@"' - "$engine" --gtest_brief=1
part tiny 180 python3 "$root/scripts/measure_tiny.py" "$build/deepseek-run" \
  --only sums --only skills --limit 8 --jobs 4 --arg=--device --arg=cuda
if command -v compute-sanitizer >/dev/null; then
  small='*Mla*Attention*cuda*:*Gqa*Attention*cuda*:*WriteKv*cuda*:*Rows*cuda*:*Linear*cuda*'
  part memcheck 240 compute-sanitizer --tool memcheck --error-exitcode 9 "$ops" \
    --gtest_brief=1 "--gtest_filter=$small"
  part racecheck 240 compute-sanitizer --tool racecheck --error-exitcode 9 "$ops" \
    --gtest_brief=1 "--gtest_filter=*Attention*MatchesTheFormula*cuda*"
fi
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
echo "all passed"
