// What one code path offers to the rest: the same source compiled for one instruction set.
#pragma once

#include "ranktower_native.h"

namespace ranktower {

// A model in the order in which the kernel reads it. Matrices that are multiplied with lanes of candidates are cut into
// groups of kGroup outputs, [ceil(outputs / kGroup)][inputs][kGroup], the last one filled up with zeros.
constexpr int kGroup = 4;

constexpr int padded(int outputs) { return (outputs + kGroup - 1) / kGroup * kGroup; }

struct Model {
  rt_shape shape;
  rt_weights weights;       // its pointers lead into the scorer's own memory
  const float* u_output;    // grouped, A inputs, D outputs
  const float* i_output;    // grouped
  const float* project[4];  // of raw rows: query, key, value, gate; grouped, D inputs, A outputs
};

struct Request {
  const char* user_row;
  const char* rows;
  int64_t row_bytes;
  const int64_t* chosen;  // or nullptr
  int64_t n;
  float* scores;
};

struct Path {
  const char* name;
  int64_t (*workspace_bytes)(const rt_shape&);  // 64-byte aligned memory that one call of score needs
  void (*score)(const Model&, const Request&, void* workspace);
};

extern const Path avx512_path, avx2_path, portable_path;

}  // namespace ranktower
