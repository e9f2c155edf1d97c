#!/usr/bin/env bash
# Builds for CUDA, without mistral.rs, and runs the tests of the native engine's decoder on the CPU,
# with `driver.cpp` in place of NVIDIA's libraries. Needs a C++ compiler, and neither a GPU nor CUDA.
set -euo pipefail
cd "$(dirname "$0")/../.."

EMULATED_CUDA="$(mktemp -d)"
export EMULATED_CUDA
trap 'rm -rf "$EMULATED_CUDA"' EXIT
cp tests/cuda/{emulator.h,module.cpp} "$EMULATED_CUDA"
"${CXX:-g++}" -std=c++20 -O2 -Wall -shared -fPIC -o "$EMULATED_CUDA/libcuda.so" tests/cuda/driver.cpp -ldl
for library in cudart cublas cublasLt curand nvrtc; do
  ln -s libcuda.so "$EMULATED_CUDA/lib$library.so"
done

# Kernels and functions that these tests do not use are missing; they are looked for when called.
export PATH="$PWD/tests/cuda:$PATH" CUDA_COMPUTE_CAP=80 LIBRARY_PATH="$EMULATED_CUDA"
tests="$("${CARGO:-cargo}" rustc --locked --lib --profile test --no-default-features --features cuda \
  --message-format json-render-diagnostics -- \
  -C relro-level=partial -C link-arg=-Wl,--unresolved-symbols=ignore-all,-z,lazy |
  sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')"
LD_LIBRARY_PATH="$EMULATED_CUDA" "$tests" model::generate::device::tests
