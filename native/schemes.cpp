// Which scheme cuts a plan's steps.
#include "shallow.hpp"
#include "small.hpp"
#include "tiled.hpp"
#include "wide.hpp"

template <class T>
std::unique_ptr<Scheme<T>> choose_scheme(const Shape &shape, const Loss<T> &loss, const Samples<T> &samples, int64_t batch) {
  ptrdiff_t largest = 0; // weights of a layer
  for (int l = 0; l < shape.depth; l++) largest = std::max(largest, (ptrdiff_t)shape.sizes[l] * shape.sizes[l + 1]);
  if (batch <= width<T> && batch < samples.size()) return std::make_unique<SmallStep<T>>(shape, loss, samples, batch);
  if (ShallowStep<T>::suits(shape, batch)) return std::make_unique<ShallowStep<T>>(shape, loss, samples, batch);
  if (largest >= 20000) return std::make_unique<WideStep<T>>(shape, loss, samples, batch);
  return std::make_unique<TiledStep<T>>(shape, loss, samples, batch);
}

template std::unique_ptr<Scheme<float>> choose_scheme(const Shape &, const Loss<float> &, const Samples<float> &, int64_t);
template std::unique_ptr<Scheme<double>> choose_scheme(const Shape &, const Loss<double> &, const Samples<double> &, int64_t);
template bool update_slice(const Shape &, const Step<float> &, ptrdiff_t, ptrdiff_t, const float *, int, ptrdiff_t);
template bool update_slice(const Shape &, const Step<double> &, ptrdiff_t, ptrdiff_t, const double *, int, ptrdiff_t);
template class Samples<float>;
template class Samples<double>;
