// What this machine can do at most: the limits that training is measured against. Each returns the best rate seen, summed over
// threads that run at the same time.
#pragma once
#include <atomic>
#include <chrono>

#include "dense.hpp"
#include "samples.hpp"
#include "team.hpp"

using Clock = std::chrono::steady_clock;
inline double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The sum over threads of the best of amount / time, where work(id) does `amount` of it, for about `seconds`.
template <class Prepare> double best_rates(int threads, double seconds, double amount, Prepare prepare) {
  std::vector<double> rates(threads, 0.);
  on_threads(
      threads, [](int) {},
      [&](int id) {
        auto work = prepare(id);
        for (const auto start = Clock::now(); seconds_since(start) < seconds;) {
          const auto before = Clock::now();
          work();
          rates[id] = std::max(rates[id], amount / seconds_since(before));
        }
      });
  double total = 0;
  for (const double rate : rates) total += rate;
  return total;
}

template <class T> double fma_peak(int threads, double seconds) { // FLOP/s
  constexpr int sums = 10, times = 20000;
  std::vector<T> wanted(threads); // or the compiler would leave the loop out
  return best_rates(threads, seconds, 2. * N<T> * sums * times, [&](int id) {
    return [to = &wanted[id]] {
      V<T> sum[sums], result{};
      for (int i = 0; i < sums; i++) sum[i] = broadcast(T(i + 1));
      const V<T> factor = broadcast(T(0.999)), addend = broadcast(T(0.001));
      for (int k = 0; k < times; k++)
        UNROLL for (int i = 0; i < sums; i++) sum[i] = sum[i] * factor + addend;
      for (int i = 0; i < sums; i++) result += sum[i];
      *const_cast<volatile T *>(to) = sum_of<T>(result);
    };
  });
}

template <class T> double activation_rate(int code, int threads, double seconds) { // values/s, in the first cache
  static constexpr int count = 16 * width<T>;
  return best_rates(threads, seconds, 64. * count, [&](int) {
    return [code, a = Buffer<T>(count)]() mutable {
      for (int times = 0; times < 64; times++)
        functions_of<T>(code).apply(a.data(), nullptr, count, panel_vectors);
    };
  });
}

inline double read_bandwidth(int threads, double seconds) { // bytes/s, from memory
  static constexpr size_t count = 16 << 20;
  std::vector<float> wanted(threads);
  return best_rates(threads, seconds, 4. * count, [&](int id) {
    return [to = &wanted[id], numbers = Buffer<float>(count, 1.f)] {
      V<float> sum[4] = {};
      for (size_t i = 0; i < count; i += 4 * N<float>)
        UNROLL for (int j = 0; j < 4; j++) sum[j] += load(numbers.data() + i + j * N<float>);
      *const_cast<volatile float *>(to) = sum_of<float>(sum[0] + sum[1] + sum[2] + sum[3]);
    };
  });
}

inline double barrier_rate(int threads, double seconds) { // barriers/s, of threads that have nothing else to do
  constexpr int times = 2000;
  double best = 0;
  Barrier barrier(1);
  for (const auto start = Clock::now(); seconds_since(start) < seconds;) {
    on_threads(
        threads, [&](int count) { barrier.resize(count); },
        [&](int id) {
          barrier.wait();
          const auto before = Clock::now();
          for (int k = 0; k < times; k++) barrier.wait();
          if (id == 0) best = std::max(best, times / seconds_since(before));
        });
  }
  return best;
}
