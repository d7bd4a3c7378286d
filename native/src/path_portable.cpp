#define RT_LANES 4
#include "kernel.h"

namespace ranktower {
const Path portable_path = {"portable", workspace_bytes, score};
}
