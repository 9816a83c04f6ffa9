// Attention: a block of queries of one head against the keys it reads, all in the nearest caches.

#include "fused_numbers.h"

struct Attention {
  long B, T, S, H, K, d;   // rows, queries, keys, query heads, key/value heads, width of a head
  long q[3], k[3], v[3];   // strides over rows, positions and heads, of the gradients too
  float scale;
  int causal;              // query t reads on to key t (T = S); otherwise all read the same keys
  int threads;
};

#ifndef __AVX512BF16__

extern "C" int attention_works() { return 0; }

#else

extern "C" int attention_works() { return 1; }

namespace {

constexpr int ROWS = 8 * STRIP;  // queries at a time

// x [T, d] of pairs, rows s apart -> out [d, T], rows W apart; 16 at a time, as one cache line holds
void transpose(const uint32_t* x, long s, int T, int d, uint32_t* out, long W) {
  for (int t0 = 0; t0 < T; t0 += 16)
    for (int c = 0; c < d; c++)
      for (int t = t0; t < std::min(T, t0 + 16); t++) out[c * W + t] = x[t * s + c];
}

// x [T, d] -> pairs along T [T / 2, d]
void interleave(const bf16* x, long s, int T, int d, uint32_t* out) {
  for (int t = 0; t < T; t += 2)
    for (int c = 0; c < d; c++) out[t / 2 * d + c] = pair(x[t * s + c], t + 1 < T ? x[(t + 1) * s + c] : 0);
}

// One block of queries of one head, and the keys it reads: all from `c0` on, `n` of them
struct Block {
  int r0, m, c0, n, keys;
  bool causal;
  const int* first;  // the first key each query may read, or null: 0

  Block(int r0, int T, int keys, bool causal, const int* first)
      : r0(r0), m(std::min(ROWS, T - r0)), c0(first ? r0 : 0), keys(keys), causal(causal), first(first) {
    for (int i = 0; first && i < m; i++) c0 = std::min(c0, first[r0 + i]);
    c0 = c0 / 16 * 16;
    n = ((causal ? r0 + m : keys) + 15) / 16 * 16 - c0;
  }
  int begin(int i) const { return i < m && first ? first[r0 + i] - c0 : 0; }
  int end(int i) const { return i < m ? (causal ? r0 + i + 1 : keys) - c0 : 0; }  // a row past the block reads nothing
  int reach(int i) const { return end(std::min(i + STRIP, m) - 1); }  // the end of the strip that row i begins
  // which of the keys j … j + 15 query i reads
  __mmask16 reads(int i, int j) const {
    const int from = std::clamp(begin(i) - j, 0, 16), to = std::clamp(end(i) - j, 0, 16);
    return ((1u << to) - 1) & ~((1u << from) - 1);
  }
  // x [n], the scores of query i, times scale, plus bias
  void add(int i, float scale, const float* bias, float* x) const {
    for (int j = begin(i) / 16 * 16; j < end(i); j += 16) {
      const __m512 b = _mm512_maskz_loadu_ps(reads(i, j), bias + c0 + j);
      _mm512_storeu_ps(x + j, _mm512_fmadd_ps(_mm512_loadu_ps(x + j), _mm512_set1_ps(scale), b));
    }
  }
  // S [m, n] = A Bt, A [m, d] and Bt [d / 2 pairs, keys]; only what a strip's queries reach
  void scores(int d, const bf16* A, const uint32_t* Bt, float* S, long W) const {
    for (int j = 0; j < n; j += 64)
      for (int i = 0; i < m; i += STRIP)
        if (j < reach(i))
          strip<false>(std::min(64, reach(i) - j), d / 2, A + i * d, d, 2, Bt + c0 + j, W, S + i * W + j, W);
  }
  // O [m, d] = P X, P [m, n] and X [keys / 2 pairs, d]
  void mix(int d, const bf16* P, const uint32_t* X, float* O, long W) const {
    for (int c = 0; c < d; c += 64)
      for (int i = 0; i < m; i += STRIP)
        strip<false>(std::min(64, d - c), (reach(i) + 1) / 2, P + i * W, W, 2, X + c0 / 2 * d + c, d, O + i * d + c, d);
  }
  // G [keys, d] += Pt X, Pt [m / 2 pairs, n] and X [m / 2 pairs, d]
  void gather(int d, const bf16* Pt, const uint32_t* X, float* G, long W) const {
    for (int c = 0; c < d; c += 64)
      for (int j = 0; j < n; j += STRIP) {
        const int from = causal ? std::max(0, j - (r0 - c0)) / 2 : 0;  // earlier queries do not reach j
        const int k = (m + 1) / 2 - from;
        if (k > 0)
          strip<true>(std::min(64, d - c), k, Pt + 2 * (from * W + j), 2, 2 * W, X + from * d + c, d,
                      G + (c0 + j) * d + c, d);
      }
  }
};

}  // namespace

extern "C" {

void attention(const Attention* s, const bf16* q, const bf16* k, const bf16* v, const int* first, const int* lengths,
               const float* bias, bf16* out, float* lse) {
  const int T = s->T, d = s->d, W = (s->S + 15) / 16 * 16 + 16;  // 16 more, lest rows share few cache sets
  const float factor = bias ? 1 : s->scale;  // of scores as the softmax finds them
  const __m512 scale = _mm512_set1_ps(factor * 1.44269504f);
#pragma omp parallel num_threads(s->threads)
  {
    const auto kt = zeros<uint32_t>(d / 2 * W), vp = zeros<uint32_t>(W / 2 * d);
    const auto S = zeros<float>(ROWS * W), O = zeros<float>(ROWS * d);
    const auto P = zeros<bf16>(ROWS * W), Q = zeros<bf16>(ROWS * d);
#pragma omp for schedule(dynamic)
    for (long job = 0; job < s->B * s->K; job++) {
      const long b = job / s->K, g = job % s->K, group = s->H / s->K;
      const bf16 *keys = k + b * s->k[0] + g * s->k[2], *values = v + b * s->v[0] + g * s->v[2];
      const int N = lengths ? lengths[b] : s->S;  // the keys that this row reads
      transpose(reinterpret_cast<const uint32_t*>(keys), s->k[1] / 2, N, d / 2, kt.get(), W);
      interleave(values, s->v[1], N, d, vp.get());
      for (long h = g * group; h < (g + 1) * group; h++)
        for (int r0 = 0; r0 < T; r0 += ROWS) {
          const Block block(r0, T, N, s->causal, first ? first + b * T : nullptr);
          for (int i = 0; i < block.m; i++)
            std::copy_n(q + b * s->q[0] + (r0 + i) * s->q[1] + h * s->q[2], d, &Q[i * d]);
          block.scores(d, Q.get(), kt.get(), S.get(), W);
          float inverse[ROWS];
          for (int i = 0; i < block.m; i++) {
            const float* x = &S[i * W];
            bf16* p = &P[i * W];
            __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
            const int low = block.begin(i) / 16 * 16, end = block.end(i);
            if (bias) block.add(i, s->scale, bias + (h * T + r0 + i) * s->S, &S[i * W]);
            for (int j = low; j < end; j += 16) most = _mm512_mask_max_ps(most, block.reads(i, j), most, _mm512_loadu_ps(x + j));
            const float top = _mm512_reduce_max_ps(most) * factor;
            const __m512 shift = _mm512_set1_ps(top * 1.44269504f);
            std::fill(p, p + low, 0);
            for (int j = low; j < end; j += 16) {
              const __m512 z = _mm512_fmsub_ps(_mm512_loadu_ps(x + j), scale, shift);
              const __m512 e = _mm512_maskz_mov_ps(block.reads(i, j), power(z));
              sum = _mm512_add_ps(sum, e);
              _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + j), down(e));
            }
            std::fill(p + (end + 15) / 16 * 16, p + block.n, 0);
            const float mass = _mm512_reduce_add_ps(sum);
            inverse[i] = 1 / mass;
            lse[(b * s->H + h) * T + r0 + i] = top + std::log(mass);
          }
          block.mix(d, P.get(), vp.get(), O.get(), W);
          for (int i = 0; i < block.m; i++) {
            bf16* o = out + ((b * T + r0 + i) * s->H + h) * d;
            for (int c = 0; c < d; c++) o[c] = down(O[i * d + c] * inverse[i]);
          }
        }
    }
  }
}

void attention_backward(const Attention* s, const bf16* q, const bf16* k, const bf16* v, const int* first,
                        const int* lengths, const float* bias, const bf16* out, const float* lse, const bf16* dout,
                        bf16* dq, bf16* dk, bf16* dv, float* dbias) {
  const int T = s->T, d = s->d, W = (s->S + 15) / 16 * 16 + 16;
  const __m512 scale = _mm512_set1_ps(s->scale), exponent = _mm512_set1_ps((bias ? 1 : s->scale) * 1.44269504f);
#pragma omp parallel num_threads(s->threads)
  {
    const auto kt = zeros<uint32_t>(d / 2 * W), vt = zeros<uint32_t>(d / 2 * W), kp = zeros<uint32_t>(W / 2 * d);
    const auto pp = zeros<uint32_t>(ROWS / 2 * W), dsp = zeros<uint32_t>(ROWS / 2 * W);
    const auto qp = zeros<uint32_t>(ROWS / 2 * d), yp = zeros<uint32_t>(ROWS / 2 * d);
    const auto P = zeros<float>(ROWS * W), D = zeros<float>(ROWS * W), O = zeros<float>(ROWS * d);
    const auto gk = zeros<float>(W * d), gv = zeros<float>(W * d);
    const auto Q = zeros<bf16>(ROWS * d), Y = zeros<bf16>(ROWS * d), DS = zeros<bf16>(ROWS * W);
    const auto heads = [&](long b, long g) {
      const long group = s->H / s->K;
      const bf16 *keys = k + b * s->k[0] + g * s->k[2], *values = v + b * s->v[0] + g * s->v[2];
      const int N = lengths ? lengths[b] : s->S;  // the keys that this row reads
      transpose(reinterpret_cast<const uint32_t*>(keys), s->k[1] / 2, N, d / 2, kt.get(), W);
      transpose(reinterpret_cast<const uint32_t*>(values), s->v[1] / 2, N, d / 2, vt.get(), W);
      interleave(keys, s->k[1], N, d, kp.get());
      std::fill_n(gk.get(), W * d, 0.f);
      std::fill_n(gv.get(), W * d, 0.f);
      for (long h = g * group; h < (g + 1) * group; h++)
        for (int r0 = 0; r0 < T; r0 += ROWS) {
          const Block block(r0, T, N, s->causal, first ? first + b * T : nullptr);
          const int m = block.m;
          float delta[ROWS] = {}, shift[ROWS] = {};
          for (int i = 0; i < m; i++) {
            const long at = ((b * T + r0 + i) * s->H + h) * d;
            std::copy_n(q + b * s->q[0] + (r0 + i) * s->q[1] + h * s->q[2], d, &Q[i * d]);
            std::copy_n(dout + at, d, &Y[i * d]);
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int c = 0; c < d; c++) sum += up(dout[at + c]) * up(out[at + c]);
            delta[i] = sum, shift[i] = lse[(b * s->H + h) * T + r0 + i] * 1.44269504f;
          }
          interleave(Q.get(), d, m, d, qp.get());
          interleave(Y.get(), d, m, d, yp.get());
          block.scores(d, Q.get(), kt.get(), P.get(), W);
          block.scores(d, Y.get(), vt.get(), D.get(), W);
          for (int i = 0; bias && i < m; i++) block.add(i, s->scale, bias + (h * T + r0 + i) * s->S, &P[i * W]);
          for (int i = 0; i < m; i += 2)
            for (int j = 0; j < block.n; j += 16) {  // P, and dS = P (dP - delta) scale, of two queries
              __m256i p[2], ds[2];
              for (int two = 0; two < 2; two++) {
                const int row = i + two, at = row * W + j;
                const __m512 z = _mm512_fmsub_ps(_mm512_loadu_ps(&P[at]), exponent, _mm512_set1_ps(shift[row]));
                const __m512 e = _mm512_maskz_mov_ps(block.reads(row, j), power(z));
                const __m512 less = _mm512_sub_ps(_mm512_loadu_ps(&D[at]), _mm512_set1_ps(delta[row]));
                p[two] = down(e);
                const __m512 moved = _mm512_maskz_mul_ps(block.reads(row, j), e, less);
                ds[two] = down(_mm512_mul_ps(moved, scale));
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(&DS[at]), ds[two]);
                if (bias && row < m) {
                  float* to = dbias + (h * T + r0 + row) * s->S + block.c0 + j;
                  const __mmask16 some = block.reads(row, j);
                  _mm512_mask_storeu_ps(to, some, _mm512_add_ps(_mm512_maskz_loadu_ps(some, to), moved));
                }
              }
              _mm512_storeu_si512(&pp[i / 2 * W + j], pair(p[0], p[1]));
              _mm512_storeu_si512(&dsp[i / 2 * W + j], pair(ds[0], ds[1]));
            }
          block.gather(d, halves(pp.get()), yp.get(), gv.get(), W);
          block.gather(d, halves(dsp.get()), qp.get(), gk.get(), W);
          block.mix(d, DS.get(), kp.get(), O.get(), W);
          for (int i = 0; i < m; i++) round_to(&O[i * d], d, dq + b * s->q[0] + (r0 + i) * s->q[1] + h * s->q[2]);
        }
      std::fill_n(&gk[N * d], (s->S - N) * d, 0.f);  // keys that no query reads
      std::fill_n(&gv[N * d], (s->S - N) * d, 0.f);
      for (int t = 0; t < s->S; t++) {
        round_to(&gk[t * d], d, dk + b * s->k[0] + t * s->k[1] + g * s->k[2]);
        round_to(&gv[t * d], d, dv + b * s->v[0] + t * s->v[1] + g * s->v[2]);
      }
    };
    // a bias has its gradient from all rows, in their order, however many threads there are: one takes them all
    const long jobs = bias ? s->K : s->B * s->K;
#pragma omp for schedule(dynamic)
    for (long job = 0; job < jobs; job++)
      for (long b = bias ? 0 : job / s->K; b < (bias ? s->B : job / s->K + 1); b++) heads(b, job % s->K);
  }
}
}

#endif
