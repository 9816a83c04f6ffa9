// bf16 numbers, and the functions of single numbers that kernels of training and of decoding share.

#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

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

}  // namespace
