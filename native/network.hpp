// A network as the kernels see it: its shape, the pass of a tile through it, and the update of its flat parameter vector.
#pragma once
#include <utility>

#include "optimizers.h"
#include "samples.hpp"
#include "schuss.h"

struct Shape {
  int depth;
  std::vector<int> sizes, activations;
  std::vector<double> dropout; // of the outputs of layer l + 1, if there is any
  double input_noise = 0;      // standard deviation
  int targets;                 // columns of y
  std::vector<ptrdiff_t> weights_at, biases_at; // of layer l + 1, in the flat vector
  ptrdiff_t weights = 0, parameters = 0;        // how many

  explicit Shape(const schuss_network &n)
      : depth(n.depth), sizes(n.sizes, n.sizes + n.depth + 1), activations(n.activations, n.activations + n.depth),
        targets(sizes.back()) {
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
  bool drops(int l) const { return !dropout.empty() && dropout[l] > 0; }
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
  buffers.y.resize(lanes * shape.targets);
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

// The randomness of a step: dropout and the noise of the inputs. Samples count from the first of the batch.
struct Noise {
  uint64_t seed;
  uint64_t step;
};

// A layer's dropout in a step.
template <class T> struct Dropout {
  uint32_t keys[4], threshold;
  T factor;
  Dropout(const Shape &shape, const Noise &noise, int l)
      : threshold((uint32_t)std::min(4294967295., shape.dropout[l] * 4294967296.)), factor(T(1 / (1 - shape.dropout[l]))) {
    noise_keys(noise.seed, noise.step, l + 1, keys);
  }
};

// x <- x + input_noise times a standard normal number, by Box and Muller, for a sample and a column.
template <class T> INLINE void add_noise(T &x, double deviation, uint32_t position, uint32_t column, const uint32_t *keys) {
  uint32_t first, second;
  NOISE_WORD(uint32_t, first, position, column, keys);
  NOISE_WORD(uint32_t, second, position, column | 0x80000000u, keys);
  const double radius = std::sqrt(-2 * std::log((first + 1.) * 0x1p-32));
  x += T(deviation * radius * std::cos(second * (2 * 3.14159265358979323846 * 0x1p-32)));
}

// The tile with noise on its inputs, in the buffers.
template <class T>
Tile<T> noisy(const Shape &shape, const Noise &noise, int64_t first_panel, Tile<T> tile, TileBuffers<T> &buffers) {
  if (shape.input_noise == 0) return tile;
  uint32_t keys[4];
  noise_keys(noise.seed, noise.step, 0, keys);
  const int d = shape.inputs();
  if (tile.x != buffers.x.data()) std::copy_n(tile.x, (ptrdiff_t)tile.panels * d * width<T>, buffers.x.data());
  T *x = buffers.x.data();
  for (int panel = 0; panel < tile.panels; panel++)
    for (int c = 0; c < d; c++)
      for (int lane = 0; lane < width<T>; lane++, x++)
        add_noise(*x, shape.input_noise, uint32_t((first_panel + panel) * width<T> + lane), c, keys);
  return {buffers.x.data(), tile.y, tile.w, tile.panels};
}

// a[l] <- the outputs of every layer, for a tile of x: [panels][d0][width]; z[l] <- their inputs, where it is not null. With
// noise, dropout applies after a is there.
template <class T>
void forward_tile(const Shape &shape, const T *parameters, const T *x, T *const *a, T *const *z, int panels,
                  const Noise *noise = nullptr, int64_t first_panel = 0) {
  for (int l = 0; l < shape.depth; l++) {
    const bool together = shape.activations[l] == activation::code_softmax;
    forward_layer(together ? activation::code_linear : shape.activations[l], parameters + shape.weights_at[l],
                  parameters + shape.biases_at[l], shape.sizes[l], shape.sizes[l + 1], l ? a[l - 1] : x, a[l], z[l], panels);
    if (together) softmax(shape.sizes[l + 1], a[l], panels);
    if (noise && shape.drops(l)) {
      const Dropout<T> dropout(shape, *noise, l);
      drop(a[l], 0, shape.sizes[l + 1], panels, uint32_t(first_panel * width<T>), dropout.keys, dropout.threshold, dropout.factor);
    }
  }
}

// a[L] <- delta_L; returns the cost.
template <class T> double output_tile(const Shape &shape, const Loss<T> &loss, const Tile<T> &tile, T *const *a, T *const *z) {
  const int last = shape.depth - 1;
  return output_delta(shape.activations[last], loss, shape.outputs(), a[last], z[last], tile.y, tile.w, tile.panels);
}

// a[l - 1] <- delta, from that of the layer after it, a[l], in place of the activations.
template <class T>
void backward_tile(const Shape &shape, Columns<T> W, int l, T *const *a, T *const *z, int panels, const Noise &noise,
                   int64_t first_panel) {
  const bool drops = shape.drops(l - 1);
  const ptrdiff_t count = (ptrdiff_t)panels * shape.sizes[l] * width<T>;
  if (drops) // what was kept becomes what it was before dropout: the derivative reads that
    for (ptrdiff_t i = 0; i < count; i += N<T>) store(a[l - 1] + i, load(a[l - 1] + i) * T(1 - shape.dropout[l - 1]));
  backward_layer<T>(shape.activations[l - 1], W, shape.sizes[l], shape.sizes[l + 1], a[l], a[l - 1], z[l - 1], panels);
  if (drops) {
    const Dropout<T> dropout(shape, noise, l - 1);
    drop(a[l - 1], 0, shape.sizes[l], panels, uint32_t(first_panel * width<T>), dropout.keys, dropout.threshold, dropout.factor);
  }
}

template <class T> T weight_of(const Tile<T> &tile) { // the sum of the samples' weights
  V<T> sum{};
  for (int i = 0; i < tile.panels * width<T>; i += N<T>) sum += load(tile.w + i);
  return sum_of<T>(sum);
}

// What a step does with the gradient. The sums over samples become gradients by `scale`, 1 / S. mu, rho: as in optimizers.h.
template <class T> struct Rule {
  enum { gradient_only, sgd, nesterov, adam, rmsprop } kind;
  bool bias_momentum;
  T scale, l2, l1, eta, mu, rho, epsilon, keep;
  T adam_step, adam_spread;
};

// One vector of parameters: returns W after the step (or the gradient alone); v becomes the new velocity or first moment, s the
// mean square of the gradient. sum: of the gradient.
template <class T, bool Weights> INLINE V<T> moved(const Rule<T> &rule, V<T> sum, V<T> W, V<T> &v, V<T> &s) {
  if (Weights) sum += rule.l2 * W;
  if (Weights && rule.l1 != 0) sum += rule.l1 * sign<T>(W);
  const V<T> gradient = sum * rule.scale;
  const T keep = Weights ? rule.keep : T(1);
  switch (rule.kind) {
  case Rule<T>::gradient_only: return gradient;
  case Rule<T>::adam:
    v = MEAN_OF(v, gradient, rule.mu);
    s = MEAN_OF(s, gradient * gradient, rule.rho);
    return MOVED(W, keep, ADAM_MOVE(v, s, rule.adam_step, rule.adam_spread, rule.epsilon));
  case Rule<T>::rmsprop:
    s = MEAN_OF(s, gradient * gradient, rule.rho);
    v = RMSPROP_VELOCITY(v, gradient, s, rule.eta, rule.mu, rule.epsilon);
    return MOVED(W, keep, SGD_MOVE(v));
  default: break;
  }
  if (!Weights && !rule.bias_momentum) return W - rule.eta * gradient;
  v = SGD_VELOCITY(v, gradient, rule.eta, rule.mu);
  return MOVED(W, keep, rule.kind == Rule<T>::nesterov ? NESTEROV_MOVE(v, gradient, rule.eta, rule.mu) : SGD_MOVE(v));
}

// next <- W after the step, v and s <- the new state (null: there is none), for `count` weights or biases, of which sum(i, n) is
// the gradient of the n from i on; returns whether all of next is finite.
template <class T, bool Weights, class Sum>
INLINE bool apply(const Rule<T> &rule, Sum sum, const T *W, T *v, T *s, T *next, ptrdiff_t count) {
  constexpr auto infinite = (typename Lanes<T>::Bits)(sizeof(T) == 4 ? 0x7f800000 : 0x7ff0000000000000);
  B<T> bad{};
  ptrdiff_t i = 0;
  for (; i + N<T> <= count; i += N<T>) {
    V<T> velocity = v ? load(v + i) : V<T>{}, square = s ? load(s + i) : V<T>{};
    const V<T> after = moved<T, Weights>(rule, sum(i, N<T>), load(W + i), velocity, square);
    if (v) store(v + i, velocity);
    if (s) store(s + i, square);
    store(next + i, after);
    bad |= ((B<T>)after & infinite) == infinite;
  }
  if (const int rest = int(count - i)) {
    V<T> velocity = v ? load_first(v + i, rest) : V<T>{}, square = s ? load_first(s + i, rest) : V<T>{};
    const V<T> after = moved<T, Weights>(rule, sum(i, rest), load_first(W + i, rest), velocity, square);
    if (v) store_first(v + i, velocity, rest);
    if (s) store_first(s + i, square, rest);
    store_first(next + i, after, rest);
    const B<T> here = ((B<T>)after & infinite) == infinite;
    for (int lane = 0; lane < rest; lane++) bad[lane] |= here[lane]; // the lanes after it hold no parameters
  }
  for (int lane = 0; lane < N<T>; lane++)
    if (bad[lane]) return false;
  return true;
}

// The sum over i of (a[i] scale) (b[i] scale), in double: squares of large floats are none.
template <class T> double dot(const T *a, const T *b, ptrdiff_t count, double scale = 1) {
  constexpr int lanes = 8; // sums side by side, added in order
  double sum[lanes] = {};
  ptrdiff_t i = 0;
  for (; i + lanes <= count; i += lanes)
    UNROLL for (int lane = 0; lane < lanes; lane++) sum[lane] += (a[i + lane] * scale) * (b[i + lane] * scale);
  for (; i < count; i++) sum[i % lanes] += (a[i] * scale) * (b[i] * scale);
  double total = 0;
  for (const double part : sum) total += part;
  return total;
}
// The square root of the sum of squares: scaled, where squares leave the range of double.
template <class T> double norm_of(const T *values, ptrdiff_t count) {
  const double squares = dot(values, values, count);
  if (std::isnan(squares) || (std::isfinite(squares) && squares > 1e-280)) return std::sqrt(squares);
  double largest = 0;
  for (ptrdiff_t i = 0; i < count; i++) largest = std::max(largest, (double)std::abs(values[i]));
  if (largest == 0 || std::isinf(largest)) return largest;
  const double scale = std::ldexp(1., std::min(1023, -std::ilogb(largest)));
  return std::sqrt(dot(values, values, count, scale)) / scale;
}
template <class T> double sum_of_magnitudes(const T *values, ptrdiff_t count) {
  double total = 0;
  for (ptrdiff_t i = 0; i < count; i++) total += std::abs(values[i]);
  return total;
}
