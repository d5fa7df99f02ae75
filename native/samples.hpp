// The samples of a training, and how a step's share of them gets into panels.
#pragma once
#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "dense.hpp"
#include "random.h"

template <class T> struct Aligned { // an allocator: cache lines of its own, zeroed by std::vector
  using value_type = T;
  Aligned() = default;
  template <class U> Aligned(const Aligned<U> &) {}
  T *allocate(size_t n) { return static_cast<T *>(::operator new(n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T *p, size_t) { ::operator delete(p, std::align_val_t{64}); }
  bool operator==(const Aligned &) const { return true; }
};
template <class T> using Buffer = std::vector<T, Aligned<T>>;

// The samples of one step: positions first..first+count of an epoch's order.
struct Batch {
  int64_t first, count;
  bool shuffled, resampled;
  uint32_t keys[8], bootstrap[4];
};

// Writes up to `width` rows into a panel, the lanes after `rows` zero. from: (n, columns); index: which rows, or null for
// those from `first` on; panel: [columns][width].
template <class T>
void gather(const T *from, int columns, const uint32_t *index, int64_t first, int rows, T *panel) {
  for (int lane = 0; lane < rows; lane++) {
    const T *row = from + (index ? (int64_t)index[lane] : first + lane) * columns;
    for (int c = 0; c < columns; c++) panel[c * width<T> + lane] = row[c];
  }
  if (rows < width<T>)
    for (int c = 0; c < columns; c++) std::fill(panel + c * width<T> + rows, panel + (c + 1) * width<T>, T(0));
}

// index[i] <- where the keyed permutation of 0..n sends position first + i: one pass over all, then the few that fell
// outside 0..n walk on. index has room for a whole vector at its end; left: room for `count`.
inline void permute(int64_t first, int64_t count, int64_t n, const uint32_t *keys, uint32_t *index, uint32_t *left) {
  typedef uint32_t U __attribute__((vector_size(vector_bytes)));
  constexpr int lanes = vector_bytes / 4;
  int bits = 4;
  while (bits < 32 && (int64_t(1) << bits) < n) bits++;
  U offset;
  for (int lane = 0; lane < lanes; lane++) offset[lane] = lane;
  int64_t outside = 0;
  for (int64_t i = 0; i < count; i += lanes) {
    U x = offset + (uint32_t)(first + i);
    x = bits < 32 ? x & ((1u << bits) - 1) : x; // the lanes after the last position
    FEISTEL(U, x, bits, keys);
    __builtin_memcpy(index + i, &x, sizeof x);
    for (int lane = 0; lane < lanes && i + lane < count; lane++) {
      left[outside] = (uint32_t)(i + lane);
      outside += index[i + lane] >= n;
    }
  }
  while (outside) {
    int64_t still = 0;
    for (int64_t i = 0; i < outside; i++) {
      uint32_t x = index[left[i]];
      FEISTEL(uint32_t, x, bits, keys);
      index[left[i]] = x;
      left[still] = left[i];
      still += x >= n;
    }
    outside = still;
  }
}

// What one thread needs to hold a tile: gathered samples, and where the a (and z, or null) of layer l + 1 are to lie.
template <class T> struct TileBuffers {
  Buffer<T> x, y, w, storage, strips; // strips: of the transposed panels of a layer, where a scheme wants them
  std::vector<T *> a, z, lent; // lent: for a scheme that wants a elsewhere
  std::vector<uint32_t> index, left;
};

template <class T> struct Tile {
  const T *x, *y, *w; // [panels][d0][width], [panels][dL][width], [panels][width]
  int panels;
};

// A copy of the data: in panels if every step uses all samples, else in rows, from which each step gathers its own.
template <class T> class Samples {
public:
  Samples(const T *x, const T *y, const T *weights, int64_t n, int inputs, int outputs, bool in_panels)
      : n_(n), inputs_(inputs), outputs_(outputs), in_panels_(in_panels), weighted_(weights != nullptr) {
    if (!in_panels) {
      x_.assign(x, x + n * inputs);
      y_.assign(y, y + n * outputs);
      if (weights) w_.assign(weights, weights + n);
      return;
    }
    const int64_t panels = round_up(n, width<T>) / width<T>;
    x_.resize(panels * width<T> * inputs);
    y_.resize(panels * width<T> * outputs);
    w_.resize(panels * width<T>);
    for (int64_t p = 0; p < panels; p++) {
      const int64_t first = p * width<T>;
      const int rows = (int)std::min<int64_t>(width<T>, n - first);
      gather(x, inputs, nullptr, first, rows, x_.data() + first * inputs);
      gather(y, outputs, nullptr, first, rows, y_.data() + first * outputs);
      for (int lane = 0; lane < rows; lane++) w_[first + lane] = weights ? weights[first + lane] : T(1);
    }
  }
  int64_t size() const { return n_; }
  bool weighted() const { return weighted_; }

  // The panels first..first+panels of a batch, gathered into the buffers where the data lie in rows.
  Tile<T> tile(const Batch &batch, int64_t first_panel, int panels, TileBuffers<T> &buffers) const {
    if (in_panels_) {
      const int64_t at = first_panel * width<T>;
      const T *w = w_.data() + at;
      if (batch.resampled) {
        std::copy_n(w, panels * width<T>, buffers.w.data());
        resample(batch, nullptr, at, panels * width<T>, buffers.w.data());
        w = buffers.w.data();
      }
      return {x_.data() + at * inputs_, y_.data() + at * outputs_, w, panels};
    }
    const int64_t start = first_panel * width<T>, rows = std::min<int64_t>(panels * width<T>, batch.count - start);
    const uint32_t *index = order(batch, start, rows, buffers);
    for (int p = 0; p < panels; p++) {
      const int lane0 = p * width<T>, here = (int)std::min<int64_t>(width<T>, rows - lane0);
      const int64_t first = batch.first + start + lane0;
      const uint32_t *which = index ? index + lane0 : nullptr;
      gather(x_.data(), inputs_, which, first, here, buffers.x.data() + (ptrdiff_t)lane0 * inputs_);
      gather(y_.data(), outputs_, which, first, here, buffers.y.data() + (ptrdiff_t)lane0 * outputs_);
      T *w = buffers.w.data() + lane0;
      for (int lane = 0; lane < width<T>; lane++)
        w[lane] = lane >= here ? T(0) : !weighted_ ? T(1) : w_[which ? which[lane] : first + lane];
    }
    if (batch.resampled) resample(batch, index, batch.first + start, rows, buffers.w.data());
    return {buffers.x.data(), buffers.y.data(), buffers.w.data(), panels};
  }

  // x, y, w <- the samples at start..start+count of a batch, as rows; for data in rows.
  void rows(const Batch &batch, int64_t start, int64_t count, T *x, ptrdiff_t x_stride, T *y, ptrdiff_t y_stride, T *w,
            TileBuffers<T> &buffers) const {
    const uint32_t *index = order(batch, start, count, buffers);
    for (int64_t i = 0; i < count; i++) {
      const int64_t at = index ? index[i] : batch.first + start + i;
      std::copy_n(x_.data() + at * inputs_, inputs_, x + i * x_stride);
      std::copy_n(y_.data() + at * outputs_, outputs_, y + i * y_stride);
      w[i] = weighted_ ? w_[at] : T(1);
    }
    if (batch.resampled) resample(batch, index, batch.first + start, count, w);
  }

private:
  // Which rows the positions start..start+count of a batch are, or null if they are batch.first + start and so on.
  const uint32_t *order(const Batch &batch, int64_t start, int64_t count, TileBuffers<T> &buffers) const {
    if (!batch.shuffled) return nullptr;
    permute(batch.first + start, count, n_, batch.keys, buffers.index.data(), buffers.left.data());
    return buffers.index.data();
  }

  // w <- w times how often a resampling holds the rows: those of index, or from `first` on.
  static void resample(const Batch &batch, const uint32_t *index, int64_t first, int64_t count, T *w) {
    for (int64_t i = 0; i < count; i++)
      w[i] *= T(bootstrap_weight(index ? index[i] : uint32_t(first + i), batch.bootstrap));
  }

  int64_t n_;
  int inputs_, outputs_;
  bool in_panels_, weighted_;
  Buffer<T> x_, y_, w_;
};
