// The kernels of a program that `driver.cpp` compiles.
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "emulator.h"

// What kernels declare as `extern __shared__`.
float values[1 << 14], shared[1 << 16];

#include KERNELS

namespace {

constexpr unsigned char UNUSED = 0xa5;

template <size_t N>
void check_unused(const float (&memory)[N], unsigned shared_bytes) {
  const auto *bytes = reinterpret_cast<const unsigned char *>(memory);
  for (size_t i = shared_bytes; i < sizeof memory; i++)
    if (bytes[i] != UNUSED) {
      std::fprintf(stderr, "a kernel wrote beyond its %u bytes of shared memory\n", shared_bytes);
      std::abort();
    }
}

template <typename... Arguments>
void call(void (*kernel)(Arguments...), Dim3 blocks, Dim3 threads, unsigned shared_bytes, void **at) {
  std::memset(values, UNUSED, sizeof values);
  std::memset(shared, UNUSED, sizeof shared);
  [&]<size_t... I>(std::index_sequence<I...>) {
    launch(blocks, threads, [&] { kernel(*static_cast<Arguments *>(at[I])...); });
  }(std::index_sequence_for<Arguments...>{});
  check_unused(values, shared_bytes);
  check_unused(shared, shared_bytes);
}

} // namespace

#define ENTRY(name)                                                                              \
  extern "C" void launch_##name(Dim3 blocks, Dim3 threads, unsigned shared_bytes, void **at) {  \
    call(name, blocks, threads, shared_bytes, at);                                               \
  }
ENTRY(embed)
ENTRY(normalize)
ENTRY(place_heads)
ENTRY(attend)
ENTRY(gated)
