// One instruction set's vectors: a lane is a candidate. Included once by each path, which sets RT_LANES.
#pragma once

#include <stdint.h>
#include <string.h>

#if RT_LANES > 4
#include <immintrin.h>
#endif

namespace {

constexpr int kLanes = RT_LANES;

typedef float Lanes __attribute__((vector_size(4 * RT_LANES)));
typedef int32_t IntLanes __attribute__((vector_size(4 * RT_LANES)));

#define RT_INLINE inline __attribute__((always_inline))

RT_INLINE Lanes all(float value) { return value - Lanes{}; }

#if RT_LANES == 16
RT_INLINE Lanes larger(Lanes a, Lanes b) { return (Lanes)_mm512_max_ps((__m512)a, (__m512)b); }
RT_INLINE Lanes rough_reciprocal(Lanes x) { return (Lanes)_mm512_rcp14_ps((__m512)x); }
RT_INLINE Lanes rough_root(Lanes x) { return (Lanes)_mm512_rsqrt14_ps((__m512)x); }
#elif RT_LANES == 8
RT_INLINE Lanes larger(Lanes a, Lanes b) { return (Lanes)_mm256_max_ps((__m256)a, (__m256)b); }
RT_INLINE Lanes rough_reciprocal(Lanes x) { return (Lanes)_mm256_rcp_ps((__m256)x); }
RT_INLINE Lanes rough_root(Lanes x) { return (Lanes)_mm256_rsqrt_ps((__m256)x); }
#else
RT_INLINE Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }
#endif

// 1 / x and 1 / sqrt(x) of positive numbers: the processor's 12 or 14 bits and one step of Newton's, which leaves an
// error of some 2^-23. Infinity may give NaN.
#if RT_LANES > 4
RT_INLINE Lanes reciprocal(Lanes x) {
  const Lanes y = rough_reciprocal(x);
  return y * (2.0f - x * y);
}
RT_INLINE Lanes inverse_root(Lanes x) {
  const Lanes y = rough_root(x);
  return y * (1.5f - 0.5f * x * y * y);
}
#else
RT_INLINE Lanes reciprocal(Lanes x) { return 1.0f / x; }
RT_INLINE Lanes inverse_root(Lanes x) {
  Lanes root;
  for (int lane = 0; lane < kLanes; ++lane) root[lane] = __builtin_sqrtf(x[lane]);
  return 1.0f / root;
}
#endif

// e^x to a relative error of 2e-7, for x up to 88; what is below -87 gives e^-87. NaN gives a number.
RT_INLINE Lanes exponential(Lanes x) {
  // 2^t = 2^n 2^f with n the nearest integer. Adding 1.5 * 2^23 rounds, and leaves n in the low bits.
  const Lanes t = larger(x * 1.44269504088896f, all(-125.5f));
  const Lanes shifted = t + 12582912.0f;
  const Lanes f = t - (shifted - 12582912.0f);
  Lanes power = all(1.5403530e-4f);  // Taylor's coefficients of 2^f, (ln 2)^k / k!
  power = power * f + 1.3333558e-3f;
  power = power * f + 9.6181291e-3f;
  power = power * f + 5.5504109e-2f;
  power = power * f + 2.4022651e-1f;
  power = power * f + 6.9314718e-1f;
  power = power * f + 1.0f;
  return (Lanes)((IntLanes)power + ((IntLanes)shifted << 23));
}

RT_INLINE Lanes sigmoid(Lanes x) { return reciprocal(1.0f + exponential(-larger(x, all(-87.0f)))); }

// The error function to 1.5e-7, Abramowitz and Stegun 7.1.26.
RT_INLINE Lanes error_function(Lanes x) {
  const Lanes magnitude = larger(x, -x);
  const Lanes t = reciprocal(1.0f + 0.3275911f * magnitude);
  Lanes sum = 1.061405429f * t - 1.453152027f;
  sum = sum * t + 1.421413741f;
  sum = sum * t - 0.284496736f;
  sum = sum * t + 0.254829592f;
  const Lanes value = 1.0f - sum * t * exponential(-magnitude * magnitude);
  return x < 0.0f ? -value : value;
}

// float16 to float32 by integers alone, subnormal numbers, infinity and NaN among them.
inline float widen(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
  uint32_t bits = (uint32_t)(half & 0x7fff) << 13;
  if (bits >= 0x0f800000) {
    bits += 0x70000000;  // infinity and NaN: the exponent is all ones
  } else {
    const uint32_t rebased = bits + 0x38000000;
    float value;
    memcpy(&value, &rebased, 4);
    if (bits < 0x00800000) {  // subnormal or zero: take back the implicit one
      const uint32_t moved = bits + 0x38800000;
      memcpy(&value, &moved, 4);
      value -= 6.103515625e-05f;
    }
    memcpy(&bits, &value, 4);
  }
  bits |= sign;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

template <bool kHalf>
RT_INLINE float value_at(const char* values, int place) {
  if (kHalf) {
    uint16_t half;
    memcpy(&half, values + 2 * place, 2);
    return widen(half);
  }
  float value;
  memcpy(&value, values + 4 * place, 4);
  return value;
}

#if RT_LANES == 16
// Column c of 16 rows of 8 float16 values, widened, for each c. Rows i and i + 8 share a vector of the 16-bit transpose,
// so that nothing is moved between its halves.
RT_INLINE void turn_halves(const char* const* rows, int place, Lanes out[8]) {
  __m256i r[8], t[8];
  for (int i = 0; i < 8; ++i) {
    const __m128i low = _mm_loadu_si128((const __m128i*)(rows[i] + 2 * place));
    const __m128i high = _mm_loadu_si128((const __m128i*)(rows[i + 8] + 2 * place));
    r[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
  }
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      r[4 * i + 2 * j] = _mm256_unpacklo_epi32(t[4 * i + j], t[4 * i + 2 + j]);
      r[4 * i + 2 * j + 1] = _mm256_unpackhi_epi32(t[4 * i + j], t[4 * i + 2 + j]);
    }
  }
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = (Lanes)_mm512_cvtph_ps(_mm256_unpacklo_epi64(r[i], r[i + 4]));
    out[2 * i + 1] = (Lanes)_mm512_cvtph_ps(_mm256_unpackhi_epi64(r[i], r[i + 4]));
  }
}

// Likewise of 16 values of float32.
RT_INLINE void turn_floats(const char* const* rows, int place, Lanes out[16]) {
  __m512 r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(rows[i] + 4 * place);
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = (__m512)_mm512_unpacklo_pd((__m512d)t[4 * i], (__m512d)t[4 * i + 2]);
    r[4 * i + 1] = (__m512)_mm512_unpackhi_pd((__m512d)t[4 * i], (__m512d)t[4 * i + 2]);
    r[4 * i + 2] = (__m512)_mm512_unpacklo_pd((__m512d)t[4 * i + 1], (__m512d)t[4 * i + 3]);
    r[4 * i + 3] = (__m512)_mm512_unpackhi_pd((__m512d)t[4 * i + 1], (__m512d)t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    out[i] = (Lanes)_mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    out[i + 8] = (Lanes)_mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    out[i + 4] = (Lanes)_mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
    out[i + 12] = (Lanes)_mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
  }
}
#elif RT_LANES == 8
RT_INLINE void turn(__m256 r[8], Lanes out[8]) {
  __m256 t[8];
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
    r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    out[i] = (Lanes)_mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
    out[i + 4] = (Lanes)_mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
  }
}

RT_INLINE void turn_halves(const char* const* rows, int place, Lanes out[8]) {
  __m256 r[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(rows[i] + 2 * place)));
  turn(r, out);
}

RT_INLINE void turn_floats(const char* const* rows, int place, Lanes out[8]) {
  __m256 r[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps((const float*)(rows[i] + 4 * place));
  turn(r, out);
}
#endif

// The values of kLanes rows, turned: out[c] holds value c of each. Reads nothing behind a row's last value.
template <bool kHalf>
RT_INLINE void load_turned(const char* const* rows, int num_values, Lanes* out) {
  int c = 0;
#if RT_LANES > 4
  if (kHalf) {
    for (; c + 8 <= num_values; c += 8) turn_halves(rows, c, out + c);
  } else {
    for (; c + kLanes <= num_values; c += kLanes) turn_floats(rows, c, out + c);
  }
#endif
  for (; c < num_values; ++c) {
    for (int lane = 0; lane < kLanes; ++lane) out[c][lane] = value_at<kHalf>(rows[lane], c);
  }
}

}  // namespace
