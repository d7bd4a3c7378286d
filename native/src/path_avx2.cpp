#define RT_LANES 8
#include "kernel.h"

namespace ranktower {
const Path avx2_path = {"avx2", workspace_bytes, score};
}
