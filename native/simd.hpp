// Vectors of the instruction set that this file is compiled for, by GCC and Clang vector types.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE __attribute__((always_inline)) inline
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif

#if defined(SCHUSS_VECTOR_BYTES) // SCHUSS_EMULATE_AVX512 of CMakeLists.txt
constexpr int vector_bytes = SCHUSS_VECTOR_BYTES;
#elif defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif
#if defined(__aarch64__)
constexpr int vector_registers = 32; // NEON's
#else
constexpr int vector_registers = vector_bytes == 64 ? 32 : 16;
#endif
// Whether the kernels are instantiated for the activations where that pays: not for the processors that few have any more.
#if defined(__AVX2__) || defined(__aarch64__)
constexpr bool specialised = true;
#else
constexpr bool specialised = false;
#endif

template <class T> struct Lanes {
  static constexpr int count = vector_bytes / sizeof(T);
  typedef T Vector __attribute__((vector_size(vector_bytes)));
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Bits BitVector __attribute__((vector_size(vector_bytes)));
};
template <class T> using V = typename Lanes<T>::Vector;
template <class T> using B = typename Lanes<T>::BitVector;
template <class T> constexpr int N = Lanes<T>::count;

template <class T> INLINE V<T> load(const T *from) {
  V<T> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
template <class T> INLINE void store(T *to, V<T> v) { __builtin_memcpy(to, &v, sizeof v); }
// Asks for `count` numbers ahead of their use.
template <class T> INLINE void prefetch(const T *from, ptrdiff_t count) {
  for (ptrdiff_t i = 0; i < count; i += 64 / sizeof(T)) __builtin_prefetch(from + i);
}
template <class T> INLINE V<T> broadcast(T x) { return x - V<T>{}; }

// The first n numbers, 0 <= n <= N: the rest is 0, or left alone, and not touched in memory.
#if defined(__AVX512F__) && !defined(SCHUSS_VECTOR_BYTES)
INLINE V<float> load_first(const float *from, int n) { return (V<float>)_mm512_maskz_loadu_ps((1u << n) - 1, from); }
INLINE V<double> load_first(const double *from, int n) { return (V<double>)_mm512_maskz_loadu_pd((1u << n) - 1, from); }
INLINE void store_first(float *to, V<float> v, int n) { _mm512_mask_storeu_ps(to, (1u << n) - 1, (__m512)v); }
INLINE void store_first(double *to, V<double> v, int n) { _mm512_mask_storeu_pd(to, (1u << n) - 1, (__m512d)v); }
#else
template <class T> INLINE V<T> load_first(const T *from, int n) {
  V<T> v{};
  for (int i = 0; i < n; i++) v[i] = from[i];
  return v;
}
template <class T> INLINE void store_first(T *to, V<T> v, int n) {
  for (int i = 0; i < n; i++) to[i] = v[i];
}
#endif

// min(c, x) and max(c, x) return x when x is NaN, so that a divergence is seen and not clamped away. That is what the
// instructions do with x as the second operand, and what the comparisons do.
template <class Vector> INLINE Vector min(Vector c, Vector x) {
#if defined(__AVX512F__) && !defined(SCHUSS_VECTOR_BYTES)
  if constexpr (std::is_same_v<Vector, V<float>>) return (Vector)_mm512_min_ps((__m512)c, (__m512)x);
  else return (Vector)_mm512_min_pd((__m512d)c, (__m512d)x);
#elif defined(__AVX2__) && !defined(SCHUSS_VECTOR_BYTES)
  if constexpr (std::is_same_v<Vector, V<float>>) return (Vector)_mm256_min_ps((__m256)c, (__m256)x);
  else return (Vector)_mm256_min_pd((__m256d)c, (__m256d)x);
#elif defined(__aarch64__)
  if constexpr (std::is_same_v<Vector, V<float>>) return (Vector)vminq_f32((float32x4_t)c, (float32x4_t)x);
  else return (Vector)vminq_f64((float64x2_t)c, (float64x2_t)x);
#else
  return c < x ? c : x;
#endif
}
template <class Vector> INLINE Vector max(Vector c, Vector x) {
#if defined(__AVX512F__) && !defined(SCHUSS_VECTOR_BYTES)
  if constexpr (std::is_same_v<Vector, V<float>>) return (Vector)_mm512_max_ps((__m512)c, (__m512)x);
  else return (Vector)_mm512_max_pd((__m512d)c, (__m512d)x);
#elif defined(__AVX2__) && !defined(SCHUSS_VECTOR_BYTES)
  if constexpr (std::is_same_v<Vector, V<float>>) return (Vector)_mm256_max_ps((__m256)c, (__m256)x);
  else return (Vector)_mm256_max_pd((__m256d)c, (__m256d)x);
#elif defined(__aarch64__)
  if constexpr (std::is_same_v<Vector, V<float>>) return (Vector)vmaxq_f32((float32x4_t)c, (float32x4_t)x);
  else return (Vector)vmaxq_f64((float64x2_t)c, (float64x2_t)x);
#else
  return c > x ? c : x;
#endif
}

template <class Vector> INLINE Vector square_root(Vector x) {
#if defined(__AVX512F__) && !defined(SCHUSS_VECTOR_BYTES)
  if constexpr (std::is_same_v<Vector, V<float>>) return (Vector)_mm512_sqrt_ps((__m512)x);
  else return (Vector)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX2__) && !defined(SCHUSS_VECTOR_BYTES)
  if constexpr (std::is_same_v<Vector, V<float>>) return (Vector)_mm256_sqrt_ps((__m256)x);
  else return (Vector)_mm256_sqrt_pd((__m256d)x);
#elif defined(__aarch64__)
  if constexpr (std::is_same_v<Vector, V<float>>) return (Vector)vsqrtq_f32((float32x4_t)x);
  else return (Vector)vsqrtq_f64((float64x2_t)x);
#else
  UNROLL for (size_t lane = 0; lane < sizeof(Vector) / sizeof(x[0]); lane++) x[lane] = std::sqrt(x[lane]);
  return x;
#endif
}

// The vector whose lane i is lane index(i) of first and second, one after the other. Index: a lambda that captures nothing.
template <class T, class Index> INLINE V<T> shuffled(V<T> first, V<T> second, Index) {
  return [=]<int... lane>(std::integer_sequence<int, lane...>) __attribute__((always_inline)) {
#if __has_builtin(__builtin_shufflevector)
    return __builtin_shufflevector(first, second, Index{}(lane)...);
#else // g++ 11
    return __builtin_shuffle(first, second, B<T>{Index{}(lane)...});
#endif
  }(std::make_integer_sequence<int, N<T>>{});
}

// v[0..N) -> one vector, whose lane i is the sum over the lanes of v[i]: log2 N rounds of shuffles and additions.
template <class T, int Half> INLINE void fold(V<T> *v) {
  constexpr int n = N<T>;
  UNROLL for (int i = 0; i < Half; i++)
    v[i] = shuffled<T>(v[i], v[i + Half], [](int lane) { return lane / Half & 1 ? n + lane - Half : lane; }) +
           shuffled<T>(v[i], v[i + Half], [](int lane) { return lane / Half & 1 ? n + lane : lane + Half; });
}
template <class T> INLINE V<T> sums_of(V<T> *v) {
  if constexpr (N<T> == 16) fold<T, 8>(v);
  if constexpr (N<T> >= 8) fold<T, 4>(v);
  if constexpr (N<T> >= 4) fold<T, 2>(v);
  fold<T, 1>(v);
  return v[0];
}
template <class T> INLINE T sum_of(V<T> v) {
  T lane[N<T>];
  __builtin_memcpy(lane, &v, sizeof v);
  UNROLL for (int half = N<T> / 2; half; half /= 2)
    for (int i = 0; i < half; i++) lane[i] += lane[i + half];
  return lane[0];
}
