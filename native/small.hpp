// The scheme for batches of a few samples: units lie across the lanes, not samples, and the gradient, a sum of a few outer
// products, is never stored: it goes straight into the step. An item runs four samples forward and backward; a block is some rows
// of a layer's weights and their biases.
#pragma once
#include "scheme.hpp"

// z <- W a_prev + b for B samples. a_prev: [B][..], z: [B][..], samples `from` and `to` numbers apart; W: (no, ni).
template <class T, int B>
INLINE void forward_rows(const T *W, const T *b, int ni, int no, const T *a_prev, ptrdiff_t from, T *z, ptrdiff_t to) {
  in_blocks<std::max(1, N<T> / B)>(no, 0, [&](auto block, int j) {
    constexpr int J = block, sums = (int)round_up(B * J, N<T>);
    V<T> sum[sums] = {}; // of sample s and row i at s * J + i
    const auto add = [&](int k, auto read) {
      V<T> a[B];
      UNROLL for (int s = 0; s < B; s++) a[s] = load(a_prev + s * from + k);
      UNROLL for (int i = 0; i < J; i++) {
        const V<T> w = read(W + (ptrdiff_t)(j + i) * ni + k);
        UNROLL for (int s = 0; s < B; s++) sum[s * J + i] += w * a[s];
      }
    };
    int k = 0;
    for (; k + N<T> <= ni; k += N<T>) add(k, [](const T *p) { return load(p); });
    if (const int rest = ni - k) add(k, [rest](const T *p) { return load_first(p, rest); });
    T total[sums];
    UNROLL for (int i = 0; i < sums; i += N<T>) store(total + i, sums_of<T>(sum + i));
    UNROLL for (int s = 0; s < B; s++) UNROLL for (int i = 0; i < J; i++) z[s * to + j + i] = total[s * J + i] + b[j + i];
  });
}

// delta_prev <- W^T delta for B samples. delta: [B][..], delta_prev: [B][..]; the lanes after ni become 0.
template <class T, int B>
INLINE void backward_rows(const T *W, int ni, int no, const T *delta, ptrdiff_t from, T *delta_prev, ptrdiff_t to) {
  constexpr int most = B == 1 ? 8 : B == 2 ? 4 : 2; // vectors of a row at a time
  const auto columns = [&](auto block, int k, auto read) {
    constexpr int K = block;
    V<T> sum[B][K] = {};
    for (int j = 0; j < no; j++) {
      V<T> w[K];
      UNROLL for (int i = 0; i < K; i++) w[i] = read(W + (ptrdiff_t)j * ni + k + i * N<T>);
      UNROLL for (int s = 0; s < B; s++) {
        const T d = delta[s * from + j];
        UNROLL for (int i = 0; i < K; i++) sum[s][i] += d * w[i];
      }
    }
    UNROLL for (int s = 0; s < B; s++) UNROLL for (int i = 0; i < K; i++) store(delta_prev + s * to + k + i * N<T>, sum[s][i]);
  };
  const int full = ni / N<T>, rest = ni % N<T>;
  in_blocks<most>(full, 0, [&](auto block, int i) { columns(block, i * N<T>, [](const T *p) { return load(p); }); });
  if (rest) columns(std::integral_constant<int, 1>{}, full * N<T>, [rest](const T *p) { return load_first(p, rest); });
}

template <class T> class SmallStep final : public Scheme<T> {
public:
  SmallStep(const Shape &shape, int cost_code, const Samples<T> &samples, int64_t batch)
      : shape_(shape), cost_(cost_code), samples_(samples) {
    for (int l = 0; l <= shape.depth; l++) {
      stride_.push_back(round_up(shape.sizes[l], width<T>));
      a_.emplace_back(stride_[l] * batch);
      delta_.emplace_back(l ? stride_[l] * batch : 0);
      z_.emplace_back(l && activation::reads_input(shape.activations[l - 1]) ? stride_[l] * batch : 0);
    }
    y_.resize(stride_.back() * batch);
    w_.resize(batch);
    totals_.resize((batch + item_samples - 1) / item_samples);
    for (int l = 0; l < shape.depth; l++) {
      const int rows = std::max(1, 4096 / shape.sizes[l]);
      for (int j = 0; j < shape.sizes[l + 1]; j += rows) blocks_.push_back({l, j, std::min(rows, shape.sizes[l + 1] - j)});
    }
  }
  int tile_panels() const override { return 1; }
  int rounds(const Batch &) const override { return 1; }
  int items(const Batch &batch, int) const override { return int((batch.count + item_samples - 1) / item_samples); }
  int blocks() const override { return (int)blocks_.size(); }
  Totals totals(const Batch &batch) const override {
    Totals sum;
    for (int item = 0; item < items(batch, 0); item++) sum.cost += totals_[item].cost, sum.weight += totals_[item].weight;
    return sum;
  }

  void accumulate(int, int item, const Step<T> &step, TileBuffers<T> &buffers) override {
    const int first = item * item_samples, count = (int)std::min<int64_t>(item_samples, step.batch.count - first);
    const int depth = shape_.depth;
    samples_.rows(step.batch, first, count, row(a_, 0, first), stride_[0], y_.data() + first * stride_[depth], stride_[depth],
                  w_.data() + first, buffers);
    for (int l = 0; l < depth; l++) {
      in_blocks<item_samples>(count, 0, [&](auto block, int s) {
        forward_rows<T, block>(step.current + shape_.weights_at[l], step.current + shape_.biases_at[l], shape_.sizes[l],
                               shape_.sizes[l + 1], row(a_, l, first + s), stride_[l], row(a_, l + 1, first + s), stride_[l + 1]);
      });
      activation::with(shape_.activations[l], [&](auto f) {
        T *z = z_[l + 1].empty() ? nullptr : row(z_, l + 1, first);
        activate<T, decltype(f)>(row(a_, l + 1, first), z, count * stride_[l + 1]);
      });
    }
    totals_[item] = {};
    for (int s = first; s < first + count; s++) output(s, totals_[item]);
    for (int l = depth - 1; l > 0; l--) {
      in_blocks<item_samples>(count, 0, [&](auto block, int s) {
        backward_rows<T, block>(step.current + shape_.weights_at[l], shape_.sizes[l], shape_.sizes[l + 1],
                                row(delta_, l + 1, first + s), stride_[l + 1], row(delta_, l, first + s), stride_[l]);
      });
      activation::with(shape_.activations[l - 1], [&](auto f) { differentiate<decltype(f)>(l, first, count); });
    }
  }

  bool update(int, int block, const Step<T> &step) override {
    const auto [l, first, rows] = blocks_[block];
    const int count = (int)step.batch.count, ni = shape_.sizes[l];
    bool finite = true;
    const auto take = [&](auto weights, ptrdiff_t at, ptrdiff_t n, auto sum) {
      T *v = step.velocity ? step.velocity + at : nullptr;
      finite &= apply<T, weights>(step.rule, sum, step.current + at, v, step.next + at, n);
    };
    for (int j = first; j < first + rows; j++)
      take(std::true_type{}, shape_.weights_at[l] + (ptrdiff_t)j * ni, ni, [&](ptrdiff_t i, int) {
        V<T> sum{};
        for (int s = 0; s < count; s++) sum += row(delta_, l + 1, s)[j] * load(row(a_, l, s) + i);
        return sum;
      });
    take(std::false_type{}, shape_.biases_at[l] + first, rows, [&](ptrdiff_t i, int n) {
      V<T> sum{};
      for (int s = 0; s < count; s++) sum += load_first(row(delta_, l + 1, s) + first + i, n);
      return sum;
    });
    return finite;
  }

private:
  static constexpr int item_samples = 4; // as many as the kernels have registers for

  struct Block {
    int layer, first, rows;
  };
  T *row(std::vector<Buffer<T>> &of, int l, int sample) { return of[l].data() + sample * stride_[l]; }

  // The delta of the output layer for a sample; adds its cost.
  void output(int sample, Totals &total) {
    const int last = shape_.depth, no = shape_.outputs();
    const T *a = row(a_, last, sample), *y = y_.data() + sample * stride_[last];
    const T *z = z_[last].empty() ? a : row(z_, last, sample);
    T *delta = row(delta_, last, sample);
    const T weight = w_[sample];
    total.weight += weight;
    activation::with(shape_.activations[last - 1], [&](auto f) {
      cost::with(cost_, [&](auto c) {
        using Row = decltype(f);
        using CostRow = decltype(c);
        for (int j = 0; j < no; j += N<T>) {
          const V<T> out = load(a + j), target = load(y + j);
          const V<T> value = CostRow::template value<T>(target, out);
          for (int lane = 0; lane < std::min(N<T>, no - j); lane++) total.cost += weight * value[lane];
          store(delta + j, weight * CostRow::template derivative<T>(target, out) *
                               Row::template derivative<T>(out, load(z + j)));
        }
      });
    });
  }
  // delta <- delta f'(a or z)
  template <class Row> void differentiate(int l, int first, int count) {
    const T *a = row(a_, l, first), *z = z_[l].empty() ? a : row(z_, l, first);
    T *delta = row(delta_, l, first);
    for (ptrdiff_t i = 0; i < count * stride_[l]; i += N<T>)
      store(delta + i, load(delta + i) * Row::template derivative<T>(load(a + i), load(z + i)));
  }

  const Shape &shape_;
  int cost_;
  const Samples<T> &samples_;
  std::vector<ptrdiff_t> stride_;           // of layer l, the inputs being 0: its units, rounded up
  std::vector<Buffer<T>> a_, delta_, z_;    // [samples][stride]
  Buffer<T> y_, w_;
  std::vector<Totals> totals_; // of each item
  std::vector<Block> blocks_;
};
