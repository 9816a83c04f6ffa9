// A layer of an LSTM over a window: what is left of it once the products with its inputs are made.
// Each thread takes rows of the batch through all positions, so that none waits for another.

#include "fused_products.h"

#ifdef __AVX512BF16__

namespace {

inline __m512 one() { return _mm512_set1_ps(1.f); }
inline __m512 logistic(__m512 x) {
  return _mm512_div_ps(one(), _mm512_add_ps(one(), power(_mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f)))));
}
inline __m512 tangent(__m512 x) {
  return _mm512_fmsub_ps(_mm512_set1_ps(2.f), logistic(_mm512_add_ps(x, x)), one());
}
inline __m512 slope(__m512 s) { return _mm512_fnmadd_ps(s, s, s); }         // of the logistic function: s (1 - s)
inline __m512 incline(__m512 t) { return _mm512_fnmadd_ps(t, t, one()); }   // of the tangent: 1 - t^2

// Rows [from, to) of a batch that one thread carries, and its sums: `out` [rows, N] = `in` [rows, K] B
struct Carried {
  const long K, N, panels = (N + COLUMNS - 1) / COLUMNS, depth = K / 2;
  const uint32_t* B;  // [panels, depth, 64]
  long from, to, strips;
  std::unique_ptr<bf16[], Free> in;
  std::unique_ptr<float[], Free> out;

  Carried(long K, long N, const uint32_t* B, long rows, int threads) : K(K), N(N), B(B) {
    const long each = (rows + threads - 1) / threads;
    from = std::min(rows, omp_get_thread_num() * each), to = std::min(rows, from + each);
    strips = (to - from + STRIP - 1) / STRIP;
    in = zeros<bf16>(strips * STRIP * K), out = zeros<float>(strips * STRIP * panels * COLUMNS);
  }
  bf16* input(long row) { return &in[(row - from) * K]; }
  const float* sum(long row) const { return &out[(row - from) * panels * COLUMNS]; }
  void multiply() {
    for (long p = 0; p < panels; p++)
      for (long s = 0; s < strips; s++)
        strip<false>(std::min(N - p * COLUMNS, long(COLUMNS)), depth, &in[s * STRIP * K], K, 2, B + p * depth * COLUMNS,
                     COLUMNS, &out[s * STRIP * panels * COLUMNS + p * COLUMNS], panels * COLUMNS);
  }
};

// The four gates of 16 cells from what goes into them
struct Gates {
  __m512 in, forget, fresh, out;
  Gates(__m512 i, __m512 f, __m512 g, __m512 o)
      : in(logistic(i)), forget(logistic(f)), fresh(tangent(g)), out(logistic(o)) {}
};

}  // namespace

extern "C" {

// gates [B, T, 4 D], the products with the inputs (input, forget, fresh, output), become the sums that the gates are
// functions of; W [4 D, D]; vectors [2, B, D] fp32, hidden and cell before the window, become those after it;
// hidden [B, T, D] and cells [B, T, D] fp32 are those after each position
void lstm(long B, long T, long D, bf16* gates, const float* W, float* vectors, bf16* hidden, float* cells, int threads) {
  const long panels = (4 * D + COLUMNS - 1) / COLUMNS;
  const auto packed = room<uint32_t>(panels * D / 2 * COLUMNS);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (long p = 0; p < panels; p++)
      pack_rows(W, D, p * COLUMNS, std::min(4 * D - p * COLUMNS, long(COLUMNS)), 0, D / 2, &packed[p * D / 2 * COLUMNS]);
    Carried carried(D, 4 * D, packed.get(), B, threads);
    for (long b = carried.from; b < carried.to; b++) round_to(vectors + b * D, D, carried.input(b));
    for (long t = 0; t < T; t++) {
      carried.multiply();
      for (long b = carried.from; b < carried.to; b++) {
        const long at = b * T + t;
        for (long c = 0; c < D; c += 16) {
          const __mmask16 m = first(D - c);
          __m512 z[4];
          for (int g = 0; g < 4; g++) {
            bf16* gate = gates + at * 4 * D + g * D + c;
            z[g] = _mm512_add_ps(up(_mm256_maskz_loadu_epi16(m, gate)), sixteen(carried.sum(b) + g * D + c, m));
            put(gate, m, z[g]);
          }
          const Gates gate(z[0], z[1], z[2], z[3]);
          float *h = vectors + b * D + c, *cell = vectors + (B + b) * D + c;
          const __m512 now = _mm512_fmadd_ps(gate.forget, sixteen(cell, m), _mm512_mul_ps(gate.in, gate.fresh));
          const __m512 shown = _mm512_mul_ps(gate.out, tangent(now));
          put(cell, m, now), put(cells + at * D + c, m, now);
          put(h, m, shown), put(hidden + at * D + c, m, shown), put(carried.input(b) + c, m, shown);
        }
      }
    }
  }
}

// dhidden [B, T, D] -> dgates [B, T, 4 D], the gradients of the sums in `gates`; before [B, D] fp32 are the cells
// before the window; vectors [2, B, D] fp32, the gradients of those after the window, become those of before it
void lstm_backward(long B, long T, long D, const bf16* gates, const float* W, const float* before, const float* cells,
                   const bf16* dhidden, bf16* dgates, float* vectors, int threads) {
  const long panels = (D + COLUMNS - 1) / COLUMNS;
  const auto packed = room<uint32_t>(panels * 2 * D * COLUMNS);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (long p = 0; p < panels; p++)
      pack_columns(W, 4 * D, D, p * COLUMNS, std::min(D - p * COLUMNS, long(COLUMNS)), 0, 2 * D,
                   &packed[p * 2 * D * COLUMNS]);
    Carried carried(4 * D, D, packed.get(), B, threads);
    for (long t = T - 1; t >= 0; t--) {
      for (long b = carried.from; b < carried.to; b++) {
        const long at = b * T + t;
        for (long c = 0; c < D; c += 16) {
          const __mmask16 m = first(D - c);
          const auto sum = [&](int g) { return up(_mm256_maskz_loadu_epi16(m, gates + at * 4 * D + g * D + c)); };
          const Gates gate(sum(0), sum(1), sum(2), sum(3));
          float *h = vectors + b * D + c, *cell = vectors + (B + b) * D + c;
          const __m512 shown = tangent(sixteen(cells + at * D + c, m));
          const __m512 past = sixteen(t ? cells + (at - 1) * D + c : before + b * D + c, m);
          const __m512 dh = _mm512_add_ps(up(_mm256_maskz_loadu_epi16(m, dhidden + at * D + c)), sixteen(h, m));
          const __m512 dc = _mm512_fmadd_ps(_mm512_mul_ps(dh, gate.out), incline(shown), sixteen(cell, m));
          const __m512 d[] = {_mm512_mul_ps(_mm512_mul_ps(dc, gate.fresh), slope(gate.in)),
                              _mm512_mul_ps(_mm512_mul_ps(dc, past), slope(gate.forget)),
                              _mm512_mul_ps(_mm512_mul_ps(dc, gate.in), incline(gate.fresh)),
                              _mm512_mul_ps(_mm512_mul_ps(dh, shown), slope(gate.out))};
          for (int g = 0; g < 4; g++) {
            put(dgates + at * 4 * D + g * D + c, m, d[g]);
            put(carried.input(b) + g * D + c, m, d[g]);
          }
          put(cell, m, _mm512_mul_ps(dc, gate.forget));
        }
      }
      carried.multiply();
      for (long b = carried.from; b < carried.to; b++) std::copy_n(carried.sum(b), D, vectors + b * D);
    }
  }
}
}

#endif
