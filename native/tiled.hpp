// A step, cut into work for the threads of a team: first items, shares of the samples, then, after a barrier, blocks, shares of
// the parameters. An item is a group of tiles; a tile of panels runs forward and backward through all layers while it sits in
// the cache, and adds to the gradients of its group. The cut is a function of the plan alone and sums are added in order, so
// the bits do not depend on who does what.
#pragma once
#include "network.hpp"

// One step of one member.
template <class T> struct Step {
  Batch batch;
  const T *current; // the parameters before it
  T *next;          // and after it
  T *velocity;
  Rule<T> rule;
};

template <class T> class TiledStep {
public:
  TiledStep(const Shape &shape, int cost_code, const Samples<T> &samples, int64_t batch)
      : shape_(shape), cost_(cost_code), samples_(samples) {
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
    sums_.resize(groups_);
    for (ptrdiff_t first = 0; first < shape.parameters;) {
      const ptrdiff_t end = first < shape.weights ? shape.weights : shape.parameters;
      slices_.push_back({first, std::min(end, first + 4096)});
      first = slices_.back().end;
    }
  }
  int tile_panels() const { return tile_panels_; }
  int items() const { return groups_; }
  int blocks() const { return (int)slices_.size(); }

  // Adds up the gradients of group `item`, from its tiles.
  void accumulate(int item, const Step<T> &step, TileBuffers<T> &buffers) {
    const int64_t panels = round_up(step.batch.count, width<T>) / width<T>;
    T *sums = partial_.data() + item * stride_;
    std::fill(sums, sums + shape_.parameters, T(0));
    sums_[item] = {0, 0};
    const int64_t end = panels * (item + 1) / groups_;
    for (int64_t first = panels * item / groups_; first < end; first += tile_panels_) {
      const int here = (int)std::min<int64_t>(tile_panels_, end - first);
      add_tile(samples_.tile(step.batch, first, here, buffers), step.current, sums, sums_[item], buffers);
    }
  }
  // After all items: the sums over the samples of w c(y, a), and of w.
  double cost() const { return total(&Sums::cost); }
  double weight() const { return total(&Sums::weight); }

  // next <- the step for a slice of the parameters; returns whether they are finite.
  bool update(int block, const Step<T> &step) {
    const auto [first, end] = slices_[block];
    const T *G = partial_.data() + first;
    if (first < shape_.weights)
      return apply<T, true>(step.rule, G, groups_, stride_, step.current + first, step.velocity + first, step.next + first,
                            end - first);
    return apply<T, false>(step.rule, G, groups_, stride_, step.current + first, step.velocity + first, step.next + first,
                           end - first);
  }

private:
  struct Sums {
    double cost, weight;
  };
  struct Slice {
    ptrdiff_t first, end; // all weights, or all biases
  };

  void add_tile(const Tile<T> &tile, const T *parameters, T *sums, Sums &sum, TileBuffers<T> &at) {
    forward_tile(shape_, parameters, tile.x, at, tile.panels);
    sum.cost += output_tile(shape_, cost_, tile, at);
    for (int i = 0; i < tile.panels * width<T>; i += N<T>) sum.weight += sum_of<T>(load(tile.w + i));
    for (int l = shape_.depth - 1; l >= 0; l--) {
      const int ni = shape_.sizes[l], no = shape_.sizes[l + 1];
      const T *delta = at.a[l].data(), *a_prev = l ? at.a[l - 1].data() : tile.x;
      gradient(delta, a_prev, sums + shape_.weights_at[l], sums + shape_.biases_at[l], ni, no, tile.panels);
      if (l > 0)
        activation::with(shape_.activations[l - 1], [&](auto row) {
          backward<T, decltype(row)>(parameters + shape_.weights_at[l], ni, no, delta, at.a[l - 1].data(),
                                     at.z[l - 1].data(), tile.panels);
        });
    }
  }
  double total(double Sums::*which) const {
    double result = 0;
    for (const auto &sums : sums_) result += sums.*which;
    return result;
  }

  const Shape &shape_;
  int cost_, tile_panels_, groups_;
  const Samples<T> &samples_;
  ptrdiff_t stride_;
  Buffer<T> partial_;
  std::vector<Sums> sums_;
  std::vector<Slice> slices_;
};
