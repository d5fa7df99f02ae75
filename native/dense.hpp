// The block kernels of a dense layer, on panels: a panel holds `width` samples, [unit][width], samples across the lanes.
// Symbols as in the design: W (units, inputs), b, a, z, delta; ni inputs, no outputs of a layer.
#pragma once
#include <algorithm>
#include <vector>

#include "math.hpp"
#include "random.h"

// Two vectors: mini-batches, which are powers of two, leave no lane idle. With fewer registers, three, or the sums are too few.
constexpr int panel_vectors = vector_registers == 32 ? 2 : 3;
template <class T> constexpr int width = panel_vectors * N<T>;

// How many units a block of the forward and backward products has, so that its sums, panel_vectors for each, fill the registers.
constexpr int block_units = vector_registers == 32 ? 8 : 4;

constexpr ptrdiff_t round_up(ptrdiff_t count, ptrdiff_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

// Calls block(integral_constant<J>, first) for blocks of J = Largest, then halves of it, that cover 0..count.
template <int Largest, class Block> INLINE void in_blocks(int count, int first, Block block) {
  for (; first + Largest <= count; first += Largest) block(std::integral_constant<int, Largest>{}, first);
  if constexpr (Largest > 1) in_blocks<Largest / 2>(count, first, block);
}

// sum[j] += sum over k of w(j, k) a[k], for J units and the first Vectors of a panel. w(j, k) lies at W[j * unit_stride + k * stride];
// a: [K][width]. Small blocks keep several partial sums a unit, to hide the latency of the additions.
template <class T, int J, int Vectors>
INLINE void multiply(V<T> (&sum)[J][Vectors], const T *W, ptrdiff_t unit_stride, ptrdiff_t stride, int K, const T *a) {
  constexpr int parts = J >= block_units ? 1 : block_units / J;
  if constexpr (parts == 1) {
    for (int k = 0; k < K; k++) {
      V<T> ak[Vectors];
      UNROLL for (int s = 0; s < Vectors; s++) ak[s] = load(a + k * width<T> + s * N<T>);
      UNROLL for (int j = 0; j < J; j++) {
        const T w = W[j * unit_stride + k * stride];
        UNROLL for (int s = 0; s < Vectors; s++) sum[j][s] += w * ak[s];
      }
    }
  } else {
    V<T> part[parts][J][Vectors] = {};
    int k = 0;
    for (; k + parts <= K; k += parts)
      UNROLL for (int p = 0; p < parts; p++) UNROLL for (int j = 0; j < J; j++) {
        const T w = W[j * unit_stride + (k + p) * stride];
        UNROLL for (int s = 0; s < Vectors; s++) part[p][j][s] += w * load(a + (k + p) * width<T> + s * N<T>);
      }
    for (; k < K; k++)
      UNROLL for (int j = 0; j < J; j++) {
        const T w = W[j * unit_stride + k * stride];
        UNROLL for (int s = 0; s < Vectors; s++) sum[j][s] += w * load(a + k * width<T> + s * N<T>);
      }
    UNROLL for (int p = 0; p < parts; p++) UNROLL for (int j = 0; j < J; j++) UNROLL for (int s = 0; s < Vectors; s++)
      sum[j][s] += part[p][j][s];
  }
}

// What the kernels for any activation call. apply: a <- f(a), and z <- the old a where f' reads it, in the first `vectors` of every
// `width` numbers, of which count is a multiple. chain: to <- delta f'(a or z), for count numbers, a multiple of N.
template <class T> struct Functions {
  void (*apply)(T *a, T *z, ptrdiff_t count, int vectors);
  void (*chain)(const T *delta, const T *a, const T *z, T *to, ptrdiff_t count);
};
template <class T> const Functions<T> &functions_of(int activation); // layers.cpp

// a <- f(W a_prev + b) for the first Vectors of a panel, and z too where z is not null. use(J, j, a) sees J units from j on, while
// they are at hand. a_prev: [ni][width]; a, z: [no][width].
template <class T, class Row, int Units, int Vectors, class Use>
INLINE void forward_panel(const Functions<T> &f, const T *W, const T *b, int ni, int no, const T *a_prev, T *a, T *z, Use use) {
  in_blocks<Units>(no, 0, [&](auto block, int j0) {
    constexpr int J = block;
    V<T> sum[J][Vectors];
    UNROLL for (int j = 0; j < J; j++) UNROLL for (int s = 0; s < Vectors; s++) sum[j][s] = broadcast(b[j0 + j]);
    multiply<T, J, Vectors>(sum, W + (ptrdiff_t)j0 * ni, ni, 1, ni, a_prev);
    UNROLL for (int j = 0; j < J; j++) UNROLL for (int s = 0; s < Vectors; s++) {
      if constexpr (!activation::is_any<Row>) sum[j][s] = Row::template value<T>(sum[j][s]);
      store(a + (j0 + j) * width<T> + s * N<T>, sum[j][s]);
    }
    if constexpr (!activation::is_any<Row>) use(block, j0, sum);
  });
  if constexpr (!activation::is_any<Row>) return;
  f.apply(a, z, (ptrdiff_t)no * width<T>, Vectors);
  in_blocks<Units>(no, 0, [&](auto block, int j0) {
    constexpr int J = block;
    V<T> found[J][Vectors];
    UNROLL for (int j = 0; j < J; j++) UNROLL for (int s = 0; s < Vectors; s++)
      found[j][s] = load(a + (j0 + j) * width<T> + s * N<T>);
    use(block, j0, found);
  });
}

// The same for panels. a_prev: [panels][ni][width]; a, z: [panels][no][width].
template <class T, class Row, int Units = block_units>
void forward(const Functions<T> &f, const T *W, const T *b, int ni, int no, const T *a_prev, T *a, T *z, int panels) {
  for (int panel = 0; panel < panels; panel++) {
    const ptrdiff_t at = (ptrdiff_t)panel * no * width<T>;
    forward_panel<T, Row, Units, panel_vectors>(f, W, b, ni, no, a_prev + (ptrdiff_t)panel * ni * width<T>, a + at,
                                                z ? z + at : nullptr, [](auto, int, auto &) {});
  }
}

// The columns of W (no, ni), as the backward product reads them: where a block of columns begins, how far apart its rows are.
// Packed, [blocks][no][block_units], the rows of a block lie together; in W itself those of a wide layer fall on the same few
// lines of the caches.
template <class T> struct Columns {
  const T *W;
  ptrdiff_t block_stride, stride;
  static Columns plain(const T *W, int ni) { return {W, block_units, ni}; }
  static Columns packed(const T *W, int no) { return {W, (ptrdiff_t)no * block_units, block_units}; }
  const T *from(int k) const { return W + k / block_units * block_stride + k % block_units; }
};

// a_prev <- (W^T delta) f'(a_prev or z_prev), in place of the activation, for K units of a panel. W: the columns of these units,
// the rows `stride` apart; delta: [no][width]; a_prev, z_prev: [K][width]; f, Row: the activation of the previous layer.
template <class T, class Row, int K>
INLINE void backward_block(const Functions<T> &f, const T *W, ptrdiff_t stride, int no, const T *delta, T *a_prev, const T *z_prev) {
  V<T> sum[K][panel_vectors] = {};
  multiply<T, K, panel_vectors>(sum, W, 1, stride, no, delta);
  [[maybe_unused]] T product[K * width<T>];
  UNROLL for (int k = 0; k < K; k++) UNROLL for (int s = 0; s < panel_vectors; s++) {
    const ptrdiff_t here = k * width<T> + s * N<T>;
    if constexpr (activation::is_any<Row>) store(product + here, sum[k][s]);
    else {
      static_assert(Row::read == Read::OUTPUT);
      store(a_prev + here, sum[k][s] * Row::template derivative<T>(load(a_prev + here), V<T>{}));
    }
  }
  if constexpr (activation::is_any<Row>) f.chain(product, a_prev, z_prev, a_prev, K * width<T>);
}

// The same for all units. delta: [panels][no][width]; a_prev, z_prev: [panels][ni][width].
template <class T, class Row>
void backward(const Functions<T> &f, Columns<T> W, int ni, int no, const T *delta, T *a_prev, const T *z_prev, int panels) {
  for (int panel = 0; panel < panels; panel++, delta += (ptrdiff_t)no * width<T>)
    in_blocks<block_units>(ni, 0, [&](auto block, int k) {
      const ptrdiff_t at = ((ptrdiff_t)panel * ni + k) * width<T>;
      backward_block<T, Row, block>(f, W.from(k), W.stride, no, delta, a_prev + at, z_prev ? z_prev + at : nullptr);
    });
}

// Calls use(panel * width, s) for the vectors of a tile: where their panel begins, for each of its units, and where they are in it.
template <class T, class Use> INLINE void in_panels(int vectors, Use use) {
  ptrdiff_t panel = 0;
  for (; vectors >= panel_vectors; vectors -= panel_vectors, panel += width<T>)
    UNROLL for (int s = 0; s < panel_vectors; s++) use(panel, s * N<T>);
  for (int s = 0; s < vectors; s++) use(panel, s * N<T>);
}

// What a training minimises: a row of the table of costs with its options, one an output; `group` outputs share a target.
template <class T> struct Loss {
  int code, group;
  std::vector<T> options;
};

// a <- w dc/da f'(z), the output layer's delta; returns the cost, the sum over samples of w c(y, a). f: null if linear.
// a, z: [panels][no][width]; y: [panels][no / group][width]; w: [panels][width].
template <class T, class CostRow>
double cost_delta(const Loss<T> &loss, const Functions<T> *f, int no, T *a, const T *z, const T *y, const T *w, int panels) {
  V<T> total{};
  const int targets = no / loss.group;
  T product[width<T>];
  for (int panel = 0; panel < panels; panel++, w += width<T>)
    for (int j = 0; j < no; j++) {
      const T *target_of = y + ((ptrdiff_t)panel * targets + j / loss.group) * width<T>;
      const V<T> option = broadcast(loss.options[j]);
      const ptrdiff_t at = ((ptrdiff_t)panel * no + j) * width<T>;
      T *const to = f ? product : a + at;
      for (int s = 0; s < width<T>; s += N<T>) {
        const V<T> out = load(a + at + s), target = load(target_of + s), weight = load(w + s);
        total += weight * CostRow::template value<T>(target, out, option);
        store(to + s, weight * CostRow::template derivative<T>(target, out, option));
      }
      if (f) f->chain(product, a + at, z ? z + at : nullptr, a + at, width<T>);
    }
  return sum_of<T>(total);
}

// The highest of `no` values a sample, and the sum of e^(value - highest), for the N samples from z on; rows `width` apart.
template <class T> INLINE void log_sum_parts(int no, const T *z, V<T> &highest, V<T> &sum) {
  highest = load(z);
  for (int j = 1; j < no; j++) highest = max(highest, load(z + j * width<T>));
  sum = V<T>{};
  for (int j = 0; j < no; j++) sum += exp<T>(load(z + j * width<T>) - highest);
}

// z <- softmax of the outputs of each sample. z: [panels][no][width].
template <class T> void softmax(int no, T *z, int panels) {
  for (int panel = 0; panel < panels; panel++, z += (ptrdiff_t)no * width<T>)
    for (int s = 0; s < width<T>; s += N<T>) {
      V<T> highest, sum;
      log_sum_parts<T>(no, z + s, highest, sum);
      for (int j = 0; j < no; j++)
        store(z + j * width<T> + s, exp<T>(load(z + j * width<T> + s) - highest) / sum);
    }
}

// z <- w (softmax(z) - t), the delta of cross-entropy from logits; returns the cost, the sum of w (log sum e^z - t z). The target t
// is 1 at the label y, where all outputs share one, else y itself; smoothing moves a share of it evenly to all outputs.
template <class T> double cross_entropy_delta(const Loss<T> &loss, int no, T *z, const T *y, const T *w, int panels) {
  const bool labels = loss.group > 1;
  const T smoothing = loss.options[0], even = smoothing / T(no);
  V<T> total{};
  for (int panel = 0; panel < panels; panel++, z += (ptrdiff_t)no * width<T>, w += width<T>) {
    for (int s = 0; s < width<T>; s += N<T>) {
      const V<T> weight = load(w + s);
      V<T> highest, sum, matched{};
      log_sum_parts<T>(no, z + s, highest, sum);
      const V<T> log_sum = log<T>(sum);
      for (int j = 0; j < no; j++) {
        const V<T> value = load(z + j * width<T> + s) - highest;
        const V<T> given = labels ? (load(y + s) == T(j) ? broadcast(T(1)) : V<T>{}) : load(y + j * width<T> + s);
        const V<T> target = given * (T(1) - smoothing) + even;
        matched += target * value;
        store(z + j * width<T> + s, weight * (exp<T>(value) / sum - target));
      }
      total += weight * (log_sum - matched);
    }
    y += (ptrdiff_t)(labels ? 1 : no) * width<T>;
  }
  return sum_of<T>(total);
}

// Which lanes dropout keeps, all bits set or none: of the samples at positions.. and a unit, or of one sample and units...
template <class T> struct Words {
  typedef uint32_t Vector __attribute__((vector_size(N<T> * 4)));
};
template <class T> INLINE B<T> kept(typename Words<T>::Vector position, typename Words<T>::Vector unit, const uint32_t *keys,
                                    uint32_t threshold) {
  using U = typename Words<T>::Vector;
  U word;
  NOISE_WORD(U, word, position, unit, keys);
  return __builtin_convertvector(word >= threshold, B<T>);
}
template <class T> INLINE typename Words<T>::Vector counted_from(uint32_t first) {
  typename Words<T>::Vector numbers;
  for (int lane = 0; lane < N<T>; lane++) numbers[lane] = first + lane;
  return numbers;
}

// a <- factor a where dropout keeps it, else 0. a: [panels][units][width], of units from `first` on, of samples whose positions begin
// at `position`.
template <class T>
void drop(T *a, int first, int units, int panels, uint32_t position, const uint32_t *keys, uint32_t threshold, T factor) {
  for (int panel = 0; panel < panels; panel++)
    for (int j = 0; j < units; j++)
      for (int s = 0; s < width<T>; s += N<T>, a += N<T>) {
        const auto samples = counted_from<T>(position + panel * width<T> + s);
        const B<T> mask = kept<T>(samples, uint32_t(first + j) - typename Words<T>::Vector{}, keys, threshold);
        store(a, (V<T>)((B<T>)(load(a) * factor) & mask));
      }
}

// G += sum over samples of delta a_prev^T for a block of J x K weights, as dot products over the samples of a tile, which are so many
// vectors. Every sum is a vector of partial sums until the end of the tile.
template <class T, int J, int K>
INLINE void gradient_block(const T *delta, const T *a_prev, T *G, int ni, int no, int vectors) {
  constexpr int sums = (int)round_up(J * K, N<T>);
  V<T> sum[sums] = {};
  in_panels<T>(vectors, [&](ptrdiff_t panel, int s) {
    const T *d = delta + panel * no + s, *a = a_prev + panel * ni + s;
    V<T> ak[K];
    UNROLL for (int k = 0; k < K; k++) ak[k] = load(a + k * width<T>);
    UNROLL for (int j = 0; j < J; j++) {
      const V<T> dj = load(d + j * width<T>);
      UNROLL for (int k = 0; k < K; k++) sum[j * K + k] += dj * ak[k];
    }
  });
  T total[sums];
  UNROLL for (int i = 0; i < sums; i += N<T>) store(total + i, sums_of<T>(sum + i));
  typedef T Row __attribute__((vector_size(K * sizeof(T))));
  UNROLL for (int j = 0; j < J; j++) {
    Row before, found;
    __builtin_memcpy(&before, G + (ptrdiff_t)j * ni, sizeof before);
    __builtin_memcpy(&found, total + j * K, sizeof found);
    before += found;
    __builtin_memcpy(G + (ptrdiff_t)j * ni, &before, sizeof before);
  }
}

// g <- the sum over samples of delta, or g plus it if add, for the first `units` of a layer. delta: [panels][no][width].
template <class T> void bias_gradient(const T *delta, int units, int no, T *g, int vectors, bool add) {
  in_blocks<N<T>>(units, 0, [&](auto block, int j) {
    constexpr int J = block;
    V<T> sum[N<T>] = {};
    in_panels<T>(vectors, [&](ptrdiff_t panel, int s) {
      UNROLL for (int i = 0; i < J; i++) sum[i] += load(delta + panel * no + (j + i) * width<T> + s);
    });
    const V<T> total = sums_of<T>(sum);
    store_first(g + j, add ? load_first(g + j, block) + total : total, block);
  });
}

// G += sum over samples of delta a_prev^T for the first `rows` units. delta: [panels][no][width]; a_prev: [panels][ni][width].
template <class T, int Rows = 4, int Columns = vector_registers == 32 ? 4 : 2>
void gradient_rows(const T *delta, const T *a_prev, T *G, int ni, int rows, int no, int vectors) {
  in_blocks<Rows>(rows, 0, [&](auto block, int j) {
    constexpr int J = block;
    constexpr int columns = J == 1 ? 8 : Columns;
    in_blocks<columns>(ni, 0, [&](auto inner, int k) {
      gradient_block<T, J, inner>(delta + j * width<T>, a_prev + k * width<T>, G + (ptrdiff_t)j * ni + k, ni, no, vectors);
    });
  });
}

// Both for a whole layer, added. delta: [panels][no][width]; a_prev: [panels][ni][width]; G: (no, ni); g: (no,).
template <class T, int Rows = 4, int Columns = vector_registers == 32 ? 4 : 2>
void gradient(const T *delta, const T *a_prev, T *G, T *g, int ni, int no, int panels) {
  gradient_rows<T, Rows, Columns>(delta, a_prev, G, ni, no, no, panels * panel_vectors);
  bias_gradient(delta, no, no, g, panels * panel_vectors, true);
}

// Swaps the blocks of Half x Half numbers beside the diagonal, then those of twice that, and so on: N rows become their transpose.
template <class T, int Half> INLINE void swap_blocks(V<T> *row) {
  constexpr int n = N<T>;
  UNROLL for (int i = 0; i < n; i++) {
    if (i & Half) continue;
    const V<T> top = row[i], bottom = row[i + Half];
    row[i] = shuffled<T>(top, bottom, [](int lane) { return lane & Half ? n + lane - Half : lane; });
    row[i + Half] = shuffled<T>(top, bottom, [](int lane) { return lane & Half ? n + lane : lane + Half; });
  }
  if constexpr (2 * Half < n) swap_blocks<T, 2 * Half>(row);
}

// to <- the transpose of N x N numbers, those after `rows` zero. The rows of `from` are from_stride apart, of `to` to_stride.
template <class T> INLINE void transpose(const T *from, ptrdiff_t from_stride, int rows, T *to, ptrdiff_t to_stride) {
  constexpr int n = N<T>;
  V<T> row[n];
  UNROLL for (int i = 0; i < n; i++) row[i] = i < rows ? load(from + i * from_stride) : V<T>{};
  swap_blocks<T, 1>(row);
  UNROLL for (int i = 0; i < n; i++) store(to + i * to_stride, row[i]);
}

// Strips of a transposed panel: `strip` units of all its samples, [strips][width][strip], units across the lanes.
template <class T> constexpr int strip = 2 * N<T>;
constexpr int strip_rows = vector_registers == 32 ? 8 : 6; // of a block of the gradient: its sums are strip_rows x 2 vectors

// strips <- a: [ni][width], transposed.
template <class T> void transpose_panel(const T *a, int ni, T *strips) {
  for (int k = 0; k < ni; k += N<T>) {
    T *to = strips + (k / strip<T> * width<T>) * strip<T> + k % strip<T>;
    for (int s = 0; s < width<T>; s += N<T>)
      transpose(a + k * width<T> + s, width<T>, std::min(ni - k, N<T>), to + s * strip<T>, strip<T>);
  }
}

// G += sum over samples of delta a_prev^T for a strip of columns, as outer products: each sample adds delta_j times its strip.
// delta: rows of [panels][no][width], from the first wanted; strips: [panels][..][width][strip], panels strips_stride apart;
// G: `rows` rows, ni apart, of which `columns` are written; it is overwritten unless add.
template <class T, int Rows = strip_rows>
void gradient_strip(const T *delta, int no, const T *strips, ptrdiff_t strips_stride, T *G, int ni, int rows, int columns,
                    int panels, bool add) {
  in_blocks<Rows>(rows, 0, [&](auto block, int j0) {
    constexpr int J = block;
    V<T> sum[J][2] = {};
    const T *d = delta + (ptrdiff_t)j0 * width<T>, *a = strips;
    for (int panel = 0; panel < panels; panel++, d += (ptrdiff_t)no * width<T>, a += strips_stride)
      for (int s = 0; s < width<T>; s++) {
        const V<T> left = load(a + s * strip<T>), right = load(a + s * strip<T> + N<T>);
        UNROLL for (int j = 0; j < J; j++) {
          const T dj = d[j * width<T> + s];
          sum[j][0] += dj * left;
          sum[j][1] += dj * right;
        }
      }
    UNROLL for (int j = 0; j < J; j++) {
      T *to = G + (ptrdiff_t)(j0 + j) * ni;
      if (columns == strip<T>) {
        if (add) sum[j][0] += load(to), sum[j][1] += load(to + N<T>);
        store(to, sum[j][0]);
        store(to + N<T>, sum[j][1]);
      } else {
        T total[strip<T>];
        store(total, sum[j][0]);
        store(total + N<T>, sum[j][1]);
        for (int k = 0; k < columns; k++) to[k] = add ? to[k] + total[k] : total[k];
      }
    }
  });
}
