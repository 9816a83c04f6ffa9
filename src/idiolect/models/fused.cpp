// The bf16 operations of training that torch's CPU kernels leave slow: causal attention, the activations of the MLP,
// norms, and softmax with its cross-entropy. Products with weights stay torch's, which reach the machine's limit.
//
// Everything is computed in fp32 and rounded once, to nearest even; each result depends on the input alone, not on the
// number of threads. `fused.py` describes what each function computes.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

using bf16 = uint16_t;

inline float up(bf16 v) {
  const uint32_t bits = uint32_t(v) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

// what is not a number stays so: processors make NaNs whose low bits are clear
inline bf16 down(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return bf16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// e^x within 2 units of fp32's last place, in a form that compilers turn into vectors; below e^-88 it is 0
inline float exponential(float x) {
  float z = x * 1.44269504f;
  z = z < -127.f ? -127.f : z;
  z = z > 127.f ? 127.f : z;
  const float whole = std::rint(z), f = z - whole;
  const float p =
      1.f + f * (.693147181f + f * (.240226507f + f * (.0555041087f + f * (.00961812911f + f * .00133335581f))));
  const int32_t bits = (int32_t(whole) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return p * scale;
}

inline float logistic(float x) { return 1 / (1 + exponential(-x)); }

// gelu(x) = x logistic(2 sqrt(2 / pi) (x + 0.044715 x^3)), the tanh form
constexpr float GELU = 1.5957691216f, CUBE = .044715f;

constexpr long ROWS_A_PART = 64;  // of a sum over rows: parts are summed in order, whoever computed them

}  // namespace

extern "C" {

// u [n] -> out [n]
void gelu(long n, const bf16* u, bf16* out, int threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
  for (long i = 0; i < n; i++) {
    const float x = up(u[i]);
    out[i] = down(x * logistic(GELU * (x + CUBE * x * x * x)));
  }
}

// d/du [n] from d/dout [n]
void gelu_backward(long n, const bf16* u, const bf16* dout, bf16* du, int threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
  for (long i = 0; i < n; i++) {
    const float x = up(u[i]), s = logistic(GELU * (x + CUBE * x * x * x));
    du[i] = down(up(dout[i]) * (s + x * s * (1 - s) * GELU * (1 + 3 * CUBE * x * x)));
  }
}

// gate [n], u [n] -> silu(gate) u [n]
void swiglu(long n, const bf16* gate, const bf16* u, bf16* out, int threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
  for (long i = 0; i < n; i++) {
    const float x = up(gate[i]);
    out[i] = down(x * logistic(x) * up(u[i]));
  }
}

void swiglu_backward(long n, const bf16* gate, const bf16* u, const bf16* dout, bf16* dgate, bf16* du, int threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
  for (long i = 0; i < n; i++) {
    const float x = up(gate[i]), s = logistic(x), d = up(dout[i]);
    dgate[i] = down(d * up(u[i]) * s * (1 + x * (1 - s)));
    du[i] = down(d * x * s);
  }
}

// x [n, D] fp32 -> out [n, D]; with `centre` LayerNorm, else RMSNorm; bias may be null; keeps mean and 1 / deviation
void norm(long n, long D, const float* x, const float* weight, const float* bias, float epsilon, int centre, bf16* out,
          float* mean, float* inverse, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long i = 0; i < n; i++) {
    const float* row = x + i * D;
    float sum = 0, squares = 0;
    if (centre) {
#pragma omp simd reduction(+ : sum)
      for (long c = 0; c < D; c++) sum += row[c];
    }
    const float m = sum / D;
#pragma omp simd reduction(+ : squares)
    for (long c = 0; c < D; c++) squares += (row[c] - m) * (row[c] - m);
    const float r = 1 / std::sqrt(squares / D + epsilon);
    mean[i] = m, inverse[i] = r;
    for (long c = 0; c < D; c++) out[i * D + c] = down((row[c] - m) * r * weight[c] + (bias ? bias[c] : 0));
  }
}

// dout [n, D] -> dx [n, D] fp32, and dweight [D] (and dbias [D], unless null) through `parts` [parts of rows, 2, D]
void norm_backward(long n, long D, const float* x, const float* weight, const float* mean, const float* inverse,
                   int centre, const bf16* dout, float* dx, float* parts, float* dweight, float* dbias, int threads) {
  const long count = (n + ROWS_A_PART - 1) / ROWS_A_PART;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long part = 0; part < count; part++) {
    float *dw = parts + part * 2 * D, *db = dw + D;
    std::fill(dw, dw + 2 * D, 0.f);
    for (long i = part * ROWS_A_PART; i < std::min(n, (part + 1) * ROWS_A_PART); i++) {
      const float *row = x + i * D, m = mean[i], r = inverse[i];
      const bf16* d = dout + i * D;
      float sum = 0, along = 0;
#pragma omp simd reduction(+ : sum, along)
      for (long c = 0; c < D; c++) {
        const float g = up(d[c]), h = (row[c] - m) * r, gw = g * weight[c];
        dw[c] += g * h;
        db[c] += g;
        sum += gw;
        along += gw * h;
      }
      sum = centre ? sum / D : 0, along /= D;
      for (long c = 0; c < D; c++)
        dx[i * D + c] = r * (up(d[c]) * weight[c] - sum - (row[c] - m) * r * along);
    }
  }
  std::fill(dweight, dweight + D, 0.f);
  if (dbias) std::fill(dbias, dbias + D, 0.f);
  for (long part = 0; part < count; part++)
    for (long c = 0; c < D; c++) {
      dweight[c] += parts[part * 2 * D + c];
      if (dbias) dbias[c] += parts[(part * 2 + 1) * D + c];
    }
}

// logits [n, V] become softmax - onehot in place, 0 in rows whose label is negative; loss [n] is -log softmax[label]
void cross_entropy(long n, long V, bf16* logits, const long* labels, float* loss, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long i = 0; i < n; i++) {
    bf16* z = logits + i * V;
    const long y = labels[i];
    loss[i] = 0;
    if (y < 0) {
      std::fill(z, z + V, 0);
      continue;
    }
    float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
    for (long j = 0; j < V; j++) most = up(z[j]) > most ? up(z[j]) : most;
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < V; j++) sum += exponential(up(z[j]) - most);
    const float at = up(z[y]) - most, shift = most + std::log(sum);
    loss[i] = std::log(sum) - at;
#pragma omp simd
    for (long j = 0; j < V; j++) z[j] = down(exponential(up(z[j]) - shift));
    z[y] = down(exponential(at + most - shift) - 1);
  }
}

struct Attention {
  long B, T, H, K, d;      // rows, positions, query heads, key/value heads, width of a head
  long q[3], k[3], v[3];   // strides over rows, positions and heads
  float scale;
  int threads;
};

#ifndef __AVX512BF16__

int attention_works() { return 0; }
void attention(const Attention*, const bf16*, const bf16*, const bf16*, const int*, bf16*, float*) {}
void attention_backward(const Attention*, const bf16*, const bf16*, const bf16*, const int*, const bf16*, const float*,
                        const bf16*, bf16*, bf16*, bf16*) {}

#else

}  // extern "C"

namespace {

// A product's unit is a pair of neighbours along the summed dimension, in 32 bits: what one instruction multiplies.
const uint32_t* pairs(const std::vector<bf16>& x) { return reinterpret_cast<const uint32_t*>(x.data()); }
inline uint32_t pair(bf16 low, bf16 high) { return low | uint32_t(high) << 16; }

// C [R, 16 N] = A [R, k pairs] B [k pairs, 16 N], or += when `add`; all of C stays in registers
template <int R, int N>
inline void tile(int k, const uint32_t* A, long lda, const uint32_t* B, long ldb, float* C, long ldc, bool add) {
  __m512 c[R][N];
  for (int r = 0; r < R; r++)
    for (int n = 0; n < N; n++) c[r][n] = add ? _mm512_loadu_ps(C + r * ldc + 16 * n) : _mm512_setzero_ps();
  for (int i = 0; i < k; i++) {
    __m512bh b[N];
    for (int n = 0; n < N; n++) b[n] = (__m512bh)_mm512_loadu_si512(B + i * ldb + 16 * n);
    for (int r = 0; r < R; r++) {
      const __m512bh a = (__m512bh)_mm512_set1_epi32(A[r * lda + i]);
      for (int n = 0; n < N; n++) c[r][n] = _mm512_dpbf16_ps(c[r][n], a, b[n]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int n = 0; n < N; n++) _mm512_storeu_ps(C + r * ldc + 16 * n, c[r][n]);
}

template <int N>
inline void strip(int m, int k, const uint32_t* A, long lda, const uint32_t* B, long ldb, float* C, long ldc, bool add) {
  int i = 0;
  for (; i + 6 <= m; i += 6) tile<6, N>(k, A + i * lda, lda, B, ldb, C + i * ldc, ldc, add);
  for (; i < m; i++) tile<1, N>(k, A + i * lda, lda, B, ldb, C + i * ldc, ldc, add);
}

// The same for C [m, n], n a multiple of 16
void product(int m, int n, int k, const uint32_t* A, long lda, const uint32_t* B, long ldb, float* C, long ldc,
             bool add = false) {
  int j = 0;
  for (; j + 64 <= n; j += 64) strip<4>(m, k, A, lda, B + j, ldb, C + j, ldc, add);
  for (; j < n; j += 16) strip<1>(m, k, A, lda, B + j, ldb, C + j, ldc, add);
}

// x [T, n] of any type, rows s apart -> out [n, T], rows W apart; 16 at a time, as one cache line holds
template <class In, class Out>
void transpose(const In* x, long s, int T, int n, Out* out, long W) {
  for (int t0 = 0; t0 < T; t0 += 16)
    for (int c = 0; c < n; c++)
      for (int t = t0; t < std::min(T, t0 + 16); t++) out[c * W + t] = x[t * s + c];
}

// x [T, d] -> pairs along T [T / 2, d]
void interleave(const bf16* x, long s, int T, int d, uint32_t* out) {
  for (int t = 0; t < T; t += 2)
    for (int c = 0; c < d; c++) out[t / 2 * d + c] = pair(x[t * s + c], t + 1 < T ? x[(t + 1) * s + c] : 0);
}

constexpr int ROWS = 48;  // queries at a time: a multiple of the tile's 6

// One block of queries of one head, and the keys it reads: all from `c0` on, `n` of them
struct Block {
  int r0, m, c0, n;
  const int* first;  // the first key each query may read, or null: 0

  Block(int r0, int T, const int* first) : r0(r0), m(std::min(ROWS, T - r0)), c0(first ? r0 : 0), first(first) {
    for (int i = 0; first && i < m; i++) c0 = std::min(c0, first[r0 + i]);
    c0 = c0 / 16 * 16;
    n = (r0 + m + 15) / 16 * 16 - c0;
  }
  int begin(int i) const { return first ? first[r0 + i] - c0 : 0; }
  int end(int i) const { return r0 + i + 1 - c0; }
};

}  // namespace

extern "C" {

int attention_works() { return 1; }

void attention(const Attention* s, const bf16* q, const bf16* k, const bf16* v, const int* first, bf16* out,
               float* lse) {
  const int T = s->T, d = s->d, W = (T + 15) / 16 * 16 + 16;  // 16 more, lest rows share few cache sets
#pragma omp parallel num_threads(s->threads)
  {
    std::vector<uint32_t> kt(d / 2 * W), vp(W / 2 * d);
    std::vector<float> S(ROWS * W), O(ROWS * d);
    std::vector<bf16> P(ROWS * W), Q(ROWS * d);
#pragma omp for schedule(static)
    for (long job = 0; job < s->B * s->K; job++) {
      const long b = job / s->K, g = job % s->K, group = s->H / s->K;
      const bf16 *keys = k + b * s->k[0] + g * s->k[2], *values = v + b * s->v[0] + g * s->v[2];
      transpose(reinterpret_cast<const uint32_t*>(keys), s->k[1] / 2, T, d / 2, kt.data(), W);
      interleave(values, s->v[1], T, d, vp.data());
      for (long h = g * group; h < (g + 1) * group; h++)
        for (int r0 = 0; r0 < T; r0 += ROWS) {
          const Block block(r0, T, first ? first + b * T : nullptr);
          for (int i = 0; i < block.m; i++)
            std::copy_n(q + b * s->q[0] + (r0 + i) * s->q[1] + h * s->q[2], d, &Q[i * d]);
          product(block.m, block.n, d / 2, pairs(Q), d / 2, kt.data() + block.c0, W, S.data(), W);
          float inverse[ROWS];
          for (int i = 0; i < block.m; i++) {
            const float* x = &S[i * W];
            bf16* p = &P[i * W];
            const int begin = block.begin(i), end = block.end(i);
            float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
            for (int j = begin; j < end; j++) most = x[j] > most ? x[j] : most;
            const float shift = most * s->scale;
            std::fill(p, p + begin, 0);
#pragma omp simd reduction(+ : sum)
            for (int j = begin; j < end; j++) {
              const float e = exponential(x[j] * s->scale - shift);
              sum += e;
              p[j] = down(e);
            }
            std::fill(p + end, p + block.n, 0);
            inverse[i] = 1 / sum;
            lse[(b * s->H + h) * T + r0 + i] = shift + std::log(sum);
          }
          product(block.m, d, block.n / 2, pairs(P), W / 2, vp.data() + block.c0 / 2 * d, d, O.data(), d);
          for (int i = 0; i < block.m; i++) {
            bf16* o = out + ((b * T + r0 + i) * s->H + h) * d;
            for (int c = 0; c < d; c++) o[c] = down(O[i * d + c] * inverse[i]);
          }
        }
    }
  }
}

void attention_backward(const Attention* s, const bf16* q, const bf16* k, const bf16* v, const int* first,
                        const bf16* out, const float* lse, const bf16* dout, bf16* dq, bf16* dk, bf16* dv) {
  const int T = s->T, d = s->d, W = (T + 15) / 16 * 16 + 16;
#pragma omp parallel num_threads(s->threads)
  {
    std::vector<uint32_t> kt(d / 2 * W), vt(d / 2 * W), kp(W / 2 * d), pp(ROWS / 2 * W), dsp(ROWS / 2 * W);
    std::vector<float> P(ROWS * W), D(ROWS * W), O(ROWS * d), dkt(d * W), dvt(d * W);
    std::vector<bf16> Q(ROWS * d), Y(ROWS * d), qt(d * ROWS), yt(d * ROWS), DS(ROWS * W);
#pragma omp for schedule(static)
    for (long job = 0; job < s->B * s->K; job++) {
      const long b = job / s->K, g = job % s->K, group = s->H / s->K;
      const bf16 *keys = k + b * s->k[0] + g * s->k[2], *values = v + b * s->v[0] + g * s->v[2];
      transpose(reinterpret_cast<const uint32_t*>(keys), s->k[1] / 2, T, d / 2, kt.data(), W);
      transpose(reinterpret_cast<const uint32_t*>(values), s->v[1] / 2, T, d / 2, vt.data(), W);
      interleave(keys, s->k[1], T, d, kp.data());
      std::fill(dkt.begin(), dkt.end(), 0.f);
      std::fill(dvt.begin(), dvt.end(), 0.f);
      for (long h = g * group; h < (g + 1) * group; h++)
        for (int r0 = 0; r0 < T; r0 += ROWS) {
          const Block block(r0, T, first ? first + b * T : nullptr);
          const int m = block.m, n = block.n, even = (m + 1) / 2 * 2;
          float delta[ROWS];
          for (int i = 0; i < m; i++) {
            const long at = ((b * T + r0 + i) * s->H + h) * d;
            std::copy_n(q + b * s->q[0] + (r0 + i) * s->q[1] + h * s->q[2], d, &Q[i * d]);
            std::copy_n(dout + at, d, &Y[i * d]);
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int c = 0; c < d; c++) sum += up(dout[at + c]) * up(out[at + c]);
            delta[i] = sum;
          }
          for (int i = m; i < even; i++) {
            std::fill_n(&Q[i * d], d, 0);
            std::fill_n(&Y[i * d], d, 0);
          }
          transpose(Q.data(), d, even, d, qt.data(), ROWS);
          transpose(Y.data(), d, even, d, yt.data(), ROWS);
          product(m, n, d / 2, pairs(Q), d / 2, kt.data() + block.c0, W, P.data(), W);
          product(m, n, d / 2, pairs(Y), d / 2, vt.data() + block.c0, W, D.data(), W);
          for (int i = 0; i < even; i++) {  // P and dS = P (dP - delta) scale
            float *p = &P[i * W], *ds = &D[i * W];
            const int begin = i < m ? block.begin(i) : n, end = i < m ? block.end(i) : n;
            const float shift = i < m ? lse[(b * s->H + h) * T + r0 + i] : 0, less = i < m ? delta[i] : 0;
            std::fill(p, p + begin, 0.f);
            std::fill(ds, ds + begin, 0.f);
#pragma omp simd
            for (int j = begin; j < end; j++) {
              const float e = exponential(p[j] * s->scale - shift);
              ds[j] = e * (ds[j] - less) * s->scale;
              p[j] = e;
            }
            std::fill(p + end, p + n, 0.f);
            std::fill(ds + end, ds + n, 0.f);
          }
          for (int i = 0; i < even; i += 2)
            for (int j = 0; j < n; j++) {
              const bf16 one = down(D[i * W + j]), two = down(D[(i + 1) * W + j]);
              pp[i / 2 * W + j] = pair(down(P[i * W + j]), down(P[(i + 1) * W + j]));
              dsp[i / 2 * W + j] = pair(one, two);
              DS[i * W + j] = one, DS[(i + 1) * W + j] = two;
            }
          product(d, n, even / 2, pairs(yt), ROWS / 2, pp.data(), W, dvt.data() + block.c0, W, true);
          product(d, n, even / 2, pairs(qt), ROWS / 2, dsp.data(), W, dkt.data() + block.c0, W, true);
          product(m, d, n / 2, pairs(DS), W / 2, kp.data() + block.c0 / 2 * d, d, O.data(), d);
          for (int i = 0; i < m; i++) {
            bf16* o = dq + ((b * T + r0 + i) * s->H + h) * d;
            for (int c = 0; c < d; c++) o[c] = down(O[i * d + c]);
          }
        }
      for (int t = 0; t < T; t++)
        for (int c = 0; c < d; c++) {
          dk[((b * T + t) * s->K + g) * d + c] = down(dkt[c * W + t]);
          dv[((b * T + t) * s->K + g) * d + c] = down(dvt[c * W + t]);
        }
    }
  }
}

#endif

}  // extern "C"
