// Linear layers in bf16 that read fp32 weights as they lie, and give their gradients in fp32.

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
constexpr int DEPTH = 256;        // pairs at a time: a panel of B, 64 KB, stays in the second cache
constexpr int PANEL_ROWS = 768;   // that use a panel before it is given up

// A panel of B: rows `even` and `odd` [64] of fp32 or bf16 numbers, missing ones 0, side by side
inline __m512 sixteen(const float* x, __mmask16 m) { return _mm512_maskz_loadu_ps(m, x); }
inline __m256i rounded(const float* x, __mmask16 m) { return down(sixteen(x, m)); }
inline __m256i rounded(const bf16* x, __mmask16 m) { return _mm256_maskz_loadu_epi16(m, x); }
template <class T>
inline void interleave(const T* even, const T* odd, int n, uint32_t* out) {
  for (int c = 0; c < COLUMNS; c += 16) {
    const __mmask16 m = n - c >= 16 ? 0xffff : n > c ? (1u << (n - c)) - 1 : 0;
    const __m256i low = rounded(even + c, m), high = odd ? rounded(odd + c, m) : _mm256_setzero_si256();
    _mm512_storeu_si512(out + c, pair(low, high));
  }
}

// C [M, N] = A [M, K] B: pack(j, n, k0, k, panel) lays out pairs k0 … k0 + k of columns j … j + n of B, and
// store(i, j, n, c) takes row i of the result. M is at least 6; where K is odd, A's rows may be read one number further.
template <class Pack, class Store>
void multiply(long M, long N, long K, const bf16* A, long lda, int threads, Pack pack, Store store) {
  const long depth = (K + 1) / 2, blocks = (M + PANEL_ROWS - 1) / PANEL_ROWS, panels = (N + COLUMNS - 1) / COLUMNS;
#pragma omp parallel num_threads(threads)
  {
    const auto B = room<uint32_t>(DEPTH * COLUMNS);
    const auto C = room<float>((std::min(M, long(PANEL_ROWS)) + STRIP) * COLUMNS);
    long held = -1;
#pragma omp for schedule(static)
    for (long job = 0; job < panels * blocks; job++) {
      const long j = job / blocks * COLUMNS, i0 = job % blocks * PANEL_ROWS, m = std::min(M - i0, long(PANEL_ROWS));
      const int n = std::min(N - j, long(COLUMNS));
      // the last strip ends with the last row, and may begin in the one before
      const auto row = [&](long i) { return std::min(i0 + i, M - STRIP); };
      for (long k0 = 0; k0 < depth; k0 += DEPTH) {
        const int k = std::min(depth - k0, long(DEPTH));
        if (held != j || depth > DEPTH) pack(j, n, k0, k, B.get());
        held = j;
        for (long i = 0; i < m; i += STRIP) {
          const bf16* a = A + row(i) * lda + 2 * k0;
          if (k0) strip<true>(n, k, a, lda, 2, B.get(), COLUMNS, &C[i * COLUMNS], COLUMNS);
          else strip<false>(n, k, a, lda, 2, B.get(), COLUMNS, &C[i * COLUMNS], COLUMNS);
        }
      }
      for (long i = 0; i < m; i += STRIP)
        for (long r = i0 + i - row(i); r < STRIP; r++) store(row(i) + r, j, n, &C[(i + r) * COLUMNS]);
    }
  }
}

}  // namespace

extern "C" {


// x [M, K] -> out [M, N], rows ldo apart: x Wt + bias, W [N, K]; bias may be null. With `residual` [M, N] instead
// sum [M, N] = residual + x Wt + bias, in fp32
void linear(long M, long N, long K, const bf16* x, const float* W, const float* bias, bf16* out, long ldo,
            const float* residual, float* sum, int threads) {
  const auto pack = [&](long j, int n, long k0, int k, uint32_t* panel) {
    for (int c = 0; c < COLUMNS; c++) {
      const float* w = W + (j + c) * K + 2 * k0;
      for (int i = 0; i < k; i += 16) {
        uint32_t some[16] = {};
        const int left = K - 2 * (k0 + i);
        if (c < n) {
          const __mmask16 low = left >= 16 ? 0xffff : (1u << left) - 1;
          const __mmask16 high = left >= 32 ? 0xffff : left > 16 ? (1u << (left - 16)) - 1 : 0;
          _mm512_storeu_si512(some, (__m512i)_mm512_cvtne2ps_pbh(sixteen(w + 2 * i + 16, high), sixteen(w + 2 * i, low)));
        }
        for (int t = 0; t < std::min(16, k - i); t++) panel[(i + t) * COLUMNS + c] = some[t];
      }
    }
  };
  multiply(M, N, K, x, K, threads, pack, [&](long i, long j, int n, float* c) {
    if (bias)
      for (int t = 0; t < n; t++) c[t] += bias[j + t];
    if (!residual) return round_to(c, n, out + i * ldo + j);
    for (int t = 0; t < n; t++) sum[i * N + j + t] = residual[i * N + j + t] + c[t];
  });
}

// d/dx [M, K] from d/dout [M, N], rows ldo apart; added to `other` [M, K] where that is not null
void linear_input(long M, long N, long K, const bf16* dout, long ldo, const float* W, const bf16* other, bf16* dx,
                  int threads) {
  const auto pack = [&](long j, int n, long k0, int k, uint32_t* panel) {
    for (int i = 0; i < k; i++) {
      const float* even = W + 2 * (k0 + i) * K + j;
      interleave(even, 2 * (k0 + i) + 1 < N ? even + K : nullptr, n, panel + i * COLUMNS);
    }
  };
  multiply(M, K, N, dout, ldo, threads, pack, [&](long i, long j, int n, float* c) {
    if (other)
      for (int t = 0; t < n; t++) c[t] += up(other[i * K + j + t]);
    round_to(c, n, dx + i * K + j);
  });
}

// d/dW [N, K] fp32 from d/dout [M, N], rows ldo apart, and x [M, K]; with `add` it is added to what dW holds
void linear_weight(long M, long N, long K, const bf16* dout, long ldo, const bf16* x, float* dW, int add, int threads) {
  const long depth = (M + 1) / 2, panels = (K + COLUMNS - 1) / COLUMNS;
  // rows at a time: as many as fit into the second cache, but alike for all threads
  const long most = std::clamp(256 * 1024 / (depth * 4) / STRIP * STRIP, long(STRIP), 8L * STRIP);
  const long turns = (N + most * threads - 1) / (most * threads) * threads;
  const long rows = (N + turns * STRIP - 1) / (turns * STRIP) * STRIP;
  const auto B = room<uint32_t>(panels * depth * COLUMNS);
#pragma omp parallel num_threads(threads)
  {
    const auto A = room<uint32_t>(depth * COLUMNS);
    const auto C = room<float>(rows * COLUMNS);
#pragma omp for schedule(static)
    for (long job = 0; job < panels * depth; job++) {
      const long j = job / depth * COLUMNS, i = job % depth;
      const bf16* even = x + 2 * i * K + j;
      interleave(even, 2 * i + 1 < M ? even + K : nullptr, std::min(K - j, long(COLUMNS)), &B[job * COLUMNS]);
    }
#pragma omp for schedule(dynamic)
    for (long r = 0; r < N; r += rows) {
      const int m = std::min(N - r, rows);
      for (long i = 0; i < depth; i++) {
        const bf16* even = dout + 2 * i * ldo + r;
        interleave(even, 2 * i + 1 < M ? even + ldo : nullptr, m, &A[i * COLUMNS]);
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
          for (int c = 0; c < n; c++) {
            float& to = dW[(r + i) * K + j + c];
            to = add ? to + C[i * COLUMNS + c] : C[i * COLUMNS + c];
          }
      }
    }
  }
}
}

#endif
