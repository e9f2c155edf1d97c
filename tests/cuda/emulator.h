// As much of CUDA as `kernels.cu` uses, on a CPU. A block's threads take turns: each runs to its next
// barrier. Blocks run one after another.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
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

inline Dim3 threadIdx, blockIdx, blockDim;

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

namespace emulator {

// A stack that is run by turns. `ucontext.h` has the same, with two system calls at each turn.
struct Stack {
  void *top;
  std::unique_ptr<char[]> memory;
};

#if !defined(__x86_64__)
#error "the emulator switches stacks by instructions of x86-64"
#endif
// Pushes what a function must leave alone, stores the stack in `from`, and returns on `to`.
extern "C" void emulator_switch(void **from, void *to);
__asm__(R"(
.text
.weak emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

struct Thread {
  Stack stack;
  bool is_over;
};

// Threads that wait for each other: a block, or a warp.
struct Barrier {
  int expected, arrived = 0;
  uint64_t turn = 0;
};

inline constexpr size_t STACK = 64 << 10;
inline std::vector<Thread> threads;
inline std::vector<Barrier> warps;
inline Barrier block;
inline void *scheduler;
inline int running;
inline float exchanged[32][32];
inline const std::function<void()> *kernel;

inline void yield() { emulator_switch(&threads[running].stack.top, scheduler); }

inline void wait(Barrier &barrier) {
  const uint64_t turn = barrier.turn;
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    barrier.turn++;
  }
  while (barrier.turn == turn) yield();
}

inline void run_thread() {
  (*kernel)();
  threads[running].is_over = true;
  // As in CUDA, a thread that has ended is not waited for.
  for (Barrier *barrier : {&block, &warps[running / 32]})
    if (--barrier->expected > 0 && barrier->arrived == barrier->expected) {
      barrier->arrived = 0;
      barrier->turn++;
    }
  yield();
}

// A stack on which the first switch enters `run_thread`.
inline void prepare(Stack &stack) {
  if (!stack.memory) stack.memory = std::make_unique<char[]>(STACK);
  auto end = reinterpret_cast<uintptr_t>(stack.memory.get() + STACK) & ~uintptr_t{15};
  auto *top = reinterpret_cast<void **>(end) - 8; // six registers, the entry, and its return
  std::fill(top, top + 8, nullptr);
  top[6] = reinterpret_cast<void *>(run_thread);
  stack.top = top;
}

inline void run_block(int count) {
  threads.resize(std::max<size_t>(threads.size(), count));
  warps.assign(count / 32, Barrier{32});
  block = Barrier{count};
  for (int i = 0; i < count; i++) {
    prepare(threads[i].stack);
    threads[i].is_over = false;
  }
  for (int left = count; left > 0;)
    for (int i = 0; i < count; i++) {
      if (threads[i].is_over) continue;
      running = i;
      threadIdx = {i % blockDim.x, i / blockDim.x, 0};
      emulator_switch(&scheduler, threads[i].stack.top);
      left -= threads[i].is_over;
    }
}

} // namespace emulator

inline void __syncthreads() {
  emulator::wait(emulator::block);
}

inline float __shfl_xor_sync(unsigned, float value, int offset) {
  const int warp = emulator::running / 32, lane = emulator::running % 32;
  emulator::exchanged[warp][lane] = value;
  emulator::wait(emulator::warps[warp]);
  const float other = emulator::exchanged[warp][lane ^ offset];
  emulator::wait(emulator::warps[warp]);
  return other;
}

// Runs `kernel` in blocks of whole warps.
inline void launch(Dim3 blocks, Dim3 threads, const std::function<void()> &kernel) {
  blockDim = threads;
  emulator::kernel = &kernel;
  for (int z = 0; z < blocks.z; z++)
    for (int y = 0; y < blocks.y; y++)
      for (int x = 0; x < blocks.x; x++) {
        blockIdx = {x, y, z};
        emulator::run_block(threads.x * threads.y);
      }
}
