#define RT_LANES 16
#include "kernel.h"

namespace ranktower {
const Path avx512_path = {"avx512", workspace_bytes, score};
}
