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

# Functions that the driver lacks are left undefined: these tests do not call them.
export PATH="$PWD/tests/cuda:$PATH" CUDA_COMPUTE_CAP=80 LIBRARY_PATH="$EMULATED_CUDA"
tests="$("${CARGO:-cargo}" rustc --locked --lib --profile test --no-default-features --features cuda \
  --message-format json-render-diagnostics -- \
  -C relro-level=partial -C link-arg=-Wl,--unresolved-symbols=ignore-all,-z,lazy |
  sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')"
# They are weak, so the driver's own come first.
nm --dynamic --undefined-only "$tests" | grep -oE '\b(cu|curand|nvrtc)[A-Za-z0-9_]+$' |
  sed 's/.*/__attribute__((weak)) int &(void) { return 801; }/' >"$EMULATED_CUDA/missing.c"
"${CC:-gcc}" -shared -fPIC -w -o "$EMULATED_CUDA/missing.so" "$EMULATED_CUDA/missing.c"
LD_LIBRARY_PATH="$EMULATED_CUDA" LD_PRELOAD="$EMULATED_CUDA/libcuda.so:$EMULATED_CUDA/missing.so" \
  "$tests" model::generate::device::tests
