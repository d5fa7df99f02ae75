// Threads of our own: a barrier that spins shortly and then sleeps, and a crew that lives as long as one call.
#pragma once
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

class Barrier {
public:
  explicit Barrier(int members) : members_(members) {}
  void wait() {
    if (members_ == 1) return;
    const int now = generation_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == members_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      generation_.store(now + 1, std::memory_order_release);
      generation_.notify_all();
      return;
    }
    for (int spin = 0; spin < 2000; spin++) { // about the length of the longest wait between balanced threads
      if (generation_.load(std::memory_order_acquire) != now) return;
#if defined(__x86_64__)
      _mm_pause();
#endif
    }
    while (generation_.load(std::memory_order_acquire) == now) generation_.wait(now);
  }
  void resize(int members) { members_ = members; }

private:
  int members_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> generation_{0};
};

// Run work(0) here and work(1..count-1) on threads of their own. They end with the call: nothing is left to hang in a
// forked child, and starting one costs 20 microseconds in a chunk of 100 milliseconds. before(n) is told, before any
// work starts, how many threads there really are: the system may refuse some.
template <class Before, class Work> void on_threads(int count, Before before, Work work) {
  std::atomic<int> ready{0}; // 0: wait; then the number of threads
  std::vector<std::thread> threads;
  threads.reserve(count - 1);
  try {
    for (int id = 1; id < count; id++)
      threads.emplace_back([&, id] {
        ready.wait(0);
        work(id);
      });
  } catch (const std::system_error &) {
  }
  before(int(threads.size()) + 1);
  ready.store(int(threads.size()) + 1);
  ready.notify_all();
  work(0);
  for (auto &thread : threads) thread.join();
}
