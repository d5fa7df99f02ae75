// The scheme for batches of networks with one hidden layer: a share of the hidden units sees all samples of the batch. What it adds
// to the outputs is all that others must know; its weights, their gradients and the optimizer's state stay with its thread, and
// there are no partial sums of gradients. An item runs a share forward, a block runs it backward and takes its step.
#pragma once
#include "scheme.hpp"

// For J hidden units before a single output: a <- delta = (w delta_out) f'(a); G_out <- sum over samples of delta_out a, and
// g <- that of delta. w: (J,); delta_out: [panels][width]; a: J of [panels][units][width].
template <class T, class Row, int J>
INLINE void backward_single(const T *w, int units, const T *delta_out, T *a, T *G_out, T *g, int vectors) {
  V<T> sum[round_up(J, N<T>)] = {}, bias[round_up(J, N<T>)] = {};
  in_panels<T>(vectors, [&](ptrdiff_t panel, int s) {
    const V<T> delta = load(delta_out + panel + s);
    UNROLL for (int j = 0; j < J; j++) {
      T *const here = a + panel * units + j * width<T> + s;
      const V<T> activation = load(here);
      const V<T> own = w[j] * delta * Row::template derivative<T>(activation, V<T>{});
      sum[j] += delta * activation;
      bias[j] += own;
      store(here, own);
    }
  });
  for (int j = 0; j < J; j += N<T>) {
    store_first(G_out + j, sums_of<T>(sum + j), std::min(J - j, N<T>));
    store_first(g + j, sums_of<T>(bias + j), std::min(J - j, N<T>));
  }
}

template <class T> class ShallowStep final : public Scheme<T> {
public:
  ShallowStep(const Shape &shape, const Loss<T> &loss, const Samples<T> &samples, int64_t batch)
      : shape_(shape), loss_(loss), samples_(samples), panels_((int)(round_up(batch, width<T>) / width<T>)) {
    const int hidden = shape.sizes[1], blocks = (hidden + block_units - 1) / block_units;
    shares_ = std::clamp(blocks / 2, 2, 8);
    for (int i = 0; i <= shares_; i++) first_unit_.push_back(std::min(hidden, blocks * i / shares_ * block_units));
    a_.resize((ptrdiff_t)panels_ * hidden * width<T>);
    if (activation::reads_input(shape.activations[0])) z_.resize(a_.size());
    outputs_stride_ = (ptrdiff_t)panels_ * shape.outputs() * width<T>;
    outputs_.resize(shares_ * outputs_stride_);
    gradients_stride_ = round_up((ptrdiff_t)most_units() * (shape.inputs() + shape.outputs() + 1) + shape.outputs(), 64);
    gradients_.resize((shares_ + 1) * gradients_stride_);
  }
  // Whether it is the fastest for a plan: gradients are sums over many samples, or else outer products would be faster where the
  // inputs fill vectors, and the activations lie in the second cache.
  static bool suits(const Shape &shape, int64_t batch) {
    if (shape.depth != 2 || shape.sizes[1] < 2 * block_units) return false;
    if (shape.inputs() >= 32 && batch < 8 * N<T>) return false;
    return round_up(batch, width<T>) * shape.sizes[1] * (ptrdiff_t)sizeof(T) <= 1 << 20;
  }
  const char *name() const override { return "shallow"; }
  int tile_panels() const override { return panels_; }
  int rounds(const Batch &) const override { return 1; }
  int items(const Batch &, int) const override { return shares_; }
  int blocks() const override { return shares_ + 1; } // the last: the biases of the outputs

  // Samples of weight 0 are left out, unless noise goes by their positions.
  void begin(const Step<T> &step, TileBuffers<T> &at) override {
    const bool positions = shape_.drops(0) || shape_.drops(1) || shape_.input_noise > 0;
    at.tile = noisy(shape_, step.noise, 0, samples_.tile_of(step.batch, !positions, at), at);
  }

  void accumulate(int, int share, const Step<T> &step, TileBuffers<T> &at) override {
    activation::with_one_of<activation::relu_row, activation::leaky_relu_row>(single_activation(), [&](auto row) {
      const int left = at.tile.vectors % panel_vectors, full = at.tile.vectors / panel_vectors;
      for (int panel = 0; panel < full; panel++) forward_share<decltype(row), panel_vectors>(share, panel, step, at.tile);
      if (left == 1) forward_share<decltype(row), 1>(share, full, step, at.tile);
      else if (left > 1) forward_share<decltype(row), panel_vectors>(share, full, step, at.tile);
    });
  }

  // Every thread finds the outputs and their deltas, in its own buffers: that costs less than another barrier.
  Totals totals(const Step<T> &step, TileBuffers<T> &at) const override {
    const int no = shape_.outputs();
    const T *b = step.current + shape_.biases_at[1];
    T *const z = at.a[1];
    std::fill(z, z + (ptrdiff_t)at.tile.panels * no * width<T>, T(0)); // the vectors after the last have not been computed
    in_panels<T>(at.tile.vectors, [&](ptrdiff_t panel, int s) {
      for (int j = 0; j < no; j++) {
        const ptrdiff_t here = panel * no + j * width<T> + s;
        V<T> sum = broadcast(b[j]);
        for (int share = 0; share < shares_; share++) sum += load(outputs_.data() + share * outputs_stride_ + here);
        store(z + here, sum);
      }
    });
    functions_of<T>(shape_.activations[1]).apply(z, at.z[1], (ptrdiff_t)at.tile.panels * no * width<T>, panel_vectors);
    return {output_tile(shape_, loss_, at.tile, at.a.data(), at.z.data()), weight_of(at.tile)};
  }

  bool update(int, int share, const Step<T> &step, TileBuffers<T> &at) override {
    const int ni = shape_.inputs(), no = shape_.outputs(), vectors = at.tile.vectors;
    const T *delta_out = at.a[1];
    T *G = gradients_.data() + share * gradients_stride_; // (units, ni), (no, units), (units,)
    if (share == shares_) {
      bias_gradient(delta_out, no, no, G, vectors, false);
      return update_slice(shape_, step, shape_.biases_at[1], no, G);
    }
    const int first = first_unit_[share], units = units_of(share);
    T *G_out = G + (ptrdiff_t)units * ni, *g = G_out + (ptrdiff_t)no * units;
    std::fill(G, g, T(0));
    const T *W_out = step.current + shape_.weights_at[1] + first;
    // A few units at a time, so that they are in the first cache from here to the end.
    using namespace activation;
    with_one_of<relu_row, leaky_relu_row, sigmoid_row, tanh_row>(single_activation(), [&](auto row) {
      in_blocks<block_units>(units, 0, [&](auto block, int j) {
        T *const a = of_share(a_, share, 0) + j * width<T>;
        if constexpr (!is_any<decltype(row)>)
          backward_single<T, decltype(row), block>(W_out + j, units, delta_out, a, G_out + j, g + j, vectors);
        else {
          const T *z = z_.empty() ? nullptr : of_share(z_, share, 0) + j * width<T>;
          backward_units<block>(W_out + j, first + j, units, delta_out, a, z, G_out + j, step.noise, at.tile);
          bias_gradient(a, block, units, g + j, vectors, false);
        }
        gradient_rows<T>(a, at.tile.x, G + (ptrdiff_t)j * ni, ni, block, units, vectors);
      });
    });
    bool finite = update_slice(shape_, step, shape_.weights_at[0] + (ptrdiff_t)first * ni, (ptrdiff_t)units * ni, G);
    for (int o = 0; o < no; o++) {
      const ptrdiff_t at_row = shape_.weights_at[1] + (ptrdiff_t)o * shape_.sizes[1] + first;
      finite &= update_slice(shape_, step, at_row, units, G_out + (ptrdiff_t)o * units);
    }
    return finite & update_slice(shape_, step, shape_.biases_at[0] + first, units, g);
  }

private:
  // Before a single output, all that happens to a hidden unit can be one pass over it.
  bool single() const { return shape_.outputs() == 1 && !shape_.drops(0); }
  int single_activation() const { return single() ? shape_.activations[0] : -1; }

  // a <- the share's activations for the first Vectors of a panel, and what they add to the outputs.
  template <class Row, int Vectors> void forward_share(int share, int panel, const Step<T> &step, const Tile<T> &tile) {
    const int first = first_unit_[share], units = units_of(share), ni = shape_.inputs();
    const T *W = step.current + shape_.weights_at[0] + (ptrdiff_t)first * ni, *b = step.current + shape_.biases_at[0] + first;
    const T *W_out = step.current + shape_.weights_at[1] + first;
    T *const out = outputs_.data() + share * outputs_stride_ + (ptrdiff_t)panel * shape_.outputs() * width<T>;
    T *const a = of_share(a_, share, panel), *const z = z_.empty() ? nullptr : of_share(z_, share, panel);
    const T *x = tile.x + (ptrdiff_t)panel * ni * width<T>;
    const Functions<T> &f = functions_of<T>(shape_.activations[0]);
    if (!activation::is_any<Row> || single()) {
      V<T> sum[Vectors] = {};
      forward_panel<T, Row, block_units, Vectors>(f, W, b, ni, units, x, a, z, [&](auto block, int j, auto &found) {
        constexpr int J = block;
        UNROLL for (int i = 0; i < J; i++) UNROLL for (int s = 0; s < Vectors; s++) sum[s] += W_out[j + i] * found[i][s];
      });
      UNROLL for (int s = 0; s < Vectors; s++) store(out + s * N<T>, sum[s]);
      return;
    }
    if constexpr (activation::is_any<Row>) { // several outputs, or dropout
      forward_panel<T, Row, block_units, Vectors>(f, W, b, ni, units, x, a, z, [](auto, int, auto &) {});
      if (shape_.drops(0)) drop_units(a, first, units, panel, step.noise);
      add_to_outputs<Vectors>(W_out, units, a, out);
    }
  }

  // out <- the sum over a share's units of W_out a.
  template <int Vectors> void add_to_outputs(const T *W_out, int units, const T *a, T *out) const {
    const int hidden = shape_.sizes[1];
    in_blocks<block_units>(shape_.outputs(), 0, [&](auto block, int j) {
      constexpr int J = block;
      V<T> sum[J][Vectors] = {};
      multiply<T, J, Vectors>(sum, W_out + (ptrdiff_t)j * hidden, hidden, 1, units, a);
      UNROLL for (int i = 0; i < J; i++) UNROLL for (int s = 0; s < Vectors; s++)
        store(out + (j + i) * width<T> + s * N<T>, sum[i][s]);
    });
  }

  // a <- delta, and the gradient of the weights from them to the outputs, for J hidden units, the first of them `unit`. `units` are
  // those of their share.
  template <int J>
  void backward_units(const T *W_out, int unit, int units, const T *delta_out, T *a, const T *z, T *G_out, const Noise &noise,
                      const Tile<T> &tile) {
    const int no = shape_.outputs();
    in_blocks<std::max(1, vector_registers / 2 / J)>(no, 0, [&](auto rows, int o) {
      gradient_block<T, rows, J>(delta_out + o * width<T>, a, G_out + (ptrdiff_t)o * units, units, no, tile.vectors);
    });
    for (int panel = 0; panel < tile.panels; panel++) {
      const ptrdiff_t at = (ptrdiff_t)panel * units * width<T>;
      if (shape_.drops(0)) // the derivative reads what was kept as it was before dropout
        for (int i = 0; i < J * width<T>; i += N<T>) store(a + at + i, load(a + at + i) * T(1 - shape_.dropout[0]));
      backward_block<T, activation::any, J>(functions_of<T>(shape_.activations[0]), W_out, shape_.sizes[1], no,
                                            delta_out + (ptrdiff_t)panel * no * width<T>, a + at, z ? z + at : nullptr);
      if (shape_.drops(0)) drop_units(a + at, unit, J, panel, noise);
    }
  }

  int units_of(int share) const { return first_unit_[share + 1] - first_unit_[share]; }
  int most_units() const {
    int most = 0;
    for (int share = 0; share < shares_; share++) most = std::max(most, units_of(share));
    return most;
  }
  // Of a buffer of hidden units, [shares][panels][units][width], the panel of a share.
  T *of_share(Buffer<T> &of, int share, int panel) {
    return of.data() + ((ptrdiff_t)first_unit_[share] * panels_ + (ptrdiff_t)panel * units_of(share)) * width<T>;
  }
  void drop_units(T *a, int first, int units, int panel, const Noise &noise) const {
    const Dropout<T> dropout(shape_, noise, 0);
    drop(a, first, units, 1, uint32_t(panel * width<T>), dropout.keys, dropout.threshold, dropout.factor);
  }

  const Shape &shape_;
  const Loss<T> &loss_;
  const Samples<T> &samples_;
  int panels_, shares_;
  std::vector<int> first_unit_; // of each share, and their number
  Buffer<T> a_, z_;             // of the hidden units; z where its derivative reads it
  Buffer<T> outputs_;           // [shares][panels][no][width]: what each adds
  Buffer<T> gradients_;
  ptrdiff_t outputs_stride_, gradients_stride_; // from share to share
};

extern template class ShallowStep<float>; // shallow.cpp
extern template class ShallowStep<double>;
