// What this machine can do at most: the limits that training is measured against.
#pragma once
#include <atomic>
#include <chrono>

#include "math.hpp"
#include "team.hpp"

template <class T> double peak(int threads, double seconds) {
  std::vector<double> rates(threads);
  std::atomic<int> present{0};
  on_threads(
      threads, [&](int count) { present = count; },
      [&](int id) {
        constexpr int sums = 10;
        V<T> sum[sums];
        for (int i = 0; i < sums; i++) sum[i] = broadcast(T(i + 1));
        const V<T> factor = broadcast(T(0.999)), addend = broadcast(T(0.001));
        using Clock = std::chrono::steady_clock;
        const auto start = Clock::now();
        double best = 0, elapsed = 0;
        while (elapsed < seconds) {
          const auto before = Clock::now();
          for (int k = 0; k < 20000; k++)
            UNROLL for (int i = 0; i < sums; i++) sum[i] = sum[i] * factor + addend;
          const auto now = Clock::now();
          best = std::max(best, 2. * N<T> * sums * 20000 / std::chrono::duration<double>(now - before).count());
          elapsed = std::chrono::duration<double>(now - start).count();
        }
        V<T> result{};
        for (int i = 0; i < sums; i++) result += sum[i];
        rates[id] = sum_of<T>(result) > 0 ? best : 0; // the sums are wanted, or the compiler would leave the loop out
      });
  double total = 0;
  for (int id = 0; id < present; id++) total += rates[id];
  return total;
}
