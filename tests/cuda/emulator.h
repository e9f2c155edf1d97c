// As much of CUDA as `kernels.cu` uses, on a CPU: a block's threads are threads, its blocks run one
// after another.
#pragma once

#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

struct Dim3 {
  int x = 1, y = 1, z = 1;
};
struct uint4 {
  unsigned x, y, z, w;
};
struct float4 {
  float x, y, z, w;
};

inline thread_local Dim3 threadIdx, blockIdx;
inline Dim3 blockDim;

#define __global__
#define __device__

inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }

// The state of the block that runs.
inline std::unique_ptr<std::barrier<>> all_threads;
inline std::vector<std::unique_ptr<std::barrier<>>> warp_threads;
inline float exchanged[32][32];
inline thread_local int thread_number;

inline void __syncthreads() { all_threads->arrive_and_wait(); }

inline float __shfl_xor_sync(unsigned, float value, int offset) {
  const int warp = thread_number / 32, lane = thread_number % 32;
  exchanged[warp][lane] = value;
  warp_threads[warp]->arrive_and_wait();
  const float other = exchanged[warp][lane ^ offset];
  warp_threads[warp]->arrive_and_wait();
  return other;
}

// Runs `kernel` in blocks of whole warps.
inline void launch(Dim3 blocks, Dim3 threads, const std::function<void()> &kernel) {
  blockDim = threads;
  const int count = threads.x * threads.y;
  for (int z = 0; z < blocks.z; z++)
    for (int y = 0; y < blocks.y; y++)
      for (int x = 0; x < blocks.x; x++) {
        all_threads = std::make_unique<std::barrier<>>(count);
        warp_threads.clear();
        for (int i = 0; i < count / 32; i++)
          warp_threads.push_back(std::make_unique<std::barrier<>>(32));
        std::vector<std::thread> running;
        for (int i = 0; i < count; i++)
          running.emplace_back([&, i, block = Dim3{x, y, z}] {
            thread_number = i;
            threadIdx = {i % threads.x, i / threads.x, 0};
            blockIdx = block;
            kernel();
            all_threads->arrive_and_drop();
          });
        for (auto &thread : running) thread.join();
      }
}
