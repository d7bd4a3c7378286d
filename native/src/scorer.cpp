// The models that are open, and which code path runs them.
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <initializer_list>

#include "path.h"
#include "processor.h"

namespace ranktower {
namespace {

// A matrix [outputs, inputs] to groups.
void group(const float* from, int outputs, int inputs, float* to) {
  memset(to, 0, sizeof(float) * padded(outputs) * inputs);
  for (int out = 0; out < outputs; ++out) {
    for (int in = 0; in < inputs; ++in) {
      to[(out / kGroup * inputs + in) * kGroup + out % kGroup] = from[out * inputs + in];
    }
  }
}

bool is_possible(const rt_shape& s) {
  const auto within = [](int value, int most) { return 1 <= value && value <= most; };
  return within(s.user_heads, RT_MAX_HEADS) && within(s.item_heads, RT_MAX_HEADS) && within(s.width, RT_MAX_WIDTH) &&
         within(s.attention_width, RT_MAX_WIDTH) && 0 <= s.activation && s.activation <= RT_GELU;
}

// Filled when the library is loaded: a static of a function would need the C++ library to guard it.
struct Paths {
  const Path* found[4] = {};
  const char* names[4] = {};
  int count = 0;

  Paths() {
#if defined(__x86_64__)
    const Processor processor;
    if (processor.has_avx512) add(avx512_path);
    if (processor.has_avx2) add(avx2_path);
#endif
    add(portable_path);
  }

  void add(const Path& path) {
    found[count] = &path;
    names[count++] = path.name;
  }
};

const Paths paths;

// Memory of each thread, which grows to what its largest model needs and stays: a request allocates nothing. A
// thread_local variable with a destructor would need the C++ library.
class Memory {
 public:
  Memory() { has_key_ = pthread_key_create(&key_, free) == 0; }

  // 64-byte aligned, or nullptr.
  void* at_least(int64_t wanted) const {
    if (!has_key_) return nullptr;
    void* block = pthread_getspecific(key_);  // its size stands in front
    if (block == nullptr || *(const int64_t*)block < wanted) {
      pthread_setspecific(key_, nullptr);
      free(block);
      if (posix_memalign(&block, kAlignment, kAlignment + wanted) != 0) return nullptr;
      *(int64_t*)block = wanted;
      if (pthread_setspecific(key_, block) != 0) {
        free(block);
        return nullptr;
      }
    }
    return (char*)block + kAlignment;
  }

 private:
  static constexpr int64_t kAlignment = 64;
  pthread_key_t key_;
  bool has_key_;
};

const Memory memory;

}  // namespace
}  // namespace ranktower

using ranktower::Model;
using ranktower::padded;
using ranktower::Path;

struct rt_scorer {
  const Path* path;
  Model model;
  int64_t workspace_bytes;
  float* memory;
};

int32_t rt_abi_version(void) { return RT_ABI_VERSION; }

const char* const* rt_paths(void) { return ranktower::paths.names; }

rt_scorer* rt_scorer_open(const rt_shape* shape, const rt_weights* weights, const char* path_name) {
  if (!ranktower::is_possible(*shape)) return nullptr;
  const Path* path = nullptr;
  for (int i = 0; i < ranktower::paths.count && path == nullptr; ++i) {
    if (path_name == nullptr || strcmp(path_name, ranktower::paths.names[i]) == 0) path = ranktower::paths.found[i];
  }
  if (path == nullptr) return nullptr;

  const int d = shape->width, a = shape->attention_width;
  const int64_t output = (int64_t)padded(d) * a, projection = (int64_t)padded(a) * d;
  const int64_t count = 4 * (int64_t)d * a + 2 * output + 4 * projection + 9 * d;
  float* const memory = (float*)malloc(sizeof(float) * count);
  rt_scorer* const scorer = (rt_scorer*)malloc(sizeof(rt_scorer));
  if (memory == nullptr || scorer == nullptr) {
    free(memory);
    free(scorer);
    return nullptr;
  }
  float* next = memory;
  const auto copied = [&](const float* from, int64_t size) {
    memcpy(next, from, sizeof(float) * size);
    next += size;
    return next - size;
  };
  const auto grouped = [&](const float* from, int outputs, int inputs) {
    const float* const start = next;
    ranktower::group(from, outputs, inputs, next);
    next += (int64_t)padded(outputs) * inputs;
    return start;
  };
  Model& model = scorer->model;
  model.shape = *shape;
  rt_weights& w = model.weights = *weights;
  for (const float** one : {&w.u_query, &w.u_key, &w.u_value, &w.u_gate}) *one = copied(*one, (int64_t)d * a);
  for (const float** one : {&w.u_of_square, &w.i_of_square, &w.u_of_x, &w.i_of_x}) *one = copied(*one, 2 * d);
  w.weights = copied(w.weights, d);
  model.u_output = grouped(w.u_output, d, a);
  model.i_output = grouped(w.i_output, d, a);
  const float* const projections[4] = {w.i_query, w.i_key, w.i_value, w.i_gate};
  for (int part = 0; part < 4; ++part) {
    model.project[part] = shape->is_projected ? nullptr : grouped(projections[part], a, d);
  }
  w.u_output = w.i_output = w.i_query = w.i_key = w.i_value = w.i_gate = nullptr;
  scorer->path = path;
  scorer->workspace_bytes = path->workspace_bytes(*shape);
  scorer->memory = memory;
  return scorer;
}

void rt_scorer_close(rt_scorer* scorer) {
  if (scorer == nullptr) return;
  free(scorer->memory);
  free(scorer);
}

int64_t rt_score(const rt_scorer* scorer, const void* user_row, const void* rows, int64_t num_rows, int64_t row_bytes,
                 const int64_t* chosen, int64_t n, float* scores) {
  if (chosen != nullptr) {
    for (int64_t i = 0; i < n; ++i) {
      if ((uint64_t)chosen[i] >= (uint64_t)num_rows) return i;
    }
  } else if (n > num_rows) {
    return num_rows;
  }
  if (n == 0) return -1;
  void* const workspace = ranktower::memory.at_least(scorer->workspace_bytes);
  if (workspace == nullptr) return -2;
  const ranktower::Request request = {(const char*)user_row, (const char*)rows, row_bytes, chosen, n, scores};
  scorer->path->score(scorer->model, request, workspace);
  return -1;
}
