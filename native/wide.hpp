// The scheme for wide layers. Items: a panel of samples runs through all layers, and leaves the deltas and the transposed
// activations of each. Blocks: a strip of a layer's weights sums its gradient over all samples of the round, and takes its step.
// There are no partial sums of the gradient, whatever the number of threads.
#pragma once
#include "scheme.hpp"

template <class T> class WideStep final : public Scheme<T> {
public:
  WideStep(const Shape &shape, const Loss<T> &loss, const Samples<T> &samples, int64_t batch)
      : shape_(shape), loss_(loss), samples_(samples) {
    constexpr ptrdiff_t round_bytes = 16 << 20, fewest = 16; // a round of few panels would spend its time on the sums
    ptrdiff_t panel = 0;
    for (int l = 0; l < shape.depth; l++)
      panel += width<T> * (shape.sizes[l + 1] + round_up(shape.sizes[l], strip<T>)) * sizeof(T);
    const int64_t panels = round_up(batch, width<T>) / width<T>;
    round_panels_ = std::min<int64_t>(panels, std::max(fewest, round_bytes / panel));
    totals_.resize(panels);
    gradient_.resize(shape.parameters);
    for (int l = 0; l < shape.depth; l++) {
      delta_.emplace_back(round_panels_ * width<T> * shape.sizes[l + 1]);
      strips_.emplace_back(round_panels_ * strips_of(l));
      const int ni = shape.sizes[l], no = shape.sizes[l + 1];
      packed_.emplace_back(l ? round_up(ni, block_units) * no : 0);
      for (int k = 0; k < ni; k += strip<T>)
        for (int j = 0; j < no; j += rows_of_block)
          blocks_.push_back({l, k, std::min(strip<T>, ni - k), j, std::min(rows_of_block, no - j)});
      blocks_.push_back({l, 0, 0, 0, no});
    }
  }
  const char *name() const override { return "wide"; }
  int tile_panels() const override { return 1; }
  int rounds(const Batch &batch) const override { return int((panels_of(batch) + round_panels_ - 1) / round_panels_); }
  int items(const Batch &batch, int round) const override {
    return (int)std::min(round_panels_, panels_of(batch) - round * round_panels_);
  }
  int blocks() const override { return (int)blocks_.size(); }

  void accumulate(int round, int item, const Step<T> &step, TileBuffers<T> &buffers) override {
    const int64_t panel = round * round_panels_ + item;
    const Tile<T> tile = noisy(shape_, step.noise, panel, samples_.tile(step.batch, panel, 1, buffers), buffers);
    T *const *a = buffers.lent.data(), *const *z = buffers.z.data();
    for (int l = 0; l < shape_.depth; l++)
      buffers.lent[l] = delta_[l].data() + (ptrdiff_t)item * width<T> * shape_.sizes[l + 1];
    forward_tile(shape_, step.current, tile.x, a, z, 1, &step.noise, panel);
    for (int l = 0; l < shape_.depth; l++)
      transpose_panel(l ? a[l - 1] : tile.x, shape_.sizes[l], strips_[l].data() + item * strips_of(l));
    totals_[panel] = {output_tile(shape_, loss_, tile, a, z), weight_of(tile)};
    for (int l = shape_.depth - 1; l > 0; l--)
      backward_tile(shape_, Columns<T>::packed(packed_[l].data(), shape_.sizes[l + 1]), l, a, z, 1, step.noise, panel);
  }

  bool update(int round, int block, const Step<T> &step, TileBuffers<T> &) override {
    const auto [l, k, columns, j, rows] = blocks_[block];
    const int ni = shape_.sizes[l], no = shape_.sizes[l + 1], panels = items(step.batch, round);
    const bool last = round == rounds(step.batch) - 1;
    T *const G = gradient_.data();
    if (columns == 0) {
      const ptrdiff_t at = shape_.biases_at[l];
      bias_gradient(delta_[l].data(), no, no, G + at, panels * panel_vectors, round > 0);
      return !last || update_slice(shape_, step, at, no, G + at);
    }
    const ptrdiff_t at = shape_.weights_at[l] + (ptrdiff_t)j * ni + k;
    gradient_strip(delta_[l].data() + (ptrdiff_t)j * width<T>, no, strips_[l].data() + (ptrdiff_t)k * width<T>, strips_of(l),
                   G + at, ni, rows, columns, panels, round > 0);
    if (!last) return true;
    bool finite = true;
    if (columns == ni) finite = update_slice(shape_, step, at, (ptrdiff_t)rows * ni, G + at);
    else
      for (ptrdiff_t row = at; row < at + (ptrdiff_t)rows * ni; row += ni)
        finite &= update_slice(shape_, step, row, columns, G + row);
    if (step.rule.kind != Rule<T>::gradient_only) pack(step.next, l, k, columns, j, rows);
    return finite;
  }

  void prepare(const T *parameters) override {
    for (int l = 1; l < shape_.depth; l++) pack(parameters, l, 0, shape_.sizes[l], 0, shape_.sizes[l + 1]);
  }

  Totals totals(const Step<T> &step, TileBuffers<T> &) const override {
    Totals sum;
    for (int64_t panel = 0; panel < panels_of(step.batch); panel++)
      sum.cost += totals_[panel].cost, sum.weight += totals_[panel].weight;
    return sum;
  }

private:
  static constexpr int rows_of_block = 8 * strip_rows; // work enough for a thread

  void pack(const T *parameters, int l, int k0, int columns, int j0, int rows) {
    const int ni = shape_.sizes[l], no = shape_.sizes[l + 1];
    if (l == 0) return; // the first layer has no backward product
    for (int k = k0, here; k < k0 + columns; k += here) { // a strip may be a part of a block
      const int within = k % block_units;
      here = std::min(block_units - within, k0 + columns - k);
      T *to = packed_[l].data() + (ptrdiff_t)(k - within) * no + within;
      for (int j = j0; j < j0 + rows; j++)
        std::copy_n(parameters + shape_.weights_at[l] + (ptrdiff_t)j * ni + k, here, to + (ptrdiff_t)j * block_units);
    }
  }

  struct Block {
    int layer, k, columns, j, rows; // of weights; no columns: its biases
  };
  static int64_t panels_of(const Batch &batch) { return round_up(batch.count, width<T>) / width<T>; }
  ptrdiff_t strips_of(int l) const { return round_up(shape_.sizes[l], strip<T>) * width<T>; } // numbers a panel

  const Shape &shape_;
  const Loss<T> &loss_;
  const Samples<T> &samples_;
  int64_t round_panels_;
  std::vector<Buffer<T>> delta_, strips_; // of a round: [panels][no][width], [panels][strips][width][strip]
  std::vector<Buffer<T>> packed_;         // of the parameters now: Columns
  std::vector<Totals> totals_;            // of each panel
  Buffer<T> gradient_;
  std::vector<Block> blocks_;
};
