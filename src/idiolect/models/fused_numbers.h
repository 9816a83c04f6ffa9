// Products of small blocks of bf16 numbers where the processor multiplies them by itself (AVX-512 BF16).

#pragma once
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "numbers.h"

namespace {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
template <class T>
std::unique_ptr<T[], Free> room(long n) {  // of no particular content, unlike a vector's; no vector splits a cache line
  return std::unique_ptr<T[], Free>(static_cast<T*>(std::aligned_alloc(64, (n * sizeof(T) + 63) / 64 * 64)));
}
template <class T>
std::unique_ptr<T[], Free> zeros(long n) {
  auto made = room<T>(n);
  std::fill_n(made.get(), n, T());
  return made;
}

#ifdef __AVX512BF16__

// 2^x within 2 units of fp32's last place
inline __m512 power(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, 0), f = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(.00133335581f);
  for (float c : {.00961812911f, .0555041087f, .240226507f, .693147181f, 1.f})
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(c));
  return _mm512_scalef_ps(p, whole);
}

inline __m256i down(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
inline __m512 up(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

// of a vector of 16, those of the first n
inline __mmask16 first(long n) { return n >= 16 ? 0xffff : n > 0 ? (1u << n) - 1 : 0; }

// A product's unit is a pair of neighbours along the summed dimension, in 32 bits: what one instruction multiplies.
inline int32_t pair(const bf16* x) {
  int32_t both;
  std::memcpy(&both, x, 4);
  return both;
}
inline const bf16* halves(const uint32_t* x) { return reinterpret_cast<const bf16*>(x); }
inline uint32_t pair(bf16 low, bf16 high) { return low | uint32_t(high) << 16; }
inline __m512i pair(__m256i low, __m256i high) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
}

// Stores those of m; where that is all, without a mask, which some processors are slow at
inline void put(float* to, __mmask16 m, __m512 x) {
  if (m == 0xffff) _mm512_storeu_ps(to, x);
  else _mm512_mask_storeu_ps(to, m, x);
}
inline void put(bf16* to, __mmask16 m, __m512 x) {
  if (m == 0xffff) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), down(x));
  else _mm256_mask_storeu_epi16(to, m, down(x));
}

constexpr int STRIP = 6;  // rows of a product at a time: with 64 columns they fill the registers

// C [6, 16 N] = A [6, k pairs] B [k pairs, 16 N], or += when `add`; A's rows are `ar` numbers apart, its pairs `ai`
template <int N, bool add>
inline void tile(int k, const bf16* A, long ar, long ai, const uint32_t* B, long ldb, float* C, long ldc) {
  __m512 c[STRIP][N];
#pragma GCC unroll 6
  for (int r = 0; r < STRIP; r++)
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) c[r][n] = add ? _mm512_loadu_ps(C + r * ldc + 16 * n) : _mm512_setzero_ps();
  for (int i = 0; i < k; i++) {
    __m512bh b[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) b[n] = (__m512bh)_mm512_loadu_si512(B + i * ldb + 16 * n);
#pragma GCC unroll 6
    for (int r = 0; r < STRIP; r++) {
      const __m512bh a = (__m512bh)_mm512_set1_epi32(pair(A + r * ar + i * ai));
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) c[r][n] = _mm512_dpbf16_ps(c[r][n], a, b[n]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < STRIP; r++)
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) _mm512_storeu_ps(C + r * ldc + 16 * n, c[r][n]);
}

// The same for n columns, 64 at most
template <bool add>
void strip(int n, int k, const bf16* A, long ar, long ai, const uint32_t* B, long ldb, float* C, long ldc) {
  switch ((n + 15) / 16) {
    case 1: return tile<1, add>(k, A, ar, ai, B, ldb, C, ldc);
    case 2: return tile<2, add>(k, A, ar, ai, B, ldb, C, ldc);
    case 3: return tile<3, add>(k, A, ar, ai, B, ldb, C, ldc);
    default: return tile<4, add>(k, A, ar, ai, B, ldb, C, ldc);
  }
}

// fp32 c [n] -> bf16
inline void round_to(const float* c, int n, bf16* out) {
  for (int i = 0; i < n; i += 16) {
    const __mmask16 m = first(n - i);
    put(out + i, m, _mm512_maskz_loadu_ps(m, c + i));
  }
}

#endif

}  // namespace
