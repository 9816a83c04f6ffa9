// The bf16 operations of training that torch's CPU kernels leave slow: the activations of the MLP, norms, rotations, and
// softmax with its cross-entropy; `fused_attention.h` has attention, `fused_products.h` the products with
// weights, `fused_lstm.h` a recurrent layer.
//
// Everything is computed in fp32 and rounded once, to nearest even; each result depends on the input alone, not on the
// number of threads. `fused.py` describes what each function computes.

#include "fused_numbers.h"

namespace {

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

// d/du [n] from d/dout [n], which makes room for the activation itself
void gelu_backward(long n, const bf16* u, bf16* dout, bf16* du, int threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
  for (long i = 0; i < n; i++) {
    const float x = up(u[i]), s = logistic(GELU * (x + CUBE * x * x * x));
    du[i] = down(up(dout[i]) * (s + x * s * (1 - s) * GELU * (1 + 3 * CUBE * x * x)));
    dout[i] = down(x * s);
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

void swiglu_backward(long n, const bf16* gate, const bf16* u, bf16* dout, bf16* dgate, bf16* du, int threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
  for (long i = 0; i < n; i++) {
    const float x = up(gate[i]), s = logistic(x), d = up(dout[i]);
    dgate[i] = down(d * up(u[i]) * s * (1 + x * (1 - s)));
    du[i] = down(d * x * s);
    dout[i] = down(x * s * up(u[i]));
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

// dout [n, D] -> dx [n, D] fp32, and dweight [D] (and dbias [D], unless null) through `parts` [parts of rows, 2, D];
// dx is added to `past` [n, D], what reaches x past the norm, where that is not null, and then also rounded to `low`
void norm_backward(long n, long D, const float* x, const float* weight, const float* mean, const float* inverse,
                   int centre, const bf16* dout, const float* past, float* dx, bf16* low, float* parts, float* dweight,
                   float* dbias, int threads) {
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
      for (long c = 0; c < D; c++) {
        const float g = r * (up(d[c]) * weight[c] - sum - (row[c] - m) * r * along);
        dx[i * D + c] = past ? past[i * D + c] + g : g;
      }
      for (long c = 0; past && c < D; c++) low[i * D + c] = down(dx[i * D + c]);
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

// x [n, heads, d], rows ld apart, turned in place: components i and i + d / 2 of each head by the angle whose cosine and
// sine are at row (i mod period) of [period, d] tables; by the angle's negative when `back`
void rotate(long n, long heads, long d, bf16* x, long ld, const float* cosine, const float* sine, long period, int back,
            int threads) {
  const long half = d / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long i = 0; i < n; i++) {
    const float *c = cosine + i % period * d, *s = sine + i % period * d, sign = back ? -1 : 1;
    for (long h = 0; h < heads; h++) {
      bf16* a = x + i * ld + h * d;
#pragma omp simd
      for (long t = 0; t < half; t++) {
        const float one = up(a[t]), two = up(a[t + half]);
        a[t] = down(one * c[t] - two * sign * s[t]);
        a[t + half] = down(two * c[t] + one * sign * s[t]);
      }
    }
  }
}

// logits [n, V], rows ld apart, become softmax - onehot in place, 0 in rows whose label is negative and between the
// rows; loss [n] is -log softmax[label]
void cross_entropy(long n, long V, bf16* logits, long ld, const long* labels, float* loss, int threads) {
#pragma omp parallel num_threads(threads)
  {
    const auto e = room<float>(V);
#pragma omp for schedule(static)
    for (long i = 0; i < n; i++) {
      bf16* z = logits + i * ld;
      const long y = labels[i];
      loss[i] = 0;
      std::fill(z + V, z + ld, 0);
      if (y < 0) {
        std::fill(z, z + V, 0);
        continue;
      }
      float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
      for (long j = 0; j < V; j++) most = up(z[j]) > most ? up(z[j]) : most;
#pragma omp simd reduction(+ : sum)
      for (long j = 0; j < V; j++) sum += e[j] = exponential(up(z[j]) - most);
      loss[i] = std::log(sum) - (up(z[y]) - most);
      const float share = 1 / sum;
#pragma omp simd
      for (long j = 0; j < V; j++) z[j] = down(e[j] * share);
      z[y] = down(e[y] * share - 1);
    }
  }
}

}  // extern "C"

#include "fused_attention.h"
#include "fused_lstm.h"
#include "fused_products.h"
