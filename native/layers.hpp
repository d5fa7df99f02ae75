// What is done to the panels of a layer, as the schemes call it: its activation is a code, and the kernels of dense.hpp are
// instantiated in layers.cpp alone.
#pragma once
#include "dense.hpp"

// As `forward`, `backward` and `cost_delta` or `cross_entropy_delta`.
template <class T>
void forward_layer(int activation, const T *W, const T *b, int ni, int no, const T *a_prev, T *a, T *z, int panels);
template <class T>
void backward_layer(int activation, Columns<T> W, int ni, int no, const T *delta, T *a_prev, const T *z_prev, int panels);
template <class T>
double output_delta(int activation, const Loss<T> &loss, int no, T *a, const T *z, const T *y, const T *w, int panels);

#define SCHUSS_LAYERS(extern_, T)                                                                                              \
  extern_ template void forward_layer(int, const T *, const T *, int, int, const T *, T *, T *, int);                          \
  extern_ template void backward_layer(int, Columns<T>, int, int, const T *, T *, const T *, int);                             \
  extern_ template double output_delta(int, const Loss<T> &, int, T *, const T *, const T *, const T *, int);                  \
  extern_ template const Functions<T> &functions_of(int);                                                                      \
  extern_ template void softmax(int, T *, int);                                                                                \
  extern_ template void drop(T *, int, int, int, uint32_t, const uint32_t *, uint32_t, T);                                     \
  extern_ template void bias_gradient(const T *, int, int, T *, int, bool);                                                    \
  extern_ template void gradient_rows(const T *, const T *, T *, int, int, int, int);                                          \
  extern_ template void transpose_panel(const T *, int, T *);                                                                  \
  extern_ template void gradient_strip(const T *, int, const T *, ptrdiff_t, T *, int, int, int, int, bool);
SCHUSS_LAYERS(extern, float)
SCHUSS_LAYERS(extern, double)
