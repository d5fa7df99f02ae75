// Threads of our own: a barrier that spins shortly and then sleeps, and a crew that lives as long as one call.
#pragma once
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

class Barrier {
public:
  explicit Barrier(int members) : members_(members) {}
  void wait() {
    if (members_ == 1) return;
    const uint32_t now = generation_.load(std::memory_order_relaxed);
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
  alignas(64) std::atomic<uint32_t> generation_{0};
};

// Pieces of work for the threads of a team. Each begins with a part of its own, the same in every step, for what it read and wrote
// in the last one is in its cache; then it helps the others.
class Shares {
public:
  explicit Shares(int most = 1) : next_(most), threads_(most) {}
  void resize(int threads) { threads_ = threads; } // at most as many as at first
  void reset() { // before the next run, when all have ended the last
    for (auto &next : next_) next.value.store(0, std::memory_order_relaxed);
  }
  template <class Work> void run(int thread, int64_t count, Work work) {
    for (int64_t k = 0; k < threads_; k++) {
      const int64_t owner = (thread + k) % threads_, first = count * owner / threads_, end = count * (owner + 1) / threads_;
      for (int64_t i; (i = first + next_[owner].value.fetch_add(1, std::memory_order_relaxed)) < end;) work((int)i);
    }
  }

private:
  struct alignas(64) Next {
    std::atomic<int> value{0};
  };
  std::vector<Next> next_;
  int64_t threads_;
};

// A CPU for each thread of a crew that has as many as there are CPUs. Some systems put new threads on their creator's CPU, or pack
// them together after a pause, and keep them there for many milliseconds: they would take turns instead of running side by side.
class Places {
public:
#if defined(__linux__)
  explicit Places(int threads) {
    few_ = threads == 1 || sched_getaffinity(0, sizeof allowed_, &allowed_) != 0 || threads < CPU_COUNT(&allowed_);
  }
  // Keeps the calling thread on the CPU where it is, or on another if a thread of the crew has that; if all are taken, it stays free.
  void settle() {
    if (few_) return;
    int cpu = sched_getcpu();
    for (int next = 0; !claim(cpu); cpu = next++)
      if (next == CPU_SETSIZE) return;
    bind(cpu);
  }
  // Lets it go again: for the thread that outlives the crew.
  void leave() {
    if (!few_) sched_setaffinity(0, sizeof allowed_, &allowed_);
  }

private:
  bool claim(int cpu) {
    return cpu >= 0 && cpu < CPU_SETSIZE && CPU_ISSET(cpu, &allowed_) && !claimed_[cpu].exchange(true);
  }
  static void bind(int cpu) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
  }
  cpu_set_t allowed_;
  bool few_; // threads, or nothing is known of the CPUs
  std::atomic<bool> claimed_[CPU_SETSIZE] = {};
#else
  explicit Places(int) {}
  void settle() {}
  void leave() {}
#endif
};

// Run work(0) here and work(1..count-1) on threads of their own. They end with the call: nothing is left to hang in a
// forked child, and starting one costs 20 microseconds in a chunk of 100 milliseconds. before(n) is told, before any
// work starts, how many threads there really are: the system may refuse some.
template <class Before, class Work> void on_threads(int count, Before before, Work work) {
  std::atomic<int> ready{0}; // 0: wait; then the number of threads
  Places places(count);
  std::vector<std::thread> threads;
  threads.reserve(count - 1);
  try {
    for (int id = 1; id < count; id++)
      threads.emplace_back([&, id] {
        ready.wait(0);
        places.settle();
        work(id);
      });
  } catch (const std::exception &) { // the system has no more threads, or no memory for one
  }
  places.settle(); // only now: a thread begins with the CPUs of its creator
  before(int(threads.size()) + 1);
  ready.store(int(threads.size()) + 1);
  ready.notify_all();
  work(0);
  for (auto &thread : threads) thread.join();
  places.leave();
}
