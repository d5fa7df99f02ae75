// The scheme for narrow layers: a tile of panels runs through all layers and adds to the gradients of its group while it sits in
// the cache. An item is a group of tiles, a block a slice of the parameters, for which it adds up the groups.
#pragma once
#include "scheme.hpp"

template <class T> class TiledStep final : public Scheme<T> {
public:
  TiledStep(const Shape &shape, const Loss<T> &loss, const Samples<T> &samples, int64_t batch)
      : shape_(shape), loss_(loss), samples_(samples) {
    // A tile in 160 KB is near enough to the first cache; but a tile of fewer than four panels spends its time on adding up
    // what it found, so wide layers get larger ones, as far as the second cache goes.
    constexpr ptrdiff_t near_bytes = 160 * 1024, far_bytes = 400 * 1024, partial_bytes = 2 << 20;
    const int64_t panels = round_up(batch, width<T>) / width<T>;
    const ptrdiff_t panel_bytes = shape.units() * width<T> * sizeof(T);
    const ptrdiff_t tile_bytes = near_bytes / panel_bytes >= 4 ? near_bytes : far_bytes;
    const int fits = (int)std::clamp<ptrdiff_t>(tile_bytes / panel_bytes, 1, 16);
    // A group for each tile, and at least four, for threads to share, where there are four panels; at most 16 in 2 MB.
    const ptrdiff_t room = partial_bytes / ptrdiff_t(shape.parameters * sizeof(T));
    groups_ = (int)std::clamp<int64_t>((panels + fits - 1) / fits, 4, std::clamp<ptrdiff_t>(room, 4, 16));
    groups_ = (int)std::min<int64_t>(groups_, panels);
    const int64_t in_group = (panels + groups_ - 1) / groups_, tiles = (in_group + fits - 1) / fits;
    tile_panels_ = (int)((in_group + tiles - 1) / tiles);
    stride_ = round_up(shape.parameters, 64);
    partial_.resize(groups_ * stride_);
    totals_.resize(groups_);
    slices_ = slices_of(shape);
  }
  const char *name() const override { return "tiled"; }
  int tile_panels() const override { return tile_panels_; }
  int rounds(const Batch &) const override { return 1; }
  int items(const Batch &, int) const override { return groups_; }
  int blocks() const override { return (int)slices_.size(); }

  void accumulate(int, int item, const Step<T> &step, TileBuffers<T> &buffers) override {
    const int64_t panels = round_up(step.batch.count, width<T>) / width<T>, end = panels * (item + 1) / groups_;
    T *sums = partial_.data() + item * stride_;
    std::fill(sums, sums + shape_.parameters, T(0));
    totals_[item] = {};
    for (int64_t first = panels * item / groups_; first < end; first += tile_panels_) {
      const int here = (int)std::min<int64_t>(tile_panels_, end - first);
      add_tile(samples_.tile(step.batch, first, here, buffers), first, step, sums, totals_[item], buffers);
    }
  }
  bool update(int, int block, const Step<T> &step, TileBuffers<T> &) override {
    const auto [first, count] = slices_[block];
    return update_slice(shape_, step, first, count, partial_.data() + first, groups_, stride_);
  }
  Totals totals(const Step<T> &, TileBuffers<T> &) const override {
    Totals sum;
    for (const auto &group : totals_) sum.cost += group.cost, sum.weight += group.weight;
    return sum;
  }

private:
  void add_tile(const Tile<T> &clean, int64_t first, const Step<T> &step, T *sums, Totals &total, TileBuffers<T> &at) {
    const T *parameters = step.current;
    const Tile<T> tile = noisy(shape_, step.noise, first, clean, at);
    T *const *a = at.a.data(), *const *z = at.z.data();
    forward_tile(shape_, parameters, tile.x, a, z, tile.panels, &step.noise, first);
    total.cost += output_tile(shape_, loss_, tile, a, z);
    total.weight += weight_of(tile);
    for (int l = shape_.depth - 1; l >= 0; l--) {
      const T *a_prev = l ? a[l - 1] : tile.x;
      T *G = sums + shape_.weights_at[l], *g = sums + shape_.biases_at[l];
      if (by_strips(shape_.sizes[l], shape_.sizes[l + 1])) add_by_strips(l, a_prev, a[l], G, g, tile.panels, at);
      else gradient(a[l], a_prev, G, g, shape_.sizes[l], shape_.sizes[l + 1], tile.panels);
      if (l > 0) {
        const auto W = Columns<T>::plain(parameters + shape_.weights_at[l], shape_.sizes[l]);
        backward_tile(shape_, W, l, a, z, tile.panels, step.noise, first);
      }
    }
  }

  // Dot products pay for their sums at the end of a tile: in a short one of larger layers, transposing is cheaper.
  bool by_strips(int ni, int no) const {
    return tile_panels_ <= short_tile && ni >= 32 && no >= 32 && (ptrdiff_t)ni * no >= 2048;
  }

  void add_by_strips(int l, const T *a_prev, const T *delta, T *G, T *g, int panels, TileBuffers<T> &at) {
    const int ni = shape_.sizes[l], no = shape_.sizes[l + 1];
    const ptrdiff_t stride = round_up(ni, strip<T>) * width<T>;
    for (int panel = 0; panel < panels; panel++)
      transpose_panel(a_prev + (ptrdiff_t)panel * ni * width<T>, ni, at.strips.data() + panel * stride);
    for (int k = 0; k < ni; k += strip<T>)
      gradient_strip(delta, no, at.strips.data() + (ptrdiff_t)k * width<T>, stride, G + k, ni, no, std::min(strip<T>, ni - k),
                     panels, true);
    bias_gradient(delta, no, no, g, panels * panel_vectors, true);
  }

  const Shape &shape_;
  const Loss<T> &loss_;
  int tile_panels_, groups_;
  const Samples<T> &samples_;
  ptrdiff_t stride_;
  Buffer<T> partial_;
  std::vector<Totals> totals_;
  std::vector<Slice> slices_;
};
