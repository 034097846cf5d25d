#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What this machine's GPU does:  scripts/gpu_bench.sh [--cuda-arch 80] [BUILD_DIR [OUTPUT.csv]]
#
# Random weights in the shapes of released models, prefill and decode by depth and batch. Rows go to
# OUTPUT.csv (default: standard output) behind the model and the type of its weights. Rows of the
# Ampere code (a build of the preset cuda80 in build/cuda80, or --cuda-arch 80) say so behind the
# model's name: "deepseek-v2-lite cuda80", "deepseek-v2-lite arch80". They are fewer. So do those of
# prompts in smaller chunks than a GPU takes by itself, and of the fp8 cache.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
arch=() name=
if [ "${1:-}" = --cuda-arch ]; then
  arch=(--cuda-arch "$2") name=" arch$2"
  shift 2
fi
build=${1:-$root/build/release}
output=${2:-}
if [ "$(basename "$build")" = cuda80 ]; then name=" cuda80"; fi
header_done=  # sed's command for the first line: keep it once, then delete it

# rows CARD QUANT ARGUMENTS...
rows() {
  local card=$1 quant=$2
  shift 2
  "$build/deepseek-run" bench --random-weights --card "$root/models/$card.json" --quant "$quant" \
    --device cuda --format csv -r 5 "${arch[@]}" "$@" |
    sed -e "1s/^/card,weights,/" -e "2,\$s/^/$card$name,$quant,/" | sed "1{$header_done}"
  header_done=d
}

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader >&2
{
  rows deepseek-v2-lite fp8 -p 512,4096 -n 64 -d 0,1024,8192 -B 1
  rows deepseek-v2-lite fp8 -p 0 -n 64 -d 512 -B 8,32,64 --chunk 64
  rows deepseek-v2-lite fp8 -p 0 -n 64 -d 32768 -B 1
  name="$name fp8-cache" rows deepseek-v2-lite fp8 -p 0 -n 64 -d 1024,8192 -B 1,8 --cache-type fp8
  if [ -z "$name" ]; then
    name=" chunk512" rows deepseek-v2-lite fp8 -p 4096 -n 0 -d 0,8192 -B 1 --chunk 512
    rows deepseek-v2-lite bf16 -p 512,4096 -n 64 -d 1024 -B 1
    rows deepseek-llm-7b bf16 -p 512 -n 64 -d 1024 -B 1
    name=" fp8-cache" rows deepseek-llm-7b bf16 -p 512 -n 64 -d 1024 -B 1 --cache-type fp8
    rows deepseek-llm-67b fp8 -p 0 -n 64 -d 1024 -B 1  # 68 GB
  fi
} | if [ -n "$output" ]; then cat >"$output"; else cat; fi
