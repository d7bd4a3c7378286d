// The fused scorer: a block of candidates, one a lane, goes from stored rows to scores without leaving the nearest
// caches. The formulas are those of model_export/scorer_graph.py, and so are the names: equations 7 to 13 of the paper
// with LayerNorm's output never made. Included once by each path.
#pragma once

#include <math.h>

#include "lanes.h"
#include "path.h"

namespace {

using ranktower::kGroup;
using ranktower::Model;
using ranktower::padded;
using ranktower::Request;

// Heads whose sums are held in registers at once, beside kGroup outputs: there are 32 registers with AVX-512, else 16.
constexpr int kHeads = RT_LANES == 16 ? 4 : 2;

// A shape known when this is compiled, where all four are given; 0: read from the model.
template <int kUserHeads, int kItemHeads, int kWidth, int kAttentionWidth>
struct Sizes {
  explicit Sizes(const rt_shape& shape) : shape(shape) {}
  const rt_shape& shape;
  RT_INLINE int hu() const { return kUserHeads ? kUserHeads : shape.user_heads; }
  RT_INLINE int hi() const { return kItemHeads ? kItemHeads : shape.item_heads; }
  RT_INLINE int d() const { return kWidth ? kWidth : shape.width; }
  RT_INLINE int a() const { return kAttentionWidth ? kAttentionWidth : shape.attention_width; }
};

// What is the same for all candidates of a request; matrices grouped as in Model.
struct User {
  float* query;      // [Hu outputs, A inputs], times the scale of the attention
  float* key;        // likewise
  float* value;      // [A outputs, Hu inputs]
  float* gate;       // [Hu, A]
  float* centred;    // [Hu, padded D]: the embedding, its mean taken off
  float* embedding;  // [Hu, D]
};

// Lanes of one block of candidates.
struct Block {
  Lanes *embedding, *query, *key, *value, *gate;  // [Hi, D], four times [Hi, A]
  Lanes *user_weights, *item_weights;             // [Hi, padded Hu]: logits, then softmax over Hi and over Hu
  Lanes* attended;                                // [max(Hu, Hi), padded A]
  Lanes *u_x, *i_x;                               // [Hu, padded D], [Hi, padded D]
};

struct Workspace {
  User user;
  Block block;
  int64_t bytes;
};

// Cuts the workspace up; from nullptr on, tells how large it must be.
inline Workspace cut(const rt_shape& shape, void* memory) {
  const int64_t hu = shape.user_heads, hi = shape.item_heads, d = shape.width, a = shape.attention_width;
  const int64_t d4 = padded(shape.width), a4 = padded(shape.attention_width), hu4 = padded(shape.user_heads);
  uintptr_t next = (uintptr_t)memory;
  const auto lanes = [&](int64_t count) {
    Lanes* const start = (Lanes*)next;
    next += count * sizeof(Lanes);
    return start;
  };
  const auto floats = [&](int64_t count) { return (float*)lanes((count + kLanes - 1) / kLanes); };
  Workspace w;
  w.user = {floats(hu4 * a), floats(hu4 * a), floats(a4 * hu), floats(hu * a), floats(hu * d4), floats(hu * d)};
  w.block.embedding = lanes(hi * (d + 4 * a));
  w.block.query = w.block.embedding + hi * d;
  w.block.key = w.block.query + hi * a;
  w.block.value = w.block.key + hi * a;
  w.block.gate = w.block.value + hi * a;
  w.block.user_weights = lanes(hi * hu4);
  w.block.item_weights = lanes(hi * hu4);
  w.block.attended = lanes((hu > hi ? hu : hi) * a4);
  w.block.u_x = lanes(hu * d4);
  w.block.i_x = lanes(hi * d4);
  w.bytes = (int64_t)(next - (uintptr_t)memory);
  return w;
}

// ---- The user, once a request -------------------------------------------------------------------------------------

inline float activated(float x, int activation) {
  if (activation == RT_RELU) return x > 0.0f ? x : 0.0f;
  if (activation == RT_GELU) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
  return x / (1.0f + expf(-x));
}

template <class S>
inline void prepare_user(S s, const Model& model, const char* row, const User& user) {
  const int hu = s.hu(), d = s.d(), a = s.a(), d4 = padded(d);
  const rt_weights& w = model.weights;
  for (int i = 0; i < hu * d; ++i) {
    user.embedding[i] = model.shape.is_float16 ? value_at<true>(row, i) : value_at<false>(row, i);
  }
  for (int i = 0; i < padded(hu) * a; ++i) user.query[i] = user.key[i] = 0.0f;
  for (int i = 0; i < padded(a) * hu; ++i) user.value[i] = 0.0f;
  for (int p = 0; p < hu; ++p) {
    const float* const e = user.embedding + p * d;
    float mean = 0.0f;
    for (int k = 0; k < d; ++k) mean += e[k];
    mean /= (float)d;
    for (int k = 0; k < d4; ++k) user.centred[p * d4 + k] = k < d ? e[k] - mean : 0.0f;
    float sums[4][RT_MAX_WIDTH] = {};
    for (int k = 0; k < d; ++k) {
      for (int i = 0; i < a; ++i) {
        sums[0][i] += e[k] * w.u_query[k * a + i];
        sums[1][i] += e[k] * w.u_key[k * a + i];
        sums[2][i] += e[k] * w.u_value[k * a + i];
        sums[3][i] += e[k] * w.u_gate[k * a + i];
      }
    }
    const int activation = model.shape.activation, in_group = p % kGroup;
    for (int i = 0; i < a; ++i) {
      const int grouped = (p / kGroup * a + i) * kGroup + in_group;
      user.query[grouped] = activated(sums[0][i], activation) * w.scale;
      user.key[grouped] = activated(sums[1][i], activation) * w.scale;
      user.value[(i / kGroup * hu + p) * kGroup + i % kGroup] = activated(sums[2][i], activation);
      user.gate[p * a + i] = 1.0f / (1.0f + expf(-sums[3][i]));
    }
  }
}

// ---- Products of lanes --------------------------------------------------------------------------------------------

// y [heads, outputs] = begin + matrix [outputs, inputs] x [heads, inputs], for numbers in the matrix and lanes in x:
// begin(head, output) gives where a sum starts, end(head, output, sum) takes it.
template <int kCount, class Begin, class End>
RT_INLINE void multiply_heads(const float* matrix, const Lanes* x, int x_stride, int head, int outputs, int inputs,
                              Begin begin, End end) {
  for (int k = 0; k < outputs; k += kGroup, matrix += kGroup * inputs) {
    Lanes sums[kCount][kGroup];
    for (int h = 0; h < kCount; ++h) {
      for (int j = 0; j < kGroup; ++j) sums[h][j] = begin(head + h, k + j);
    }
    for (int i = 0; i < inputs; ++i) {
      for (int j = 0; j < kGroup; ++j) {
        for (int h = 0; h < kCount; ++h) sums[h][j] += matrix[kGroup * i + j] * x[h * x_stride + i];
      }
    }
    for (int h = 0; h < kCount; ++h) {
      for (int j = 0; j < kGroup; ++j) end(head + h, k + j, sums[h][j]);
    }
  }
}

// Calls work(head, constant<count>) for groups of at most kMost heads.
template <int kCount>
struct Count {
  static constexpr int value = kCount;
};

template <int kMost, class Work>
RT_INLINE void in_groups(int heads, Work work) {
  int head = 0;
  for (; head + kMost <= heads; head += kMost) work(head, Count<kMost>());
  if (kMost > 2 && head + 2 <= heads) {
    work(head, Count<2>());
    head += 2;
  }
  if (kMost > 1 && head < heads) work(head, Count<1>());
}

template <class Begin, class End>
RT_INLINE void multiply(const float* matrix, const Lanes* x, int x_stride, int heads, int outputs, int inputs,
                        Begin begin, End end) {
  in_groups<kHeads>(heads, [&](int head, auto count) {
    multiply_heads<decltype(count)::value>(matrix, x + head * x_stride, x_stride, head, outputs, inputs, begin, end);
  });
}

// ---- A block of candidates ----------------------------------------------------------------------------------------

// In place over the first axis of [count, stride], and returns the sum of the logits, which is finite only if all are.
RT_INLINE Lanes softmax(Lanes* logits, int count, int stride) {
  Lanes largest = logits[0], checked = logits[0], sum = all(0.0f);
  for (int i = 1; i < count; ++i) {
    largest = larger(largest, logits[i * stride]);
    checked += logits[i * stride];
  }
  for (int i = 0; i < count; ++i) {
    logits[i * stride] = exponential(logits[i * stride] - largest);
    sum += logits[i * stride];
  }
  const Lanes scale = reciprocal(sum);
  for (int i = 0; i < count; ++i) logits[i * stride] *= scale;
  return checked;
}

// attended [Hu, padded A] = weights over Hi of the items' values, gated by the user.
template <class S>
RT_INLINE void attend_to_items(S s, const User& user, const Block& b) {
  const int hu = s.hu(), hi = s.hi(), a = s.a(), hu4 = padded(hu), a4 = padded(a);
  in_groups<kHeads>(hu, [&](int p, auto users) {
    constexpr int kUsers = decltype(users)::value;
    in_groups<4>(hi, [&](int q, auto items) {
      constexpr int kItems = decltype(items)::value;
      Lanes weights[kItems][kUsers];
      for (int j = 0; j < kItems; ++j) {
        for (int h = 0; h < kUsers; ++h) weights[j][h] = b.user_weights[(q + j) * hu4 + p + h];
      }
      const bool is_last = q + kItems == hi;
      for (int i = 0; i < a; ++i) {
        Lanes sums[kUsers];
        for (int h = 0; h < kUsers; ++h) sums[h] = q ? b.attended[(p + h) * a4 + i] : all(0.0f);
        for (int j = 0; j < kItems; ++j) {
          const Lanes value = b.value[(q + j) * a + i];
          for (int h = 0; h < kUsers; ++h) sums[h] += weights[j][h] * value;
        }
        for (int h = 0; h < kUsers; ++h) {
          if (is_last) sums[h] *= user.gate[(p + h) * a + i];
          b.attended[(p + h) * a4 + i] = sums[h];
        }
      }
    });
  });
}

struct Norm {
  Lanes inverse, inverse_length, towards_other;
};

// Of LayerNorm of x [kCount, padded D], whose mean is 0, what lengths and cosines need: see _NORM in scorer_graph.py.
template <int kCount>
RT_INLINE void normalize(const Lanes* x, int d, const float* of_square, const float* of_x, float epsilon,
                         float bias_square, float tiny, Norm* norms) {
  const int d4 = padded(d);
  Lanes square[kCount] = {}, weighted[kCount] = {}, own[kCount] = {}, others[kCount] = {};
  for (int k = 0; k < d; ++k) {
    for (int h = 0; h < kCount; ++h) {
      const Lanes value = x[h * d4 + k], squared = value * value;
      square[h] += squared;
      weighted[h] += of_square[d + k] * squared;
      own[h] += of_x[k] * value;
      others[h] += of_x[d + k] * value;
    }
  }
  for (int h = 0; h < kCount; ++h) {
    const Lanes inverse = inverse_root(square[h] * of_square[0] + epsilon);
    const Lanes squared_length = (weighted[h] * inverse + own[h]) * inverse + bias_square;
    // In this order: of NaN and a number the second counts, and NaN must not become one.
    norms[h] = {inverse, inverse_root(larger(all(tiny), squared_length)), others[h] * inverse};
  }
}

// Sum over the user's sub-spaces of the largest cosine, and what is not finite where a cosine is not.
template <class S>
RT_INLINE Lanes similarity(S s, const Model& model, const Block& b, Lanes checked) {
  const int hu = s.hu(), hi = s.hi(), d = s.d(), d4 = padded(d);
  const rt_weights& w = model.weights;
  Norm of_items[RT_MAX_HEADS];
  in_groups<kHeads>(hi, [&](int q, auto items) {
    constexpr int kItems = decltype(items)::value;
    normalize<kItems>(b.i_x + q * d4, d, w.i_of_square, w.i_of_x, w.i_epsilon, w.i_bias_square, w.tiny, of_items + q);
    for (int j = 0; j < kItems; ++j) of_items[q + j].towards_other += w.bias_product;
  });
  Lanes total = all(0.0f);
  in_groups<kHeads>(hu, [&](int p, auto users) {
    constexpr int kUsers = decltype(users)::value;
    Norm norm[kUsers];
    Lanes best[kUsers];
    normalize<kUsers>(b.u_x + p * d4, d, w.u_of_square, w.u_of_x, w.u_epsilon, w.u_bias_square, w.tiny, norm);
    for (int h = 0; h < kUsers; ++h) best[h] = all(-3.4e38f);
    in_groups<4>(hi, [&](int q, auto items) {
      constexpr int kItems = decltype(items)::value;
      Lanes dots[kUsers][kItems];
      for (int h = 0; h < kUsers; ++h) {
        for (int j = 0; j < kItems; ++j) dots[h][j] = all(0.0f);
      }
      for (int k = 0; k < d; ++k) {
        for (int j = 0; j < kItems; ++j) {
          const Lanes item = b.i_x[(q + j) * d4 + k] * w.weights[k];
          for (int h = 0; h < kUsers; ++h) dots[h][j] += b.u_x[(p + h) * d4 + k] * item;
        }
      }
      for (int h = 0; h < kUsers; ++h) {
        for (int j = 0; j < kItems; ++j) {
          const Norm& item = of_items[q + j];
          const Lanes product =
              dots[h][j] * norm[h].inverse * item.inverse + item.towards_other + norm[h].towards_other;
          const Lanes cosine = product * item.inverse_length * norm[h].inverse_length;
          checked += cosine;
          best[h] = larger(best[h], cosine);
        }
      }
    });
    for (int h = 0; h < kUsers; ++h) total += best[h];
  });
  return total * w.inverse_tau + checked * 0.0f;
}

// Query, key, value and gate of raw rows.
template <class S>
RT_INLINE void project_items(S s, const Model& model, const Block& b) {
  const int a = s.a(), activation = model.shape.activation;
  Lanes* const outputs[4] = {b.query, b.key, b.value, b.gate};
  for (int part = 0; part < 4; ++part) {
    Lanes* const out = outputs[part];
    const auto store = [&](int q, int i, Lanes x) {
      if (i >= a) return;
      Lanes y;
      if (part == 3) {
        y = sigmoid(x);
      } else if (activation == RT_RELU) {
        y = larger(x, all(0.0f));
      } else if (activation == RT_GELU) {
        y = 0.5f * x * (1.0f + error_function(x * 0.70710678f));
      } else {
        y = x * sigmoid(x);
      }
      out[q * a + i] = y;
    };
    const auto nothing = [](int, int) { return all(0.0f); };
    multiply(model.project[part], b.embedding, s.d(), s.hi(), padded(a), s.d(), nothing, store);
  }
}

// How many blocks ahead rows are asked for: they lie anywhere in memory.
constexpr int kAhead = 2;

inline const char* row_of(const Request& r, int64_t i) {
  return r.rows + (r.chosen ? r.chosen[i] : i) * r.row_bytes + RT_TAG_BYTES;
}

// Asks for the rows of a later block, some at a time while this one is computed: all at once they would be more lines
// than can be on their way, and the processor would wait. They go to the second-level cache, because a block needs most
// of the first itself.
struct Prefetch {
  const Request& request;
  int num_bytes;
  int64_t next, end;

  // A quarter of them.
  RT_INLINE void some() {
    for (int count = 0; count < kLanes / 4 && next < end; ++count) {
      const char* const row = row_of(request, next++);
      for (int byte = 0; byte < num_bytes; byte += 64) __builtin_prefetch(row + byte, 0, 2);
      __builtin_prefetch(row + num_bytes - 1, 0, 2);
    }
  }
};

template <class S>
RT_INLINE Lanes score_block(S s, const Model& model, const User& user, const Block& b, Prefetch later) {
  const int hu = s.hu(), hi = s.hi(), d = s.d(), a = s.a();
  const int hu4 = padded(hu), d4 = padded(d), a4 = padded(a);
  const auto nothing = [](int, int) { return all(0.0f); };
  Lanes checked = all(0.0f);

  later.some();
  // The user's branch: its sub-spaces ask those of the item.
  multiply(user.query, b.key, a, hi, hu4, a, nothing, [&](int q, int p, Lanes x) { b.user_weights[q * hu4 + p] = x; });
  for (int p = 0; p < hu; ++p) checked += softmax(b.user_weights + p, hi, hu4);
  attend_to_items(s, user, b);
  multiply(
      model.u_output, b.attended, a4, hu, d4, a,
      [&](int p, int k) { return all(user.centred[p * d4 + k]); },
      [&](int p, int k, Lanes x) { b.u_x[p * d4 + k] = x; });

  later.some();
  // The item's branch.
  multiply(user.key, b.query, a, hi, hu4, a, nothing, [&](int q, int p, Lanes x) { b.item_weights[q * hu4 + p] = x; });
  for (int q = 0; q < hi; ++q) checked += softmax(b.item_weights + q * hu4, hu, 1);
  multiply(user.value, b.item_weights, hu4, hi, a4, hu, nothing, [&](int q, int i, Lanes x) {
    if (i < a) b.attended[q * a4 + i] = x * b.gate[q * a + i];
  });
  later.some();
  Lanes mean[RT_MAX_HEADS];
  for (int q = 0; q < hi; ++q) {
    mean[q] = all(0.0f);
    for (int k = 0; k < d; ++k) mean[q] += b.embedding[q * d + k];
    mean[q] *= 1.0f / (float)d;
  }
  multiply(
      model.i_output, b.attended, a4, hi, d4, a,
      [&](int q, int k) { return k < d ? b.embedding[q * d + k] - mean[q] : all(0.0f); },
      [&](int q, int k, Lanes x) { b.i_x[q * d4 + k] = x; });
  later.some();
  return similarity(s, model, b, checked);
}

// ---- A request ----------------------------------------------------------------------------------------------------

template <class S>
inline void score_request(S s, const Model& model, const Request& r, const Workspace& w) {
  const int num_values = s.hi() * (s.d() + (model.shape.is_projected ? 4 * s.a() : 0));
  const int num_bytes = num_values * (model.shape.is_float16 ? 2 : 4);
  prepare_user(s, model, r.user_row + RT_TAG_BYTES, w.user);
  for (int64_t start = 0; start < r.n; start += kLanes) {
    const int count = r.n - start < kLanes ? (int)(r.n - start) : kLanes;
    const char* rows[kLanes];
    // The lanes behind the last candidate score it again.
    for (int lane = 0; lane < kLanes; ++lane) rows[lane] = row_of(r, start + (lane < count ? lane : count - 1));
    if (model.shape.is_float16) {
      load_turned<true>(rows, num_values, w.block.embedding);
    } else {
      load_turned<false>(rows, num_values, w.block.embedding);
    }
    if (!model.shape.is_projected) project_items(s, model, w.block);
    const int64_t later = start + kAhead * kLanes, end = later + kLanes;
    const Lanes scores = score_block(s, model, w.user, w.block, {r, num_bytes, later, end < r.n ? end : r.n});
    memcpy(r.scores + start, &scores, count * sizeof(float));
  }
}

int64_t workspace_bytes(const rt_shape& shape) { return cut(shape, nullptr).bytes; }

void score(const Model& model, const Request& request, void* memory) {
  const rt_shape& shape = model.shape;
  const Workspace workspace = cut(shape, memory);
  if (shape.user_heads == 4 && shape.item_heads == 4 && shape.width == 32 && shape.attention_width == 32) {
    score_request(Sizes<4, 4, 32, 32>(shape), model, request, workspace);
  } else {
    score_request(Sizes<0, 0, 0, 0>(shape), model, request, workspace);
  }
}

}  // namespace
