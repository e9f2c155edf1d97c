#!/usr/bin/env bash
# Builds the server for NVIDIA GPUs on a machine that has neither a GPU nor CUDA, and checks what it
# links to. Needs Rust, a C++ compiler and Python with pip; the toolkit comes from NVIDIA's packages
# on PyPI into the cache and touches nothing else.
#
#   docker/cuda-build.sh [--toolkit] [CARGO ARGUMENT...]      such as --release
#
#   --toolkit             make the toolkit and try it out, and build nothing
#   CUDA_COMPUTE_CAP      what the kernels are compiled for: 80 is A100, 86 RTX 30, 89 RTX 40 and
#                         L4, 90 H100 and H200, 100 B200 (default: 90)
#   CARGO_TARGET_DIR      where cargo builds (default: in the cache)
#
# The program needs the driver to start, and the runtime libraries of CUDA 13: those of the
# toolkit do, `LD_LIBRARY_PATH` says where they are.
set -euo pipefail
cd "$(dirname "$0")/.."

cache="${XDG_CACHE_HOME:-$HOME/.cache}/prompt-r1/cuda"
packages=(
  nvidia-cuda-nvcc==13.0.88
  nvidia-nvvm==13.0.88
  nvidia-cuda-crt==13.0.88
  nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85
  nvidia-cuda-nvrtc==13.0.88
  nvidia-cublas==13.0.2.14
  nvidia-curand==10.4.0.35
)
# A change of the list makes a new toolkit.
toolkit="$cache/$(printf '%s\n' "${packages[@]}" | sha256sum | cut -c1-12)"
cuda="$toolkit/nvidia/cu13"
stubs="$cuda/lib/stubs"

step() { printf '\n== %s\n' "$*"; }

# Files that the linker and the build scripts expect and the packages lack.
complete_toolkit() {
  ln -sfn lib "$cuda/lib64"
  local library
  for library in "$cuda"/lib/lib*.so.*; do
    ln -sf "$(basename "$library")" "${library%%.so.*}.so"
  done
  # The driver's library comes with a GPU. A stub with its symbols is enough to link: each of its
  # functions returns CUDA_ERROR_STUB_LIBRARY.
  mkdir -p "$stubs"
  {
    echo 'cuProfilerStart() cuProfilerStop()' # declared in a header that no package has
    local define
    for define in PLAIN __CUDA_API_VERSION_INTERNAL CUDA_API_PER_THREAD_DEFAULT_STREAM; do
      gcc -E -P -D"$define" "$cuda/include/cuda.h"
    done
  } | grep -oE '\bcu[A-Z][A-Za-z0-9_]* *\(' | tr -d '( ' | sort -u |
    sed 's/.*/int &(void) { return 34; }/' >"$stubs/cuda.c"
  gcc -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o "$stubs/libcuda.so" "$stubs/cuda.c"
  ln -sf libcuda.so "$stubs/libcuda.so.1"
}

if [ ! -d "$toolkit" ]; then
  step "toolkit in $toolkit"
  rm -rf "$toolkit.partial"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --no-deps --only-binary :all: --target "$toolkit.partial" "${packages[@]}"
  mv "$toolkit.partial" "$toolkit"
fi
complete_toolkit

export CUDA_HOME="$cuda" CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}" CUDARC_CUDA_VERSION=13000
export PATH="$cuda/bin:$PATH" LIBRARY_PATH="$cuda/lib:$stubs"
# By default the kernels are compiled on half of the cores.
export CUDAFORGE_THREADS="${CUDAFORGE_THREADS:-$(nproc)}"

step "a kernel, compiled and linked"
trial="$(mktemp -d)"
trap 'rm -rf "$trial"' EXIT
cat >"$trial/trial.cu" <<'CU'
#include <cstdio>
#include <cuda.h>
#include <cuda_bf16.h>
#include <cublas_v2.h>
__global__ void twice(__nv_bfloat16 *x) { x[threadIdx.x] = x[threadIdx.x] * __nv_bfloat16(2); }
int main() {
  int driver = cuInit(0);
  cublasHandle_t blas = nullptr;
  twice<<<1, 32>>>(nullptr);
  printf("driver %d, runtime %d, cuBLAS %d\n", driver, cudaGetLastError(), cublasCreate(&blas));
}
CU
nvcc --version | tail -2
nvcc -std=c++17 -arch="sm_$CUDA_COMPUTE_CAP" -cudart shared -o "$trial/trial" "$trial/trial.cu" \
  -lcublas -lcuda
# Without a GPU each call returns an error; the test is that the libraries are found and respond.
LD_LIBRARY_PATH="$cuda/lib:$stubs" "$trial/trial"
if [ "${1:-}" = --toolkit ]; then exit; fi

step "cargo build --locked --features cuda $*"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"
binary="$(cargo build --locked --features cuda --bin server --message-format json-render-diagnostics "$@" |
  sed -n 's/.*"executable":"\([^"]*\/server\)".*/\1/p')"

step "what $binary links to"
readelf -d "$binary" | grep -E 'NEEDED|RUNPATH|RPATH' || true
for library in libcuda libcudart libcublas libcublasLt libcurand libnvrtc; do
  readelf -d "$binary" | grep -q "NEEDED.*\[$library\.so\." || {
    echo "it does not link to $library"
    exit 1
  }
done
export LD_LIBRARY_PATH="$cuda/lib:$stubs"
if ldd "$binary" | grep 'not found'; then exit 1; fi
"$binary" --version
