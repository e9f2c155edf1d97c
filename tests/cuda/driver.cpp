// A CUDA driver, cuBLAS and NVRTC on a CPU: as much as the native engine's decoder uses. NVRTC's
// programs are compiled by the C++ compiler with `emulator.h`; other modules, such as candle's, load,
// and their kernels fail when they are launched. `run.sh` builds it and preloads it.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <regex>
#include <sstream>
#include <string>

#define API extern "C" __attribute__((visibility("default")))

namespace {

constexpr int SUCCESS = 0, NOT_SUPPORTED = 801;

struct Dim3 {
  int x, y, z;
};
using Entry = void (*)(Dim3, Dim3, unsigned, void **);

struct Function {
  std::string name;
  Entry entry; // null: of a module that cannot run here
};
struct Program {
  std::string source, compiled, log;
};

std::mutex one_at_a_time;

float widen(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

uint16_t narrow(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

int allocate(uint64_t *to, size_t bytes) {
  void *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  // What is read before it is written shows.
  std::memset(memory, 0xff, (bytes + 255) / 256 * 256);
  *to = reinterpret_cast<uint64_t>(memory);
  return SUCCESS;
}

int free_memory(uint64_t memory) {
  std::free(reinterpret_cast<void *>(memory));
  return SUCCESS;
}

std::string folder() {
  const char *named = std::getenv("EMULATED_CUDA");
  return named ? named : ".";
}

} // namespace

API int cuInit(unsigned) { return SUCCESS; }
API int cuDeviceGet(int *device, int) { return *device = 0, SUCCESS; }
API int cuDeviceGetAttribute(int *value, int attribute, int) {
  constexpr int MAJOR = 75, MINOR = 76;
  *value = attribute == MAJOR ? 9 : attribute == MINOR ? 0 : 1;
  return SUCCESS;
}
API int cuDevicePrimaryCtxRetain(void **context, int) {
  static int only;
  return *context = &only, SUCCESS;
}
API int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API int cuCtxDestroy_v2(void *) { return SUCCESS; }
API int cuCtxGetCurrent(void **context) { return cuDevicePrimaryCtxRetain(context, 0); }
API int cuCtxSetCurrent(void *) { return SUCCESS; }
API int cuCtxSynchronize() { return SUCCESS; }
API int cuStreamSynchronize(void *) { return SUCCESS; }
API int cuStreamCreate(void **stream, unsigned) { return *stream = &one_at_a_time, SUCCESS; }
API int cuStreamDestroy_v2(void *) { return SUCCESS; }
API int cuStreamWaitEvent(void *, void *, unsigned) { return SUCCESS; }
API int cuEventCreate(void **event, unsigned) { return *event = &one_at_a_time, SUCCESS; }
API int cuEventDestroy_v2(void *) { return SUCCESS; }
API int cuEventRecord(void *, void *) { return SUCCESS; }
API int cuGetErrorString(int error, const char **text) {
  *text = error == NOT_SUPPORTED ? "the emulated driver cannot do this" : "no error";
  return SUCCESS;
}

API int cuMemAlloc_v2(uint64_t *to, size_t bytes) { return allocate(to, bytes); }
API int cuMemAllocAsync(uint64_t *to, size_t bytes, void *) { return allocate(to, bytes); }
API int cuMemFree_v2(uint64_t memory) { return free_memory(memory); }
API int cuMemFreeAsync(uint64_t memory, void *) { return free_memory(memory); }
API int cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = *total = 1 << 26, SUCCESS; }
API int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *) {
  return std::memcpy(reinterpret_cast<void *>(to), from, bytes), SUCCESS;
}
API int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *) {
  return std::memcpy(to, reinterpret_cast<void *>(from), bytes), SUCCESS;
}
API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *) {
  void *target = reinterpret_cast<void *>(to);
  return std::memmove(target, reinterpret_cast<void *>(from), bytes), SUCCESS;
}
API int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *) {
  return std::memset(reinterpret_cast<void *>(to), value, bytes), SUCCESS;
}

// A module is what `dlopen` returned, or null; a compiled program is the path of its library.
API int cuModuleLoadData(void **module, const void *image) {
  const std::string path(static_cast<const char *>(image), strnlen(static_cast<const char *>(image), 4096));
  *module = path.front() == '/' ? dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
  return SUCCESS;
}
API int cuModuleUnload(void *) { return SUCCESS; }
API int cuModuleGetFunction(void **function, void *module, const char *name) {
  void *entry = module ? dlsym(module, (std::string("launch_") + name).c_str()) : nullptr;
  *function = new Function{name, reinterpret_cast<Entry>(entry)};
  return SUCCESS;
}
API int cuLaunchKernel(Function *function, unsigned x, unsigned y, unsigned z, unsigned threads_x,
                       unsigned threads_y, unsigned threads_z, unsigned shared, void *,
                       void **arguments, void **) {
  if (!function->entry || threads_z != 1) {
    std::fprintf(stderr, "the emulated driver has no kernel `%s`\n", function->name.c_str());
    return NOT_SUPPORTED;
  }
  const std::lock_guard lock(one_at_a_time);
  const Dim3 blocks{int(x), int(y), int(z)}, threads{int(threads_x), int(threads_y), 1};
  function->entry(blocks, threads, shared, arguments);
  return SUCCESS;
}

API int nvrtcCreateProgram(Program **program, const char *source, const char *, int,
                           const char *const *, const char *const *) {
  return *program = new Program{source, {}, {}}, SUCCESS;
}
API int nvrtcCompileProgram(Program *program, int count, const char *const *options) {
  const std::lock_guard lock(one_at_a_time);
  std::string definitions, key;
  for (int i = 0; i < count; i++)
    if (!std::strncmp(options[i], "-D", 2)) definitions += std::string(" ") + options[i];
  static std::map<std::string, std::string> known;
  std::string &library = known[program->source + definitions];
  if (library.empty()) {
    const std::string base = folder() + "/module-" + std::to_string(getpid()) + "-" +
                             std::to_string(known.size());
    // Shared memory is global here: blocks run one after another.
    std::string text = std::regex_replace(program->source, std::regex("extern __shared__"), "extern");
    text = std::regex_replace(text, std::regex("__shared__"), "static");
    std::ofstream(base + ".inc") << text;
    const std::string command = "${CXX:-g++} -std=c++20 -O2 -w -shared -fPIC -I" + folder() +
                                definitions + " -DKERNELS='\"" + base + ".inc\"' -o " + base +
                                ".so " + folder() + "/module.cpp 2>" + base + ".log";
    if (std::system(command.c_str()) != 0) {
      std::stringstream log;
      log << std::ifstream(base + ".log").rdbuf();
      program->log = log.str();
      return 6; // NVRTC_ERROR_COMPILATION
    }
    library = base + ".so";
  }
  program->compiled = library;
  return SUCCESS;
}
API int nvrtcGetPTXSize(Program *program, size_t *size) {
  return *size = program->compiled.size() + 1, SUCCESS;
}
API int nvrtcGetPTX(Program *program, char *to) {
  return std::strcpy(to, program->compiled.c_str()), SUCCESS;
}
API int nvrtcGetProgramLogSize(Program *program, size_t *size) {
  return *size = program->log.size() + 1, SUCCESS;
}
API int nvrtcGetProgramLog(Program *program, char *to) {
  return std::strcpy(to, program->log.c_str()), SUCCESS;
}
API int nvrtcDestroyProgram(Program **program) { return delete *program, *program = nullptr, SUCCESS; }

API int cublasCreate_v2(void **handle) { return *handle = &one_at_a_time, SUCCESS; }
API int cublasDestroy_v2(void *) { return SUCCESS; }
API int cublasSetStream_v2(void *, void *) { return SUCCESS; }
API int curandCreateGenerator(void **generator, int) { return *generator = &one_at_a_time, SUCCESS; }
API int curandDestroyGenerator(void *) { return SUCCESS; }
API int curandSetStream(void *, void *) { return SUCCESS; }
API int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return SUCCESS; }

// Columns first: c (m, n) = alpha aᵀ b + beta c with a (k, m) and b (k, n).
API int cublasGemmEx(void *, int transposes_a, int transposes_b, int m, int n, int k,
                     const float *alpha, const void *a, int a_type, int lda, const void *b,
                     int b_type, int ldb, const float *beta, void *c, int c_type, int ldc, int, int) {
  constexpr int F32 = 0, BF16 = 14;
  if (transposes_a != 1 || transposes_b != 0 || a_type != b_type || a_type != c_type ||
      (a_type != F32 && a_type != BF16))
    return 15; // CUBLAS_STATUS_NOT_SUPPORTED
  const auto read = [&](const void *from, size_t at) {
    return a_type == F32 ? static_cast<const float *>(from)[at]
                         : widen(static_cast<const uint16_t *>(from)[at]);
  };
  for (int column = 0; column < n; column++)
    for (int row = 0; row < m; row++) {
      double sum = 0.0;
      for (int i = 0; i < k; i++)
        sum += read(a, size_t(row) * lda + i) * read(b, size_t(column) * ldb + i);
      const size_t at = size_t(column) * ldc + row;
      // With a factor of 0 nothing is read.
      const double before = *beta == 0.0f ? 0.0 : *beta * read(c, at);
      const float result = *alpha * sum + before;
      if (a_type == F32) static_cast<float *>(c)[at] = result;
      else static_cast<uint16_t *>(c)[at] = narrow(result);
    }
  return SUCCESS;
}
