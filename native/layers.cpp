// The kernels of dense.hpp for every activation and cost.
#include "layers.hpp"

namespace {

template <class T, class Row> void apply_row(T *a, [[maybe_unused]] T *z, ptrdiff_t count, int vectors) {
  if constexpr (std::is_same_v<Row, activation::linear_row>) return;
  const auto each = [=](ptrdiff_t i) __attribute__((always_inline)) {
    const V<T> in = load(a + i);
    if constexpr (Row::read == Read::INPUT)
      if (z) store(z + i, in);
    store(a + i, Row::template value<T>(in));
  };
  if (vectors == panel_vectors)
    for (ptrdiff_t i = 0; i < count; i += width<T>)
      UNROLL for (int s = 0; s < panel_vectors; s++) each(i + s * N<T>);
  else
    for (ptrdiff_t i = 0; i < count; i += width<T>)
      for (int s = 0; s < vectors; s++) each(i + s * N<T>);
}

template <class T, class Row>
void chain_row(const T *delta, const T *a, [[maybe_unused]] const T *z, T *to, ptrdiff_t count) {
  for (ptrdiff_t i = 0; i < count; i += N<T>) {
    V<T> in{};
    if constexpr (Row::read == Read::INPUT) in = load(z + i);
    store(to + i, load(delta + i) * Row::template derivative<T>(load(a + i), in));
  }
}

} // namespace

template <class T> const Functions<T> &functions_of(int activation) {
  static constexpr Functions<T> all[] = {
#define ACTIVATION(name, read_, value_, derivative_) \
  {apply_row<T, activation::name##_row>, chain_row<T, activation::name##_row>},
#include "activations.h"
#undef ACTIVATION
  };
  return all[activation];
}

template <class T>
void forward_layer(int code, const T *W, const T *b, int ni, int no, const T *a_prev, T *a, T *z, int panels) {
  // relu needs hardly a register. The others are applied to a whole panel: next to a block's sums they would not find theirs.
  activation::with_one_of<activation::relu_row>(code, [&](auto row) {
    forward<T, decltype(row)>(functions_of<T>(code), W, b, ni, no, a_prev, a, z, panels);
  });
}

template <class T>
void backward_layer(int code, Columns<T> W, int ni, int no, const T *delta, T *a_prev, const T *z_prev, int panels) {
  using namespace activation;
  with_one_of<relu_row, sigmoid_row, tanh_row>(code, [&](auto row) {
    backward<T, decltype(row)>(functions_of<T>(code), W, ni, no, delta, a_prev, z_prev, panels);
  });
}

template <class T>
double output_delta(int code, const Loss<T> &loss, int no, T *a, const T *z, const T *y, const T *w, int panels) {
  if (loss.code == cost::code_cross_entropy) return cross_entropy_delta(loss, no, a, y, w, panels);
  const Functions<T> *f = code == activation::code_linear ? nullptr : &functions_of<T>(code);
  double result = 0;
  cost::with(loss.code, [&](auto row) { result = cost_delta<T, decltype(row)>(loss, f, no, a, z, y, w, panels); });
  return result;
}

SCHUSS_LAYERS(, float)
SCHUSS_LAYERS(, double)
