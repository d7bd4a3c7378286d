// Which instruction sets the processor has and the operating system keeps the registers of. Asked here and not of
// __builtin_cpu_supports: that needs a compiler's run-time library, of which not every one has it filled in.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace ranktower {

struct Processor {
  bool has_avx2 = false;    // with FMA and F16C, each of which a virtual machine may hide
  bool has_avx512 = false;  // F, DQ, BW and VL

#if defined(__x86_64__)
  Processor() {
    constexpr unsigned kFirst = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
    constexpr unsigned kWide = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    constexpr unsigned kHalves = 0x06, kAll = 0xe6;  // of the vector registers: 256 and 512 bits, masks
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kFirst) != kFirst) return;
    unsigned kept, upper;
    __asm__ volatile("xgetbv" : "=a"(kept), "=d"(upper) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (kept & kHalves) != kHalves) return;
    has_avx2 = (b & bit_AVX2) != 0;
    has_avx512 = has_avx2 && (b & kWide) == kWide && (kept & kAll) == kAll;
  }
#endif
};

}  // namespace ranktower
