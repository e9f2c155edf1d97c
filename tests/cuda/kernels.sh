#!/usr/bin/env bash
# Runs the CUDA kernels of the native engine on the CPU, against their definition, for several shapes
# of heads. Needs a C++20 compiler, and neither a GPU nor CUDA.
set -euo pipefail
cd "$(dirname "$0")"

build="$(mktemp -d)"
trap 'rm -rf "$build"' EXIT
# Shared memory is global here: blocks run one after another.
sed -e 's/extern __shared__/extern/; s/__shared__/static/' \
  ../../src/model/generate/device/fused/kernels.cu >"$build/kernels.inc"

while read -r bf16 head_dim group heads lanes; do
  echo "bf16 $bf16, heads of $head_dim, $group to a key-value head"
  "${CXX:-g++}" -std=c++20 -O1 -Wall -Wno-unknown-pragmas -pthread -I. -I"$build" -o "$build/kernels" \
    -DBF16="$bf16" -DHEAD_DIM="$head_dim" -DGROUP="$group" -DHEADS="$heads" -DLANES="$lanes" kernels.cpp
  "$build/kernels"
done <<'SHAPES'
0 32 2 2 4
1 128 2 2 16
0 64 7 4 8
0 96 3 3 16
1 256 1 1 32
SHAPES
