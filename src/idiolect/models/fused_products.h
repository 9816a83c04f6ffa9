// Linear layers in bf16 that read fp32 weights as they lie, and give their gradients in fp32.

#pragma once
#include <omp.h>

#include "fused_numbers.h"

extern "C" {

// Where there are matrix units (AMX) torch's products are several times faster.
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
int products_work() { return 1; }
#else
int products_work() { return 0; }
#endif
}

#ifdef __AVX512BF16__

namespace {

constexpr int COLUMNS = 64;       // of a product at a time
constexpr long DEPTH = 1536;       // pairs at a time: a panel of B, 384 KB, stays in the second cache …
constexpr long ROWS_NEAR = 256 << 10;  // … with so many bytes of rows of A
constexpr long GROUP = 2 << 20;    // bytes of panels that all threads share
constexpr int NEAR = 64;          // pairs of a panel, 16 KB, that stay in the first cache while it is made

// A panel of B: rows `even` and `odd` [64] of fp32 or bf16 numbers, missing ones 0, side by side
inline __m512 sixteen(const float* x, __mmask16 m) { return _mm512_maskz_loadu_ps(m, x); }
inline __m256i rounded(const float* x, __mmask16 m) { return down(sixteen(x, m)); }
inline __m256i rounded(const bf16* x, __mmask16 m) { return _mm256_maskz_loadu_epi16(m, x); }
template <class T>
inline void interleave(const T* even, const T* odd, int n, uint32_t* out) {
  for (int c = 0; c < COLUMNS; c += 16) {
    const __mmask16 m = first(n - c);
    const __m256i low = rounded(even + c, m), high = odd ? rounded(odd + c, m) : _mm256_setzero_si256();
    _mm512_storeu_si512(out + c, pair(low, high));
  }
}

// Pairs k0 … k0 + k of rows j … j + n of W [., K] as a panel [k, 64]
void pack_rows(const float* W, long K, long j, int n, long k0, int k, uint32_t* panel) {
  for (int i0 = 0; i0 < k; i0 += NEAR)  // so that what is written stays in the first cache
    for (int c = 0; c < COLUMNS; c++)
      for (int i = i0; i < std::min(k, i0 + NEAR); i += 16) {
        const float* w = W + (j + c) * K + 2 * (k0 + i);
        const int left = K - 2 * (k0 + i);
        uint32_t some[16] = {};
        if (c < n) {
          const __m512 low = sixteen(w, first(left)), high = sixteen(w + 16, first(left - 16));
          _mm512_storeu_si512(some, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
        for (int t = 0; t < std::min(16, k - i); t++) panel[(i + t) * COLUMNS + c] = some[t];
      }
}

// Pairs k0 … k0 + k of columns j … j + n of W [N, K]
void pack_columns(const float* W, long N, long K, long j, int n, long k0, int k, uint32_t* panel) {
  for (int i = 0; i < k; i++) {
    const float* even = W + 2 * (k0 + i) * K + j;
    interleave(even, 2 * (k0 + i) + 1 < N ? even + K : nullptr, n, panel + i * COLUMNS);
  }
}

// C [M, N] = A [M, K] B: pack(j, n, k0, k, panel) lays out pairs k0 … k0 + k of columns j … j + n of B, and
// store(i, j, n, c) takes row i of the result. M is at least 6; where K is odd, A's rows may be read one number further.
// Each thread lays out its share of some panels and then takes its share of the rows through all of them.
template <class Pack, class Store>
void multiply(long M, long N, long K, const bf16* A, long lda, int threads, Pack pack, Store store) {
  const long depth = (K + 1) / 2, turns = (depth + DEPTH - 1) / DEPTH, deep = (depth + turns - 1) / turns;
  const long panels = (N + COLUMNS - 1) / COLUMNS, strips = (M + STRIP - 1) / STRIP;
  const long wide = std::clamp(GROUP / (deep * COLUMNS * 4), long(std::min(panels, long(threads))), panels);
  const long near = std::max(1L, ROWS_NEAR / (STRIP * deep * 4));  // strips whose rows of A stay in the second cache
  const auto B = room<uint32_t>(wide * deep * COLUMNS);
  const auto C = room<float>(turns == 1 ? 0 : wide * strips * STRIP * COLUMNS);
#pragma omp parallel num_threads(threads)
  {
    alignas(64) float tile[STRIP * COLUMNS];
    const long thread = omp_get_thread_num(), count = omp_get_num_threads();
    const long from = strips * thread / count, to = strips * (thread + 1) / count;
    for (long p0 = 0; p0 < panels; p0 += wide)
      for (long k0 = 0; k0 < depth; k0 += deep) {
        const long some = std::min(wide, panels - p0);
        const int k = std::min(deep, depth - k0);
        const auto width = [&](long p) { return int(std::min(N - (p0 + p) * COLUMNS, long(COLUMNS))); };
#pragma omp for schedule(static)
        for (long p = 0; p < some; p++) pack((p0 + p) * COLUMNS, width(p), k0, k, &B[p * deep * COLUMNS]);
        for (long s0 = from; s0 < to; s0 += near)
          for (long p = 0; p < some; p++)
            for (long s = s0; s < std::min(to, s0 + near); s++) {
              const long row = std::min(s * STRIP, M - STRIP);  // the last strip may begin in the one before
              const bf16* a = A + row * lda + 2 * k0;
              const uint32_t* b = &B[p * deep * COLUMNS];
              float* c = turns == 1 ? tile : &C[(p * strips + s) * STRIP * COLUMNS];
              if (k0) strip<true>(width(p), k, a, lda, 2, b, COLUMNS, c, COLUMNS);
              else strip<false>(width(p), k, a, lda, 2, b, COLUMNS, c, COLUMNS);
              const long j = (p0 + p) * COLUMNS;
              for (long r = s * STRIP - row; k0 + k == depth && r < STRIP; r++)
                if (width(p) == COLUMNS) store(row + r, j, COLUMNS, c + r * COLUMNS);  // a known number: unrolled
                else store(row + r, j, width(p), c + r * COLUMNS);
            }
#pragma omp barrier
      }
  }
}

}  // namespace

extern "C" {

// x [M, K] -> out [M, N], rows ldo apart: x Wt + bias, W [N, K]; bias may be null. With `residual` [M, N] instead
// sum [M, N] = residual + x Wt + bias, in fp32
void linear(long M, long N, long K, const bf16* x, const float* W, const float* bias, bf16* out, long ldo,
            const float* residual, float* sum, int threads) {
  const auto pack = [&](long j, int n, long k0, int k, uint32_t* panel) { pack_rows(W, K, j, n, k0, k, panel); };
  multiply(M, N, K, x, K, threads, pack, [&](long i, long j, int n, const float* c) __attribute__((always_inline)) {
    for (int t = 0; t < n; t += 16) {
      const __mmask16 m = first(n - t);
      __m512 v = sixteen(c + t, m);
      if (bias) v = _mm512_add_ps(v, sixteen(bias + j + t, m));
      if (residual) put(sum + i * N + j + t, m, _mm512_add_ps(v, sixteen(residual + i * N + j + t, m)));
      else put(out + i * ldo + j + t, m, v);
    }
  });
}

// d/dx [M, K] from d/dout [M, N], rows ldo apart; added to `other` [M, K] where that is not null
void linear_input(long M, long N, long K, const bf16* dout, long ldo, const float* W, const bf16* other, bf16* dx,
                  int threads) {
  const auto pack = [&](long j, int n, long k0, int k, uint32_t* panel) { pack_columns(W, N, K, j, n, k0, k, panel); };
  multiply(M, K, N, dout, ldo, threads, pack, [&](long i, long j, int n, const float* c) __attribute__((always_inline)) {
    for (int t = 0; t < n; t += 16) {
      const __mmask16 m = first(n - t);
      __m512 v = sixteen(c + t, m);
      if (other) v = _mm512_add_ps(v, up(_mm256_maskz_loadu_epi16(m, other + i * K + j + t)));
      put(dx + i * K + j + t, m, v);
    }
  });
}

// d/dW [N, K] and d/dbias [N] (unless null), fp32, from d/dout [M, N], rows ldo apart, and x [M, K]; with `add` they are
// added to what is there
void linear_weight(long M, long N, long K, const bf16* dout, long ldo, const bf16* x, float* dW, float* dbias, int add,
                   int threads) {
  const long depth = (M + 1) / 2, panels = (K + COLUMNS - 1) / COLUMNS;
  // strips of rows at a time: as many as fit into the second cache, but alike for all threads
  const long strips = (N + STRIP - 1) / STRIP, most = std::clamp(256 * 1024 / (depth * 4 * STRIP), 1L, 8L);
  const long turns = (strips + most * threads - 1) / (most * threads) * threads;
  const auto B = room<uint32_t>(panels * depth * COLUMNS);
#pragma omp parallel num_threads(threads)
  {
    const auto A = room<uint32_t>(depth * COLUMNS);
    const auto C = room<float>(most * STRIP * COLUMNS);
#pragma omp for schedule(static)
    for (long job = 0; job < panels * depth; job++) {
      const long j = job / depth * COLUMNS, i = job % depth;
      const bf16* even = x + 2 * i * K + j;
      interleave(even, 2 * i + 1 < M ? even + K : nullptr, std::min(K - j, long(COLUMNS)), &B[job * COLUMNS]);
    }
#pragma omp for schedule(static)
    for (long turn = 0; turn < turns; turn++) {
      const long r = strips * turn / turns * STRIP;
      const int m = std::min(N, strips * (turn + 1) / turns * STRIP) - r;
      for (long i = 0; i < depth; i++) {
        const bf16* even = dout + 2 * i * ldo + r;
        interleave(even, 2 * i + 1 < M ? even + ldo : nullptr, m, &A[i * COLUMNS]);
      }
      for (int c = 0; dbias && c < m; c += 16) {
        __m512 low = _mm512_setzero_ps(), high = low;
        for (long i = 0; i < depth; i++) {
          const __m512i both = _mm512_loadu_si512(&A[i * COLUMNS + c]);
          low = _mm512_add_ps(low, _mm512_castsi512_ps(_mm512_slli_epi32(both, 16)));
          high = _mm512_add_ps(high, _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(int(0xffff0000)))));
        }
        const __mmask16 some = first(m - c);
        const __m512 sum = _mm512_add_ps(low, high);
        put(dbias + r + c, some, add ? _mm512_add_ps(sum, sixteen(dbias + r + c, some)) : sum);
      }
      for (long j = 0; j < K; j += COLUMNS) {
        const int n = std::min(K - j, long(COLUMNS));
        for (long k0 = 0; k0 < depth; k0 += DEPTH) {
          const int k = std::min(depth - k0, long(DEPTH));
          const uint32_t* b = &B[(j / COLUMNS * depth + k0) * COLUMNS];
          for (int i = 0; i < m; i += STRIP) {
            const bf16* a = halves(&A[k0 * COLUMNS + i]);
            if (k0) strip<true>(n, k, a, 2, 2 * COLUMNS, b, COLUMNS, &C[i * COLUMNS], COLUMNS);
            else strip<false>(n, k, a, 2, 2 * COLUMNS, b, COLUMNS, &C[i * COLUMNS], COLUMNS);
          }
        }
        for (int i = 0; i < m; i++)
          for (int c = 0; c < n; c += 16) {
            const __mmask16 some = first(n - c);
            float* to = dW + (r + i) * K + j + c;
            const __m512 sum = _mm512_loadu_ps(&C[i * COLUMNS + c]);
            put(to, some, add ? _mm512_add_ps(sum, sixteen(to, some)) : sum);
          }
      }
    }
  }
}
}

#endif
