// Each kernel of `kernels.cu` on the CPU, against its definition in f64. Compiled for one shape by
// `kernels.sh`.
#include <algorithm>
#include <cstdio>
#include <random>

#include "emulator.h"

// What kernels declare as `extern __shared__`.
float values[1 << 12], shared[1 << 16];

#include "kernels.inc"

namespace {

constexpr int KV_HEADS = 2, HEADS_ALL = KV_HEADS * GROUP, WIDTH = 72, ROWS = 3;
constexpr int SLOTS = 16 * 12;
// Rounding of a result, and in bf16 of what it is computed from as well.
constexpr double TOLERANCE = BF16 ? 8e-3 : 3e-6;

std::mt19937 generator(1);
bool has_failed = false;

std::vector<element> random(size_t count, float scale = 1.0f) {
  std::uniform_real_distribution<float> uniform(-scale, scale);
  std::vector<element> made(count);
  for (auto &x : made) x = narrow(uniform(generator));
  return made;
}

// Compares one kernel's results.
class Comparison {
 public:
  explicit Comparison(const char *name) : name_(name) {}
  void add(element got, double expected) {
    const double gap = std::fabs(widen(got) - expected) / (1.0 + std::fabs(expected));
    if (!(gap <= worst_)) worst_ = gap; // also if it is not a number
    count_++;
  }
  ~Comparison() {
    const bool is_good = count_ > 0 && worst_ <= TOLERANCE;
    std::printf("%s %-28s %6d values, gap %.1e\n", is_good ? "ok  " : "FAIL", name_, count_, worst_);
    has_failed |= !is_good;
  }

 private:
  const char *name_;
  double worst_ = 0.0;
  int count_ = 0;
};

double at(const std::vector<element> &x, size_t index) { return widen(x[index]); }

double inverse_root(const std::vector<double> &x, double eps) {
  double squares = 0.0;
  for (double value : x) squares += value * value;
  return 1.0 / std::sqrt(squares / x.size() + eps);
}

void embed_rows() {
  Comparison compare("embed");
  const auto table = random(10 * WIDTH);
  const unsigned ids[] = {7, 0, 9};
  std::vector<element> x(3 * WIDTH);
  launch({3}, {64}, [&] { embed(ids, table.data(), x.data(), WIDTH, 2.5f); });
  for (int row = 0; row < 3; row++)
    for (int i = 0; i < WIDTH; i++)
      compare.add(x[row * WIDTH + i], 2.5 * at(table, ids[row] * WIDTH + i));
}

void normalize_rows(const char *name, bool has_addend, bool has_bias, bool has_post, bool is_listed) {
  Comparison compare(name);
  const auto before = random(ROWS * WIDTH), addend = random(ROWS * WIDTH);
  const auto bias = random(WIDTH), post = random(WIDTH), weight = random(WIDTH);
  const unsigned listed[] = {2, 0};
  const int count = is_listed ? 2 : ROWS;
  auto x = before;
  std::vector<element> normed(count * WIDTH);
  launch({count}, {64}, [&] {
    normalize(x.data(), has_addend ? addend.data() : nullptr, has_bias ? bias.data() : nullptr,
              has_post ? post.data() : nullptr, weight.data(), normed.data(),
              is_listed ? listed : nullptr, WIDTH, 1e-5f, 0.5f);
  });
  for (int place = 0; place < count; place++) {
    const int row = is_listed ? listed[place] : place;
    std::vector<double> sum(WIDTH), stream(WIDTH);
    for (int i = 0; i < WIDTH; i++)
      sum[i] = (has_addend ? at(addend, row * WIDTH + i) : 0.0) + (has_bias ? at(bias, i) : 0.0);
    const double scale = inverse_root(sum, 1e-5);
    for (int i = 0; i < WIDTH; i++) {
      const double added = has_post ? sum[i] * scale * (at(post, i) + 0.5) : sum[i];
      stream[i] = at(before, row * WIDTH + i) + added;
      compare.add(x[row * WIDTH + i], stream[i]);
    }
    const double last = inverse_root(stream, 1e-5);
    for (int i = 0; i < WIDTH; i++)
      compare.add(normed[place * WIDTH + i], stream[i] * last * (at(weight, i) + 0.5));
  }
}

// A head with its bias or norm, rotated.
std::vector<double> head_of(const element *from, const element *bias, const element *norm,
                            const std::vector<float> &frequencies, double position, double factor) {
  std::vector<double> x(HEAD_DIM), y(HEAD_DIM);
  for (int i = 0; i < HEAD_DIM; i++) x[i] = widen(from[i]) + (bias ? widen(bias[i]) : 0.0);
  const double scale = norm ? inverse_root(x, 1e-6) : 1.0;
  if (norm)
    for (int i = 0; i < HEAD_DIM; i++) x[i] *= scale * widen(norm[i]);
  constexpr int HALF = HEAD_DIM / 2;
  for (int i = 0; i < HALF; i++) {
    const double angle = static_cast<float>(position) * frequencies[i];
    const double cosine = std::cos(angle) * factor, sine = std::sin(angle) * factor;
    y[i] = x[i] * cosine - x[HALF + i] * sine;
    y[HALF + i] = x[HALF + i] * cosine + x[i] * sine;
  }
  return y;
}

void heads_placed(const char *name, bool has_biases) {
  Comparison compare(name);
  auto q = random(ROWS * HEADS_ALL * HEAD_DIM);
  const auto before = q;
  const auto k = random(ROWS * KV_HEADS * HEAD_DIM), v = random(ROWS * KV_HEADS * HEAD_DIM);
  const auto q_bias = random(HEADS_ALL * HEAD_DIM), k_bias = random(KV_HEADS * HEAD_DIM);
  const auto v_bias = random(KV_HEADS * HEAD_DIM);
  const auto q_norm = random(HEAD_DIM), k_norm = random(HEAD_DIM);
  std::vector<element> keys(SLOTS * KV_HEADS * HEAD_DIM), pool_values(keys.size());
  std::vector<float> frequencies(HEAD_DIM / 2);
  for (int i = 0; i < HEAD_DIM / 2; i++) frequencies[i] = std::pow(10000.0, -2.0 * i / HEAD_DIM);
  const unsigned positions[] = {0, 17, 900}, slots[] = {5, 100, 33};
  const auto bias = [&](const std::vector<element> &of) { return has_biases ? of.data() : nullptr; };
  const auto norm = [&](const std::vector<element> &of) { return has_biases ? nullptr : of.data(); };
  launch({ROWS, (HEADS_ALL + 2 * KV_HEADS + 3) / 4}, {32, 4}, [&] {
    place_heads(q.data(), k.data(), v.data(), bias(q_bias), bias(k_bias), bias(v_bias), norm(q_norm),
                norm(k_norm), frequencies.data(), positions, slots, keys.data(), pool_values.data(),
                HEADS_ALL, KV_HEADS, 1.25f, 1e-6f, 0.0f);
  });
  const auto check = [&](const element *got, const std::vector<double> &expected) {
    for (int i = 0; i < HEAD_DIM; i++) compare.add(got[i], expected[i]);
  };
  const auto part = [](const element *of, int head) { return of ? of + head * HEAD_DIM : nullptr; };
  for (int row = 0; row < ROWS; row++) {
    for (int head = 0; head < HEADS_ALL; head++) {
      const int from = (row * HEADS_ALL + head) * HEAD_DIM;
      check(&q[from], head_of(&before[from], part(bias(q_bias), head), norm(q_norm), frequencies,
                              positions[row], 1.25));
    }
    for (int head = 0; head < KV_HEADS; head++) {
      const int from = (row * KV_HEADS + head) * HEAD_DIM;
      const int to = (slots[row] * KV_HEADS + head) * HEAD_DIM;
      check(&keys[to], head_of(&k[from], part(bias(k_bias), head), norm(k_norm), frequencies,
                               positions[row], 1.25));
      check(&pool_values[to], head_of(&v[from], part(bias(v_bias), head), nullptr, frequencies, 0, 1));
    }
  }
}

void attended(const char *name, int window) {
  Comparison compare(name);
  const auto keys = random(SLOTS * KV_HEADS * HEAD_DIM), pool_values = random(keys.size());
  const auto q = random(ROWS * HEADS_ALL * HEAD_DIM, 3.0f);
  std::vector<element> y(q.size());
  const unsigned positions[] = {0, 40, 33}, sequences[] = {1, 0, 0};
  constexpr int TABLE_WIDTH = 4;
  const unsigned tables[] = {3, 9, 1, 11, 7, 0, 0, 0};
  launch({ROWS, KV_HEADS, (GROUP + HEADS - 1) / HEADS}, {64}, [&] {
    attend(q.data(), keys.data(), pool_values.data(), positions, sequences, tables, y.data(),
           TABLE_WIDTH, KV_HEADS, window, 0.3f);
  });
  for (int row = 0; row < ROWS; row++)
    for (int head = 0; head < HEADS_ALL; head++) {
      const int last = positions[row], first = window ? std::max(0, last + 1 - window) : 0;
      const auto place = [&](int position) {
        const int block = tables[sequences[row] * TABLE_WIDTH + position / 16];
        return ((block * 16 + position % 16) * KV_HEADS + head / GROUP) * HEAD_DIM;
      };
      const int query = (row * HEADS_ALL + head) * HEAD_DIM;
      std::vector<double> expected(HEAD_DIM);
      double total = 0.0;
      for (int position = first; position <= last; position++) {
        double score = 0.0;
        for (int i = 0; i < HEAD_DIM; i++) score += at(q, query + i) * at(keys, place(position) + i);
        const double weight = std::exp(score * 0.3);
        total += weight;
        for (int i = 0; i < HEAD_DIM; i++) expected[i] += weight * at(pool_values, place(position) + i);
      }
      for (int i = 0; i < HEAD_DIM; i++) compare.add(y[query + i], expected[i] / total);
    }
}

void gated_values() {
  Comparison compare("gated");
  auto gate = random(1000, 4.0f);
  const auto before = gate, up = random(1000);
  launch({4}, {256}, [&] { gated(gate.data(), up.data(), gate.size(), 1.6f, 0.07f); });
  for (size_t i = 0; i < gate.size(); i++) {
    const double x = at(before, i);
    compare.add(gate[i], x / (1.0 + std::exp(-(1.6 * x + 0.07 * x * x * x))) * at(up, i));
  }
}

} // namespace

int main() {
  embed_rows();
  normalize_rows("normalize", false, false, false, false);
  normalize_rows("normalize after a bias", false, true, false, false);
  normalize_rows("normalize after an addend", true, false, false, false);
  normalize_rows("normalize after a post-norm", true, true, true, true);
  heads_placed("place_heads with norms", false);
  heads_placed("place_heads with biases", true);
  attended("attend", 0);
  attended("attend in a window", 7);
  gated_values();
  return has_failed;
}
