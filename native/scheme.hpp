// A step, cut into work for the threads of a team. It has rounds, one for each share of the samples that fits; a round has items,
// which run samples forward and backward, and after a barrier blocks, which finish gradients and, in the last round, take the
// step. The cut is a function of the plan alone and sums are added in order, so the bits do not depend on who does what.
#pragma once
#include <memory>

#include "network.hpp"

// One step of one member.
template <class T> struct Step {
  Batch batch;
  const T *current; // the parameters before it
  T *next;          // and after it
  T *velocity, *square; // the optimizer's state, or null
  Rule<T> rule;
  Noise noise;
};

struct Totals { // over samples: of w c(y, a), and of w
  double cost = 0, weight = 0;
};

template <class T> class Scheme {
public:
  virtual ~Scheme() = default;
  virtual const char *name() const = 0;
  virtual int tile_panels() const = 0; // what the buffers of a thread must hold
  virtual int rounds(const Batch &) const = 0;
  virtual int items(const Batch &, int round) const = 0;
  virtual int blocks() const = 0;
  virtual void prepare(const T *) {} // the parameters may have changed since the last step
  virtual void begin(const Step<T> &, TileBuffers<T> &) {} // by each thread, before its first item
  virtual void accumulate(int round, int item, const Step<T> &, TileBuffers<T> &) = 0;
  virtual Totals totals(const Step<T> &, TileBuffers<T> &) const = 0; // by each thread, after the last item
  // Returns whether the parameters after the step are finite.
  virtual bool update(int round, int block, const Step<T> &, TileBuffers<T> &) = 0;
};

// The step for `count` parameters from `first` on, all weights or all biases, from `groups` partial sums of their gradient, `stride`
// numbers apart and added in order.
template <class T>
bool update_slice(const Shape &shape, const Step<T> &step, ptrdiff_t first, ptrdiff_t count, const T *G, int groups = 1,
                  ptrdiff_t stride = 0) {
  const auto sum = [=](ptrdiff_t i, int n) {
    const T *from = G + i;
    if (n < N<T>) {
      V<T> total = load_first(from, n);
      for (int g = 1; g < groups; g++) total += load_first(from + g * stride, n);
      return total;
    }
    V<T> total = load(from);
    for (int g = 1; g < groups; g++) total += load(from + g * stride);
    return total;
  };
  T *v = step.velocity ? step.velocity + first : nullptr, *s = step.square ? step.square + first : nullptr;
  T *next = step.next + first;
  if (first < shape.weights) return apply<T, true>(step.rule, sum, step.current + first, v, s, next, count);
  return apply<T, false>(step.rule, sum, step.current + first, v, s, next, count);
}

extern template bool update_slice(const Shape &, const Step<float> &, ptrdiff_t, ptrdiff_t, const float *, int, ptrdiff_t);
extern template bool update_slice(const Shape &, const Step<double> &, ptrdiff_t, ptrdiff_t, const double *, int, ptrdiff_t);

// The scheme that is fastest for a plan (schemes.cpp): benchmarks/kernel_lab/ measures where the borders lie.
template <class T>
std::unique_ptr<Scheme<T>> choose_scheme(const Shape &shape, const Loss<T> &loss, const Samples<T> &samples, int64_t batch);

// Parameters first..end, all weights or all biases, for one thread to update.
struct Slice {
  ptrdiff_t first, count;
};
inline std::vector<Slice> slices_of(const Shape &shape) {
  std::vector<Slice> slices;
  for (ptrdiff_t first = 0; first < shape.parameters; first += slices.back().count) {
    const ptrdiff_t end = first < shape.weights ? shape.weights : shape.parameters;
    slices.push_back({first, std::min<ptrdiff_t>(end - first, 512)});
  }
  return slices;
}
