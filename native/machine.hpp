// The best instruction set of this machine, asked of the processor itself: __builtin_cpu_supports answers no to everything in
// programs of some Clang distributions, and knows fewer names in older ones.
#pragma once
#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>

// What the system saves of a thread's registers: bits 1 and 2 those of AVX, 5 to 7 those of AVX-512.
inline uint32_t saved_registers() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

// 4: x86-64-v4, 3: x86-64-v3, 0: neither; the numbers of schuss.h.
inline int32_t machine_level() {
  const auto has = [](uint32_t word, auto... bits) { return ((word >> bits & 1) && ...); };
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  constexpr int fma = 12, movbe = 22, osxsave = 27, avx = 28, f16c = 29;
  if (!has(c, fma, movbe, osxsave, avx, f16c) || !has(saved_registers(), 1, 2)) return 0;
  constexpr int lzcnt = 5;
  if (!__get_cpuid(0x80000001, &a, &b, &c, &d) || !has(c, lzcnt)) return 0;
  constexpr int bmi1 = 3, avx2 = 5, bmi2 = 8;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has(b, bmi1, avx2, bmi2)) return 0;
  constexpr int avx512f = 16, avx512dq = 17, avx512cd = 28, avx512bw = 30, avx512vl = 31;
  return has(b, avx512f, avx512dq, avx512cd, avx512bw, avx512vl) && has(saved_registers(), 5, 6, 7) ? 4 : 3;
}

#elif defined(__aarch64__)
inline int32_t machine_level() { return 1; } // every processor of 64 bits has NEON
#else
inline int32_t machine_level() { return 0; }
#endif
