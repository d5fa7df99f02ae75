// What the driver is made of: arrays of an exact length on the heap, random numbers, and rows of data.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

#include "schuss.h"

template <class T> using Array = std::unique_ptr<T[]>; // not padded: the address sanitizer sees one number too many

template <class T> Array<T> array_of(int64_t count) { return Array<T>(new T[count]()); }
template <class T> Array<T> copied(const std::vector<T> &values) {
  Array<T> made = array_of<T>((int64_t)values.size());
  std::copy(values.begin(), values.end(), made.get());
  return made;
}

class Random {
public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int whole(int least, int most) { return least + int(engine_() % uint64_t(most - least + 1)); }
  bool share(double of) { return uniform() < of; }
  template <size_t n> const char *one_of(const char *const (&names)[n]) { return names[whole(0, (int)n - 1)]; }
  template <class T> Array<T> array(int64_t count, double from, double to) {
    Array<T> made = array_of<T>(count);
    for (int64_t i = 0; i < count; i++) made[i] = T(from + (to - from) * uniform());
    return made;
  }
  template <class T> Array<T> bits(int64_t count) {
    Array<T> made = array_of<T>(count);
    for (int64_t i = 0; i < count; i++) made[i] = (T)engine_();
    return made;
  }

private:
  double uniform() { return double(engine_() >> 11) * 0x1p-53; }
  std::mt19937_64 engine_;
};

// Samples: x (samples, inputs), y (samples, targets), and weights (samples,) or none.
template <class T> struct Rows {
  int64_t samples = 0;
  int inputs = 0, targets = 0;
  Array<T> x{}, y{}, weights{};

  double weight(int64_t row) const { return weights ? (double)weights[row] : 1; }
  void copy(int64_t to, const Rows &from, int64_t row) {
    std::copy_n(from.x.get() + row * inputs, inputs, x.get() + to * inputs);
    std::copy_n(from.y.get() + row * targets, targets, y.get() + to * targets);
    if (weights) weights[to] = from.weights[row];
  }
  Rows part(int64_t first, int64_t count) const {
    Rows some{count, inputs, targets, array_of<T>(count * inputs), array_of<T>(count * targets),
              weights ? array_of<T>(count) : nullptr};
    for (int64_t i = 0; i < count; i++) some.copy(i, *this, first + i);
    return some;
  }
  schuss_data described(bool in_place) const {
    double total = 0;
    for (int64_t i = 0; i < samples; i++) total += weight(i);
    const bool weighted = weights != nullptr;
    if (in_place) return {samples, x.get(), y.get(), weights.get(), weighted, total};
    return {samples, nullptr, nullptr, nullptr, weighted, total};
  }
};

inline uint64_t digest_of(const void *from, int64_t bytes) { // FNV-1a
  uint64_t hash = 14695981039346656037u;
  for (int64_t i = 0; i < bytes; i++) hash = (hash ^ static_cast<const unsigned char *>(from)[i]) * 1099511628211u;
  return hash;
}

class Deadline {
public:
  explicit Deadline(double seconds) : seconds_(seconds) {}
  bool passed() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count() > seconds_; }

private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  double seconds_;
};

// The seed of the case at work, written under the report of a sanitizer.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*)(void));
inline uint64_t seed_at_work = 0;
inline void write_seed() { std::fprintf(stderr, "\nseed %llu\n", (unsigned long long)seed_at_work); }
inline void name_the_seed_of_a_failure() {
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(write_seed);
}
