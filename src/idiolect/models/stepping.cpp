// A decoder's step over few positions as one call: from ids to logits, one parallel region, no operator of torch's.
//
// Few rows make every product a matter of reading the weights from memory, and this reads them once, in order, for all
// rows, at the speed memory has. Weights, keys and values are fp32 or bf16, everything between them is fp32. A result
// depends on its row alone: neither the number of threads nor the other rows change a bit of it. `stepping.py` says
// which models these are.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <utility>
#include <vector>

// sums in the order they are written in: a reordering that suits one place of a row would not be that of another
#if defined(__clang__)
#pragma clang fp reassociate(off)
#else
#pragma GCC optimize("no-associative-math,no-reciprocal-math")
#endif

#include "numbers.h"

namespace {

using bytes = const char*;

// sixteen numbers at a time, on any processor: the compiler cuts them to the size of its registers
typedef float vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef float half __attribute__((vector_size(32)));
typedef bf16 shorts __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint32_t words __attribute__((vector_size(64)));
constexpr long LANES = 16;

inline float up(float v) { return v; }
inline void down(float f, float& out) { out = f; }
inline void down(float f, bf16& out) { out = down(f); }

inline vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
inline vec load(const bf16* p) {
  return (vec)(__builtin_convertvector(*reinterpret_cast<const shorts*>(p), words) << 16);
}
inline void store(float* p, vec v) { *reinterpret_cast<vec*>(p) = v; }

inline float sum(vec v) {
  half s = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  s += __builtin_shufflevector(s, s, 4, 5, 6, 7, 0, 1, 2, 3);
  s += __builtin_shufflevector(s, s, 2, 3, 0, 1, 6, 7, 4, 5);
  return s[0] + s[1];
}

// What a thread does of `n`, in whole units
struct Share {
  long begin, end;
  Share(long n, long unit, int thread, int threads) {
    const long units = (n + unit - 1) / unit;
    begin = std::min(n, units * thread / threads * unit), end = std::min(n, units * (thread + 1) / threads * unit);
  }
};

// Rows as products read them, [N / C, k / 16, C, 16]: C of them side by side, zeros where a row or a vector is missing
struct Columns {
  long N, C, count;
  explicit Columns(long N) : N(N), C(N > 4 ? 8 : N > 2 ? 4 : N), count((N + C - 1) / C) {}
  long size(long k) const { return count * vectors(k) * C * LANES; }
  float* at(float* x, long k, long row, long i) const {
    return x + ((row / C * vectors(k) + i / LANES) * C + row % C) * LANES + i % LANES;
  }
  static long vectors(long k) { return (k + LANES - 1) / LANES; }
};

// Zeroed numbers from memory that its thread keeps, fresh memory costs more than it holds; no vector splits a cache line
void allot(std::vector<float>& kept, std::initializer_list<std::pair<float**, long>> parts) {
  long total = LANES;
  for (auto& part : parts) total += Columns::vectors(part.second) * LANES;
  kept.assign(total, 0.f);
  float* next = kept.data() + (-(uintptr_t(kept.data()) / sizeof(float)) & (LANES - 1));
  for (auto& part : parts) *part.first = next, next += Columns::vectors(part.second) * LANES;
}

constexpr long FAR = 16384, NEAR = 1024;  // bytes ahead that weights are called into the second and the first cache

// R rows of W [., k] times N columns x [k / 16, N, 16] -> out [R, N]. Each sum runs over k in order, whatever R and N
template <class W, int R, int N>
void tile(const W* w, long k, const float* x, bytes ahead, float* out) {
  vec a[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) a[r][n] = vec{};
  auto add = [&](const W* from, long stride, const float* column) {
    vec v[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) v[r] = load(from + r * stride);
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
      vec c = load(column + n * LANES);
#ifdef __AVX512F__
      if (R > 1) asm("" : "+v"(c));  // once into a register, not once a product
#endif
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) a[r][n] += v[r] * c;
    }
  };
  const long whole = k / LANES * LANES;
  for (long i = 0; i < whole; i += LANES) {
#pragma GCC unroll 8
    for (int r = 0; ahead && r < R; r++) {
      __builtin_prefetch(ahead + (r * k + i) * sizeof(W), 0, 2);
      __builtin_prefetch(bytes(w + r * k + i) + NEAR, 0, 3);
    }
    add(w + i, k, x + i * N);
  }
  if (whole < k) {
    W rest[R][LANES] = {};
    for (int r = 0; r < R; r++) std::memcpy(rest[r], w + r * k + whole, (k - whole) * sizeof(W));
    add(rest[0], LANES, x + whole * N);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) out[r * N + n] = sum(a[r][n]);
}

struct Linear {
  const void *weight, *bias;  // [n, k], [n] or null
};
struct Layer {  // norms have the form of a product; what a model does not have is null
  Linear attention_norm, query, key, value, out, query_norm, key_norm, mlp_norm, gate, up, down;
};
struct Model {
  int64_t layers, width, heads, kv_heads, head_width, mlp_width, vocabulary, window, centre, mlp, tokens;
  Linear embedding, position, norm, head;
  const Layer* layer;
  const float *cosine, *sine;  // [tokens, head_width / 2]; null when positions are not rotary
  double epsilon;
};
enum { RELU, GELU_TANH, SWIGLU };

struct Call {
  int64_t B, T, slots, last, threads;
  const int64_t *ids, *before, *lengths;  // [B, T], tokens each row holds [B], real ids of each row [B] or null
  void *const *keys, *const *values;      // a layer each, [B, kv_heads, slots, head_width]
  float* logits;                          // [B, T or 1, vocabulary]
};

struct Row {
  long id, b, position;  // position -1: padding, which reads and writes nothing
};

template <class W>
class Step {
 public:
  Step(const Model& m, const Call& call) : m(m), call(call) {
    for (long b = 0; b < call.B; b++) {
      const long real = call.lengths ? call.lengths[b] : call.T;
      for (long t = 0; t < call.T; t++) {
        rows.push_back({t < real ? call.ids[b * call.T + t] : 0, b, t < real ? call.before[b] + t : -1});
        if (!call.last || t == std::max(real - 1, 0l)) wanted.push_back(b * call.T + t);
      }
    }
  }

  // multiply-adds done, or -1 for an id that the model does not have
  int64_t run() {
    for (const Row& row : rows)
      if (row.id < 0 || row.id >= m.vocabulary) return -1;
    const long N = rows.size(), D = m.width, Q = m.heads * m.head_width, KV = m.kv_heads * m.head_width;
    const Columns columns(N);
    static thread_local std::vector<float> kept;
    allot(kept, {{&x, N * D}, {&qkv, N * (Q + 2 * KV)}, {&hidden, 2 * N * m.mlp_width}, {&mixed, columns.size(Q)},
                 {&active, columns.size(m.mlp_width)}});
    int64_t done = 0;
#pragma omp parallel num_threads(call.threads) reduction(+ : done)
    done += Worker(*this, columns).run();
    return done;
  }

 private:
  // What one thread does; all of them meet at the barriers
  struct Worker {
    const Step& s;
    const Model& m;
    const Columns& columns;
    const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
    const long D = s.m.width, d = s.m.head_width, Q = s.m.heads * d, KV = s.m.kv_heads * d, M = s.m.mlp_width;
    float *normed, *line, *scores;
    int64_t done = 0;

    Worker(const Step& s, const Columns& columns) : s(s), m(s.m), columns(columns) {
      static thread_local std::vector<float> kept;
      allot(kept, {{&normed, columns.size(D)}, {&line, D}, {&scores, s.call.slots}});
    }

    int64_t run() {
      embed();
#pragma omp barrier
      for (long l = 0; l < m.layers; l++) {
        const Layer& at = m.layer[l];
        const float* x = norm(at.attention_norm, columns, [](long n) { return n; });
        product(at.query, Q, D, columns, x, s.qkv, Q + 2 * KV, false, start(at.key, KV, D));
        product(at.key, KV, D, columns, x, s.qkv + Q, Q + 2 * KV, false, start(at.value, KV, D));
        product(at.value, KV, D, columns, x, s.qkv + Q + KV, Q + 2 * KV, false, start(at.out, D, Q));
#pragma omp barrier
        place(at, l);
#pragma omp barrier
        attend(l);
#pragma omp barrier
        const bool gated = m.mlp == SWIGLU;
        product(at.out, D, Q, columns, s.mixed, s.x, D, true, start(gated ? at.gate : at.up, M, D));
#pragma omp barrier
        x = norm(at.mlp_norm, columns, [](long n) { return n; });
        if (gated) product(at.gate, M, D, columns, x, s.hidden, M, false, start(at.up, M, D));
        product(at.up, M, D, columns, x, s.hidden + columns.N * M, M, false, start(at.down, D, M));
        activate();
#pragma omp barrier
        const bool final = l + 1 == m.layers;
        product(at.down, D, M, columns, s.active, s.x, D, true,
                final ? start(m.head, m.vocabulary, D) : start(m.layer[l + 1].query, Q, D));
#pragma omp barrier
      }
      const Columns wanted(s.wanted.size());
      const float* x = norm(m.norm, wanted, [&](long n) { return s.wanted[n]; });
      product(m.head, m.vocabulary, D, wanted, x, s.call.logits, m.vocabulary, false, nullptr);
      return done;
    }

    Share share(long n, long unit = LANES) const { return Share(n, unit, thread, threads); }

    // where this thread begins to read a matrix [n, k]
    bytes start(const Linear& l, long n, long k) const { return bytes((const W*)l.weight + share(n).begin * k); }

    // y [N, n] = (or +=, when `add`) x W^T + bias, this thread's share of n; `next` is what it will read thereafter
    void product(const Linear& l, long n, long k, const Columns& c, const float* x, float* y, long stride, bool add,
                 bytes next) {
      const Share mine = share(n);
      const W *weight = (const W*)l.weight, *bias = (const W*)l.bias;
      const bytes end = bytes(weight + mine.end * k);
      const long R = c.C == 1 ? 1 : c.C == 8 ? 2 : 4;
      const auto tall = c.C == 1 ? tile<W, 1, 1> : c.C == 2 ? tile<W, 4, 2> : c.C == 4 ? tile<W, 4, 4> : tile<W, 2, 8>;
      const auto flat = c.C == 1 ? tile<W, 1, 1> : c.C == 2 ? tile<W, 1, 2> : c.C == 4 ? tile<W, 1, 4> : tile<W, 1, 8>;
      float out[16];
      for (long i = mine.begin, step; i < mine.end; i += step) {
        const W* w = weight + i * k;
        step = i + R <= mine.end ? R : 1;
        bytes ahead = bytes(w) + FAR;
        if (ahead >= end) ahead = next ? next + (ahead - end) : nullptr;
        if (c.C == 1) ahead = nullptr;  // a single stream is followed by the processor itself
        for (long g = 0; g < c.count; g++) {
          (step == 1 ? flat : tall)(w, k, x + g * Columns::vectors(k) * c.C * LANES, ahead, out);
          for (long j = 0; j < std::min(c.C, c.N - g * c.C); j++)
            for (long r = 0; r < step; r++) {
              float& to = y[(g * c.C + j) * stride + i + r];
              to = (add ? to : 0) + out[r * c.C + j] + (bias ? up(bias[i + r]) : 0);
            }
        }
      }
      done += c.N * (mine.end - mine.begin) * k;
    }

    void embed() {
      const Share mine = share(D);
      const W *words = (const W*)m.embedding.weight, *places = (const W*)m.position.weight;
      for (long n = 0; n < columns.N; n++) {
        const long position = std::max(s.rows[n].position, 0l);
        for (long i = mine.begin; i < mine.end; i++)
          s.x[n * D + i] = up(words[s.rows[n].id * D + i]) + (places ? up(places[position * D + i]) : 0);
      }
    }

    // (x - mean) / deviation of n numbers, times a weight, plus a bias; the mean is 0 unless `centre`
    void normalise(const float* x, long n, const Linear& l, bool centre, float* out) const {
      const W *weight = (const W*)l.weight, *bias = (const W*)l.bias;
      float total = 0, squares = 0;
      if (centre) {
#pragma omp simd reduction(+ : total)
        for (long i = 0; i < n; i++) total += x[i];
      }
      const float mean = total / n;
#pragma omp simd reduction(+ : squares)
      for (long i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
      const float r = 1 / std::sqrt(squares / n + float(m.epsilon));
      for (long i = 0; i < n; i++) out[i] = (x[i] - mean) * r * up(weight[i]) + (bias ? up(bias[i]) : 0);
    }

    // the normalised rows that `row` picks, as columns; each thread makes its own, which is cheaper than to wait
    template <class Pick>
    const float* norm(const Linear& l, const Columns& c, Pick row) {
      std::fill_n(normed, c.size(D), 0.f);
      for (long n = 0; n < c.N; n++) {
        normalise(s.x + row(n) * D, D, l, m.centre, line);
        for (long i = 0; i < D; i += LANES)
          std::copy_n(line + i, std::min(LANES, D - i), c.at(normed, D, n, i));
      }
      return normed;
    }

    // normalises and turns queries and keys; keys and values go to their slots
    void place(const Layer& at, long l) const {
      const long K = m.kv_heads, H = m.heads, parts = H + 2 * K;
      const Share mine = share(columns.N * parts, 1);
      for (long job = mine.begin; job < mine.end; job++) {
        const Row& row = s.rows[job / parts];
        const long part = job % parts;
        if (row.position < 0) continue;
        float* head = s.qkv + job * d;
        if (part < H + K) {
          const Linear& norm = part < H ? at.query_norm : at.key_norm;
          if (norm.weight) normalise(head, d, norm, false, head);
          if (m.cosine) turn(head, m.cosine + row.position * (d / 2), m.sine + row.position * (d / 2));
        }
        if (part >= H) {
          W* cache = (W*)(part < H + K ? s.call.keys : s.call.values)[l];
          cache += ((row.b * K + (part - H) % K) * s.call.slots + row.position) * d;
          for (long i = 0; i < d; i++) down(head[i], cache[i]);
        }
      }
    }

    void turn(float* head, const float* cosine, const float* sine) const {
      for (long i = 0; i < d / 2; i++) {
        const float a = head[i], b = head[i + d / 2];
        head[i] = a * cosine[i] - b * sine[i];
        head[i + d / 2] = b * cosine[i] + a * sine[i];
      }
    }

    void attend(long l) {
      const long H = m.heads, K = m.kv_heads;
      const Share mine = share(columns.N * H, 1);
      for (long job = mine.begin; job < mine.end; job++) {
        const long n = job / H, h = job % H;
        const Row& row = s.rows[n];
        if (row.position < 0) continue;
        const long from = m.window ? std::max(0l, row.position + 1 - m.window) : 0, count = row.position + 1 - from;
        const long at = ((row.b * K + h / (H / K)) * s.call.slots + from) * d;
        mix(s.qkv + n * (Q + 2 * KV) + h * d, (const W*)s.call.keys[l] + at, (const W*)s.call.values[l] + at, count,
            [&](long i) { return columns.at(s.mixed, Q, n, h * d + i); });
        done += 2 * count * d;
      }
    }

    // softmax(q k / sqrt(d)) v over `count` keys and values [count, d]; out(i) is where number i goes
    template <class Out>
    void mix(const float* q, const W* k, const W* v, long count, Out out) {
      float most = -INFINITY, total = 0, *p = scores;
      const float scale = 1 / std::sqrt(float(d));
      const long whole = d / LANES * LANES;
      for (long t = 0; t < count; t++) {
        vec a{};
        float rest = 0;
        for (long i = 0; i < whole; i += LANES) a += load(q + i) * load(k + t * d + i);
        for (long i = whole; i < d; i++) rest += q[i] * up(k[t * d + i]);
        p[t] = (sum(a) + rest) * scale;
      }
#pragma omp simd reduction(max : most)
      for (long t = 0; t < count; t++) most = p[t] > most ? p[t] : most;
#pragma omp simd reduction(+ : total)
      for (long t = 0; t < count; t++) total += p[t] = exponential(p[t] - most);
      const float inverse = 1 / total;
      long i = 0;
      for (; i + 4 * LANES <= d; i += 4 * LANES) gather<4>(p, v + i, count, inverse, [&](long j) { return out(i + j); });
      for (; i < whole; i += LANES) gather<1>(p, v + i, count, inverse, [&](long j) { return out(i + j); });
      for (; i < d; i++) {
        float a = 0;
        for (long t = 0; t < count; t++) a += p[t] * up(v[t * d + i]);
        *out(i) = a * inverse;
      }
    }

    template <int C, class Out>
    void gather(const float* p, const W* v, long count, float inverse, Out out) const {
      vec a[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) a[c] = vec{};
      for (long t = 0; t < count; t++)
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) a[c] += load(v + t * d + c * LANES) * p[t];
      for (int c = 0; c < C; c++)
        for (int j = 0; j < LANES; j++) *out(c * LANES + j) = a[c][j] * inverse;
    }

    // this thread's share of the MLP's hidden numbers, to where the last product reads them
    void activate() const {
      const Share mine = share(M);
      for (long n = 0; n < columns.N; n++)
        for (long i = mine.begin; i < mine.end; i += LANES) {
          const float *gate = s.hidden + n * M + i, *u = gate + columns.N * M;
          float* out = columns.at(s.active, M, n, i);
          const long count = std::min(LANES, mine.end - i);
          if (m.mlp == SWIGLU)
#pragma omp simd
            for (long j = 0; j < count; j++) out[j] = gate[j] * logistic(gate[j]) * u[j];
          else if (m.mlp == GELU_TANH)
#pragma omp simd
            for (long j = 0; j < count; j++) out[j] = u[j] * logistic(GELU * (u[j] + CUBE * u[j] * u[j] * u[j]));
          else
            for (long j = 0; j < count; j++) out[j] = u[j] < 0 ? 0 : u[j];
        }
    }
  };

  const Model& m;
  const Call& call;
  std::vector<Row> rows;
  std::vector<long> wanted;  // the rows whose logits are asked for
  float *x, *qkv, *hidden, *mixed, *active;
};

}  // namespace

extern "C" {
int64_t step_fp32(const Model* model, const Call* call) { return Step<float>(*model, *call).run(); }
int64_t step_bf16(const Model* model, const Call* call) { return Step<bf16>(*model, *call).run(); }
}
