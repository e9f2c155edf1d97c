#!/usr/bin/env bash
# Lints the crate with `--features cuda`; needs neither a GPU nor CUDA (see `nvcc` beside this).
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/tests/cuda:$PATH" CUDA_COMPUTE_CAP=80
"${CARGO:-cargo}" clippy --locked --lib --features cuda -- -D warnings
