// The model of docs/method.md in double precision, written from its formulas (equations 5 to 13 of the paper) and not
// from the kernel's: LayerNorm's output and all vectors are made, and one pair is scored after the other.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "ranktower_native.h"

using Doubles = std::vector<double>;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  double between(double low, double high) { return low + (high - low) * (double)(engine_() >> 11) * 0x1p-53; }
  int of(int low, int high) { return low + (int)(engine_() % (uint64_t)(high - low + 1)); }

  // Floats, so that both sides compute with the same numbers.
  Doubles floats(size_t count, double low, double high) {
    Doubles values(count);
    for (double& value : values) value = (float)between(low, high);
    return values;
  }

 private:
  std::mt19937_64 engine_;
};

struct AttentionUnit {
  Doubles query, key, value, gate;  // [A, D]
  Doubles output;                   // [D, A]
};

struct LayerNorm {
  Doubles weight, bias;  // [D]
};

constexpr double kEpsilon = 1e-5f, kLeastSquare = 1e-12f;

// What one side gives to a pair, [heads, D] and four times [heads, A], one behind the other, as a stored row has it.
struct Side {
  int heads, d, a;
  Doubles values;
  double embedding(int head, int k) const { return values[head * d + k]; }
  double part(int which, int head, int i) const { return values[heads * d + (which * heads + head) * a + i]; }
  double query(int head, int i) const { return part(0, head, i); }
  double key(int head, int i) const { return part(1, head, i); }
  double value(int head, int i) const { return part(2, head, i); }
  double gate(int head, int i) const { return part(3, head, i); }
};

struct ReferenceModel {
  rt_shape shape;
  AttentionUnit user_branch, item_branch;
  LayerNorm user_norm, item_norm;
  double tau;

  ReferenceModel(const rt_shape& of, Random& random) : shape(of) {
    const size_t d = shape.width, a = shape.attention_width;
    const double into_a = 1.7 / std::sqrt((double)d), into_d = 1.7 / std::sqrt((double)a);
    for (AttentionUnit* unit : {&user_branch, &item_branch}) {
      for (Doubles* matrix : {&unit->query, &unit->key, &unit->value, &unit->gate}) {
        *matrix = random.floats(a * d, -into_a, into_a);
      }
      unit->output = random.floats(d * a, -into_d, into_d);
    }
    for (LayerNorm* norm : {&user_norm, &item_norm}) *norm = {random.floats(d, 0.5, 1.5), random.floats(d, -0.4, 0.4)};
    tau = 0.25;
  }

  double most() const { return shape.user_heads / tau; }  // no score is further from 0

  double activated(double x) const {
    if (shape.activation == RT_RELU) return std::fmax(x, 0.0);
    if (shape.activation == RT_GELU) return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
    return x / (1.0 + std::exp(-x));
  }

  // Equations 7 to 10: the embedding with its query, key, value and gate behind it.
  Side project(const Doubles& embedding, int heads, const AttentionUnit& asks, const AttentionUnit& answers) const {
    const int d = shape.width, a = shape.attention_width;
    Side side = {heads, d, a, Doubles(embedding.begin(), embedding.begin() + heads * d)};
    for (const Doubles* matrix : {&asks.query, &answers.key, &answers.value, &asks.gate}) {
      for (int head = 0; head < heads; ++head) {
        for (int i = 0; i < a; ++i) {
          double sum = 0.0;
          for (int k = 0; k < d; ++k) sum += (*matrix)[i * d + k] * embedding[head * d + k];
          side.values.push_back(matrix == &asks.gate ? 1.0 / (1.0 + std::exp(-sum)) : activated(sum));
        }
      }
    }
    return side;
  }

  Side user(const Doubles& row) const { return project(row, shape.user_heads, user_branch, item_branch); }

  Side item(const Doubles& row) const {
    if (!shape.is_projected) return project(row, shape.item_heads, item_branch, user_branch);
    return {shape.item_heads, shape.width, shape.attention_width, row};
  }

  // Equations 5, 6, 11 and 12: LayerNorm(E + (U * softmax(Q K^T / sqrt(A)) V) W_o), [heads, D].
  Doubles branch(const Side& asking, const Side& asked, const AttentionUnit& unit, const LayerNorm& norm) const {
    const int d = shape.width, a = shape.attention_width;
    Doubles result;
    for (int p = 0; p < asking.heads; ++p) {
      Doubles weights(asked.heads, 0.0), gated(a, 0.0), x(d);
      double largest = -HUGE_VAL, sum = 0.0;
      for (int q = 0; q < asked.heads; ++q) {
        for (int i = 0; i < a; ++i) weights[q] += asking.query(p, i) * asked.key(q, i) / std::sqrt((double)a);
        largest = std::fmax(largest, weights[q]);
      }
      for (double& weight : weights) sum += weight = std::exp(weight - largest);
      for (int i = 0; i < a; ++i) {
        for (int q = 0; q < asked.heads; ++q) gated[i] += weights[q] / sum * asked.value(q, i) * asking.gate(p, i);
      }
      for (int k = 0; k < d; ++k) {
        x[k] = asking.embedding(p, k);
        for (int i = 0; i < a; ++i) x[k] += unit.output[k * a + i] * gated[i];
      }
      append_normed(x, norm, result);
    }
    return result;
  }

  static void append_normed(const Doubles& x, const LayerNorm& norm, Doubles& result) {
    const double d = (double)x.size();
    double mean = 0.0, variance = 0.0;
    for (const double value : x) mean += value / d;
    for (const double value : x) variance += (value - mean) * (value - mean) / d;
    for (size_t k = 0; k < x.size(); ++k) {
      result.push_back((x[k] - mean) / std::sqrt(variance + kEpsilon) * norm.weight[k] + norm.bias[k]);
    }
  }

  // Equation 13: sum_p max_q cos(E'_u[p], E'_i[q]) / tau.
  double score(const Side& user, const Side& item) const {
    const int d = shape.width;
    const Doubles users = branch(user, item, user_branch, user_norm);
    const Doubles items = branch(item, user, item_branch, item_norm);
    double total = 0.0;
    for (int p = 0; p < user.heads; ++p) {
      double best = -HUGE_VAL;
      for (int q = 0; q < item.heads; ++q) {
        double product = 0.0, of_user = 0.0, of_item = 0.0;
        for (int k = 0; k < d; ++k) {
          const double u = users[p * d + k], i = items[q * d + k];
          product += u * i;
          of_user += u * u;
          of_item += i * i;
        }
        const double lengths = std::sqrt(std::fmax(of_user, kLeastSquare) * std::fmax(of_item, kLeastSquare));
        best = std::fmax(best, product / lengths);
      }
      total += best / tau;
    }
    return total;
  }
};
