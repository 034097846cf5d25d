#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What this machine's GPU does:  scripts/gpu_bench.sh [BUILD_DIR [OUTPUT.csv]]
#
# Random weights in the shapes of released models, prefill and decode by depth and batch. Rows go to
# OUTPUT.csv (default: standard output) behind the model and the cache type.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
build=${1:-$root/build/release}
output=${2:-}
header_done=  # sed's command for the first line: keep it once, then delete it

# rows CARD QUANT ARGUMENTS...
rows() {
  local card=$1 quant=$2
  shift 2
  "$build/deepseek-run" bench --random-weights --card "$root/models/$card.json" --quant "$quant" \
    --device cuda --format csv -r 5 "$@" |
    sed -e "1s/^/card,weights,/" -e "2,\$s/^/$card,$quant,/" | sed "1{$header_done}"
  header_done=d
}

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader >&2
{
  rows deepseek-v2-lite fp8 -p 512,4096 -n 64 -d 0,1024,8192 -B 1
  rows deepseek-v2-lite fp8 -p 0 -n 64 -d 512 -B 8,32,64 --chunk 64
  rows deepseek-v2-lite bf16 -p 512,4096 -n 64 -d 1024 -B 1
  rows deepseek-llm-7b bf16 -p 512 -n 64 -d 1024 -B 1
} | if [ -n "$output" ]; then cat >"$output"; else cat; fi
