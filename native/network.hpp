// A network as the kernels see it: its shape, the pass of a tile through it, and the update of its flat parameter vector.
#pragma once
#include <utility>

#include "optimizers.h"
#include "samples.hpp"
#include "schuss.h"

struct Shape {
  int depth;
  std::vector<int> sizes, activations;
  std::vector<ptrdiff_t> weights_at, biases_at; // of layer l + 1, in the flat vector
  ptrdiff_t weights = 0, parameters = 0;        // how many

  explicit Shape(const schuss_network &n)
      : depth(n.depth), sizes(n.sizes, n.sizes + n.depth + 1), activations(n.activations, n.activations + n.depth) {
    for (int l = 0; l < depth; l++) {
      weights_at.push_back(weights);
      weights += (ptrdiff_t)sizes[l] * sizes[l + 1];
    }
    parameters = weights;
    for (int l = 0; l < depth; l++) {
      biases_at.push_back(parameters);
      parameters += sizes[l + 1];
    }
  }
  int inputs() const { return sizes.front(); }
  int outputs() const { return sizes.back(); }
  ptrdiff_t units() const { // numbers kept for a sample
    ptrdiff_t total = sizes[0];
    for (int l = 0; l < depth; l++) total += sizes[l + 1] * (activation::reads_input(activations[l]) ? 2 : 1);
    return total;
  }
};

constexpr int short_tile = 6; // panels

template <class T> TileBuffers<T> make_buffers(const Shape &shape, int panels) {
  TileBuffers<T> buffers;
  const size_t lanes = (size_t)panels * width<T>;
  buffers.x.resize(lanes * shape.inputs());
  buffers.y.resize(lanes * shape.outputs());
  buffers.w.resize(lanes);
  buffers.index.resize(lanes + vector_bytes / 4);
  buffers.left.resize(lanes + 1);
  buffers.storage.resize(lanes * (shape.units() - shape.inputs()));
  if (panels <= short_tile)
    buffers.strips.resize(lanes * round_up(*std::max_element(shape.sizes.begin(), shape.sizes.end() - 1), strip<T>));
  T *next = buffers.storage.data();
  const auto take = [&](int units) { return std::exchange(next, next + lanes * units); };
  for (int l = 0; l < shape.depth; l++) {
    buffers.a.push_back(take(shape.sizes[l + 1]));
    buffers.z.push_back(activation::reads_input(shape.activations[l]) ? take(shape.sizes[l + 1]) : nullptr);
  }
  buffers.lent = buffers.a;
  return buffers;
}

// a[l] <- the outputs of every layer, for a tile of x: [panels][d0][width]; z[l] <- their inputs, where it is not null.
template <class T>
void forward_tile(const Shape &shape, const T *parameters, const T *x, T *const *a, T *const *z, int panels) {
  for (int l = 0; l < shape.depth; l++)
    activation::with(shape.activations[l], [&](auto row) {
      forward<T, decltype(row)>(parameters + shape.weights_at[l], parameters + shape.biases_at[l], shape.sizes[l],
                                shape.sizes[l + 1], l ? a[l - 1] : x, a[l], z[l], panels);
    });
}

// a[L] <- delta_L; returns the cost.
template <class T> double output_tile(const Shape &shape, int cost_code, const Tile<T> &tile, T *const *a, T *const *z) {
  const int last = shape.depth - 1;
  double result = 0;
  activation::with(shape.activations[last], [&](auto row) {
    cost::with(cost_code, [&](auto cost_row) {
      result = output_delta<T, decltype(row), decltype(cost_row)>(shape.outputs(), a[last], z[last], tile.y, tile.w, tile.panels);
    });
  });
  return result;
}

// a[l - 1] <- delta, from that of the layer after it, a[l], in place of the activations.
template <class T>
void backward_tile(const Shape &shape, Columns<T> W, int l, T *const *a, T *const *z, int panels) {
  activation::with(shape.activations[l - 1], [&](auto row) {
    backward<T, decltype(row)>(W, shape.sizes[l], shape.sizes[l + 1], a[l], a[l - 1], z[l - 1], panels);
  });
}

template <class T> T weight_of(const Tile<T> &tile) { // the sum of the samples' weights
  V<T> sum{};
  for (int i = 0; i < tile.panels * width<T>; i += N<T>) sum += load(tile.w + i);
  return sum_of<T>(sum);
}

// What a step does with the gradient. The sums over samples become gradients by `scale`, 1 / S.
template <class T> struct Rule {
  enum { gradient_only, sgd, nesterov } kind;
  bool bias_momentum;
  T scale, l2, eta, mu, keep;
};

// One vector of parameters: returns W after the step (or the gradient alone); v becomes the new velocity. sum: of the gradient.
template <class T, bool Weights> INLINE V<T> moved(const Rule<T> &rule, V<T> sum, V<T> W, V<T> &v) {
  const V<T> gradient = (Weights ? sum + rule.l2 * W : sum) * rule.scale;
  if (rule.kind == Rule<T>::gradient_only) return gradient;
  if (!Weights && !rule.bias_momentum) return W - rule.eta * gradient;
  v = SGD_VELOCITY(v, gradient, rule.eta, rule.mu);
  const V<T> move = rule.kind == Rule<T>::nesterov ? NESTEROV_MOVE(v, gradient, rule.eta, rule.mu) : SGD_MOVE(v);
  return MOVED(W, Weights ? rule.keep : T(1), move);
}

// next <- W after the step, v <- the new velocity, for `count` weights or biases, of which sum(i, n) is the gradient of the n
// from i on; returns whether all of next is finite.
template <class T, bool Weights, class Sum>
INLINE bool apply(const Rule<T> &rule, Sum sum, const T *W, T *v, T *next, ptrdiff_t count) {
  constexpr typename Lanes<T>::Bits infinite = sizeof(T) == 4 ? 0x7f800000 : 0x7ff0000000000000;
  B<T> bad{};
  ptrdiff_t i = 0;
  for (; i + N<T> <= count; i += N<T>) {
    V<T> velocity = v ? load(v + i) : V<T>{};
    const V<T> after = moved<T, Weights>(rule, sum(i, N<T>), load(W + i), velocity);
    if (v) store(v + i, velocity);
    store(next + i, after);
    bad |= ((B<T>)after & infinite) == infinite;
  }
  if (const int rest = int(count - i)) {
    V<T> velocity = v ? load_first(v + i, rest) : V<T>{};
    const V<T> after = moved<T, Weights>(rule, sum(i, rest), load_first(W + i, rest), velocity);
    if (v) store_first(v + i, velocity, rest);
    store_first(next + i, after, rest);
    bad |= ((B<T>)after & infinite) == infinite;
  }
  for (int lane = 0; lane < N<T>; lane++)
    if (bad[lane]) return false;
  return true;
}

template <class T> double sum_of_squares(const T *values, ptrdiff_t count) {
  double total = 0;
  constexpr ptrdiff_t run = 1024; // short sums in T, then double
  for (ptrdiff_t first = 0; first < count; first += run) {
    const ptrdiff_t end = std::min(count, first + run);
    V<T> sum{};
    ptrdiff_t i = first;
    for (; i + N<T> <= end; i += N<T>) sum += load(values + i) * load(values + i);
    if (i < end) sum += load_first(values + i, int(end - i)) * load_first(values + i, int(end - i));
    total += sum_of<T>(sum);
  }
  return total;
}
