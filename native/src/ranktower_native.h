// The library's whole interface: plain C, so that Python calls it through ctypes and one build serves every Python.
//
// Axes: N candidates, Hu/Hi sub-spaces of user and item, D embedding width, A attention width. Nothing here throws, and
// everything but closing may be called from several threads at once.
#ifndef RANKTOWER_NATIVE_H
#define RANKTOWER_NATIVE_H

#include <stdint.h>

#if defined(_WIN32)
#define RT_API __declspec(dllexport)
#else
#define RT_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { RT_ABI_VERSION = 3 };

// Bytes in front of each row's values: the release's tag, checked when rows are looked up.
enum { RT_TAG_BYTES = 8 };

enum { RT_MAX_HEADS = 16, RT_MAX_WIDTH = 256 };

enum rt_activation { RT_SILU = 0, RT_RELU = 1, RT_GELU = 2 };

typedef struct rt_shape {
  int32_t user_heads, item_heads, width, attention_width;
  int32_t is_float16;    // of all rows, else float32
  int32_t is_projected;  // item rows hold query, key, value and gate behind the embedding
  int32_t activation;    // an rt_activation
} rt_shape;

// Constants of scorer.onnx under their names there, float32, C order; they are copied. i_query to i_gate are NULL where
// item rows are projected.
typedef struct rt_weights {
  const float *u_query, *u_key, *u_value, *u_gate;  // [D, A]
  const float *u_output, *i_output;                 // [D, A]
  const float *u_of_square, *i_of_square;           // [2, D]
  const float *u_of_x, *i_of_x;                     // [2, D]
  const float *weights;                             // [D]
  const float *i_query, *i_key, *i_value, *i_gate;  // [A, D]
  float scale, u_epsilon, i_epsilon, u_bias_square, i_bias_square, bias_product, tiny, inverse_tau;
} rt_weights;

typedef struct rt_scorer rt_scorer;

RT_API int32_t rt_abi_version(void);

// Names of the code paths that this processor can run, fastest first, then NULL.
RT_API const char* const* rt_paths(void);

// NULL if the shape is out of range, the path cannot be run here, or there is no memory. path NULL: the fastest.
RT_API rt_scorer* rt_scorer_open(const rt_shape* shape, const rt_weights* weights, const char* path);
RT_API void rt_scorer_close(rt_scorer* scorer);

// Scores [n] of one user against rows of a table of num_rows rows, row_bytes apart: those at the row numbers chosen [n],
// or the first n where chosen is NULL. A score is not finite where a value of its rows is not.
//
// Returns -1 if all were scored, the first index of chosen whose row number is out of range (nothing is scored then), or
// -2 if there is no memory.
RT_API int64_t rt_score(const rt_scorer* scorer, const void* user_row, const void* rows, int64_t num_rows,
                        int64_t row_bytes, const int64_t* chosen, int64_t n, float* scores);

enum { RT_MAX_KEY_BYTES = 256 };

// A table's ids as its files hold them, mapped; docs/formats.md specifies them. Addresses need no alignment.
typedef struct rt_ids {
  const void* keys;      // [num_keys], ascending: int64, or UTF-8 filled up with NUL to key_bytes
  const void* slots;     // [num_slots] uint64; what it holds is never trusted
  int64_t num_keys;
  int64_t num_slots;     // more than 4 num_keys
  int64_t key_bytes;     // a multiple of 8 up to RT_MAX_KEY_BYTES; 8 for int64
  int64_t has_integers;  // keys are int64
} rt_ids;

// The table's rows, of which those with another tag are rejected.
typedef struct rt_tagged_rows {
  const void* rows;   // [num_rows], each begins with its tag
  int64_t num_rows;   // as many as there are keys
  int64_t row_bytes;  // at least RT_TAG_BYTES
  char tag[RT_TAG_BYTES];
} rt_tagged_rows;

// Row numbers of n ids. An id has as many bytes of UTF-8 as it likes but no NUL; one that no key can be is not found.
// An integer and its decimal text are one id.
//
// Writes present [n], 1 where an id has a row and 0 elsewhere, and to chosen [n] the row numbers of those that have one,
// in their order, at the front. Where rows is not NULL, rows of another tag count as absent, and to num_rejected goes
// how many there were. Allocates nothing.
//
// Returns how many were found, -1 if what was given is not n ids, or -2 if the table is not possible; what was written
// means nothing then.

// joined: UTF-8, with a NUL between each two ids.
RT_API int64_t rt_find_texts(const rt_ids* ids, const rt_tagged_rows* rows, const char* joined, int64_t num_bytes,
                             int64_t n, int64_t* chosen, uint8_t* present, int64_t* num_rejected);

RT_API int64_t rt_find_integers(const rt_ids* ids, const rt_tagged_rows* rows, const int64_t* values, int64_t n,
                                int64_t* chosen, uint8_t* present, int64_t* num_rejected);

// list: Python's integers in a list, as version 2 of its marshal module writes them; -1 also where one is no int64.
RT_API int64_t rt_find_marshalled(const rt_ids* ids, const rt_tagged_rows* rows, const char* list, int64_t num_bytes,
                                  int64_t n, int64_t* chosen, uint8_t* present, int64_t* num_rejected);

// The ids of the JSON array that begins at `start`, as rt_find_texts takes them. joined: room for num_bytes - start bytes;
// num_joined and num_ids: of what was written. Returns the offset behind the array, or -1 if it is no array or may hold
// something else than strings of ASCII without escapes and integers of up to 18 digits; what was written means nothing
// then. An array of none is left as well.
RT_API int64_t rt_join_ids(const char* json, int64_t num_bytes, int64_t start, char* joined, int64_t* num_joined,
                           int64_t* num_ids);

#ifdef __cplusplus
}
#endif
#endif
