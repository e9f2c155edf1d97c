// The parts of a decoder's layer between its matrix products. Compiled when a decoder starts, for
// its model:
//
//   BF16      1 if tensors are in bf16, 0 if in f32; sums are always in f32
//   HEAD_DIM  width of a head: a multiple of 8, at most 256
//   GROUP     query heads that share a key-value head
//   HEADS     query heads that a block of `attend` computes
//   LANES     threads that read a key: the smallest power of two that is at least HEAD_DIM / 8
//
// Nothing is included, so that the compiler needs no files. Pointers that may be null say so.

#if BF16
typedef unsigned short element;

__device__ float widen(element x) { return __uint_as_float((unsigned)x << 16); }

// To the nearest, ties to even.
__device__ element narrow(float x) {
  unsigned bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff; // not a number
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

__device__ void load(const element *from, float to[8]) {
  const uint4 packed = *reinterpret_cast<const uint4 *>(from);
  const unsigned words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    to[2 * i] = __uint_as_float(words[i] << 16);
    to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}
#else
typedef float element;

__device__ float widen(element x) { return x; }

__device__ element narrow(float x) { return x; }

__device__ void load(const element *from, float to[8]) {
  const float4 a = reinterpret_cast<const float4 *>(from)[0];
  const float4 b = reinterpret_cast<const float4 *>(from)[1];
  to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
  to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}
#endif

#define ALL_LANES 0xffffffffu
#define BLOCK 16 // positions of a block of the pool
#define LOWEST __int_as_float(0xff800000) // -infinity

__device__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
  return x;
}

// Of all threads of a block of whole warps.
__device__ float block_sum(float x) {
  __shared__ float parts[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  x = warp_sum(x);
  __syncthreads(); // the sum before this one has been read
  if (lane == 0) parts[warp] = x;
  __syncthreads();
  return warp_sum(lane < blockDim.x / 32 ? parts[lane] : 0.0f);
}

// x = scale * table[ids]; a block for each row.
extern "C" __global__ void embed(
    const unsigned *ids, const element *table, element *x, int width, float scale) {
  const element *from = table + (size_t)ids[blockIdx.x] * width;
  element *to = x + (size_t)blockIdx.x * width;
  for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = narrow(widen(from[i]) * scale);
}

// Adds `addend` and `bias`, normalised by `post`, to the residual stream `x`, each of which may be
// null; and normalises the stream. A block for each row; with `rows` (may be null), for each of
// these. Shared memory: `width` floats.
extern "C" __global__ void normalize(
    element *x, const element *addend, const element *bias, const element *post,
    const element *weight, element *normed, const unsigned *rows, int width, float eps,
    float offset) {
  extern __shared__ float values[];
  const size_t row = rows ? rows[blockIdx.x] : blockIdx.x;
  x += row * width;
  if (addend) addend += row * width;
  if (addend || bias) {
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
      float sum = addend ? widen(addend[i]) : 0.0f;
      if (bias) sum += widen(bias[i]);
      values[i] = sum;
      squares += sum * sum;
    }
    const float scale = post ? rsqrtf(block_sum(squares) / width + eps) : 1.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
      const float sum = post ? values[i] * scale * (widen(post[i]) + offset) : values[i];
      x[i] = narrow(widen(x[i]) + sum);
    }
  }
  float squares = 0.0f;
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    const float value = widen(x[i]);
    values[i] = value;
    squares += value * value;
  }
  const float scale = rsqrtf(block_sum(squares) / width + eps);
  normed += (size_t)blockIdx.x * width;
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    normed[i] = narrow(values[i] * scale * (widen(weight[i]) + offset));
  }
}

// Biases, norms and rotary embedding of queries and keys; writes keys and values to the pool at
// `slots`, and queries in place. A warp for each head of each row: blocks `(rows, heads / 4)` of
// `(32, 4)` threads. Biases and norms may be null.
extern "C" __global__ void place_heads(
    element *q, const element *k, const element *v, const element *q_bias, const element *k_bias,
    const element *v_bias, const element *q_norm, const element *k_norm, const float *frequencies,
    const unsigned *positions, const unsigned *slots, element *keys, element *values,
    int heads, int kv_heads, float factor, float eps, float offset) {
  constexpr int HALF = HEAD_DIM / 2, PAIRS = (HALF + 31) / 32;
  const int row = blockIdx.x;
  int head = blockIdx.y * blockDim.y + threadIdx.y;
  if (head >= heads + 2 * kv_heads) return; // the whole warp

  const size_t kv_width = (size_t)kv_heads * HEAD_DIM;
  const element *from, *bias, *norm = 0;
  element *to;
  bool is_rotated = true;
  if (head < heads) {
    to = q + ((size_t)row * heads + head) * HEAD_DIM;
    from = to, bias = q_bias, norm = q_norm;
  } else if ((head -= heads) < kv_heads) {
    from = k + row * kv_width + head * HEAD_DIM;
    to = keys + slots[row] * kv_width + head * HEAD_DIM;
    bias = k_bias, norm = k_norm;
  } else {
    head -= kv_heads;
    from = v + row * kv_width + head * HEAD_DIM;
    to = values + slots[row] * kv_width + head * HEAD_DIM;
    bias = v_bias, is_rotated = false;
  }
  if (bias) bias += head * HEAD_DIM;

  float a[PAIRS], b[PAIRS], squares = 0.0f;
#pragma unroll
  for (int pair = 0; pair < PAIRS; pair++) {
    const int i = pair * 32 + threadIdx.x;
    a[pair] = i < HALF ? widen(from[i]) + (bias ? widen(bias[i]) : 0.0f) : 0.0f;
    b[pair] = i < HALF ? widen(from[HALF + i]) + (bias ? widen(bias[HALF + i]) : 0.0f) : 0.0f;
    squares += a[pair] * a[pair] + b[pair] * b[pair];
  }
  const float scale = norm ? rsqrtf(warp_sum(squares) / HEAD_DIM + eps) : 1.0f;
#pragma unroll
  for (int pair = 0; pair < PAIRS; pair++) {
    const int i = pair * 32 + threadIdx.x;
    if (i >= HALF) break;
    if (norm) {
      a[pair] *= scale * (widen(norm[i]) + offset);
      b[pair] *= scale * (widen(norm[HALF + i]) + offset);
    }
    float sine = 0.0f, cosine = 1.0f;
    if (is_rotated) {
      sincosf((float)positions[row] * frequencies[i], &sine, &cosine);
      sine *= factor, cosine *= factor;
    }
    to[i] = narrow(a[pair] * cosine - b[pair] * sine);
    to[HALF + i] = narrow(b[pair] * cosine + a[pair] * sine);
  }
}

// A partial softmax over some keys: the largest score, the sum of weights, and of weighted values.
struct Part {
  float most, total, sum[8];
};

__device__ float weight_of(float score, float most) {
  return score == LOWEST ? 0.0f : __expf(score - most);
}

// Attention of each row to the keys of its sequence up to its own position, `window` of them if
// that is not 0. Blocks: `(rows, kv_heads, GROUP / HEADS)`. `tables` are `(sequences, table_width)`
// blocks of the pool. Shared memory: `warps * HEADS * (HEAD_DIM + 2)` floats.
extern "C" __global__ void attend(
    const element *q, const element *keys, const element *values, const unsigned *positions,
    const unsigned *sequences, const unsigned *tables, element *y, int table_width, int kv_heads,
    int window, float scale) {
  extern __shared__ float shared[];
  const int row = blockIdx.x, kv_head = blockIdx.y, first_head = blockIdx.z * HEADS;
  const int lane = threadIdx.x % LANES, place = threadIdx.x / LANES, step = blockDim.x / LANES;
  const bool is_used = lane * 8 < HEAD_DIM;
  const unsigned *table = tables + (size_t)sequences[row] * table_width;
  const size_t kv_width = (size_t)kv_heads * HEAD_DIM;
  const size_t own = (size_t)kv_head * HEAD_DIM + lane * 8;
  const size_t first_query = ((size_t)row * kv_heads + kv_head) * GROUP + first_head;

  float query[HEADS][8];
  Part parts[HEADS];
#pragma unroll
  for (int head = 0; head < HEADS; head++) {
    parts[head].most = LOWEST, parts[head].total = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) query[head][i] = parts[head].sum[i] = 0.0f;
    if (is_used && first_head + head < GROUP) {
      load(q + (first_query + head) * HEAD_DIM + lane * 8, query[head]);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) query[head][i] *= scale;
  }

  const int last = positions[row];
  const int first = window > 0 && last + 1 > window ? last + 1 - window : 0;
  for (int base = first; base <= last; base += step) {
    const int position = base + place;
    const bool is_seen = position <= last;
    float key[8] = {}, value[8] = {};
    if (is_seen && is_used) {
      const size_t slot = (size_t)table[position / BLOCK] * BLOCK + position % BLOCK;
      load(keys + slot * kv_width + own, key);
      load(values + slot * kv_width + own, value);
    }
#pragma unroll
    for (int head = 0; head < HEADS; head++) {
      float score = 0.0f;
#pragma unroll
      for (int i = 0; i < 8; i++) score += query[head][i] * key[i];
#pragma unroll
      for (int offset = LANES / 2; offset > 0; offset /= 2) {
        score += __shfl_xor_sync(ALL_LANES, score, offset);
      }
      if (!is_seen) continue;
      Part &part = parts[head];
      const float most = fmaxf(part.most, score);
      const float before = weight_of(part.most, most), weight = weight_of(score, most);
      part.most = most;
      part.total = part.total * before + weight;
#pragma unroll
      for (int i = 0; i < 8; i++) part.sum[i] = part.sum[i] * before + weight * value[i];
    }
  }

  // Of the threads of a warp that read the same part of different keys, and then of all warps.
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  float *mosts = shared, *totals = shared + warps * HEADS, *sums = shared + 2 * warps * HEADS;
#pragma unroll
  for (int head = 0; head < HEADS; head++) {
    Part part = parts[head];
#pragma unroll
    for (int offset = LANES; offset < 32; offset *= 2) {
      const float other = __shfl_xor_sync(ALL_LANES, part.most, offset);
      const float most = fmaxf(part.most, other);
      const float mine = weight_of(part.most, most), theirs = weight_of(other, most);
      part.most = most;
      part.total = part.total * mine + __shfl_xor_sync(ALL_LANES, part.total, offset) * theirs;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float sum = __shfl_xor_sync(ALL_LANES, part.sum[i], offset);
        part.sum[i] = part.sum[i] * mine + sum * theirs;
      }
    }
    const int at = warp * HEADS + head;
    if (threadIdx.x % 32 < LANES && is_used) {
#pragma unroll
      for (int i = 0; i < 8; i++) sums[at * HEAD_DIM + lane * 8 + i] = part.sum[i];
    }
    if (threadIdx.x % 32 == 0) mosts[at] = part.most, totals[at] = part.total;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < HEADS * HEAD_DIM; i += blockDim.x) {
    const int head = i / HEAD_DIM;
    if (first_head + head >= GROUP) break;
    float most = LOWEST, total = 0.0f, sum = 0.0f;
    for (int w = 0; w < warps; w++) most = fmaxf(most, mosts[w * HEADS + head]);
    for (int w = 0; w < warps; w++) {
      const int at = w * HEADS + head;
      const float weight = weight_of(mosts[at], most);
      total += totals[at] * weight;
      sum += sums[at * HEAD_DIM + i % HEAD_DIM] * weight;
    }
    y[first_query * HEAD_DIM + i] = narrow(sum / total);
  }
}

// gate = f(gate) * up with f(x) = x / (1 + exp(-(a x + b x^3))).
extern "C" __global__ void gated(element *gate, const element *up, size_t count, float a, float b) {
  const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float x = widen(gate[i]);
  gate[i] = narrow(x / (1.0f + __expf(-x * (a + b * x * x))) * widen(up[i]));
}
