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
  SmallStep(const Shape &shape, const Loss<T> &loss, const Samples<T> &samples, int64_t batch)
      : shape_(shape), loss_(loss), samples_(samples) {
    for (int l = 0; l <= shape.depth; l++) {
      stride_.push_back(round_up(shape.sizes[l], width<T>));
      a_.emplace_back(stride_[l] * batch);
      delta_.emplace_back(l ? stride_[l] * batch : 0);
      z_.emplace_back(l && activation::reads_input(shape.activations[l - 1]) ? stride_[l] * batch : 0);
    }
    targets_ = round_up(shape.targets, N<T>);
    y_.resize(targets_ * batch);
    w_.resize(batch);
    totals_.resize((batch + item_samples - 1) / item_samples);
    for (int l = 0; l < shape.depth; l++) {
      const int rows = std::max(1, 4096 / shape.sizes[l]);
      for (int j = 0; j < shape.sizes[l + 1]; j += rows) blocks_.push_back({l, j, std::min(rows, shape.sizes[l + 1] - j)});
    }
  }
  const char *name() const override { return "small"; }
  int tile_panels() const override { return 1; }
  int rounds(const Batch &) const override { return 1; }
  int items(const Batch &batch, int) const override { return int((batch.count + item_samples - 1) / item_samples); }
  int blocks() const override { return (int)blocks_.size(); }
  Totals totals(const Step<T> &step, TileBuffers<T> &) const override {
    Totals sum;
    for (int item = 0; item < items(step.batch, 0); item++) sum.cost += totals_[item].cost, sum.weight += totals_[item].weight;
    return sum;
  }

  void accumulate(int, int item, const Step<T> &step, TileBuffers<T> &buffers) override {
    const int first = item * item_samples, count = (int)std::min<int64_t>(item_samples, step.batch.count - first);
    const int depth = shape_.depth;
    samples_.rows(step.batch, first, count, row(a_, 0, first), stride_[0], y_.data() + first * targets_, targets_,
                  w_.data() + first, buffers);
    if (shape_.input_noise > 0) {
      uint32_t keys[4];
      noise_keys(step.noise.seed, step.noise.step, 0, keys);
      for (int s = first; s < first + count; s++)
        for (int c = 0; c < shape_.inputs(); c++) add_noise(row(a_, 0, s)[c], shape_.input_noise, s, c, keys);
    }
    for (int l = 0; l < depth; l++) {
      in_blocks<item_samples>(count, 0, [&](auto block, int s) {
        forward_rows<T, block>(step.current + shape_.weights_at[l], step.current + shape_.biases_at[l], shape_.sizes[l],
                               shape_.sizes[l + 1], row(a_, l, first + s), stride_[l], row(a_, l + 1, first + s), stride_[l + 1]);
      });
      for (int s = first; s < first + count; s++) // or f would be applied to the lanes after the last unit again in each step
        std::fill(row(a_, l + 1, s) + shape_.sizes[l + 1], row(a_, l + 1, s) + stride_[l + 1], T(0));
      T *z = z_[l + 1].empty() ? nullptr : row(z_, l + 1, first);
      functions_of<T>(shape_.activations[l]).apply(row(a_, l + 1, first), z, count * stride_[l + 1], panel_vectors);
      if (shape_.drops(l)) drop_rows(row(a_, l + 1, first), l, first, count, step.noise);
    }
    totals_[item] = output(first, count, buffers);
    for (int l = depth - 1; l > 0; l--) {
      in_blocks<item_samples>(count, 0, [&](auto block, int s) {
        backward_rows<T, block>(step.current + shape_.weights_at[l], shape_.sizes[l], shape_.sizes[l + 1],
                                row(delta_, l + 1, first + s), stride_[l + 1], row(delta_, l, first + s), stride_[l]);
      });
      differentiate(l, first, count);
      if (shape_.drops(l - 1)) drop_rows(row(delta_, l, first), l - 1, first, count, step.noise);
    }
  }

  bool update(int, int block, const Step<T> &step, TileBuffers<T> &) override {
    const int l = blocks_[block].layer, first = blocks_[block].first, rows = blocks_[block].rows;
    const int count = (int)step.batch.count, ni = shape_.sizes[l];
    bool finite = true;
    const auto take = [&](auto weights, ptrdiff_t at, ptrdiff_t n, auto sum) {
      T *v = step.velocity ? step.velocity + at : nullptr, *s = step.square ? step.square + at : nullptr;
      finite &= apply<T, weights>(step.rule, sum, step.current + at, v, s, step.next + at, n);
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

  // The delta of the output layer for some samples, and their cost: they are put across the lanes of a panel for it.
  Totals output(int first, int count, TileBuffers<T> &at) {
    const int last = shape_.depth, no = shape_.outputs();
    T *const a = at.a.back(), *const z = at.z.back();
    const auto put = [&](const T *from, ptrdiff_t stride, int columns, T *to) {
      for (int j = 0; j < columns; j++)
        for (int lane = 0; lane < width<T>; lane++) to[j * width<T> + lane] = lane < count ? from[lane * stride + j] : T(0);
    };
    put(row(a_, last, first), stride_[last], no, a);
    if (z) put(row(z_, last, first), stride_[last], no, z);
    put(y_.data() + first * targets_, targets_, shape_.targets, at.y.data());
    put(w_.data() + first, 1, 1, at.w.data());
    const Tile<T> tile{nullptr, at.y.data(), at.w.data(), 1};
    const Totals total{output_tile(shape_, loss_, tile, at.a.data(), at.z.data()), weight_of(tile)};
    for (int s = 0; s < count; s++)
      for (int j = 0; j < no; j++) row(delta_, last, first + s)[j] = a[j * width<T> + s];
    return total;
  }

  // a <- a / (1 - p) where dropout keeps it, else 0; or the same for delta.
  void drop_rows(T *a, int l, int first, int count, const Noise &noise) {
    const Dropout<T> dropout(shape_, noise, l);
    for (int s = first; s < first + count; s++, a += stride_[l + 1])
      for (int j = 0; j < shape_.sizes[l + 1]; j += N<T>) {
        const B<T> mask = kept<T>((uint32_t)s - typename Words<T>::Vector{}, counted_from<T>(j), dropout.keys, dropout.threshold);
        store(a + j, (V<T>)((B<T>)(load(a + j) * dropout.factor) & mask));
      }
  }

  // delta <- delta f'(a or z), of a as it was before dropout
  void differentiate(int l, int first, int count) {
    const Functions<T> &f = functions_of<T>(shape_.activations[l - 1]);
    const T *a = row(a_, l, first), *z = z_[l].empty() ? nullptr : row(z_, l, first);
    T *delta = row(delta_, l, first);
    const ptrdiff_t numbers = count * stride_[l];
    if (!shape_.drops(l - 1)) return f.chain(delta, a, z, delta, numbers);
    T before[width<T>];
    for (ptrdiff_t i = 0; i < numbers; i += width<T>) {
      for (int s = 0; s < width<T>; s += N<T>) store(before + s, load(a + i + s) * T(1 - shape_.dropout[l - 1]));
      f.chain(delta + i, before, z ? z + i : nullptr, delta + i, width<T>);
    }
  }

  const Shape &shape_;
  const Loss<T> &loss_;
  const Samples<T> &samples_;
  ptrdiff_t targets_;                       // columns of y, rounded up
  std::vector<ptrdiff_t> stride_;           // of layer l, the inputs being 0: its units, rounded up
  std::vector<Buffer<T>> a_, delta_, z_;    // [samples][stride]
  Buffer<T> y_, w_;
  std::vector<Totals> totals_; // of each item
  std::vector<Block> blocks_;
};
