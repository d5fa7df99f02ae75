// Elementary functions on vectors of float and double, and the tables of activations and costs made of them.
// float: polynomials of fit_coefficients.py. double: Taylor series, long enough for 53 bits.
#pragma once
#include <cmath>
#include <limits>

#include "simd.hpp"

template <class T> struct Constants;
template <> struct Constants<float> {
  static constexpr float magic = 12582912.f; // 1.5 * 2^23: adding it rounds to an integer, left in the low bits
  static constexpr int mantissa = 23;
  static constexpr float lowest = -87.3365f, highest = 88.f, tanh_end = 9.1f;
  static constexpr int log1p_terms = 8;
};
template <> struct Constants<double> {
  static constexpr double magic = 6755399441055744.; // 1.5 * 2^52
  static constexpr int mantissa = 52;
  static constexpr double lowest = -708., highest = 709., tanh_end = 19.1;
  static constexpr int log1p_terms = 17;
};

template <class T, int n> INLINE V<T> horner(const T (&coefficients)[n], V<T> x) { // the highest power first
  V<T> p = broadcast(coefficients[0]);
  UNROLL for (int i = 1; i < n; i++) p = p * x + coefficients[i];
  return p;
}

// e^x = 2^n (1 + y): returns y, and the bits to add to an exponent. x within lowest..highest.
template <class T> INLINE V<T> exp_parts(V<T> x, B<T> &exponent) {
  using C = Constants<T>;
  const V<T> shifted = x * T(1.44269504088896340736) + C::magic;
  const V<T> n = shifted - C::magic;
  V<T> r = x - n * T(0.693145751953125); // ln 2 in two parts, the first short enough that the product is exact
  r = r - n * T(1.42860682030941723212e-6);
  V<T> q;
  if constexpr (sizeof(T) == 4) {
    constexpr float c[] = {0.00138825208f, 0.00836651454f, 0.0416671997f, 0.166665437f, 0.499999982f};
    q = horner<T>(c, r);
  } else {
    constexpr double c[] = {1 / 6227020800., 1 / 479001600., 1 / 39916800., 1 / 3628800., 1 / 362880., 1 / 40320.,
                            1 / 5040.,       1 / 720.,       1 / 120.,      1 / 24.,      1 / 6.,      0.5};
    q = horner<T>(c, r);
  }
  exponent = (B<T>)shifted << C::mantissa;
  return q * (r * r) + r;
}
template <class T> INLINE V<T> scaled(V<T> value, B<T> exponent) { return (V<T>)((B<T>)value + exponent); }

template <class T> INLINE V<T> exp(V<T> x) {
  using C = Constants<T>;
  B<T> exponent;
  const V<T> y = exp_parts<T>(min(broadcast(C::highest), max(broadcast(C::lowest), x)), exponent);
  return scaled<T>(y + T(1), exponent);
}
template <class T> INLINE V<T> expm1(V<T> x) { // x <= 88
  B<T> exponent;
  const V<T> y = exp_parts<T>(max(broadcast(Constants<T>::lowest), x), exponent);
  const V<T> power = scaled<T>(broadcast(T(1)), exponent);
  return y * power + (power - T(1));
}
template <class T> INLINE V<T> sigmoid(V<T> z) {
  B<T> exponent;
  const V<T> x = min(broadcast(Constants<T>::highest), max(broadcast(Constants<T>::lowest), z));
  const V<T> y = exp_parts<T>(-x, exponent);
  return T(1) / (scaled<T>(y + T(1), exponent) + T(1));
}
template <class T> INLINE V<T> absolute(V<T> x) {
  return (V<T>)((B<T>)x & std::numeric_limits<typename Lanes<T>::Bits>::max());
}
template <class T> INLINE V<T> silu(V<T> z) { // z e^z is still normal where e^z is not: in two factors of e^(z / 2)
  z = max(broadcast(2 * Constants<T>::lowest), z); // below, the result is 0; or a huge z would outweigh the clamped factors
  const V<T> half = exp<T>(absolute<T>(z) * T(-0.5)), factor = z > T(0) ? broadcast(T(1)) : half;
  return z * factor * factor / (half * half + T(1));
}
template <class T> INLINE V<T> tanh(V<T> z) {
  constexpr T end = Constants<T>::tanh_end; // beyond it, tanh rounds to 1
  B<T> exponent;
  const V<T> x = min(broadcast(end), max(broadcast(-end), z));
  const V<T> y = exp_parts<T>(x + x, exponent);
  const V<T> power = scaled<T>(broadcast(T(1)), exponent);
  const V<T> t = y * power + (power - T(1)); // expm1(2x)
  return t / (t + T(2));
}
template <class T> INLINE V<T> log1p(V<T> u) { // 0 <= u <= 1: 2 artanh(u / (2 + u)) by its series
  const V<T> s = u / (u + T(2)), s2 = s * s;
  V<T> p{};
  UNROLL for (int k = Constants<T>::log1p_terms - 1; k > 0; k--) p = (p + T(1) / T(2 * k + 1)) * s2;
  return T(2) * (s + s * p);
}
template <class T> INLINE V<T> exponential(V<T> x) { // in two factors: it overflows to infinity, and underflows to 0
  const V<T> half = exp<T>(max(broadcast(Constants<T>::lowest), x * T(0.5)));
  return half * half;
}
template <class T> INLINE V<T> log(V<T> x) { // of normal numbers, at least 1
  constexpr int bias = sizeof(T) == 4 ? 127 : 1023;
  const B<T> bits = (B<T>)x;
  const V<T> power = __builtin_convertvector((bits >> Constants<T>::mantissa) - bias, V<T>);
  constexpr auto fraction = (typename Lanes<T>::Bits(1) << Constants<T>::mantissa) - 1;
  const V<T> m = (V<T>)((bits & fraction) | (B<T>)broadcast(T(1)));
  return power * T(0.69314718055994530942) + log1p<T>(m - T(1));
}
template <class T> INLINE V<T> phi(V<T> z) { // the distribution function of the standard normal
  if constexpr (sizeof(T) == 4) {
    constexpr float p[] = {2.03056839e-06f, 0.00028751946f, 0.00387770631f, 0.053088586f, 0.193005222f, 1.12837902f};
    constexpr float q[] = {3.80297596e-05f, 0.00119007778f, 0.0151911163f, 0.115180888f, 0.504378053f, 1.f};
    const V<T> x = min(broadcast(3.925f), max(broadcast(-3.925f), z * 0.70710678f)), u = x * x;
    const V<T> erf = x * horner<T>(p, u) / horner<T>(q, u);
    return erf * T(0.5) + T(0.5);
  } else { // no vector form in double: the library's, a lane at a time
    UNROLL for (int lane = 0; lane < N<T>; lane++) z[lane] = 0.5 * std::erfc(-0.70710678118654752440 * z[lane]);
    return z;
  }
}
template <class T> INLINE V<T> where_positive(V<T> a, V<T> yes, V<T> no) { return a > T(0) ? yes : no; }
template <class T> INLINE V<T> sign(V<T> a) {
  return a > T(0) ? broadcast(T(1)) : a < T(0) ? broadcast(T(-1)) : V<T>{};
}

enum class Read { OUTPUT, INPUT };

#define CONST(x) broadcast(T(x))
#define EXP ::exp<T>
#define EXPONENTIAL ::exponential<T>
#define EXPM1 ::expm1<T>
#define LOG1P ::log1p<T>
#define SIGMOID ::sigmoid<T>
#define SILU ::silu<T>
#define TANH ::tanh<T>
#define PHI ::phi<T>
#define MAX ::max
#define MIN ::min
#define ABS ::absolute<T>
#define WHERE_POSITIVE ::where_positive<T>
#define SIGN ::sign<T>
#define SQRT ::square_root

namespace activation {
enum Code {
#define ACTIVATION(name, read_, value_, derivative_) code_##name,
#include "activations.h"
#undef ACTIVATION
  code_softmax // of all outputs of a sample together: only after the last layer, and only to predict
};
constexpr const char *names[] = {
#define ACTIVATION(name, read_, value_, derivative_) #name,
#include "activations.h"
#undef ACTIVATION
    "softmax"};

#define ACTIVATION(name, read_, value_, derivative_)                                           \
  struct name##_row {                                                                          \
    static constexpr int code = code_##name;                                                   \
    static constexpr Read read = Read::read_;                                                  \
    template <class T> static INLINE V<T> value(V<T> z) { return value_; }                     \
    template <class T> static INLINE V<T> derivative([[maybe_unused]] V<T> a, [[maybe_unused]] V<T> z) { \
      return derivative_;                                                                      \
    }                                                                                          \
  };
#include "activations.h"
#undef ACTIVATION

// Call use(row) with the row of a code.
template <class Use> INLINE void with(int code, Use use) {
  switch (code) {
#define ACTIVATION(name, read_, value_, derivative_) \
  case code_##name: return use(name##_row{});
#include "activations.h"
#undef ACTIVATION
  }
}
inline bool reads_input(int code) {
  bool result = false;
  with(code, [&](auto row) { result = row.read == Read::INPUT; });
  return result;
}

// The activations for which a kernel is instantiated. All others share one instantiation, for `any`, which reaches them through
// Functions (dense.hpp), one call a block.
struct any {};
template <class Row> constexpr bool is_any = std::is_same_v<Row, any>;
// Call use(row) with the row of a code if that is one of Rows, else with any{}.
template <class... Rows, class Use> INLINE void with_one_of(int code, Use use) {
  if constexpr (specialised)
    if (((code == Rows::code && (use(Rows{}), true)) || ...)) return;
  use(any{});
}
} // namespace activation

namespace cost {
#define COST(name, value_, derivative_)                                                                       \
  struct name##_row {                                                                                         \
    template <class T> static INLINE V<T> value(V<T> y, V<T> a, [[maybe_unused]] V<T> p) { return value_; }   \
    template <class T> static INLINE V<T> derivative([[maybe_unused]] V<T> y, V<T> a, [[maybe_unused]] V<T> p) { \
      return derivative_;                                                                                     \
    }                                                                                                         \
  };
#include "costs.h"
#undef COST

enum Code {
#define COST(name, value_, derivative_) code_##name,
#include "costs.h"
#undef COST
  code_cross_entropy
};
constexpr const char *names[] = {
#define COST(name, value_, derivative_) #name,
#include "costs.h"
#undef COST
    "cross_entropy"};
template <class Use> INLINE void with(int code, Use use) {
  switch (code) {
#define COST(name, value_, derivative_) \
  case code_##name: return use(name##_row{});
#include "costs.h"
#undef COST
  }
}
} // namespace cost
