// The samples of a training, and how a step's share of them gets into panels.
#pragma once
#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "layers.hpp"

template <class T> struct Aligned { // an allocator: cache lines of its own, zeroed by std::vector
  using value_type = T;
  Aligned() = default;
  template <class U> Aligned(const Aligned<U> &) {}
  T *allocate(size_t n) { return static_cast<T *>(::operator new(n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T *p, size_t) { ::operator delete(p, std::align_val_t{64}); }
  bool operator==(const Aligned &) const { return true; }
};
template <class T> using Buffer = std::vector<T, Aligned<T>>;

enum class Order : int32_t { given, shuffled, blocks }; // blocks: those of rows are shuffled, then the rows of a few together

// The samples of one step: positions first..first+count of an epoch's order.
struct Batch {
  int64_t first, count;
  Order order;
  bool own_weights; // a member's: resampled, or 0 in the fold that it leaves out
  uint32_t keys[8], bootstrap[4];
  bool resampled;
  int32_t left_out;
};

constexpr int64_t block_rows = 4096, window_blocks = 16; // of Order::blocks: schuss/philox.py holds the same

// Writes up to `width` rows into a panel, the lanes after `rows` zero. from: (n, columns); index: which rows, or null for
// those from `first` on; panel: [columns][width].
template <class T>
void gather(const T *from, int columns, const uint32_t *index, int64_t first, int rows, T *panel) {
  const auto row = [=](int lane) { return from + (index ? (int64_t)index[lane] : first + lane) * columns; };
  if (columns >= 4) {
    for (int lane = 0; lane < rows; lane++) prefetch(row(lane), columns);
    for (int s = 0; s < width<T>; s += N<T>)
      for (int c = 0; c < columns; c += N<T>) {
        const int here = std::min(N<T>, columns - c);
        V<T> block[N<T>];
        UNROLL for (int i = 0; i < N<T>; i++)
          block[i] = s + i >= rows ? V<T>{} : here == N<T> ? load(row(s + i) + c) : load_first(row(s + i) + c, here);
        swap_blocks<T, 1>(block);
        for (int i = 0; i < here; i++) store(panel + (c + i) * width<T> + s, block[i]);
      }
    return;
  }
  for (int lane = 0; lane < rows; lane++)
    for (int c = 0; c < columns; c++) panel[c * width<T> + lane] = row(lane)[c];
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

template <class T> struct Tile {
  const T *x = nullptr, *y = nullptr, *w = nullptr; // [panels][d0][width], [panels][dL][width], [panels][width]
  int panels = 0, vectors = panels * panel_vectors; // vectors: those with samples in them
};

// What one thread needs to hold a tile: gathered samples, and where the a (and z, or null) of layer l + 1 are to lie.
template <class T> struct TileBuffers {
  Buffer<T> x, y, w, storage, strips; // strips: of the transposed panels of a layer, where a scheme wants them
  std::vector<T *> a, z, lent; // lent: for a scheme that wants a elsewhere
  std::vector<uint32_t> index, left;
  Tile<T> tile; // the samples of a step, for a scheme that takes them all at once
};

// The data: a copy in panels if every step uses all samples, else in rows, from which each step gathers its own; or rows in place.
template <class T> class Samples {
public:
  Samples(int64_t n, int inputs, int targets, bool weighted, bool in_panels)
      : n_(n), inputs_(inputs), targets_(targets), in_panels_(in_panels), weighted_(weighted) {
    const int64_t rows = in_panels ? round_up(n, width<T>) : n;
    own_x_.resize(rows * inputs);
    own_y_.resize(rows * targets);
    own_w_.resize(in_panels || weighted ? rows : 0);
    x_ = own_x_.data(), y_ = own_y_.data(), w_ = own_w_.data();
  }
  // In rows that stay the caller's.
  Samples(const T *x, const T *y, const T *w, int64_t n, int inputs, int targets)
      : n_(n), inputs_(inputs), targets_(targets), in_panels_(false), weighted_(w != nullptr), x_(x), y_(y), w_(w) {}

  // Copies the rows first..first+count into place; w may be null if there are no weights.
  void fill(int64_t first, int64_t count, const T *x, const T *y, const T *w) {
    if (!in_panels_) {
      std::copy_n(x, count * inputs_, own_x_.data() + first * inputs_);
      std::copy_n(y, count * targets_, own_y_.data() + first * targets_);
      if (w) std::copy_n(w, count, own_w_.data() + first);
      return;
    }
    for (int64_t i = 0; i < count; i++) {
      const int64_t panel = (first + i) / width<T> * width<T>, lane = (first + i) % width<T>;
      for (int c = 0; c < inputs_; c++) own_x_[panel * inputs_ + c * width<T> + lane] = x[i * inputs_ + c];
      for (int c = 0; c < targets_; c++) own_y_[panel * targets_ + c * width<T> + lane] = y[i * targets_ + c];
      own_w_[first + i] = w ? w[i] : T(1);
    }
  }
  int64_t size() const { return n_; }

  void set_folds(const int32_t *folds) {
    folds_.assign(round_up(n_, width<T>), -1);
    std::copy_n(folds, n_, folds_.data());
  }

  // The panels first..first+panels of a batch, gathered into the buffers where the data lie in rows.
  Tile<T> tile(const Batch &batch, int64_t first_panel, int panels, TileBuffers<T> &buffers) const {
    if (in_panels_) {
      const int64_t at = first_panel * width<T>;
      const T *w = w_ + at;
      if (batch.own_weights) {
        std::copy_n(w, panels * width<T>, buffers.w.data());
        weigh(batch, nullptr, at, panels * width<T>, buffers.w.data());
        w = buffers.w.data();
      }
      return {x_ + at * inputs_, y_ + at * targets_, w, panels};
    }
    const int64_t start = first_panel * width<T>, rows = std::min<int64_t>(panels * width<T>, batch.count - start);
    const uint32_t *index = order(batch, start, rows, buffers);
    for (int p = 0; p < panels; p++) {
      const int lane0 = p * width<T>, here = (int)std::min<int64_t>(width<T>, rows - lane0);
      const int64_t first = batch.first + start + lane0;
      const uint32_t *which = index ? index + lane0 : nullptr;
      gather(x_, inputs_, which, first, here, buffers.x.data() + (ptrdiff_t)lane0 * inputs_);
      gather(y_, targets_, which, first, here, buffers.y.data() + (ptrdiff_t)lane0 * targets_);
      T *w = buffers.w.data() + lane0;
      for (int lane = 0; lane < width<T>; lane++)
        w[lane] = lane >= here ? T(0) : !weighted_ ? T(1) : w_[which ? which[lane] : first + lane];
    }
    if (batch.own_weights) weigh(batch, index, batch.first + start, rows, buffers.w.data());
    return {buffers.x.data(), buffers.y.data(), buffers.w.data(), panels};
  }

  // All samples of a batch, gathered into the buffers where the data lie in rows; if wanted, without those of weight 0.
  Tile<T> tile_of(const Batch &batch, bool leave_out, TileBuffers<T> &buffers) const {
    int64_t count = batch.count;
    if (in_panels_ || !batch.own_weights || !leave_out) {
      Tile<T> all = tile(batch, 0, (int)(round_up(count, width<T>) / width<T>), buffers);
      all.vectors = (int)(round_up(count, N<T>) / N<T>);
      return all;
    }
    T *w = buffers.w.data();
    uint32_t *which = buffers.index.data();
    if (!order(batch, 0, count, buffers))
      for (int64_t i = 0; i < count; i++) which[i] = uint32_t(batch.first + i);
    for (int64_t i = 0; i < count; i++) w[i] = weighted_ ? w_[which[i]] : T(1);
    weigh(batch, which, 0, count, w);
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
      const T weight = w[i];
      which[kept] = which[i], w[kept] = weight;
      kept += weight != 0;
    }
    const int panels = (int)(round_up(kept, width<T>) / width<T>);
    std::fill(w + kept, w + panels * width<T>, T(0));
    for (int64_t first = 0; first < kept; first += width<T>) {
      const int here = (int)std::min<int64_t>(width<T>, kept - first);
      gather(x_, inputs_, which + first, 0, here, buffers.x.data() + first * inputs_);
      gather(y_, targets_, which + first, 0, here, buffers.y.data() + first * targets_);
    }
    return {buffers.x.data(), buffers.y.data(), w, panels, (int)(round_up(kept, N<T>) / N<T>)};
  }

  // x, y, w <- the samples at start..start+count of a batch, as rows; for data in rows.
  void rows(const Batch &batch, int64_t start, int64_t count, T *x, ptrdiff_t x_stride, T *y, ptrdiff_t y_stride, T *w,
            TileBuffers<T> &buffers) const {
    const uint32_t *index = order(batch, start, count, buffers);
    for (int64_t i = 0; i < count; i++) {
      const int64_t at = index ? index[i] : batch.first + start + i;
      std::copy_n(x_ + at * inputs_, inputs_, x + i * x_stride);
      std::copy_n(y_ + at * targets_, targets_, y + i * y_stride);
      w[i] = weighted_ ? w_[at] : T(1);
    }
    if (batch.own_weights) weigh(batch, index, batch.first + start, count, w);
  }

private:
  // Which rows the positions start..start+count of a batch are, or null if they are batch.first + start and so on.
  const uint32_t *order(const Batch &batch, int64_t start, int64_t count, TileBuffers<T> &buffers) const {
    if (batch.order == Order::given) return nullptr;
    if (batch.order == Order::shuffled)
      permute(batch.first + start, count, n_, batch.keys, buffers.index.data(), buffers.left.data());
    else in_blocks_order(batch.keys, batch.first + start, count, buffers);
    return buffers.index.data();
  }

  // The same for Order::blocks. A window is some shuffled blocks; the rows after the last whole block are a window of their own.
  void in_blocks_order(const uint32_t *keys, int64_t first, int64_t count, TileBuffers<T> &buffers) const {
    constexpr int64_t window = block_rows * window_blocks;
    const int64_t whole = n_ / block_rows * block_rows;
    for (int64_t done = 0; done < count;) {
      const int64_t at = first + done, begin = at < whole ? at / window * window : whole;
      const int64_t size = at < whole ? std::min(window, whole - begin) : n_ - whole;
      const int64_t here = std::min(count - done, begin + size - at);
      uint32_t own[8], *index = buffers.index.data() + done;
      for (int k = 0; k < 8; k++) own[k] = keys[k] + uint32_t(begin / window + 1) * 0x9E3779B9u;
      permute(at - begin, here, size, own, index, buffers.left.data());
      if (at < whole) {
        uint32_t blocks[window_blocks], left[2];
        for (int64_t b = 0; b < size / block_rows; b++) {
          uint32_t found[lanes];
          permute(begin / block_rows + b, 1, whole / block_rows, keys, found, left);
          blocks[b] = found[0];
        }
        for (int64_t i = 0; i < here; i++) index[i] = uint32_t(blocks[index[i] / block_rows] * block_rows + index[i] % block_rows);
      } else
        for (int64_t i = 0; i < here; i++) index[i] += uint32_t(whole);
      done += here;
    }
  }

  // w <- w times how often a resampling holds the rows, those of index, or from `first` on; 0 in the fold that is left out.
  void weigh(const Batch &batch, const uint32_t *index, int64_t first, int64_t count, T *w) const {
    for (int64_t i = 0; i < count; i++) {
      const uint32_t row = index ? index[i] : uint32_t(first + i);
      if (batch.resampled) w[i] *= T(bootstrap_weight(row, batch.bootstrap));
      if (!folds_.empty() && folds_[row] == batch.left_out) w[i] = T(0);
    }
  }

  static constexpr int lanes = vector_bytes / 4;
  int64_t n_;
  int inputs_, targets_;
  bool in_panels_, weighted_;
  Buffer<T> own_x_, own_y_, own_w_;
  std::vector<int32_t> folds_; // of the rows, or none
  const T *x_, *y_, *w_;
};

extern template class Samples<float>; // schemes.cpp
extern template class Samples<double>;
