#!/bin/sh
# Tests and measures `--cpu-math fast` on a machine with avx512_bf16. Builds nothing: takes the
# directory of a build that has deepseek-run and tests/ops/ops_test, and runs in the repository.
#
#   scripts/cpu_fast_test.sh [BUILD]
set -eu
build=${1:-build/release}
run=$build/deepseek-run

grep -m1 'model name' /proc/cpuinfo
grep -q avx512_bf16 /proc/cpuinfo || {
  echo "this machine has no avx512_bf16" >&2
  exit 1
}
"$build/tests/ops/ops_test" --gtest_brief=1 --gtest_filter='Cpu*'
python3 scripts/cpu_fast_kl.py "$run" SECURITY.md -m models/tiny --device cpu
for math in exact fast; do
  echo "== $math"
  "$run" bench -q --device cpu --cpu-math $math -m models/tiny -p 512 -n 0 -r 5
  "$run" bench -q --device cpu --cpu-math $math -t 2 --random-weights \
    --card models/deepseek-v2-lite.json --quant fp8 --layers 3 -p 512 -n 0 -r 5
done
