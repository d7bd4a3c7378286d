// A model's constants as the library takes them, and stored rows in buffers that end where the last row does, so that
// AddressSanitizer sees a byte read behind it.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>

#include "reference.h"

// The constants of scorer.onnx, as model_export/scorer_graph.py makes them.
class Constants {
 public:
  explicit Constants(const ReferenceModel& m) {
    const int d = m.shape.width, a = m.shape.attention_width;
    const LayerNorm &u = m.user_norm, &i = m.item_norm;
    const auto product = [d](auto value) {
      Doubles values(d);
      for (int k = 0; k < d; ++k) values[k] = value(k);
      return values;
    };
    const auto dot = [d](const Doubles& x, const Doubles& y) {
      double sum = 0.0;
      for (int k = 0; k < d; ++k) sum += x[k] * y[k];
      return (float)sum;
    };
    const Doubles mean(d, 1.0 / d);
    weights.u_query = keep(turned(m.user_branch.query, a, d));
    weights.u_key = keep(turned(m.item_branch.key, a, d));
    weights.u_value = keep(turned(m.item_branch.value, a, d));
    weights.u_gate = keep(turned(m.user_branch.gate, a, d));
    weights.u_output = keep(centred(m.user_branch.output, d, a));
    weights.i_output = keep(centred(m.item_branch.output, d, a));
    weights.u_of_square = keep(mean, product([&](int k) { return u.weight[k] * u.weight[k]; }));
    weights.i_of_square = keep(mean, product([&](int k) { return i.weight[k] * i.weight[k]; }));
    weights.u_of_x = keep(product([&](int k) { return 2.0 * u.weight[k] * u.bias[k]; }),
                          product([&](int k) { return u.weight[k] * i.bias[k]; }));
    weights.i_of_x = keep(product([&](int k) { return 2.0 * i.weight[k] * i.bias[k]; }),
                          product([&](int k) { return i.weight[k] * u.bias[k]; }));
    weights.weights = keep(product([&](int k) { return u.weight[k] * i.weight[k]; }));
    if (!m.shape.is_projected) {
      weights.i_query = keep(m.item_branch.query);
      weights.i_key = keep(m.user_branch.key);
      weights.i_value = keep(m.user_branch.value);
      weights.i_gate = keep(m.item_branch.gate);
    }
    weights.scale = (float)(1.0 / std::sqrt((double)a));
    weights.u_epsilon = weights.i_epsilon = (float)kEpsilon;
    weights.u_bias_square = dot(u.bias, u.bias);
    weights.i_bias_square = dot(i.bias, i.bias);
    weights.bias_product = dot(u.bias, i.bias);
    weights.tiny = (float)kLeastSquare;
    weights.inverse_tau = (float)(1.0 / m.tau);
  }

  rt_weights weights = {};

 private:
  // Each in a buffer of its own, of its exact size.
  const float* keep(const Doubles& first, const Doubles& second = {}) {
    kept_.emplace_back(first.begin(), first.end());
    kept_.back().reserve(first.size() + second.size());
    kept_.back().insert(kept_.back().end(), second.begin(), second.end());
    return kept_.back().data();
  }

  static Doubles turned(const Doubles& matrix, int rows, int columns) {
    Doubles result(matrix.size());
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < columns; ++c) result[c * rows + r] = matrix[r * columns + c];
    }
    return result;
  }

  // The mean over the outputs taken off.
  static Doubles centred(Doubles matrix, int rows, int columns) {
    for (int c = 0; c < columns; ++c) {
      double mean = 0.0;
      for (int r = 0; r < rows; ++r) mean += matrix[r * columns + c] / rows;
      for (int r = 0; r < rows; ++r) matrix[r * columns + c] -= mean;
    }
    return matrix;
  }

  std::vector<std::vector<float>> kept_;
};

// float16 by its definition: 10 bits behind the point, exponents from -14 on, rounded to even.
inline uint16_t to_half(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7e00;
  if (magnitude == 0.0) return sign;
  const int exponent = std::isinf(value) ? 16 : std::max(std::ilogb(magnitude), -14);
  const int digits = exponent > 15 ? 0 : (int)std::nearbyint(std::ldexp(magnitude, 10 - exponent));
  // A subnormal number lacks the 1 in front, and one rounded up to the next power of two carries into the exponent.
  const int bits = exponent > 15 ? 0x7c00 : ((exponent + 15) << 10) + digits - 1024;
  return (uint16_t)(sign | std::min(bits, 0x7c00));
}

inline double from_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, digits = bits & 1023;
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == 31) return digits ? NAN : sign * HUGE_VAL;
  return sign * (exponent ? std::ldexp(1024 + digits, exponent - 25) : std::ldexp(digits, -24));
}

class Table {
 public:
  // Rows stand gap_bytes apart; there is no gap behind the last.
  Table(const rt_shape& shape, bool of_users, int64_t count, int gap_bytes = 0)
      : num_rows(count), is_half_(shape.is_float16) {
    const int heads = of_users ? shape.user_heads : shape.item_heads;
    num_values = heads * (shape.width + (shape.is_projected && !of_users ? 4 * shape.attention_width : 0));
    row_bytes = RT_TAG_BYTES + num_values * (is_half_ ? 2 : 4) + gap_bytes;
    bytes_.reset(new char[count * row_bytes - gap_bytes]);
    memset(bytes_.get(), 0xff, count * row_bytes - gap_bytes);  // tags and gaps would be NaN, were they read
  }

  void set(int64_t row, int place, double value) {
    if (is_half_) {
      set_bits(row, place, to_half(value));
    } else {
      const float narrowed = (float)value;
      memcpy(at(row, place), &narrowed, 4);
    }
  }

  // Of float16 rows the lower 16 bits.
  void set_bits(int64_t row, int place, uint32_t bits) {
    const uint16_t lower = (uint16_t)bits;
    is_half_ ? memcpy(at(row, place), &lower, 2) : memcpy(at(row, place), &bits, 4);
  }

  double get(int64_t row, int place) const {
    uint16_t half;
    float single;
    if (is_half_) {
      memcpy(&half, at(row, place), 2);
      return from_half(half);
    }
    memcpy(&single, at(row, place), 4);
    return single;
  }

  Doubles values(int64_t row) const {
    Doubles result(num_values);
    for (int place = 0; place < num_values; ++place) result[place] = get(row, place);
    return result;
  }

  void fill(Random& random, double low, double high) {
    for (int64_t row = 0; row < num_rows; ++row) {
      for (int place = 0; place < num_values; ++place) set(row, place, random.between(low, high));
    }
  }

  const char* start() const { return bytes_.get(); }
  int64_t num_rows, row_bytes;
  int num_values;

 private:
  char* at(int64_t row, int place) const {
    return bytes_.get() + row * row_bytes + RT_TAG_BYTES + place * (is_half_ ? 2 : 4);
  }

  bool is_half_;
  std::unique_ptr<char[]> bytes_;
};
