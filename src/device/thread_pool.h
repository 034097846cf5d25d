// The threads that compute an op together.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace dsr {

// A fixed set of workers. The thread that calls run() is worker 0; the others wait for it, spinning
// for 50 us (the time between two ops of a step is less), then asleep. They block all signals, so
// that these find the thread that knows what to do with them.
class ThreadPool {
 public:
  // `size` workers, at least 1. They are not tied to CPUs: worker 0 is the caller's thread, and
  // where it came to run on a worker's CPU the two took turns (measured: half the speed).
  explicit ThreadPool(int size);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int size() const { return size_; }
  // Nobody sleeps: a job begins at once. By the time it does, that may have changed.
  bool awake() const { return asleep_.load(std::memory_order_relaxed) == 0; }

  // Calls job(worker) once for every worker, all at the same time, and returns when all have. If
  // some throw, one of what they threw is thrown on. Not from two threads, not from a job.
  template <typename Job>
  void run(const Job& job) {
    run(&job, [](const void* j, int worker) { (*static_cast<const Job*>(j))(worker); });
  }

 private:
  using Call = void (*)(const void* job, int worker);
  void run(const void* job, Call call);
  void work(int worker);
  void do_share(int worker);

  int size_;
  const void* job_ = nullptr;  // this and the next are written before started_ counts up
  Call call_ = nullptr;
  std::atomic<int> started_{0};  // jobs so far
  std::atomic<int> pending_{0};  // workers that have not finished the present one
  std::atomic<int> asleep_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::exception_ptr error_;  // under mutex_ while a job runs
  std::vector<std::thread> threads_;
};

}  // namespace dsr
